"""Quantity × price → money, in exact decimals of minor units, rounded once per invoice line as Stripe rounds.

A plan makes a line for its base fee and, of each tier that a meter reaches, one for its units and one for its flat
amount. The first tier counts as reached without usage too, as Stripe has it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext

from farebox.domain.catalog import AnyPrice, Catalog, PackagePrice, Plan, Tier, TieredPrice, format_minor
from farebox.domain.money import money_context

__all__ = ["Line", "described", "line_amount", "lines_of", "total_of"]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of an invoice: `amount` is rounded, `unit_amount` exact, both in minor units.

    `meter` is None for the base fee. `tier` counts from 1. A flat amount has no quantity, `package` units a package.
    """

    meter: str | None
    quantity: int
    unit_amount: Decimal
    amount: int
    tier: int | None = None
    flat: bool = False
    package: int | None = None


def line_amount(quantity: int, unit_amount: Decimal) -> int:
    """Amount of one invoice line in minor units. A negative quantity bills as 0."""
    with localcontext(money_context()):
        return int((max(quantity, 0) * unit_amount).quantize(Decimal(1)))


def lines_of(plan: Plan, used: Mapping[str, int]) -> tuple[Line, ...]:
    """The lines of one period's invoice, for what was used by meter. No usage, or a negative one, bills as 0."""
    base = () if plan.base is None else (Line(None, 1, plan.base, line_amount(1, plan.base)),)
    return base + tuple(line for price in plan.prices for line in _lines(price, max(used.get(price.meter, 0), 0)))


def total_of(lines: tuple[Line, ...]) -> int:
    """What the lines come to, in minor units."""
    return sum(line.amount for line in lines)


def described(line: Line, plan: Plan, catalog: Catalog) -> str:
    """A line in words, much as Stripe writes it: 31 × API calls (tier 2 at 0.036 USD / month)."""
    title = plan.title if line.meter is None else catalog.meters[line.meter].title
    tier = f"tier {line.tier} " if line.tier is not None else ""
    price = f"{'flat' if line.flat else 'at'} {format_minor(line.unit_amount, plan.currency)}"
    units = f" per {line.package} units" if line.package is not None else ""
    count = "" if line.flat else f"{line.quantity} × "
    return f"{count}{title} ({tier}{price}{units} / {plan.interval})"


def _lines(price: AnyPrice, quantity: int) -> list[Line]:
    meter = price.meter
    if isinstance(price, TieredPrice):
        reached = _graduated(price.tiers, quantity) if price.graduated else _volume(price.tiers, quantity)
        return [line for number, units in reached for line in _tier_lines(meter, number, price.tiers, units)]
    unit = price.unit_amount
    if isinstance(price, PackagePrice):
        packages = -(-quantity // price.size) if price.rounds_up else quantity // price.size
        return [Line(meter, quantity, unit, line_amount(packages, unit), package=price.size)]
    return [Line(meter, quantity, unit, line_amount(quantity, unit))]


def _graduated(tiers: tuple[Tier, ...], quantity: int) -> list[tuple[int, int]]:
    """Each tier that is reached, by its number, and how many of the units fall into it."""
    reached = []
    below = 0
    for number, tier in enumerate(tiers, 1):
        top = quantity if tier.up_to is None else min(quantity, tier.up_to)
        if top > below or number == 1:
            reached.append((number, top - below))
        below = top
    return reached


def _volume(tiers: tuple[Tier, ...], quantity: int) -> list[tuple[int, int]]:
    """The one tier that the whole quantity falls into, by its number."""
    return [next((n, quantity) for n, tier in enumerate(tiers, 1) if tier.up_to is None or quantity <= tier.up_to)]


def _tier_lines(meter: str, number: int, tiers: tuple[Tier, ...], units: int) -> list[Line]:
    unit, flat = tiers[number - 1].unit_amount, tiers[number - 1].flat_amount
    lines = [Line(meter, units, unit, line_amount(units, unit), number)]
    if flat is not None:
        lines.append(Line(meter, 0, flat, line_amount(1, flat), number, flat=True))
    return lines
