"""Meter events that Stripe may or may not have: read against its sums (L9), refused late, parked, and taken up again.

Nothing here decides; each method is one transaction.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from farebox.domain.audit import AuditEntry
from farebox.domain.reports import (
    CELL_SECONDS,
    IDENTIFIER_KEPT_SECONDS,
    REFUSED_LATE,
    MeterEvent,
    ReportedError,
    ReportState,
)
from farebox.ports import ReportBacklog
from farebox.store import tables as t
from farebox.store.audit import write_audit
from farebox.store.engine import Database, rerun
from farebox.store.reports import IS_OF_USAGE, in_closed_period, lock_accounts
from farebox.store.sending import EVENT_COLUMNS, event_of

__all__ = ["ParkedTables"]

_CHUNK = 500
_PARKED = (ReportState.REJECTED, ReportState.DOUBTFUL)
_WAITING = (ReportState.PENDING, ReportState.SENDING, *_PARKED)


class ParkedTables:
    """The part of the Store that knows what is uncertain."""

    _database: Database

    def cell_book(self, event: MeterEvent) -> tuple[int, int]:
        m = t.meter_events.c
        minute = event.cell * CELL_SECONDS
        unproven = m.state.in_(("sending", "doubtful")) | (
            m.state.in_(("pending", "withdrawn")) & m.first_unknown_at.is_not(None)
        )
        delivered = sa.func.sum(sa.case((m.state == "delivered", m.value), else_=0))
        query = sa.select(delivered, sa.func.sum(sa.case((unproven, 1), else_=0))).where(
            m.customer_id == event.customer_id,
            m.event_name == event.event_name,
            m.timestamp >= minute,
            m.timestamp < minute + CELL_SECONDS,
            m.identifier != event.identifier,
        )
        with self._database.read() as connection:
            total, others = connection.execute(query).one()
        return int(total or 0), int(others or 0)

    def witnesses(self, event_name: str, *, after: int, limit: int) -> list[MeterEvent]:
        m = t.meter_events.c
        query = (
            sa.select(*EVENT_COLUMNS)
            .where(m.created_at > after, m.event_name == event_name, m.state == "delivered")
            .order_by(m.created_at, m.identifier)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [event_of(row) for row in connection.execute(query)]

    @rerun
    def retry_meter_events(
        self, identifiers: Sequence[str], *, suffix: str, now: int, audit: AuditEntry | None = None
    ) -> list[MeterEvent]:
        m = t.meter_events.c
        moved: list[MeterEvent] = []
        with self._database.write() as connection:
            for start in range(0, len(identifiers), _CHUNK):
                chunk = identifiers[start : start + _CHUNK]
                # What a final invoice closes is billed as an invoice item, and never sent again (L10).
                parked = (t.IS_PARKED, ~in_closed_period(m.account_id, m.timestamp))
                query = sa.select(*EVENT_COLUMNS).where(m.identifier.in_(chunk), *parked).order_by(m.identifier)
                moved += [event_of(row) for row in connection.execute(query.with_for_update())]
            for event in moved:
                late = event.reason.startswith(REFUSED_LATE)
                forgotten_at = (event.settled_at or now) + IDENTIFIER_KEPT_SECONDS
                unknown = late or event.state is ReportState.DOUBTFUL
                connection.execute(
                    sa.update(t.meter_events)
                    .where(m.identifier == event.identifier)  # alone: PostgreSQL would read all that is parked
                    .values(
                        state="pending",
                        settled_at=None,
                        zero_read_at=None,
                        first_unknown_at=now if unknown else event.first_unknown_at,
                        next_attempt_at=max(now, forgotten_at) if late else now,
                        idempotency_key=f"{event.identifier}_{suffix}",
                    )
                )
            if moved and audit is not None:
                write_audit(connection, audit.with_detail(count=len(moved), first=moved[0].identifier))
        return moved

    @rerun
    def refuse_reported(self, error: ReportedError, *, others: bool, now: int) -> tuple[list[str], list[str]]:
        with self._database.write() as connection:
            lock_accounts(connection, {event.account_id for event in _named(connection, error.name)})
            sent = [e for e in _named(connection, error.name) if e.state is ReportState.DELIVERED]
            meant = sent if len(sent) == 1 else [e for e in sent if e.customer_id in error.message]
            again = [e for e in sent if e not in meant] if others or not meant else []
            closed = _closed(connection, sent)
            for event in meant:
                _undeliver(connection, event, _refused(event, error, closed, now))
            for event in again:
                values = _alone(event, error, now)
                _undeliver(connection, event, _refused(event, error, closed, now) if event in closed else values)
        return [event.identifier for event in meant], [e.identifier for e in again if e not in closed]

    def find_reported(self, name: str) -> list[MeterEvent]:
        with self._database.read() as connection:
            return _named(connection, name)

    def report_backlog(self) -> ReportBacklog:
        m, u = t.meter_events.c, t.usage.c
        columns = (m.state, sa.func.count(), sa.func.sum(m.value), sa.func.min(m.created_at))
        waiting = sa.union_all(
            *(sa.select(*columns).where(condition).group_by(m.state) for condition in (t.IS_OPEN, t.IS_PARKED))
        )
        dirty = sa.select(u.account_id, u.meter, u.bucket_start).where(t.IS_DIRTY).distinct().subquery()
        of_usage = (
            (u.account_id == dirty.c.account_id) & (u.meter == dirty.c.meter) & (u.bucket_start == dirty.c.bucket_start)
        )
        of_events = (
            (m.account_id == dirty.c.account_id) & (m.meter == dirty.c.meter) & (m.bucket_start == dirty.c.bucket_start)
        )
        used = sa.select(sa.func.coalesce(sa.func.sum(u.quantity), 0)).select_from(dirty.join(t.usage, of_usage))
        sealed = (
            sa.select(sa.func.coalesce(sa.func.sum(m.value), 0))
            .select_from(dirty.join(t.meter_events, of_events))
            .where(IS_OF_USAGE)
        )
        with self._database.read() as connection:
            rows = connection.execute(waiting).all()
            unsealed = int(connection.execute(used).scalar_one()) - int(connection.execute(sealed).scalar_one())
        found = {ReportState(row[0]): row for row in rows}
        return ReportBacklog(
            unsealed_quantity=unsealed,
            counts={state: int(found[state][1]) if state in found else 0 for state in _WAITING},
            quantities={state: int(found[state][2]) if state in found else 0 for state in _WAITING},
            oldest_open_at=min((row[3] for state, row in found.items() if state not in _PARKED), default=None),
            oldest_parked_at=min((row[3] for state, row in found.items() if state in _PARKED), default=None),
        )


def _closed(connection: Connection, events: Sequence[MeterEvent]) -> list[MeterEvent]:
    """Those of periods whose invoice is final: an invoice item bills what it lacks, and no meter event does (L10)."""
    m = t.meter_events.c
    names = [event.identifier for event in events]
    query = sa.select(m.identifier).where(m.identifier.in_(names), in_closed_period(m.account_id, m.timestamp))
    closed = set(connection.execute(query).scalars())
    return [event for event in events if event.identifier in closed]


_Values = dict[str, str | int | None]


def _refused(event: MeterEvent, error: ReportedError, closed: Sequence[MeterEvent], now: int) -> _Values:
    state = ReportState.WITHDRAWN if event in closed else ReportState.REJECTED
    return {"state": state, "reason": f"{REFUSED_LATE}{error.message}", "settled_at": now}


def _alone(event: MeterEvent, error: ReportedError, now: int) -> _Values:
    return {
        "state": "pending",
        "reason": f"sent again alone, because one of its request was refused: {error.message}",
        "settled_at": None,
        "first_unknown_at": event.first_unknown_at if event.first_unknown_at is not None else event.settled_at,
        "next_attempt_at": now,
        "idempotency_key": f"{event.identifier}_alone",
    }


def _undeliver(connection: Connection, event: MeterEvent, values: _Values) -> None:
    m = t.meter_events.c
    delivered = (m.identifier == event.identifier) & (m.state == "delivered")
    connection.execute(sa.update(t.meter_events).where(delivered).values(values))


def _named(connection: Connection, name: str) -> list[MeterEvent]:
    """The events that an identifier or an idempotency key of ours stands for: one, or a request's of the stream."""
    m = t.meter_events.c
    by_name = sa.select(*EVENT_COLUMNS).where(m.identifier.in_([name, name.rpartition("_")[0]]))
    by_key = sa.select(*EVENT_COLUMNS).where(t.IS_STREAMED, m.idempotency_key == name)
    found = {row.identifier: event_of(row) for query in (by_name, by_key) for row in connection.execute(query)}
    return list(found.values())
