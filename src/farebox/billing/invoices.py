"""What an account has used and will pay: from our ledger, from Stripe's preview, and the way to Stripe's portal."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from farebox.domain.accounts import (
    TERMINAL_STATUSES,
    Account,
    Subscription,
    SubscriptionItem,
    current_subscription,
)
from farebox.domain.catalog import AnyPrice, Price
from farebox.domain.periods import BillingPeriod
from farebox.domain.rating import amount_of, line_amount, part_of
from farebox.domain.usage import Period
from farebox.domain.words import price_in_words
from farebox.errors import CustomerMissing, SubscriptionMissing
from farebox.ports import Clock, Invoice, Provider, Store

__all__ = [
    "PROJECTION_SECONDS_MIN",
    "EarlierPart",
    "MeterCost",
    "UsageReport",
    "portal_url",
    "upcoming_invoice",
    "usage_report",
]

PROJECTION_SECONDS_MIN: Final = 3_600  # of a period, before anything can be said about the rest of it


@dataclass(frozen=True, slots=True)
class MeterCost:
    """One meter in the current period.

    `unit_amount` exact, None without a price or with another kind of it; `price` in words; `amount` rounded, in minor
    units.
    """

    meter: str
    quantity: int
    calls: int
    unit_amount: Decimal | None
    amount: int
    price: str = ""


@dataclass(frozen=True, slots=True)
class EarlierPart:
    """What was used in the running period before the plan was changed, at the prices of then."""

    plan: str
    period: Period
    meters: tuple[MeterCost, ...]


@dataclass(frozen=True, slots=True)
class UsageReport:
    """The current period as our ledger has it. Amounts in minor units.

    `base`: the fee for the whole interval, of both plans by time where it was changed. `minimum`: the least that the
    period comes to, not in `total`. `projected_total`: what it comes to if it goes on as so far; None: too
    early to say.
    """

    subscription: Subscription
    period: Period
    currency: str
    meters: tuple[MeterCost, ...]
    total: int
    base: int = 0
    minimum: int = 0
    earlier: tuple[EarlierPart, ...] = ()
    projected_total: int | None = None


def usage_report(store: Store, clock: Clock, account: Account, grace_seconds: int) -> UsageReport:
    """Quantities and cost so far. SubscriptionMissing when the account never had one."""
    subscription = _current(store.subscriptions(account.id), clock, grace_seconds)
    now = clock.now_at()
    period = _period_now(subscription, now)
    runs = subscription.period is not None and period.start < subscription.period.end
    before, current = _parts(store, account.id, subscription, period) if runs else ([], None)
    items = current.items if current is not None else subscription.items
    meters = _costs(store, account.id, period, items)
    earlier = tuple(
        EarlierPart(
            one.plan, Period(one.start, one.end), _costs(store, account.id, Period(one.start, one.end), one.items)
        )
        for one in before
    )
    base = _base([*before, current], period.end) if current is not None else 0
    fixed = base + sum(cost.amount for part in earlier for cost in part.meters)
    over = not runs and subscription.status in TERMINAL_STATUSES  # nothing more is owed
    minimum = 0 if earlier or over else max((item.minimum for item in items), default=0)
    currency = subscription.items[0].currency if subscription.items else ""
    return UsageReport(
        subscription,
        period,
        currency,
        meters,
        fixed + sum(m.amount for m in meters),
        base,
        minimum,
        earlier,
        _projection(meters, items, period, now, fixed, minimum) if runs else None,
    )


def _costs(store: Store, account_id: str, period: Period, items: tuple[SubscriptionItem, ...]) -> tuple[MeterCost, ...]:
    used = {line.meter: line for line in store.usage(account_id, period.start, period.end)}
    corrected = store.adjusted(account_id, period.start, period.end)
    prices: Mapping[str, AnyPrice] = {item.meter: item.price for item in items}
    currency = items[0].currency if items else ""
    meters = []
    for name in sorted(used.keys() | corrected.keys() | prices.keys()):
        quantity = (used[name].quantity if name in used else 0) + corrected.get(name, 0)
        price = prices.get(name)
        meters.append(
            MeterCost(
                meter=name,
                quantity=quantity,
                calls=used[name].calls if name in used else 0,
                unit_amount=price.unit_amount if isinstance(price, Price) else None,
                amount=amount_of(price, quantity) if price is not None else 0,
                price=price_in_words(price, currency) if price is not None else "",
            )
        )
    return tuple(meters)


def _parts(
    store: Store, account_id: str, subscription: Subscription, period: Period
) -> tuple[list[BillingPeriod], BillingPeriod | None]:
    """The parts of the running interval before the current one, and that: a change of plan cuts it. The items of all
    of them end when it ends."""
    ours = [p for p in store.periods(account_id) if p.subscription_id == subscription.id]
    of_interval = [p for p in ours if {item.period.end for item in p.items} == {period.end}]
    current = next((p for p in of_interval if p.start == period.start), None)
    return [p for p in of_interval if p.start < period.start], current


def _base(parts: list[BillingPeriod | None], end: int) -> int:
    """The base fees of an interval: that of its first part, and at each change the rest of one for the rest of another,
    as Stripe prorates them."""
    found = [part for part in parts if part is not None]
    start = found[0].start
    fees = [line_amount(1, part.base) if part.base is not None else 0 for part in found]
    total = fees[0]
    for before, after, part in zip(fees, fees[1:], found[1:], strict=False):
        total += part_of(after, end - part.start, end - start) - part_of(before, end - part.start, end - start)
    return total


def _projection(
    meters: tuple[MeterCost, ...],
    items: tuple[SubscriptionItem, ...],
    period: Period,
    now: int,
    fixed: int,
    minimum: int,
) -> int | None:
    elapsed, whole = now - period.start, period.end - period.start
    if elapsed < PROJECTION_SECONDS_MIN:
        return None
    prices = {item.meter: item.price for item in items}
    going_on = sum(amount_of(prices[m.meter], m.quantity * whole // elapsed) for m in meters if m.meter in prices)
    return max(fixed + going_on, minimum)


def upcoming_invoice(store: Store, provider: Provider, clock: Clock, account: Account, grace_seconds: int) -> Invoice:
    """Stripe's preview of the next invoice. It lags our ledger by what has not been reported yet."""
    return provider.preview_invoice(_current(store.subscriptions(account.id), clock, grace_seconds).id)


def portal_url(provider: Provider, account: Account, *, return_url: str) -> str:
    """A link to Stripe's billing portal for this customer, good for a short time."""
    if account.customer_id is None:
        raise CustomerMissing("This account has never been to checkout, so there is nothing to manage yet.")
    return provider.create_portal_session(account.customer_id, return_url=return_url)


def _current(subscriptions: tuple[Subscription, ...], clock: Clock, grace_seconds: int) -> Subscription:
    found = current_subscription(subscriptions, clock.now_at(), grace_seconds)
    if found is None:
        raise SubscriptionMissing("This account has no subscription.")
    return found


def _period_now(subscription: Subscription, now: int) -> Period:
    """The period that holds now. Past a known end, before the renewal is known: from that end on (L4)."""
    known = subscription.period
    if known is None:
        return Period(subscription.created_at, now + 1)
    return known if known.contains(now) or now < known.start else Period(known.end, now + 1)
