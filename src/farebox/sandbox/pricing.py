"""What a quantity costs by a price: per unit, in packages, graduated or by volume. Pure, exact, rounded once a line.

A graduated or volume price makes a line for the units of each tier reached, and one for that tier's flat amount.
"""

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Final

from farebox.sandbox.decimals import EXACT
from farebox.sandbox.state import StripeObject

__all__ = ["Charge", "amount_of", "charges", "rounded", "share"]

_ZERO: Final = Decimal(0)


@dataclass(frozen=True, slots=True)
class Charge:
    """One line of an invoice. `tier` counts from 1 and is None without tiers; a flat amount has no quantity."""

    amount: int
    quantity: Decimal
    unit_amount: Decimal
    tier: int | None = None
    flat: bool = False


@dataclass(frozen=True, slots=True)
class _Part:
    exact: Decimal
    quantity: Decimal
    unit_amount: Decimal


_NOTHING: Final = _Part(_ZERO, _ZERO, _ZERO)
_Key = tuple[int | None, bool]


def rounded(exact: Decimal) -> int:
    """Whole minor units, half away from zero."""
    return int(exact.to_integral_value(ROUND_HALF_UP))


def charges(price: StripeObject, quantity: Decimal, billed: Decimal | None = None) -> list[Charge]:
    """The lines for a quantity; with `billed`, for what it costs beyond that much of it that was billed already."""
    after = _parts(price, max(quantity, _ZERO))
    if billed is None:
        return [_charge(key, part, _NOTHING) for key, part in after.items()]
    before = _parts(price, max(billed, _ZERO))
    keys = [*after, *(key for key in before if key not in after)]
    found = [_charge(key, after.get(key, _NOTHING), before.get(key, _NOTHING)) for key in keys]
    return [c for c in found if c.amount or c.quantity] or found[:1]


def amount_of(price: StripeObject, quantity: Decimal) -> int:
    """What a quantity costs in all."""
    return sum(charge.amount for charge in charges(price, quantity))


def share(amount: int, part_seconds: int, whole_seconds: int) -> int:
    """The part of an amount that falls on a part of its period, to the second."""
    return rounded(EXACT.divide(Decimal(amount * part_seconds), Decimal(whole_seconds)))


def _charge(key: _Key, after: _Part, before: _Part) -> Charge:
    amount = rounded(after.exact) - rounded(before.exact)
    unit_amount = after.unit_amount or before.unit_amount
    return Charge(amount, EXACT.subtract(after.quantity, before.quantity), unit_amount, *key)


def _parts(price: StripeObject, quantity: Decimal) -> dict[_Key, _Part]:
    if price["billing_scheme"] == "tiered":
        tiers: list[StripeObject] = price["_tiers"]
        return _graduated(tiers, quantity) if price["tiers_mode"] == "graduated" else _volume(tiers, quantity)
    unit: Decimal = price["unit_amount_decimal"]
    return {(None, False): _Part(EXACT.multiply(_packages(price, quantity), unit), quantity, unit)}


def _packages(price: StripeObject, quantity: Decimal) -> Decimal:
    package = price["transform_quantity"]
    if package is None:
        return quantity
    whole, rest = EXACT.divmod(quantity, Decimal(package["divide_by"]))
    return EXACT.add(whole, Decimal(1 if rest and package["round"] == "up" else 0))


def _graduated(tiers: list[StripeObject], quantity: Decimal) -> dict[_Key, _Part]:
    """Each unit by the tier that it falls into. The first tier counts as reached without usage too."""
    found: dict[_Key, _Part] = {}
    below = _ZERO
    for number, tier in enumerate(tiers, 1):
        if number > 1 and quantity <= below:
            break
        top = Decimal(tier["up_to"]) if tier["up_to"] is not None else quantity
        found.update(_tier(number, tier, EXACT.subtract(min(quantity, top), below)))
        below = top
    return found


def _volume(tiers: list[StripeObject], quantity: Decimal) -> dict[_Key, _Part]:
    """All units by the one tier that the whole quantity falls into."""
    number, tier = next((n, t) for n, t in enumerate(tiers, 1) if t["up_to"] is None or quantity <= t["up_to"])
    return _tier(number, tier, quantity)


def _tier(number: int, tier: StripeObject, quantity: Decimal) -> dict[_Key, _Part]:
    unit: Decimal = tier["unit_amount_decimal"] if tier["unit_amount_decimal"] is not None else _ZERO
    found: dict[_Key, _Part] = {(number, False): _Part(EXACT.multiply(quantity, unit), quantity, unit)}
    flat: Decimal | None = tier["flat_amount_decimal"]
    if flat is not None:
        found[number, True] = _Part(flat, _ZERO, flat)
    return found
