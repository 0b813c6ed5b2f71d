"""From a finished checkout to the key: who gets it, when, and how often."""

import threading

import pytest
from tests.shop import Shop

from farebox.billing.claim import CLAIM_REPLACE_SECONDS, look_at_claim
from farebox.domain.accounts import Checkout
from farebox.domain.keys import ApiKey, is_well_formed
from farebox.errors import ClaimExpired, ClaimTaken, ClaimUnknown, ClaimUnpaid, FareboxError, ProviderUnavailable


def look(shop: Shop, session_id: str) -> Checkout:
    return look_at_claim(shop.store, shop.provider, shop.clock, session_id)


def keys(shop: Shop, session_id: str) -> list[ApiKey]:
    checkout = shop.store.checkout(session_id)
    assert checkout is not None
    return shop.store.keys(checkout.account_id)


def bought(shop: Shop) -> str:
    session_id = shop.checkout()
    shop.pay(session_id)
    return session_id


def test_the_key_works_at_once(shop: Shop) -> None:
    """The key is good before any webhook has come: claiming fetches the subscription itself."""
    session_id = bought(shop)
    claimed = shop.claim(session_id)
    assert is_well_formed(claimed.key.reveal())
    assert claimed.key.reveal().startswith("fb_test_")
    assert (claimed.plan, claimed.replaced) == ("payg", False)
    assert [s.status for s in shop.store.subscriptions(claimed.account_id)] == ["active"]
    shop.runtime.gate.poll()
    shop.call(claimed.key)


def test_looking_changes_nothing(shop: Shop) -> None:
    """However often the page is looked at, no key is made and the purchase stays unclaimed."""
    session_id = bought(shop)
    for _ in range(3):
        assert look(shop, session_id).claimed_at is None
    assert keys(shop, session_id) == []
    assert shop.store.subscriptions(look(shop, session_id).account_id) == ()


def test_unpaid(shop: Shop) -> None:
    """Before the payment there is no key; after it there is."""
    session_id = shop.checkout()
    with pytest.raises(ClaimUnpaid):
        shop.claim(session_id)
    assert keys(shop, session_id) == []
    shop.pay(session_id)
    assert shop.claim(session_id).plan == "payg"


def test_complete_but_unpaid(shop: Shop) -> None:
    """A completed session whose payment is still on its way (a bank debit) gives no key yet."""
    session_id = bought(shop)
    shop.stripe.objects["checkout.session"][session_id]["payment_status"] = "unpaid"
    with pytest.raises(ClaimUnpaid):
        shop.claim(session_id)
    shop.stripe.objects["checkout.session"][session_id]["payment_status"] = "paid"
    assert shop.claim(session_id).plan == "payg"


def test_expired(shop: Shop) -> None:
    """An expired checkout says so and gives no key."""
    session_id = shop.checkout()
    shop.expire(session_id)
    with pytest.raises(ClaimExpired):
        shop.claim(session_id)
    assert keys(shop, session_id) == []


@pytest.mark.parametrize(
    "session_id",
    [
        "",
        "cs_",
        "cs_test_unknown",
        "cs_test_" + "a" * 5_000,
        "cs_test_a/../../v1/customers",
        "cs_test_a?expand[]=customer",
        "cs_test_\n",
        "cs_test_a\n",
        "cs_tést",
        "' OR 1=1 --",
        "in_123",
    ],
)
def test_unknown_sessions_never_reach_stripe(shop: Shop, session_id: str) -> None:
    """What is not the id of one of our own sessions is unknown, all alike, and Stripe is not asked."""
    for ask in (look, lambda s, i: s.claim(i)):
        with pytest.raises(ClaimUnknown) as refusal:
            ask(shop, session_id)
        assert refusal.value.detail.startswith("We do not know this purchase.")
    assert shop.asked == []


def test_a_session_of_somebody_else_at_stripe(shop: Shop) -> None:
    """A paid session of the same Stripe account that Farebox did not begin gives no key."""
    shop.checkout()
    ours = shop.objects("checkout.session")[0]
    other = dict(ours, id="cs_test_foreign", status="complete", payment_status="paid")
    shop.stripe.add(other)
    with pytest.raises(ClaimUnknown):
        shop.claim("cs_test_foreign")


def test_again_replaces_an_unused_key(shop: Shop) -> None:
    """Within a day an unused key is replaced: the old one is dead, the new one works, and there is one live key."""
    session_id = bought(shop)
    first = shop.claim(session_id)
    shop.clock.pass_seconds(CLAIM_REPLACE_SECONDS - 1)
    second = shop.claim(session_id)
    assert second.replaced
    assert second.key != first.key
    assert [key.id for key in keys(shop, session_id) if key.revoked_at is None] == [second.key_id]
    shop.runtime.gate.poll()
    headers = {"X-API-Key": first.key.reveal()}
    assert shop.client.get("/api", headers=headers).json()["code"] == "key_revoked"
    shop.call(second.key)


def test_replacing_does_not_move_the_window(shop: Shop) -> None:
    """The day counts from the first claim; taking the key again does not begin another."""
    session_id = bought(shop)
    shop.claim(session_id)
    shop.clock.pass_seconds(CLAIM_REPLACE_SECONDS - 1)
    shop.claim(session_id)
    shop.clock.pass_seconds(1)
    with pytest.raises(ClaimTaken):
        shop.claim(session_id)
    assert len([key for key in keys(shop, session_id) if key.revoked_at is None]) == 1


def test_a_used_key_is_not_replaced(shop: Shop) -> None:
    """After the first accepted call whoever opens the link again gets no key, and the one in use lives on."""
    session_id = bought(shop)
    claimed = shop.claim(session_id)
    shop.runtime.gate.poll()
    shop.call(claimed.key)
    for ask in (look, lambda s, i: s.claim(i)):
        with pytest.raises(ClaimTaken):
            ask(shop, session_id)
    shop.call(claimed.key)


def test_a_revoked_key_is_not_replaced(shop: Shop) -> None:
    """Revoking the claimed key closes the link too: revocation is the owner's last word."""
    session_id = bought(shop)
    claimed = shop.claim(session_id)
    assert shop.store.end_key(claimed.account_id, claimed.key_id, at=shop.clock.now_at())
    with pytest.raises(ClaimTaken):
        shop.claim(session_id)


def test_many_at_once_leave_one_live_key(shop: Shop) -> None:
    """Eight claims of one purchase at the same time leave exactly one live key, which one of them got."""
    session_id = bought(shop)
    barrier = threading.Barrier(8)
    got: list[str] = []
    refused: list[FareboxError] = []

    def take() -> None:
        barrier.wait()
        try:
            got.append(shop.claim(session_id).key_id)
        except ClaimTaken as error:
            refused.append(error)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    live = [key.id for key in keys(shop, session_id) if key.revoked_at is None]
    assert len(live) == 1
    assert live[0] in got
    assert len(got) + len(refused) == 8


def test_stripe_away(shop: Shop) -> None:
    """With Stripe away nothing is minted, and the purchase can be claimed later."""
    session_id = bought(shop)
    shop.asked.append("down")
    with pytest.raises(ProviderUnavailable):
        shop.claim(session_id)
    assert keys(shop, session_id) == []
    shop.asked.clear()
    assert shop.claim(session_id).plan == "payg"
