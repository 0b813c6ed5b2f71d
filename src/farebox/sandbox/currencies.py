"""Amounts by currency: decimals, what can be charged at all, and how an amount is written for people.

ISK and UGX have no fractions any more, and are still written with two decimals in the API; the third decimal of those
that have three cannot be charged.
"""

from decimal import Decimal
from typing import Final

from farebox.sandbox.decimals import EXACT, plain
from farebox.sandbox.errors import invalid

__all__ = ["amount_text", "chargeable", "check_step", "decimals_of"]

_ZERO_DECIMAL: Final = frozenset(
    ["bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"]
)
_THREE_DECIMAL: Final = frozenset(["bhd", "jod", "kwd", "omr", "tnd"])
_WHOLE_ONLY: Final = frozenset({"isk", "ugx"})
_LEAST: Final = {  # minor units that can be charged, where Stripe lists them; elsewhere it converts
    "usd": 50,
    "aed": 200,
    "aud": 50,
    "bgn": 100,
    "brl": 50,
    "cad": 50,
    "chf": 50,
    "czk": 1_500,
    "dkk": 250,
    "eur": 50,
    "gbp": 30,
    "hkd": 400,
    "huf": 17_500,
    "inr": 50,
    "jpy": 50,
    "mxn": 1_000,
    "myr": 200,
    "nok": 300,
    "nzd": 50,
    "pln": 200,
    "ron": 200,
    "sek": 300,
    "sgd": 50,
    "thb": 1_000,
}


def decimals_of(currency: str) -> int:
    """How many decimals the amounts of a currency have in the API."""
    if currency.lower() in _ZERO_DECIMAL:
        return 0
    return 3 if currency.lower() in _THREE_DECIMAL else 2


def _step(currency: str) -> int:
    if currency in _WHOLE_ONLY:
        return 100
    return 10 if currency in _THREE_DECIMAL else 1


def chargeable(amount: int, currency: str) -> int:
    """What an invoice charges of an amount due: the nearest that can be charged, or nothing below the least charge."""
    step = _step(currency)
    rounded = (amount + step // 2) // step * step
    return rounded if rounded >= _LEAST.get(currency, 1) else 0


def check_step(amount: Decimal | int | None, currency: str, param: str) -> None:
    """Refuse an amount that could never be charged as it is."""
    step = _step(currency)
    if amount is not None and step > 1 and amount % step:
        message = f"Invalid amount: amounts in {currency} must be evenly divisible by {step}."
        raise invalid(message, param=param)


def amount_text(minor: Decimal | int, currency: str) -> str:
    """Minor units in major ones, with all of their decimals, without the currency."""
    decimals = decimals_of(currency)
    whole, _, part = plain(EXACT.scaleb(Decimal(minor), -decimals)).partition(".")
    digits = part.ljust(decimals, "0")
    return f"{whole}.{digits}" if digits else whole
