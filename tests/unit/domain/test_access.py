"""The one gate: facts in, leave or a reason out, nothing else read and nothing changed."""

from dataclasses import replace

import pytest

from farebox.domain.access import FOREVER_AT, Facts, Grant, Standing, decide, identify
from farebox.domain.accounts import Account, Subscription
from farebox.errors import AccessRefused, KeyExpired, KeyRevoked, SubscriptionInactive, SubscriptionMissing

NOW = 1_800_000_000
GRACE = 86_400
PAID = Subscription("sub_1", "cus_1", "payg", "active", NOW - 5)


def facts(*subscriptions: Subscription, **key: int | None) -> Facts:
    return Facts("key_1", Standing(Account("acct_1", NOW - 9), subscriptions), **key)


def test_a_grant() -> None:
    """A good key with a paid subscription is let in, and the grant says whose call it is."""
    granted = decide(facts(PAID), NOW, GRACE)
    assert isinstance(granted, Grant)
    assert (granted.account.id, granted.subscription, granted.boundaries) == ("acct_1", PAID, ())
    assert granted.until_at == FOREVER_AT


@pytest.mark.parametrize(
    ("found", "refusal", "status"),
    [
        (facts(PAID, revoked_at=NOW - 1), KeyRevoked, 401),
        (facts(PAID, revoked_at=NOW + 1), KeyRevoked, 401),  # sticky, whatever a clock says
        (facts(PAID, expires_at=NOW), KeyExpired, 401),
        (facts(revoked_at=NOW - 1), KeyRevoked, 401),
        (facts(PAID, revoked_at=NOW, expires_at=NOW), KeyRevoked, 401),
        (facts(), SubscriptionMissing, 402),
        (facts(replace(PAID, status="canceled")), SubscriptionInactive, 402),
        (facts(replace(PAID, status="past_due", status_since_at=NOW - GRACE)), SubscriptionInactive, 402),
    ],
)
def test_refusals(found: Facts, refusal: type[AccessRefused], status: int) -> None:
    """The key is judged before the subscription: 401 for the one, 402 for the other, each in words."""
    refused = decide(found, NOW, GRACE)
    assert type(refused) is refusal
    assert refused.status == status
    assert refused.detail


def test_the_overlap_of_a_rotation() -> None:
    """A rotated key works until its overlap ends, to the second."""
    rotated = facts(PAID, expires_at=NOW)
    assert isinstance(decide(rotated, NOW - 1, GRACE), Grant)
    assert isinstance(decide(rotated, NOW, GRACE), KeyExpired)


def test_the_key_alone() -> None:
    """A buyer's own pages ask for a good key and for no subscription."""
    assert identify(facts(), NOW) is None
    assert isinstance(identify(facts(revoked_at=NOW), NOW), KeyRevoked)


def test_the_reason_in_words() -> None:
    """A refusal names Stripe's status as people say it."""
    refused = decide(facts(replace(PAID, status="incomplete_expired")), NOW, GRACE)
    assert isinstance(refused, AccessRefused)
    assert "incomplete expired" in refused.detail


def test_an_ended_one_beside_a_paid_one() -> None:
    """L17: the end of an old subscription does not take away what a new one gives, whichever is stored first."""
    ended = replace(PAID, id="sub_0", status="canceled", created_at=NOW + 50)
    for order in ((ended, PAID), (PAID, ended)):
        granted = decide(facts(*order), NOW, GRACE)
        assert isinstance(granted, Grant)
        assert granted.subscription == PAID
