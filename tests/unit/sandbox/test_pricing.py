"""What prices come to: against an oracle written apart, and against the worked examples of Stripe's documentation."""

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.oracle_pricing import Package, PerUnit, Tier, Tiered, line_amounts, prorated
from tests.unit.sandbox.town import HOUR, Seller, Town

from farebox.sandbox.pricing import amount_of, charges, share

Oracle = PerUnit | Package | Tiered
PRICES: Final = 2_000
USES_OF_A_PRICE: Final = 5  # 10,000 combinations


@dataclass(frozen=True)
class Sold:
    """One price in both languages: as it is sent to Stripe, and as the oracle knows it."""

    sent: dict[str, Any]
    oracle: Oracle

    def kept(self) -> dict[str, Any]:
        """As the local Stripe keeps it."""
        whole: dict[str, Any] = {"billing_scheme": "per_unit", "tiers_mode": None, "transform_quantity": None}
        kept = {**whole, **self.sent}
        kept["unit_amount_decimal"] = Decimal(self.sent.get("unit_amount_decimal", 0))
        kept["_tiers"] = [
            {
                "up_to": None if tier["up_to"] == "inf" else tier["up_to"],
                "unit_amount_decimal": _decimal(tier, "unit_amount_decimal"),
                "flat_amount_decimal": _decimal(tier, "flat_amount_decimal"),
            }
            for tier in self.sent.get("tiers", [])
        ]
        return kept


def _decimal(tier: dict[str, Any], name: str) -> Decimal | None:
    return Decimal(tier[name]) if name in tier else None


halves = st.integers(0, 2_000).map(lambda n: Decimal(n) / 2)  # where roundings differ
hundredths = st.integers(0, 10**4).map(lambda n: Decimal(n) / 100)
amounts = (
    st.integers(0, 10**18).map(lambda n: Decimal(n).scaleb(-12))
    | st.integers(0, 10**6).map(Decimal)
    | halves
    | hundredths
)


@st.composite
def prices(draw: st.DrawFn) -> Sold:
    kind = draw(st.sampled_from(["per_unit", "package", "graduated", "volume"]))
    if kind in ("per_unit", "package"):
        unit = draw(amounts)
        sent: dict[str, Any] = {"unit_amount_decimal": f"{unit:f}"}
        if kind == "per_unit":
            return Sold(sent, PerUnit(Fraction(unit)))
        size, up = draw(st.integers(1, 1_000)), draw(st.booleans())
        package = {"divide_by": size, "round": "up" if up else "down"}
        return Sold({**sent, "transform_quantity": package}, Package(Fraction(unit), size, up))
    steps = draw(st.lists(st.integers(1, 5_000), max_size=4))
    lasts: list[int | None] = [*(sum(steps[: i + 1]) for i in range(len(steps))), None]
    tiers, sent_tiers = [], []
    for last in lasts:
        has = draw(st.sampled_from(["unit", "flat", "both"]))
        unit_amount = draw(amounts) if has != "flat" else None
        flat = draw(amounts) if has != "unit" else None
        tiers.append(Tier(last, _fraction(unit_amount), _fraction(flat)))
        tier: dict[str, Any] = {"up_to": "inf" if last is None else last}
        tier |= {"unit_amount_decimal": f"{unit_amount:f}"} if unit_amount is not None else {}
        tier |= {"flat_amount_decimal": f"{flat:f}"} if flat is not None else {}
        sent_tiers.append(tier)
    shape = {"billing_scheme": "tiered", "tiers_mode": kind, "tiers": sent_tiers}
    return Sold(shape, Tiered(tuple(tiers), kind == "graduated"))


def _fraction(amount: Decimal | None) -> Fraction | None:
    return Fraction(amount) if amount is not None else None


usages = st.integers(-100, 30_000).map(Decimal) | st.integers(-(10**7), 3 * 10**10).map(lambda n: Decimal(n).scaleb(-6))


uses = st.tuples(usages, st.integers(1, 366 * 86_400), st.integers(0, 1_000))


@settings(max_examples=PRICES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(prices(), st.lists(uses, min_size=USES_OF_A_PRICE, max_size=USES_OF_A_PRICE))
def test_every_price_comes_to_what_its_definition_says(sold: Sold, uses: list[tuple[Decimal, int, int]]) -> None:
    """Line by line, and for any part of any period, the amounts are those of an oracle written apart (10,000 times)."""
    kept = sold.kept()
    for used, whole, thousandths in uses:
        expected = line_amounts(sold.oracle, Fraction(used))
        assert [charge.amount for charge in charges(kept, used)] == expected
        assert amount_of(kept, used) == sum(expected)
        part = whole * thousandths // 1_000
        assert share(sum(expected), part, whole) == prorated(sum(expected), part, whole)
        assert share(-sum(expected), part, whole) == prorated(-sum(expected), part, whole)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(prices())
def test_at_the_edges_of_tiers_and_packages(sold: Sold) -> None:
    """Exactly at a bound, a unit or a part of one beside it, and at nothing, lines and amounts are the oracle's."""
    kept = sold.kept()
    edges = [tier["up_to"] for tier in kept["_tiers"] if tier["up_to"] is not None]
    edges += [kept["transform_quantity"]["divide_by"] * n for n in (1, 2)] if kept["transform_quantity"] else []
    for edge in (0, *edges):
        for used in (edge - 1, edge, edge + 1, edge + Decimal("0.5")):
            lines = [charge.amount for charge in charges(kept, Decimal(used))]
            assert lines == line_amounts(sold.oracle, Fraction(used))


@settings(max_examples=500, deadline=None, derandomize=True)
@given(prices(), st.lists(st.integers(0, 5_000).map(Decimal), min_size=1, max_size=4))
def test_billing_in_steps_comes_to_the_same(sold: Sold, steps: list[Decimal]) -> None:
    """Usage billed in several invoices of one period comes to what one invoice over all of it would (L4)."""
    kept = sold.kept()
    total, billed = 0, None
    for i in range(len(steps)):
        used = sum(steps[: i + 1], Decimal(0))
        total += sum(charge.amount for charge in charges(kept, used, billed))
        billed = used
    assert total == amount_of(kept, sum(steps, Decimal(0)))


FONTS: Final[list[dict[str, Any]]] = [
    {"up_to": 5, "unit_amount": 700},
    {"up_to": 10, "unit_amount": 650},
    {"up_to": "inf", "unit_amount": 600},
]
INCLUDED: Final[list[dict[str, Any]]] = [{"up_to": 1_000, "unit_amount": 0}, {"up_to": "inf", "unit_amount": 4}]
VOLUME: Final = "Set up tiered pricing, Volume-based pricing"
GRADUATED: Final = "Set up tiered pricing, Graduated pricing"
PACKAGES: Final = "Transform quantities"
OVERAGE: Final = "Set up a flat fee and overages pricing model"
FIVES: Final = "Quantity transformation"
FIVE_USERS: Final = {"unit_amount": 1_000, "transform_quantity": {"divide_by": 5, "round": "up"}}
FLAT: Final[list[dict[str, Any]]] = [
    {"up_to": 5, "unit_amount": 500, "flat_amount": 1_000},
    {"up_to": 10, "unit_amount": 400, "flat_amount": 2_000},
    {"up_to": 15, "unit_amount": 300, "flat_amount": 3_000},
    {"up_to": 20, "unit_amount": 200, "flat_amount": 4_000},
    {"up_to": "inf", "unit_amount": 100, "flat_amount": 5_000},
]
NO_FLAT_AT_NOTHING: Final = [{"up_to": 1, "unit_amount": 1_000}, *FLAT[1:]]
FLAT_RATE: Final = "Set up tiered pricing, Add a flat rate"
LLAMA: Final[list[dict[str, Any]]] = [
    {"up_to": 100_000, "unit_amount": 0},
    {"up_to": "inf", "unit_amount_decimal": "0.1"},
]
FIXED_FEE: Final = "Usage-based pricing models, Fixed fee and overage model"
PAY_AS_YOU_GO: Final = "Set up a pay-as-you-go pricing model"
HUNDREDS: Final = {"unit_amount": 4, "transform_quantity": {"divide_by": 100, "round": "up"}}
CREDITS: Final = "Set up a credit-based pricing model"
HOURS: Final = {"unit_amount": 1_000, "transform_quantity": {"divide_by": 60, "round": "up"}}


def tiered(mode: str, tiers: list[dict[str, Any]]) -> dict[str, Any]:
    return {"billing_scheme": "tiered", "tiers_mode": mode, "tiers": tiers}


WORKED: Final[list[tuple[str, dict[str, Any], int, int]]] = [
    (VOLUME, tiered("volume", FONTS), 1, 700),
    (VOLUME, tiered("volume", FONTS), 5, 3_500),
    (VOLUME, tiered("volume", FONTS), 6, 3_900),
    (VOLUME, tiered("volume", FONTS), 20, 12_000),
    (VOLUME, tiered("volume", FONTS), 25, 15_000),
    (GRADUATED, tiered("graduated", FONTS), 1, 700),
    (GRADUATED, tiered("graduated", FONTS), 5, 3_500),
    (GRADUATED, tiered("graduated", FONTS), 6, 4_150),
    (GRADUATED, tiered("graduated", FONTS), 20, 12_750),
    (GRADUATED, tiered("graduated", FONTS), 25, 15_750),
    (PACKAGES, HOURS, 150, 3_000),
    (FIVES, FIVE_USERS, 1, 1_000),
    (FIVES, FIVE_USERS, 3, 1_000),
    (FIVES, FIVE_USERS, 5, 1_000),
    (FIVES, FIVE_USERS, 6, 2_000),
    (FIVES, FIVE_USERS, 7, 2_000),
    (OVERAGE, tiered("graduated", INCLUDED), 1_000, 0),  # the page gives the rates; the totals follow
    (OVERAGE, tiered("graduated", INCLUDED), 1_500, 2_000),
    (FLAT_RATE, tiered("volume", FLAT), 12, 6_600),
    (FLAT_RATE, tiered("graduated", FLAT), 12, 11_100),
    (FLAT_RATE, tiered("volume", FLAT), 0, 1_000),
    (FLAT_RATE, tiered("graduated", FLAT), 0, 1_000),
    (FLAT_RATE, tiered("volume", NO_FLAT_AT_NOTHING), 0, 0),
    (FLAT_RATE, tiered("graduated", NO_FLAT_AT_NOTHING), 0, 0),
    (FLAT_RATE, tiered("graduated", NO_FLAT_AT_NOTHING), 1, 1_000),
    (FIXED_FEE, tiered("graduated", LLAMA), 100_000, 0),  # rates again, here and below
    (FIXED_FEE, tiered("graduated", LLAMA), 150_000, 5_000),
    (PAY_AS_YOU_GO, HUNDREDS, 100, 4),
    (PAY_AS_YOU_GO, HUNDREDS, 250, 12),
    (CREDITS, {"unit_amount": 3}, 1_000, 3_000),
    (CREDITS, {"unit_amount": 5}, 1_000, 5_000),
]
"""The page, a price on it, a quantity, and what that comes to."""


@pytest.mark.parametrize(("page", "price", "used", "total"), WORKED)
def test_the_worked_examples_of_stripes_documentation(
    seller: Seller, page: str, price: dict[str, Any], used: int, total: int
) -> None:
    """The prices of Stripe's documentation, on the named page, are billed at what it says that they come to."""
    subscription = seller.subscribe("4242424242424242", sold(seller, **price))
    seller.use(subscription["customer"], str(used))
    assert seller.post("/v1/invoices/create_preview", subscription=subscription["id"])["total"] == total, page


def sold(town: Town, meter: str | None = None, name: str = "Fonts", **price: Any) -> str:
    """A monthly metered price of its own product."""
    meter = meter or town.get("/v1/billing/meters")["data"][0]["id"]
    product = town.post("/v1/products", name=name, unit_label="font")["id"]
    recurring = {"interval": "month", "usage_type": "metered", "meter": meter}
    return str(town.post("/v1/prices", currency="usd", product=product, recurring=recurring, **price)["id"])


@pytest.mark.parametrize(
    ("price", "used", "lines"),
    [
        (tiered("graduated", FONTS), "5", [("5 font × Fonts (Tier 1 at $7.00 / month)", 5, 3_500)]),
        (tiered("graduated", FONTS), "0", [("0 font × Fonts (Tier 1 at $7.00 / month)", 0, 0)]),
        (
            tiered("graduated", FONTS),
            "6.5",
            [
                ("5 font × Fonts (Tier 1 at $7.00 / month)", 5, 3_500),
                ("1.5 font × Fonts (Tier 2 at $6.50 / month)", 1, 975),
            ],
        ),
        (
            tiered(
                "graduated",
                [
                    {"up_to": 1_000, "flat_amount": 999},
                    {"up_to": "inf", "unit_amount_decimal": "3.6", "flat_amount": 0},
                ],
            ),
            "1031",
            [
                ("1000 font × Fonts (Tier 1 at $0.00 / month)", 1_000, 0),
                ("Fonts (Tier 1 at $9.99 / month)", 0, 999),
                ("31 font × Fonts (Tier 2 at $0.036 / month)", 31, 112),
                ("Fonts (Tier 2 at $0.00 / month)", 0, 0),
            ],
        ),
        (tiered("volume", FONTS), "11", [("11 font × Fonts (Tier 3 at $6.00 / month)", 11, 6_600)]),
        (
            {"unit_amount": 8, "transform_quantity": {"divide_by": 60, "round": "up"}},
            "9892",
            [("9892 font × Fonts (at $0.08 per 60 units / month)", 9_892, 1_320)],
        ),
        ({"unit_amount_decimal": "0.5"}, "3", [("3 font × Fonts (at $0.005 / month)", 3, 2)]),
    ],
)
def test_invoice_lines(seller: Seller, price: dict[str, Any], used: str, lines: list[tuple[str, int, int]]) -> None:
    """Each tier that is reached makes a line for its units and one for its flat amount, named as Stripe names them."""
    subscription = seller.subscribe("4242424242424242", sold(seller, **price))
    seller.use(subscription["customer"], used)
    seller.move(31 * 24 * HOUR + HOUR)
    (invoice,) = seller.invoices(subscription)
    found = [(line["description"], line["quantity"], line["amount"]) for line in invoice["lines"]["data"]]
    assert found == lines
    assert invoice["total"] == sum(amount for _, _, amount in lines)
    assert invoice["amount_paid"] == (
        invoice["total"] if invoice["total"] >= 50 else 0
    )  # less than $0.50 is carried on


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.tuples(prices(), usages), min_size=1, max_size=6), st.sampled_from(["day", "week", "month", "year"]))
def test_invoices_come_to_what_the_definitions_say(kinds: list[tuple[Sold, Decimal]], interval: str) -> None:
    """Whole invoices over any period, with items of all kinds, are those of the oracle, line by line."""
    town = Seller()
    product = town.post("/v1/products", name="x")["id"]
    items, expected = [], []
    for i, (each, _) in enumerate(kinds):
        recurring = {"interval": interval, "usage_type": "metered", "meter": town.meter(f"m{i}")}
        made = town.post("/v1/prices", currency="usd", product=product, recurring=recurring, **each.sent)
        items.append({"price": made["id"]})
    customer = town.customer()
    made = town.post("/v1/subscriptions", customer=customer, items=items)
    for i, (each, used) in enumerate(kinds):
        town.use(customer, f"{used:f}", name=f"m{i}")
        expected += line_amounts(each.oracle, Fraction(used))
    town.move(town.subscription(made["id"])["items"]["data"][0]["current_period_end"] - town.now)
    (invoice,) = town.invoices(made)
    assert [line["amount"] for line in invoice["lines"]["data"]] == expected
    assert invoice["total"] == sum(expected)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"tiers_mode": None}, {"param": "tiers_mode", "code": "parameter_missing"}),
        ({"tiers": None}, {"param": "tiers", "code": "parameter_missing"}),
        ({"unit_amount": 5}, {"param": "unit_amount"}),
        ({"unit_amount_decimal": "5"}, {"param": "unit_amount_decimal"}),
        ({"transform_quantity": {"divide_by": 5, "round": "up"}}, {"param": "transform_quantity"}),
        ({"tiers": [{"up_to": 5, "unit_amount": 1}]}, {"param": "tiers[0][up_to]"}),
        ({"tiers": [{"up_to": "inf", "unit_amount": 1}, {"up_to": 5, "unit_amount": 1}]}, {"param": "tiers[0][up_to]"}),
        (
            {
                "tiers": [
                    {"up_to": 5, "unit_amount": 1},
                    {"up_to": 5, "unit_amount": 1},
                    {"up_to": "inf", "unit_amount": 1},
                ]
            },
            {"param": "tiers[1][up_to]"},
        ),
        ({"tiers": [{"up_to": "inf"}]}, {"param": "tiers[0]"}),
        ({"tiers": [{"unit_amount": 1}]}, {"param": "tiers[0][up_to]", "code": "parameter_missing"}),
        ({"tiers": [{"up_to": "0", "unit_amount": 1}]}, {"param": "tiers[0][up_to]"}),
        ({"tiers": [{"up_to": "many", "unit_amount": 1}]}, {"param": "tiers[0][up_to]"}),
        (
            {"tiers": [{"up_to": "inf", "unit_amount": 1, "unit_amount_decimal": "1"}]},
            {"param": "tiers[0][unit_amount]"},
        ),
        (
            {"tiers": [{"up_to": "inf", "unit_amount": -1}]},
            {"param": "tiers[0][unit_amount]", "code": "parameter_invalid_integer"},
        ),
        (
            {"tiers": [{"up_to": "inf", "flat_amount_decimal": "0.0000000000001"}]},
            {"param": "tiers[0][flat_amount_decimal]"},
        ),
        ({"tiers": [{"up_to": "inf", "unit_amount_decimal": "-1"}]}, {"param": "tiers[0][unit_amount_decimal]"}),
        ({"tiers_mode": "cumulative"}, {"param": "tiers_mode"}),
        ({"billing_scheme": "per_unit"}, {"param": "tiers"}),
    ],
)
def test_tiers_that_are_refused(town: Town, changes: dict[str, Any], error: dict[str, str]) -> None:
    """Tiers ascend to an open end, each with an amount, and go with nothing else that makes a price."""
    product = town.post("/v1/products", name="x")["id"]
    price: dict[str, Any] = {"currency": "usd", "product": product, **tiered("graduated", FONTS), **changes}
    refused = town.refused(400, "POST", "/v1/prices", {k: v for k, v in price.items() if v is not None})
    assert error.items() <= refused.items()


def test_tiers_are_shown_when_asked_for(seller: Seller) -> None:
    """A tiered price shows its tiers when expanded, the open end as null, and no amount of its own."""
    id = sold(
        seller,
        **tiered("graduated", [{"up_to": 5, "flat_amount": 100}, {"up_to": "inf", "unit_amount_decimal": "0.5"}]),
    )
    plain = seller.get(f"/v1/prices/{id}")
    assert "tiers" not in plain
    assert (plain["billing_scheme"], plain["tiers_mode"]) == ("tiered", "graduated")
    assert (plain["unit_amount"], plain["unit_amount_decimal"]) == (None, None)
    assert seller.get(f"/v1/prices/{id}", expand=["tiers"])["tiers"] == [
        {
            "flat_amount": 100,
            "flat_amount_decimal": "100",
            "unit_amount": None,
            "unit_amount_decimal": None,
            "up_to": 5,
        },
        {
            "flat_amount": None,
            "flat_amount_decimal": None,
            "unit_amount": None,
            "unit_amount_decimal": "0.5",
            "up_to": None,
        },
    ]


def test_a_price_with_its_product(town: Town) -> None:
    """A price may bring its product along; exactly one of the two ways is taken."""
    made = town.post("/v1/prices", currency="usd", unit_amount=5, product_data={"name": "Seats"})
    assert town.get(f"/v1/products/{made['product']}")["name"] == "Seats"
    both = {"currency": "usd", "unit_amount": 5, "product": made["product"], "product_data": {"name": "x"}}
    assert town.refused(400, "POST", "/v1/prices", both)["param"] == "product"
    neither = {"currency": "usd", "unit_amount": 5}
    assert town.refused(400, "POST", "/v1/prices", neither)["code"] == "parameter_missing"
