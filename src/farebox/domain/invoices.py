"""Invoices as the provider made them, and what they billed of a period. Amounts in minor units."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from farebox.domain.periods import BillingPeriod
from farebox.domain.rating import amount_of

__all__ = ["BilledInvoice", "BilledLine", "MeterBill", "PeriodBill", "bill_of"]

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
    """What was billed of a period by meter, and the invoice that closed it."""

    invoice_id: str
    finalized_at: int
    meters: dict[str, MeterBill] = field(default_factory=dict)


def bill_of(period: BillingPeriod, invoices: Iterable[BilledInvoice], *, ended: bool) -> PeriodBill | None:
    """What the final invoices billed of the period, or None while none of them closes it.

    Closing is the one whose lines reach the period's end, or any with lines of it once the subscription has `ended`
    (cancelled in mid-period). A renewal invoice without a line of ours billed nothing.
    """
    ours = [i for i in invoices if i.subscription_id == period.subscription_id and i.is_final]
    meters = {item.id: item for item in period.items}
    totals = {item.meter: MeterBill(0, 0, 0) for item in period.items}
    closing: BilledInvoice | None = None
    for invoice in ours:
        closes = invoice.period_end == period.end
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
            closes = closes or ended or any(line.end >= period.end for line in lines)
        if closes and (closing is None or (invoice.finalized_at or 0) > (closing.finalized_at or 0)):
            closing = invoice
    if closing is None:
        return None
    return PeriodBill(closing.id, closing.finalized_at or 0, totals)


def _lines_by_item(invoice: BilledInvoice, period: BillingPeriod) -> dict[str, list[BilledLine]]:
    """The invoice's lines of usage in the period: several of one item where it costs by tiers."""
    found: dict[str, list[BilledLine]] = {}
    for line in invoice.lines:
        if line.item_id is not None and line.start < period.end and line.end > period.start:
            found.setdefault(line.item_id, []).append(line)
    return found
