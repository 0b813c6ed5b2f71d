"""The one gate: from facts to a Grant or a Refusal. Pure, so that every caller decides alike."""

from dataclasses import dataclass
from typing import Final

from farebox.domain.accounts import (
    TERMINAL_STATUSES,
    Account,
    Subscription,
    boundaries_of,
    current_subscription,
    entitlement_end,
    is_entitled,
)
from farebox.domain.usage import BUCKET_SECONDS, bucket_start
from farebox.errors import (
    AccessRefused,
    AccountSettling,
    KeyExpired,
    KeyRevoked,
    SubscriptionInactive,
    SubscriptionMissing,
)

__all__ = ["FOREVER_AT", "Facts", "Grant", "Refusal", "Standing", "decide", "decide_standing", "identify"]

FOREVER_AT: Final = 1 << 62
Refusal = AccessRefused


@dataclass(frozen=True, slots=True)
class Standing:
    """What a decision needs about an account: the same for all of its keys."""

    account: Account
    subscriptions: tuple[Subscription, ...] = ()
    held_until: int | None = None  # while the account's usage is settled (L12)


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a decision needs about one key: read in one go, cached, dropped when the feed names the account."""

    key_id: str
    standing: Standing
    expires_at: int | None = None
    revoked_at: int | None = None

    @property
    def account(self) -> Account:
        return self.standing.account


class Grant:
    """Leave to call for an account's good keys, until `until_at`.

    `boundaries` split the buckets of what will be used; `started_at` begins the current period.
    """

    __slots__ = ("_bucket", "account", "boundaries", "meters", "started_at", "subscription", "until_at")

    def __init__(
        self,
        account: Account,
        subscription: Subscription,
        boundaries: tuple[int, ...] = (),
        started_at: int = 0,
        until_at: int = FOREVER_AT,
    ) -> None:
        self.account = account
        self.subscription = subscription
        self.boundaries = boundaries
        self.meters = frozenset(item.meter for item in subscription.items)  # what the subscription has a price for
        self.started_at = started_at
        self.until_at = until_at
        self._bucket = (0, 0)

    def bucket(self, at: int) -> int:
        """Start of the bucket that holds what is used at `at`."""
        start, until = self._bucket
        if not start <= at < until:
            start = bucket_start(at, self.boundaries)
            until = min([start - start % BUCKET_SECONDS + BUCKET_SECONDS, *(b for b in self.boundaries if b > at)])
            self._bucket = (start, until)
        return start


def identify(facts: Facts, now: int) -> Refusal | None:
    """Whether the key itself is good, whatever the subscription: enough for a buyer's own pages."""
    if facts.revoked_at is not None:
        return KeyRevoked("This API key has been revoked. Create a new one or use another.")
    if facts.expires_at is not None and now >= facts.expires_at:
        return KeyExpired("This API key was rotated and its overlap has ended. Use the new key.")
    return None


def decide(facts: Facts, now: int, grace_seconds: int) -> Grant | Refusal:
    """Grant when the key is good and a subscription entitles its account at `now`; otherwise the reason."""
    return identify(facts, now) or decide_standing(facts.standing, now, grace_seconds)


def decide_standing(standing: Standing, now: int, grace_seconds: int) -> Grant | Refusal:
    """Grant when a subscription entitles the account at `now`; otherwise the reason."""
    if standing.held_until is not None and now < standing.held_until:
        return AccountSettling("The subscription is being changed. Try again in a few seconds.")
    subscriptions = standing.subscriptions
    subscription = current_subscription(subscriptions, now, grace_seconds)
    if subscription is None:
        return SubscriptionMissing("This account has no subscription. Subscribe to use the API.")
    if not is_entitled(subscription, now, grace_seconds):
        status = subscription.status.replace("_", " ")
        if subscription.status in TERMINAL_STATUSES:
            return SubscriptionInactive(f"The subscription is {status}. Subscribe to a plan to use the API.")
        how = "Pay the open invoice or update the payment method."
        return SubscriptionInactive(f"The subscription is {status}. {how}", pay_at="pay")
    # Only a clock that is behind Stripe's sees a period that has not begun.
    started_at = min((item.period.start for item in subscription.items), default=0)
    ends = [end for s in subscriptions if (end := entitlement_end(s, grace_seconds)) is not None and end > now]
    return Grant(
        standing.account, subscription, boundaries_of(subscriptions), started_at, min(ends, default=FOREVER_AT)
    )
