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

__all__ = ["EVENT_COLUMNS", "SendingTables", "event_of"]

_NAMES = [field.name for field in fields(MeterEvent)]
EVENT_COLUMNS: Final = tuple(t.meter_events.c[name] for name in _NAMES)
_STATE, _TRANSPORT = _NAMES.index("state"), _NAMES.index("transport")
_OPEN = ("pending", "sending")
_TAKING = 2  # turn of `one_at_a_time`
_TURNS = 4  # of one customer's events, looked at in a round: none of them keeps the others waiting
_TAKE = (
    sa.update(t.meter_events)
    .where(
        t.meter_events.c.identifier == sa.bindparam("of"),
        t.meter_events.c.attempts == sa.bindparam("before"),
        t.IS_OPEN,
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
        t.meter_events.c.state == "sending",
        t.meter_events.c.holder == sa.bindparam("by"),
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
            taken = [_in_sending(event, end, lease_seconds) for event, end in chosen]
            return _leased(connection, taken, holder, now + lease_seconds)

    @rerun
    def settle_meter_events(self, holder: str, settlements: Sequence[Settlement], *, now: int) -> set[str]:
        m = t.meter_events.c
        held = sa.select(m.identifier, m.attempts).where(t.IS_UNPROVEN, m.state == "sending", m.holder == holder)
        locked = held.order_by(m.identifier).with_for_update()
        with self._database.write() as connection:
            attempts = {row.identifier: row.attempts for row in connection.execute(locked)}
            ours = [s for s in settlements if attempts.get(s.event.identifier) == s.event.attempts]
            if ours:
                rows = [_settled(settlement, holder, now) for settlement in ours]
                connection.execute(_SETTLE, sorted(rows, key=lambda row: str(row["of"])))
        return {settlement.event.identifier for settlement in ours}


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
    columns = (m.customer_id, m.event_name, m.timestamp, m.identifier, m.state, m.lease_end)
    return connection.execute(sa.select(*columns).where(t.IS_UNPROVEN)).all()


def _alone(due: _Due, unproven: Sequence[Any], now: int, limit: int) -> _Due:
    """At most `limit` of each way, and as many that have none yet: one for each customer and meter, and none beside
    one in flight or in the cell of another that is unproven (L7, L8)."""
    busy = {(row.customer_id, row.event_name) for row in unproven if row.state == "sending" and row.lease_end > now}
    cells: dict[tuple[str, str, int], set[str]] = {}
    for row in unproven:
        cells.setdefault((row.customer_id, row.event_name, row.timestamp // CELL_SECONDS), set()).add(row.identifier)
    counts = dict.fromkeys(Transport, 0)
    found: _Due = []
    for event, lease_end in due:
        serial = (event.customer_id, event.event_name)
        if serial in busy or counts[event.transport] >= limit:
            continue
        if cells.get((*serial, event.cell), set()) - {event.identifier}:
            continue
        busy.add(serial)
        counts[event.transport] += 1
        found.append((event, lease_end))
    return found


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


def _leased(connection: Connection, events: list[MeterEvent], holder: str, lease_end: int) -> list[MeterEvent]:
    """Those that were still as they had been read, now in sending."""
    rows = [
        {
            "of": event.identifier,
            "before": event.attempts - 1,
            "attempts": event.attempts,
            "first_unknown_at": event.first_unknown_at,
            "transport": event.transport,
            "holder": holder,
            "lease_end": lease_end,
        }
        for event in sorted(events, key=lambda event: event.identifier)
    ]
    if not rows or connection.execute(_TAKE, rows).rowcount == len(rows):
        return events
    m = t.meter_events.c
    held = sa.select(m.identifier, m.attempts).where(t.IS_UNPROVEN, m.state == "sending", m.holder == holder)
    attempts = {row.identifier: row.attempts for row in connection.execute(held)}
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
