"""The seller decides who changes plans and when (I17): `[changes]` binds buyers, and operators overrule it aloud."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from tests.shop import Shop, bearer, open_shop
from tests.unit.billing.test_change import PLANS, change, deliver, report

from farebox.billing.change import change_plan
from farebox.billing.claim import Claimed
from farebox.config import load_catalog
from farebox.errors import ChangeRefused

FREE: Final = """
[plans.free]
title = "Free"
card_required = false
[[plans.free.prices]]
meter = "calls"
mode = "graduated"
tiers = [ { up_to = 10, unit_amount = "0" }, { up_to = "inf", unit_amount = "1.00" } ]
"""


@pytest.fixture
def plans(tmp_path: Path) -> Iterator[Shop]:
    with open_shop(tmp_path, catalog=PLANS + FREE) as opened:
        yield opened


def ask(shop: Shop, claimed: Claimed, plan: str, when: str) -> Any:
    asked = {"plan": plan, "when": when}
    return shop.client.post("/billing/subscription", json=asked, headers=bearer(claimed.key))


def ruled(shop: Shop, tmp_path: Path, rules: str) -> Any:
    """The shop's catalog with other rules for changes."""
    path = tmp_path / "ruled.toml"
    path.write_text(PLANS + FREE + rules)
    return load_catalog(path)


def test_up_and_down_at_once_is_no_way_to_new_included_units(plans: Shop) -> None:
    """By default an upgrade may be made now and everything else waits for the period's end: included units that are
    used up stay used up."""
    claimed = plans.buy(plan="free")
    plans.call(claimed.key, 10)
    change(plans, claimed, "scale", now=True)
    with pytest.raises(ChangeRefused, match='"when": "period_end"'):
        change(plans, claimed, "free", now=True)
    waits = ask(plans, claimed, "free", "period_end")
    assert (waits.status_code, waits.json()["plan"], waits.json()["next_plan"]) == (200, "scale", "free")
    plans.call(claimed.key, 6)
    deliver(plans)
    assert report(plans, claimed).meters[0].amount == 500 + 50


def test_a_plan_that_does_not_rank_higher_waits(plans: Shop) -> None:
    """Plans without base fees do not tell which one ranks higher: the change waits for the period's end."""
    claimed = plans.buy()
    with pytest.raises(ChangeRefused, match="takes effect when the running period ends"):
        change(plans, claimed, "bulk", now=True)
    assert ask(plans, claimed, "bulk", "period_end").json()["next_plan"] == "bulk"


@pytest.mark.parametrize(
    ("rules", "plan", "now", "said"),
    [
        ('upgrade = "period_end"', "scale", True, "takes effect when the running period ends"),
        ('upgrade = "operator"', "scale", False, "Only the seller of this API"),
        ('downgrade = "operator"', "bulk", False, "Only the seller of this API"),
        ('downgrade = "now"', "bulk", True, ""),
        ('order = ["payg", "bulk"]', "bulk", True, ""),
        ('order = ["bulk", "payg"]', "bulk", True, "takes effect when the running period ends"),
    ],
)
def test_the_seller_decides(plans: Shop, tmp_path: Path, rules: str, plan: str, now: bool, said: str) -> None:
    """Each setting refuses what it does not allow, in words that say what is possible, and nothing is written."""
    claimed = plans.buy()
    catalog = ruled(plans, tmp_path, f"[changes]\n{rules}\n")
    plans.asked.clear()

    def settle(account: Any, act: Any) -> Any:
        return act()

    def attempt() -> Any:
        account = plans.account(claimed)
        settling = settle if now else None
        return change_plan(plans.store, plans.provider, plans.clock, catalog, account, plan, settle=settling)

    if not said:
        assert attempt().plan == plan
        return
    with pytest.raises(ChangeRefused, match=said):
        attempt()
    assert [asked for asked in plans.asked if not asked.startswith("GET")] == []


def test_over_http(plans: Shop) -> None:
    """A buyer's key is bound by the rules: 409 with the way that is left."""
    claimed = plans.buy()
    refused = ask(plans, claimed, "bulk", "now")
    assert (refused.status_code, refused.json()["code"]) == (409, "change_refused")
    assert '"when": "period_end"' in refused.json()["detail"]


def test_operators_overrule_it_aloud(plans: Shop) -> None:
    """An operator makes any change, and hears beforehand what a buyer would have been refused with."""
    claimed = plans.buy()
    heard: list[str] = []
    account, store = plans.account(claimed), plans.store
    change_plan(
        store,
        plans.provider,
        plans.clock,
        plans.catalog,
        account,
        "bulk",
        settle=lambda a, act: act(),
        overrule=heard.append,
    )
    change_plan(store, plans.provider, plans.clock, plans.catalog, account, "scale", overrule=heard.append)
    assert [("takes effect when the running period ends" in one) for one in heard] == [True, False]
    assert heard[1] == ""
