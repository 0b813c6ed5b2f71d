"""A simulation adds up to what each period comes to, whatever is sold and used; the same prices change nothing."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.oracle_pricing import PerUnit, line_amounts
from tests.property.test_rating import major, plan_of, quantities
from tests.unit.sandbox.test_pricing import Sold, amounts, prices

from farebox.domain.catalog import Catalog, Plan
from farebox.domain.simulation import Change, Simulation, Tally, UsedPeriod, WhatIf
from farebox.errors import InputInvalid

NOW: Final = 1_000_000
CHANGES: Final = {
    Change.HALF: (100, 50),
    Change.LESS: (100, 79),
    Change.LITTLE_LESS: (100, 80),
    Change.SAME: (100, 100),
    Change.LITTLE_MORE: (100, 120),
    Change.MORE: (100, 150),
    Change.MUCH_MORE: (100, 151),
}

uses = st.lists(st.tuples(st.integers(0, 4), quantities, quantities), max_size=12)
kinds = st.lists(prices(), min_size=2, max_size=2)


def period(account: int, used: dict[str, int], *, plan: str = "p", start: int = 0, currency: str = "usd") -> UsedPeriod:
    return UsedPeriod(f"acct_{account}", f"sub_{account}", plan, currency, start, start + 100, used)


def simulated(what_if: WhatIf, periods: Sequence[UsedPeriod], most: int = 3) -> Simulation:
    tally = Tally(most)
    for one in periods:
        tally.add(what_if.compare(one, NOW))
    return tally.result()


def catalog_of(*plans: Plan) -> Catalog:
    return Catalog(plans={plan.name: plan for plan in plans})


def fees(base: Decimal | None) -> dict[str, str]:
    return {} if base is None else {"base": major(base, "usd")}


def oracle_total(sold: list[Sold], base: Decimal | None, used: dict[str, int]) -> int:
    """By the oracle written apart: every meter's lines, and the base fee once."""
    lines = [amount for n, one in enumerate(sold) for amount in line_amounts(one.oracle, Fraction(used[f"m{n}"]))]
    return sum(lines) + (0 if base is None else sum(line_amounts(PerUnit(Fraction(base)), Fraction(1))))


@given(kinds, kinds, st.none() | amounts, st.none() | amounts, uses)
def test_sums_are_those_of_the_periods(
    old: list[Sold], new: list[Sold], fee: Decimal | None, new_fee: Decimal | None, drawn: list[tuple[int, int, int]]
) -> None:
    """Before and after are what an oracle makes of each period; each account is counted once, where it belongs."""
    periods = [period(n, {"m0": a, "m1": b}, start=i) for i, (n, a, b) in enumerate(sorted(drawn))]
    plans = [plan_of([one.sent for one in sold], **fees(base)) for sold, base in ((old, fee), (new, new_fee))]
    found = simulated(WhatIf(catalog_of(plans[0]), catalog_of(plans[1])), periods)
    by_account: dict[str, tuple[int, int]] = {}
    for one in periods:
        before, after = by_account.get(one.account_id, (0, 0))
        used = dict(one.used)
        by_account[one.account_id] = before + oracle_total(old, fee, used), after + oracle_total(new, new_fee, used)
    assert (found.accounts, found.periods, found.left) == (len(by_account), len(periods), ())
    if not periods:
        assert found.sums == ()
        return
    (total,) = found.sums
    assert total.before == sum(before for before, _ in by_account.values())
    assert total.after == sum(after for _, after in by_account.values())
    assert total.count(Change.HALF, Change.LITTLE_LESS) == sum(after < before for before, after in by_account.values())
    assert total.count(Change.SAME, Change.SAME) == sum(after == before for before, after in by_account.values())
    assert sum(total.accounts) == len(by_account)
    dearer = sorted(((after - before, name) for name, (before, after) in by_account.items() if after > before))
    assert [(one.change, one.account_id) for one in total.most_more] == dearer[::-1][:3]


@given(kinds, st.none() | amounts, uses)
def test_the_same_prices_change_nothing(
    sold: list[Sold], base: Decimal | None, drawn: list[tuple[int, int, int]]
) -> None:
    """Before is after, for the whole and for each account, and nobody is named."""
    catalog = catalog_of(plan_of([one.sent for one in sold], **fees(base)))
    found = simulated(WhatIf(catalog, catalog), [period(n, {"m0": a, "m1": b}) for n, a, b in sorted(drawn)])
    for total in found.sums:
        assert (total.before, total.most_more) == (total.after, ())
        assert sum(total.accounts) == total.accounts[Change.SAME]


@pytest.mark.parametrize("change", CHANGES)
def test_how_much_a_change_is(change: Change) -> None:
    """The bounds of each class; from nothing to something is much more, from something to nothing is half or less."""
    assert Change.of(*CHANGES[change]) is change
    assert (Change.of(0, 0), Change.of(0, 1), Change.of(1, 0)) == (Change.SAME, Change.MUCH_MORE, Change.HALF)
    assert (Change.of(100, 51), Change.of(100, 121)) == (Change.LESS, Change.MORE)


def test_what_cannot_be_compared_is_kept_apart() -> None:
    """A plan that a catalog lacks is named with its accounts and what they pay now; the rest is compared."""
    payg = plan_of([{"unit_amount_decimal": "2"}])
    before = catalog_of(payg, plan_of_name("legacy", "3"))
    what_if = WhatIf(before, catalog_of(payg))
    periods = [
        period(1, {"m0": 10}),
        *(period(n, {"m0": n}, plan="legacy", start=s) for n in (2, 3, 4, 5) for s in (0, 100)),
        period(6, {"m0": 5}, plan="gone"),
    ]
    found = simulated(what_if, periods)
    assert [(one.before, one.after) for one in found.sums] == [(20, 20)]
    told = [(one.plan, one.accounts, one.periods, one.before, one.first_accounts) for one in found.left]
    assert told == [("gone", 1, 1, None, ("acct_6",)), ("legacy", 4, 8, 84, ("acct_2", "acct_3", "acct_4"))]
    assert (found.accounts, found.periods) == (6, 10)


def test_a_renamed_plan() -> None:
    """--map: the usage of the old name is rated by the new one."""
    what_if = WhatIf(catalog_of(plan_of_name("legacy", "3")), catalog_of(plan_of_name("payg", "2")), {"legacy": "payg"})
    one = what_if.compare(period(1, {"m0": 5}, plan="legacy"), NOW)
    assert (one.plan_after, one.before, one.after) == ("payg", 15, 10)


def plan_of_name(name: str, unit: str, currency: str = "usd", interval: str = "month") -> Plan:
    return replace(plan_of([{"unit_amount_decimal": unit}], currency, interval), name=name)


@pytest.mark.parametrize(
    ("new", "currency", "said"),
    [
        (plan_of_name("p", "2", "eur"), "usd", r"acct_1 pays p in usd, and plans\.p of the new one is in eur"),
        (plan_of_name("p", "2"), "eur", r"acct_1 pays p in eur, and plans\.p of the current catalog is in usd"),
        (plan_of_name("p", "2", interval="year"), "usd", r"plans\.p bills each month .* and plans\.p each year"),
    ],
)
def test_amounts_that_cannot_be_compared(new: Plan, currency: str, said: str) -> None:
    """Two currencies or two intervals are refused with both names, rather than added up."""
    with pytest.raises(InputInvalid, match=said):
        WhatIf(catalog_of(plan_of_name("p", "2")), catalog_of(new)).compare(period(1, {}, currency=currency), NOW)


def test_what_runs_is_marked() -> None:
    """A period that is over now is whole; one that is not counts, and is counted as running."""
    catalog = catalog_of(plan_of_name("p", "2"))
    what_if = WhatIf(catalog, catalog)
    found = simulated(what_if, [period(1, {"m0": 1}, start=NOW - 100), period(1, {"m0": 1}, start=NOW - 99)])
    assert (found.running, found.sums[0].before) == (1, 4)
