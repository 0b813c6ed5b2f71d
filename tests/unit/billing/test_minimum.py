"""The least that a whole period comes to: billed when its invoice is final, once, and given back for late usage."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from tests.shop import CATALOG, Shop, open_shop
from tests.unit.billing.test_change import change, deliver, refresh, report
from tests.unit.metering.test_settlement import settlement

from farebox.billing.cancel import cancel_subscriptions
from farebox.billing.claim import Claimed
from farebox.billing.late import LateBiller
from farebox.domain.rating import described, lines_of, total_of
from farebox.domain.usage import Batch, Increment

LEAST: Final = (
    CATALOG
    + """
[plans.least]
title = "At least"
minimum = "10.00"
base = "2.00"
[[plans.least.prices]]
meter = "calls"
unit_amount = "1.00"
"""
)


@pytest.fixture
def least(tmp_path: Path) -> Iterator[Shop]:
    with open_shop(tmp_path, catalog=LEAST) as opened:
        yield opened


def close(shop: Shop, claimed: Claimed, *, bills: bool = True) -> None:
    """The period ends, its invoice becomes final, and the ledger takes note of it."""
    end = report(shop, claimed).period.end
    shop.clock.pass_seconds(end - shop.clock.now_at())
    deliver(shop)
    shop.clock.pass_seconds(3 * 3_600)
    shop.at_stripe("GET", "/v1/account")
    refresh(shop, claimed)
    biller = LateBiller(shop.store, shop.provider, shop.clock, shop.catalog, bills=bills)
    for _ in range(2):  # the second time nothing is left to do
        biller.step()


def items(shop: Shop) -> list[tuple[int, str]]:
    found = sorted(shop.objects("invoiceitem"), key=lambda item: item["date"])
    return [(int(item["amount"]), str(item["description"])) for item in found]


def test_what_is_missing_is_on_the_next_invoice(least: Shop) -> None:
    """A base fee of 2.00 and three calls at 1.00 are 5.00: 5.00 more are on the next invoice, and reconcile agrees."""
    claimed = least.buy(plan="least")
    least.call(claimed.key, 3)
    assert (report(least, claimed).minimum, report(least, claimed).total) == (1_000, 500)
    close(least, claimed)
    assert items(least) == [(500, "Minimum charge, 2027-01-15 to 2027-02-15")]
    assert least.objects("invoiceitem")[0]["metadata"].get("farebox_meter") is None
    upcoming = least.provider.preview_invoice(report(least, claimed).subscription.id)
    assert upcoming.total == 500 + 200
    found = least.runtime.background.reconciler.run(since=0)
    assert [c for c in found.comparisons if c.verdict == "differs"] == []


def test_it_is_billed_also_where_late_usage_is_only_reported(least: Shop) -> None:
    """late_usage = "report" is about usage: the minimum is billed all the same."""
    claimed = least.buy(plan="least")
    close(least, claimed, bills=False)
    assert [amount for amount, _ in items(least)] == [800]


def test_whoever_used_enough_pays_no_more(least: Shop) -> None:
    """At the minimum and above it nothing is added."""
    claimed = least.buy(plan="least")
    least.call(claimed.key, 8)
    close(least, claimed)
    assert items(least) == []


def test_late_usage_is_part_of_the_minimum(least: Shop) -> None:
    """Four calls that come late are billed, and as much of what was added goes back; ten more go beyond it."""
    claimed = least.buy(plan="least")
    account = least.account(claimed)
    at = least.clock.now_at()
    close(least, claimed)
    assert [amount for amount, _ in items(least)] == [800]
    biller = LateBiller(least.store, least.provider, least.clock, least.catalog)
    for quantity, net in ((4, 0), (10, 600)):
        before = sum(amount for amount, _ in items(least))
        row = Increment(account.id, "calls", claimed.key_id, "record", at - at % 3600, quantity, 1, at)
        least.store.commit_batch(Batch(least.entropy.token(), 1, least.entropy.token(), (row,)))
        biller.step()
        assert sum(amount for amount, _ in items(least)) - before == net
    assert any(amount < 0 and text.startswith("Credit: minimum charge, ") for amount, text in items(least))


def test_the_last_whole_period_has_it_and_a_cut_one_has_not(least: Shop) -> None:
    """Cancelled for the period's end, a final invoice has what is missing; cancelled now, or changed to another plan
    in mid-period, there is no whole period and nothing is added."""
    whole, cut, changed = (least.buy(plan="least") for _ in range(3))
    account = least.account(whole)
    cancel_subscriptions(least.store, least.provider, least.clock, account, at_period_end=True)
    least.clock.pass_seconds(86_400)
    ending = least.account(cut)

    def cancel() -> Any:
        return cancel_subscriptions(least.store, least.provider, least.clock, ending, at_period_end=False)

    settlement(least).run(ending, cancel)
    change(least, changed, "payg", now=True, operator=True)
    close(least, whole)
    refresh(least, changed)
    LateBiller(least.store, least.provider, least.clock, least.catalog).step()
    filled = [item for item in least.objects("invoiceitem") if "Minimum charge" in str(item["description"])]
    assert [(item["amount"], item["customer"]) for item in filled] == [(800, account.customer_id)]
    paid = [invoice for invoice in least.objects("invoice") if invoice["id"] == filled[0]["invoice"]]
    assert [invoice["total"] for invoice in paid] == [800]


def test_a_quote_has_it(least: Shop) -> None:
    """`farebox quote` shows what would be added, in a line of its own."""
    plan = least.catalog.plans["least"]
    lines = lines_of(plan, {"calls": 3})
    assert (total_of(lines), lines[-1].amount) == (1_000, 500)
    assert described(lines[-1], plan, least.catalog) == "At least (to the minimum of 10.00 USD / month)"
    assert total_of(lines_of(plan, {"calls": 9})) == 1_100
