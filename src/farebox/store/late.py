"""Usage that its final invoice does not have (L10): periods are closed, what is left is billed as items, once."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from farebox.domain.corrections import NEVER_AT, NO_METER, LateItem, LateItemState, late_amount, minimum_due
from farebox.domain.invoices import MeterBill, PeriodBill
from farebox.domain.periods import BillingPeriod
from farebox.domain.reports import MeterEvent, ReportState, Unsealed
from farebox.store import tables as t
from farebox.store.corrections import lock_account, next_event
from farebox.store.engine import Database, rerun
from farebox.store.periods import bill_text, read_period
from farebox.store.periods import is_period as _is
from farebox.store.reconciling import balances_of, unsealed_buckets

__all__ = ["LateTables"]

_REASON: Final = "its invoice is final: the invoice has it, or an invoice item bills it"
_UNSETTLED: Final = ("pending", "sending", "rejected", "doubtful")
_Plan = Callable[[Unsealed, int], MeterEvent]


class LateTables:
    """The part of the Store that closes periods."""

    _database: Database

    def bill(self, period: BillingPeriod) -> PeriodBill | None:
        with self._database.read() as connection:
            return _bill(connection, period)

    @rerun
    def close_period(self, period: BillingPeriod, bill: PeriodBill, *, plan: _Plan | None, now: int) -> list[LateItem]:
        with self._database.write() as connection:
            lock_account(connection, period.account_id)
            connection.execute(
                sa.update(t.periods)
                .where(_is(period), t.periods.c.finalized_at.is_(None))
                .values(
                    invoice_id=bill.invoice_id,
                    finalized_at=bill.finalized_at,
                    billed=bill_text(bill),
                    next_look_at=bill.next_look_at,
                )
            )
            late = _bill_late(connection, period, plan, now) if plan is not None else []
            return late + _fill_up(connection, period, now)

    @rerun
    def bill_late(self, period: BillingPeriod, *, plan: _Plan, now: int) -> list[LateItem]:
        with self._database.write() as connection:
            lock_account(connection, period.account_id)
            return _bill_late(connection, period, plan, now) + _fill_up(connection, period, now)

    def closed_with_late_usage(self, *, limit: int) -> list[BillingPeriod]:
        u, p = t.usage.c, t.periods.c
        inside = (u.account_id == p.account_id) & (u.bucket_start >= p.start) & (u.bucket_start < p.end)
        query = (
            sa.select(t.periods)
            .where(p.finalized_at.is_not(None), p.account_id.in_(sa.select(u.account_id).where(t.IS_DIRTY)))
            .where(sa.exists(sa.select(1).select_from(t.usage).where(t.IS_DIRTY, inside).correlate(t.periods)))
            .limit(limit)
        )
        with self._database.read() as connection:
            return [read_period(row) for row in connection.execute(query)]


def _bill(connection: Connection, period: BillingPeriod) -> PeriodBill | None:
    p = t.periods.c
    row = connection.execute(
        sa.select(p.invoice_id, p.finalized_at, p.billed).where(_is(period), p.finalized_at.is_not(None))
    ).first()
    if row is None:
        return None
    return PeriodBill(row[0], row[1], {meter: MeterBill(*values) for meter, values in json.loads(row[2]).items()})


def _bill_late(connection: Connection, period: BillingPeriod, plan: _Plan, now: int) -> list[LateItem]:
    """Take back what cannot be billed as a meter event any more, and make an item of what the invoice lacks."""
    bill = _bill(connection, period)
    if bill is None:
        return []
    made = []
    for meter, balance in balances_of(connection, period, now).items():
        item, of_meter = period.item_of(meter), bill.meters.get(meter, MeterBill(0, 0, 0))
        billed = of_meter.quantity
        missing = balance.ledger - billed - balance.late
        # An invoice that our prices do not explain may count in other units: that is for a person to look at.
        if item is not None and not period.trial and missing > 0 and of_meter.amount == of_meter.expected_amount:
            before = billed + balance.late
            amount = late_amount(before, missing, item.price)
            late = LateItem(
                id=_name(connection, period, meter, before),
                account_id=period.account_id,
                meter=meter,
                period_start=period.start,
                period_end=period.end,
                quantity=missing,
                amount=amount,
                currency=item.currency,
                reason=f"not on {bill.invoice_id or 'any invoice'}",
                created_at=now,
                subscription_id=period.subscription_id,
                state=LateItemState.NEW if amount else LateItemState.FREE,
                state_since_at=now,
                next_look_at=now if amount else NEVER_AT,
            )
            connection.execute(sa.insert(t.late_items).values(asdict(late)))
            made.append(late)
    _withdraw(connection, period, plan, now)
    return made


def _fill_up(connection: Connection, period: BillingPeriod, now: int) -> list[LateItem]:
    """What a whole period lacks to its minimum, or what of that goes back because usage came late."""
    bill = _bill(connection, period)
    if bill is None or not any(item.minimum for item in period.items) or not _is_whole(connection, period):
        return []
    if any(of_meter.amount != of_meter.expected_amount for of_meter in bill.meters.values()):
        return []  # our prices do not explain the invoice: for a person to look at
    late = t.late_items.c
    query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(late.amount), 0)).where(
        late.account_id == period.account_id, late.period_start == period.start, late.meter == NO_METER
    )
    before, charged = connection.execute(query).one()
    used = {meter: balance.ledger for meter, balance in balances_of(connection, period, now).items()}
    amount = minimum_due(period, used) - int(charged)
    if amount == 0:
        return []
    item = LateItem(
        id=_name(connection, period, NO_METER, int(before)),
        account_id=period.account_id,
        meter=NO_METER,
        period_start=period.start,
        period_end=period.end,
        quantity=0,
        amount=amount,
        currency=period.items[0].currency,
        reason=f"minimum, {bill.invoice_id or 'no invoice'}",
        created_at=now,
        subscription_id=period.subscription_id,
        state_since_at=now,
        next_look_at=now,
    )
    connection.execute(sa.insert(t.late_items).values(asdict(item)))
    return [item]


def _is_whole(connection: Connection, period: BillingPeriod) -> bool:
    """Whether it ran from its interval's start to its end: no change of plan began or ended it, no cancellation."""
    ends = {item.period.end for item in period.items}
    if ends != {period.end}:
        return False
    p = t.periods.c
    same = (p.account_id == period.account_id) & (p.subscription_id == period.subscription_id)
    rows = connection.execute(sa.select(t.periods).where(same, p.end == period.start))
    return all({item.period.end for item in read_period(row).items} != ends for row in rows)


def _name(connection: Connection, period: BillingPeriod, meter: str, before: int) -> str:
    """The same for the same units of the same ledger: neither a crash nor a restored backup bills them twice."""
    ledger_id = connection.execute(sa.select(t.ledger.c.id)).scalar_one()
    row = f"{ledger_id}/{period.account_id}/{period.subscription_id}/{meter}/{period.start}/{before}"
    return f"late_{hashlib.sha256(row.encode()).hexdigest()[:40]}"


def _withdraw(connection: Connection, period: BillingPeriod, plan: _Plan, now: int) -> None:
    """No event of the period is sent any more; what was not sealed becomes a row that never is."""
    m, u = t.meter_events.c, t.usage.c
    connection.execute(
        sa.update(t.meter_events)
        .where(m.account_id == period.account_id, m.timestamp >= period.start, m.timestamp < period.end)
        .where(m.state.in_(_UNSETTLED))
        .values(state=ReportState.WITHDRAWN, settled_at=now, reason=_REASON, holder="", lease_end=0)
    )
    for meter, start, quantity, last_used_at in unsealed_buckets(connection, period):
        if quantity > 0:
            bucket = next_event(connection, period.account_id, meter, start, min(last_used_at, period.end - 1))
            event = replace(plan(bucket, quantity), state=ReportState.WITHDRAWN, settled_at=now, reason=_REASON)
            connection.execute(sa.insert(t.meter_events).values({**asdict(event), "holder": "", "lease_end": 0}))
    connection.execute(
        sa.update(t.usage)
        .where(u.account_id == period.account_id, u.bucket_start >= period.start, u.bucket_start < period.end)
        .where(t.IS_DIRTY)
        .values(dirty=False)
    )
