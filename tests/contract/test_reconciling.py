"""What a Store promises the reconciler: conservation whatever has happened, on each kind of database."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contract.test_store import (
    AT,
    DAY,
    HOUR,
    ITEM,
    SUBSCRIPTION,
    adjusted,
    adjustment,
    buyer,
    of,
    plan,
    store,
    url,
    used,
)
from tests.settling import settle

from farebox.domain.audit import AuditEntry
from farebox.domain.balance import Balance
from farebox.domain.corrections import NEVER_AT, LateItem, LateItemState
from farebox.domain.invoices import MeterBill, PeriodBill
from farebox.domain.periods import BillingPeriod
from farebox.domain.reports import MeterEvent, Outcome, OutcomeKind, ReportState, Unsealed, freeze
from farebox.domain.restoring import Share, Span
from farebox.domain.usage import Batch, Increment
from farebox.errors import AdjustmentRefused
from farebox.ports import Store
from farebox.store.sql import MEMORY_URL
from farebox.system import SystemEntropy

__all__ = ["store", "url"]

END: Final = ITEM.period.end
MADE: Final = SystemEntropy()


def subscribed(store: Store) -> BillingPeriod:
    """An account in its first billing period."""
    account = buyer(store)
    store.put_subscriptions(account.id, (SUBSCRIPTION,), fence=store.take_fence(account.id), at=AT)
    (period,) = store.periods(account.id)
    return period


def late_plan(bucket: Unsealed, quantity: int) -> MeterEvent:
    return freeze("ledger", bucket, "farebox_calls", AT, quantity)


def record(store: Store, *increments: Increment) -> None:
    store.commit_batch(Batch(MADE.token(), 1, MADE.token(), increments))


def answer(store: Store, kind: OutcomeKind, state: ReportState, *, now: int) -> int:
    """Let every event that is due end in this state. How many units those were."""
    units = 0
    while events := store.take_meter_events("me", now=now, lease_seconds=60, limit=9):
        for event in events:
            settle(store, "me", event, Outcome(kind, "said so"), state=state, now=now)
            units += event.value
    return units


def balance(store: Store, period: BillingPeriod, now: int = AT + HOUR) -> Balance:
    return store.balances(period, now=now).get("calls", Balance())


def conserved(found: Balance) -> bool:
    """I3: what was used and corrected is in meter events, whatever their state, or in none yet."""
    events = found.pending + found.delivered + found.rejected + found.doubtful + found.withdrawn
    return found.ledger == events + found.unsealed


def closed(quantity: int, finalized_at: int = END + HOUR) -> PeriodBill:
    return PeriodBill("in_1", finalized_at, {"calls": MeterBill(quantity, 0, 0)})


def test_a_balance_names_every_unit(store: Store) -> None:
    """I3: delivered, refused, corrected, on its way and unsealed units are told apart, and none is missing."""
    period = subscribed(store)
    record(store, used(7))
    store.seal(plan, now=AT, hard=True)
    answer(store, OutcomeKind.DELIVERED, ReportState.DELIVERED, now=AT + 60)
    record(store, used(2, bucket_start=AT + HOUR, used_at=AT + HOUR + 5))
    store.seal(plan, now=AT, hard=True)
    answer(store, OutcomeKind.REJECTED, ReportState.REJECTED, now=AT + 60)
    adjusted(store, adjustment(-3))
    record(store, used(4))
    found = balance(store, period)
    assert (found.used, found.adjusted, found.ledger) == (13, -3, 10)
    assert (found.delivered, found.rejected, found.pending, found.unsealed) == (7, 2, -3, 4)
    assert conserved(found)


def test_what_is_late_is_billed_once(store: Store) -> None:
    """L10, I3: unsealed, waiting and refused units of a closed period are withdrawn, and what the invoice lacks is one
    item with the marginal price; nothing of it is left to send, and a second look makes nothing."""
    period = subscribed(store)
    record(store, used(7))
    store.seal(plan, now=AT, hard=True)
    answer(store, OutcomeKind.DELIVERED, ReportState.DELIVERED, now=AT + 60)
    record(store, used(2, bucket_start=AT + HOUR, used_at=AT + HOUR + 5))
    store.seal(plan, now=AT, hard=True)
    record(store, used(4))
    (item,) = store.close_period(period, closed(7), plan=late_plan, now=END + HOUR)
    assert (item.quantity, item.amount, item.currency) == (6, 0, "usd")
    assert store.take_meter_events("me", now=END + DAY, lease_seconds=60, limit=9) == []
    assert store.seal(plan, now=END + DAY, hard=True) == []
    found = balance(store, period, END + DAY)
    assert (found.withdrawn, found.unsealed, found.pending, found.late) == (6, 0, 0, 6)
    assert conserved(found)
    assert store.bill_late(period, plan=late_plan, now=END + DAY) == []
    assert store.bill(period) == closed(7)


def test_an_invoice_that_our_prices_do_not_explain(store: Store) -> None:
    """I7: where the invoice may count in other units, nothing is billed beside it before a person has looked."""
    period = subscribed(store)
    record(store, used(1_000))
    packages = PeriodBill("in_1", END + HOUR, {"calls": MeterBill(1, 15, 0)})
    assert store.close_period(period, packages, plan=late_plan, now=END + HOUR) == []
    assert store.late_items("acc_1") == []


def test_late_items_wait_until_they_are_sent(store: Store) -> None:
    """F01: an item that the ledger has made is found until Stripe's id is known, whichever process made it."""
    period = subscribed(store)
    record(store, used(1_000))
    (item,) = store.close_period(period, closed(0), plan=late_plan, now=END + HOUR)
    assert item.amount == 15
    assert store.accounts_with_late_items(now=END + HOUR, limit=9) == ["acc_1"]
    (taken,) = store.take_late_items("acc_1", now=END + HOUR, lease_end=END + 2 * HOUR, limit=9)
    assert taken == replace(item, lease_end=END + 2 * HOUR)
    sent = replace(taken, state=LateItemState.PAID, invoice_item_id="ii_1", next_look_at=NEVER_AT, lease_end=0)
    assert store.save_late_item(taken, sent)
    assert store.accounts_with_late_items(now=END + DAY, limit=9) == []
    assert store.late_items("acc_1") == [sent]
    assert not store.adopt_late_item(item)
    other = LateItem("late_x", "acc_1", "calls", AT, END, 1, 1, "usd", "found", AT, "ii_2")
    assert store.adopt_late_item(other)
    assert balance(store, period).late == 1_001


def late_item(id: str, account_id: str = "acc_1", **more: Any) -> LateItem:
    return replace(LateItem(id, account_id, "calls", AT, END, 1, 100, "usd", "late", AT), **more)


def test_a_late_item_is_taken_by_one_process(store: Store) -> None:
    """F15: an item is one process's until its lease ends; a process that was slower writes nothing over it."""
    subscribed(store)
    store.adopt_late_item(late_item("late_1", next_look_at=AT))
    (mine,) = store.take_late_items("acc_1", now=AT, lease_end=AT + 60, limit=9)
    assert store.take_late_items("acc_1", now=AT + 59, lease_end=AT + 119, limit=9) == []
    assert store.take_late_items("acc_1", now=AT + 59, lease_end=AT + 119, limit=9, ahead_of_time=True) == []
    assert store.accounts_with_late_items(now=AT + 59, limit=9) == []
    (theirs,) = store.take_late_items("acc_1", now=AT + 60, lease_end=AT + 120, limit=9)
    assert not store.save_late_item(mine, replace(mine, state=LateItemState.REFUSED, lease_end=0))
    assert store.save_late_item(
        theirs, replace(theirs, state=LateItemState.PENDING, next_look_at=AT + 500, lease_end=0)
    )
    (now,) = store.late_items("acc_1")
    assert (now.state, now.next_look_at, now.lease_end) == (LateItemState.PENDING, AT + 500, 0)
    assert store.take_late_items("acc_1", now=AT + 200, lease_end=AT + 300, limit=9) == []
    (ahead,) = store.take_late_items("acc_1", now=AT + 200, lease_end=AT + 300, limit=9, ahead_of_time=True)
    assert ahead.id == "late_1"


def test_many_processes_want_the_same_items(store: Store) -> None:
    """F15: of eight that ask at once, each item is given to exactly one."""
    subscribed(store)
    for n in range(20):
        store.adopt_late_item(late_item(f"late_{n}", next_look_at=AT))

    def take(n: int) -> list[str]:
        return [i.id for i in store.take_late_items("acc_1", now=AT, lease_end=AT + 60 + n, limit=20)]

    with ThreadPoolExecutor(8) as pool:
        taken = [id for ids in pool.map(take, range(8)) for id in ids]
    assert sorted(taken) == sorted(f"late_{n}" for n in range(20))


def test_the_longest_due_comes_first(store: Store) -> None:
    """I16: a bounded look takes the accounts whose item is due longest, and none that backs off or is settled."""
    for n in range(4):
        buyer(store, n)
    store.adopt_late_item(late_item("late_0", "acc_0", next_look_at=AT + 500, state=LateItemState.REFUSED))
    store.adopt_late_item(late_item("late_1", "acc_1", next_look_at=AT + 9))
    store.adopt_late_item(late_item("late_2", "acc_2", next_look_at=AT + 3))
    store.adopt_late_item(late_item("late_3", "acc_3", state=LateItemState.PAID))
    assert store.accounts_with_late_items(now=AT + 10, limit=9) == ["acc_2", "acc_1"]
    assert store.accounts_with_late_items(now=AT + 10, limit=1) == ["acc_2"]
    summary = {group.state: group.count for group in store.late_item_summary()}
    assert summary == {LateItemState.NEW: 2, LateItemState.REFUSED: 1}


def test_a_person_retries_what_was_refused(store: Store) -> None:
    """I5: refused and deleted items are due again on a person's word, with the act in the audit log, and no others."""
    subscribed(store)
    entry = AuditEntry(MADE.token(), AT, "somebody", "usage.retry", "acc_1")
    refused = late_item("late_1", next_look_at=NEVER_AT, state=LateItemState.REFUSED, failures=9)
    store.adopt_late_item(refused)
    gone = late_item("late_2", next_look_at=NEVER_AT, state=LateItemState.DELETED, invoice_item_id="ii_2")
    store.adopt_late_item(gone)
    store.adopt_late_item(late_item("late_3", next_look_at=NEVER_AT, state=LateItemState.VOID, invoice_item_id="ii_3"))
    assert store.retry_late_items([], "acc_1", limit=9, now=AT, audit=entry) == [refused, gone]
    first, second, third = sorted(store.late_items("acc_1"), key=lambda item: item.id)
    assert (first.state, first.failures, first.next_look_at) == (LateItemState.REFUSED, 0, AT)
    assert (second.state, second.invoice_item_id, second.item_key_number) == (LateItemState.NEW, None, 1)
    assert (third.state, third.next_look_at) == (LateItemState.VOID, NEVER_AT)
    assert [e.action for e in store.audit("acc_1")] == ["usage.retry"]
    assert store.retry_late_items(["late_3"], None, limit=9, now=AT) == []


def test_an_ended_subscription_wakes_its_items(store: Store) -> None:
    """I15: the moment a subscription is known to have ended, what waits for its next invoice is due."""
    subscribed(store)
    waiting = late_item("late_1", next_look_at=END, state=LateItemState.PENDING, invoice_item_id="ii_1")
    store.adopt_late_item(replace(waiting, attached_id=SUBSCRIPTION.id))
    store.adopt_late_item(replace(waiting, id="late_2", attached_id="sub_of_another"))
    ended = replace(SUBSCRIPTION, status="canceled")
    store.put_subscriptions("acc_1", (ended,), fence=store.take_fence("acc_1"), at=AT + HOUR)
    assert {item.id: item.next_look_at for item in store.late_items("acc_1")} == {"late_1": AT + HOUR, "late_2": END}


def test_usage_of_a_closed_period_is_found(store: Store) -> None:
    """L10: usage that is recorded after its period was closed is found by its hint, and billed on top."""
    period = subscribed(store)
    record(store, used(3))
    store.close_period(period, closed(3), plan=late_plan, now=END + HOUR)
    assert store.closed_with_late_usage(limit=9) == []
    record(store, used(4))
    assert [p.start for p in store.closed_with_late_usage(limit=9)] == [AT]
    assert store.seal(plan, now=END + DAY, hard=True) == []
    assert [item.quantity for item in store.bill_late(period, plan=late_plan, now=END + DAY)] == [4]
    assert store.closed_with_late_usage(limit=9) == []


def test_since_when_it_differs(store: Store) -> None:
    """A difference keeps the time at which it was first seen, until it is gone."""
    buyer(store)
    assert store.note_differences("acc_1", {("calls", AT): "late: 3"}, agreed=set(), at=AT) == {("calls", AT): AT}
    again = store.note_differences("acc_1", {("calls", AT): "late: 4"}, agreed={("calls", 0)}, at=AT + HOUR)
    assert (again, store.difference_count()) == ({("calls", AT): AT}, 1)
    assert store.note_differences("acc_1", {}, agreed={("calls", AT)}, at=AT + DAY) == {}
    assert store.difference_count() == 0


def test_what_stripe_has_is_taken_over(store: Store) -> None:
    """L6: in one transaction, under a name that is never sent; what it covers is not sealed again."""
    period = subscribed(store)
    record(store, used(5))
    span = Span(AT, AT + HOUR, AT)
    store.import_share("acc_1", "calls", "farebox_calls", Share(span, covered=3, imported=4), now=AT + HOUR)
    found = balance(store, period)
    assert (found.used, found.delivered, found.unsealed) == (9, 7, 2)
    assert [event.value for event in store.seal(plan, now=AT + HOUR, hard=True)] == [2]
    assert store.delivered_by_hour("acc_1", "calls", AT) == {AT: 7}
    assert conserved(balance(store, period))


def test_a_settled_ledger_has_another_name(store: Store) -> None:
    """L6, L13: its name and its feed are new, and no writer of another life can write."""
    buyer(store)
    record(store, used(1))
    entry = AuditEntry("aud_1", AT, "ada", "restore", "ledger", {"imported": 0})
    store.renew_ledger("new", "epoch", audit=entry)
    assert store.ledger().id == "new"
    changes = store.changes("old", 0)
    assert (changes.epoch, changes.complete) == ("epoch", False)
    assert store.audit() == [entry]


STEPS: Final = st.lists(
    st.tuples(
        st.sampled_from(["use", "adjust", "seal", "deliver", "reject", "doubt", "close", "late", "late use"]),
        st.integers(-4, 9),
        st.integers(0, 3),
    ),
    max_size=25,
)


@settings(max_examples=60)
@given(steps=STEPS)
def test_conservation(steps: list[tuple[str, int, int]]) -> None:
    """I3, L10, L11: after any history of use, corrections, sealing, answers and a final invoice, every unit is in one
    place; once the period is closed and looked at, ledger = invoice + late items, and nothing is left to send."""
    opened = of(MEMORY_URL)
    opened.open()
    period, invoiced, is_closed = subscribed(opened), 0, False
    for number, (name, quantity, hour) in enumerate(steps):
        at, now = AT + hour * HOUR, AT + 4 * HOUR
        if name in ("use", "late use"):
            record(opened, used(abs(quantity), bucket_start=at, used_at=at + 60 * number))
        elif name == "adjust" and quantity:
            try:
                adjusted(opened, adjustment(quantity, id=f"adj_{number}", used_at=AT + number))
            except AdjustmentRefused:
                assert is_closed or balance(opened, period).ledger + quantity < 0
        elif name == "seal":
            opened.seal(plan, now=now, hard=True)
        elif name == "deliver":
            sent = answer(opened, OutcomeKind.DELIVERED, ReportState.DELIVERED, now=now)
            assert not is_closed or not sent
        elif name in ("reject", "doubt"):
            parked = ReportState.REJECTED if name == "reject" else ReportState.DOUBTFUL
            answer(opened, OutcomeKind.REJECTED, parked, now=now)
        elif name == "close" and not is_closed:
            invoiced, is_closed = max(balance(opened, period).delivered, 0), True
            opened.close_period(period, closed(invoiced), plan=late_plan, now=END + HOUR)
        elif name == "late" and is_closed:
            opened.bill_late(period, plan=late_plan, now=END + DAY)
        found = balance(opened, period)
        assert conserved(found)
        assert found.ledger >= 0
    if is_closed:
        opened.bill_late(period, plan=late_plan, now=END + DAY)
        found = balance(opened, period)
        assert found.ledger == max(invoiced + found.late, found.ledger)
        assert found.ledger - invoiced - found.late <= 0
        assert (found.pending, found.rejected, found.doubtful, found.unsealed) == (0, 0, 0, 0)
        assert opened.take_meter_events("me", now=END + DAY, lease_seconds=60, limit=9) == []
    opened.close()
