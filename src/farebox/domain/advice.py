"""What in a catalog may not be meant: nothing here is wrong enough to be refused."""

from dataclasses import dataclass

from farebox.domain.catalog import AnyPrice, Catalog, Plan, Route, TieredPrice, format_minor
from farebox.domain.paths import covers

__all__ = ["Advice", "advice_on"]


@dataclass(frozen=True, slots=True)
class Advice:
    """Something odd at a dotted path of farebox.toml: what it means, and what to look at."""

    path: str
    message: str
    hint: str


def advice_on(catalog: Catalog) -> list[Advice]:
    """All of it, in the order meters, plans, routes."""
    priced = {price.meter for plan in catalog.plans.values() for price in plan.prices}
    counted = {meter for route in catalog.routes for meter in route.meters}
    found = [
        Advice(f"meters.{name}", "no route and no plan uses it", "take it out, or give it a price")
        for name in catalog.meters
        if name not in priced | counted
    ]
    for plan in catalog.plans.values():
        found += _advice_on_plan(plan)
        found += _advice_on_gaps(plan, catalog, counted & priced)
    found += [
        Advice(_counts(i, route), f"no plan has a price for {meter!r}", "it is counted and costs nothing")
        for i, route in enumerate(catalog.routes)
        for meter in route.meters
        if meter not in priced
    ]
    return found + _advice_on_order(catalog)


def _advice_on_order(catalog: Catalog) -> list[Advice]:
    """Rules that no request reaches, because an earlier one takes all of theirs."""
    found = []
    for number, route in enumerate(catalog.routes):
        first = next((i for i, earlier in enumerate(catalog.routes[:number]) if covers(earlier, route)), None)
        if first is not None:
            message = f"no request reaches this rule: routes[{first}], {catalog.routes[first].match!r}, takes them all"
            found.append(Advice(f"routes[{number}].match", message, "put the narrower rule first"))
    return found


def _advice_on_gaps(plan: Plan, catalog: Catalog, counted: set[str]) -> list[Advice]:
    """Meters that routes count and other plans sell, and this plan does not."""
    own = {price.meter for price in plan.prices}
    found = []
    for name in sorted(counted - own):
        free = catalog.meters[name].free_unpriced
        served = "served free" if free else "refused with 403 plan_required"
        hint = 'add a price, or write `unpriced` for the meter: "refuse" or "free"'
        found.append(
            Advice(f"plans.{plan.name}", f"it has no price for {name!r}: calls that count it are {served}", hint)
        )
    return found


def _counts(number: int, route: Route) -> str:
    return f"routes[{number}].meter" if route.terms is None else f"routes[{number}]"


def _advice_on_plan(plan: Plan) -> list[Advice]:
    if not plan.base and all(_is_free(price) for price in plan.prices):
        return [Advice(f"plans.{plan.name}", "every price in it is 0", "right for a free plan only")]
    return _advice_on_card(plan) + [
        Advice(
            f"plans.{plan.name}.prices[{i}].tiers[{j}].unit_amount",
            f"a unit costs {format_minor(tier.unit_amount, plan.currency)} here, more than in the tier before",
            "usually more usage makes a unit cheaper",
        )
        for i, price in enumerate(plan.prices)
        if isinstance(price, TieredPrice)
        for j, (before, tier) in enumerate(zip(price.tiers, price.tiers[1:], strict=False), 1)
        if 0 < before.unit_amount < tier.unit_amount
    ]


def _advice_on_card(plan: Plan) -> list[Advice]:
    """A plan that costs something and asks for no card when it is bought. A trial may ask later."""
    if plan.card_required or plan.trial_days:
        return []
    message = "it costs something and is sold without a card: its invoices may stay unpaid"
    return [Advice(f"plans.{plan.name}.card_required", message, "right where you collect the money in another way")]


def _is_free(price: AnyPrice) -> bool:
    if isinstance(price, TieredPrice):
        return not any(tier.unit_amount or tier.flat_amount for tier in price.tiers)
    return not price.unit_amount
