"""What an invoice must come to, straight from the definition of each price kind, in fractions.

Written apart: imports nothing of Farebox, shares no code or shape with it, and knows money only as fractions.
"""

from dataclasses import dataclass
from fractions import Fraction

__all__ = ["Package", "PerUnit", "Tier", "Tiered", "half_up", "line_amounts", "prorated"]


@dataclass(frozen=True)
class PerUnit:
    """Every unit costs the same."""

    unit: Fraction


@dataclass(frozen=True)
class Package:
    """Units come in packages; a begun package counts whole when rounding up, and not at all when rounding down."""

    unit: Fraction
    size: int
    up: bool


@dataclass(frozen=True)
class Tier:
    """Up to and including `last`; None: without end."""

    last: int | None
    unit: Fraction | None
    flat: Fraction | None


@dataclass(frozen=True)
class Tiered:
    """Graduated: each unit costs what its tier says. Volume: all cost what the tier of the last one says."""

    tiers: tuple[Tier, ...]
    graduated: bool


def half_up(money: Fraction) -> int:
    """To whole minor units, a half away from zero."""
    whole = (abs(money) * 2 + 1) // 2
    return int(whole) if money >= 0 else -int(whole)


def line_amounts(price: PerUnit | Package | Tiered, used: Fraction) -> list[int]:
    """The amount of every line, in order: for each tier reached its units, then its flat amount if it has one."""
    used = max(used, Fraction(0))
    if isinstance(price, PerUnit):
        return [half_up(used * price.unit)]
    if isinstance(price, Package):
        packages = -(-used // price.size) if price.up else used // price.size
        return [half_up(packages * price.unit)]
    lines = []
    for tier, units in _reached(price, used):
        lines.append(half_up(units * (tier.unit or 0)))
        if tier.flat is not None:
            lines.append(half_up(tier.flat))
    return lines


def _reached(price: Tiered, used: Fraction) -> list[tuple[Tier, Fraction]]:
    if not price.graduated:
        return [next((tier, used) for tier in price.tiers if tier.last is None or used <= tier.last)]
    found = []
    first = Fraction(0)
    for i, tier in enumerate(price.tiers):
        inside = used - first if tier.last is None else min(used, Fraction(tier.last)) - first
        if i == 0 or inside > 0:
            found.append((tier, inside))
        if tier.last is not None:
            first = Fraction(tier.last)
    return found


def prorated(amount: int, part: int, whole: int) -> int:
    """The share of an amount for `part` of the `whole` seconds of its period."""
    return half_up(Fraction(amount * part, whole))
