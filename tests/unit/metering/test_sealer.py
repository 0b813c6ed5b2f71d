"""Usage is frozen once, in its own hour and minute, under a name that never comes again."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.settling import settle
from tests.shop import StillClock

from farebox.domain.accounts import Account
from farebox.domain.catalog import Catalog, Meter
from farebox.domain.reports import CELL_SECONDS, IDENTIFIER_LENGTH_MAX, MeterEvent, Outcome, OutcomeKind, ReportState
from farebox.domain.usage import BUCKET_SECONDS, Batch, Increment, bucket_start
from farebox.metering.sealer import Sealer
from farebox.store.sql import MEMORY_URL, SqlStore
from farebox.system import SystemEntropy

AT: Final = 1_800_000_000  # on a whole hour
CATALOG: Final = Catalog(meters={"calls": Meter("calls", "API calls", "farebox_calls")}, plans={}, routes=())


class Books:
    """A ledger with one buyer whom Stripe knows, and a sealer at its side."""

    def __init__(self) -> None:
        self.clock = StillClock(AT)
        self.store = SqlStore(MEMORY_URL, self.clock, SystemEntropy())
        self.store.open()
        self.store.add_account(Account("acc", AT, customer_id="cus"))
        self.sealer = Sealer(self.store, self.clock, CATALOG)
        self._number = 0

    def use(self, quantity: int = 1, meter: str = "calls", boundaries: tuple[int, ...] = ()) -> None:
        now = self.clock.now_at()
        self._number += 1
        increment = Increment("acc", meter, "key", "GET /", bucket_start(now, boundaries), quantity, 1, now)
        self.store.commit_batch(Batch("w", self._number, str(self._number), (increment,)))

    def deliver(self) -> None:
        """What is sealed reaches Stripe."""
        now = self.clock.now_at()
        while events := self.store.take_meter_events("h", now=now, lease_seconds=60, limit=100):
            for event in events:
                outcome = Outcome(OutcomeKind.DELIVERED)
                settle(self.store, "h", event, outcome, state=ReportState.DELIVERED, now=now)

    def sealed(self) -> list[MeterEvent]:
        """The meter events, the oldest first."""
        return sorted(self.store.meter_events(limit=10_000), key=lambda e: (e.meter, e.bucket_start, e.sequence))


@pytest.fixture
def books() -> Iterator[Books]:
    made = Books()
    yield made
    made.store.close()


def test_what_a_seal_makes(books: Books) -> None:
    """An event has the meter's name at Stripe, the value and the last use's minute, and waits (L5, L6)."""
    books.clock.pass_seconds(125)
    books.use(3)
    books.use(4)
    books.clock.pass_seconds(70)
    assert books.sealer.step() == 1
    (event,) = books.sealed()
    assert (event.event_name, event.customer_id, event.value, event.sequence) == ("farebox_calls", "cus", 7, 0)
    assert (event.bucket_start, event.timestamp, event.created_at) == (AT, AT + 120, AT + 195)
    assert (event.state, event.attempts, event.idempotency_key) == (ReportState.PENDING, 0, event.identifier)
    assert len(event.identifier) <= IDENTIFIER_LENGTH_MAX
    assert books.sealer.step(hard=True) == 0


def test_a_meter_that_left_the_catalog(books: Books) -> None:
    """What was used of a meter that is sold no longer is still owed, under the meter's own name."""
    books.use(5, meter="tokens")
    assert books.sealer.step() == 1
    assert [(e.event_name, e.value) for e in books.sealed()] == [("tokens", 5)]


def test_once_a_minute(books: Books) -> None:
    """However often it is asked, a meter is sealed once a minute, unless hard, or the hour is over (L5)."""
    made = []
    for second in range(121):
        books.use()
        made += [second] * books.sealer.step()
        books.deliver()
        books.clock.pass_seconds(1)
    assert made == [0, 60, 120]
    books.use()
    assert (books.sealer.step(), books.sealer.step(hard=True)) == (0, 1)
    books.deliver()
    books.clock.pass_seconds(BUCKET_SECONDS - 122)
    books.sealer.step()
    books.deliver()
    books.use()
    books.clock.pass_seconds(1)
    books.use()
    assert (books.clock.now_at(), books.sealer.step()) == (AT + BUCKET_SECONDS, 2)


def test_names_belong_to_the_ledger(books: Books) -> None:
    """Another sealer of the ledger goes on with its names; another ledger's same usage has other names (L6)."""
    books.use()
    books.sealer.step()
    books.use()
    Sealer(books.store, books.clock, CATALOG).step(hard=True)
    other = Books()
    other.use()
    other.sealer.step()
    assert [e.sequence for e in books.sealed()] == [0, 1]
    assert len({e.identifier for e in [*books.sealed(), *other.sealed()]}) == 3
    other.store.close()


def test_minutes_of_their_own(books: Books) -> None:
    """Each event of an hour has a minute that no other has; when none is left, the last one is shared (L7)."""
    books.clock.pass_seconds(3 * CELL_SECONDS + 7)
    for _ in range(6):
        books.use()
        books.sealer.step(hard=True)
    minutes = [(e.timestamp - AT) // CELL_SECONDS for e in books.sealed()]
    assert minutes == [3, 2, 1, 0, 3, 3]


def test_a_period_boundary_within_the_hour(books: Books) -> None:
    """Usage before and after a period's end is two events, each with its time in its own period (L4, I6)."""
    boundary = AT + 95
    books.clock.pass_seconds(94)
    books.use(3, boundaries=(boundary,))
    books.clock.pass_seconds(1)
    books.use(5, boundaries=(boundary,))
    assert books.sealer.step() == 2
    before, after = books.sealed()
    assert (before.bucket_start, before.value, after.bucket_start, after.value) == (AT, 3, boundary, 5)
    assert AT <= before.timestamp < boundary <= after.timestamp <= AT + 95


_STEPS = st.one_of(
    st.tuples(st.just("use"), st.integers(1, 1000)),
    st.tuples(st.just("seal"), st.integers(0, 1)),
    st.tuples(st.just("pass"), st.sampled_from([1, 20, 59, 60, 61, 600, 3599, 3600, 90_000])),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(_STEPS, max_size=25), st.integers(1, 3 * BUCKET_SECONDS))
def test_every_unit_is_sealed_once(steps: list[tuple[str, int]], edge: int) -> None:
    """Whenever it is sealed: no unit twice, none left, rows frozen, each event's time in its bucket (I3, L5, L7)."""
    books = Books()
    used: dict[int, int] = defaultdict(int)
    frozen: dict[str, MeterEvent] = {}
    for what, number in [*steps, ("seal", 1)]:
        if what == "use":
            used[bucket_start(books.clock.now_at(), (AT + edge,))] += number
            books.use(number, boundaries=(AT + edge,))
        elif what == "pass":
            books.clock.pass_seconds(number)
        else:
            books.sealer.step(hard=bool(number))
        now = {e.identifier: e for e in books.sealed()}
        assert frozen.items() <= now.items()
        frozen = now
    events = books.sealed()
    totals: dict[int, int] = defaultdict(int)
    for event in events:
        totals[event.bucket_start] += event.value
        end = bucket_start(event.bucket_start + BUCKET_SECONDS, (AT + edge,))
        end = AT + edge if event.bucket_start < AT + edge < end else end
        assert event.bucket_start <= event.timestamp < end
        assert event.value > 0
    assert totals == used
    assert books.store.report_summary().unsealed_quantity == 0
    books.store.close()
