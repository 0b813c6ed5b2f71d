"""What an account has used and will pay, to the minor unit, and only its own."""

from decimal import Decimal
from pathlib import Path

import pytest
from tests.shop import CATALOG, START_AT, Shop, open_shop

from farebox.billing.claim import Claimed
from farebox.billing.inbox import refresh_account
from farebox.billing.invoices import UsageReport, portal_url, upcoming_invoice, usage_report
from farebox.domain.accounts import Account
from farebox.errors import CustomerMissing, NotFound, SubscriptionMissing
from farebox.ports import Invoice


def report(shop: Shop, account: Account) -> UsageReport:
    return usage_report(shop.store, shop.clock, account, grace_seconds=0)


def preview(shop: Shop, account: Account) -> Invoice:
    return upcoming_invoice(shop.store, shop.provider, shop.clock, account, grace_seconds=0)


def cancel(shop: Shop, claimed: Claimed) -> None:
    subscription = shop.store.subscriptions(claimed.account_id)[0]
    shop.provider.cancel_subscription(subscription.id, at_period_end=False)
    refresh_account(shop.store, shop.provider, shop.clock, shop.account(claimed))


def test_usage_and_cost_so_far(shop: Shop) -> None:
    """Twenty-five calls at one dollar are 25 units and 2500 cents, of this account alone."""
    claimed, other = shop.buy(), shop.buy()
    shop.call(claimed.key, 25)
    shop.call(other.key, 3)
    found = report(shop, shop.account(claimed))
    assert [(m.meter, m.quantity, m.calls, m.unit_amount, m.amount) for m in found.meters] == [
        ("calls", 25, 25, Decimal(100), 2500)
    ]
    assert (found.total, found.currency, found.subscription.plan) == (2500, "usd", "payg")
    assert found.period.start == START_AT
    assert report(shop, shop.account(other)).total == 300


def test_fractions_of_a_cent_are_rounded_once(shop: Shop) -> None:
    """Three calls at 1.5 cents are 4.5 cents, and 5 on the line: rounded over the sum, half up."""
    claimed = shop.buy(plan="bulk")
    shop.call(claimed.key, 3)
    assert report(shop, shop.account(claimed)).meters[0].amount == 5


def test_nothing_used_yet(shop: Shop) -> None:
    """A priced meter is shown with zero before its first call."""
    found = report(shop, shop.account(shop.buy()))
    assert [(m.meter, m.quantity, m.amount) for m in found.meters] == [("calls", 0, 0)]


def test_a_new_period_begins_at_zero(shop: Shop) -> None:
    """From the period's known end on usage counts anew, even before the renewal is known."""
    claimed = shop.buy()
    shop.call(claimed.key, 4)
    end = report(shop, shop.account(claimed)).period.end
    shop.clock.pass_seconds(end - START_AT - 1)
    assert report(shop, shop.account(claimed)).total == 400
    shop.clock.pass_seconds(1)
    assert report(shop, shop.account(claimed)).total == 0
    shop.call(claimed.key)
    assert report(shop, shop.account(claimed)).total == 100


def test_never_subscribed(shop: Shop) -> None:
    """An account without any subscription is told so."""
    account = Account("acct_new", START_AT)
    shop.store.add_account(account)
    with pytest.raises(SubscriptionMissing):
        report(shop, account)
    with pytest.raises(SubscriptionMissing):
        preview(shop, account)


def test_upcoming_is_what_stripe_says(shop: Shop) -> None:
    """The preview is Stripe's own: 0 before usage is reported, the whole sum after."""
    claimed = shop.buy()
    shop.call(claimed.key, 7)
    assert preview(shop, shop.account(claimed)).total == 0
    shop.clock.pass_seconds(60)
    shop.runtime.background.flush()
    found = preview(shop, shop.account(claimed))
    assert (found.total, found.currency, found.lines[0][1]) == (700, "usd", 7)


def test_upcoming_spans_one_period(tmp_path: Path) -> None:
    """A base fee of the coming period on the preview does not stretch the period that the usage lines are of."""
    catalog = CATALOG.replace('interval = "month"', 'interval = "month"\nbase = "19.00"', 1)
    with open_shop(tmp_path, catalog=catalog) as shop:
        claimed = shop.buy()
        shop.call(claimed.key, 7)
        (item,) = shop.store.subscriptions(claimed.account_id)[0].items
        found = preview(shop, shop.account(claimed))
        assert (found.period_start, found.period_end) == (item.period.start, item.period.end)
        assert found.total == 1900


def test_no_next_invoice_after_the_end(shop: Shop) -> None:
    """A canceled subscription has no next invoice: 404 in words, not a failure of the provider."""
    claimed = shop.buy()
    cancel(shop, claimed)
    with pytest.raises(NotFound) as refusal:
        preview(shop, shop.account(claimed))
    assert "ended" in refusal.value.detail


def test_usage_after_the_end(shop: Shop) -> None:
    """The last period's usage can still be seen after a cancellation."""
    claimed = shop.buy()
    shop.call(claimed.key, 2)
    cancel(shop, claimed)
    found = report(shop, shop.account(claimed))
    assert (found.subscription.status, found.total) == ("canceled", 200)


def test_portal(shop: Shop) -> None:
    """The portal is opened for this customer, leads back to us, and cancels at the period's end only."""
    account = shop.account(shop.buy())
    shop.buy()
    url = portal_url(shop.provider, account, return_url="http://api.example.test/billing/")
    session = shop.objects("billing_portal.session")[-1]
    assert url == session["url"]
    assert (session["customer"], session["return_url"]) == (account.customer_id, "http://api.example.test/billing/")
    features = shop.stripe.objects["billing_portal.configuration"][session["configuration"]]["features"]
    assert features["subscription_cancel"]["mode"] == "at_period_end"
    assert not features["subscription_update"]["enabled"]


def test_portal_without_customer(shop: Shop) -> None:
    """An account that never went to checkout has nothing to manage, and Stripe is not asked."""
    with pytest.raises(CustomerMissing):
        portal_url(shop.provider, Account("acct_new", START_AT), return_url="http://api.example.test/billing/")
    assert shop.asked == []
