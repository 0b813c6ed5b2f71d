"""Quantity × price → money, in exact decimals of minor units, rounded once per invoice line as Stripe rounds."""

from decimal import ROUND_HALF_UP, Decimal

__all__ = ["line_amount"]


def line_amount(quantity: int, unit_amount: Decimal) -> int:
    """Amount of one invoice line in minor units. A negative quantity bills as 0."""
    exact = max(quantity, 0) * unit_amount
    return int(exact.quantize(Decimal(1), rounding=ROUND_HALF_UP))
