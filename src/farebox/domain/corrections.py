"""Corrections of usage (L11) and usage that comes too late for its invoice (L10)."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from farebox.domain.catalog import AnyPrice
from farebox.domain.periods import BillingPeriod
from farebox.domain.rating import amount_of, line_amount

__all__ = [
    "NO_METER",
    "REASON_CHARACTERS_MAX",
    "Adjustment",
    "LateItem",
    "late_amount",
    "late_description",
    "minimum_description",
    "minimum_due",
]

REASON_CHARACTERS_MAX: Final = 500
NO_METER: Final = ""  # of a late item: it fills up to the minimum


@dataclass(frozen=True, slots=True)
class Adjustment:
    """A signed correction, counted at `used_at`. `identifier` is that of its own meter event."""

    id: str
    account_id: str
    meter: str
    used_at: int
    quantity: int
    reason: str
    actor: str
    created_at: int
    identifier: str | None = None


@dataclass(frozen=True, slots=True)
class LateItem:
    """Usage of a period that its invoice does not have, billed as an invoice item. `amount` in minor units.

    With NO_METER it is what is missing to the period's minimum, or goes back of that. `invoice_item_id` is the
    provider's, None until it is known there.
    """

    id: str
    account_id: str
    meter: str
    period_start: int
    period_end: int
    quantity: int
    amount: int
    currency: str
    reason: str
    created_at: int
    invoice_item_id: str | None = None


def late_amount(billed: int, late: int, price: AnyPrice) -> int:
    """What `late` units cost on top of `billed` ones, so that both together cost what one invoice would have.

    Negative where more units cost less, as they may by volume.
    """
    return amount_of(price, billed + late) - amount_of(price, billed)


def minimum_due(period: BillingPeriod, used: Mapping[str, int]) -> int:
    """What is missing to the least that a whole period comes to, for what was used by meter. In minor units."""
    least = max((item.minimum for item in period.items), default=0)
    base = line_amount(1, period.base) if period.base is not None else 0
    return max(least - base - sum(amount_of(item.price, used.get(item.meter, 0)) for item in period.items), 0)


def late_description(title: str, quantity: int, start: int, end: int) -> str:
    """As it stands on the invoice: 3 × API calls of October 2026, reported late."""
    span = _span(start, end)
    return f"{quantity} × {title} of {span}, reported late"


def minimum_description(amount: int, start: int, end: int) -> str:
    """As it stands on the invoice: to the minimum of October 2026. Back, where late usage has reached it after all."""
    return f"{'To' if amount >= 0 else 'Back, of what was added to'} the minimum of {_span(start, end)}"


def _span(start: int, end: int) -> str:
    first, last = datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(end, UTC)
    whole_month = (first.day, first.hour, first.minute, first.second) == (1, 0, 0, 0) and (
        (last.day, last.month) == (1, first.month % 12 + 1) and end - start <= 31 * 86_400
    )
    return f"{first:%B %Y}" if whole_month else f"{first:%Y-%m-%d} to {last:%Y-%m-%d}"
