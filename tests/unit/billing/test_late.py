"""Usage that comes too late for its invoice is billed on the next one, once, whatever breaks on the way (L10)."""

from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest
from tests.shop import CATALOG, Shop, open_shop

from farebox.billing.inbox import InboxWorker, refresh_account
from farebox.billing.late import LateBiller
from farebox.domain.accounts import Account
from farebox.domain.balance import Verdict
from farebox.domain.catalog import Price
from farebox.domain.corrections import late_amount, late_description
from farebox.domain.inbox import InboxEvent
from farebox.domain.reports import ReportState
from farebox.domain.usage import Batch, Increment
from farebox.errors import ProviderUnavailable

DAY: Final = 86_400
CENTS: Final = Price("calls", Decimal("1.5"))
MONTH: Final = 31 * DAY + 2 * 3_600


def late(shop: Shop) -> LateBiller:
    return shop.runtime.background.late


def pass_time(shop: Shop, seconds: int = MONTH) -> None:
    shop.clock.pass_seconds(seconds)
    shop.sandbox.tick()
    for account in shop.store.accounts(limit=9):
        refresh_account(shop.store, shop.provider, shop.clock, account)


def items_at_stripe(shop: Shop) -> list[dict[str, Any]]:
    return sorted(shop.objects("invoiceitem"), key=lambda item: int(item["date"]))


def billed(shop: Shop) -> int:
    """What all final invoices of the shop come to."""
    return sum(invoice["total"] for invoice in shop.objects("invoice") if invoice["status"] != "draft")


def verdicts(shop: Shop) -> set[Verdict]:
    return {c.verdict for c in shop.runtime.background.reconciler.run(since=0).comparisons}


def late_by(shop: Shop, quantity: int) -> Account:
    """A buyer of whose usage so much was not reported when the invoice became final, and 2 units were."""
    buyer = shop.buy()
    shop.call(buyer.key, 2)
    shop.runtime.background.flush()
    shop.call(buyer.key, quantity)
    pass_time(shop)
    return shop.account(buyer)


def test_late_usage_is_on_the_next_invoice(shop: Shop) -> None:
    """I3, I6, L10: named after its own period, at that period's price, and never a meter event."""
    account = late_by(shop, 3)
    assert late(shop).step() == 1
    (item,) = items_at_stripe(shop)
    assert (item["amount"], item["currency"], item["invoice"]) == (300, "usd", None)
    assert item["description"] == "3 × API calls, 2027-01-15 to 2027-02-15 (late usage)"
    assert item["parent"]["subscription_details"]["subscription"]
    shop.runtime.background.flush()
    withdrawn = shop.store.meter_events(account.id, state=ReportState.WITHDRAWN)
    assert [event.value for event in withdrawn] == [3]
    assert shop.store.report_summary().unsealed_quantity == 0
    assert shop.asked.count("POST /v1/billing/meter_events") == 1
    pass_time(shop)
    assert billed(shop) == 500
    late(shop).step()
    assert verdicts(shop) == {Verdict.AGREES}


def test_usage_that_stripe_took_too_late(shop: Shop) -> None:
    """L10: an event that Stripe accepted after the invoice is on no invoice, so it is billed as an item too."""
    late_by(shop, 3)
    plan = shop.runtime.background
    plan.flush()
    assert shop.store.report_summary().quantities[ReportState.DELIVERED] == 5
    assert late(shop).step() == 1
    assert [item["amount"] for item in items_at_stripe(shop)] == [300]
    pass_time(shop)
    assert billed(shop) == 500


def test_a_webhook_closes_the_period(shop: Shop) -> None:
    """L10: the webhook of the final invoice is enough; its copy changes nothing."""
    account = late_by(shop, 3)
    worker = InboxWorker(shop.store, shop.provider, shop.clock, shop.entropy, late(shop))
    for n in range(2):
        event = InboxEvent(f"evt_{n}", "invoice.finalized", "in_1", account.customer_id, shop.clock.now_at(), False)
        shop.store.add_event(event, at=shop.clock.now_at())
        assert worker.step()  # the facts of it, and then
        assert worker.step()  # what it asks to be billed
    assert [item["amount"] for item in items_at_stripe(shop)] == [300]
    assert shop.store.periods(account.id)[0].finalized_at is not None


def test_usage_that_comes_even_later(shop: Shop) -> None:
    """L10: a spool replayed after the period was closed is billed too, and each unit once."""
    account = late_by(shop, 3)
    late(shop).step()
    add_usage(shop, account, 4)
    shop.runtime.background.sealer.step(hard=True)
    assert late(shop).step() == 1
    assert late(shop).step() == 0
    assert [item["amount"] for item in items_at_stripe(shop)] == [300, 400]
    assert sorted(item.quantity for item in shop.store.late_items(account.id)) == [3, 4]


def test_after_the_end_a_last_invoice(shop: Shop) -> None:
    """L10: when the subscription has ended no invoice comes by itself, so the late usage gets a last one of its own."""
    buyer = shop.buy()
    (subscription,) = shop.store.subscriptions(buyer.account_id)
    shop.provider.cancel_subscription(subscription.id, at_period_end=True)
    shop.call(buyer.key, 2)
    shop.runtime.background.flush()
    shop.call(buyer.key, 3)
    pass_time(shop)
    assert [s.status for s in shop.store.subscriptions(buyer.account_id)] == ["canceled"]
    assert late(shop).step() == 1
    assert late(shop).step() == 0
    pass_time(shop, 2 * 3_600)
    assert late(shop).step() == 0
    last, usual = sorted(shop.objects("invoice"), key=lambda invoice: str(invoice["billing_reason"]))
    assert (last["billing_reason"], last["status"], last["total"]) == ("manual", "paid", 300)
    assert usual["total"] == 200
    assert verdicts(shop) == {Verdict.AGREES}


@pytest.mark.parametrize("fault", ["before", "after"])
def test_a_crash_bills_once(shop: Shop, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """F01, L10: killed between the ledger's row and Stripe's item, on either side of it, the item is billed once."""
    late_by(shop, 3)
    real = shop.provider.create_late_item

    def broken(*args: Any, **named: Any) -> str:
        if fault == "after":
            real(*args, **named)
        raise ProviderUnavailable()

    monkeypatch.setattr(shop.provider, "create_late_item", broken)
    assert late(shop).step() == 0
    monkeypatch.undo()
    shop.clock.pass_seconds(3 * DAY)  # no Idempotency-Key remembers it any more
    assert late(shop).step() == 1
    assert [item["amount"] for item in items_at_stripe(shop)] == [300]
    assert late(shop).step() == 0


def test_a_process_that_was_slower(shop: Shop) -> None:
    """F15: a second process that comes to the same late usage makes nothing of it."""
    late_by(shop, 3)
    other = LateBiller(shop.store, shop.provider, shop.clock, shop.catalog)
    assert late(shop).step() == 1
    assert other.step() == 0
    assert [item["amount"] for item in items_at_stripe(shop)] == [300]


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    """A seller may not want it: late usage is said, and not billed."""
    catalog = '[reporting]\nlate_usage = "report"\n' + CATALOG
    with open_shop(tmp_path, catalog=catalog) as shop:
        late_by(shop, 3)
        assert late(shop).step() == 0
        shop.runtime.background.flush()
        assert items_at_stripe(shop) == []
        found = shop.runtime.background.reconciler.run(since=0)
        assert [(r.code, r.quantity) for c in found.differing for r in c.reasons] == [("late", 3)]
        assert shop.store.report_summary().unsealed_quantity == 3


def test_fractions_of_a_cent_are_not_lost() -> None:
    """I7: what is billed late costs with the invoice what one invoice would have cost."""
    unit = late_amount(0, 1, CENTS)
    assert (unit, late_amount(3, 1, CENTS), late_amount(0, 4, CENTS)) == (2, 1, 6)


def test_a_calendar_month_is_called_by_its_name() -> None:
    """I6: the line names the period that the usage is of."""
    october = 1_790_812_800
    month = late_description("API calls", 3, october, october + 31 * DAY)
    assert month == "3 × API calls, October 2026 (late usage)"
    other = late_description("API calls", 3, october, october + 30 * DAY)
    assert other == "3 × API calls, 2026-10-01 to 2026-10-31 (late usage)"


def add_usage(shop: Shop, account: Account, quantity: int) -> None:
    """Usage of the first period, as a process writes it that was cut off."""
    (first, *_) = shop.store.periods(account.id)
    increment = Increment(account.id, "calls", "", "spool", first.start, quantity, 1, first.start + 60)
    shop.store.commit_batch(Batch(shop.entropy.token(), 1, shop.entropy.token(), (increment,)))


def test_what_only_the_reconciliation_finds(shop: Shop) -> None:
    """I15, L10: late usage of a closed period that has lost its hint is found by the hourly reconciliation, and billed
    in the same run, as the difference says."""
    account, background = late_by(shop, 3), shop.runtime.background
    late(shop).step()
    (period, *_) = shop.store.periods(account.id)
    used = Increment(account.id, "calls", "", "record", period.start, 4, 1, period.start)
    shop.store.commit_batch(Batch("job", 1, "job", (used,)))
    with shop.store.database.write() as connection:
        connection.exec_driver_sql("UPDATE usage SET dirty = false")
    assert late(shop).step() == 0
    background._bind()
    background._roles.renew()
    shop.clock.pass_seconds(3_600)
    background._roles.renew()
    background._reconcile_step()
    assert [item["amount"] for item in items_at_stripe(shop)] == [300, 400]
    assert Verdict.DIFFERS not in verdicts(shop)
