"""The one gate: from facts to a Grant or a Refusal. Pure, so that every caller decides alike."""

from dataclasses import dataclass

from farebox.domain.accounts import Account, Subscription, boundaries_of, current_subscription, is_entitled
from farebox.domain.keys import ApiKey
from farebox.errors import (
    AccessRefused,
    AccountSettling,
    KeyExpired,
    KeyRevoked,
    SubscriptionInactive,
    SubscriptionMissing,
)

__all__ = ["Facts", "Grant", "Refusal", "decide", "identify"]

Refusal = AccessRefused


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a decision needs about one key: read in one go, cached, dropped when the feed names the account."""

    key: ApiKey
    account: Account
    subscriptions: tuple[Subscription, ...] = ()
    held_until: int | None = None  # while the account's usage is settled (L12)


@dataclass(frozen=True, slots=True)
class Grant:
    """Leave to call. `boundaries` split the buckets of what will be used; `started_at` begins the current period."""

    account: Account
    key_id: str
    subscription: Subscription
    boundaries: tuple[int, ...]
    started_at: int = 0


def identify(facts: Facts, now: int) -> Refusal | None:
    """Whether the key itself is good, whatever the subscription: enough for a buyer's own pages."""
    if facts.key.revoked_at is not None:
        return KeyRevoked("This API key has been revoked. Create a new one or use another.")
    if facts.key.expires_at is not None and now >= facts.key.expires_at:
        return KeyExpired("This API key was rotated and its overlap has ended. Use the new key.")
    return None


def decide(facts: Facts, now: int, grace_seconds: int) -> Grant | Refusal:
    """Grant when the key is good and a subscription entitles its account at `now`; otherwise the reason."""
    refusal = identify(facts, now)
    if refusal is not None:
        return refusal
    if facts.held_until is not None and now < facts.held_until:
        return AccountSettling("The subscription is being changed. Try again in a few seconds.")
    subscription = current_subscription(facts.subscriptions, now, grace_seconds)
    if subscription is None:
        return SubscriptionMissing("This account has no subscription. Subscribe to use the API.")
    if not is_entitled(subscription, now, grace_seconds):
        status = subscription.status.replace("_", " ")
        return SubscriptionInactive(f"The subscription is {status}. Renew it or update the payment method.")
    # Only a clock that is behind Stripe's sees a period that has not begun.
    started_at = min((item.period.start for item in subscription.items), default=0)
    return Grant(facts.account, facts.key.id, subscription, boundaries_of(facts.subscriptions), started_at)
