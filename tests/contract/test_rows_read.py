"""What sealing and sending read on a ledger of 100,000 meter events: what they work on, and not what the year has left.

SQLite counts the instructions of its own machine, PostgreSQL the rows that each of its plans says to have read. Its
statistics are of a moment when nothing was open, as they are in an ordinary night.
"""

import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import pytest
import sqlalchemy as sa
from sqlalchemy import event as events_of_engine
from tests.postgres import Cluster
from tests.shop import StillClock

from farebox.domain.catalog import Catalog
from farebox.domain.reports import (
    MeterEvent,
    Outcome,
    OutcomeKind,
    ReportedError,
    ReportState,
    Settlement,
    Transport,
    seal,
)
from farebox.domain.usage import Batch, Increment
from farebox.metering.sealer import Sealer
from farebox.store.sql import SqlStore
from farebox.system import SystemEntropy

ACCOUNTS: Final = 2_000
EVENTS_EACH: Final = 50
PERIODS_EACH: Final = 5
HOUR: Final = 3_600
DAY: Final = 86_400
AT: Final = 1_800_000_000  # on a whole hour
MONTH: Final = 30 * DAY
STEPS_EACH: Final = 50  # SQLite's handler is called once for so many instructions
STEPS_PER_ROW_MAX: Final = 200  # of SQLite for a row that is worked on, with all that is looked up for it
ROWS_PER_ROW_MAX: Final = 10  # of PostgreSQL, over all nodes of a plan
# Looked up for a bucket that is sealed: its account, to lock it and to know it, its usage, its events, its periods.
SEALED_ROWS: Final = 10
ALWAYS_MAX: Final = 300  # rows, whatever is worked on
EXPLAINED_MAX: Final = 40  # of the same statement with many rows, so many are looked into

_ACCOUNTS = """
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :accounts)
INSERT INTO accounts (id, created_at, email, reference, customer_id)
SELECT 'acct_' || i, :at - 31536000, '', '', 'cus_' || i FROM n
"""
_EVENTS = """
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :events)
INSERT INTO meter_events (identifier, account_id, customer_id, meter, event_name, bucket_start, sequence, value,
    timestamp, idempotency_key, created_at, state, attempts, next_attempt_at, settled_at, reason, holder, lease_end,
    kind, transport)
SELECT 'fb_' || i || '_0_of_the_year', 'acct_' || (i % :accounts), 'cus_' || (i % :accounts), 'calls', 'farebox_calls',
    :at - (1 + i / :accounts) * 518400, 0, 3, :at - (1 + i / :accounts) * 518400 + 60, 'fb_' || i || '_0_of_the_year',
    :at - (1 + i / :accounts) * 518400 + i % :accounts, 'delivered', 1, 0, :at - (1 + i / :accounts) * 518400 + 90, '',
    '', 0, 'usage', 'event' FROM n
"""
_USAGE = """
INSERT INTO usage (account_id, meter, bucket_start, key_id, operation, writer, quantity, calls, last_used_at, dirty)
SELECT account_id, meter, bucket_start, 'key', 'GET /', 'w_of_the_year', value, value, timestamp, :no FROM meter_events
"""
_PERIODS = """
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :periods)
INSERT INTO periods (account_id, subscription_id, start, "end", items, invoice_id, finalized_at, billed)
SELECT 'acct_' || (i % :accounts), 'sub_' || (i % :accounts), :at + 600 - (1 + i / :accounts) * 2592000,
    :at + 600 - (i / :accounts) * 2592000, '[]',
    CASE WHEN i / :accounts > 0 THEN 'in_1' END, CASE WHEN i / :accounts > 0 THEN :at - 3600 END, '{}' FROM n
"""


class Reads:
    """Counts what a database reads for the statements of a store."""

    def __init__(self, store: SqlStore) -> None:
        self._engine = store.database._own_engine()
        self._sqlite = self._engine.dialect.name == "sqlite"
        self._lock = threading.Lock()
        self.count = 0
        self.worst: tuple[int, str] = (0, "")
        if self._sqlite:
            events_of_engine.listen(self._engine, "checkout", self._watch)
        else:
            events_of_engine.listen(self._engine, "before_cursor_execute", self._explain)

    def of(self, work: Callable[[], Any]) -> tuple[Any, int]:
        """What the work returns, and the rows that it read (of SQLite, its instructions)."""
        self.count, self.worst = 0, (0, "")
        return work(), self.count

    def most(self, rows: int) -> int:
        """What reading for so many rows of work may come to."""
        return (rows + ALWAYS_MAX) * STEPS_PER_ROW_MAX if self._sqlite else rows * ROWS_PER_ROW_MAX + ALWAYS_MAX

    def _watch(self, raw: Any, _record: Any, _proxy: Any) -> None:
        raw.set_progress_handler(self._step, STEPS_EACH)

    def _step(self) -> int:
        self.count += STEPS_EACH
        return 0

    def _explain(self, connection: Any, _cursor: Any, statement: str, values: Any, context: Any, many: bool) -> None:
        if statement.split()[0] not in ("SELECT", "UPDATE", "INSERT", "DELETE", "WITH"):
            return
        rows = values if many else [values]
        shown = rows[:EXPLAINED_MAX]
        read = 0
        with connection.connection.cursor() as cursor:
            for row in shown:
                cursor.execute("SAVEPOINT looked_into")
                cursor.execute(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {statement}", row)
                (told,) = cursor.fetchone()
                cursor.execute("ROLLBACK TO SAVEPOINT looked_into")
                read += _rows_of((told if isinstance(told, list) else json.loads(told))[0]["Plan"])
        read = read * len(rows) // max(len(shown), 1)
        self.count += read
        self.worst = max(self.worst, (read, statement))


def _rows_of(node: dict[str, Any]) -> int:
    """Rows that a plan's node and all below it gave on or threw away, whatever kind they are of."""
    thrown = sum(value for name, value in node.items() if name.startswith("Rows Removed by"))
    own = int((node["Actual Rows"] + thrown) * node["Actual Loops"])
    return own + sum(_rows_of(below) for below in node.get("Plans", ()))


class Year:
    """A ledger that is a year old, and what reads it."""

    def __init__(self, url: str, *, analyzed: bool) -> None:
        self._batch = 0
        self.clock = StillClock(AT)
        self.store = SqlStore(url, self.clock, SystemEntropy())
        self.store.open()
        with self.store.database.write() as connection:
            connection.execute(sa.text("INSERT INTO writers VALUES ('w_of_the_year', 1, 'n', 'closed')"))
            values = {"at": AT, "accounts": ACCOUNTS, "events": ACCOUNTS * EVENTS_EACH}
            connection.execute(sa.text(_ACCOUNTS), {k: values[k] for k in ("at", "accounts")})
            connection.execute(sa.text(_EVENTS), values)
            connection.execute(sa.text(_USAGE), {"no": False})
            periods = {"at": AT, "accounts": ACCOUNTS, "periods": ACCOUNTS * PERIODS_EACH}
            connection.execute(sa.text(_PERIODS), periods)
            if connection.dialect.name == "postgresql":
                for table in ("meter_events", "usage", "periods", "accounts"):  # no statistics of another moment
                    connection.execute(sa.text(f"ALTER TABLE {table} SET (autovacuum_enabled = false)"))
        if analyzed:
            with self.store.database.write() as connection:
                connection.execute(sa.text("ANALYZE"))
        self.reads = Reads(self.store)

    def use(self, accounts: range) -> None:
        now = self.clock.now_at()
        start = now - now % HOUR
        increments = [Increment(f"acct_{n}", "calls", "key", "GET /", start, 2, 1, now) for n in accounts]
        self._batch += 1
        self.store.commit_batch(Batch("w", self._batch, str(self._batch), tuple(increments)))

    def seal(self, **how: Any) -> list[MeterEvent]:
        now = self.clock.now_at()
        return self.store.seal(lambda unsealed: seal("ledger", unsealed, "farebox_calls", now), now=now, **how)

    def take(self, limit: int) -> list[MeterEvent]:
        return self.store.take_meter_events(
            "h", now=self.clock.now_at(), lease_seconds=28, limit=limit, stream_limit=2_000, fresh_by_stream=True
        )

    def settle(self, events: list[MeterEvent], state: ReportState = ReportState.DELIVERED) -> set[str]:
        done = [Settlement(e, Outcome(OutcomeKind.DELIVERED), state, Transport.EVENT) for e in events]
        return self.store.settle_meter_events("h", done, now=self.clock.now_at())

    def bounded(self, rows: int, work: Callable[[], Any]) -> Any:
        """Do the work, which is of so many rows, and see that it read no more than that."""
        done, read = self.reads.of(work)
        most = self.reads.most(rows)
        assert read <= most, f"read {read} for {rows} rows of work; at most {most}. {self.reads.worst}"
        return done


@pytest.fixture(scope="module", params=["file", "file with statistics", "postgres"])
def year(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Year]:
    if request.param == "postgres":
        cluster: Cluster = request.getfixturevalue("cluster")
        url = cluster.fresh()
        made = Year(url, analyzed=True)
        yield made
        made.store.close()
        cluster.drop(url)
    else:
        url = f"sqlite:///{tmp_path_factory.mktemp('year') / 'ledger.db'}"
        made = Year(url, analyzed=request.param != "file")
        yield made
        made.store.close()


def test_the_way_of_usage(year: Year) -> None:
    """Commit, seal, take and settle read what they work on, with 1,500 events open at once (I5)."""
    clock = year.clock
    year.bounded(3, lambda: year.use(range(3)))
    year.bounded(3 * SEALED_ROWS, lambda: year.seal())
    assert len(year.bounded(6, lambda: year.take(3))) == 3
    year.use(range(1_500))
    assert len(year.bounded(1_500 * SEALED_ROWS, lambda: year.seal())) == 1_497
    clock.pass_seconds(61)
    year.bounded(1_500, lambda: year.seal())
    year.bounded(1_500, lambda: year.store.report_backlog())
    taken = year.bounded(1_500 * 3, lambda: year.take(64))
    assert len(taken) == 1_500
    assert len(year.bounded(3, lambda: year.settle(taken[:3]))) == 3
    assert len(year.bounded(1_497, lambda: year.settle(taken[3:]))) == 1_497


def test_nothing_to_do(year: Year) -> None:
    """With nothing used and nothing open the loops read nothing."""
    year.bounded(0, year.seal)
    year.bounded(0, lambda: year.take(64))
    year.bounded(0, lambda: year.settle([]))
    year.bounded(0, Sealer(year.store, year.clock, Catalog()).edge)
    year.bounded(0, lambda: year.store.report_backlog())


def test_periods_end(year: Year, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all accounts' periods end in one second, each look seals a bounded page of them (I5, I16)."""
    year.use(range(ACCOUNTS))
    year.clock.pass_seconds(AT + 601 - year.clock.now_at())
    sealer = Sealer(year.store, year.clock, Catalog())
    monkeypatch.setattr("farebox.metering.sealer.EDGE_ACCOUNTS_MAX", 100)
    made = [year.bounded(100 * SEALED_ROWS, sealer.edge) for _ in range(2)]
    assert (made, sealer.edge_left) == ([100, 100], True)
    monkeypatch.undo()
    while sealer.edge_left:
        made.append(sealer.edge())
    assert sum(made) == ACCOUNTS
    while events := year.take(64):
        year.settle(events)


def test_what_is_parked(year: Year) -> None:
    """Lists of meter events, and taking parked ones up again, read what they show (I5)."""
    accounts = range(200)
    year.clock.pass_seconds(2 * HOUR)
    year.use(accounts)
    year.seal(hard=True)
    events = year.take(64)
    for event, state in zip(events, [ReportState.REJECTED, ReportState.DOUBTFUL] * 100, strict=True):
        year.settle([event], state)
    store = year.store
    for state in (ReportState.REJECTED, ReportState.DOUBTFUL):
        assert len(year.bounded(200, partial(store.meter_events, state=state, limit=1_000))) == 100
        of_one = year.bounded(200, partial(store.meter_events, "acct_7", state=state, limit=1_000))
        assert len(of_one) == (state is ReportState.DOUBTFUL)
    assert year.bounded(0, lambda: store.meter_events("acct_7", state=ReportState.PENDING, limit=1)) == []
    newest = year.bounded(2, lambda: store.meter_events("acct_7", limit=2))
    assert [event.state for event in newest] == [ReportState.DOUBTFUL, ReportState.DELIVERED]
    assert len(year.bounded(5, lambda: store.meter_events("acct_7", state=ReportState.DELIVERED, limit=5))) == 5
    assert len(year.bounded(100, lambda: store.meter_events(limit=100))) == 100
    names = [event.identifier for event in events]
    moved = year.bounded(200 * 3, lambda: store.retry_meter_events(names, suffix="again", now=year.clock.now_at()))
    assert len(moved) == 200
    year.settle(year.take(64))


def test_what_is_in_doubt(year: Year) -> None:
    """A minute's book, its witnesses, and what an error report names are found without the year (L9)."""
    year.clock.pass_seconds(2 * HOUR)
    year.use(range(20))
    year.seal(hard=True)
    event, *others = year.take(64)
    year.settle(others)
    now = year.clock.now_at()
    assert year.bounded(5, lambda: year.store.cell_book(event)) == (0, 0)
    after = year.clock.now_at() - HOUR
    assert len(year.bounded(60, lambda: year.store.witnesses("farebox_calls", after=after, limit=2))) == 2
    assert year.bounded(5, lambda: year.store.find_reported(event.identifier)) == [event]
    assert year.bounded(5, lambda: year.store.find_reported("fb_stream_of_somebody")) == []
    late = ReportedError("no_customer", "No such customer", others[0].identifier)
    refused, again = year.bounded(5, lambda: year.store.refuse_reported(late, others=False, now=now))
    assert (refused, again) == ([others[0].identifier], [])
    year.settle([event])
