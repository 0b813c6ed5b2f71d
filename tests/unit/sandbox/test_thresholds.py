"""Billing thresholds: an invoice in mid-period once the usage is worth so much, and nothing billed twice."""

from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.unit.sandbox.test_licensed import MONTH, lines, payer, seats
from tests.unit.sandbox.town import DAY, HOUR, START_AT, Seller

from farebox.sandbox import create_app


def bought(seller: Seller, *, reset: bool, price: str | None = None, **params: Any) -> Any:
    thresholds = {"amount_gte": 1_000, "reset_billing_cycle_anchor": reset}
    items = [{"price": price or seller.price_id}, *params.pop("items", [])]
    return seller.post("/v1/subscriptions", customer=payer(seller), items=items, billing_thresholds=thresholds)


def test_a_threshold_keeps_the_period(seller: Seller) -> None:
    """Reaching the amount bills at once what was used; the period goes on, and its end bills only the rest (L4)."""
    made = bought(seller, reset=False)
    assert made["billing_thresholds"] == {"amount_gte": 1_000, "reset_billing_cycle_anchor": False}
    seller.use(made["customer"], "9")
    seller.move(DAY)
    assert seller.invoices(made) == []
    seller.use(made["customer"], "3")
    seller.move(1)
    (early,) = seller.invoices(made)
    assert (early["billing_reason"], early["status"], early["total"]) == ("subscription_threshold", "paid", 1_200)
    assert early["threshold_reason"] == {"amount_gte": 1_000, "item_reasons": []}
    assert seller.subscription(made["id"])["billing_cycle_anchor"] == START_AT
    seller.use(made["customer"], "2")
    seller.move(30 * DAY + HOUR)
    assert [i["total"] for i in seller.invoices(made)] == [1_200, 200]
    seller.use(made["customer"], "2")
    seller.move(28 * DAY)
    assert [i["total"] for i in seller.invoices(made)] == [1_200, 200, 200]


def test_a_threshold_begins_a_new_period(seller: Seller) -> None:
    """With reset_billing_cycle_anchor a new period begins there, and what was paid ahead is credited."""
    price = seats(seller)
    made = bought(seller, reset=True, items=[{"price": price}])
    seller.move(10 * DAY)
    seller.use(made["customer"], "10")
    seller.move(1)
    early = seller.invoices(made)[-1]
    credit = "Unused time on 1 × Seats after 25 Jan 2027"
    assert lines(early) == [
        ("10 × API calls (at $1.00 / month)", 1_000),
        ("1 seat × Seats (at $10.00 / month)", 1_000),
        (credit, -677),
    ]
    anchor = START_AT + 10 * DAY + 1
    changed = seller.subscription(made["id"])
    assert changed["billing_cycle_anchor"] == anchor
    assert {i["current_period_start"] for i in changed["items"]["data"]} == {anchor}
    seller.use(made["customer"], "1")
    seller.move(MONTH + HOUR)
    assert seller.invoices(made)[-1]["total"] == 1_100


def test_a_threshold_forgets_no_tier(seller: Seller) -> None:
    """Included units are given once a period, however often a threshold bills in it (L4)."""
    product = seller.post("/v1/products", name="Calls")["id"]
    tiers = [{"up_to": 100, "unit_amount": 0}, {"up_to": "inf", "unit_amount": 100}]
    recurring = {"interval": "month", "usage_type": "metered", "meter": seller.meter_id}
    shape = {"billing_scheme": "tiered", "tiers_mode": "graduated", "tiers": tiers, "recurring": recurring}
    price = seller.post("/v1/prices", currency="usd", product=product, **shape)["id"]
    made = bought(seller, reset=False, price=price)
    for _ in range(3):
        seller.use(made["customer"], "110")
        seller.move(HOUR)
    seller.move(MONTH)
    invoices = seller.invoices(made)
    assert [i["total"] for i in invoices] == [1_000, 11_000, 11_000, 0]
    assert lines(invoices[1]) == [("110 × Calls (Tier 2 at $1.00 / month)", 11_000)]


def test_a_threshold_waits_for_aggregation(seller: Seller) -> None:
    """Usage that is not counted yet reaches no threshold (F08)."""
    seller.sandbox.aggregation_lag_seconds = 90
    made = bought(seller, reset=False)
    seller.use(made["customer"], "10")
    seller.move(90)
    assert seller.invoices(made) == []
    seller.move(1)
    assert [i["total"] for i in seller.invoices(made)] == [1_000]


@pytest.mark.parametrize("off", [{"billing_thresholds": ""}, {"pause_collection": {"behavior": "keep_as_draft"}}])
def test_no_threshold_no_invoice(seller: Seller, off: dict[str, Any]) -> None:
    """A threshold that is taken away bills nothing early; while collection is paused what it bills stays a draft."""
    made = bought(seller, reset=False)
    seller.post(f"/v1/subscriptions/{made['id']}", **off)
    seller.use(made["customer"], "10")
    seller.move(DAY)
    assert [i["status"] for i in seller.invoices(made)] == (["draft"] if "pause_collection" in off else [])


@pytest.mark.parametrize("ending", ["at_period_end", "now", "now_unbilled"])
def test_a_threshold_and_the_last_invoice_bill_each_call_once(seller: Seller, ending: str) -> None:
    """What a threshold has billed is not on the last invoice again; what it has not is, unless nobody asks for it."""
    made = bought(seller, reset=False)
    path = f"/v1/subscriptions/{made['id']}"
    seller.use(made["customer"], "12")
    seller.move(DAY)
    seller.use(made["customer"], "5")
    seller.move(DAY)
    if ending == "at_period_end":
        seller.post(path, cancel_at_period_end=True)
        seller.move(30 * DAY)
    else:
        seller.delete(path, invoice_now=ending == "now")
    totals = [invoice["total"] for invoice in seller.invoices(made) if invoice["status"] == "paid"]
    assert totals == [1_200] + [500] * (ending != "now_unbilled")
    quantities = [line["quantity"] for invoice in seller.invoices(made) for line in invoice["lines"]["data"]]
    assert sum(quantities) == sum(totals) // 100


def test_drafts_are_kept_for_days(seller: Seller) -> None:
    """A seller can let renewals stay drafts for up to three days; they take usage until then."""
    browser = TestClient(create_app(seller.sandbox), base_url="http://127.0.0.1")
    for wrong in ({}, {"grace_hours": 0}, {"grace_hours": 73}, {"grace_hours": True}, {"grace_days": 1}):
        assert browser.post("/_sandbox/settings", json=wrong).status_code == 400
    set_to = browser.post("/_sandbox/settings", json={"grace_hours": 72}).json()
    assert set_to == {"after_retries": "canceled", "grace_hours": 72}
    made = seller.subscribe()
    end = made["items"]["data"][0]["current_period_end"]
    seller.move(end - seller.now + 71 * HOUR)
    seller.use(made["customer"], "4", at=end - 60)
    (draft,) = seller.invoices(made)
    assert (draft["status"], draft["automatically_finalizes_at"]) == ("draft", end + 72 * HOUR)
    seller.move(HOUR)
    assert [(i["status"], i["total"]) for i in seller.invoices(made)] == [("paid", 400)]
