"""A trial is granted and a set-up fee owed once per plan and account, whichever way into the plan is taken (I17)."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from tests.shop import Shop, open_shop
from tests.unit.billing.test_change import change, invoices, refresh, until_invoiced
from tests.unit.billing.test_purchase import DECLINED, PLANS, disagreements, give_card

from farebox.billing.cancel import cancel_subscriptions
from farebox.billing.change import drop_change
from farebox.billing.claim import Claimed
from farebox.billing.inbox import refresh_checkout
from farebox.errors import PaymentRequired

SET_UP: Final = """
[plans.set]
title = "Set up"
base = "50.00"
setup_fee = "10.00"
trial_days = 14
[[plans.set.prices]]
meter = "calls"
unit_amount = "0"
"""
Way = Callable[[Shop, Claimed], None]


@pytest.fixture
def plans(tmp_path: Path) -> Iterator[Shop]:
    with open_shop(tmp_path, catalog=PLANS + SET_UP) as opened:
        yield opened


def end(shop: Shop, claimed: Claimed) -> None:
    """The subscription is over."""
    cancel_subscriptions(shop.store, shop.provider, shop.clock, shop.account(claimed), at_period_end=False)
    shop.runtime.gate.poll()


def check_out(shop: Shop, claimed: Claimed) -> None:
    end(shop, claimed)
    session_id = shop.checkout(plan="set", key=claimed.key.reveal())
    shop.pay(session_id)
    refresh_checkout(shop.store, shop.provider, session_id)
    refresh(shop, claimed)


def change_now(shop: Shop, claimed: Claimed) -> None:
    change(shop, claimed, "set", now=True)


def change_later(shop: Shop, claimed: Claimed) -> None:
    change(shop, claimed, "set")
    until_invoiced(shop, claimed)


def change_dropped_and_now(shop: Shop, claimed: Claimed) -> None:
    change(shop, claimed, "set")
    drop_change(shop.store, shop.provider, shop.clock, shop.account(claimed))
    change(shop, claimed, "set", now=True)


def change_declined_and_later(shop: Shop, claimed: Claimed) -> None:
    change(shop, claimed, "set")
    give_card(shop, claimed, DECLINED)
    with pytest.raises(PaymentRequired):
        change(shop, claimed, "scale", now=True)
    give_card(shop, claimed, "pm_card_visa")
    until_invoiced(shop, claimed)


WAYS: Final = [check_out, change_now, change_later, change_dropped_and_now, change_declined_and_later]


def fees(shop: Shop) -> list[int]:
    """What was invoiced for set-ups, those of a Checkout included."""
    lines = [line for invoice in invoices(shop) for line in invoice["lines"]["data"]]
    return [line["amount"] for line in lines if "set-up" in (line["description"] or "")]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_set_up_fee_is_owed_once_by_every_way(plans: Shop, way: Way) -> None:
    """Whoever comes to a plan from another one pays its set-up fee, and pays it no second time by any way."""
    claimed = plans.buy(plan="payg")
    way(plans, claimed)
    subscriptions = plans.store.subscriptions(claimed.account_id)
    assert "set" in {s.plan for s in subscriptions if s.status != "canceled"}
    assert fees(plans) == [1_000]
    for again in (check_out, check_out):
        again(plans, claimed)
    assert fees(plans) == [1_000]


def test_a_set_up_fee_is_not_asked_again_by_a_change(plans: Shop) -> None:
    """Away from the plan and back to it, at once or when the period ends: the fee was paid."""
    claimed = plans.buy(plan="set")
    assert fees(plans) == [1_000]
    plans.clock.pass_seconds(3_600)
    change(plans, claimed, "scale", now=True)
    change(plans, claimed, "set")
    until_invoiced(plans, claimed)
    assert (refresh(plans, claimed).plan, fees(plans)) == ("set", [1_000])
    assert disagreements(plans) == []


@pytest.mark.parametrize("way", [change_now, change_later], ids=lambda way: way.__name__)
def test_a_change_begins_no_trial(plans: Shop, way: Way) -> None:
    """Who changes to a plan with a trial pays for it from its first second; a later checkout grants no trial either."""
    claimed = plans.buy(plan="payg")
    way(plans, claimed)
    assert refresh(plans, claimed).status == "active"
    end(plans, claimed)
    session = plans.stripe.objects["checkout.session"][plans.checkout(plan="set", key=claimed.key.reveal())]
    assert "trial_period_days" not in session["_subscription_data"]


def test_a_trial_is_granted_once_per_plan(plans: Shop) -> None:
    """A trial of one plan takes none away of another, which an account that had another plan gets with a checkout."""
    claimed = plans.buy(plan="tried")
    end(plans, claimed)
    for plan, days in (("tried", None), ("set", 14)):
        session = plans.stripe.objects["checkout.session"][plans.checkout(plan=plan, key=claimed.key.reveal())]
        assert session["_subscription_data"].get("trial_period_days") == days


def test_operators_waive_the_fee(plans: Shop) -> None:
    """An operator's change asks for no set-up fee, and none is asked for afterwards."""
    claimed = plans.buy(plan="payg")
    change(plans, claimed, "set", now=True, operator=True)
    check_out(plans, claimed)
    assert fees(plans) == []


def test_a_running_subscription_buys_no_second_grant(plans: Shop) -> None:
    """Included units of a free plan begin anew with its next period only: while one runs, no second one is sold."""
    claimed = plans.buy(plan="free")
    running: Any = refresh(plans, claimed)
    plans.provider.cancel_subscription(running.id, at_period_end=True)
    refused = plans.client.post("/billing/checkout", json={"plan": "free"}, headers={"X-API-Key": claimed.key.reveal()})
    assert (refused.status_code, refused.json()["code"]) == (409, "already_subscribed")
