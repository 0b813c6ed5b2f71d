"""When a billing period is closed, however its subscription ends, and what is said of it until then (I15)."""

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest
from structlog.testing import capture_logs
from tests.shop import CATALOG, START_AT, Shop, bearer, open_shop
from tests.unit.billing.test_change import PLANS, change
from tests.unit.billing.test_late import DAY, billed, items_at_stripe, late, pass_time

from farebox.billing.doctor import Finding, diagnose
from farebox.billing.inbox import InboxWorker, refresh_account
from farebox.billing.late import LateBiller
from farebox.domain.accounts import Account, entitlement_end
from farebox.domain.balance import Verdict
from farebox.domain.catalog import Catalog, Meter, Price
from farebox.domain.inbox import InboxEvent
from farebox.domain.invoices import BilledInvoice, BilledLine
from farebox.domain.usage import Batch, Increment
from farebox.errors import ProviderRejected, ProviderUnavailable
from farebox.metering.reconciler import Reconciler
from farebox.metering.sealer import Sealer
from farebox.sandbox import checkout as hosted_checkout

HOUR: Final = 3_600
TRIAL: Final = CATALOG.replace(
    "[plans.payg]\n", '[plans.payg]\ntrial_days = 14\ncard_required = false\nminimum = "40.00"\n', 1
)
TWO_METERS: Final = CATALOG.replace("[plans.payg]\n", '[meters.tokens]\ntitle = "Tokens"\n\n[plans.payg]\n', 1)


def refresh(shop: Shop) -> None:
    for account in shop.store.accounts(limit=99):
        refresh_account(shop.store, shop.provider, shop.clock, account)
    shop.runtime.gate.poll()


def cancel_at_stripe(shop: Shop, account_id: str) -> None:
    """What "cancel immediately" does in Stripe's dashboard: no last invoice."""
    (subscription,) = [s for s in shop.store.subscriptions(account_id) if s.status != "canceled"]
    shop.at_stripe("DELETE", f"/v1/subscriptions/{subscription.id}")
    refresh(shop)


def to_the_end(shop: Shop, account: Account) -> None:
    """Time moves to the end of the running period, and Stripe's renewal is learned."""
    end = shop.store.periods(account.id)[-1].end
    shop.clock.pass_seconds(end - shop.clock.now_at())
    shop.sandbox.tick()
    shop.runtime.background.flush()
    refresh(shop)


def hold_drafts(shop: Shop, hours: int) -> None:
    for invoice in shop.objects("invoice"):
        if invoice["status"] == "draft":
            invoice["automatically_finalizes_at"] = shop.clock.now_at() + hours * HOUR


def without_cards(shop: Shop) -> None:
    for method in shop.objects("payment_method"):
        method["customer"] = None
    for customer in shop.objects("customer"):
        customer["invoice_settings"]["default_payment_method"] = None
    for subscription in shop.objects("subscription"):
        subscription["default_payment_method"] = None


def reasons(shop: Shop) -> list[tuple[str, str, int]]:
    found = shop.runtime.background.reconciler.run(since=0)
    return [(c.verdict.value, r.code, r.quantity) for c in found.comparisons for r in c.reasons]


def test_a_subscription_cancelled_at_stripe_is_billed_on_a_last_invoice(shop: Shop) -> None:
    """F29, I15: Stripe makes no invoice for the running period; two hours after its end the ledger bills what was
    used, and until then reconcile says so with an age."""
    buyer = shop.buy()
    shop.call(buyer.key, 7)
    shop.runtime.background.flush()
    shop.clock.pass_seconds(DAY)
    cancel_at_stripe(shop, buyer.account_id)
    assert reasons(shop) == [("waiting", "unbilled", 7)]
    shop.clock.pass_seconds(2 * HOUR)
    assert reasons(shop) == [("differs", "unbilled", 7)]
    assert late(shop).step() == 1
    pass_time(shop, 2 * HOUR)
    assert billed(shop) == 700
    (period,) = shop.store.periods(buyer.account_id)
    assert (period.invoice_id, period.end - period.start) == (None, DAY)
    late(shop).step()
    assert {c.verdict for c in shop.runtime.background.reconciler.run(since=0).comparisons} == {Verdict.AGREES}


def test_usage_in_the_grace_of_dunning_is_billed(shop: Shop) -> None:
    """F29, I15: Stripe cancels after the last failed payment; what was used in the grace is not lost."""
    shop.sandbox.after_retries = "canceled"
    session_id = shop.checkout()
    hosted_checkout.pay(
        shop.sandbox.context(shop.stripe),
        shop.stripe.objects["checkout.session"][session_id],
        email="b@example.test",
        number="4000000000000341",
        expiry="12/40",
        cvc="123",
    )
    shop.sandbox.reschedule()
    buyer = shop.claim(session_id)
    shop.runtime.gate.poll()
    shop.call(buyer.key, 2)
    shop.runtime.background.flush()
    pass_time(shop, 31 * DAY + 2 * HOUR)
    assert [s.status for s in shop.store.subscriptions(buyer.account_id)] == ["past_due"]
    shop.call(buyer.key, 5)
    shop.runtime.background.flush()
    for days in (3, 5, 7, 10, 40):
        pass_time(shop, days * DAY)
        late(shop).step()
    assert [s.status for s in shop.store.subscriptions(buyer.account_id)] == ["canceled"]
    assert [(item.quantity, item.amount) for item in shop.store.late_items(buyer.account_id)] == [(5, 500)]


def test_a_minimum_is_owed_without_usage_and_without_an_invoice(tmp_path: Path) -> None:
    """I15, I17: a whole period whose last invoice never came owes its minimum all the same."""
    with open_shop(tmp_path, catalog=CATALOG.replace("[plans.payg]\n", '[plans.payg]\nminimum = "40.00"\n', 1)) as shop:
        buyer = shop.buy()
        account = shop.account(buyer)
        (subscription,) = shop.store.subscriptions(account.id)
        shop.provider.cancel_subscription(subscription.id, at_period_end=True)
        to_the_end(shop, account)
        for invoice in shop.objects("invoice"):
            del shop.stripe.objects["invoice"][invoice["id"]]
        shop.clock.pass_seconds(2 * HOUR)
        assert ("differs", "unbilled", 0) in reasons(shop)
        assert late(shop).step() == 1
        assert [item.amount for item in shop.store.late_items(account.id)] == [4_000]


def test_no_period_is_closed_while_a_draft_covers_it(shop: Shop) -> None:
    """I15: an earlier final invoice of the period closes nothing while the one that bills the rest is a draft."""
    buyer = shop.buy()
    account = shop.account(buyer)
    (subscription,) = shop.store.subscriptions(account.id)
    shop.at_stripe("POST", f"/v1/subscriptions/{subscription.id}", "billing_thresholds[amount_gte]=1000")
    shop.call(buyer.key, 12)
    shop.runtime.background.flush()
    for _ in range(6):
        shop.clock.pass_seconds(HOUR)
        shop.sandbox.tick()
    shop.call(buyer.key, 5)
    shop.runtime.background.flush()
    shop.provider.cancel_subscription(subscription.id, at_period_end=True)
    to_the_end(shop, account)
    hold_drafts(shop, 24)
    pass_time(shop, 3 * HOUR)
    assert late(shop).step() == 0
    assert ("waiting", "unbilled", 17) in reasons(shop)
    pass_time(shop, 2 * DAY)
    late(shop).step()
    assert billed(shop) == 1_700
    assert shop.store.late_items(account.id) == []
    assert reasons(shop) == []


def test_an_invoice_from_before_the_end_closes_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """I15: a first invoice that lists the metered item with nothing for the period to come does not close it."""
    buyer = shop.buy()
    account = shop.account(buyer)
    (subscription,) = shop.store.subscriptions(account.id)
    span = subscription.items[0].period
    shop.call(buyer.key, 7)
    shop.runtime.background.flush()
    line = BilledLine(subscription.items[0].id, 0, 0, span.start, span.end)
    first = BilledInvoice("in_first", "paid", subscription.id, span.start, span.start + 1, (line,))
    real = shop.provider.billed_invoices

    def with_first(subscription_id: str, *, since: int) -> list[BilledInvoice]:
        return [*real(subscription_id, since=since), first]

    monkeypatch.setattr(shop.provider, "billed_invoices", with_first)
    to_the_end(shop, account)
    hold_drafts(shop, 72)
    late(shop).invoice_finalized(account)
    pass_time(shop, 2 * HOUR + 60)
    assert late(shop).step() == 0
    pass_time(shop, 4 * DAY)
    late(shop).step()
    assert billed(shop) == 700
    assert items_at_stripe(shop) == []


def test_a_second_final_invoice_is_noticed(shop: Shop) -> None:
    """I15: an invoice that comes after the period was closed is looked for once more, and is said to be too much."""
    buyer = shop.buy()
    account = shop.account(buyer)
    (subscription,) = shop.store.subscriptions(account.id)
    shop.call(buyer.key, 7)
    shop.runtime.background.flush()
    shop.provider.cancel_subscription(subscription.id, at_period_end=True)
    to_the_end(shop, account)
    (draft,) = [i for i in shop.objects("invoice") if i["status"] == "draft"]
    del shop.stripe.objects["invoice"][draft["id"]]
    shop.clock.pass_seconds(2 * HOUR)
    assert late(shop).step() == 1
    draft.update(status="paid")
    draft["status_transitions"]["finalized_at"] = shop.clock.now_at()
    shop.stripe.objects["invoice"][draft["id"]] = draft
    shop.clock.pass_seconds(5 * DAY)
    shop.asked.clear()
    late(shop).step()
    assert ("differs", "overbilled", 7) in reasons(shop)
    shop.asked.clear()
    for _ in range(60):
        shop.clock.pass_seconds(DAY)
        late(shop).step()
    assert shop.asked.count("GET /v1/invoices") == 0, "looked at once more, and then no longer"


def test_a_trial_stays_free_however_it_ends(tmp_path: Path) -> None:
    """I7, I17: a trial that is cancelled, or ends without a card, costs nothing: not in the ledger, not on the pages,
    and not by an invoice."""
    with open_shop(tmp_path, catalog=TRIAL) as shop:
        cancelled, ended = shop.buy(), shop.buy()
        for buyer in (cancelled, ended):
            shop.call(buyer.key, 50)
        shop.runtime.background.flush()
        without_cards(shop)
        shop.clock.pass_seconds(5 * DAY)
        cancel_at_stripe(shop, cancelled.account_id)
        pass_time(shop, 9 * DAY + 5)
        refresh(shop)
        for buyer in (cancelled, ended):
            (period,) = shop.store.periods(buyer.account_id)
            assert (period.trial, period.items[0].price, period.items[0].minimum) == (
                True,
                Price("calls", Decimal(0)),
                0,
            )
            answer = shop.client.get("/billing/usage", headers=bearer(buyer.key)).json()
            assert (answer["total"], answer["meters"][0]["amount"]) == (0, 0)
        pass_time(shop, 20 * DAY)
        late(shop).step()
        assert [shop.store.late_items(b.account_id) for b in (cancelled, ended)] == [[], []]
        assert reasons(shop) == []


def test_a_free_part_is_never_late(tmp_path: Path) -> None:
    """I7: a change of plan within a trial leaves no late item of nothing."""
    with open_shop(tmp_path, catalog=TRIAL) as shop:
        buyer = shop.buy()
        shop.call(buyer.key, 3)
        shop.runtime.background.flush()
        shop.clock.pass_seconds(DAY)
        account = shop.account(buyer)
        (subscription,) = shop.store.subscriptions(account.id)
        offer = next(p for p in shop.objects("price") if p["lookup_key"] == "farebox_bulk_calls")
        item = subscription.items[0].id
        body = f"items[0][id]={item}&items[0][deleted]=true&items[1][price]={offer['id']}"
        shop.at_stripe("POST", f"/v1/subscriptions/{subscription.id}", body)
        refresh(shop)
        pass_time(shop, 14 * DAY)
        pass_time(shop, 3 * HOUR)
        late(shop).step()
        assert shop.store.late_items(account.id) == []
        assert [r for r in reasons(shop) if r[1] == "late"] == []


def test_periods_that_nothing_closes_cost_few_reads(tmp_path: Path) -> None:
    """I16: ended trials are asked for a few times and not four times a day, and a restart asks no more."""
    with open_shop(tmp_path, catalog=TRIAL) as shop:
        for _ in range(5):
            shop.buy()
        without_cards(shop)
        pass_time(shop, 14 * DAY + 5)
        refresh(shop)
        shop.clock.pass_seconds(3 * HOUR)
        shop.asked.clear()
        for _ in range(10 * 24):
            shop.clock.pass_seconds(HOUR)
            type(late(shop))(shop.store, shop.provider, shop.clock, shop.catalog).step()
        assert shop.asked.count("GET /v1/invoices") <= 2 * 5


def test_a_living_subscription_without_an_invoice_is_asked_for_less_and_less(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I5, I16: a renewal whose invoice never becomes final costs a handful of reads in 90 days, and stays named."""
    buyer = shop.buy()
    account = shop.account(buyer)
    shop.call(buyer.key, 2)
    shop.runtime.background.flush()
    to_the_end(shop, account)
    monkeypatch.setattr(shop.provider, "billed_invoices", lambda subscription_id, *, since: _count(shop))
    for _ in range(20 * 24):
        shop.clock.pass_seconds(HOUR)
        late(shop).step()
    assert 5 <= shop.asked.count("invoices") <= 20
    found = shop.runtime.background.reconciler.run()
    assert ("unbilled", 2) in [(r.code, r.quantity) for c in found.differing for r in c.reasons]


def _count(shop: Shop) -> list[BilledInvoice]:
    shop.asked.append("invoices")
    return []


def test_the_end_of_a_page_hides_nobody(shop: Shop) -> None:
    """I16: twenty periods whose invoices nobody can read keep no other one from being closed."""
    buyers = sorted((shop.buy() for _ in range(21)), key=lambda b: b.account_id)
    for buyer in buyers:
        cancel_at_stripe(shop, buyer.account_id)
    refresh(shop)
    shop.clock.pass_seconds(60)
    shop.runtime.gate.poll()
    last = buyers[19]
    session_id = shop.checkout(key=last.key.reveal())
    shop.pay(session_id)
    refresh(shop)
    shop.call(last.key, 2)
    shop.runtime.background.flush()
    shop.call(last.key, 3)
    shop.clock.pass_seconds(31 * DAY + 3 * HOUR)
    shop.sandbox.tick()
    refresh(shop)
    for _ in range(5):
        shop.clock.pass_seconds(60)
        late(shop).step()
    assert [item.quantity for item in shop.store.late_items(last.account_id)] == [3]
    assert all(p.finalized_at for b in buyers for p in shop.store.periods(b.account_id) if p.end < shop.clock.now_at())


@pytest.mark.parametrize("error", [ProviderRejected, ProviderUnavailable])
def test_one_account_that_stripe_refuses_delays_no_other(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """F31, I16: the invoices of one subscription cannot be read; the other's period is closed in the same step."""
    broken, good = sorted((shop.buy() for _ in range(2)), key=lambda b: b.account_id)
    (bad,) = shop.store.subscriptions(broken.account_id)
    for buyer in (broken, good):
        shop.call(buyer.key, 2)
        shop.runtime.background.flush()
        cancel_at_stripe(shop, buyer.account_id)
    real = shop.provider.billed_invoices

    def refusing(subscription_id: str, *, since: int) -> list[BilledInvoice]:
        if subscription_id == bad.id:
            raise error()
        return real(subscription_id, since=since)

    monkeypatch.setattr(shop.provider, "billed_invoices", refusing)
    shop.clock.pass_seconds(3 * HOUR)
    late(shop).step()
    assert [len(shop.store.late_items(b.account_id)) for b in (broken, good)] == [0, 1]
    late(shop).invoice_finalized(shop.account(broken))  # nor does a webhook raise
    monkeypatch.undo()
    shop.clock.pass_seconds(2 * HOUR)
    late(shop).step()
    assert len(shop.store.late_items(broken.account_id)) == 1


@pytest.mark.parametrize("seconds_behind", [5, 0])
def test_a_clock_behind_stripes_keeps_the_minimum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds_behind: int
) -> None:
    """I6, F23: a cancellation at the period's end keeps Stripe's end, whatever second our clock shows."""
    with open_shop(tmp_path, catalog=CATALOG.replace("[plans.payg]\n", '[plans.payg]\nminimum = "40.00"\n', 1)) as shop:
        buyer = shop.buy()
        account = shop.account(buyer)
        (subscription,) = shop.store.subscriptions(account.id)
        span = subscription.items[0].period
        shop.call(buyer.key, 3)
        shop.runtime.background.flush()
        shop.provider.cancel_subscription(subscription.id, at_period_end=True)
        refresh(shop)
        shop.clock.pass_seconds(span.end - shop.clock.now_at())
        shop.sandbox.tick()
        monkeypatch.setattr(shop.clock, "now_at", lambda: shop.clock.manual.now_at() - seconds_behind)
        refresh(shop)
        (period,) = shop.store.periods(account.id)
        assert (period.start, period.end) == (span.start, span.end)
        pass_time(shop, 3 * HOUR)
        late(shop).step()
        assert [(i.meter, i.amount) for i in shop.store.late_items(account.id)] == [("", 3_700)]


def test_an_end_on_a_date_ends_access(shop: Shop) -> None:
    """I9: a subscription that Stripe ends on a date of the seller's gives access until then, webhook or not."""
    buyer = shop.buy()
    account = shop.account(buyer)
    (subscription,) = shop.store.subscriptions(account.id)
    shop.stripe.objects["subscription"][subscription.id]["cancel_at"] = shop.clock.now_at() + 3 * DAY
    refresh(shop)
    (subscription,) = shop.store.subscriptions(account.id)
    assert entitlement_end(subscription, 0) == shop.clock.now_at() + 3 * DAY
    shop.clock.pass_seconds(3 * DAY)
    shop.runtime.gate.poll()
    assert shop.client.get("/api", headers=bearer(buyer.key)).status_code == 402


def test_a_deleted_customer_has_no_subscriptions(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """I5, I15: Stripe knows the customer no more: access ends, nothing is tried for ever, what was used is named."""
    buyer = shop.buy()
    account = shop.account(buyer)
    shop.call(buyer.key, 4)
    shop.runtime.background.flush()
    shop.at_stripe("DELETE", f"/v1/customers/{account.customer_id}")
    refuse_the_customer(shop, monkeypatch)
    worker = InboxWorker(shop.store, shop.provider, shop.clock, shop.entropy, late(shop))
    event = InboxEvent("evt_1", "customer.deleted", "x", account.customer_id, shop.clock.now_at(), False)
    shop.store.add_event(event, at=shop.clock.now_at())
    assert worker.step()
    assert shop.store.inbox_waiting() == 0
    shop.runtime.gate.poll()
    assert [s.status for s in shop.store.subscriptions(account.id)] == ["canceled"]
    assert shop.client.get("/api", headers=bearer(buyer.key)).status_code == 402
    for _ in range(4):
        shop.clock.pass_seconds(DAY)
        late(shop).step()
    found = shop.runtime.background.reconciler.run(since=0)
    assert {c.verdict for c in found.comparisons} == {Verdict.DIFFERS}


def refuse_the_customer(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stripe's answer to whoever asks for something of a deleted customer; the local one lists it."""
    real = shop.sandbox.request

    def request(method: str, target: str, headers: Any, body: bytes) -> Any:
        answer = real(method, target, headers, body)
        if method == "GET" and target.startswith("/v1/subscriptions?"):
            error = {"type": "invalid_request_error", "code": "resource_missing", "param": "customer"}
            words = json.dumps({"error": {**error, "message": "No such customer"}}).encode()
            return type(answer)(status=400, headers=answer.headers, body=words)
        return answer

    monkeypatch.setattr(shop.sandbox, "request", request)


def test_a_wrong_key_ends_no_subscription(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """I9, F28: another Stripe account knows none of our customers; that is no reason to end what they paid for."""
    buyer = shop.buy()
    refuse_the_customer(shop, monkeypatch)
    with pytest.raises(ProviderRejected):
        refresh(shop)
    assert [s.status for s in shop.store.subscriptions(buyer.account_id)] == ["active"]


def test_two_subscriptions_that_bill_one_meter_are_said_at_once(shop: Shop) -> None:
    """I15: a second subscription made at Stripe bills each call twice: log, doctor and reconcile say so before the
    invoice does."""
    buyer = shop.buy()
    account = shop.account(buyer)
    (subscription,) = shop.store.subscriptions(account.id)
    shop.clock.pass_seconds(DAY)
    price = subscription.items[0].price_id
    shop.at_stripe("POST", "/v1/subscriptions", f"customer={account.customer_id}&items[0][price]={price}")
    with capture_logs() as logs:
        refresh(shop)
        refresh(shop)
    assert [entry["event"] for entry in logs].count("double_subscription") == 1
    shop.call(buyer.key, 2)
    shop.runtime.background.flush()
    assert ("differs", "double_subscription", 2) in reasons(shop)
    assert [f.status for f in examined(shop, shop.catalog)] == ["fail"]
    cancel_newest(shop, account)
    shop.clock.pass_seconds(60)
    assert [r for r in reasons(shop) if r[1] == "double_subscription"] == []
    assert [f.status for f in examined(shop, shop.catalog)] == ["ok"]


def test_two_subscriptions_of_one_second_are_said_also_when_they_are_over(shop: Shop) -> None:
    """I15: two periods with one start hold the same usage, and two invoices that agree with it billed it twice."""
    buyer = shop.buy()
    account = shop.account(buyer)
    (subscription,) = shop.store.subscriptions(account.id)
    price = subscription.items[0].price_id
    shop.at_stripe("POST", "/v1/subscriptions", f"customer={account.customer_id}&items[0][price]={price}")
    refresh(shop)
    shop.call(buyer.key, 4)
    shop.runtime.background.flush()
    pass_time(shop, 31 * DAY + 3 * HOUR)
    late(shop).step()
    cancel_newest(shop, account)
    assert billed(shop) == 800
    assert reasons(shop).count(("differs", "double_subscription", 2)) == 2


def cancel_newest(shop: Shop, account: Account) -> None:
    newest = max(shop.store.subscriptions(account.id), key=lambda s: s.created_at)
    shop.at_stripe("DELETE", f"/v1/subscriptions/{newest.id}")
    refresh(shop)


def examined(shop: Shop, catalog: Catalog) -> list[Finding]:
    found = diagnose(shop.store, None, shop.clock, catalog, (), webhook_url="", webhook_secrets=1, live=False)
    return [finding for finding in found if finding.check == "subscriptions"]


def test_a_meter_with_another_name_in_the_file(shop: Shop) -> None:
    """I7: both names of one meter are one sum at Stripe and on the invoice: reconcile calls the right bill right, and
    doctor says that subscribers have prices under the earlier name."""
    buyer = shop.buy()
    account = shop.account(buyer)
    shop.call(buyer.key, 3)
    shop.runtime.background.flush()
    meter = Meter("api_calls", "API calls", shop.catalog.meters["calls"].event_name)
    catalog = replace(shop.catalog, meters={"api_calls": meter})
    used = Increment(account.id, "api_calls", "", "GET /api", START_AT, 2, 2, START_AT + 60)
    shop.store.commit_batch(Batch(shop.entropy.token(), 1, shop.entropy.token(), (used,)))
    sealer = Sealer(shop.store, shop.clock, catalog)
    sealer.step(hard=True)
    shop.runtime.background.flush()
    reconciler = Reconciler(shop.store, shop.provider, shop.clock, catalog)
    (one,) = reconciler.run(since=0).comparisons
    assert (one.meter, one.balance.ledger, one.stripe, one.verdict) == ("calls", 5, 5, Verdict.AGREES)
    pass_time(shop, 31 * DAY + 3 * HOUR)
    LateBiller(shop.store, shop.provider, shop.clock, catalog).step()
    first = reconciler.run(since=0).comparisons[0]
    assert first.bill is not None
    assert (first.bill.quantity, first.balance.ledger, first.verdict) == (5, 5, Verdict.AGREES)
    (finding,) = examined(shop, catalog)
    assert (finding.status, "prices for meter calls, which is not in the file" in finding.detail) == ("warn", True)


def test_a_meter_added_at_stripe(tmp_path: Path) -> None:
    """I6, I15: a second price that the seller adds in mid-period at Stripe leaves the first one its whole period."""
    both = """
[plans.both]
title = "Both"
[[plans.both.prices]]
meter = "calls"
unit_amount = "1.00"
[[plans.both.prices]]
meter = "tokens"
unit_amount = "0.10"
"""
    with open_shop(tmp_path, catalog=TWO_METERS + both) as shop:
        buyer = shop.buy()
        account = shop.account(buyer)
        (subscription,) = shop.store.subscriptions(account.id)
        shop.call(buyer.key, 2)
        shop.runtime.background.flush()
        shop.clock.pass_seconds(10 * DAY)
        price = next(p["id"] for p in shop.objects("price") if p["lookup_key"] == "farebox_both_tokens")
        shop.at_stripe("POST", f"/v1/subscriptions/{subscription.id}", f"items[0][price]={price}")
        refresh(shop)
        shop.clock.pass_seconds(DAY)
        shop.call(buyer.key, 5)
        shop.runtime.background.flush()
        shop.call(buyer.key, 3)
        assert shop.client.get("/billing/usage", headers=bearer(buyer.key)).json()["total"] == 1_000
        pass_time(shop, 22 * DAY)
        assert late(shop).step() == 1
        pass_time(shop, 31 * DAY)
        late(shop).step()
        assert billed(shop) == 1_000
        assert reasons(shop) == []


def test_a_phase_that_begins_late(tmp_path: Path) -> None:
    """I6, I15: calls between a period's end and Stripe's next phase belong to the new period, at its price."""
    with open_shop(tmp_path, catalog=PLANS) as shop:
        buyer = shop.buy()
        account = shop.account(buyer)
        change(shop, buyer, "bulk")
        (subscription,) = shop.store.subscriptions(account.id)
        end = subscription.items[0].period.end
        shop.clock.pass_seconds(end - shop.clock.now_at())
        shop.at_stripe("GET", "/v1/account")
        for item in shop.stripe.objects["subscription"][subscription.id]["items"]["data"]:
            item["created"] = end + 240
        shop.clock.pass_seconds(60)
        shop.call(buyer.key, 9)
        shop.clock.pass_seconds(300)
        refresh(shop)
        assert [(p.start, p.plan) for p in shop.store.periods(account.id)][1:] == [(end, "bulk")]
        shop.runtime.background.flush()
        assert reasons(shop) == []
        usage = shop.client.get("/billing/usage", headers=bearer(buyer.key)).json()
        assert [m["quantity"] for m in usage["meters"]] == [9]
