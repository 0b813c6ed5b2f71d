"""Billing periods as they were sold: when, at which prices, and whether their invoice is final."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

from farebox.domain.accounts import TERMINAL_STATUSES, Subscription, SubscriptionItem
from farebox.domain.rating import free

__all__ = ["BillingPeriod", "periods_of"]

_NEVER_BEGAN: Final = frozenset({"incomplete", "incomplete_expired"})


@dataclass(frozen=True, slots=True)
class BillingPeriod:
    """A half-open period [start, end) of one subscription, with the items and prices that it had.

    `finalized_at` is when its invoice became final: from then on no meter event can be billed in it. `base`: the fee of
    a whole interval, exact, in minor units; None: there is none.
    """

    account_id: str
    subscription_id: str
    start: int
    end: int
    items: tuple[SubscriptionItem, ...]
    invoice_id: str | None = None
    finalized_at: int | None = None
    plan: str = ""
    base: Decimal | None = None

    def item_of(self, meter: str) -> SubscriptionItem | None:
        return next((item for item in self.items if item.meter == meter), None)


def periods_of(
    account_id: str, subscriptions: Iterable[Subscription], known: Iterable[BillingPeriod]
) -> list[BillingPeriod]:
    """The known periods and those of the subscriptions, in order of time; what is used in a trial costs nothing.

    A period that another one cuts into ends there, so that each second belongs to one; so does that of a subscription
    which was seen to have ended. A final one stays as it is.
    """
    found = {(period.start, period.subscription_id): period for period in known}
    for subscription in subscriptions:
        if subscription.status in _NEVER_BEGAN:
            continue
        for start, end in {(item.period.start, item.period.end) for item in subscription.items}:
            key = (start, subscription.id)
            before = found.get(key)
            if before is None or before.finalized_at is None:
                items = tuple(item for item in subscription.items if item.period.start == start)
                base = subscription.base
                if subscription.status == "trialing":
                    items = tuple(replace(item, price=free(item.price), minimum=0) for item in items)
                    base = None
                over_at = subscription.status_since_at if subscription.status in TERMINAL_STATUSES else end
                over_at = max(min(end, over_at), start + 1)
                found[key] = BillingPeriod(
                    account_id, subscription.id, start, over_at, items, plan=subscription.plan, base=base
                )
    ordered = [found[key] for key in sorted(found)]
    return [
        replace(period, end=min([period.end, *(later.start for later in ordered if later.start > period.start)]))
        for period in ordered
    ]
