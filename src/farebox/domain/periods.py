"""Billing periods as they were sold: when, at which prices, and whether their invoice is final."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

from farebox.domain.accounts import TERMINAL_STATUSES, Subscription, SubscriptionItem
from farebox.domain.rating import amount_of, free
from farebox.domain.usage import Period

__all__ = [
    "CLOCKS_APART_SECONDS",
    "FINAL_AFTER_SECONDS",
    "SAME_START_SECONDS",
    "BillingPeriod",
    "periods_of",
    "with_known_starts",
]

FINAL_AFTER_SECONDS: Final = 2 * 3_600
SAME_START_SECONDS: Final = 2
CLOCKS_APART_SECONDS: Final = 300
_NEVER_BEGAN: Final = frozenset({"incomplete", "incomplete_expired"})


@dataclass(frozen=True, slots=True)
class BillingPeriod:
    """A half-open period [start, end) of one subscription, with the items and prices that it had.

    `finalized_at` is when its invoice became final: from then on no meter event can be billed in it. `invoice_id` is
    then None when no invoice covers it. `base`: the fee of a whole interval, exact, in minor units; None: there is
    none. `trial`: what is used in it costs nothing, however the subscription goes on. An item whose own period starts
    later than this one counts from then on.
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
    trial: bool = False

    def item_of(self, meter: str) -> SubscriptionItem | None:
        return next((item for item in self.items if item.meter == meter), None)

    def owes(self, meter: str, quantity: int) -> bool:
        """Whether so many units of the meter cost anything, or a minimum is due for the whole period."""
        item = self.item_of(meter)
        if item is None or self.trial:
            return False
        return amount_of(item.price, quantity) > 0 or (item.minimum > 0 and item.period.end == self.end)


def with_known_starts(subscription: Subscription, known: Iterable[BillingPeriod]) -> Subscription:
    """The subscription with each item from where its period starts in the ledger.

    An item that is known keeps its start. One that Stripe made some time after the last period of the same
    subscription had ended starts at that end, so that no second lies between. Items made within a second or two of
    each other start together.
    """
    ours = [period for period in known if period.subscription_id == subscription.id]
    starts = {(item.id, item.period.end): item.period.start for period in ours for item in period.items}
    latest = max((period.end for period in ours), default=0)
    placed = []
    for item in subscription.items:
        start = starts.get((item.id, item.period.end))
        if start is None:
            near = abs(item.interval_start - latest) <= SAME_START_SECONDS
            follows = item.interval_start > 0 and near and item.period.start > latest
            start = latest if follows else item.period.start
        placed.append(replace(item, period=Period(start, item.period.end)))
    first = {end: min(i.period.start for i in placed if i.period.end == end) for end in {i.period.end for i in placed}}

    def together(item: SubscriptionItem) -> SubscriptionItem:
        begins = first[item.period.end]
        near = item.period.start - begins <= SAME_START_SECONDS
        return replace(item, period=Period(begins, item.period.end)) if near else item

    return replace(subscription, items=tuple(map(together, placed)))


def periods_of(
    account_id: str, subscriptions: Iterable[Subscription], known: Iterable[BillingPeriod]
) -> list[BillingPeriod]:
    """The known periods and those of the subscriptions, in order of time; what is used in a trial costs nothing.

    A period that another one cuts into ends there, so that each second belongs to one; so does that of a subscription
    which has ended. A final one stays as it is. Expects subscriptions `with_known_starts`.
    """
    found = {(period.start, period.subscription_id): period for period in known}
    for subscription in subscriptions:
        if subscription.status in _NEVER_BEGAN:
            continue
        for interval_end in sorted({item.period.end for item in subscription.items}):
            items = tuple(item for item in subscription.items if item.period.end == interval_end)
            key = (_start_of(items, subscription.id, found.values()), subscription.id)
            before, over_at = found.get(key), _end_of(subscription, interval_end)
            ended_at = over_at if subscription.ended_at is None else subscription.ended_at
            if before is None and min(over_at, ended_at) <= key[0]:
                continue  # it had ended before this began
            if before is None or before.finalized_at is None:
                period = BillingPeriod(account_id, subscription.id, key[0], max(over_at, key[0] + 1), items)
                found[key] = _as_sold(period, subscription, before)
    ordered = [found[key] for key in sorted(found)]
    return [
        replace(period, end=min([period.end, *(later.start for later in ordered if later.start > period.start)]))
        for period in ordered
    ]


def _start_of(items: tuple[SubscriptionItem, ...], subscription_id: str, known: Iterable[BillingPeriod]) -> int:
    """Where the period of these items starts: where one of them is known to run, else with the first of them."""
    names = {(item.id, item.period.end) for item in items}
    running = (
        period.start
        for period in known
        if period.subscription_id == subscription_id and names & {(item.id, item.period.end) for item in period.items}
    )
    return min(running, default=min(item.period.start for item in items))


def _end_of(subscription: Subscription, interval_end: int) -> int:
    """When the subscription's running period ends: with its interval, unless the subscription ended before.

    Calls are answered until our side learns of such an end, so the period goes on until then; it never becomes a whole
    one by that.
    """
    if subscription.status not in TERMINAL_STATUSES:
        return interval_end
    ended_at = subscription.ended_at
    if ended_at is None:  # Stripe did not say when
        with_interval = interval_end - subscription.status_since_at <= CLOCKS_APART_SECONDS
        as_planned = subscription.cancel_at_period_end and with_interval
        return interval_end if as_planned else min(interval_end, subscription.status_since_at)
    if ended_at >= interval_end:
        return interval_end
    return min(max(ended_at, subscription.status_since_at), interval_end - 1)


def _as_sold(period: BillingPeriod, subscription: Subscription, before: BillingPeriod | None) -> BillingPeriod:
    """The period with the plan, prices and fee of the subscription; free if it lies in a trial."""
    if subscription.trial_end is not None:
        trial = period.start < subscription.trial_end
    else:
        trial = subscription.status == "trialing" or (before is not None and before.trial)
    if not trial:
        return replace(period, plan=subscription.plan, base=subscription.base)
    items = tuple(replace(item, price=free(item.price), minimum=0) for item in period.items)
    return replace(period, items=items, plan=subscription.plan, trial=True)
