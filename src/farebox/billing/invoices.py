"""What an account has used and will pay: from our ledger, from Stripe's preview, and the way to Stripe's portal."""

from dataclasses import dataclass
from decimal import Decimal

from farebox.domain.accounts import Account, Subscription, current_subscription
from farebox.domain.rating import line_amount
from farebox.domain.usage import Period
from farebox.errors import CustomerMissing, SubscriptionMissing
from farebox.ports import Clock, Invoice, Provider, Store

__all__ = ["MeterCost", "UsageReport", "portal_url", "upcoming_invoice", "usage_report"]


@dataclass(frozen=True, slots=True)
class MeterCost:
    """One meter in the current period.

    `unit_amount` exact and `amount` rounded, both in minor units; None without a price.
    """

    meter: str
    quantity: int
    calls: int
    unit_amount: Decimal | None
    amount: int


@dataclass(frozen=True, slots=True)
class UsageReport:
    """The current period as our ledger has it."""

    subscription: Subscription
    period: Period
    currency: str
    meters: tuple[MeterCost, ...]
    total: int


def usage_report(store: Store, clock: Clock, account: Account, grace_seconds: int) -> UsageReport:
    """Quantities and cost so far. SubscriptionMissing when the account never had one."""
    subscription = _current(store.subscriptions(account.id), clock, grace_seconds)
    period = _period_now(subscription, clock.now_at())
    used = {line.meter: line for line in store.usage(account.id, period.start, period.end)}
    corrected = store.adjusted(account.id, period.start, period.end)
    prices = {item.meter: item.unit_amount for item in subscription.items}
    meters = []
    for name in sorted(used.keys() | corrected.keys() | prices.keys()):
        quantity = (used[name].quantity if name in used else 0) + corrected.get(name, 0)
        price = prices.get(name)
        amount = line_amount(quantity, price) if price is not None else 0
        meters.append(MeterCost(name, quantity, used[name].calls if name in used else 0, price, amount))
    currency = subscription.items[0].currency if subscription.items else ""
    return UsageReport(subscription, period, currency, tuple(meters), sum(m.amount for m in meters))


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
