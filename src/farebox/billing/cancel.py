"""End a subscription at Stripe, which bills only what was reported: to end it at once, settle the usage first (L12)."""

from farebox.billing.inbox import refresh_account
from farebox.domain.accounts import TERMINAL_STATUSES, Account, Subscription
from farebox.errors import ProviderUnavailable, SubscriptionMissing
from farebox.ports import Clock, Provider, Store

__all__ = ["cancel_subscriptions", "require_running"]


def require_running(store: Store, provider: Provider, clock: Clock, account: Account) -> tuple[Subscription, ...]:
    """The account's subscriptions that have not ended, asked of Stripe anew. SubscriptionMissing when there is none."""
    running = _running(refresh_account(store, provider, clock, account))
    if not running:
        raise SubscriptionMissing(f"{account.id} has no subscription that could be cancelled.")
    return running


def cancel_subscriptions(
    store: Store, provider: Provider, clock: Clock, account: Account, *, at_period_end: bool
) -> tuple[Subscription, ...]:
    """Cancel what runs, and return the account's subscriptions as Stripe has them then. ProviderError.

    A lost answer is looked up: what Stripe says afterwards counts.
    """
    for subscription in require_running(store, provider, clock, account):
        try:
            provider.cancel_subscription(subscription.id, at_period_end=at_period_end)
        except ProviderUnavailable:
            for after in _running(refresh_account(store, provider, clock, account)):
                if after.id == subscription.id and not (at_period_end and after.cancel_at_period_end):
                    raise
    return refresh_account(store, provider, clock, account)


def _running(subscriptions: tuple[Subscription, ...]) -> tuple[Subscription, ...]:
    return tuple(s for s in subscriptions if s.status not in TERMINAL_STATUSES)
