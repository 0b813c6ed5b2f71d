"""What is sold: prices in exact minor units, and how they are shown."""

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.domain.catalog import (
    UNIT_AMOUNT_DECIMALS_MAX,
    Fee,
    FeeKind,
    Plan,
    Price,
    Route,
    charge_step,
    currency_decimals,
    format_minor,
    minor_units,
)


@pytest.mark.parametrize(
    ("currency", "decimals"),
    [("usd", 2), ("eur", 2), ("jpy", 0), ("krw", 0), ("kwd", 3), ("jod", 3), ("ugx", 2), ("isk", 2)],
)
def test_decimals_of_a_currency(currency: str, decimals: int) -> None:
    """Most currencies have hundredths; some have none and some thousandths, as Stripe counts them."""
    assert currency_decimals(currency) == decimals


@pytest.mark.parametrize(
    ("currency", "step"), [("usd", 1), ("jpy", 1), ("huf", 1), ("isk", 100), ("ugx", 100), ("kwd", 10), ("tnd", 10)]
)
def test_what_stripe_charges_in(currency: str, step: int) -> None:
    """Crowns and shillings are charged whole, and the third decimal of a currency not at all."""
    assert charge_step(currency) == step


@pytest.mark.parametrize(
    ("amount", "currency", "minor", "shown"),
    [
        ("1.00", "usd", "100", "1.00 USD"),
        ("1", "usd", "100", "1.00 USD"),
        ("0", "usd", "0", "0.00 USD"),
        ("0.015", "usd", "1.5", "0.015 USD"),
        ("0.00000000000001", "usd", "0.000000000001", "0.00000000000001 USD"),
        ("250", "jpy", "250", "250 JPY"),
        ("0.5", "jpy", "0.5", "0.5 JPY"),
        ("1.234", "kwd", "1234", "1.234 KWD"),
        ("50", "ugx", "5000", "50.00 UGX"),
        ("19.90", "eur", "1990", "19.90 EUR"),
        ("1e-3", "usd", "0.1", "0.001 USD"),
    ],
)
def test_prices(amount: str, currency: str, minor: str, shown: str) -> None:
    """A price in words is exact in minor units, and comes back in words without losing a decimal."""
    found = minor_units(amount, currency)
    assert found == Decimal(minor)
    assert format_minor(found, currency) == shown


@pytest.mark.parametrize(
    "amount",
    [
        "",
        "free",
        "1,00",
        "$1",
        "-1",
        "-0.01",
        "NaN",
        "sNaN",
        "Infinity",
        "-Infinity",
        "0x10",
        "0.000000000000001",
        "1e-15",
    ],
)
def test_no_prices(amount: str) -> None:
    """What is no finite amount from zero up, or finer than Stripe takes, is refused with the text that was wrong."""
    with pytest.raises(ValueError, match=r"is not a decimal|must be a finite|decimals of a minor unit") as refused:
        minor_units(amount, "usd")
    assert repr(amount) in str(refused.value)


@pytest.mark.parametrize("amount", ["1e1000000", "1E+999999999999999999", "9" * 40])
def test_giant_prices(amount: str) -> None:
    """An amount beyond all prices is refused in words: neither an arithmetic error nor quietly another number."""
    with pytest.raises(ValueError, match=r"\d"):
        minor_units(amount, "usd")


@given(st.integers(0, 10**10), st.integers(0, UNIT_AMOUNT_DECIMALS_MAX), st.sampled_from(["usd", "jpy", "kwd"]))
def test_nothing_is_lost(digits: int, places: int, currency: str) -> None:
    """I7: any decimal text is exactly its value in minor units, and is shown as exactly that value again."""
    text = f"{Decimal(digits).scaleb(-places):f}"
    found = minor_units(text, currency)
    assert Fraction(found) == Fraction(text) * 10 ** currency_decimals(currency)
    assert Fraction(format_minor(found, currency).split()[0]) == Fraction(text)


@pytest.mark.parametrize(
    ("amount", "currency", "shown"),
    [(2500, "usd", "25.00 USD"), (5, "usd", "0.05 USD"), (-150, "usd", "-1.50 USD"), (100, "jpy", "100 JPY")],
)
def test_sums_are_shown(amount: int, currency: str, shown: str) -> None:
    """Whole minor units are shown with the currency's own decimals."""
    assert format_minor(amount, currency) == shown


def test_names() -> None:
    """A price is found at Stripe by its plan and meter, and a rule is named as farebox.toml writes it."""
    price, base = Price("calls", Decimal(100)), Fee(FeeKind.BASE, Decimal(1))
    plan = Plan("payg", "Payg", "usd", "month", (price,))
    assert [plan.lookup_key(sold) for sold in (price, base)] == ["farebox_payg_calls", "farebox_payg:base"]
    other = replace(plan, currency="eur", is_other=True)
    assert [other.lookup_key(sold) for sold in (price, base)] == ["farebox_payg_calls:eur", "farebox_payg:base:eur"]
    assert Route("GET", "/files/**", False, "calls", 1).match == "GET /files/**"
