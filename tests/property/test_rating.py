"""What we say that a plan costs is what the local Stripe bills for it, and what an oracle written apart says.

Catalogs are drawn as farebox.toml writes them. HYPOTHESIS_PROFILE=wide draws 2,000 of them, each used in 5 ways.
"""

from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracle_pricing import PerUnit, line_amounts
from tests.unit.sandbox.test_pricing import WORKED, Sold, amounts, prices
from tests.unit.sandbox.town import GOOD_CARD, HOUR, Seller

from farebox.configfile import FileModel, read_catalog
from farebox.domain.catalog import Plan, charge_step
from farebox.domain.rating import Line, lines_of, total_of

USES: Final = 5
DECIMALS: Final = {"usd": 2, "eur": 2, "jpy": 0, "kwd": 3}
INTERVALS: Final = ("day", "week", "month", "year")

currencies = st.sampled_from(sorted(DECIMALS))
quantities = st.integers(0, 30_000) | st.integers(0, 10**12)


def major(minor: Any, currency: str) -> str:
    """An amount as farebox.toml writes it."""
    return f"{Decimal(minor).scaleb(-DECIMALS[currency]):f}"


def amount_in(sent: dict[str, Any], name: str, currency: str) -> dict[str, str]:
    """The amount that is sent under this name, exact or whole, as farebox.toml writes it; nothing when none is."""
    found = sent.get(f"{name}_decimal", sent.get(name))
    return {} if found is None else {name: major(found, currency)}


def written(meter: str, sent: dict[str, Any], currency: str) -> dict[str, Any]:
    """A price as farebox.toml writes it, from what is sent to Stripe for it."""
    unit = amount_in(sent, "unit_amount", currency)
    if "tiers" in sent:
        tiers = [
            {
                "up_to": tier["up_to"],
                **amount_in(tier, "unit_amount", currency),
                **amount_in(tier, "flat_amount", currency),
            }
            for tier in sent["tiers"]
        ]
        return {"meter": meter, "mode": sent["tiers_mode"], "tiers": tiers}
    if package := sent.get("transform_quantity"):
        return {"meter": meter, "package": {"size": package["divide_by"], "round": package["round"], **unit}}
    return {"meter": meter, **unit}


def plan_of(kinds: list[dict[str, Any]], currency: str = "usd", interval: str = "month", **more: Any) -> Plan:
    """A plan with a price for each meter m0, m1, …, read from a farebox.toml."""
    told = [written(f"m{i}", sent, currency) for i, sent in enumerate(kinds)]
    plan = {"title": "Plan", "currency": currency, "interval": interval, "prices": told, **more}
    meters = {f"m{i}": {"title": f"Meter {i}"} for i in range(len(kinds))}
    catalog, faults = read_catalog(FileModel.model_validate({"meters": meters, "plans": {"p": plan}}))
    assert faults == []
    return catalog.plans["p"]


def amounts_of(lines: tuple[Line, ...], meter: str | None) -> list[int]:
    return [line.amount for line in lines if line.meter == meter]


@given(prices(), currencies, st.lists(st.integers(-100, 0) | quantities, min_size=USES, max_size=USES))
def test_every_price_comes_to_what_its_definition_says(sold: Sold, currency: str, uses: list[int]) -> None:
    """I7: line by line, the amounts of any price in any currency are those of an oracle written apart."""
    plan = plan_of([sold.sent], currency)
    for used in uses:
        assert amounts_of(lines_of(plan, {"m0": used}), "m0") == line_amounts(sold.oracle, Fraction(used))


@settings(max_examples=300)
@given(prices())
def test_at_the_edges_of_tiers_and_packages(sold: Sold) -> None:
    """I7: exactly at a bound, a unit beside it, and at nothing, the lines are the oracle's."""
    plan = plan_of([sold.sent])
    edges = [tier["up_to"] for tier in sold.sent.get("tiers", []) if tier["up_to"] != "inf"]
    edges += (
        [sold.sent["transform_quantity"]["divide_by"] * n for n in (1, 2)] if "transform_quantity" in sold.sent else []
    )
    for used in (edge + step for edge in (0, *edges) for step in (-1, 0, 1)):
        assert amounts_of(lines_of(plan, {"m0": used}), "m0") == line_amounts(sold.oracle, Fraction(used))


@pytest.mark.timeout(1_200)  # for the wide profile
@given(
    st.lists(prices(), min_size=1, max_size=4),
    st.none() | amounts,
    currencies,
    st.sampled_from(INTERVALS),
    st.lists(st.lists(quantities, min_size=4, max_size=4), min_size=USES, max_size=USES),
)
def test_a_plan_comes_to_what_the_local_stripe_bills(
    kinds: list[Sold], base: Decimal | None, currency: str, interval: str, uses: list[list[int]]
) -> None:
    """I7: whole invoices, paid at the end of any period, are line by line what we say, and so are their previews."""
    if base is not None and (step := charge_step(currency)) > 1:
        base = base // step * step  # Stripe charges no other fixed amounts in this currency
    more = {} if base is None else {"base": major(base, currency)}
    plan = plan_of([each.sent for each in kinds], currency, interval, **more)
    town = Seller()
    items = stripes_prices(town, [each.sent for each in kinds], base, currency, interval)
    bought = []
    for used in uses:
        session = town.checkout(line_items=items)
        town.pay(session["id"], GOOD_CARD)
        subscription = town.subscription(town.get(f"/v1/checkout/sessions/{session['id']}")["subscription"])
        for i in range(len(kinds)):
            town.use(subscription["customer"], str(used[i]), name=f"m{i}")
        lines = lines_of(plan, {f"m{i}": used[i] for i in range(len(kinds))})
        assert town.post("/v1/invoices/create_preview", subscription=subscription["id"])["total"] == total_of(lines)
        bought.append((subscription, lines))
    town.move(subscription["items"]["data"][0]["current_period_end"] - town.now + HOUR)
    for subscription, lines in bought:
        invoice = town.invoices(subscription)[-1]
        found = by_price(invoice)
        wanted = [amounts_of(lines, f"m{i}") for i in range(len(kinds))] + [amounts_of(lines, None)] * (
            base is not None
        )
        assert [found[item["price"]] for item in items] == wanted
        assert (invoice["status"], invoice["total"]) == ("paid", total_of(lines))


def stripes_prices(
    town: Seller, kinds: list[dict[str, Any]], base: Decimal | None, currency: str, interval: str
) -> list[dict[str, Any]]:
    """The items of the same plan at the local Stripe: one for each meter, then the base fee."""
    shared = {"currency": currency, "product": town.post("/v1/products", name="Plan")["id"]}
    items: list[dict[str, Any]] = []
    for i, sent in enumerate(kinds):
        recurring = {"interval": interval, "usage_type": "metered", "meter": town.meter(f"m{i}")}
        items.append({"price": town.post("/v1/prices", **shared, recurring=recurring, **sent)["id"]})
    if base is not None:
        fee = {"unit_amount_decimal": f"{base:f}", "recurring": {"interval": interval}}
        items.append({"price": town.post("/v1/prices", **shared, **fee)["id"], "quantity": 1})
    return items


def by_price(invoice: Any) -> dict[str, list[int]]:
    """The amounts of its lines, in order."""
    found: dict[str, list[int]] = {}
    for line in invoice["lines"]["data"]:
        found.setdefault(line["pricing"]["price_details"]["price"], []).append(line["amount"])
    return found


@pytest.mark.parametrize(("page", "price", "used", "total"), WORKED)
def test_the_worked_examples_of_stripes_documentation(page: str, price: dict[str, Any], used: int, total: int) -> None:
    """The prices of Stripe's documentation, on the named page, come to what it says that they come to."""
    assert total_of(lines_of(plan_of([price]), {"m0": used})) == total, page


@given(st.lists(prices(), min_size=1, max_size=4), quantities, st.none() | amounts)
def test_nothing_used_is_nothing_named(kinds: list[Sold], used: int, base: Decimal | None) -> None:
    """A meter that was not named costs what it costs without usage, and the base fee is there once."""
    plan = plan_of([each.sent for each in kinds], **({} if base is None else {"base": major(base, "usd")}))
    nothing = {f"m{i}": 0 for i in range(len(kinds))}
    assert lines_of(plan, {}) == lines_of(plan, nothing)
    assert amounts_of(lines_of(plan, {"m0": used}), None) == (
        [] if base is None else line_amounts(PerUnit(Fraction(base)), Fraction(1))
    )
