"""Money from quantities: exact, rounded once, as Stripe rounds."""

from decimal import ROUND_UP, Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.domain.rating import line_amount

prices = st.integers(0, 10**16).map(lambda n: Decimal(n).scaleb(-12))  # up to 10,000 cents, to 12 decimals
quantities = st.integers(0, 10**12)


@pytest.mark.parametrize(
    ("quantity", "unit_amount", "amount"),
    [
        (25, "100", 2500),
        (0, "100", 0),
        (25, "0", 0),
        (1, "0.5", 1),
        (3, "1.5", 5),
        (1, "0.4999999999", 0),
        (333, "0.3", 100),
        (10, "0.05", 1),
        (9, "0.05", 0),
        (7, "0.000000000001", 0),
        (10**12, "0.000000000001", 1),
        (10**12, "9999.999999999999", 9_999_999_999_999_999),
        (-5, "100", 0),
        (1_000_000, "1E+2", 100_000_000),
    ],
)
def test_amounts(quantity: int, unit_amount: str, amount: int) -> None:
    """I7: the product to the last decimal, half a minor unit rounded up, a negative sum billed as nothing."""
    assert line_amount(quantity, Decimal(unit_amount)) == amount


@given(quantities, prices)
def test_no_cent_differs(quantity: int, unit_amount: Decimal) -> None:
    """I7: for any quantity and any price that can be sold, the same as with fractions, which cannot round."""
    exact = quantity * Fraction(unit_amount)
    assert line_amount(quantity, unit_amount) == int(exact + Fraction(1, 2))


@given(quantities, quantities, prices)
def test_more_never_costs_less(one: int, other: int, unit_amount: Decimal) -> None:
    """More usage costs at least as much, and two lines differ from one by their rounding only."""
    few, many = sorted((one, other))
    assert line_amount(few, unit_amount) <= line_amount(many, unit_amount)
    apart = line_amount(few, unit_amount) + line_amount(many, unit_amount)
    assert abs(apart - line_amount(few + many, unit_amount)) <= 1


def test_the_callers_context() -> None:
    """A seller's own decimal settings change no invoice."""
    with localcontext() as context:
        context.prec = 3
        context.rounding = ROUND_UP
        assert line_amount(12_345, Decimal("1.5")) == 18_518
