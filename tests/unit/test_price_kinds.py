"""The price kinds of farebox.toml: what is taken, how each mistake is said, and that none of them is sold yet."""

from decimal import Decimal
from pathlib import Path
from typing import Final

import pytest
from tests.unit.test_config import named, refusal

from farebox.config import load_catalog
from farebox.domain.catalog import CURRENCIES, Catalog, PackagePrice, Plan, Tier, TieredPrice

SCALE: Final = """
[meters.calls]
title = "API calls"
[meters.tokens]
title = "Tokens"
[meters.seats]
title = "Seats"
[plans.scale]
title = "Scale"
currency = "usd"
interval = "month"
base = "29.00"
[[plans.scale.prices]]
meter = "calls"
mode = "graduated"
tiers = [ { up_to = 10000, unit_amount = "0" }, { up_to = "inf", unit_amount = "0.002", flat_amount = "5.00" } ]
[[plans.scale.prices]]
meter = "tokens"
package = { size = 1000, unit_amount = "0.02", round = "up" }
[[plans.scale.prices]]
meter = "seats"
mode = "volume"
tiers = [ { up_to = 5, flat_amount = "10" }, { up_to = "inf", unit_amount = "1.5" } ]
"""
UP_TO: Final = 'up_to = "inf", unit_amount = "0.002"'
PRICE: Final = "plans.scale.prices[0]"
PACKAGE: Final = "plans.scale.prices[1]"
VOLUME: Final = "plans.scale.prices[2]"


def catalog(folder: Path, text: str = SCALE) -> Catalog:
    path = folder / "farebox.toml"
    path.write_text(text)
    return load_catalog(path)


def test_all_kinds(tmp_path: Path) -> None:
    """Tiers, packages and a base fee are read as they are meant, exact, in minor units."""
    nothing, flat = Decimal(0), Decimal(500)
    assert catalog(tmp_path).plans["scale"] == Plan(
        "scale",
        "Scale",
        "usd",
        "month",
        (
            TieredPrice("calls", True, (Tier(10_000, nothing), Tier(None, Decimal("0.2"), flat))),
            PackagePrice("tokens", 1_000, Decimal(2), True),
            TieredPrice("seats", False, (Tier(5, nothing, Decimal(1_000)), Tier(None, Decimal(150)))),
        ),
        Decimal(2_900),
    )


def test_a_package_rounds_up_unless_told(tmp_path: Path) -> None:
    """A begun package counts whole when nothing is said, and not at all when it is to be rounded down."""
    for told, up in (("", True), (', round = "down"', False)):
        price = catalog(tmp_path, SCALE.replace(', round = "up"', told)).plans["scale"].prices[1]
        assert isinstance(price, PackagePrice)
        assert price.rounds_up is up


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("up_to = 10000", "up_to = 0", f"{PRICE}.tiers[0].up_to: must be a whole number of units, from 1 to"),
        ("up_to = 10000", "up_to = 1.5", f"{PRICE}.tiers[0].up_to: must be a whole number of units"),
        ("up_to = 10000", "up_to = true", f"{PRICE}.tiers[0].up_to: must be a whole number of units"),
        ("up_to = 10000", 'up_to = "10000"', f"{PRICE}.tiers[0].up_to: write a whole number without quotes"),
        ("up_to = 10000, ", "", f"{PRICE}.tiers[0].up_to: is required"),
        ("up_to = 10000", "up_to = 1000000000000001", f"{PRICE}.tiers[0].up_to: must be a whole number of units"),
        ("up_to = 10000", 'up_to = "inf"', f'{PRICE}.tiers[0].up_to: only the last tier goes up to "inf"'),
        (UP_TO, UP_TO.replace('"inf"', "20000"), f"{PRICE}.tiers[1].up_to: more than 20000 units would have no price"),
        (UP_TO, UP_TO.replace('"inf"', "10000"), f"{PRICE}.tiers[1].up_to: 10000 overlaps with a tier before, up to"),
        (
            UP_TO,
            UP_TO.replace('"inf"', "9999"),
            f"{PRICE}.tiers[1].up_to: 9999 overlaps with a tier before, up to 10000",
        ),
        ("up_to = 10000", "from = 1, up_to = 10000", f"{PRICE}.tiers[0].from: Farebox knows no such setting"),
        ('10000, unit_amount = "0"', "10000", f"{PRICE}.tiers[0]: needs a unit_amount, a flat_amount or both"),
        ('unit_amount = "0"', "unit_amount = 0", f'{PRICE}.tiers[0].unit_amount: write the amount as a string, "0.00"'),
        ('"0.002"', "0.002", f'{PRICE}.tiers[1].unit_amount: write the amount as a string, "0.002": a float cannot'),
        ('"0.002"', '"-0.002"', f"{PRICE}.tiers[1].unit_amount: '-0.002' must be a finite amount, zero or more"),
        (
            '"0.002"',
            '"0.000000000000001"',
            f"{PRICE}.tiers[1].unit_amount: '0.000000000000001' has more than 12 decimals",
        ),
        ('"5.00"', '"5,00"', f"{PRICE}.tiers[1].flat_amount: '5,00' is not a decimal number; write it like"),
        ('"5.00"', '"-5"', f"{PRICE}.tiers[1].flat_amount: '-5' must be a finite amount, zero or more"),
        ('"5.00"', "5.0", f'{PRICE}.tiers[1].flat_amount: write the amount as a string, "5.0"'),
        ('mode = "graduated"', "", f'{PRICE}.mode: is required with tiers; write "graduated" or "volume"'),
        ('mode = "graduated"', 'mode = "cumulative"', f"{PRICE}.mode: "),
        (
            'mode = "graduated"',
            'unit_amount = "1"\nmode = "graduated"',
            f"{PRICE}: it has unit_amount and tiers; keep one",
        ),
        (
            'tiers = [ { up_to = 5, flat_amount = "10" }, { up_to = "inf", unit_amount = "1.5" } ]',
            "",
            f"{VOLUME}.tiers: is",
        ),
        ('tiers = [ { up_to = 5, flat_amount = "10" }, { up_to = "inf", unit_amount = "1.5" } ]', "tiers = []", VOLUME),
        ("size = 1000", "size = 0", f"{PACKAGE}.package.size: must be a whole number of units, from 1 to"),
        ("size = 1000", "size = 2.5", f"{PACKAGE}.package.size: must be a whole number of units"),
        ("size = 1000, ", "", f"{PACKAGE}.package.size: is required"),
        ('"0.02"', '"-1"', f"{PACKAGE}.package.unit_amount: '-1' must be a finite amount"),
        ('round = "up"', 'round = "nearest"', f"{PACKAGE}.package.round: "),
        ('round = "up"', 'rounds = "up"', f"{PACKAGE}.package.rounds: Farebox knows no such setting"),
        (
            "package = {",
            'unit_amount = "1"\npackage = {',
            f"{PACKAGE}: it has unit_amount and package; keep one of them",
        ),
        ("package = {", 'mode = "volume"\npackage = {', f"{PACKAGE}.tiers: is required with mode"),
        ("package = {", "packages = {", f"{PACKAGE}.packages: Farebox knows no such setting"),
        ('meter = "tokens"', 'meter = "calls"', f"{PACKAGE}.meter: the plan already has a price for 'calls'"),
        (
            'meter = "tokens"',
            'meter = "token"',
            f"{PACKAGE}.meter: there is no meter 'token' (known: calls, seats, tokens)",
        ),
        ('base = "29.00"', "base = 29.00", 'plans.scale.base: write the amount as a string, "29.0": a float cannot'),
        ('base = "29.00"', 'base = "-29"', "plans.scale.base: '-29' must be a finite amount, zero or more"),
        ('base = "29.00"', 'base = "1e-15"', "plans.scale.base: '1e-15' has more than 12 decimals of a minor unit"),
        ('base = "29.00"', 'bas = "29.00"', "plans.scale.bas: Farebox knows no such setting"),
        (
            '"usd"',
            '"usx"',
            "plans.scale.currency: 'usx' is no currency that Farebox knows; write its code in small letters",
        ),
        ('"usd"', '"EUR"', "plans.scale.currency: 'EUR' is no currency that Farebox knows; write \"eur\""),
        ('"usd"', '"us dollar"', "plans.scale.currency: 'us dollar' is no currency"),
    ],
)
def test_mistakes(tmp_path: Path, old: str, new: str, said: str) -> None:
    """A mistake in a price is named by plan, price and tier, with what to write instead."""
    assert SCALE.count(old) >= 1
    detail = refusal(tmp_path, SCALE.replace(old, new, 1))
    assert named(tmp_path, said, detail), detail


@pytest.mark.parametrize(
    ("currency", "field", "amount", "said"),
    [
        ("kwd", "base", "1.2345", "1.2345 KWD cannot be charged at Stripe; write 1.230 KWD or 1.240 KWD"),
        ("kwd", "setup_fee", "1.234", "1.234 KWD cannot be charged at Stripe; write 1.230 KWD or 1.240 KWD"),
        ("isk", "base", "10.50", "10.50 ISK cannot be charged at Stripe; write 10.00 ISK or 11.00 ISK"),
        ("ugx", "minimum", "0.5", "0.50 UGX cannot be charged at Stripe; write 0.00 UGX or 1.00 UGX"),
    ],
)
def test_amounts_that_stripe_cannot_charge(tmp_path: Path, currency: str, field: str, amount: str, said: str) -> None:
    """A fixed amount finer than Stripe charges is named, with the two next to it; prices of usage may be finer."""
    text = SCALE.replace('base = "29.00"', f'{field} = "{amount}"').replace('"usd"', f'"{currency}"')
    assert f"plans.scale.{field}: {said}" in refusal(tmp_path, text)
    catalog(tmp_path, SCALE.replace('"usd"', f'"{currency}"'))


def test_a_price_without_any_kind(tmp_path: Path) -> None:
    """A price that says nothing of what it costs is told what it may say."""
    text = SCALE.replace('package = { size = 1000, unit_amount = "0.02", round = "up" }', "")
    assert f"{PACKAGE}.unit_amount: is required; or tiers with their mode, or a package" in refusal(tmp_path, text)


def test_mistakes_of_several_prices_at_once(tmp_path: Path) -> None:
    """All that does not fit together is said together, in the order of the file."""
    text = SCALE.replace('"29.00"', '"-29"').replace('"0.02"', '"two"').replace(UP_TO, UP_TO.replace('"inf"', "7"))
    assert [line.split(": ")[1] for line in refusal(tmp_path, text).splitlines()] == [
        "plans.scale.base",
        f"{PRICE}.tiers[1].up_to",
        f"{PACKAGE}.package.unit_amount",
    ]


def test_how_much_a_plan_may_hold(tmp_path: Path) -> None:
    """A price has at most 100 tiers; a plan has at most 20 prices, and 19 beside a base fee."""
    tiers = ", ".join(f'{{ up_to = {n}, unit_amount = "1" }}' for n in range(1, 100))
    whole = f'tiers = [ {tiers}, {{ up_to = "inf", unit_amount = "1" }} ]'
    head, tail = SCALE.split("tiers = [ { up_to = 10000", 1)
    rest = tail.split("\n", 1)[1]
    price = catalog(tmp_path, f"{head}{whole}\n{rest}").plans["scale"].prices[0]
    assert isinstance(price, TieredPrice)
    assert len(price.tiers) == 100
    more = whole.replace("tiers = [", 'tiers = [ { up_to = 1, unit_amount = "1" },')
    assert f"{PRICE}.tiers: " in refusal(tmp_path, f"{head}{more}\n{rest}")
    meters = "".join(f'[meters.m{n}]\ntitle = "M"\n' for n in range(20))
    prices = "".join(f'[[plans.p.prices]]\nmeter = "m{n}"\nunit_amount = "1"\n' for n in range(20))
    assert len(catalog(tmp_path, f'{meters}[plans.p]\ntitle = "P"\n{prices}').plans["p"].prices) == 20
    fee = f'{meters}[plans.p]\ntitle = "P"\nbase = "1"\n{prices}'
    assert "plans.p.prices: at most 19 beside a base fee: Stripe takes 20 in all" in refusal(tmp_path, fee)


def test_currencies() -> None:
    """Those that buyers pay in are known, each by three small letters."""
    assert {"usd", "eur", "gbp", "jpy", "kwd", "inr", "brl", "chf", "aud", "cad", "sek", "pln", "krw"} <= CURRENCIES
    assert {len(code) for code in CURRENCIES} == {3}
    assert not CURRENCIES & {"xau", "xts", "xxx", "usx"}
