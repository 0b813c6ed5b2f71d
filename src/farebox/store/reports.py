"""Meter events in the ledger: sealed in one transaction (L5), leased one at a time per customer and meter (L8)."""

from collections.abc import Callable
from dataclasses import asdict, fields, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from farebox.domain.reports import (
    CELL_SECONDS,
    SEAL_INTERVAL_SECONDS,
    MeterEvent,
    Outcome,
    OutcomeKind,
    ReportState,
    Unsealed,
)
from farebox.domain.usage import BUCKET_SECONDS
from farebox.ports import ReportSummary
from farebox.store import tables as t
from farebox.store.engine import Database, one_at_a_time, rerun

__all__ = ["IS_OF_USAGE", "ReportTables", "in_closed_period"]

_EVENT = tuple(t.meter_events.c[field.name] for field in fields(MeterEvent))
_OPEN = ("pending", "sending")
IS_OF_USAGE = t.meter_events.c.kind != "adjustment"  # a correction is no part of what has been sealed (L11)
_CHUNK = 200
_SEALING, _TAKING = 1, 2  # turns of `one_at_a_time`
_TURNS = 4  # of one customer's events, looked at in a round: none of them keeps the others waiting
_CLEAR = (
    sa.update(t.usage)
    .where(
        t.usage.c.account_id == sa.bindparam("account"),
        t.usage.c.meter == sa.bindparam("of"),
        t.usage.c.bucket_start == sa.bindparam("start"),
        t.IS_DIRTY,
    )
    .values(dirty=False)
)
_KEY = tuple(t.usage.primary_key.columns)
# PostgreSQL: a row that is being added to keeps its hint, so that a seal and a paid call never wait for each other.
_CLEAR_FREE = (
    sa.update(t.usage)
    .where(
        sa.tuple_(*_KEY).in_(
            sa.select(*_KEY)
            .where(
                t.usage.c.account_id == sa.bindparam("account"),
                t.usage.c.meter == sa.bindparam("of"),
                t.usage.c.bucket_start == sa.bindparam("start"),
                t.IS_DIRTY,
            )
            .with_for_update(skip_locked=True)
        )
    )
    .values(dirty=False)
)
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
    ) -> list[MeterEvent]:
        with self._database.read() as connection:
            due = _due_buckets(connection, now, before, hard)
        sealed: list[MeterEvent] = []
        for chunk in (due[i : i + _CHUNK] for i in range(0, len(due), _CHUNK)):
            # Small transactions: a paid call waits for one of them at the most.
            sealed += self._seal_chunk(chunk, plan)
        return sealed

    @rerun
    def _seal_chunk(self, chunk: "list[_Bucket]", plan: Callable[[Unsealed], MeterEvent | None]) -> list[MeterEvent]:
        with self._database.write() as connection:
            one_at_a_time(connection, _SEALING)
            _clear_hints(connection, chunk)
            fresh = [event for unsealed in _differences(connection, chunk) if (event := plan(unsealed)) is not None]
            if fresh:
                connection.execute(
                    sa.insert(t.meter_events), [{**asdict(event), "holder": "", "lease_end": 0} for event in fresh]
                )
        return fresh

    @rerun
    def take_meter_events(self, holder: str, *, now: int, lease_seconds: int, limit: int) -> list[MeterEvent]:
        m = t.meter_events.c
        abandoned = (m.state == "sending") & (m.lease_end <= now)
        ready = (m.state == "pending") & (m.next_attempt_at <= now)
        with self._database.write() as connection:
            one_at_a_time(connection, _TAKING)
            busy = connection.execute(
                sa.select(m.customer_id, m.event_name).where(t.IS_OPEN, m.state == "sending", m.lease_end > now)
            ).all()
            taken: set[tuple[str, str]] = {(row[0], row[1]) for row in busy}
            turn = sa.func.row_number().over(
                partition_by=(m.customer_id, m.event_name),
                order_by=(m.next_attempt_at, m.bucket_start, m.sequence),
            )
            due = sa.select(*_EVENT, m.lease_end, turn.label("turn")).where(t.IS_OPEN, abandoned | ready).subquery()
            query = (
                sa.select(due)
                .where(due.c.turn <= _TURNS)
                .order_by(due.c.turn, due.c.next_attempt_at, due.c.bucket_start, due.c.sequence)
                .limit((limit + len(taken)) * _TURNS)
            )
            chosen: list[MeterEvent] = []
            for row in connection.execute(query):
                event = _event(row)
                serial = (event.customer_id, event.event_name)
                if serial in taken or len(chosen) >= limit or _cell_unproven(connection, event):
                    continue
                taken.add(serial)
                # A lease that ran out hides a send that may have happened as early as the lease began.
                unknown_at = row.lease_end - lease_seconds if event.state is ReportState.SENDING else None
                event = replace(
                    event,
                    state=ReportState.SENDING,
                    attempts=event.attempts + 1,
                    first_unknown_at=event.first_unknown_at if event.first_unknown_at is not None else unknown_at,
                )
                chosen.append(event)
            return [event for event in chosen if _leased(connection, event, holder, now + lease_seconds)]

    def settle_meter_event(
        self,
        holder: str,
        event: MeterEvent,
        outcome: Outcome,
        *,
        state: ReportState,
        now: int,
        next_attempt_at: int = 0,
        idempotency_key: str = "",
    ) -> bool:
        m = t.meter_events.c
        unknown_at = event.first_unknown_at
        if unknown_at is None and outcome.kind is OutcomeKind.UNKNOWN:
            unknown_at = now
        with self._database.write() as connection:
            settled = connection.execute(
                sa.update(t.meter_events)
                .where(m.identifier == event.identifier, m.state == "sending", m.holder == holder)
                .where(m.attempts == event.attempts)
                .values(
                    state=state,
                    reason=outcome.reason,
                    first_unknown_at=unknown_at,
                    next_attempt_at=next_attempt_at,
                    idempotency_key=idempotency_key or event.idempotency_key,
                    settled_at=None if state in _OPEN else now,
                    holder="",
                    lease_end=0,
                )
            )
            return settled.rowcount == 1

    def meter_events(
        self, account_id: str | None = None, *, state: ReportState | None = None, limit: int = 100
    ) -> list[MeterEvent]:
        m = t.meter_events.c
        query = sa.select(*_EVENT).order_by(m.created_at.desc(), m.identifier).limit(limit)
        if account_id is not None:
            query = query.where(m.account_id == account_id)
        if state is not None:
            query = query.where(m.state == state)
        with self._database.read() as connection:
            return [_event(row) for row in connection.execute(query)]

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


def in_closed_period(account_id: Any, bucket_start: Any) -> Any:
    """Whether the invoice of the period that holds the bucket is finalized."""
    p = t.periods.c
    return sa.exists().where(
        p.account_id == account_id, p.start <= bucket_start, p.end > bucket_start, p.finalized_at.is_not(None)
    )


def _leased(connection: Connection, event: MeterEvent, holder: str, lease_end: int) -> bool:
    """Take the event unless it was settled since it was read, by an attempt that came late."""
    m = t.meter_events.c
    values = {
        "state": event.state,
        "attempts": event.attempts,
        "first_unknown_at": event.first_unknown_at,
        "holder": holder,
        "lease_end": lease_end,
    }
    unsettled = (m.identifier == event.identifier) & t.IS_OPEN & (m.attempts == event.attempts - 1)
    return connection.execute(sa.update(t.meter_events).where(unsettled).values(values)).rowcount == 1


_Bucket = tuple[str, str, int]


def _due_buckets(connection: Connection, now: int, before: int | None, hard: bool) -> list[_Bucket]:
    """Buckets with a hint, of accounts that Stripe knows.

    Sealed within the last interval: wait, unless the bucket is over. An event of the same account and meter that is
    still on its way: wait for it, so that what cannot be sent fast enough becomes fewer and larger events.
    Of a period whose invoice is finalized: never, that is billed as an invoice item (L10).
    """
    u, a, m = t.usage.c, t.accounts.c, t.meter_events.c
    query = (
        sa.select(u.account_id, u.meter, u.bucket_start)
        .distinct()
        .select_from(t.usage.join(t.accounts, a.id == u.account_id))
        .where(t.IS_DIRTY, a.customer_id.is_not(None), ~in_closed_period(u.account_id, u.bucket_start))
    )
    if before is not None:
        query = query.where(u.bucket_start < before)
    due: list[_Bucket] = [(row[0], row[1], row[2]) for row in connection.execute(query)]
    if hard or not due:
        return due
    recent = sa.select(m.account_id, m.meter).where(m.created_at > now - SEAL_INTERVAL_SECONDS).distinct()
    sealed_lately = {(row[0], row[1]) for row in connection.execute(recent)}
    waiting = sa.select(m.account_id, m.meter).where(t.IS_OPEN).distinct()
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


def _clear_hints(connection: Connection, due: list[_Bucket]) -> None:
    """Before the totals are read: an increment that comes in between sets its hint again and is looked at next time."""
    clear = _CLEAR_FREE if connection.dialect.name == "postgresql" else _CLEAR
    connection.execute(clear, [dict(zip(("account", "of", "start"), bucket, strict=True)) for bucket in due])


def _differences(connection: Connection, due: list[_Bucket]) -> list[Unsealed]:
    """L5: total, already sealed and next sequence of each bucket, in one statement."""
    u, m, a = t.usage.c, t.meter_events.c, t.accounts.c
    columns = (sa.column("account_id", sa.String), sa.column("meter", sa.String), sa.column("start", sa.BigInteger))
    asked = sa.values(*columns, name="asked").data(due).cte("asked").c
    used = (u.account_id == asked.account_id) & (u.meter == asked.meter) & (u.bucket_start == asked.start)
    done = (m.account_id == asked.account_id) & (m.meter == asked.meter) & (m.bucket_start == asked.start)
    rows = connection.execute(
        sa.select(
            asked.account_id,
            a.customer_id,
            asked.meter,
            asked.start,
            sa.select(sa.func.sum(u.quantity)).where(used).scalar_subquery(),
            sa.select(sa.func.coalesce(sa.func.sum(m.value), 0)).where(done, IS_OF_USAGE).scalar_subquery(),
            sa.select(sa.func.coalesce(sa.func.max(m.sequence) + 1, 0)).where(done).scalar_subquery(),
            sa.select(sa.func.max(u.last_used_at)).where(used).scalar_subquery(),
        )
        .where(a.id == asked.account_id)
        .order_by(asked.account_id, asked.meter, asked.start)
    ).all()
    found: list[Unsealed] = []
    for account, customer, meter, start, total, sealed, sequence, last in rows:
        cells = _cells(connection, customer, meter, start, last)
        found.append(Unsealed(account, customer, meter, start, int(total), int(sealed), int(sequence), last, cells))
    return found


def _cells(connection: Connection, customer_id: str, meter: str, start: int, last: int) -> frozenset[int]:
    asked = {"customer": customer_id, "of": meter, "first": start - start % CELL_SECONDS, "last": last}
    return frozenset(row[0] // CELL_SECONDS for row in connection.execute(_CELLS, asked))


def _cell_unproven(connection: Connection, event: MeterEvent) -> bool:
    """Whether another event in the same minute of this customer and meter has an outcome that nobody knows (L7)."""
    m = t.meter_events.c
    minute = event.cell * CELL_SECONDS
    query = sa.select(1).where(
        m.customer_id == event.customer_id,
        m.event_name == event.event_name,
        m.timestamp >= minute,
        m.timestamp < minute + CELL_SECONDS,
        m.identifier != event.identifier,
        (m.state == "sending") | ((m.state == "pending") & m.first_unknown_at.is_not(None)),
    )
    return connection.execute(query.limit(1)).first() is not None


def _event(row: Any) -> MeterEvent:
    values = {column.name: row._mapping[column.name] for column in _EVENT}
    return MeterEvent(**{**values, "state": ReportState(values["state"])})
