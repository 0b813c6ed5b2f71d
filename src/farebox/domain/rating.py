"""Quantity × price → money, in exact decimals of minor units, rounded once per invoice line as Stripe rounds.

A plan makes a line for its base fee and, of each tier that a meter reaches, one for its units and one for its flat
amount. The first tier counts as reached without usage too, as Stripe has it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, localcontext
from enum import StrEnum
from fractions import Fraction

from farebox.domain.catalog import (
    AnyPrice,
    Catalog,
    PackagePrice,
    Plan,
    Price,
    Tier,
    TieredPrice,
    format_minor,
)
from farebox.domain.money import money_context
from farebox.domain.words import line_title

__all__ = [
    "Line",
    "LineKind",
    "amount_of",
    "described",
    "free",
    "included_left",
    "line_amount",
    "lines_of",
    "part_of",
    "price_lines",
    "total_of",
]


class LineKind(StrEnum):
    """What a line is of. MINIMUM: what is missing to the least that a period comes to."""

    USAGE = "usage"
    BASE = "base"
    SETUP = "setup"
    MINIMUM = "minimum"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of an invoice: `amount` is rounded, `unit_amount` exact, both in minor units.

    `meter` is None for what no meter counts. `tier` counts from 1. A flat amount has no quantity, `package` units a
    package.
    """

    meter: str | None
    quantity: int
    unit_amount: Decimal
    amount: int
    tier: int | None = None
    flat: bool = False
    package: int | None = None
    kind: LineKind = LineKind.USAGE


def line_amount(quantity: int, unit_amount: Decimal) -> int:
    """Amount of one invoice line in minor units. A negative quantity bills as 0."""
    with localcontext(money_context()):
        return int((max(quantity, 0) * unit_amount).quantize(Decimal(1)))


def lines_of(plan: Plan, used: Mapping[str, int], *, first: bool = False) -> tuple[Line, ...]:
    """The lines of one whole period's invoice, for what was used by meter. No usage, or a negative one, bills as 0.

    `first` adds what is charged once, with the first one.
    """
    lines = [_fee(plan.setup_fee, LineKind.SETUP)] if first and plan.setup_fee is not None else []
    counted = [_fee(plan.base, LineKind.BASE)] if plan.base is not None else []
    counted += [line for price in plan.prices for line in price_lines(price, used.get(price.meter, 0))]
    missing = plan.minimum - sum(line.amount for line in counted)
    if missing > 0:
        counted.append(_fee(Decimal(missing), LineKind.MINIMUM))
    return (*lines, *counted)


def price_lines(price: AnyPrice, quantity: int) -> tuple[Line, ...]:
    """The lines that one price makes of a quantity. A negative one bills as 0."""
    return tuple(_lines(price, max(quantity, 0)))


def amount_of(price: AnyPrice, quantity: int) -> int:
    """What a quantity of one period costs, in minor units, each line rounded."""
    return sum(line.amount for line in price_lines(price, quantity))


def part_of(amount: int, part_seconds: int, whole_seconds: int) -> int:
    """The share of an amount that falls on a part of its period, to the second, rounded as Stripe's prorations are."""
    with localcontext(money_context()):
        exact = money_context().divide(Decimal(amount * part_seconds), Decimal(whole_seconds))
        return int(exact.quantize(Decimal(1)))


def free(price: AnyPrice) -> Price:
    """The same meter at no cost, as in a trial."""
    return Price(price.meter, Decimal(0))


def included_left(price: AnyPrice, quantity: int) -> Fraction:
    """Which part of the units that a price includes for nothing is left after a quantity, from 0 to 1; 1 where it
    includes none."""
    first = price.tiers[0] if isinstance(price, TieredPrice) else None
    if first is None or first.up_to is None or first.unit_amount or first.flat_amount:
        return Fraction(1)
    return Fraction(min(max(first.up_to - quantity, 0), first.up_to), first.up_to)


def total_of(lines: tuple[Line, ...]) -> int:
    """What the lines come to, in minor units."""
    return sum(line.amount for line in lines)


def described(line: Line, plan: Plan, catalog: Catalog) -> str:
    """A line in words, much as Stripe writes it: 31 × Pro – API calls (tier 2 at 0.036 USD / month)."""
    if line.kind is LineKind.MINIMUM:
        return f"{plan.title} (to the minimum of {format_minor(plan.minimum, plan.currency)} / {plan.interval})"
    if line.kind is LineKind.SETUP:
        return f"{plan.title} (set-up, once)"
    title = plan.title if line.meter is None else line_title(plan, catalog.meters[line.meter])
    tier = f"tier {line.tier} " if line.tier is not None else ""
    price = f"{'flat' if line.flat else 'at'} {format_minor(line.unit_amount, plan.currency)}"
    units = f" per {line.package} units" if line.package is not None else ""
    count = "" if line.flat else f"{line.quantity} × "
    return f"{count}{title} ({tier}{price}{units} / {plan.interval})"


def _fee(amount: Decimal, kind: LineKind) -> Line:
    once = Line(None, 1, amount, line_amount(1, amount), kind=kind)
    return replace(once, quantity=0, flat=True) if kind is LineKind.MINIMUM else once


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
