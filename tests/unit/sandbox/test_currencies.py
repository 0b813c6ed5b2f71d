"""Amounts by currency: what can be charged, what is carried on in the balance, and how it is written."""

from decimal import Decimal
from typing import Any

import pytest
from tests.unit.sandbox.test_collection import payer
from tests.unit.sandbox.town import HOUR, Seller, Town

from farebox.sandbox.currencies import amount_text, chargeable
from farebox.sandbox.lines import money


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [
        ("1234", "kwd", "1.234"),
        ("5", "kwd", "0.005"),
        ("0.5", "kwd", "0.0005"),
        ("500", "jpy", "500"),
        ("1.5", "jpy", "1.5"),
        ("500", "ugx", "5.00"),
        ("500", "isk", "5.00"),
        ("500", "huf", "5.00"),
        ("-3.6", "usd", "-0.036"),
    ],
)
def test_amounts_are_written_by_their_currencys_decimals(minor: str, currency: str, text: str) -> None:
    """Zero, two or three decimals, and more of an exact amount."""
    assert amount_text(Decimal(minor), currency) == text
    assert money(Decimal(minor), currency) == (f"${text}" if currency == "usd" else f"{text} {currency.upper()}")


@pytest.mark.parametrize(
    ("due", "currency", "charged"),
    [
        (49, "usd", 0),
        (50, "usd", 50),
        (29, "gbp", 0),
        (30, "gbp", 30),
        (17_499, "huf", 0),
        (49, "jpy", 0),
        (1_234, "kwd", 1_230),
        (1_235, "kwd", 1_240),
        (149, "isk", 100),
        (150, "ugx", 200),
        (1, "xof", 1),
        (0, "usd", 0),
    ],
)
def test_what_can_be_charged(due: int, currency: str, charged: int) -> None:
    """Nothing below the least charge; whole crowns and shillings; no third decimal."""
    assert chargeable(due, currency) == charged


def invoiced(town: Town, customer: str, amount: int, currency: str) -> Any:
    town.post("/v1/invoiceitems", customer=customer, amount=amount, currency=currency)
    asked = {"customer": customer, "currency": currency, "pending_invoice_items_behavior": "include"}
    made = town.post("/v1/invoices", **asked, auto_advance=True)
    town.move(HOUR)
    return town.get(f"/v1/invoices/{made['id']}")


def test_what_is_too_small_waits_in_the_balance(seller: Seller) -> None:
    """An invoice below the least charge is paid without a charge, and the next one collects it."""
    customer = payer(seller)
    small = invoiced(seller, customer, 30, "usd")
    assert (small["status"], small["total"], small["amount_due"], small["amount_paid"]) == ("paid", 30, 0, 0)
    assert (small["ending_balance"], small["payments"]["data"]) == (30, [])
    assert seller.get(f"/v1/customers/{customer}")["balance"] == 30
    (moved,) = seller.get(f"/v1/customers/{customer}/balance_transactions")["data"]
    assert (moved["type"], moved["amount"]) == ("invoice_too_small", 30)
    following = invoiced(seller, customer, 30, "usd")
    assert (following["starting_balance"], following["amount_due"], following["amount_paid"]) == (30, 60, 60)
    assert seller.get(f"/v1/customers/{customer}")["balance"] == 0


def test_what_rounding_takes_goes_to_the_balance(seller: Seller) -> None:
    """What cannot be charged of an invoice is owed with the next one; what was charged too much is credited."""
    customer = payer(seller)
    down = invoiced(seller, customer, 1_234, "kwd")
    assert (down["total"], down["amount_paid"], down["ending_balance"]) == (1_234, 1_230, 4)
    up = invoiced(seller, customer, 1_232, "kwd")
    assert (up["amount_paid"], up["ending_balance"]) == (1_240, -4)


def test_a_balance_for_each_currency(seller: Seller) -> None:
    """What is owed in one currency is not collected in another."""
    customer = payer(seller)
    invoiced(seller, customer, 30, "usd")
    euros = invoiced(seller, customer, 100, "eur")
    assert (euros["starting_balance"], euros["amount_paid"]) == (0, 100)
    invoiced(seller, customer, 20, "eur")
    again = invoiced(seller, customer, 100, "eur")
    assert (again["starting_balance"], again["amount_paid"]) == (20, 120)
    assert seller.get(f"/v1/customers/{customer}")["balance"] == 30


@pytest.mark.parametrize(
    ("currency", "amount", "good"),
    [("isk", 1_050, 1_000), ("ugx", 1_050, 1_000), ("kwd", 1_234, 1_230), ("tnd", 5, 10)],
)
def test_what_could_never_be_charged_is_refused(town: Town, currency: str, amount: int, good: int) -> None:
    """Fixed prices and coupons in amounts that cannot be charged are refused; prices of usage may be finer."""
    product = town.post("/v1/products", name="P")["id"]
    asked = {"currency": currency, "product": product}
    for recurring in ({}, {"recurring": {"interval": "month"}}):
        refused = town.refused(400, "POST", "/v1/prices", {**asked, **recurring, "unit_amount": amount})
        assert refused["param"] == "unit_amount"
        assert town.post("/v1/prices", **asked, **recurring, unit_amount=good)["unit_amount"] == good
    exact = {"unit_amount_decimal": f"{amount}.5"}
    assert town.refused(400, "POST", "/v1/prices", {**asked, **exact})["param"] == "unit_amount_decimal"
    metered = {"interval": "month", "usage_type": "metered", "meter": town.meter()}
    assert town.post("/v1/prices", **asked, recurring=metered, unit_amount=amount)["unit_amount"] == amount
    off = {"currency": currency, "duration": "once", "amount_off": amount}
    assert town.refused(400, "POST", "/v1/coupons", off)["param"] == "amount_off"


def test_a_payment_that_is_too_small(town: Town) -> None:
    """A checkout in payment mode below the least charge is refused."""
    product = town.post("/v1/products", name="P")["id"]
    price = town.post("/v1/prices", currency="usd", product=product, unit_amount=40)["id"]
    asked = {"mode": "payment", "success_url": "https://x.example/", "line_items": [{"price": price, "quantity": 1}]}
    assert town.refused(400, "POST", "/v1/checkout/sessions", asked)["code"] == "amount_too_small"
