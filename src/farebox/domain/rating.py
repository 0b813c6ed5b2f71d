"""Quantity × price → money, in exact decimals of minor units, rounded once per invoice line as Stripe rounds."""

from decimal import ROUND_HALF_UP, Context, Decimal, localcontext
from typing import Final

__all__ = ["MONEY_DIGITS_MAX", "line_amount", "money_context"]

MONEY_DIGITS_MAX: Final = 60


def money_context() -> Context:
    """A context of our own: what the seller has set for their own decimals must change no invoice."""
    return Context(prec=MONEY_DIGITS_MAX, rounding=ROUND_HALF_UP)


def line_amount(quantity: int, unit_amount: Decimal) -> int:
    """Amount of one invoice line in minor units. A negative quantity bills as 0."""
    with localcontext(money_context()):
        return int((max(quantity, 0) * unit_amount).quantize(Decimal(1)))
