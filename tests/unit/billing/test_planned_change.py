"""A planned change takes nothing from the buyer: trial, promotion, payment method, tax and thresholds stay."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from tests.shop import Shop, open_shop
from tests.unit.billing.test_change import PLANS, change

from farebox.billing.change import drop_change
from farebox.billing.claim import Claimed
from farebox.provider.phases import items_of, running_phase, settings_of

TRIED: Final = PLANS.replace("[plans.payg]\n", "[plans.payg]\ntrial_days = 14\npromotion_codes = true\ntax = true\n", 1)
KEPT: Final = ("status", "trial_end", "discounts", "default_payment_method", "automatic_tax", "billing_thresholds")


@pytest.fixture
def tried(tmp_path: Path) -> Iterator[Shop]:
    with open_shop(tmp_path, catalog=TRIED) as opened:
        yield opened


def at_stripe(shop: Shop, claimed: Claimed) -> dict[str, Any]:
    (subscription,) = shop.store.subscriptions(claimed.account_id)
    return shop.at_stripe("GET", f"/v1/subscriptions/{subscription.id}")


def with_everything(shop: Shop) -> Claimed:
    """A buyer on trial with a coupon that can be redeemed no more, a card of its own, tax and a threshold."""
    claimed = shop.buy()
    coupon = shop.at_stripe("POST", "/v1/coupons", "percent_off=50&duration=forever&max_redemptions=1")
    path = f"/v1/subscriptions/{at_stripe(shop, claimed)['id']}"
    body = f"discounts[0][coupon]={coupon['id']}&billing_thresholds[amount_gte]=100000"
    shop.at_stripe("POST", path, body)
    return claimed


def test_planning_a_change_takes_nothing(tried: Shop) -> None:
    """The running phase goes on as it is, and what is planned is paid and taxed alike."""
    claimed = with_everything(tried)
    before = at_stripe(tried, claimed)
    assert (before["status"], before["automatic_tax"]["enabled"]) == ("trialing", True)
    change(tried, claimed, "scale")
    planned = at_stripe(tried, claimed)
    assert {name: planned[name] for name in KEPT} == {name: before[name] for name in KEPT}
    tried.clock.pass_seconds(before["trial_end"] + 60 - tried.clock.now_at())
    tried.at_stripe("GET", "/v1/account")
    after = at_stripe(tried, claimed)
    assert after["metadata"]["farebox_plan"] == "scale"
    stays = ("discounts", "default_payment_method", "automatic_tax", "billing_thresholds")
    assert {name: after[name] for name in stays} == {name: before[name] for name in stays}


def test_giving_it_up_takes_nothing(tried: Shop) -> None:
    """A change that is planned and given up leaves the subscription as it was."""
    claimed = with_everything(tried)
    before = at_stripe(tried, claimed)
    change(tried, claimed, "scale")
    drop_change(tried.store, tried.provider, tried.clock, tried.account(claimed))
    after = at_stripe(tried, claimed)
    assert {name: after[name] for name in KEPT} == {name: before[name] for name in KEPT}


def test_all_settings_of_a_phase_are_carried() -> None:
    """What Stripe shows as objects goes back as ids; the very discount is reused; what is unset is left out."""
    phase = {
        "start_date": 1,
        "end_date": 9,
        "trial_end": 9,
        "metadata": {"a": "b"},
        "items": [
            {"price": {"id": "price_1"}, "quantity": 2, "metadata": {"c": "d"}, "tax_rates": [{"id": "txr_1"}]},
            {"price": "price_2", "discounts": [{"coupon": "co_2"}], "billing_thresholds": {"usage_gte": 5}},
        ],
        "application_fee_percent": 2.5,
        "collection_method": "charge_automatically",
        "description": None,
        "default_payment_method": {"id": "pm_1"},
        "on_behalf_of": "acct_1",
        "discounts": [
            {"discount": "di_1", "coupon": "co_1", "promotion_code": None},
            {"promotion_code": {"id": "pr"}},
        ],
        "automatic_tax": {"enabled": True, "liability": {"type": "account", "account": {"id": "acct_2"}}},
        "billing_thresholds": {"amount_gte": 100, "reset_billing_cycle_anchor": None},
        "transfer_data": {"destination": {"id": "acct_3"}, "amount_percent": None},
        "invoice_settings": {"issuer": {"type": "self"}, "days_until_due": 30},
        "default_tax_rates": [{"id": "txr_2"}],
    }
    settings = settings_of(phase, {})
    assert settings == {
        "application_fee_percent": 2.5,
        "collection_method": "charge_automatically",
        "default_payment_method": "pm_1",
        "on_behalf_of": "acct_1",
        "discounts": [{"discount": "di_1"}, {"promotion_code": "pr"}],
        "automatic_tax": {"enabled": True, "liability": {"type": "account", "account": "acct_2"}},
        "billing_thresholds": {"amount_gte": 100},
        "transfer_data": {"destination": "acct_3"},
        "invoice_settings": {"issuer": {"type": "self"}, "days_until_due": 30},
        "default_tax_rates": ["txr_2"],
    }
    first = {"price": "price_1", "quantity": 2, "metadata": {"c": "d"}, "tax_rates": ["txr_1"]}
    second = {"price": "price_2", "discounts": [{"coupon": "co_2"}], "billing_thresholds": {"usage_gte": 5}}
    assert items_of(phase, without={"price_1"}) == [second]
    assert running_phase(phase, {}) == {
        **settings,
        "items": [first, second],
        "start_date": 1,
        "end_date": 9,
        "trial_end": 9,
        "metadata": {"a": "b"},
    }


def test_what_the_phase_leaves_out_is_the_subscriptions() -> None:
    """Should Stripe's phase not show what the subscription has, it is carried all the same."""
    phase = {"start_date": 1, "end_date": 9, "items": [], "automatic_tax": {"enabled": False}, "discounts": []}
    subscription = {
        "status": "trialing",
        "trial_end": 8,
        "discounts": ["di_1"],
        "default_payment_method": "pm_1",
        "automatic_tax": {"enabled": True, "liability": None},
    }
    running = running_phase(phase, subscription)
    assert running["trial_end"] == 8
    assert running["discounts"] == [{"discount": "di_1"}]
    assert (running["default_payment_method"], running["automatic_tax"]) == ("pm_1", {"enabled": True})
    assert "trial_end" not in running_phase(phase, {**subscription, "status": "active"})
