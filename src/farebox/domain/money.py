"""The decimals that money is computed with: exact, and never those that the seller's own code has set."""

from decimal import ROUND_HALF_UP, Context
from typing import Final

__all__ = ["MONEY_DIGITS_MAX", "money_context"]

MONEY_DIGITS_MAX: Final = 60


def money_context() -> Context:
    """A context of our own: what the seller has set for their own decimals must change no invoice."""
    return Context(prec=MONEY_DIGITS_MAX, rounding=ROUND_HALF_UP)
