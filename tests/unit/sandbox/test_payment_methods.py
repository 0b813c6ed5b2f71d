"""Cards over the API, by the names of Stripe's test cards; one-time prices in checkout; and the page's own API."""

from typing import Any

import pytest
from tests.unit.sandbox.town import Town

METHODS = "/v1/payment_methods"


def card(town: Town, name: str = "tok_visa", **more: Any) -> str:
    return str(town.post(METHODS, type="card", card={"token": name}, **more)["id"])


def basket(town: Town, **changes: Any) -> dict[str, Any]:
    product = town.post("/v1/products", name="Shirt")["id"]
    price = town.post("/v1/prices", currency="usd", unit_amount=1_500, product=product)["id"]
    items = [{"price": price, "quantity": 2}]
    return {"mode": "payment", "success_url": "https://seller.example", "line_items": items, **changes}


def test_a_card(town: Town) -> None:
    """A test token becomes a card that is nobody's until it is attached, and nobody's again when it is detached."""
    details = {"name": "Ada", "email": "ada@example.test", "address": {"city": "Zürich", "country": "CH"}}
    id, customer = card(town, billing_details=details, metadata={"a": "b"}), town.customer()
    made = town.get(f"{METHODS}/{id}")
    assert (made["customer"], made["card"]["last4"], made["metadata"]) == (None, "4242", {"a": "b"})
    assert (made["billing_details"]["name"], made["billing_details"]["address"]["city"]) == ("Ada", "Zürich")
    assert town.post(f"{METHODS}/{id}/attach", customer=customer)["customer"] == customer
    assert [m["id"] for m in town.get(METHODS, customer=customer)["data"]] == [id]
    assert town.get(METHODS)["data"] == []
    assert town.refused(400, "POST", f"{METHODS}/{id}/attach", {"customer": customer}) == {
        "type": "invalid_request_error"
    }
    town.post(f"/v1/customers/{customer}", invoice_settings={"default_payment_method": id})
    assert town.post(f"{METHODS}/{id}/detach")["customer"] is None
    assert town.get(f"/v1/customers/{customer}")["invoice_settings"]["default_payment_method"] is None
    assert town.get(METHODS, customer=customer)["data"] == []
    assert town.refused(400, "POST", f"{METHODS}/{id}/detach") == {"type": "invalid_request_error"}
    kinds = [kind for kind in town.events() if kind.startswith("payment_method")]
    assert kinds == ["payment_method.attached", "payment_method.detached"]


def test_a_customer_with_a_card(town: Town) -> None:
    """A customer may come with a card, by its id or a test card's name; one name in one request is one card."""
    both = {"payment_method": "pm_card_visa", "invoice_settings": {"default_payment_method": "pm_card_visa"}}
    customer = town.post("/v1/customers", **both)
    (own,) = town.get(METHODS, customer=customer["id"])["data"]
    assert customer["invoice_settings"]["default_payment_method"] == own["id"]
    changed = town.post(
        f"/v1/customers/{customer['id']}", invoice_settings={"default_payment_method": "pm_card_mastercard"}
    )
    (second, _) = town.get(METHODS, customer=customer["id"])["data"]
    assert second["card"]["brand"] == "mastercard"
    assert changed["invoice_settings"]["default_payment_method"] == second["id"]


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"payment_method": "pm_none"}, "payment_method"),
        (
            {"invoice_settings": {"default_payment_method": "pm_card_gold"}},
            "invoice_settings[default_payment_method]",
        ),
    ],
)
def test_cards_that_are_not_there(town: Town, asked: dict[str, Any], param: str) -> None:
    """A card that is not there makes no customer."""
    refused = town.refused(400, "POST", "/v1/customers", asked)
    assert (refused["code"], refused["param"]) == ("resource_missing", param)
    assert town.get("/v1/customers")["data"] == []


def test_cards_of_others(town: Town) -> None:
    """One customer's card serves no other."""
    id = card(town)
    town.post(f"{METHODS}/{id}/attach", customer=town.customer())
    other = town.customer()
    refused = town.refused(400, "POST", f"/v1/customers/{other}", {"invoice_settings": {"default_payment_method": id}})
    assert refused["param"] == "invoice_settings[default_payment_method]"
    assert town.refused(400, "POST", "/v1/customers", {"payment_method": id})["param"] == "payment_method"


@pytest.mark.parametrize(
    ("asked", "status", "error"),
    [
        ({}, 400, {"type": "invalid_request_error", "code": "parameter_missing", "param": "type"}),
        ({"type": "card"}, 400, {"type": "invalid_request_error", "code": "parameter_missing", "param": "card"}),
        (
            {"type": "card", "card": {"token": "tok_gold"}},
            400,
            {"type": "invalid_request_error", "code": "resource_missing", "param": "card[token]"},
        ),
        (
            {"type": "card", "card": {"number": "4242424242424242", "exp_month": 12, "exp_year": 2040, "cvc": "123"}},
            402,
            {"type": "card_error", "param": "card[number]"},
        ),
        ({"type": "sepa_debit"}, 501, {"type": "api_error", "code": "not_modelled"}),
    ],
)
def test_cards_that_are_refused(town: Town, asked: dict[str, Any], status: int, error: dict[str, str]) -> None:
    """Only test tokens make cards: numbers are refused as Stripe refuses them."""
    assert town.refused(status, "POST", METHODS, asked) == error


def test_one_time_checkout(town: Town) -> None:
    """A session of one-time prices has its amounts, and is paid on its page or over the page's own API."""
    session = town.post("/v1/checkout/sessions", **basket(town))
    assert (session["mode"], session["amount_total"], session["customer_creation"]) == ("payment", 3_000, "if_required")
    town.pay(session["id"], email="ada@example.test")
    paid = town.get(f"/v1/checkout/sessions/{session['id']}")
    assert (paid["status"], paid["payment_status"], paid["customer"]) == ("complete", "paid", None)
    assert paid["customer_details"]["email"] == "ada@example.test"
    assert town.events()[-1] == "checkout.session.completed"
    other = town.post("/v1/checkout/sessions", **basket(town))["id"]
    confirm = f"/v1/payment_pages/{other}/confirm"
    wrong = town.refused(400, "POST", confirm, {"payment_method": card(town), "expected_amount": 1})
    assert wrong["param"] == "expected_amount"
    declined = town.refused(402, "POST", confirm, {"payment_method": card(town, "tok_chargeCustomerFail")})
    assert declined["code"] == "card_declined"
    assert town.post(confirm, payment_method=card(town), expected_amount=3_000)["status"] == "complete"
    assert town.get(f"/v1/payment_pages/{other}")["total"] == 3_000
    assert town.refused(400, "POST", confirm, {"payment_method": card(town)}) == {"type": "invalid_request_error"}


def test_modes_are_kept_apart(town: Town) -> None:
    """What belongs to the other mode is refused, and so are recurring prices in payment mode."""
    meter = town.meter()
    recurring = [{"price": town.price(meter), "quantity": 1}]
    for changes, param in (
        ({"subscription_data": {"description": "x"}}, "subscription_data"),
        ({"line_items": recurring}, "line_items[0][price]"),
        ({"mode": "subscription", "payment_intent_data": {"description": "x"}}, "payment_intent_data"),
    ):
        refused = town.refused(400, "POST", "/v1/checkout/sessions", basket(town, **changes))
        assert refused["param"] == param
    missing = basket(town)
    del missing["line_items"][0]["quantity"]
    assert town.refused(400, "POST", "/v1/checkout/sessions", missing)["param"] == "line_items[0][quantity]"
    assert town.refused(501, "POST", "/v1/checkout/sessions", basket(town, mode="setup"))["code"] == "not_modelled"
