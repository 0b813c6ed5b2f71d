"""Beginning a purchase: what is bought, by whom, and what is refused before anything is made."""

from pathlib import Path

import pytest
from tests.shop import Shop, open_shop

from farebox.billing.checkout import EMAIL_CHARACTERS_MAX, REFERENCE_CHARACTERS_MAX, begin_checkout
from farebox.domain.accounts import Account
from farebox.errors import AlreadySubscribed, InputInvalid, PlanUnknown, ProviderRejected, ProviderUnavailable
from farebox.ports import CheckoutSession


def begin(
    shop: Shop, plan: str = "payg", *, email: str = "", reference: str = "", account: Account | None = None
) -> CheckoutSession:
    return begin_checkout(
        shop.store,
        shop.provider,
        shop.clock,
        shop.entropy,
        shop.catalog,
        plan_name=plan,
        email=email,
        reference=reference,
        account=account,
        claim_url="http://api.example.test/billing/claim",
        plans_url="http://api.example.test/billing/",
    )


def test_what_is_bought(shop: Shop) -> None:
    """A session in subscription mode with the plan's own price, the way back to the claim page, and our row of it."""
    session = begin(shop, email="ada@example.test", reference="team-7")
    made = shop.objects("checkout.session")[0]
    price = next(p for p in shop.objects("price") if p["lookup_key"] == "farebox_payg_calls")
    assert (session.id, session.url, session.status) == (made["id"], made["url"], "open")
    assert made["mode"] == "subscription"
    assert [line["price"]["id"] for line in made["_line_items"]["data"]] == [price["id"]]
    assert made["success_url"] == "http://api.example.test/billing/claim?session_id={CHECKOUT_SESSION_ID}"
    assert made["cancel_url"] == "http://api.example.test/billing/"
    checkout = shop.store.checkout(session.id)
    assert checkout is not None
    assert (checkout.plan, checkout.status, checkout.claimed_at) == ("payg", "open", None)
    account = shop.store.account(checkout.account_id)
    assert account is not None
    assert (account.email, account.reference, account.customer_id) == ("ada@example.test", "team-7", made["customer"])
    customer = shop.stripe.objects["customer"][made["customer"]]
    assert customer["email"] == "ada@example.test"


def test_unknown_plan(shop: Shop) -> None:
    """A plan that is not in the catalog is refused with the names of those that are, and nothing is made."""
    with pytest.raises(PlanUnknown) as refusal:
        begin(shop, "gold")
    assert "bulk, payg" in refusal.value.detail
    assert shop.store.accounts(limit=9) == []
    assert shop.asked == []


def test_long_plan_name_is_not_repeated_whole(shop: Shop) -> None:
    """A giant plan name does not come back in the refusal."""
    with pytest.raises(PlanUnknown) as refusal:
        begin(shop, "x" * 10_000)
    assert len(refusal.value.detail) < 200


def test_email_never_selects_an_account(shop: Shop) -> None:
    """Two purchases with one e-mail are two accounts and two customers."""
    first, second = begin(shop, email="ada@example.test"), begin(shop, email="ada@example.test")
    found = [shop.store.checkout(session.id) for session in (first, second)]
    assert len({checkout.account_id for checkout in found if checkout is not None}) == 2
    assert len({s["customer"] for s in shop.objects("checkout.session")}) == 2


@pytest.mark.parametrize(
    ("email", "reference"),
    [
        ("no-at-sign", ""),
        ("@example.test", ""),
        ("ada@", ""),
        ("a@b@c", ""),
        ("ada @example.test", ""),
        ("ada@example.test\r\nBcc: eve@example.test", ""),
        ("a" * EMAIL_CHARACTERS_MAX + "@x", ""),
        ("", "r" * (REFERENCE_CHARACTERS_MAX + 1)),
        ("", "line\nbreak"),
        ("", "nul\x00"),
        ("", "\ud800"),
    ],
)
def test_texts_are_bounded_and_plain(shop: Shop, email: str, reference: str) -> None:
    """E-mail and reference are plain text within bounds; otherwise nothing is made."""
    with pytest.raises(InputInvalid):
        begin(shop, email=email, reference=reference)
    assert shop.store.accounts(limit=9) == []
    assert shop.asked == []


def test_price_not_published(tmp_path: Path) -> None:
    """Before `farebox push` the buyer hears that it cannot be bought, the operator what to run, and nothing is left."""
    with open_shop(tmp_path, push=False) as shop:
        with pytest.raises(ProviderRejected) as refusal:
            begin(shop)
        assert "farebox push" in refusal.value.internal
        assert "push" not in refusal.value.detail
        assert shop.store.accounts(limit=9) == []
        assert shop.objects("customer") == []


def test_stripe_away(shop: Shop) -> None:
    """With Stripe away the purchase is refused as such and leaves no account behind."""
    shop.asked.append("down")
    with pytest.raises(ProviderUnavailable):
        begin(shop)
    assert shop.store.accounts(limit=9) == []


def test_a_saved_failure_keeps_no_buyer_away(shop: Shop) -> None:
    """F31: Stripe replays a 500 to the key under which a customer is made for a day. The purchase goes on with another
    key."""
    shop.sandbox.faults.add({"path": "/v1/customers", "method": "POST", "status": 500, "count": 1})
    assert begin(shop).status == "open"
    assert len(shop.objects("customer")) == 1


def test_a_subscribed_account_buys_no_second(shop: Shop) -> None:
    """Two subscriptions would bill each call twice: the second purchase is refused before Stripe makes anything."""
    account = shop.account(shop.buy())
    with pytest.raises(AlreadySubscribed):
        begin(shop, account=account)
    assert len(shop.objects("checkout.session")) == 1


def test_a_subscription_we_have_not_heard_of_counts(shop: Shop) -> None:
    """A subscription that Stripe has and our ledger not yet (its webhook is late) refuses a second purchase too."""
    account = shop.account(shop.buy())
    with shop.store.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM subscriptions")
    with pytest.raises(AlreadySubscribed):
        begin(shop, account=account)


def test_an_earlier_open_checkout_is_closed_first(shop: Shop) -> None:
    """An account's earlier unfinished checkout cannot be completed any more once a new one is begun."""
    account, first = subscribed_once(shop)
    second = begin(shop, account=account)
    third = begin(shop, account=account)
    assert shop.provider.checkout(second.id).status == "expired"  # type: ignore[union-attr]
    assert shop.store.checkout(second.id).status == "expired"  # type: ignore[union-attr]
    assert [c.session_id for c in shop.store.open_checkouts(account.id)] == [third.id]
    assert third.id != first


def test_a_checkout_completed_a_moment_ago_wins(shop: Shop) -> None:
    """When the earlier checkout turns out to be paid, no further one is begun."""
    account, _ = subscribed_once(shop)
    second = begin(shop, account=account)
    shop.pay(second.id)
    with pytest.raises(AlreadySubscribed):
        begin(shop, account=account)


def test_after_the_end_one_may_buy_again(shop: Shop) -> None:
    """An account whose subscription has ended subscribes anew as the same customer."""
    account, _ = subscribed_once(shop)
    session = begin(shop, account=account)
    assert shop.stripe.objects["checkout.session"][session.id]["customer"] == account.customer_id


def subscribed_once(shop: Shop) -> tuple[Account, str]:
    """An account whose first subscription has been canceled, and the session that had bought it."""
    account = shop.account(shop.buy())
    shop.provider.cancel_subscription(shop.store.subscriptions(account.id)[0].id, at_period_end=False)
    fence = shop.store.take_fence(account.id)
    fetched = shop.provider.subscriptions(str(account.customer_id))
    shop.store.put_subscriptions(account.id, fetched, fence=fence, at=shop.clock.now_at())
    return account, shop.objects("checkout.session")[0]["id"]
