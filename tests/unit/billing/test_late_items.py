"""A late item is billed when it stands on a final invoice, and what fails on the way there delays nobody else."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from tests.shop import CATALOG, Shop, open_shop
from tests.unit.billing.test_late import DAY, MONTH, items_at_stripe, late, pass_time

from farebox.billing.claim import Claimed
from farebox.billing.doctor import Finding, diagnose
from farebox.billing.inbox import InboxWorker
from farebox.billing.late import LateBiller
from farebox.billing.late_items import LATE_BACKOFF_SECONDS_MAX, LATE_LEASE_SECONDS
from farebox.domain.accounts import Account
from farebox.domain.balance import Verdict
from farebox.domain.corrections import NEVER_AT, LateItem, LateItemState
from farebox.domain.inbox import InboxEvent
from farebox.errors import ProviderRejected, ProviderUnavailable

HOUR: Final = 3_600


def used_late(shop: Shop, *, ends: bool = False, late_calls: int = 3, buyers: int = 1) -> list[Claimed]:
    """Buyers whose final invoice has 2 calls and lacks some. `ends`: their subscriptions ended with the period."""
    claimed = sorted((shop.buy() for _ in range(buyers)), key=lambda one: one.account_id)
    for one in claimed:
        if ends:
            (subscription,) = shop.store.subscriptions(one.account_id)
            shop.provider.cancel_subscription(subscription.id, at_period_end=True)
        shop.call(one.key, 2)
    shop.runtime.background.flush()
    for one in claimed:
        shop.call(one.key, late_calls)
    pass_time(shop)
    return claimed


def item_of(shop: Shop, claimed: Claimed) -> LateItem:
    (item,) = shop.store.late_items(claimed.account_id)
    return item


def reasons(shop: Shop) -> list[tuple[str, Verdict, int]]:
    compared = shop.runtime.background.reconciler.run(since=0).comparisons
    return [(r.code, c.verdict, r.quantity) for c in compared for r in c.reasons]


def last_invoices(shop: Shop) -> list[dict[str, Any]]:
    return [invoice for invoice in shop.objects("invoice") if invoice["billing_reason"] == "manual"]


def end_at_stripe(shop: Shop, claimed: Claimed) -> None:
    """Somebody cancels at once in the dashboard: no invoice comes."""
    (subscription,) = shop.store.subscriptions(claimed.account_id)
    shop.at_stripe("DELETE", f"/v1/subscriptions/{subscription.id}")


def test_an_item_is_billed_on_a_final_invoice(shop: Shop) -> None:
    """L10, I15: created, waiting, on a draft, paid: the ledger knows each, and only the last one agrees."""
    (claimed,) = used_late(shop)
    late(shop).step()
    sent = item_of(shop, claimed)
    assert (sent.state, sent.invoice_id) == (LateItemState.PENDING, None)
    assert ("late_item_waits", Verdict.WAITING, 3) in reasons(shop)
    end = shop.store.periods(claimed.account_id)[-1].end
    pass_time(shop, end + 60 - shop.clock.now_at())
    late(shop).invoices_changed(shop.account(claimed))
    assert item_of(shop, claimed).state is LateItemState.DRAFT
    pass_time(shop, 4 * HOUR)
    late(shop).step()
    paid = item_of(shop, claimed)
    assert paid.state is LateItemState.PAID
    assert paid.invoice_id == items_at_stripe(shop)[0]["invoice"]
    assert reasons(shop) == []
    asked = len(shop.asked)
    shop.clock.pass_seconds(DAY)
    late(shop)._items.step()
    assert shop.asked[asked:] == []  # a settled item is not looked at again


def test_its_subscription_ends_without_an_invoice(shop: Shop) -> None:
    """I15, F29: an item that waits on a subscription which ends without an invoice gets a last invoice of its own."""
    (claimed,) = used_late(shop)
    assert late(shop).step() == 1
    end_at_stripe(shop, claimed)
    pass_time(shop, DAY)
    late(shop).step()
    pass_time(shop, 3 * HOUR)
    late(shop).step()
    assert [(item["amount"], item["invoice"] is not None) for item in items_at_stripe(shop)] == [(300, True)]
    assert [(invoice["status"], invoice["total"]) for invoice in last_invoices(shop)] == [("paid", 300)]
    assert item_of(shop, claimed).state is LateItemState.PAID
    assert reasons(shop) == []


@pytest.mark.parametrize("lost", ["delete_late_item", "create_late_item", "invoice_late_items"])
@pytest.mark.parametrize("fault", ["before", "after"])
def test_a_crash_while_it_moves(shop: Shop, monkeypatch: pytest.MonkeyPatch, lost: str, fault: str) -> None:
    """F01, I4: killed at any call while an item moves to its last invoice, on either side of it, it is billed once."""
    (claimed,) = used_late(shop)
    late(shop).step()
    end_at_stripe(shop, claimed)
    pass_time(shop, DAY)
    real = getattr(shop.provider, lost)

    def killed(*args: Any, **named: Any) -> Any:
        if fault == "after":
            real(*args, **named)
        raise SystemExit

    monkeypatch.setattr(shop.provider, lost, killed)
    with pytest.raises(SystemExit):
        late(shop).step()
    monkeypatch.undo()
    for _ in range(3):
        pass_time(shop, 3 * HOUR)
        LateBiller(shop.store, shop.provider, shop.clock, shop.catalog).step()
    assert [item["amount"] for item in items_at_stripe(shop)] == [300]
    assert [invoice["total"] for invoice in last_invoices(shop) if invoice["lines"]["data"]] == [300]
    assert item_of(shop, claimed).state is LateItemState.PAID


@pytest.mark.parametrize("status", ["incomplete", "unpaid", "paused"])
def test_no_item_waits_on_a_subscription_that_bills_nothing(shop: Shop, status: str) -> None:
    """I15: only a subscription that is active, on trial or past due takes an item along."""
    (claimed,) = used_late(shop)
    (subscription,) = shop.store.subscriptions(claimed.account_id)
    stopped = replace(subscription, status=status)
    fence = shop.store.take_fence(claimed.account_id)
    shop.store.put_subscriptions(claimed.account_id, (stopped,), fence=fence, at=shop.clock.now_at())
    late(shop).step()
    (item,) = items_at_stripe(shop)
    assert item["parent"] is None
    assert item["invoice"] == last_invoices(shop)[0]["id"]


def test_refused_items_delay_nobody(shop: Shop) -> None:
    """I16, F31: 20 items that Stripe refuses for good keep the 21st from nothing, are said once, and stay visible."""
    *gone, good = used_late(shop, buyers=21)
    for one in gone:
        shop.at_stripe("DELETE", f"/v1/customers/{shop.account(one).customer_id}")
    for _ in range(60):
        shop.clock.pass_seconds(HOUR)
        late(shop).step()
    assert item_of(shop, good).state is LateItemState.PENDING
    assert {item_of(shop, one).state for one in gone} == {LateItemState.REFUSED}
    assert sum(group.count for group in shop.store.late_item_summary() if group.state is LateItemState.REFUSED) == 20
    refused = shop.runtime.background.reconciler.run(account=shop.account(gone[0]), since=0).differing
    assert ["late_item_refused"] in [[r.code for r in c.reasons] for c in refused]


def test_a_saved_failure_takes_a_new_key(shop: Shop) -> None:
    """F04, F31, L8: Stripe replays a 500 to the key that got it for a day. The next attempt has another key, and the
    other account's item does not wait at all."""
    one, other = used_late(shop, buyers=2)
    shop.sandbox.faults.add({"path": "/v1/invoiceitems", "method": "POST", "status": 500, "count": 1})
    assert late(shop).step() == 1
    assert sorted(item.state for c in (one, other) for item in [item_of(shop, c)]) == ["new", "pending"]
    shop.clock.pass_seconds(61)
    assert late(shop).step() == 1
    assert [item["amount"] for item in items_at_stripe(shop)] == [300, 300]


def test_a_saved_failure_of_the_last_invoice(shop: Shop) -> None:
    """The same for the key of the last invoice: it is made a minute later, once, and the item only once."""
    (claimed,) = used_late(shop, ends=True)
    shop.sandbox.faults.add({"path": "/v1/invoices", "method": "POST", "status": 500, "count": 1})
    late(shop).step()
    assert (last_invoices(shop), item_of(shop, claimed).state) == ([], LateItemState.PENDING)
    shop.clock.pass_seconds(61)
    late(shop).step()
    assert [invoice["total"] for invoice in last_invoices(shop)] == [300]
    assert len(items_at_stripe(shop)) == 1


@pytest.mark.parametrize("status", [401, 403, 409, 429, 500, 503])
def test_no_answer_of_stripe_delays_another_account(shop: Shop, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """I16, F31: whatever Stripe answers to one account's item, the other's is made in the same step."""
    one, other = used_late(shop, buyers=2)
    customer_id = shop.account(one).customer_id
    real = shop.provider.late_items

    def refuse(asked: str) -> list[LateItem]:
        if asked == customer_id:
            shop.sandbox.faults.add({"path": "/v1/invoiceitems", "status": status, "count": 99})
        try:
            return real(asked)
        finally:
            shop.sandbox.faults.clear()

    monkeypatch.setattr(shop.provider, "late_items", refuse)
    assert late(shop).step() == 1
    assert item_of(shop, other).state is LateItemState.PENDING
    assert (item_of(shop, one).state, item_of(shop, one).failures) == (LateItemState.NEW, 1)
    assert item_of(shop, one).error


def test_the_pauses_grow_to_a_day(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """I18: attempts are a minute, two, four apart, and never more than a day."""
    (claimed,) = used_late(shop)

    def refuse(*args: Any, **named: Any) -> str:
        raise ProviderRejected("no")

    monkeypatch.setattr(shop.provider, "create_late_item", refuse)
    pauses = []
    for _ in range(14):
        late(shop).step()
        item = item_of(shop, claimed)
        pauses.append(item.next_look_at - shop.clock.now_at())
        shop.clock.pass_seconds(pauses[-1])
    assert pauses[:4] == [60, 120, 240, 480]
    assert max(pauses) == pauses[-1] == LATE_BACKOFF_SECONDS_MAX


def test_a_forbidden_item_keeps_no_webhook_waiting(shop: Shop) -> None:
    """I16, F31: a key that may not write invoice items delays neither its own account's facts nor another's, nor the
    hourly comparison."""
    one, other = used_late(shop, buyers=2)
    shop.sandbox.faults.add({"path": "/v1/invoiceitems", "status": 403, "count": 1_000})
    worker = InboxWorker(shop.store, shop.provider, shop.clock, shop.entropy, late(shop))
    end_at_stripe(shop, other)
    events = ((one, "invoice.finalized"), (other, "invoice.finalized"), (other, "customer.subscription.deleted"))
    for n, (claimed, kind) in enumerate(events):
        customer_id = shop.account(claimed).customer_id
        event = InboxEvent(f"evt_{n}", kind, "x", customer_id, shop.clock.now_at(), False)
        shop.store.add_event(event, at=shop.clock.now_at())
    while worker.step():
        pass
    assert [s.status for s in shop.store.subscriptions(other.account_id)] == ["canceled"]
    assert shop.store.inbox_waiting() == 0
    assert late(shop).step() == 0


def test_a_last_invoice_is_collected(shop: Shop) -> None:
    """F29: it is paid with the ended subscription's own payment method, which Checkout sets, though the customer has no
    default."""
    (claimed,) = used_late(shop, ends=True)
    customer = shop.stripe.objects["customer"][str(shop.account(claimed).customer_id)]
    customer["invoice_settings"]["default_payment_method"] = None
    late(shop).step()
    pass_time(shop, 3 * HOUR)
    late(shop).step()
    assert [i["status"] for i in last_invoices(shop)] == ["paid"]
    assert item_of(shop, claimed).state is LateItemState.PAID


def test_an_uncollected_last_invoice_is_shown(shop: Shop) -> None:
    """I15: a last invoice that is open, and one that is given up, are a named reason with an age; so is a void one."""
    (claimed,) = used_late(shop, ends=True)
    (subscription,) = shop.store.subscriptions(claimed.account_id)
    method = shop.stripe.objects["subscription"][subscription.id]["default_payment_method"]
    shop.stripe.objects["payment_method"][method]["_fails"] = True
    late(shop).step()
    pass_time(shop, 3 * HOUR)
    late(shop).step()
    (invoice,) = last_invoices(shop)
    assert (invoice["status"], item_of(shop, claimed).state) == ("open", LateItemState.OPEN)
    assert ("late_item_uncollected", Verdict.WAITING, 3) in reasons(shop)
    pass_time(shop, 31 * DAY)
    late(shop).step()
    assert ("late_item_uncollected", Verdict.DIFFERS, 3) in reasons(shop)
    for act, state, code in (
        ("mark_uncollectible", LateItemState.UNCOLLECTIBLE, "late_item_uncollected"),
        ("void", LateItemState.VOID, "late_item_voided"),
    ):
        shop.at_stripe("POST", f"/v1/invoices/{invoice['id']}/{act}")
        notify(shop, shop.account(claimed), "invoice.voided" if act == "void" else "invoice.marked_uncollectible")
        assert item_of(shop, claimed).state is state
        assert (code, Verdict.DIFFERS, 3) in reasons(shop)


def test_a_deleted_item_is_a_difference(shop: Shop) -> None:
    """I15: an invoice item that somebody deletes at Stripe is named, and made anew only on a person's word."""
    used_late(shop)
    late(shop).step()
    (item,) = items_at_stripe(shop)
    shop.at_stripe("DELETE", f"/v1/invoiceitems/{item['id']}")
    shop.clock.pass_seconds(8 * DAY)
    late(shop).step()
    assert ("late_item_deleted", Verdict.DIFFERS, 3) in reasons(shop)
    assert items_at_stripe(shop) == []
    shop.store.retry_late_items([], None, limit=9, now=shop.clock.now_at())
    assert late(shop).step() == 1
    assert [item["amount"] for item in items_at_stripe(shop)] == [300]


def test_items_that_wait_share_one_last_invoice(shop: Shop) -> None:
    """What several periods lack of one customer and currency stands on one last invoice."""
    (claimed,) = used_late(shop, ends=True)
    (made,) = shop.store.periods(claimed.account_id)
    late(shop)._closer.step()
    (item,) = shop.store.late_items(claimed.account_id)
    shop.store.adopt_late_item(replace(item, id="late_another", amount=200, quantity=2, period_start=made.start - DAY))
    assert late(shop).step() == 2
    (invoice,) = last_invoices(shop)
    assert (invoice["total"], len(invoice["lines"]["data"])) == (500, 2)
    assert {i.invoice_id for i in shop.store.late_items(claimed.account_id)} == {invoice["id"]}


def test_a_lease_that_ran_out_goes_on_elsewhere(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """F15: an item whose process died is another's when the lease is over, and not before."""
    used_late(shop)

    def killed(*args: Any, **named: Any) -> str:
        raise SystemExit

    monkeypatch.setattr(shop.provider, "create_late_item", killed)
    with pytest.raises(SystemExit):
        late(shop).step()
    monkeypatch.undo()
    shop.clock.pass_seconds(LATE_LEASE_SECONDS - 1)
    assert late(shop).step() == 0
    shop.clock.pass_seconds(1)
    assert late(shop).step() == 1


def test_a_webhook_is_a_hint(shop: Shop) -> None:
    """L17, F12: what a webhook says of an invoice changes nothing; what Stripe says when asked does."""
    (claimed,) = used_late(shop, ends=True)
    late(shop).step()
    notify(shop, shop.account(claimed), "invoice.paid")
    assert item_of(shop, claimed).state is LateItemState.DRAFT
    pass_time(shop, 3 * HOUR)
    notify(shop, shop.account(claimed), "invoice.payment_failed")
    assert item_of(shop, claimed).state is LateItemState.PAID


def test_stripe_is_away_while_invoices_change(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """I10: the facts of a webhook are applied though the invoice cannot be read; the hourly look makes up for it."""
    (claimed,) = used_late(shop, ends=True)
    late(shop).step()

    def away(*args: Any, **named: Any) -> None:
        raise ProviderUnavailable

    monkeypatch.setattr(shop.provider, "invoice_status", away)
    notify(shop, shop.account(claimed), "invoice.finalized")
    assert shop.store.inbox_waiting() == 0
    monkeypatch.undo()
    pass_time(shop, 3 * HOUR)
    late(shop).step()
    assert item_of(shop, claimed).state is LateItemState.PAID


TAXED: Final = CATALOG.replace("[plans.payg]\n", "[plans.payg]\ntax = true\npromotion_codes = true\n", 1)


@pytest.fixture
def taxed(tmp_path: Path) -> Iterator[Shop]:
    with open_shop(tmp_path, catalog=TAXED) as opened:
        yield opened


def test_a_last_invoice_has_tax_and_discounts(taxed: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """I7: what the ended subscription had, its last invoice has: automatic tax, and what its promotion code takes off.
    Stripe taxes no item that does not say whether its amount includes the tax."""
    coupon = taxed.at_stripe("POST", "/v1/coupons", "percent_off=50&duration=forever")
    claimed = taxed.buy()
    (subscription,) = taxed.store.subscriptions(claimed.account_id)
    taxed.at_stripe("POST", f"/v1/subscriptions/{subscription.id}", f"discounts[0][coupon]={coupon['id']}")
    taxed.provider.cancel_subscription(subscription.id, at_period_end=True)
    taxed.call(claimed.key, 2)
    taxed.runtime.background.flush()
    taxed.call(claimed.key, 4)
    bodies: list[str] = []
    real = taxed.sandbox.request

    def spy(method: str, path: str, headers: Any, body: bytes = b"") -> Any:
        if (method, path) == ("POST", "/v1/invoiceitems"):
            bodies.append(body.decode())
        return real(method, path, headers, body)

    monkeypatch.setattr(taxed.sandbox, "request", spy)
    pass_time(taxed, MONTH)
    late(taxed).step()
    pass_time(taxed, 3 * HOUR)
    (invoice,) = last_invoices(taxed)
    assert (invoice["automatic_tax"]["enabled"], invoice["subtotal"], invoice["total"]) == (True, 400, 200)
    assert ["tax_behavior=exclusive" in body for body in bodies] == [True]


def notify(shop: Shop, account: Account, kind: str) -> None:
    worker = InboxWorker(shop.store, shop.provider, shop.clock, shop.entropy, late(shop))
    event = InboxEvent(shop.entropy.token(), kind, "in_x", account.customer_id, shop.clock.now_at(), False)
    shop.store.add_event(event, at=shop.clock.now_at())
    while worker.step():
        pass


def test_doctor_tells_of_late_items(shop: Shop) -> None:
    """I15: what Stripe refuses fails; what is not collected is told with its age; what is on its way is not told."""
    (claimed,) = used_late(shop)
    late(shop)._closer.step()
    item = item_of(shop, claimed)
    assert findings(shop) == []
    now = shop.clock.now_at()
    states = (("fail", LateItemState.REFUSED), ("warn", LateItemState.OPEN), ("warn", LateItemState.VOID))
    for status, state in states:
        settled = state is LateItemState.VOID
        moved = replace(item, state=state, state_since_at=now, next_look_at=NEVER_AT if settled else now)
        assert shop.store.save_late_item(item, moved)
        assert [finding.status for finding in findings(shop)] == [status]
        assert "1 late invoice items are" in findings(shop)[0].detail
    shop.clock.pass_seconds(41 * DAY)
    assert findings(shop) == []


def findings(shop: Shop) -> list[Finding]:
    settings = shop.settings
    told = diagnose(
        shop.store, None, shop.clock, shop.catalog, settings.peppers, webhook_url="", webhook_secrets=1, live=False
    )
    return [finding for finding in told if finding.check == "late items"]
