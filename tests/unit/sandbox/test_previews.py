"""Previews: the next invoice as it stands, as a change would make it, and of a subscription that is not made yet."""

from typing import Any

import pytest
from tests.unit.sandbox.test_licensed import lines, payer, seats
from tests.unit.sandbox.town import DAY, HOUR, START_AT, Seller

PREVIEW = "/v1/invoices/create_preview"


def hybrid(seller: Seller, quantity: int = 2) -> Any:
    items = [{"price": seats(seller), "quantity": quantity}, {"price": seller.price_id}]
    return seller.post("/v1/subscriptions", customer=payer(seller), items=items)


def seat(subscription: Any) -> str:
    return str(subscription["items"]["data"][0]["id"])


def preview(seller: Seller, subscription: Any, **details: Any) -> Any:
    return seller.post(PREVIEW, subscription=subscription["id"], subscription_details=details)


@pytest.mark.parametrize("behavior", ["none", "create_prorations", "always_invoice"])
def test_a_change_is_previewed_as_it_will_be_billed(seller: Seller, behavior: str) -> None:
    """What a change would be billed is what it is billed then, and the preview itself changes nothing."""
    made = hybrid(seller)
    seller.use(made["customer"], "3")
    seller.move(10 * DAY)
    change = {"items": [{"id": seat(made), "quantity": 5}], "proration_behavior": behavior}
    before = (seller.subscription(made["id"]), seller.events())
    shown = preview(seller, made, **change)
    assert (seller.subscription(made["id"]), seller.events()) == before
    seller.post(f"/v1/subscriptions/{made['id']}", **change)
    if behavior != "always_invoice":
        seller.move(21 * DAY + HOUR)
    assert lines(seller.invoices(made)[-1]) == lines(shown)
    assert shown["id"].startswith("upcoming_")


@pytest.mark.parametrize(
    ("details", "total"),
    [
        ({}, 2_300),
        ({"cancel_at_period_end": True}, 300),
        ({"cancel_now": True}, 300 - 1_355),
        ({"cancel_now": True, "proration_behavior": "none"}, 300),
        ({"items": [{"id": "SEAT", "deleted": True}], "proration_behavior": "none"}, 300),
    ],
)
def test_ends_and_changes_in_a_preview(seller: Seller, details: dict[str, Any], total: int) -> None:
    """Ending it, now or with the period, and taking items off are previewed with what they leave to bill."""
    made = hybrid(seller)
    seller.use(made["customer"], "3")
    seller.move(10 * DAY)
    if "items" in details:
        details = {**details, "items": [{**details["items"][0], "id": seat(made)}]}
    assert preview(seller, made, **details)["total"] == total


def test_a_trial_in_a_preview(seller: Seller) -> None:
    """A trial's next invoice is the first that costs, at its end, or now if it ends now."""
    asked = {"customer": payer(seller), "items": [{"price": seats(seller)}, {"price": seller.price_id}]}
    made = seller.post("/v1/subscriptions", **asked, trial_period_days=14)
    seller.use(made["customer"], "9")
    shown = preview(seller, made)
    assert lines(shown) == [("Trial period for API calls", 0), ("1 seat × Seats (at $10.00 / month)", 1_000)]
    now = preview(seller, made, trial_end="now")
    assert (now["total"], now["lines"]["data"][1]["period"]["start"]) == (1_000, START_AT)
    seller.move(14 * DAY + HOUR)
    assert lines(seller.invoices(made)[-1]) == lines(shown)


def test_a_subscription_that_is_not_made_yet(seller: Seller) -> None:
    """For a customer and items, the first invoice is shown, with discounts and further amounts."""
    customer = seller.customer(balance=-300)
    coupon = seller.post("/v1/coupons", percent_off=50)["id"]
    items = [{"price": seats(seller), "quantity": 4}, {"price": seller.price_id}]
    asked = {"customer": customer, "subscription_details": {"items": items}}
    shown = seller.post(PREVIEW, **asked)
    assert (shown["total"], shown["starting_balance"], shown["amount_due"]) == (4_000, -300, 3_700)
    extra = [{"amount": 500, "currency": "usd", "description": "Setup"}]
    shown = seller.post(PREVIEW, **asked, discounts=[{"coupon": coupon}], invoice_items=extra)
    assert (shown["subtotal"], shown["total"]) == (4_500, 2_250)
    assert seller.get("/v1/subscriptions", customer=customer)["data"] == []
    trial = seller.post(PREVIEW, customer=customer, subscription_details={"items": items, "trial_end": START_AT + DAY})
    assert trial["total"] == 0


def test_a_customers_next_invoice(seller: Seller) -> None:
    """Without a subscription's name it is the customer's that is billed next."""
    customer = payer(seller)
    weekly = seller.price(seller.meter("other"), "500", interval="week")
    seller.post("/v1/subscriptions", customer=customer, items=[{"price": weekly}])
    seller.use(customer, "2", name="other")
    assert seller.post(PREVIEW, customer=customer)["total"] == 1_000


@pytest.mark.parametrize(
    ("asked", "status", "error"),
    [
        ({}, 400, {"param": "subscription"}),
        ({"subscription": "sub_none"}, 400, {"param": "subscription", "code": "resource_missing"}),
        ({"customer": "cus_none"}, 400, {"param": "customer", "code": "resource_missing"}),
        ({"customer": "NOBODY"}, 400, {"code": "invoice_upcoming_none"}),
        ({"customer": "NOBODY", "subscription": "OWN"}, 400, {"param": "customer"}),
        ({"schedule": "sub_sched_1"}, 501, {"code": "not_modelled"}),
        ({"customer": "NOBODY", "subscription_details": {"items": [{"quantity": 1}]}}, 400, {}),
    ],
)
def test_previews_that_are_refused(seller: Seller, asked: dict[str, Any], status: int, error: dict[str, str]) -> None:
    """A preview needs something to bill; schedules are not modelled."""
    ids = {"NOBODY": seller.customer(), "OWN": seller.subscribe()["id"]}
    sent = {name: ids.get(value, value) if isinstance(value, str) else value for name, value in asked.items()}
    assert error.items() <= seller.refused(status, "POST", PREVIEW, sent).items()
