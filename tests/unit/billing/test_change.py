"""Changing plans: to the second, at the prices of when it was used, and never in two ways at once (L12)."""

from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest
from tests.shop import CATALOG, Shop, bearer, open_shop
from tests.unit.metering.test_settlement import settlement

from farebox.billing.catalog import apply_push, plan_push
from farebox.billing.change import change_plan, drop_change, outdated
from farebox.billing.claim import Claimed
from farebox.billing.inbox import refresh_account
from farebox.billing.invoices import usage_report
from farebox.config import load_catalog
from farebox.domain.accounts import Subscription
from farebox.domain.rating import lines_of, total_of
from farebox.errors import (
    ChangeRefused,
    InputInvalid,
    PlanUnknown,
    ProviderFailed,
    ProviderUnavailable,
    SubscriptionMissing,
)

DAY: Final = 86_400
PLANS: Final = (
    CATALOG
    + """
[plans.scale]
title = "Scale"
base = "29.00"
[[plans.scale.prices]]
meter = "calls"
mode = "graduated"
tiers = [ { up_to = 5, unit_amount = "0" }, { up_to = "inf", unit_amount = "0.50", flat_amount = "5.00" } ]
[plans.yearly]
title = "Yearly"
interval = "year"
[[plans.yearly.prices]]
meter = "calls"
package = { size = 10, unit_amount = "3.00" }
[plans.euros]
title = "Euros"
currency = "eur"
[[plans.euros.prices]]
meter = "calls"
unit_amount = "1.00"
"""
)


@pytest.fixture
def plans(tmp_path: Path) -> Iterator[Shop]:
    with open_shop(tmp_path, catalog=PLANS) as opened:
        yield opened


def change(shop: Shop, claimed: Claimed, plan: str, *, now: bool = False, operator: bool = False) -> Subscription:
    """By the buyer, or by an operator, whose change now is billed with the period's invoice."""
    settle = settlement(shop).run if now else None
    overrule: Any = (lambda refusal: None) if operator else None
    account, catalog = shop.account(claimed), shop.catalog
    return change_plan(shop.store, shop.provider, shop.clock, catalog, account, plan, settle=settle, overrule=overrule)


def report(shop: Shop, claimed: Claimed) -> Any:
    return usage_report(shop.store, shop.clock, shop.account(claimed), grace_seconds=0)


def refresh(shop: Shop, claimed: Claimed) -> Subscription:
    refresh_account(shop.store, shop.provider, shop.clock, shop.account(claimed))
    shop.runtime.gate.poll()
    return next(s for s in shop.store.subscriptions(claimed.account_id))


def deliver(shop: Shop) -> None:
    """Seal and send all that is open."""
    shop.runtime.background.sealer.step(hard=True)
    while shop.runtime.reporter.step(100):
        pass


def until_invoiced(shop: Shop, claimed: Claimed) -> None:
    """Past the period's end and its invoice's grace."""
    end = report(shop, claimed).period.end
    shop.clock.pass_seconds(end - shop.clock.now_at())
    deliver(shop)
    shop.clock.pass_seconds(2 * 3_600)
    shop.at_stripe("GET", "/v1/account")
    refresh(shop, claimed)


def invoices(shop: Shop) -> list[dict[str, Any]]:
    return sorted(shop.objects("invoice"), key=lambda found: found["created"])


def test_what_was_used_before_is_billed_at_the_old_price(plans: Shop) -> None:
    """L12: seven calls at a dollar, a change, eight calls by tiers: the invoice has 7.00 and 6.50, and each plan's base
    fee for the time it held; usage and preview say the same, and reconcile agrees."""
    claimed = plans.buy()
    plans.call(claimed.key, 7)
    plans.clock.pass_seconds(10 * DAY)
    changed = change(plans, claimed, "scale", now=True, operator=True)
    assert (changed.plan, changed.status, changed.base) == ("scale", "active", Decimal(2_900))
    plans.call(claimed.key, 8)
    plans.clock.pass_seconds(3_600)
    found = report(plans, claimed)
    assert [(part.plan, [(m.quantity, m.amount) for m in part.meters]) for part in found.earlier] == [
        ("payg", [(7, 700)])
    ]
    assert [(m.quantity, m.amount) for m in found.meters] == [(8, 500 + 150)]
    deliver(plans)
    preview = plans.provider.preview_invoice(changed.id)
    assert preview.total - 2_900 == found.total  # the preview has the next interval's base fee beside it
    until_invoiced(plans, claimed)
    paid = invoices(plans)[-1]
    assert (paid["status"], paid["total"]) == ("paid", preview.total)
    reconciled = plans.runtime.background.reconciler.run(since=0)
    assert [c for c in reconciled.comparisons if c.verdict != "agrees"] == []


def test_a_change_at_the_periods_end_takes_effect_at_its_second(plans: Shop) -> None:
    """The last second of the period is billed at the old price, the next one at the new; until then it is announced."""
    claimed = plans.buy()
    planned = change(plans, claimed, "scale")
    assert (planned.plan, planned.next_plan) == ("payg", "scale")
    end = report(plans, claimed).period.end
    plans.clock.pass_seconds(end - 1 - plans.clock.now_at())
    plans.call(claimed.key, 3)
    plans.clock.pass_seconds(1)
    plans.at_stripe("GET", "/v1/account")
    plans.call(claimed.key, 6)
    after = refresh(plans, claimed)
    assert (after.plan, after.next_plan, after.base) == ("scale", "", Decimal(2_900))
    found = report(plans, claimed)
    assert (found.period.start, found.earlier, found.total) == (end, (), 2_900 + 550)
    deliver(plans)
    plans.clock.pass_seconds(2 * 3_600)
    plans.at_stripe("GET", "/v1/account")
    assert invoices(plans)[-1]["total"] == 300 + 2_900
    until_invoiced(plans, claimed)
    assert invoices(plans)[-1]["total"] == 550 + 2_900
    reconciled = plans.runtime.background.reconciler.run(since=0)
    assert [c for c in reconciled.comparisons if c.verdict != "agrees"] == []


def test_an_invoice_equals_the_quote(plans: Shop) -> None:
    """Base fee, tiers and flat amount of a whole period: quote, usage, preview and the paid invoice say the same."""
    claimed = plans.buy(plan="scale")
    plans.call(claimed.key, 12)
    quoted = total_of(lines_of(plans.catalog.plans["scale"], {"calls": 12}))
    assert report(plans, claimed).total == quoted == 2_900 + 500 + 350
    deliver(plans)
    assert plans.provider.preview_invoice(report(plans, claimed).subscription.id).total == quoted
    until_invoiced(plans, claimed)
    assert [invoice["total"] for invoice in invoices(plans)] == [2_900, quoted]


def test_a_planned_change_is_given_up(plans: Shop) -> None:
    """Given up, nothing changes at the period's end; with nothing planned that is said."""
    claimed = plans.buy()
    change(plans, claimed, "scale")
    account = plans.account(claimed)
    kept = drop_change(plans.store, plans.provider, plans.clock, account)
    assert kept.next_plan == ""
    until_invoiced(plans, claimed)
    assert refresh(plans, claimed).plan == "payg"
    with pytest.raises(ChangeRefused, match="No change of plan is coming up"):
        drop_change(plans.store, plans.provider, plans.clock, account)


def test_the_later_change_counts(plans: Shop) -> None:
    """A change planned twice is the second one; a change now gives up the planned one."""
    claimed = plans.buy()
    change(plans, claimed, "scale")
    assert change(plans, claimed, "bulk").next_plan == "bulk"
    assert (change(plans, claimed, "scale", now=True).next_plan, refresh(plans, claimed).plan) == ("", "scale")
    until_invoiced(plans, claimed)
    assert refresh(plans, claimed).plan == "scale"


def test_by_the_year_from_the_periods_end(plans: Shop) -> None:
    """Another interval is refused for now and begins with the next period: it then is a year, billed by packages."""
    claimed = plans.buy()
    with pytest.raises(ChangeRefused, match="billed by the year and not by the month: change to it when the period"):
        change(plans, claimed, "yearly", now=True)
    change(plans, claimed, "yearly")
    until_invoiced(plans, claimed)
    found = report(plans, claimed)
    assert found.period.end - found.period.start >= 365 * DAY
    plans.call(claimed.key, 11)
    assert report(plans, claimed).total == 600


@pytest.mark.parametrize(
    ("plan", "error", "said"),
    [
        ("gold", PlanUnknown, "The plans are: bulk, euros, payg, scale, yearly"),
        ("payg", ChangeRefused, "has plan payg already, in its newest version"),
        ("euros", InputInvalid, "Plan euros is not sold in 'usd'. Its currencies are: eur"),
    ],
)
def test_refusals(plans: Shop, plan: str, error: type[Exception], said: str) -> None:
    """An unknown plan, the same plan and a plan of another currency are refused in words, and nothing is written."""
    claimed = plans.buy()
    plans.asked.clear()
    with pytest.raises(error, match=said):
        change(plans, claimed, plan)
    assert [asked for asked in plans.asked if not asked.startswith("GET")] == []


def test_what_ends_is_not_changed(plans: Shop) -> None:
    """A subscription that ends with its period, or has ended, is not changed; who cancels gives up a planned change."""
    claimed = plans.buy()
    planned = change(plans, claimed, "scale")
    plans.provider.cancel_subscription(planned.id, at_period_end=True)
    assert refresh(plans, claimed).next_plan == ""
    with pytest.raises(ChangeRefused, match="ends with its period"):
        change(plans, claimed, "scale")
    plans.provider.cancel_subscription(planned.id, at_period_end=False)
    with pytest.raises(SubscriptionMissing):
        change(plans, claimed, "scale")


def test_a_lost_answer_is_looked_up(plans: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change whose answer was lost is taken as done when Stripe shows it, and only then."""
    claimed = plans.buy()
    account = plans.account(claimed)
    real: Callable[..., None] = plans.provider.buy_subscription_change

    def lost(*arguments: Any, **named: Any) -> None:
        real(*arguments, **named)
        raise ProviderUnavailable("The answer was lost.")

    def refused(*_: Any, **__: Any) -> None:
        raise ProviderUnavailable("Nothing was done.")

    run = settlement(plans).run
    for way, plan in ((refused, "payg"), (lost, "scale")):
        monkeypatch.setattr(plans.provider, "buy_subscription_change", way)
        try:
            change_plan(plans.store, plans.provider, plans.clock, plans.catalog, account, "scale", settle=run)
        except ProviderUnavailable:
            assert way is refused
        assert refresh(plans, claimed).plan == plan


@pytest.mark.parametrize("operator", [False, True])
@pytest.mark.parametrize("error", [ProviderUnavailable, ProviderFailed])
def test_a_change_that_fails_gives_up_no_planned_one(
    plans: Shop, monkeypatch: pytest.MonkeyPatch, error: type[Exception], operator: bool
) -> None:
    """Stripe fails after the planned change was taken off: the change did not happen, and the planned one is planned
    again."""
    claimed = plans.buy()
    planned = change(plans, claimed, "bulk")

    def failing(id: str, *_: Any, **__: Any) -> None:
        plans.provider.drop_subscription_change(planned.id)
        raise error("Nothing was done.")

    for name in ("buy_subscription_change", "change_subscription"):
        monkeypatch.setattr(plans.provider, name, failing)
    with pytest.raises(error):
        change(plans, claimed, "scale", now=True, operator=operator)
    assert (refresh(plans, claimed).plan, refresh(plans, claimed).next_plan) == ("payg", "bulk")


def test_subscribers_keep_their_version_until_they_are_moved(tmp_path: Path) -> None:
    """A new price in the file is for new buyers; who has the old one is found, and moved when the period ends."""
    with open_shop(tmp_path, catalog=PLANS) as shop:
        claimed = shop.buy()
        (tmp_path / "farebox.toml").write_text(PLANS.replace('unit_amount = "1.00"', 'unit_amount = "2.00"', 1))
        dearer = load_catalog(tmp_path / "farebox.toml")
        (update,) = [change for change in plan_push(dearer, shop.provider) if change.kind != "unchanged"]
        assert update.differences == (("price", "1.00 USD per unit", "2.00 USD per unit"),)
        apply_push([update], lambda _: None)
        shop.call(claimed.key, 3)
        assert report(shop, claimed).total == 300
        (old,) = outdated(shop.provider, dearer, shop.store.subscriptions(claimed.account_id))
        moved = change_plan(shop.store, shop.provider, shop.clock, dearer, shop.account(claimed), old.plan)
        assert moved.next_plan == "payg"
        assert outdated(shop.provider, dearer, shop.store.subscriptions(claimed.account_id)) == []
        until_invoiced(shop, claimed)
        assert invoices(shop)[-1]["total"] == 300
        shop.call(claimed.key, 3)
        assert report(shop, claimed).total == 600


def test_over_http(plans: Shop) -> None:
    """The buyer's own key changes its plan, sees the change to come, and gives it up."""
    claimed = plans.buy()
    headers = bearer(claimed.key)
    asked = plans.client.post("/billing/subscription", json={"plan": "scale"}, headers=headers)
    assert (asked.status_code, asked.json()["next_plan"], asked.json()["plan"]) == (200, "scale", "payg")
    assert plans.client.get("/billing/subscription", headers=headers).json() == asked.json()
    assert plans.client.get("/billing/usage", headers=headers).json()["next_plan"] == "scale"
    given_up = plans.client.delete("/billing/subscription/change", headers=headers)
    assert (given_up.status_code, given_up.json()["next_plan"]) == (200, None)
    unknown = plans.client.post("/billing/subscription", json={"plan": "gold"}, headers=headers)
    assert (unknown.status_code, unknown.json()["code"]) == (422, "plan_unknown")
    same = plans.client.post("/billing/subscription", json={"plan": "payg"}, headers=headers)
    assert (same.status_code, same.json()["code"]) == (409, "change_refused")
    assert plans.client.post("/billing/subscription", json={"plan": "scale"}).status_code == 401
