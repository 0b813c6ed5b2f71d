"""A restored ledger is told what Stripe already has (L6): in small transactions that may be repeated."""

from dataclasses import asdict, fields, replace
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from farebox.domain.audit import AuditEntry
from farebox.domain.reports import CELL_SECONDS, MeterEvent, ReportState, freeze
from farebox.domain.restoring import Share, Span
from farebox.errors import StoreError
from farebox.store import tables as t
from farebox.store.audit import write_audit
from farebox.store.corrections import lock_account, next_event
from farebox.store.engine import Database, insert_new, rerun, upsert
from farebox.store.halting import clear_halt
from farebox.store.reports import IS_OF_USAGE, in_closed_period

__all__ = ["RestoringTables"]

_EVENT = tuple(t.meter_events.c[field.name] for field in fields(MeterEvent))
_WAITING: Final = ("pending", "sending", "rejected", "doubtful")
_WRITER: Final = "restored"
_REASON: Final = "Stripe had it when this ledger was restored"
_VOID: Final = "Stripe knew its name from another life of this ledger; its usage is sealed anew"


class RestoringTables:
    """The part of the Store that a restored ledger is mended with."""

    _database: Database

    def delivered_sum(self, account_id: str, meter: str, start: int, end: int) -> int:
        m = t.meter_events.c
        query = sa.select(sa.func.coalesce(sa.func.sum(m.value), 0)).where(
            m.account_id == account_id, m.meter == meter, m.state == ReportState.DELIVERED
        )
        with self._database.read() as connection:
            return int(connection.execute(query.where(m.timestamp >= start, m.timestamp < end)).scalar_one())

    def delivered_by_hour(self, account_id: str, meter: str, since: int) -> dict[int, int]:
        m = t.meter_events.c
        hour = m.timestamp - m.timestamp % 3600
        query = (
            sa.select(hour, sa.func.sum(m.value))
            .where(m.account_id == account_id, m.meter == meter, m.state == ReportState.DELIVERED)
            .where(m.timestamp >= since)
            .group_by(hour)
        )
        with self._database.read() as connection:
            return {int(row[0]): int(row[1]) for row in connection.execute(query)}

    def waiting_events(self, account_id: str, meter: str, start: int, end: int) -> list[MeterEvent]:
        m = t.meter_events.c
        query = (
            sa.select(*_EVENT)
            .where(m.account_id == account_id, m.meter == meter, m.state.in_(_WAITING))
            .where(m.timestamp >= start, m.timestamp < end)
            .order_by(m.bucket_start, m.sequence)
        )
        with self._database.read() as connection:
            return [_event(row) for row in connection.execute(query)]

    def refused_hours(self, account_id: str, meter: str) -> set[int]:
        m = t.meter_events.c
        query = sa.select(m.timestamp).where(
            m.account_id == account_id, m.meter == meter, m.state == ReportState.DOUBTFUL, m.first_unknown_at.is_(None)
        )
        with self._database.read() as connection:
            return {row[0] - row[0] % 3600 for row in connection.execute(query)}

    def unsealed_in(self, account_id: str, meter: str, bucket_start: int) -> int:
        with self._database.read() as connection:
            return _unsealed(connection, account_id, meter, bucket_start)

    def meters_of(self, account_id: str) -> list[str]:
        u = t.usage.c
        query = sa.select(u.meter).where(u.account_id == account_id).distinct().order_by(u.meter)
        with self._database.read() as connection:
            return list(connection.execute(query).scalars())

    @rerun
    def import_share(self, account_id: str, meter: str, event_name: str, found: Share, *, now: int) -> None:
        m, u, at = t.meter_events.c, t.usage.c, found.span.bucket_start
        with self._database.write() as connection:
            lock_account(connection, account_id)
            names = [event.identifier for event in found.delivered]
            connection.execute(
                sa.update(t.meter_events)
                .where(m.identifier.in_(names), m.state.in_(_WAITING))
                .values(state=ReportState.DELIVERED, settled_at=now, reason=_REASON, holder="", lease_end=0)
            )
            void = [event.identifier for event in found.void]
            connection.execute(
                sa.update(t.meter_events)
                .where(m.identifier.in_(void), m.state == ReportState.DOUBTFUL)
                .values(state=ReportState.WITHDRAWN, kind="void", settled_at=now, reason=_VOID)
            )
            if found.covered > max(_unsealed(connection, account_id, meter, at), 0):
                raise StoreError(internal="usage was sealed since Stripe's sums were shared out: run it again")
            if found.imported:
                _add_usage(connection, account_id, meter, found.span, found.imported, now)
            if found.covered or found.imported:
                _add_event(connection, account_id, meter, event_name, found, now)
            # What is left is to be sealed or, where the invoice is final, to be billed late.
            closed = connection.execute(sa.select(in_closed_period(account_id, at))).scalar_one()
            if closed or _unsealed(connection, account_id, meter, at) != 0:
                of_bucket = (u.account_id == account_id) & (u.meter == meter) & (u.bucket_start == at)
                connection.execute(sa.update(t.usage).where(of_bucket).values(dirty=True))

    def former_ledgers(self) -> list[str]:
        f = t.former_ledgers.c
        with self._database.read() as connection:
            return list(connection.execute(sa.select(f.id).order_by(f.renewed_at.desc(), f.id)).scalars())

    @rerun
    def renew_ledger(self, ledger_id: str, epoch: str, *, audit: AuditEntry) -> None:
        with self._database.write() as connection:
            former = connection.execute(sa.select(t.ledger.c.id).with_for_update()).scalar_one()
            insert_new(connection, t.former_ledgers, {"id": former, "renewed_at": audit.at})
            connection.execute(sa.update(t.writers).values(state="closed"))
            connection.execute(sa.update(t.ledger).values(id=ledger_id))
            clear_halt(connection)
            connection.execute(sa.delete(t.feed))
            connection.execute(sa.update(t.feed_head).values(epoch=epoch))
            connection.execute(sa.delete(t.differences))
            write_audit(connection, audit)


def _unsealed(connection: Connection, account_id: str, meter: str, bucket_start: int) -> int:
    u, m = t.usage.c, t.meter_events.c
    used = sa.select(sa.func.coalesce(sa.func.sum(u.quantity), 0)).where(
        u.account_id == account_id, u.meter == meter, u.bucket_start == bucket_start
    )
    done = sa.select(sa.func.coalesce(sa.func.sum(m.value), 0)).where(
        m.account_id == account_id, m.meter == meter, m.bucket_start == bucket_start, IS_OF_USAGE
    )
    return int(connection.execute(used).scalar_one()) - int(connection.execute(done).scalar_one())


def _add_usage(connection: Connection, account_id: str, meter: str, span: Span, quantity: int, now: int) -> None:
    """Usage of the lost life, under a writer of its own: which key and operation it was is not known any more."""
    insert_new(connection, t.writers, {"id": _WRITER, "batch": 1, "nonce": _WRITER, "state": "closed"})
    row: dict[str, Any] = {
        "account_id": account_id,
        "meter": meter,
        "bucket_start": span.bucket_start,
        "key_id": "",
        "operation": _WRITER,
        "writer": _WRITER,
        "quantity": quantity,
        "calls": 0,
        "last_used_at": max(span.bucket_start, min(span.end - CELL_SECONDS, now)),
        "dirty": False,
    }
    connection.execute(
        upsert(connection, t.usage)
        .values(row)
        .on_conflict_do_update(
            index_elements=list(t.usage.primary_key.columns), set_={"quantity": t.usage.c.quantity + quantity}
        )
    )


def _add_event(connection: Connection, account_id: str, meter: str, event_name: str, found: Share, now: int) -> None:
    """One event over what Stripe has and no row here holds. It is never sent, and its name is none of Stripe's."""
    ledger_id = connection.execute(sa.select(t.ledger.c.id)).scalar_one()
    at = max(found.span.start, found.span.bucket_start)
    bucket = next_event(connection, account_id, meter, found.span.bucket_start, at)
    value = found.covered + found.imported
    event = freeze(f"restored/{ledger_id}", bucket, event_name, now, value, kind="restored")
    event = replace(event, state=ReportState.DELIVERED, timestamp=at, settled_at=now, reason=_REASON)
    connection.execute(sa.insert(t.meter_events).values({**asdict(event), "holder": "", "lease_end": 0}))


def _event(row: Any) -> MeterEvent:
    values = {column.name: row._mapping[column.name] for column in _EVENT}
    return MeterEvent(**{**values, "state": ReportState(values["state"])})
