"""Corrections of usage (L11) and usage that comes too late for its invoice (L10)."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from farebox.domain.catalog import AnyPrice
from farebox.domain.periods import BillingPeriod
from farebox.domain.rating import amount_of, line_amount

__all__ = [
    "NEVER_AT",
    "NO_METER",
    "REASON_CHARACTERS_MAX",
    "Adjustment",
    "LateItem",
    "LateItemGroup",
    "LateItemState",
    "late_amount",
    "late_description",
    "minimum_description",
    "minimum_due",
]

REASON_CHARACTERS_MAX: Final = 500
NO_METER: Final = ""  # of a late item: it fills up to the minimum
NEVER_AT: Final = 1 << 40  # the next look at a late item that is settled: later than any time


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


class LateItemState(StrEnum):
    """Where a late item stands. Only an item on a final invoice is billed.

    NEW: Stripe is not known to have it. MOVING: it leaves a subscription that ended without invoicing it. PENDING: it
    waits at Stripe for an invoice. DRAFT: on an invoice that may still change. OPEN, PAID, UNCOLLECTIBLE, VOID: on a
    final invoice, in Stripe's words. DELETED: Stripe had it, and it is gone. REFUSED: Stripe refuses it or its last
    invoice; it is retried with back-off. FREE: it costs nothing and is not sent.
    """

    NEW = "new"
    MOVING = "moving"
    PENDING = "pending"
    DRAFT = "draft"
    OPEN = "open"
    PAID = "paid"
    UNCOLLECTIBLE = "uncollectible"
    VOID = "void"
    DELETED = "deleted"
    REFUSED = "refused"
    FREE = "free"

    @property
    def is_unbilled(self) -> bool:
        """Whether its units are on no final invoice yet, and are on their way to one."""
        return self in (LateItemState.NEW, LateItemState.MOVING, LateItemState.PENDING, LateItemState.DRAFT)


@dataclass(frozen=True, slots=True)
class LateItem:
    """Usage of a period that its invoice does not have, billed as an invoice item. `amount` in minor units.

    With NO_METER it is what is missing to the period's minimum, or goes back of that. `invoice_item_id` is the
    provider's, None until it is known there. `subscription_id` is the subscription whose period it is of,
    `attached_id` the one whose next invoice takes it along; without it the item gets a last invoice of its own.
    `failures` counts attempts since the last success; `error` is the last answer. A key's number goes up when the
    provider would replay a failure to the last Idempotency-Key. `lease_end` fences the process that works on the item.
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
    subscription_id: str = ""
    state: LateItemState = LateItemState.NEW
    state_since_at: int = 0
    attached_id: str | None = None
    invoice_id: str | None = None
    next_look_at: int = 0
    lease_end: int = 0
    failures: int = 0
    error: str = ""
    item_key_number: int = 0
    invoice_key_number: int = 0

    @property
    def waits_alone(self) -> bool:
        """Whether Stripe has it, and only a last invoice will take it along."""
        waits = self.state in (LateItemState.PENDING, LateItemState.REFUSED)
        return waits and self.invoice_item_id is not None and self.attached_id is None and self.invoice_id is None

    @property
    def item_key(self) -> str:
        """The Idempotency-Key that creates the invoice item."""
        return _numbered(f"farebox-{self.id}", self.item_key_number)

    @property
    def invoice_key(self) -> str:
        """The Idempotency-Key that creates the last invoice of this item and of those that wait with it."""
        return _numbered(f"farebox-final-{self.id}", self.invoice_key_number)


@dataclass(frozen=True, slots=True)
class LateItemGroup:
    """Late items of one state. `quantity` in units, of NO_METER in minor units; `since_at` of the oldest."""

    state: LateItemState
    quantity: int
    since_at: int
    count: int = 1


def _numbered(key: str, number: int) -> str:
    return f"{key}-{number}" if number else key


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
    """As it stands on the invoice: 3 × API calls, October 2026 (late usage)."""
    return f"{quantity} × {title}, {_span(start, end)} (late usage)"


def minimum_description(amount: int, start: int, end: int) -> str:
    """As it stands on the invoice. A credit where late usage has reached the minimum after all."""
    return f"{'Minimum charge' if amount >= 0 else 'Credit: minimum charge'}, {_span(start, end)}"


def _span(start: int, end: int) -> str:
    first, last = datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(end, UTC)
    whole_month = (first.day, first.hour, first.minute, first.second) == (1, 0, 0, 0) and (
        (last.day, last.month) == (1, first.month % 12 + 1) and end - start <= 31 * 86_400
    )
    return f"{first:%B %Y}" if whole_month else f"{first:%Y-%m-%d} to {last:%Y-%m-%d}"
