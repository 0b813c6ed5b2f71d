"""Corrections in the ledger: each a row and a meter event of its own, in one transaction (L11)."""

from collections.abc import Callable
from dataclasses import asdict, fields

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from farebox.domain.audit import AuditEntry
from farebox.domain.corrections import Adjustment
from farebox.domain.reports import CELL_SECONDS, MeterEvent, Unsealed
from farebox.domain.usage import Period
from farebox.errors import AdjustmentRefused, RecordConflict
from farebox.store import tables as t
from farebox.store.audit import write_audit
from farebox.store.engine import Database, rerun
from farebox.store.reports import in_closed_period, lock_accounts

__all__ = ["CorrectionTables", "adjusted_quantities", "lock_account", "next_event", "used_quantities"]

_ADJUSTMENT = tuple(t.adjustments.c[field.name] for field in fields(Adjustment))


class CorrectionTables:
    """The part of the Store that corrects what was counted."""

    _database: Database

    @rerun
    def adjust(
        self,
        adjustment: Adjustment,
        plan: Callable[[Unsealed], MeterEvent],
        *,
        period: Period,
        bucket_start: int,
        audit: AuditEntry,
    ) -> Adjustment:
        """The adjustment as it was made now, or before under the same id with the same values."""
        j = t.adjustments.c
        account_id, meter = adjustment.account_id, adjustment.meter
        with self._database.write() as connection:
            lock_account(connection, account_id)
            known = connection.execute(sa.select(*_ADJUSTMENT).where(j.id == adjustment.id)).first()
            if known is not None:
                return _same(Adjustment(*known), adjustment)
            closed = sa.select(1).where(in_closed_period(account_id, bucket_start))
            if connection.execute(closed).first() is not None:
                raise AdjustmentRefused(
                    "The invoice of that period is final and no meter event can change it. "
                    "Correct it at Stripe with a credit note, or adjust the current period."
                )
            used = used_quantities(connection, account_id, period.start, period.end).get(meter, 0)
            used += adjusted_quantities(connection, account_id, period.start, period.end).get(meter, 0)
            if used + adjustment.quantity < 0:
                raise AdjustmentRefused(
                    f"The period holds {used} {meter}, so at most {used} can be taken off: usage is never below zero."
                )
            event = plan(next_event(connection, account_id, meter, bucket_start, adjustment.used_at))
            connection.execute(sa.insert(t.meter_events).values({**asdict(event), "holder": "", "lease_end": 0}))
            made = {**asdict(adjustment), "identifier": event.identifier}
            connection.execute(sa.insert(t.adjustments).values(made))
            write_audit(connection, audit)
            return Adjustment(**made)

    def adjusted(self, account_id: str, start: int, end: int) -> dict[str, int]:
        with self._database.read() as connection:
            return adjusted_quantities(connection, account_id, start, end)

    def adjustments(self, account_id: str, *, limit: int = 100) -> list[Adjustment]:
        j = t.adjustments.c
        query = sa.select(*_ADJUSTMENT).where(j.account_id == account_id).order_by(j.created_at.desc(), j.id)
        with self._database.read() as connection:
            return [Adjustment(*row) for row in connection.execute(query.limit(limit))]


def lock_account(connection: Connection, account_id: str) -> None:
    """Until the transaction ends nobody else decides by what the account has sealed, billed or corrected.

    Take it before reading what the decision rests on. Only usage goes on being added: an increment sets its row's
    hint, so hints are cleared before usage is summed. (SQLite's writers are one after another anyway.)
    """
    lock_accounts(connection, [account_id])


def used_quantities(connection: Connection, account_id: str, start: int, end: int) -> dict[str, int]:
    """Usage by meter of the buckets in [start, end)."""
    u = t.usage.c
    query = sa.select(u.meter, sa.func.sum(u.quantity)).where(
        u.account_id == account_id, u.bucket_start >= start, u.bucket_start < end
    )
    return {row[0]: int(row[1]) for row in connection.execute(query.group_by(u.meter))}


def adjusted_quantities(connection: Connection, account_id: str, start: int, end: int) -> dict[str, int]:
    """Corrections by meter, of usage in [start, end)."""
    j = t.adjustments.c
    query = sa.select(j.meter, sa.func.sum(j.quantity)).where(
        j.account_id == account_id, j.used_at >= start, j.used_at < end
    )
    return {row[0]: int(row[1]) for row in connection.execute(query.group_by(j.meter))}


def next_event(connection: Connection, account_id: str, meter: str, bucket_start: int, last_at: int) -> Unsealed:
    """What a further meter event of the bucket must know: the customer, its number, the minutes in use."""
    m = t.meter_events.c
    customer_id = connection.execute(
        sa.select(t.accounts.c.customer_id).where(t.accounts.c.id == account_id)
    ).scalar_one()
    of_bucket = (m.account_id == account_id) & (m.meter == meter) & (m.bucket_start == bucket_start)
    number = sa.select(sa.func.coalesce(sa.func.max(m.sequence) + 1, 0)).where(of_bucket)
    stamps = sa.select(m.timestamp).where(
        m.customer_id == customer_id,
        m.meter == meter,
        m.timestamp.between(bucket_start - bucket_start % CELL_SECONDS, last_at),
    )
    cells = frozenset(row[0] // CELL_SECONDS for row in connection.execute(stamps))
    sequence = int(connection.execute(number).scalar_one())
    return Unsealed(account_id, customer_id, meter, bucket_start, 0, 0, sequence, last_at, cells)


def _same(known: Adjustment, asked: Adjustment) -> Adjustment:
    def values(one: Adjustment) -> tuple[str, str, int]:
        return one.account_id, one.meter, one.quantity

    if values(known) != values(asked):
        raise RecordConflict(f"The adjustment {known.id!r} was made before, with other values.")
    return known
