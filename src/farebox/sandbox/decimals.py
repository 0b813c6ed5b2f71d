"""Decimals as Stripe's forms know them: ASCII digits and a point, exact however large, and never in exponents."""

import re
from decimal import Context, Decimal
from typing import Any, Final

__all__ = ["DECIMAL_DIGITS_MAX", "EXACT", "encode", "parsed", "plain"]

DECIMAL_DIGITS_MAX: Final = 40
# Wide enough for the product of two such numbers, summed over more events than fit in memory.
EXACT: Final = Context(prec=4 * DECIMAL_DIGITS_MAX)
_DECIMAL: Final = re.compile(r"-?\d+(\.\d+)?", re.ASCII)


def parsed(text: str) -> Decimal | None:
    """The number that this text writes, or None when it writes none or one with too many digits."""
    if len(text) > DECIMAL_DIGITS_MAX + len("-.") or _DECIMAL.fullmatch(text) is None:
        return None
    number = Decimal(text)
    return number if len(number.as_tuple().digits) <= DECIMAL_DIGITS_MAX else None


def plain(number: Decimal) -> str:
    """All of its digits, without zeros at the end."""
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def encode(value: object) -> Any:
    """What JSON does not know, as Stripe sends it: decimals as strings. For `json.dumps(default=…)`."""
    if isinstance(value, Decimal):
        return plain(value)
    if hasattr(value, "document"):  # a snapshot
        return value.document()
    raise TypeError(f"{type(value).__name__} cannot be sent")
