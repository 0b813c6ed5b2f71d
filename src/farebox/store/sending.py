"""Meter events on their way: leased one at a time per customer and meter (L8), settled by who holds the lease."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from farebox.domain.reports import (
    CELL_SECONDS,
    STREAM_EVENTS_MIN,
    MeterEvent,
    OutcomeKind,
    ReportState,
    Settlement,
    Transport,
)
from farebox.store import tables as t
from farebox.store.engine import Database, one_at_a_time, rerun
from farebox.store.halting import NOT_HALTED, write_halt

__all__ = ["EVENT_COLUMNS", "SendingTables", "event_of"]

_NAMES = [field.name for field in fields(MeterEvent)]
EVENT_COLUMNS: Final = tuple(t.meter_events.c[name] for name in _NAMES)
_STATE, _TRANSPORT = _NAMES.index("state"), _NAMES.index("transport")
_OPEN = ("pending", "sending")
_TAKING = 2  # turn of `one_at_a_time`
_TURNS = 4  # of one customer's events, looked at in a round: none of them keeps the others waiting
_CHUNK = 500  # identifiers named in one statement
# Both updates find their row by its identifier alone. Their other conditions must not imply the condition of a partial
# index: PostgreSQL, with statistics of a time when nothing was open, would read all of that index for each row.
_IS_NOT_SETTLED = sa.text("meter_events.state NOT IN ('delivered', 'rejected', 'doubtful', 'withdrawn')")
_TAKE = (
    sa.update(t.meter_events)
    .where(
        t.meter_events.c.identifier == sa.bindparam("of"),
        t.meter_events.c.attempts == sa.bindparam("before"),
        t.meter_events.c.lease_end == sa.bindparam("lease_before"),
        _IS_NOT_SETTLED,
        NOT_HALTED,
    )
    .values(
        state="sending",
        **{name: sa.bindparam(name) for name in ("attempts", "first_unknown_at", "transport", "holder", "lease_end")},
    )
)
_SETTLE = (
    sa.update(t.meter_events)
    .where(
        t.meter_events.c.identifier == sa.bindparam("of"),
        t.meter_events.c.holder == sa.bindparam("by"),  # nobody's, unless it is being sent
        t.meter_events.c.attempts == sa.bindparam("attempt"),
    )
    .values(
        holder="",
        lease_end=0,
        **{
            name: sa.bindparam(name)
            for name in (
                "state",
                "reason",
                "first_unknown_at",
                "next_attempt_at",
                "idempotency_key",
                "settled_at",
                "transport",
                "zero_read_at",
            )
        },
    )
)


class SendingTables:
    """The part of the Store from which the reporter sends."""

    _database: Database

    @rerun
    def take_meter_events(
        self,
        holder: str,
        *,
        now: int,
        lease_seconds: int,
        limit: int,
        stream_limit: int = 0,
        fresh_by_stream: bool = False,
    ) -> list[MeterEvent]:
        most = max(limit, stream_limit if fresh_by_stream else 0, STREAM_EVENTS_MIN)
        with self._database.read() as connection:
            due = _due_events(connection, now, most)
        if not due:
            return []
        # What the long look found is checked again under the lock, which paid calls wait for.
        with self._database.write() as connection:
            one_at_a_time(connection, _TAKING)
            alone = _alone(due, _unproven(connection), now, most)
            chosen = _ways(alone, limit, stream_limit, fresh_by_stream=fresh_by_stream)
            taken = [(_in_sending(event, end, lease_seconds), end) for event, end in chosen]
            return _leased(connection, taken, holder, now + lease_seconds)

    @rerun
    def settle_meter_events(self, holder: str, settlements: Sequence[Settlement], *, now: int) -> set[str]:
        names = sorted(settlement.event.identifier for settlement in settlements)
        with self._database.write() as connection:
            attempts = _held_attempts(connection, holder, names)
            ours = [s for s in settlements if attempts.get(s.event.identifier) == s.event.attempts]
            if ours:
                rows = [_settled(settlement, holder, now) for settlement in ours]
                connection.execute(_SETTLE, sorted(rows, key=lambda row: str(row["of"])))
            for reason in (settlement.halts for settlement in ours if settlement.halts):
                write_halt(connection, reason, now)
        return {settlement.event.identifier for settlement in ours}


def _held_attempts(connection: Connection, holder: str, identifiers: Sequence[str]) -> dict[str, int]:
    """The attempts of those events that the holder has, locked until the transaction ends."""
    m = t.meter_events.c
    found: dict[str, int] = {}
    for start in range(0, len(identifiers), _CHUNK):
        chunk = identifiers[start : start + _CHUNK]
        # Not sorted: SQLite would read all meter events there are in the order of their identifiers.
        query = sa.select(m.identifier, m.attempts).where(m.identifier.in_(chunk), m.holder == holder)
        found |= {row.identifier: row.attempts for row in connection.execute(query.with_for_update())}
    return found


_Due = list[tuple[MeterEvent, int]]  # events with the end of their last lease


def _due_events(connection: Connection, now: int, limit: int) -> _Due:
    """Events that could be sent now: a few of each customer and meter, everybody's first before anybody's second."""
    m = t.meter_events.c
    busy = connection.execute(sa.select(sa.func.count()).select_from(t.meter_events).where(t.IS_UNPROVEN)).scalar_one()
    abandoned = (m.state == "sending") & (m.lease_end <= now)
    ready = (m.state == "pending") & (m.next_attempt_at <= now)
    order = (m.next_attempt_at, m.bucket_start, m.sequence)
    turn = sa.func.row_number().over(partition_by=(m.customer_id, m.event_name), order_by=order)
    due = sa.select(m.identifier, turn.label("turn")).where(t.IS_OPEN, abandoned | ready).subquery()
    query = (
        sa.select(*EVENT_COLUMNS, m.lease_end)
        .join(due, due.c.identifier == m.identifier)
        .where(due.c.turn <= _TURNS)
        .order_by(due.c.turn, *order)
        .limit(limit + busy * _TURNS)
    )
    return [(event_of(row), row.lease_end) for row in connection.execute(query)]


def _unproven(connection: Connection) -> Sequence[Any]:
    m = t.meter_events.c
    cell, place = (m.customer_id, m.event_name, m.timestamp), (m.bucket_start, m.sequence, m.identifier)
    columns = (*cell, *place, m.state, m.lease_end)
    return connection.execute(sa.select(*columns).where(t.IS_UNPROVEN)).all()


def _alone(due: _Due, unproven: Sequence[Any], now: int, limit: int) -> _Due:
    """At most `limit` of each way, and as many that have none yet: one for each customer and meter, and none beside one
    in flight (L8). In the cell of another that is unproven an event waits (L7), unless it is unproven itself and is the
    first of them: two that are both unproven would wait for each other for ever."""
    busy = {(row.customer_id, row.event_name) for row in unproven if row.state == "sending" and row.lease_end > now}
    first: dict[tuple[str, str, int], tuple[int, int, str]] = {}
    for row in unproven:
        cell, place = (row.customer_id, row.event_name, row.timestamp // CELL_SECONDS), _place(row)
        first[cell] = min(place, first.get(cell, place))
    counts = dict.fromkeys(Transport, 0)
    found: _Due = []
    for event, lease_end in due:
        serial = (event.customer_id, event.event_name)
        if serial in busy or counts[event.transport] >= limit:
            continue
        if first.get((*serial, event.cell), _place(event)) != _place(event):
            continue
        busy.add(serial)
        counts[event.transport] += 1
        found.append((event, lease_end))
    return found


def _place(event: Any) -> tuple[int, int, str]:
    """Where an event stands among those of its customer and meter."""
    return event.bucket_start, event.sequence, event.identifier


def _ways(due: _Due, limit: int, stream_limit: int, *, fresh_by_stream: bool) -> _Due:
    """Those that are taken, each with its way. What has no way yet goes by the stream when there is much of it."""
    fresh = sum(event.transport is Transport.UNCHOSEN for event, _ in due)
    way = Transport.STREAM if fresh_by_stream and fresh >= STREAM_EVENTS_MIN else Transport.EVENT
    room = {Transport.EVENT: limit, Transport.STREAM: stream_limit}
    chosen: _Due = []
    for event, lease_end in due:
        own = event.transport or way
        if room[own] > 0:
            room[own] -= 1
            chosen.append((replace(event, transport=own), lease_end))
    return chosen


def _in_sending(event: MeterEvent, lease_end: int, lease_seconds: int) -> MeterEvent:
    """A lease that ran out hides a send that may have happened as early as the lease began."""
    unknown_at = lease_end - lease_seconds if event.state is ReportState.SENDING else None
    return replace(
        event,
        state=ReportState.SENDING,
        attempts=event.attempts + 1,
        first_unknown_at=event.first_unknown_at if event.first_unknown_at is not None else unknown_at,
    )


def _leased(connection: Connection, due: _Due, holder: str, lease_end: int) -> list[MeterEvent]:
    """Those that were still as they had been read, now in sending. None once reporting is halted."""
    events = [event for event, _ in due]
    rows = [
        {
            "of": event.identifier,
            "before": event.attempts - 1,
            "lease_before": lease_before,
            "attempts": event.attempts,
            "first_unknown_at": event.first_unknown_at,
            "transport": event.transport,
            "holder": holder,
            "lease_end": lease_end,
        }
        for event, lease_before in sorted(due, key=lambda pair: pair[0].identifier)
    ]
    if not rows or connection.execute(_TAKE, rows).rowcount == len(rows):
        return events
    attempts = _held_attempts(connection, holder, sorted(event.identifier for event in events))
    return [event for event in events if attempts.get(event.identifier) == event.attempts]


def _settled(settlement: Settlement, holder: str, now: int) -> dict[str, Any]:
    event, outcome = settlement.event, settlement.outcome
    unknown_at = event.first_unknown_at
    if unknown_at is None and outcome.kind is OutcomeKind.UNKNOWN:
        unknown_at = now
    return {
        "of": event.identifier,
        "by": holder,
        "attempt": event.attempts,
        "state": settlement.state,
        "reason": outcome.reason,
        "first_unknown_at": unknown_at,
        "next_attempt_at": settlement.next_attempt_at,
        "idempotency_key": settlement.idempotency_key or event.idempotency_key,
        "settled_at": None if settlement.state in _OPEN else now,
        "transport": settlement.transport,
        "zero_read_at": settlement.zero_read_at,
    }


def event_of(row: Any) -> MeterEvent:
    """The event of a row that begins with EVENT_COLUMNS."""
    values = list(row)[: len(EVENT_COLUMNS)]
    values[_STATE], values[_TRANSPORT] = ReportState(values[_STATE]), Transport(values[_TRANSPORT])
    return MeterEvent(*values)
