"""What a buyer is offered of a plan: each price as the file has it, fees, trials, currencies, and what is once only."""

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest
from tests.shop import CATALOG, Shop, bearer, open_shop
from tests.unit.billing.test_change import refresh, report

from farebox.billing.cancel import cancel_subscriptions
from farebox.billing.catalog import plan_push
from farebox.domain.catalog import Catalog

OFFERS: Final = (
    CATALOG
    + """
[meters.tokens]
title = "Tokens"
[plans.scale]
title = "Scale"
base = "29.00"
setup_fee = "10.00"
trial_days = 14
promotion_codes = true
metadata = { team = "search" }
[[plans.scale.prices]]
meter = "calls"
mode = "graduated"
tiers = [ { up_to = 100, unit_amount = "0" }, { up_to = "inf", unit_amount = "0.002", flat_amount = "5.00" } ]
[[plans.scale.prices]]
meter = "tokens"
package = { size = 1000, unit_amount = "0.02", round = "down" }
[plans.scale.currencies.jpy]
base = "4000"
prices = [ { meter = "calls", unit_amount = "0.3" }, { meter = "tokens", unit_amount = "0.003" } ]
[plans.free]
title = "Free"
card_required = false
trial_days = 7
[[plans.free.prices]]
meter = "calls"
unit_amount = "0"
[plans.taxed]
title = "Taxed"
tax = true
[[plans.taxed.prices]]
meter = "calls"
mode = "volume"
tiers = [ { up_to = 10, unit_amount = "0.000000000001" }, { up_to = "inf", unit_amount = "0", flat_amount = "1" } ]
"""
)


@pytest.fixture
def offers(tmp_path: Path) -> Iterator[Shop]:
    with open_shop(tmp_path, catalog=OFFERS) as opened:
        yield opened


def session(shop: Shop, **asked: Any) -> dict[str, Any]:
    """The checkout session that is begun by this."""
    answer = shop.client.post("/billing/checkout", json=asked)
    assert answer.status_code == 201, answer.text
    return dict(shop.stripe.objects["checkout.session"][answer.json()["id"]])


def lines(found: dict[str, Any]) -> list[tuple[Any, Any]]:
    return [(line["price"]["lookup_key"], line["quantity"]) for line in found["_line_items"]["data"]]


def test_a_second_push_finds_every_kind_as_it_is(offers: Shop) -> None:
    """Tiers, packages, fees, fine amounts and other currencies read back are what the file says: nothing changes."""
    assert {change.kind for change in plan_push(offers.catalog, offers.provider)} == {"unchanged"}


@pytest.mark.parametrize(
    ("change", "name", "before", "after"),
    [
        ({"base": "3000"}, "price", "29.00 USD", "30.00 USD"),
        ({"minimum": 5_000}, "minimum", "none", "50.00 USD"),
        ({"title": "Scales"}, "title", "Scale", "Scales"),
        ({"metadata": {"team": "ads"}}, "metadata.team", "search", "ads"),
        ({"tax": True}, "tax_behavior", "unspecified", "exclusive"),
        ({"interval": "year"}, "interval", "month", "year"),
    ],
)
def test_what_changes_is_said(offers: Shop, change: dict[str, Any], name: str, before: str, after: str) -> None:
    """Each difference by its name, what it is and what it becomes."""
    plan = offers.catalog.plans["scale"]
    if "base" in change:
        change = {"base": Decimal(change["base"])}
    changed = Catalog(offers.catalog.meters, {"scale": replace(plan, others=(), **change)})
    found = {entry for one in plan_push(changed, offers.provider) for entry in one.differences}
    assert (name, before, after) in found


def test_everything_of_a_plan_is_in_the_checkout(offers: Shop) -> None:
    """Fee, prices and set-up in one session, the trial, promotion codes and the seller's own metadata with them."""
    found = session(offers, plan="scale")
    assert lines(found) == [
        ("farebox_scale:base", 1),
        ("farebox_scale_calls", None),
        ("farebox_scale_tokens", None),
        ("farebox_scale:setup", 1),
    ]
    assert (found["amount_total"], found["allow_promotion_codes"]) == (1_000, True)
    assert found["_subscription_data"]["trial_period_days"] == 14
    assert found["_subscription_data"]["metadata"]["team"] == "search"
    offers.pay(found["id"])
    claimed = offers.claim(found["id"])
    (first,) = offers.objects("invoice")
    assert [line["description"] for line in first["lines"]["data"] if line["amount"]] == ["Scale, set-up"]
    subscription = refresh(offers, claimed)
    assert (subscription.status, subscription.plan, subscription.base) == ("trialing", "scale", Decimal(2_900))
    assert [item.price for item in subscription.items] == list(offers.catalog.plans["scale"].prices)


def test_usage_in_a_trial_is_free(offers: Shop) -> None:
    """Neither base fee nor usage costs anything until the trial is over."""
    claimed = offers.buy(plan="scale")
    offers.call(claimed.key, 300)
    assert (report(offers, claimed).total, report(offers, claimed).meters[0].quantity) == (0, 300)


def test_another_currency(offers: Shop) -> None:
    """The plan in yen has the yen's prices, without the other's set-up fee; usage is shown in yen."""
    found = session(offers, plan="scale", currency="JPY")
    assert (lines(found)[0], found["currency"], found["amount_total"]) == (("farebox_scale:base:jpy", 1), "jpy", 0)
    offers.pay(found["id"])
    claimed = offers.claim(found["id"])
    refresh(offers, claimed)
    usage = offers.client.get("/billing/usage", headers=bearer(claimed.key)).json()
    assert (usage["currency"], usage["plan"]) == ("jpy", "scale")
    refused = offers.client.post("/billing/checkout", json={"plan": "scale", "currency": "eur"})
    assert (refused.status_code, refused.json()["detail"]) == (
        422,
        "Plan scale is not sold in 'eur'. Its currencies are: usd, jpy.",
    )


def test_a_free_plan_asks_for_no_card(offers: Shop) -> None:
    """Checkout takes no card where nothing is due, and a trial that ends without one ends the subscription."""
    found = session(offers, plan="free")
    assert found["payment_method_collection"] == "if_required"
    behavior = found["_subscription_data"]["trial_settings"]["end_behavior"]["missing_payment_method"]
    assert behavior == "cancel"


def test_tax(offers: Shop) -> None:
    """Stripe computes taxes on top, and may keep the address that Checkout asks for."""
    found = session(offers, plan="taxed")
    assert found["automatic_tax"]["enabled"]
    assert [line["price"]["tax_behavior"] for line in found["_line_items"]["data"]] == ["exclusive"]
    assert not session(offers, plan="payg")["automatic_tax"]["enabled"]


def test_set_up_and_trial_are_for_the_first_time(offers: Shop) -> None:
    """Who comes back with a key keeps account and keys, and is neither set up nor on trial again."""
    claimed = offers.buy(plan="scale")
    account = offers.account(claimed)
    cancel_subscriptions(offers.store, offers.provider, offers.clock, account, at_period_end=False)
    again = offers.checkout(plan="scale", key=claimed.key.reveal())
    found = offers.stripe.objects["checkout.session"][again]
    assert ([key for key, _ in lines(found)], found["amount_total"]) == (
        ["farebox_scale:base", "farebox_scale_calls", "farebox_scale_tokens"],
        2_900,
    )
    assert "trial_period_days" not in found["_subscription_data"]
    offers.pay(again)
    assert refresh(offers, claimed).customer_id == account.customer_id
    offers.call(claimed.key)


def test_the_page_shows_every_price(offers: Shop) -> None:
    """Fees, tiers, packages and currencies as buyers read them, and a choice of currency where there is one."""
    page = offers.client.get("/billing/").text
    for text in (
        "29.00 USD",
        "Once, to begin",
        "units 1 to 100: free",
        "units from 101: 0.002 USD each and 5.00 USD flat",
        "0.02 USD per 1000 units",
        "4000 JPY",
        "The first 14 days are free.",
        "No card needed to begin.",
        '<option value="jpy">JPY</option>',
    ):
        assert text in page, text
    assert page.count("<select") == 1
