"""A buyer's change of plan now is a purchase (I17): it happens only if it is paid, and nothing of it comes for free.

The running period closes and a whole new one begins, paid in full. Of the old base fee no more comes back than the
part of the included units that is left, and a minimum is owed whole for the period that the buyer cuts.
"""

from fractions import Fraction

from farebox.domain.accounts import Account, Subscription
from farebox.domain.catalog import Plan, TieredPrice
from farebox.domain.periods import BillingPeriod
from farebox.domain.rating import amount_of, included_left, line_amount
from farebox.errors import PaymentRequired
from farebox.ports import Clock, Offer, Provider, Store

__all__ = ["buy_change", "require_payment_method"]


def require_payment_method(provider: Provider, subscription: Subscription, plan: Plan) -> None:
    """PaymentRequired when a checkout of the plan would ask for a card, and the subscription has nothing to charge."""
    due_today = bool(plan.base or plan.setup_fee)
    if not (due_today or (plan.card_required and _costs(plan))):
        return
    if not provider.has_payment_method(subscription.id):
        raise PaymentRequired(
            f"Plan {plan.name} costs something, and this account has no payment method. Add one in the billing portal, "
            "then ask again. Nothing was changed.",
            pay_at="pay",
        )


def buy_change(
    store: Store, provider: Provider, clock: Clock, account: Account, subscription: Subscription, offer: Offer
) -> None:
    """Have the provider change the plan now and charge for it at once. The account's usage must be settled.

    PaymentRequired: it was not paid and nothing has changed, but a change that was planned before is given up.
    """
    period = _running(store, account, subscription, clock.now_at())
    extra = _extra_amounts(store, provider, clock, subscription, period) if period is not None else ()
    provider.buy_subscription_change(subscription.id, offer, extra_amounts=extra)


def _costs(plan: Plan) -> bool:
    """Whether any usage of the plan costs something."""
    for price in plan.prices:
        if isinstance(price, TieredPrice):
            if any(tier.unit_amount or tier.flat_amount for tier in price.tiers):
                return True
        elif price.unit_amount:
            return True
    return False


def _running(store: Store, account: Account, subscription: Subscription, now: int) -> BillingPeriod | None:
    """The subscription's period that the change cuts. None in a trial, which owes nothing and gives nothing back."""
    ours = [p for p in store.periods(account.id) if p.subscription_id == subscription.id and p.start <= now < p.end]
    latest = max(ours, key=lambda period: period.start, default=None)
    return None if latest is None or latest.trial else latest


def _extra_amounts(
    store: Store, provider: Provider, clock: Clock, subscription: Subscription, period: BillingPeriod
) -> tuple[int, ...]:
    """What the buyer owes for the period that is cut, on top of its usage and less the unused time, in minor units:
    included units that were used, and what is missing to the minimum."""
    base = line_amount(1, period.base) if period.base is not None else 0
    least = max((item.minimum for item in period.items), default=0)
    if not base and not least:
        return ()
    used = {line.meter: line.quantity for line in store.usage(period.account_id, period.start, period.end)}
    for meter, quantity in store.adjusted(period.account_id, period.start, period.end).items():
        used[meter] = used.get(meter, 0) + quantity
    credit = provider.unused_base(subscription.id) if base else 0
    kept = _kept(period, used, credit, clock.now_at())
    usage = sum(amount_of(item.price, used.get(item.meter, 0)) for item in period.items)
    missing = least - usage - (base - credit + kept)
    return tuple(amount for amount in (kept, missing) if amount > 0)


def _kept(period: BillingPeriod, used: dict[str, int], credit: int, now: int) -> int:
    """How much of the credit for unused time is owed all the same, because more of the included units was used."""
    units_left = min((included_left(item.price, used.get(item.meter, 0)) for item in period.items), default=Fraction(1))
    seconds = max(item.period.end for item in period.items) - period.start
    time_left = Fraction(period.end - now, seconds)
    if units_left >= time_left:
        return 0
    paid, whole = units_left.numerator * time_left.denominator, units_left.denominator * time_left.numerator
    return credit - credit * paid // whole
