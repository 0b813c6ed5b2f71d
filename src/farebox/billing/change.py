"""Change the plan of a subscription: at its period's end, or now, once the usage of before is settled (L12)."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

import structlog

from farebox.billing.checkout import chosen_offer, offer_of
from farebox.billing.inbox import refresh_account
from farebox.billing.purchase import buy_change, require_payment_method
from farebox.billing.terms import terms_for
from farebox.domain.accounts import TERMINAL_STATUSES, Account, Subscription, current_subscription
from farebox.domain.catalog import Catalog
from farebox.domain.changes import RankedPlan, is_upgrade, refusal_of
from farebox.errors import ChangeRefused, FareboxError, PaymentRequired, ProviderError, SubscriptionMissing
from farebox.ports import Clock, Offer, Provider, Store

__all__ = ["Settle", "change_plan", "drop_change", "outdated", "subscription_of"]


_log = structlog.get_logger("farebox.change")


class Settle(Protocol):
    """Runs a change when no usage of the account is left unbilled."""

    def __call__(self, account: Account, change: Callable[[], Subscription], /) -> Subscription: ...


def change_plan(
    store: Store,
    provider: Provider,
    clock: Clock,
    catalog: Catalog,
    account: Account,
    plan_name: str,
    *,
    settle: Settle | None = None,
    overrule: Callable[[str], None] | None = None,
) -> Subscription:
    """Change the account's plan at the end of its period, or now with `settle`. The subscription as Stripe has it then.

    Buyers are bound by the catalog's rules for changes, need a payment method, and pay for a change now at once. An
    operator's change is billed with the period's invoice; `overrule` is told before it what a buyer would be refused
    with, or "", and no set-up fee is asked. A change that was planned before is given up for this one.

    PlanUnknown, InputInvalid, SubscriptionMissing, ChangeRefused in words, ProviderError; SettlementMissed and
    PaymentRequired: as before.
    """
    subscription = _running(store, provider, clock, account)
    offer = offer_of(provider, chosen_offer(catalog, plan_name, subscription.items[0].currency))
    interval = provider.interval_of(subscription.items[0].price_id)
    _check(subscription, offer, interval, now=settle is not None)
    refusal = _refusal(catalog, subscription, offer, interval, now=settle is not None)
    if overrule is not None:
        overrule(refusal)
        offer = replace(offer, setup_id=None)
    else:
        offer = _for_buyer(store, provider, account, subscription, offer, refusal)
    if settle is None:
        provider.plan_subscription_change(subscription.id, offer)
        return _again(store, provider, clock, account, subscription)

    def change() -> Subscription:
        try:
            if overrule is not None:
                provider.change_subscription(subscription.id, offer)
            else:
                buy_change(store, provider, clock, account, subscription, offer)
        except (PaymentRequired, ProviderError):  # what Stripe says now counts: the answer may have been lost
            after = _again(store, provider, clock, account, subscription)
            if not _has(after, offer):
                _plan_again(store, provider, catalog, account, subscription, after)
                raise
            return after
        return _again(store, provider, clock, account, subscription)

    return settle(account, change)


def subscription_of(store: Store, clock: Clock, account: Account, grace_seconds: int) -> Subscription:
    """The subscription that speaks for the account, from the ledger. SubscriptionMissing when it never had one."""
    found = current_subscription(store.subscriptions(account.id), clock.now_at(), grace_seconds)
    if found is None:
        raise SubscriptionMissing("This account has no subscription.")
    return found


def drop_change(store: Store, provider: Provider, clock: Clock, account: Account) -> Subscription:
    """Give up a planned change of plan. ChangeRefused when none is planned."""
    subscription = _running(store, provider, clock, account)
    if not subscription.next_plan:
        raise ChangeRefused("No change of plan is coming up.")
    provider.drop_subscription_change(subscription.id)
    return _again(store, provider, clock, account, subscription)


def outdated(provider: Provider, catalog: Catalog, subscriptions: Iterable[Subscription]) -> list[Subscription]:
    """Running subscriptions to plans of the catalog whose prices are not the newest. None that ends, or changes."""
    found, offers = [], dict[tuple[str, str], Offer | None]()
    for one in subscriptions:
        if one.status in TERMINAL_STATUSES or one.cancel_at_period_end or one.next_plan:
            continue
        key = (one.plan, one.items[0].currency)
        if key not in offers:
            plan = catalog.plans.get(one.plan)
            offered = plan.offer_in(key[1]) if plan is not None else None
            offers[key] = offer_of(provider, offered) if offered is not None else None
        offer = offers[key]
        if offer is not None and not _has(one, offer):
            found.append(one)
    return found


def _running(store: Store, provider: Provider, clock: Clock, account: Account) -> Subscription:
    running = [s for s in refresh_account(store, provider, clock, account) if s.status not in TERMINAL_STATUSES]
    if not running:
        raise SubscriptionMissing("This account has no subscription to change. Subscribe to a plan instead.")
    return max(running, key=lambda s: (s.created_at, s.id))


def _again(
    store: Store, provider: Provider, clock: Clock, account: Account, subscription: Subscription
) -> Subscription:
    found = refresh_account(store, provider, clock, account)
    return next(s for s in found if s.id == subscription.id)


def _for_buyer(
    store: Store, provider: Provider, account: Account, subscription: Subscription, offer: Offer, refusal: str
) -> Offer:
    """What the buyer gets of the offer. ChangeRefused, PaymentRequired."""
    if refusal:
        raise ChangeRefused(refusal)
    require_payment_method(provider, subscription, offer.plan)
    return terms_for(store, account, offer)


def _plan_again(
    store: Store,
    provider: Provider,
    catalog: Catalog,
    account: Account,
    before: Subscription,
    after: Subscription,
) -> None:
    """Plan the change anew that was given up for one that did not happen."""
    if not before.next_plan or after.next_plan:
        return
    try:
        planned = chosen_offer(catalog, before.next_plan, before.items[0].currency)
        provider.plan_subscription_change(before.id, terms_for(store, account, offer_of(provider, planned)))
    except FareboxError as error:
        _log.error("planned_change_lost", account=account.id, plan=before.next_plan, reason=str(error))


def _refusal(catalog: Catalog, subscription: Subscription, offer: Offer, interval: str, *, now: bool) -> str:
    """Why the seller does not let buyers make this change at this time, or ""."""
    plan = offer.plan
    current = RankedPlan(subscription.plan, subscription.base, interval)
    upgrade = is_upgrade(catalog.changes, current, RankedPlan(plan.name, plan.base, plan.interval))
    return refusal_of(catalog.changes, plan.name, "now" if now else "period_end", upgrade=upgrade)


def _check(subscription: Subscription, offer: Offer, interval: str, *, now: bool) -> None:
    if subscription.cancel_at_period_end:
        raise ChangeRefused("This subscription ends with its period. Let it go on first, in the billing portal.")
    if _has(subscription, offer):
        raise ChangeRefused(f"The subscription has plan {offer.plan.name} already, in its newest version.")
    if not now:
        return
    if subscription.status not in ("active", "trialing"):
        raise ChangeRefused(
            f"The subscription is {subscription.status}. Pay what is open first, in the billing portal."
        )
    if interval != offer.plan.interval:
        said = f"Plan {offer.plan.name} is billed by the {offer.plan.interval} and not by the {interval}"
        raise ChangeRefused(f"{said}: change to it when the period ends.")


def _has(subscription: Subscription, offer: Offer) -> bool:
    """Whether the subscription has the plan, at the very prices of the offer."""
    metered = {id for id, is_metered in offer.recurring_ids if is_metered}
    same = {item.price_id for item in subscription.items} == metered and subscription.base == offer.plan.base
    return same and subscription.plan == offer.plan.name
