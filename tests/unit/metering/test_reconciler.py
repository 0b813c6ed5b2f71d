"""Reconciling a whole shop with the local Stripe: agreement, and every kind of planted disagreement."""

from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa
from tests.shop import Shop, open_shop

from farebox.billing.claim import Claimed
from farebox.billing.inbox import refresh_account
from farebox.domain.balance import Verdict
from farebox.domain.reports import ReportState
from farebox.metering.reconciler import Comparison, Reconciliation
from farebox.store import tables as t

DAY: Final = 86_400
MONTH: Final = 32 * DAY


def reconciled(shop: Shop, **asked: Any) -> Reconciliation:
    return shop.runtime.background.reconciler.run(**asked)


def codes(found: Reconciliation) -> list[tuple[str, int]]:
    return [(reason.code, reason.quantity) for c in found.comparisons for reason in c.reasons]


def only(found: Reconciliation) -> Comparison:
    (one,) = found.comparisons
    return one


def pass_time(shop: Shop, seconds: int) -> None:
    """Let time pass at Stripe and here alike, and learn what became of subscriptions."""
    shop.clock.pass_seconds(seconds)
    shop.sandbox.tick()
    for account in shop.store.accounts(limit=9):
        refresh_account(shop.store, shop.provider, shop.clock, account)
    shop.runtime.gate.poll()


def test_what_is_reported_agrees(shop: Shop) -> None:
    """I3: usage that was delivered is in Stripe's sum, unit for unit."""
    buyer = shop.buy()
    shop.call(buyer.key, 3)
    shop.runtime.background.flush()
    one = only(reconciled(shop))
    assert (one.verdict, one.balance.ledger, one.stripe, one.reasons) == (Verdict.AGREES, 3, 3, ())


def test_what_is_on_its_way_is_no_difference_for_half_an_hour(shop: Shop) -> None:
    """I5: unsealed usage waits; what waits for too long is a difference."""
    buyer = shop.buy()
    shop.call(buyer.key, 3)
    assert codes(reconciled(shop)) == [("unsealed", 3)]
    assert only(reconciled(shop)).verdict is Verdict.WAITING
    shop.clock.pass_seconds(1_900)
    assert only(reconciled(shop)).verdict is Verdict.DIFFERS


def test_usage_that_stripe_has_from_elsewhere(shop: Shop) -> None:
    """I4: an event that the ledger never sent shows as foreign, and since when."""
    buyer = shop.buy()
    shop.call(buyer.key, 3)
    shop.runtime.background.flush()
    send_foreign(shop, buyer, 5)
    first = only(reconciled(shop))
    assert (first.verdict, codes(reconciled(shop))) == (Verdict.DIFFERS, [("foreign", 5)])
    shop.clock.pass_seconds(600)
    again = only(reconciled(shop))
    assert again.since_at == first.since_at == shop.clock.now_at() - 600
    assert shop.store.difference_count() == 1


def test_a_difference_that_is_gone_is_forgotten(shop: Shop) -> None:
    """The metric counts what differs now."""
    buyer = shop.buy()
    shop.call(buyer.key, 3)
    shop.clock.pass_seconds(1_900)
    reconciled(shop)
    assert shop.store.difference_count() == 1
    shop.runtime.background.flush()
    assert only(reconciled(shop)).verdict is Verdict.AGREES
    assert shop.store.difference_count() == 0


def test_a_sum_that_lags(shop: Shop) -> None:
    """Accepted is not counted: a lag is waited for an hour, and then it is a loss."""
    buyer = shop.buy()
    shop.sandbox.aggregation_lag_seconds = 2 * 3_600
    shop.call(buyer.key, 3)
    shop.runtime.background.flush()
    one = only(reconciled(shop))
    assert (one.verdict, one.reasons[0].code) == (Verdict.WAITING, "lag")
    shop.clock.pass_seconds(3_700)
    one = only(reconciled(shop))
    assert (one.verdict, one.reasons[0].code) == (Verdict.DIFFERS, "missing")


@pytest.mark.parametrize(
    ("state", "code", "unknown"),
    [
        (ReportState.REJECTED, "rejected", None),
        (ReportState.DOUBTFUL, "doubtful", 1),
        (ReportState.DOUBTFUL, "restored", None),
    ],
)
def test_parked_events_are_named(shop: Shop, state: ReportState, code: str, unknown: int | None) -> None:
    """I5, L6: what waits for a person says why it does."""
    buyer = shop.buy()
    shop.call(buyer.key, 3)
    shop.runtime.background.sealer.step(hard=True)
    plant(shop, sa.update(t.meter_events).values(state=state, first_unknown_at=unknown))
    one = only(reconciled(shop))
    assert one.verdict is Verdict.DIFFERS
    assert [reason.code for reason in one.reasons] == [code]


def test_usage_without_a_period(shop: Shop) -> None:
    """Usage of which no price is known is named, not dropped."""
    buyer = shop.buy()
    shop.call(buyer.key, 3)
    shop.runtime.background.flush()
    plant(shop, sa.update(t.usage).values(bucket_start=t.usage.c.bucket_start - 10 * DAY))
    assert ("no_period", 3) in codes(reconciled(shop))


def test_more_events_than_usage(shop: Shop) -> None:
    """I3: a ledger whose meter events hold more than was used is broken, and that is said."""
    buyer = shop.buy()
    shop.call(buyer.key, 3)
    shop.runtime.background.flush()
    plant(shop, sa.update(t.usage).values(quantity=1))
    assert ("conservation", 2) in codes(reconciled(shop))


def test_an_invoice_agrees_to_the_cent(tmp_path: Path) -> None:
    """I7: a final invoice bills what the ledger has, at the exact price, rounded as Stripe rounds."""
    with open_shop(tmp_path) as shop:
        buyer = shop.buy(plan="bulk")
        shop.call(buyer.key, 5)
        shop.runtime.background.flush()
        pass_time(shop, MONTH)
        first = reconciled(shop).comparisons[0]
        assert first.bill is not None
        assert (first.bill.quantity, first.bill.amount, first.bill.expected_amount) == (5, 8, 8)
        assert first.verdict is Verdict.AGREES


def test_an_invoice_with_another_price(shop: Shop) -> None:
    """I7: an amount that the ledger's prices do not make is a difference, in minor units."""
    buyer = shop.buy()
    shop.call(buyer.key, 5)
    shop.runtime.background.flush()
    items = shop.store.periods(buyer.account_id)[0].items
    pass_time(shop, MONTH)
    cheaper = sa.func.replace(t.periods.c["items"], '"100"', '"99"')
    plant(shop, sa.update(t.periods).where(t.periods.c.start == items[0].period.start).values(items=cheaper))
    assert ("amount", 5) in codes(reconciled(shop))


def test_usage_after_the_invoice(shop: Shop) -> None:
    """L10: what no invoice has is late, whether or not Stripe's meter counted it."""
    buyer = shop.buy()
    shop.call(buyer.key, 5)
    pass_time(shop, MONTH)
    assert codes(reconciled(shop))[0] == ("late", 5)


def test_a_period_that_starts_within_a_minute(shop: Shop) -> None:
    """Stripe's sums are by the minute: units of the next period in the shared minute are not taken for this one's."""
    shop.clock.pass_seconds(30)
    buyer = shop.buy()
    (period,) = shop.store.periods(buyer.account_id)
    assert period.start % 60 == 30
    shop.call(buyer.key, 2)
    pass_time(shop, period.end - 10 - shop.clock.now_at())
    shop.call(buyer.key, 3)
    shop.runtime.background.flush()
    pass_time(shop, 15)
    shop.call(buyer.key, 4)
    shop.runtime.background.flush()
    first, second = reconciled(shop).comparisons
    assert (first.stripe, first.neighbours, second.stripe, second.neighbours) == (5, 4, 4, 3)
    assert (first.balance.ledger, second.balance.ledger) == (5, 4)
    assert {first.verdict, second.verdict} == {Verdict.AGREES}


def test_reads_are_bounded(shop: Shop) -> None:
    """A run asks Stripe no more often than it may, says so, and goes on where it stopped."""
    buyers = [shop.buy() for _ in range(3)]
    first = reconciled(shop, reads_max=2)
    assert (first.complete, first.accounts, first.reads) == (False, 1, 2)
    rest = reconciled(shop, after=first.last_account)
    assert (rest.complete, rest.accounts) == (True, 2)
    seen = {c.account_id for c in first.comparisons + rest.comparisons}
    assert seen == {buyer.account_id for buyer in buyers}


def send_foreign(shop: Shop, buyer: Claimed, value: int) -> None:
    customer = shop.account(buyer).customer_id
    body = f"event_name=calls&payload[stripe_customer_id]={customer}&payload[value]={value}"
    shop.at_stripe("POST", "/v1/billing/meter_events", body)


def plant(shop: Shop, statement: Any) -> None:
    with shop.store.database.write() as connection:
        connection.execute(statement)


def test_the_hourly_run(shop: Shop) -> None:
    """The process that reports compares once an hour within its budget of reads; the metric shows what differs."""
    buyer, background = shop.buy(), shop.runtime.background
    send_foreign(shop, buyer, 5)
    background._bind()
    shop.clock.pass_seconds(3_600)
    background._reconcile_step()
    assert background.reconciler.last_run_at == 0, "another process has the role"
    background._roles.renew()
    background._reconcile_step()
    assert background.reconciler.last_run_at == shop.clock.now_at()
    assert shop.store.difference_count() == 1
    shop.clock.pass_seconds(60)
    background._reconcile_step()
    assert background.reconciler.last_run_at == shop.clock.now_at() - 60
