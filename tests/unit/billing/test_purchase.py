"""A buyer's change now is a purchase (I17): paid or it does not happen, and every period costs what it owes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from tests.shop import Shop, bearer, open_shop
from tests.unit.billing.test_change import change, deliver, invoices, refresh, report, until_invoiced

from farebox.billing.claim import Claimed
from farebox.domain.rating import lines_of, total_of
from farebox.errors import PaymentRequired

DAY: Final = 86_400
PLANS: Final = """
[meters.calls]
title = "API calls"

[plans.free]
title = "Free"
card_required = false
[[plans.free.prices]]
meter = "calls"
mode = "graduated"
tiers = [ { up_to = 10, unit_amount = "0" }, { up_to = "inf", unit_amount = "1.00" } ]

[plans.payg]
title = "Pay as you go"
[[plans.payg.prices]]
meter = "calls"
unit_amount = "1.00"

[plans.pro]
title = "Pro"
base = "31.00"
[[plans.pro.prices]]
meter = "calls"
mode = "graduated"
tiers = [ { up_to = 20, unit_amount = "0" }, { up_to = "inf", unit_amount = "0.50" } ]

[plans.scale]
title = "Scale"
base = "99.00"
[[plans.scale.prices]]
meter = "calls"
mode = "graduated"
tiers = [ { up_to = 100, unit_amount = "0" }, { up_to = "inf", unit_amount = "0.25" } ]

[plans.least]
title = "At least"
base = "10.00"
minimum = "40.00"
[[plans.least.prices]]
meter = "calls"
unit_amount = "1.00"

[plans.tried]
title = "Tried"
base = "20.00"
trial_days = 14
[[plans.tried.prices]]
meter = "calls"
unit_amount = "1.00"

[changes]
order = ["free", "payg"]

[[routes]]
match = "GET /api"
meter = "calls"
quantity = 1
"""
DECLINED: Final = "pm_card_chargeCustomerFail"


@pytest.fixture
def plans(tmp_path: Path) -> Iterator[Shop]:
    with open_shop(tmp_path, catalog=PLANS) as opened:
        yield opened


def give_card(shop: Shop, claimed: Claimed, card: str) -> None:
    """What the buyer does in the portal: this card pays from now on."""
    customer = shop.account(claimed).customer_id
    method = shop.at_stripe("POST", f"/v1/payment_methods/{card}/attach", f"customer={customer}")["id"]
    shop.at_stripe("POST", f"/v1/customers/{customer}", f"invoice_settings[default_payment_method]={method}")
    for subscription in shop.objects("subscription"):
        if subscription["customer"] == customer and subscription["status"] != "canceled":
            shop.at_stripe("POST", f"/v1/subscriptions/{subscription['id']}", f"default_payment_method={method}")


def buy_without_card(shop: Shop, plan: str) -> Claimed:
    """A free plan at a checkout that asks for no card."""
    claimed = shop.buy(plan=plan)
    for subscription in shop.objects("subscription"):
        subscription["default_payment_method"] = None
    for customer in shop.objects("customer"):
        customer["invoice_settings"]["default_payment_method"] = None
    return claimed


def amounts(invoice: dict[str, Any]) -> list[int]:
    return sorted(line["amount"] for line in invoice["lines"]["data"] if line["amount"])


def disagreements(shop: Shop) -> list[Any]:
    reconciled = shop.runtime.background.reconciler.run(since=0)
    return [c for c in reconciled.comparisons if c.verdict != "agrees"]


def test_a_month_with_an_upgrade(plans: Shop) -> None:
    """L12, I17: the upgrade's own invoice has the usage of before at the old prices and the new base fee in full; the
    month that begins with it costs what the quote says; ledger and Stripe agree on both."""
    claimed = plans.buy(plan="payg")
    plans.call(claimed.key, 7)
    plans.clock.pass_seconds(10 * DAY)
    changed = change(plans, claimed, "pro", now=True)
    assert (changed.plan, changed.status) == ("pro", "active")
    now = plans.clock.now_at()
    assert changed.period is not None
    assert now - 120 <= changed.period.start <= now
    paid = invoices(plans)[-1]
    assert (paid["status"], paid["billing_reason"], amounts(paid)) == ("paid", "subscription_update", [700, 3_100])
    plans.call(claimed.key, 24)
    found = report(plans, claimed)
    assert (found.earlier, found.total, found.meters[0].quantity) == ((), 3_100 + 200, 24)
    until_invoiced(plans, claimed)
    quoted = total_of(lines_of(plans.catalog.plans["pro"], {"calls": 24}))
    assert invoices(plans)[-1]["total"] == quoted == 3_300
    plans.runtime.background.late.step()
    assert disagreements(plans) == []
    assert plans.store.periods(claimed.account_id)[0].invoice_id == paid["id"]


def test_without_a_card(plans: Shop) -> None:
    """A buyer without a payment method changes to no plan that costs something, now or at the period's end: 402 with
    where to add a card, and nothing is written."""
    claimed = buy_without_card(plans, "free")
    plans.asked.clear()
    for plan in ("payg", "pro"):
        for now in (True, False):
            with pytest.raises(PaymentRequired, match="no payment method"):
                change(plans, claimed, plan, now=now)
    assert [asked for asked in plans.asked if not asked.startswith("GET")] == []
    asked = {"plan": "pro", "when": "now"}
    answer = plans.client.post("/billing/subscription", json=asked, headers=bearer(claimed.key))
    assert (answer.status_code, answer.json()["code"]) == (402, "payment_required")
    assert answer.json()["pay_url"].endswith("/billing/pay")
    assert change(plans, claimed, "pro", now=True, operator=True).plan == "pro"


def test_a_declined_card_changes_nothing(plans: Shop) -> None:
    """402 from Stripe: the subscription, its usage and a planned downgrade are as before. Another card pays."""
    claimed = plans.buy(plan="pro")
    plans.call(claimed.key, 5)
    change(plans, claimed, "payg")
    give_card(plans, claimed, DECLINED)
    before = len(invoices(plans))
    with pytest.raises(PaymentRequired, match="nothing was changed"):
        change(plans, claimed, "scale", now=True)
    after = refresh(plans, claimed)
    assert (after.plan, after.status, after.next_plan, len(invoices(plans))) == ("pro", "active", "payg", before)
    plans.call(claimed.key, 5)
    assert report(plans, claimed).meters[0].quantity == 10
    give_card(plans, claimed, "pm_card_visa")
    assert (change(plans, claimed, "scale", now=True).plan, refresh(plans, claimed).next_plan) == ("scale", "")


@pytest.mark.parametrize(
    ("used", "days", "back"), [(0, 0, 3_100), (20, 0, 0), (20, 10, 0), (10, 0, 1_550), (5, 15, 1_600)]
)
def test_included_units_that_were_used_are_paid(plans: Shop, used: int, days: int, back: int) -> None:
    """Of the old base fee comes back what is left of the time, or of the included units where that is less."""
    claimed = plans.buy(plan="pro")
    plans.call(claimed.key, used)
    plans.clock.pass_seconds(days * DAY)
    change(plans, claimed, "scale", now=True)
    assert abs(invoices(plans)[-1]["total"] - (9_900 - back)) <= 1
    deliver(plans)
    assert disagreements(plans) == []


def test_a_minimum_is_owed_whole(plans: Shop) -> None:
    """A period with a minimum that the buyer cuts comes to the minimum, whatever base fee comes back."""
    claimed = plans.buy(plan="least")
    plans.call(claimed.key, 3)
    plans.clock.pass_seconds(DAY)
    change(plans, claimed, "pro", now=True)
    paid = [invoice["total"] for invoice in invoices(plans)]
    assert sum(paid) == 4_000 + 3_100


def test_a_trial_ends_with_the_change(plans: Shop) -> None:
    """Who leaves a plan on trial pays from then on; what the trial used stays free."""
    claimed = plans.buy(plan="tried")
    plans.call(claimed.key, 9)
    plans.clock.pass_seconds(DAY)
    changed = change(plans, claimed, "pro", now=True)
    assert (changed.status, changed.plan) == ("active", "pro")
    assert invoices(plans)[-1]["total"] == 3_100
    plans.call(claimed.key, 22)
    assert report(plans, claimed).total == 3_200
    until_invoiced(plans, claimed)
    assert invoices(plans)[-1]["total"] == 3_200
    assert disagreements(plans) == []
