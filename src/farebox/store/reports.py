"""Meter events in the ledger: sealed in one transaction (L5), listed and summed."""

from collections.abc import Callable, Collection
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from farebox.domain.reports import (
    CELL_SECONDS,
    DOUBT_AFTER_SECONDS,
    SEAL_INTERVAL_SECONDS,
    MeterEvent,
    ReportState,
    Unsealed,
)
from farebox.domain.usage import BUCKET_SECONDS
from farebox.ports import ReportSummary
from farebox.store import tables as t
from farebox.store.engine import Database, one_at_a_time, rerun
from farebox.store.sending import EVENT_COLUMNS, event_of

__all__ = ["IS_OF_USAGE", "ReportTables", "clear_hints", "in_closed_period", "lock_accounts"]

IS_OF_USAGE = t.meter_events.c.kind.not_in(("adjustment", "void"))  # a correction is no part of what is sealed (L11)
_CHUNK = 200
_OPEN = (ReportState.PENDING, ReportState.SENDING)
_PARKED = (ReportState.REJECTED, ReportState.DOUBTFUL)
_SEALING = 1  # turn of `one_at_a_time`


def in_closed_period(account_id: Any, bucket_start: Any) -> Any:
    """Whether the invoice of the period that holds the bucket is finalized.

    Not an EXISTS, of which PostgreSQL would make a join that reads all periods there are.
    """
    p = t.periods.c
    inside = (p.account_id == account_id) & (p.start <= bucket_start) & (p.end > bucket_start)
    return sa.select(sa.func.max(p.finalized_at)).where(inside).scalar_subquery().is_not(None)


def lock_accounts(connection: Connection, account_ids: Collection[str]) -> None:
    """Lock several accounts as `lock_account` does one: in one order everywhere, so that nobody waits in a circle."""
    a = t.accounts.c
    connection.execute(sa.select(a.id).where(a.id.in_(sorted(set(account_ids)))).order_by(a.id).with_for_update())


_HINTED = (
    t.usage.c.account_id == sa.bindparam("account"),
    t.usage.c.meter == sa.bindparam("of"),
    t.usage.c.bucket_start == sa.bindparam("start"),
    t.IS_DIRTY,
    ~in_closed_period(t.usage.c.account_id, t.usage.c.bucket_start),
)
_KEY = tuple(t.usage.primary_key.columns)


def _cleared(*conditions: Any) -> sa.Update:
    return sa.update(t.usage).where(*conditions).values(dirty=False)


def _cleared_where_free(*conditions: Any) -> sa.Update:
    """PostgreSQL: a row that is being added to keeps its hint, so that a seal and a paid call never wait for each
    other."""
    free = sa.select(*_KEY).where(*conditions).with_for_update(skip_locked=True)
    return _cleared(sa.tuple_(*_KEY).in_(free))


_CLEAR, _CLEAR_FREE = _cleared(*_HINTED), _cleared_where_free(*_HINTED)
_CELLS = sa.select(t.meter_events.c.timestamp).where(
    t.meter_events.c.customer_id == sa.bindparam("customer"),
    t.meter_events.c.meter == sa.bindparam("of"),
    t.meter_events.c.timestamp.between(sa.bindparam("first"), sa.bindparam("last")),
)


class ReportTables:
    """The part of the Store that takes usage to Stripe."""

    _database: Database

    def seal(
        self,
        plan: Callable[[Unsealed], MeterEvent | None],
        *,
        now: int,
        before: int | None = None,
        hard: bool = False,
        account_ids: Collection[str] | None = None,
    ) -> list[MeterEvent]:
        with self._database.read() as connection:
            due = _due_buckets(connection, now, before, hard, account_ids)
        sealed: list[MeterEvent] = []
        for chunk in (due[i : i + _CHUNK] for i in range(0, len(due), _CHUNK)):
            # Small transactions: a paid call waits for one of them at the most.
            sealed += self._seal_chunk(chunk, plan)
        return sealed

    @rerun
    def _seal_chunk(self, chunk: "list[_Bucket]", plan: Callable[[Unsealed], MeterEvent | None]) -> list[MeterEvent]:
        with self._database.write() as connection:
            one_at_a_time(connection, _SEALING)
            lock_accounts(connection, [account_id for account_id, _, _ in chunk])
            _clear_hints(connection, chunk)
            fresh = [event for unsealed in _differences(connection, chunk) if (event := plan(unsealed)) is not None]
            if fresh:
                connection.execute(
                    sa.insert(t.meter_events), [{**asdict(event), "holder": "", "lease_end": 0} for event in fresh]
                )
        return fresh

    def meter_events(
        self, account_id: str | None = None, *, state: ReportState | None = None, limit: int = 100
    ) -> list[MeterEvent]:
        with self._database.read() as connection:
            if account_id is None or state in (*_OPEN, *_PARKED):
                return [event_of(row) for row in connection.execute(_newest(account_id, state).limit(limit))]
            queries = [_newest_of(account_id, meter, state) for meter in _meters(connection, account_id)]
            found = [event_of(row) for query in queries for row in connection.execute(query.limit(limit))]
        return sorted(found, key=lambda e: (e.bucket_start, e.sequence, e.meter), reverse=True)[:limit]

    def report_summary(self, account_id: str | None = None) -> ReportSummary:
        m, u = t.meter_events.c, t.usage.c
        usage_part = sa.func.sum(sa.case((IS_OF_USAGE, m.value), else_=0))
        by_state = sa.select(m.state, sa.func.count(), sa.func.sum(m.value), usage_part).group_by(m.state)
        used = sa.select(sa.func.coalesce(sa.func.sum(u.quantity), 0))
        oldest = sa.select(sa.func.min(m.created_at)).where(t.IS_OPEN)
        if account_id is not None:
            by_state = by_state.where(m.account_id == account_id)
            used = used.where(u.account_id == account_id)
            oldest = oldest.where(m.account_id == account_id)
        with self._database.read() as connection:
            rows = connection.execute(by_state).all()
            total = int(connection.execute(used).scalar_one())
            oldest_open_at = connection.execute(oldest).scalar()
        quantities = dict.fromkeys(ReportState, 0) | {ReportState(r[0]): int(r[2]) for r in rows}
        counts = dict.fromkeys(ReportState, 0) | {ReportState(r[0]): int(r[1]) for r in rows}
        return ReportSummary(total - sum(int(r[3]) for r in rows), quantities, counts, oldest_open_at)


_Bucket = tuple[str, str, int]


def _newest(account_id: str | None, state: ReportState | None) -> Any:
    """Meter events, those made last first. What is open or parked has an index with nothing else in it."""
    m = t.meter_events.c
    query = sa.select(*EVENT_COLUMNS).order_by(m.created_at.desc(), m.identifier)
    if account_id is not None:
        # By the customer, whom the index of open events begins with.
        a = t.accounts.c
        query = query.where(m.customer_id == sa.select(a.customer_id).where(a.id == account_id).scalar_subquery())
    if state in _OPEN:
        query = query.where(t.IS_OPEN)
    if state in _PARKED:
        query = query.where(t.IS_PARKED)
    return query if state is None else query.where(m.state == state)


def _newest_of(account_id: str, meter: str, state: ReportState | None) -> Any:
    """Meter events of an account and meter, those used last first: in the order of the index, to read no more."""
    m = t.meter_events.c
    query = sa.select(*EVENT_COLUMNS).where(m.account_id == account_id, m.meter == meter)
    query = query.order_by(m.bucket_start.desc(), m.sequence.desc())
    return query if state is None else query.where(m.state == state)


def _meters(connection: Connection, account_id: str) -> list[str]:
    """The meters of an account's events, one step in the index for each."""
    m = t.meter_events.c
    first = sa.select(sa.func.min(m.meter).label("meter")).where(m.account_id == account_id)
    meters = first.cte("meters", recursive=True)
    after = sa.select(sa.func.min(m.meter)).where(m.account_id == account_id, m.meter > meters.c.meter)
    steps = sa.select(after.scalar_subquery()).where(meters.c.meter.is_not(None))
    query = sa.select(meters.union_all(steps).c.meter)
    return [row[0] for row in connection.execute(query) if row[0] is not None]


def _due_buckets(
    connection: Connection, now: int, before: int | None, hard: bool, account_ids: Collection[str] | None
) -> list[_Bucket]:
    """Buckets with a hint, of accounts that Stripe knows.

    Sealed within the last interval: wait, unless the bucket is over. An event of the same account and meter that is
    still on its way: wait for it, so that what cannot be sent fast enough becomes fewer and larger events.
    Of a period whose invoice is finalized: never, that is billed as an invoice item (L10).
    """
    due = _with_hint(connection, before, account_ids)
    if hard or not due:
        return due
    m = t.meter_events.c
    # None of these is DISTINCT: SQLite would read all meter events there are to have each pair once.
    recent = sa.select(m.account_id, m.meter).where(m.created_at > now - SEAL_INTERVAL_SECONDS)
    sealed_lately = {(row[0], row[1]) for row in connection.execute(recent)}
    # What is in doubt waits for hours (L9), and new usage does not wait with it.
    soon = m.first_unknown_at.is_(None) | (m.first_unknown_at >= now - DOUBT_AFTER_SECONDS)
    waiting = sa.select(m.account_id, m.meter).where(t.IS_OPEN, soon)
    on_their_way = {(row[0], row[1]) for row in connection.execute(waiting)}
    latest: dict[tuple[str, str], int] = {}
    for account_id, meter, start in due:
        latest[account_id, meter] = max(start, latest.get((account_id, meter), start))
    return [
        bucket
        for bucket in due
        if bucket[:2] not in on_their_way
        and (
            bucket[:2] not in sealed_lately
            or bucket[2] - bucket[2] % BUCKET_SECONDS + BUCKET_SECONDS <= now
            or bucket[2] < latest[bucket[:2]]
        )
    ]


def _with_hint(connection: Connection, before: int | None, account_ids: Collection[str] | None) -> list[_Bucket]:
    """Buckets with a hint that may be sealed. Account and period are looked up bucket by bucket, by conditions that
    PostgreSQL cannot turn into joins: there are many more accounts and periods than hints."""
    u = t.usage.c
    dirty = sa.select(u.account_id, u.meter, u.bucket_start).where(t.IS_DIRTY).distinct()
    if before is not None:
        dirty = dirty.where(u.bucket_start < before)
    names = sorted(account_ids) if account_ids is not None else []
    chunks = [dirty.where(u.account_id.in_(names[i : i + _CHUNK])) for i in range(0, len(names), _CHUNK)]
    found: list[_Bucket] = []
    for chunk in chunks if account_ids is not None else [dirty]:
        b = chunk.cte("bucket").prefix_with("MATERIALIZED", dialect="postgresql").c
        query = sa.select(b.account_id, b.meter, b.bucket_start).where(
            _customer_of(b.account_id).is_not(None), ~in_closed_period(b.account_id, b.bucket_start)
        )
        found += [(row[0], row[1], row[2]) for row in connection.execute(query)]
    return found


def _customer_of(account_id: Any) -> Any:
    return sa.select(t.accounts.c.customer_id).where(t.accounts.c.id == account_id).scalar_subquery()


def clear_hints(connection: Connection, account_id: str, start: int, end: int) -> None:
    """Clear the hints of the account's usage in [start, end).

    Call it before the totals are read, and under the account's lock: an increment that comes in between sets its hint
    again, so what the totals lack is looked at once more.
    """
    u = t.usage.c
    clear = _cleared_where_free if connection.dialect.name == "postgresql" else _cleared
    connection.execute(clear(u.account_id == account_id, u.bucket_start >= start, u.bucket_start < end, t.IS_DIRTY))


def _clear_hints(connection: Connection, due: list[_Bucket]) -> None:
    """Before the totals are read: an increment that comes in between sets its hint again and is looked at next time."""
    clear = _CLEAR_FREE if connection.dialect.name == "postgresql" else _CLEAR
    connection.execute(clear, [dict(zip(("account", "of", "start"), bucket, strict=True)) for bucket in due])


def _differences(connection: Connection, due: list[_Bucket]) -> list[Unsealed]:
    """L5: total, already sealed and next sequence of each bucket, in one statement."""
    u, m = t.usage.c, t.meter_events.c
    columns = (sa.column("account_id", sa.String), sa.column("meter", sa.String), sa.column("start", sa.BigInteger))
    asked = sa.values(*columns, name="asked").data(due).cte("asked").c
    used = (u.account_id == asked.account_id) & (u.meter == asked.meter) & (u.bucket_start == asked.start)
    done = (m.account_id == asked.account_id) & (m.meter == asked.meter) & (m.bucket_start == asked.start)
    p = t.periods.c
    period = (p.account_id == asked.account_id) & (p.start <= asked.start) & (p.end > asked.start)
    later = (p.account_id == asked.account_id) & (p.start > asked.start)
    rows = connection.execute(
        sa.select(
            asked.account_id,
            _customer_of(asked.account_id),
            asked.meter,
            asked.start,
            sa.select(sa.func.sum(u.quantity)).where(used).scalar_subquery(),
            sa.select(sa.func.coalesce(sa.func.sum(m.value), 0)).where(done, IS_OF_USAGE).scalar_subquery(),
            sa.select(sa.func.coalesce(sa.func.max(m.sequence) + 1, 0)).where(done).scalar_subquery(),
            sa.select(sa.func.max(u.last_used_at)).where(used).scalar_subquery(),
            sa.select(sa.func.min(p.end)).where(period).scalar_subquery(),
            sa.select(sa.func.min(p.start)).where(later).scalar_subquery(),
        )
        .where(_customer_of(asked.account_id).is_not(None), ~in_closed_period(asked.account_id, asked.start))
        .order_by(asked.account_id, asked.meter, asked.start)
    ).all()
    found: list[Unsealed] = []
    for account, customer, meter, start, total, sealed, sequence, used_at, *edges in rows:
        # A boundary that was learned late counts its bucket wholly before it, at Stripe as in the ledger (L4).
        last = min([used_at, *(edge - 1 for edge in edges if edge is not None)])
        cells = _cells(connection, customer, meter, start, last)
        found.append(Unsealed(account, customer, meter, start, int(total), int(sealed), int(sequence), last, cells))
    return found


def _cells(connection: Connection, customer_id: str, meter: str, start: int, last: int) -> frozenset[int]:
    asked = {"customer": customer_id, "of": meter, "first": start - start % CELL_SECONDS, "last": last}
    return frozenset(row[0] // CELL_SECONDS for row in connection.execute(_CELLS, asked))
