"""Buyers and their subscriptions, and what a subscription's state means for access.

Facts come from Stripe, refetched (L17).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Final

from farebox.domain.catalog import AnyPrice
from farebox.domain.usage import Period

__all__ = [
    "BILLING_STATUSES",
    "TERMINAL_STATUSES",
    "Account",
    "Checkout",
    "Subscription",
    "SubscriptionItem",
    "boundaries_of",
    "current_subscription",
    "double_subscriptions",
    "entitlement_end",
    "is_entitled",
    "with_status_times",
]

TERMINAL_STATUSES: Final = frozenset({"canceled", "incomplete_expired"})
_ALLOWED: Final = frozenset({"active", "trialing", "past_due"})
BILLING_STATUSES: Final = _ALLOWED | {"unpaid"}  # Stripe makes invoices of these


@dataclass(frozen=True, slots=True)
class Account:
    """A buyer. `reference` is what the checkout request said about itself: useful, never proof of who somebody is."""

    id: str
    created_at: int
    email: str = ""
    reference: str = ""
    customer_id: str | None = None


@dataclass(frozen=True, slots=True)
class SubscriptionItem:
    """One metered price of a subscription, for the part of its current period in which it has been there.

    `minimum`: the least that base and usage of a whole period come to, in minor units; each item of a plan has it.
    `interval_start`: when the running interval began, as Stripe shows it; later items begin after it. 0: not known.
    """

    id: str
    price_id: str
    price: AnyPrice
    currency: str
    period: Period
    minimum: int = 0
    interval_start: int = field(default=0, compare=False)

    @property
    def meter(self) -> str:
        return self.price.meter


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription as Stripe last described it.

    `status` is Stripe's own word; `status_since_at` is when we first saw it. `base`: the fee for each interval, exact,
    in minor units. `next_plan`: what it changes to at its period's end. `ended_at`, `cancel_at` and `trial_end` are
    Stripe's own times: when it ended, when it will end, and when its trial ends or ended.
    """

    id: str
    customer_id: str
    plan: str
    status: str
    created_at: int
    items: tuple[SubscriptionItem, ...] = ()
    cancel_at_period_end: bool = False
    collection_paused: bool = False
    status_since_at: int = 0
    base: Decimal | None = None
    next_plan: str = ""
    ended_at: int | None = None
    cancel_at: int | None = None
    trial_end: int | None = None

    @property
    def period(self) -> Period | None:
        """The span of the items' current periods, or None without items."""
        if not self.items:
            return None
        return Period(min(i.period.start for i in self.items), max(i.period.end for i in self.items))


@dataclass(frozen=True, slots=True)
class Checkout:
    """A checkout that we began: which account it will pay for, and whether its key has been claimed."""

    session_id: str
    account_id: str
    plan: str
    created_at: int
    status: str = "open"  # open, complete, expired: Stripe's words
    claimed_at: int | None = None
    key_id: str | None = None


def is_entitled(subscription: Subscription, now: int, grace_seconds: int) -> bool:
    """Whether the subscription gives access at `now`. An unknown status refuses."""
    end = entitlement_end(subscription, grace_seconds)
    return (end is None or now < end) and subscription.status in _ALLOWED


def entitlement_end(subscription: Subscription, grace_seconds: int) -> int | None:
    """When the subscription ends to give access by itself, with nothing more heard of it; None: never."""
    period = subscription.period
    ends = [period.end] if subscription.cancel_at_period_end and period is not None else []
    if subscription.cancel_at is not None:
        ends.append(subscription.cancel_at)
    if subscription.status == "past_due":
        ends.append(subscription.status_since_at + grace_seconds)
    return min(ends, default=None)


def current_subscription(subscriptions: Iterable[Subscription], now: int, grace_seconds: int) -> Subscription | None:
    """The subscription that speaks for the account: an entitled one before any other, then the newest."""
    return max(
        subscriptions,
        key=lambda s: (is_entitled(s, now, grace_seconds), s.status not in TERMINAL_STATUSES, s.created_at, s.id),
        default=None,
    )


def double_subscriptions(subscriptions: Iterable[Subscription]) -> dict[str, tuple[str, ...]]:
    """Meters that more than one living subscription bills, with the subscriptions' ids: each call is billed twice."""
    by_meter: dict[str, set[str]] = {}
    for subscription in subscriptions:
        if subscription.status in BILLING_STATUSES:
            for item in subscription.items:
                by_meter.setdefault(item.meter, set()).add(subscription.id)
    return {meter: tuple(sorted(ids)) for meter, ids in sorted(by_meter.items()) if len(ids) > 1}


def boundaries_of(subscriptions: Iterable[Subscription]) -> tuple[int, ...]:
    """Every known period start and end, sorted: where buckets are split, even before the renewal webhook comes."""
    edges = {edge for s in subscriptions for i in s.items for edge in (i.period.start, i.period.end)}
    return tuple(sorted(edges))


def with_status_times(old: Iterable[Subscription], new: Iterable[Subscription], now: int) -> tuple[Subscription, ...]:
    """Give each newly fetched subscription the time since which we have seen its status."""
    seen = {s.id: s for s in old}

    def since(subscription: Subscription) -> int:
        before = seen.get(subscription.id)
        return before.status_since_at if before is not None and before.status == subscription.status else now

    return tuple(replace(s, status_since_at=since(s)) for s in sorted(new, key=lambda s: s.id))
