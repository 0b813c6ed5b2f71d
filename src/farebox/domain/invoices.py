"""Invoices as the provider made them, and what they billed of a period. Amounts in minor units."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from farebox.domain.accounts import TERMINAL_STATUSES, Subscription
from farebox.domain.periods import FINAL_AFTER_SECONDS, BillingPeriod
from farebox.domain.rating import amount_of

__all__ = ["BilledInvoice", "BilledLine", "MeterBill", "PeriodBill", "bill_of", "draft_of", "has_ended"]

_FINAL: Final = frozenset({"open", "paid", "uncollectible", "void"})


@dataclass(frozen=True, slots=True)
class BilledLine:
    """A line of a subscription's item. `item_id` is None for what was added by hand."""

    item_id: str | None
    quantity: int
    amount: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class BilledInvoice:
    """`finalized_at` is None for a draft: what it bills may still change."""

    id: str
    status: str
    subscription_id: str | None
    period_end: int
    finalized_at: int | None
    lines: tuple[BilledLine, ...] = ()

    @property
    def is_final(self) -> bool:
        return self.finalized_at is not None and self.status in _FINAL


@dataclass(frozen=True, slots=True)
class MeterBill:
    """What a period's invoices billed of one meter; `expected_amount` is what those quantities cost by our rating."""

    quantity: int
    amount: int
    expected_amount: int


@dataclass(frozen=True, slots=True)
class PeriodBill:
    """What was billed of a period by meter, and the invoice that closed it; None: no invoice bills any of it.

    `next_look_at`: when to look whether there are more invoices after all; None: a webhook would tell.
    """

    invoice_id: str | None
    finalized_at: int
    meters: dict[str, MeterBill] = field(default_factory=dict)
    next_look_at: int | None = None


def has_ended(subscription: Subscription | None) -> bool:
    """Whether no further invoice of it will come by itself. None: the provider does not list it any more."""
    return subscription is None or subscription.status in TERMINAL_STATUSES


def draft_of(period: BillingPeriod, invoices: Iterable[BilledInvoice]) -> BilledInvoice | None:
    """An invoice that is not final and may bill some of the period: one with lines of it, or one that ends in it and
    does not only hold what somebody added by hand."""
    for invoice in invoices:
        if invoice.subscription_id == period.subscription_id and not invoice.is_final:
            by_hand = bool(invoice.lines) and all(line.item_id is None for line in invoice.lines)
            ends_inside = period.start < invoice.period_end <= period.end and not by_hand
            if ends_inside or _lines_by_item(invoice, period):
                return invoice
    return None


def bill_of(
    period: BillingPeriod, invoices: Iterable[BilledInvoice], *, subscription: Subscription | None, now: int
) -> PeriodBill | None:
    """What the final invoices billed of the period, or None while nothing closes it.

    While a draft may bill some of it, nothing does. Else the invoice that was made final after the period's end and
    whose lines, or whose own period, reach that end. Once the subscription has ended, its own end is enough, and two
    hours after the period's end no invoice is needed: none will come. A renewal invoice without a line of ours billed
    nothing.
    """
    found = list(invoices)
    if draft_of(period, found) is not None:
        return None
    ours = [i for i in found if i.subscription_id == period.subscription_id and i.is_final]
    ended = has_ended(subscription)
    end = period.end
    if ended and subscription is not None and subscription.ended_at is not None:
        end = min(end, subscription.ended_at)
    closing = max(
        (i for i in ours if (i.finalized_at or 0) >= end and _reaches(i, period, end)),
        key=lambda i: i.finalized_at or 0,
        default=None,
    )
    totals = _totals(period, ours)
    if closing is not None:
        return PeriodBill(closing.id, closing.finalized_at or 0, totals)
    if ended and now >= period.end + FINAL_AFTER_SECONDS:
        billing = [i.id for i in ours if _lines_by_item(i, period)]
        return PeriodBill(billing[0] if billing else None, now, totals)  # newest first
    return None


def _reaches(invoice: BilledInvoice, period: BillingPeriod, end: int) -> bool:
    """Whether the invoice bills the period up to its end."""
    lines = [line for lines in _lines_by_item(invoice, period).values() for line in lines]
    ours = {item.id for item in period.items}
    return invoice.period_end == period.end or any(line.end >= end for line in lines if line.item_id in ours)


def _totals(period: BillingPeriod, invoices: Iterable[BilledInvoice]) -> dict[str, MeterBill]:
    meters = {item.id: item for item in period.items}
    totals = {item.meter: MeterBill(0, 0, 0) for item in period.items}
    for invoice in invoices:
        for item_id, lines in _lines_by_item(invoice, period).items():
            item = meters.get(item_id)
            if item is None:
                continue
            before, quantity = totals[item.meter], sum(line.quantity for line in lines)
            totals[item.meter] = MeterBill(
                before.quantity + quantity,
                before.amount + sum(line.amount for line in lines),
                before.expected_amount + amount_of(item.price, quantity),
            )
    return totals


def _lines_by_item(invoice: BilledInvoice, period: BillingPeriod) -> dict[str, list[BilledLine]]:
    """The invoice's lines of usage in the period: several of one item where it costs by tiers."""
    found: dict[str, list[BilledLine]] = {}
    for line in invoice.lines:
        if line.item_id is not None and line.start < period.end and line.end > period.start:
            found.setdefault(line.item_id, []).append(line)
    return found
