"""The Store's promises, kept by SqlStore on PostgreSQL, on a SQLite file and in memory."""

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest
from tests.postgres import Cluster
from tests.settling import settle
from tests.shop import StillClock

from farebox.domain.access import Facts, Standing
from farebox.domain.accounts import Account, Checkout, Subscription, SubscriptionItem
from farebox.domain.audit import AuditEntry
from farebox.domain.catalog import Price
from farebox.domain.corrections import Adjustment
from farebox.domain.inbox import InboxEvent
from farebox.domain.invoices import MeterBill, PeriodBill
from farebox.domain.keys import ApiKey
from farebox.domain.reports import MeterEvent, Outcome, OutcomeKind, ReportState, Transport, Unsealed, freeze, seal
from farebox.domain.usage import Batch, Increment, Period, UsageLine
from farebox.errors import AdjustmentRefused, RecordConflict, StoreError, StoreUnavailable, StoreUnusable, WriterFenced
from farebox.ports import Changes, Store
from farebox.store import feed
from farebox.store.sql import MEMORY_URL, SqlStore
from farebox.system import SystemEntropy

AT: Final = 1_800_000_000  # on a whole hour
HOUR: Final = 3600
DAY: Final = 86_400
EVER: Final = 1 << 40
ITEM = SubscriptionItem("si_1", "price_1", Price("calls", Decimal("0.015")), "usd", Period(AT, AT + 30 * 86_400))
SUBSCRIPTION = Subscription("sub_1", "cus_1", "payg", "active", AT, (ITEM,))
DELIVERED = Outcome(OutcomeKind.DELIVERED)
UNKNOWN = Outcome(OutcomeKind.UNKNOWN, "cut")


def of(url: str) -> SqlStore:
    return SqlStore(url, StillClock(AT), SystemEntropy())


@pytest.fixture(params=["memory", "file", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where an empty ledger may be made, on each kind of database."""
    if request.param == "postgres":
        cluster: Cluster = request.getfixturevalue("cluster")
        fresh = cluster.fresh()
        yield fresh
        cluster.drop(fresh)
    else:
        yield MEMORY_URL if request.param == "memory" else f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = of(url)
    opened.open()
    yield opened
    opened.close()


def used(quantity: int = 1, **changes: Any) -> Increment:
    return Increment("acc_1", "calls", "key_1", "GET /api", AT, quantity, 1, AT + 5)._replace(**changes)


def batch(number: int, *increments: Increment, writer: str = "w1", nonce: str = "") -> Batch:
    return Batch(writer, number, nonce or f"{writer}:{number}", increments)


def total(store: Store, account_id: str = "acc_1") -> int:
    return sum(line.quantity for line in store.usage(account_id, 0, EVER))


def key(id: str = "key_1", account_id: str = "acc_1", **changes: Any) -> ApiKey:
    return replace(ApiKey(id, account_id, f"digest of {id}", "pepper", "fb_test_", "wxyz", id, AT), **changes)


def buyer(store: Store, n: int = 1) -> Account:
    account = Account(f"acc_{n}", AT, email="ada@example.test", reference="r", customer_id=f"cus_{n}")
    store.add_account(account)
    return account


def plan(unsealed: Unsealed) -> MeterEvent | None:
    return seal("ledger", unsealed, f"farebox_{unsealed.meter}", AT)


def sealed(store: Store, *increments: Increment, now: int = AT) -> list[MeterEvent]:
    store.commit_batch(batch(1, *increments, writer=SystemEntropy().token()))
    return store.seal(plan, now=now, hard=True)


def take(store: Store, *, now: int = AT, holder: str = "h1", limit: int = 10) -> list[MeterEvent]:
    return store.take_meter_events(holder, now=now, lease_seconds=120, limit=limit)


def delivered(store: Store) -> None:
    """All that is sealed has reached Stripe."""
    while events := take(store, now=AT + 2 * HOUR):
        for event in events:
            settle(store, "h1", event, DELIVERED, state=ReportState.DELIVERED, now=AT + 2 * HOUR)


def news(id: str, customer_id: str | None = "cus_1") -> InboxEvent:
    return InboxEvent(id, "customer.subscription.updated", "sub_1", customer_id, AT, False)


@pytest.mark.parametrize("number", [0, 1, 2, 4, 9])
def test_a_wrong_number(store: Store, number: int) -> None:
    """After two batches only the third is taken; any other number is fenced off and adds nothing (L1)."""
    store.commit_batch(batch(1, used(5)))
    store.commit_batch(batch(2, used(6)))
    with pytest.raises(WriterFenced):
        store.commit_batch(batch(number, used(100), nonce="other"))
    store.commit_batch(batch(3, used(7)))
    assert total(store) == 18


def test_the_same_batch_again(store: Store) -> None:
    """A batch whose answer was lost may be committed again with its nonce: it returns and adds nothing (L1)."""
    for _ in range(3):
        store.commit_batch(batch(1, used(5)))
    assert total(store) == 5


@pytest.mark.parametrize("number", [1, 2])
def test_an_unknown_outcome_that_landed(store: Store, number: int) -> None:
    """batch_landed finds a landed batch however often it is asked, and the next number goes on (L1)."""
    for n in range(1, number + 1):
        store.commit_batch(batch(n, used(5)))
    assert [store.batch_landed(batch(number, used(5))) for _ in range(2)] == [True, True]
    store.commit_batch(batch(number + 1, used(1)))
    assert total(store) == 5 * number + 1


@pytest.mark.parametrize("number", [1, 2])
def test_an_unknown_outcome_that_did_not_land(store: Store, number: int) -> None:
    """batch_landed uses the number up, so that a batch lost on the way never can land later (L1)."""
    for n in range(1, number):
        store.commit_batch(batch(n, used(5)))
    lost = batch(number, used(100))
    assert store.batch_landed(lost) is False
    with pytest.raises(WriterFenced):
        store.commit_batch(lost)
    with pytest.raises(WriterFenced):
        store.batch_landed(lost)
    store.commit_batch(batch(number + 1, used(1)))
    assert total(store) == 5 * (number - 1) + 1


def test_a_closed_writer(store: Store) -> None:
    """Nothing is committed or settled for a closed writer, not even its own last batch again (L1)."""
    store.commit_batch(batch(1, used(5)))
    store.close_writer("w1")
    for ask in (store.commit_batch, store.batch_landed):
        for number in (1, 2):
            with pytest.raises(WriterFenced):
                ask(batch(number, used(5)))
    assert total(store) == 5


def test_rows_add_up(store: Store) -> None:
    """Writers count side by side; usage sums by meter, or by meter, operation and key, in half-open windows (L2)."""
    later = used(20, bucket_start=AT + HOUR, used_at=AT + HOUR + 9)
    store.commit_batch(batch(1, used(1), used(2, used_at=AT + 3), used(4, operation="POST /api")))
    store.commit_batch(batch(1, used(8), later, used(7, meter="tokens"), used(9, account_id="acc_2"), writer="w2"))
    store.commit_batch(batch(2, used(16, calls=3, used_at=AT + 4)))
    assert store.usage("acc_1", AT, AT + HOUR) == [
        UsageLine("calls", 31, 7, AT + 5),
        UsageLine("tokens", 7, 1, AT + 5),
    ]
    assert store.usage("acc_1", AT, AT + HOUR + 1, by_operation=True) == [
        UsageLine("calls", 47, 7, AT + HOUR + 9, "GET /api", "key_1"),
        UsageLine("calls", 4, 1, AT + 5, "POST /api", "key_1"),
        UsageLine("tokens", 7, 1, AT + 5, "GET /api", "key_1"),
    ]
    assert store.usage("acc_1", AT + 1, AT + HOUR) == []
    assert [store.key_used("acc_1", "key_1"), store.key_used("acc_1", "key_2")] == [True, False]


def test_record_ids(store: Store) -> None:
    """A record id counts once for each account, whoever sends it; with other values it spoils the whole batch only."""
    job = used(5, record_id="job")
    store.commit_batch(batch(1, job, job))
    store.commit_batch(batch(1, job, used(1), writer="w2"))
    store.commit_batch(batch(2, job._replace(account_id="acc_2", quantity=6), writer="w2"))
    for wrong in (job._replace(quantity=6), job._replace(meter="tokens")):
        with pytest.raises(RecordConflict, match="'job' was recorded as 5 calls before"):
            store.commit_batch(batch(2, used(100), job._replace(record_id="other"), wrong))
    store.commit_batch(batch(2, used(10), job._replace(record_id="other")))
    assert (total(store), total(store, "acc_2")) == (21, 6)
    assert store.recorded("acc_1", ["job", "other", "none"]) == {"job": ("calls", 5), "other": ("calls", 5)}
    assert store.recorded("acc_2", ["job", "other"]) == {"job": ("calls", 6)}
    assert store.recorded("acc_1", []) == store.recorded("acc_3", ["job"]) == {}


def test_seal(store: Store) -> None:
    """A seal freezes total less sealed with the next sequence; sealed rows never change; no difference, no row (L5)."""
    buyer(store)
    first = sealed(store, used(10), used(2, meter="tokens"))
    assert [(e.meter, e.value, e.sequence) for e in first] == [("calls", 10, 0), ("tokens", 2, 0)]
    second = sealed(store, used(3))
    assert [(e.meter, e.value, e.sequence) for e in second] == [("calls", 3, 1)]
    assert store.seal(plan, now=AT, hard=True) == []
    assert {e.identifier: e for e in store.meter_events()} == {e.identifier: e for e in first + second}
    assert len({e.identifier for e in first + second}) == 3


def test_seal_interval(store: Store) -> None:
    """An account and meter is sealed at most once a minute unless hard; what belongs to an ended hour never waits."""
    buyer(store)
    assert len(sealed(store, used(10))) == 1
    delivered(store)
    store.commit_batch(batch(1, used(3), used(4, meter="tokens")))
    assert [e.meter for e in store.seal(plan, now=AT + 59)] == ["tokens"]
    assert [e.value for e in store.seal(plan, now=AT + 60)] == [3]
    delivered(store)
    store.commit_batch(batch(2, used(5)))
    assert store.seal(plan, now=AT + 59) == []
    assert [e.value for e in store.seal(plan, now=AT + 59, hard=True)] == [5]
    store.commit_batch(batch(3, used(6), used(7, bucket_start=AT + HOUR)))
    assert [e.value for e in store.seal(plan, now=AT + 59, before=AT + HOUR, hard=True)] == [6]
    delivered(store)
    assert [e.value for e in store.seal(plan, now=AT + HOUR)] == [7]


def test_what_cannot_be_sent_is_gathered(store: Store) -> None:
    """While an event of an account and meter is on its way nothing more is frozen for it, an ended hour included.

    A Stripe that is slow or away so gets fewer and larger events, not an ever longer queue; a period's edge is hard.
    """
    buyer(store)
    buyer(store, 2)
    assert len(sealed(store, used(10))) == 1
    store.commit_batch(batch(1, used(3), used(4, bucket_start=AT + HOUR), used(5, account_id="acc_2")))
    assert [e.account_id for e in store.seal(plan, now=AT + 3 * HOUR)] == ["acc_2"]
    assert [e.value for e in store.seal(plan, now=AT + 3 * HOUR, hard=True)] == [3, 4]


def test_seal_waits_for_a_customer(store: Store) -> None:
    """Usage of an account that Stripe does not know yet stays unsealed and is sealed whole when it does."""
    store.add_account(Account("acc_1", AT))
    assert sealed(store, used(10)) == []
    store.set_customer("acc_1", "cus_9")
    assert [(e.customer_id, e.value) for e in store.seal(plan, now=AT)] == [("cus_9", 10)]


def test_a_seal_that_breaks(store: Store) -> None:
    """Sealing is one transaction: when one bucket's plan fails nothing is sealed, and nothing is forgotten (L5)."""
    buyer(store)
    store.commit_batch(batch(1, used(10), used(2, meter="tokens")))

    def broken(unsealed: Unsealed) -> MeterEvent | None:
        if unsealed.meter == "tokens":
            raise LookupError("no such meter")
        return plan(unsealed)

    with pytest.raises(LookupError):
        store.seal(broken, now=AT)
    assert store.meter_events() == []
    assert [e.value for e in store.seal(plan, now=AT)] == [10, 2]


def test_seals_side_by_side(store: Store) -> None:
    """Two sealers and two writers at once seal every unit exactly once (L5, F15)."""
    buyer(store)
    broken: list[Exception] = []

    def write(writer: str) -> None:
        for number in range(1, 26):
            store.commit_batch(batch(number, used(1), writer=writer))

    def close(_: str) -> None:
        for _turn in range(25):
            store.seal(plan, now=AT, hard=True)

    def guarded(work: Callable[[str], None], name: str) -> None:
        try:
            work(name)
        except Exception as error:
            broken.append(error)

    jobs = [(write, "w1"), (close, ""), (write, "w2"), (close, "")]
    threads = [threading.Thread(target=guarded, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.seal(plan, now=AT, hard=True)
    events = store.meter_events(limit=1000)
    assert (broken, total(store), sum(e.value for e in events)) == ([], 50, 50)
    assert sorted(e.sequence for e in events) == list(range(len(events)))


def test_meter_events_are_leased(store: Store) -> None:
    """One event in flight for each customer and meter; the others of that pair wait, other pairs go on (L8)."""
    buyer(store, 1)
    buyer(store, 2)
    sealed(store, used(1), used(2, bucket_start=AT + HOUR), used(4, meter="tokens"), used(8, account_id="acc_2"))
    first = take(store)
    assert sorted(e.value for e in first) == [1, 4, 8]
    assert {(e.state, e.attempts, e.first_unknown_at) for e in first} == {(ReportState.SENDING, 1, None)}
    assert take(store, holder="h2", now=AT + 119) == []
    one = next(e for e in first if e.value == 1)
    assert settle(store, "h1", one, DELIVERED, state=ReportState.DELIVERED, now=AT + 3)
    assert [e.value for e in take(store, holder="h2", now=AT + 3)] == [2]
    assert [e.settled_at for e in store.meter_events("acc_1", state=ReportState.DELIVERED)] == [AT + 3]


def test_a_backlog_holds_up_nobody_else(store: Store) -> None:
    """However much one customer has waiting, each other customer gets its turn in the same round (I5, F10)."""
    buyer(store, 1)
    buyer(store, 2)
    backlog = [used(1, bucket_start=AT + n * HOUR) for n in range(40)]
    sealed(store, *backlog, used(2, account_id="acc_2", bucket_start=AT + 41 * HOUR), now=AT + 42 * HOUR)
    assert [e.account_id for e in take(store, now=AT + 42 * HOUR, limit=8)] == ["acc_1", "acc_2"]


def test_a_lease_that_ran_out(store: Store) -> None:
    """An event whose sender died comes again as an unknown attempt of the time when it was sent, not of now (L9)."""
    buyer(store)
    sealed(store, used(1))
    lost = take(store)[0]
    again = take(store, holder="h2", now=AT + 30 * HOUR)[0]
    assert (again.identifier, again.attempts) == (lost.identifier, 2)
    assert again.first_unknown_at is not None
    assert AT <= again.first_unknown_at <= AT + 120
    assert not settle(store, "h1", lost, DELIVERED, state=ReportState.DELIVERED, now=AT + 31 * HOUR)
    assert store.meter_events() == [again]


def test_settling(store: Store) -> None:
    """Only the holder of this very attempt settles it, once; the first unknown time stays through retries (L8)."""
    buyer(store)
    sealed(store, used(1))
    event = take(store)[0]
    again: dict[str, Any] = {"state": ReportState.PENDING, "now": AT + 9, "next_attempt_at": AT + 20}
    assert not settle(store, "h2", event, UNKNOWN, **again)
    assert settle(store, "h1", event, UNKNOWN, **again, idempotency_key="again")
    assert not settle(store, "h1", event, UNKNOWN, **again)
    assert take(store, now=AT + 19) == []
    second = take(store, now=AT + 20)[0]
    assert (second.idempotency_key, second.first_unknown_at, second.reason) == ("again", AT + 9, "cut")
    assert not settle(store, "h1", event, DELIVERED, state=ReportState.DELIVERED, now=AT + 21)
    throttled = Outcome(OutcomeKind.THROTTLED)
    assert settle(store, "h1", second, throttled, state=ReportState.PENDING, now=AT + 22)
    third = take(store, now=AT + 22)[0]
    assert (third.attempts, third.idempotency_key, third.first_unknown_at) == (3, "again", AT + 9)


def test_one_unproven_event_in_a_minute(store: Store) -> None:
    """An event waits while another of its customer, meter and minute has an outcome that nobody knows (L7)."""
    buyer(store)
    sealed(store, used(1))
    event = take(store)[0]
    assert settle(store, "h1", event, UNKNOWN, state=ReportState.PENDING, now=AT, next_attempt_at=AT + 99)
    (second,) = sealed(store, used(2))
    assert second.cell == event.cell
    assert take(store) == []
    first = take(store, now=AT + 99)[0]
    assert first.identifier == event.identifier
    settle(store, "h1", first, DELIVERED, state=ReportState.DELIVERED, now=AT + 99)
    assert [e.identifier for e in take(store, now=AT + 99)] == [second.identifier]


def test_report_summary(store: Store) -> None:
    """Quantities and counts by state add up to all usage, of everybody or of one account."""
    buyer(store, 1)
    buyer(store, 2)
    sealed(store, used(1), used(2, meter="tokens"), used(8, account_id="acc_2"))
    store.commit_batch(batch(1, used(16)))
    rejected = next(e for e in take(store) if e.value == 2)
    settle(store, "h1", rejected, Outcome(OutcomeKind.REJECTED), state=ReportState.REJECTED, now=AT)
    whole, own = store.report_summary(), store.report_summary("acc_1")
    assert (whole.unsealed_quantity, own.unsealed_quantity, whole.oldest_open_at) == (16, 16, AT)
    nothing = dict.fromkeys(ReportState, 0)
    assert whole.quantities == {**nothing, ReportState.SENDING: 9, ReportState.REJECTED: 2}
    assert own.quantities == {**nothing, ReportState.SENDING: 1, ReportState.REJECTED: 2}
    assert own.counts == {**nothing, ReportState.SENDING: 1, ReportState.REJECTED: 1}


def test_the_way_is_chosen_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Much that was never tried goes by the stream where it may; a way that was taken is kept, and each has its own
    bound (L8)."""
    monkeypatch.setattr("farebox.store.sending.STREAM_EVENTS_MIN", 3)

    def look(limit: int, stream_limit: int, *, fresh: bool) -> list[MeterEvent]:
        return store.take_meter_events(
            "h1", now=AT + 9, lease_seconds=28, limit=limit, stream_limit=stream_limit, fresh_by_stream=fresh
        )

    for n in range(1, 5):
        buyer(store, n)
    sealed(store, *(used(n, account_id=f"acc_{n}") for n in range(1, 5)))
    assert [e.transport for e in look(1, 0, fresh=False)] == [Transport.EVENT]
    streamed = look(1, 2, fresh=True)
    assert [e.transport for e in streamed] == [Transport.STREAM] * 2
    for event in streamed:
        assert settle(store, "h1", event, UNKNOWN, state=ReportState.PENDING, now=AT, next_attempt_at=AT + 1)
    again = look(9, 9, fresh=False)
    ways = sorted((e.attempts, e.transport) for e in again)
    assert ways == [(1, Transport.EVENT), (2, Transport.STREAM), (2, Transport.STREAM)]
    assert store.take_meter_events("h2", now=AT + 36, lease_seconds=28, limit=9, stream_limit=9) == []
    taken_over = store.take_meter_events("h2", now=AT + 38, lease_seconds=28, limit=9, stream_limit=9)
    assert len(taken_over) == 4


def test_a_minute_and_its_witnesses(store: Store) -> None:
    """What else a minute of a customer and meter holds, delivered or unproven, and who was delivered later (L7, L9)."""
    buyer(store)
    sealed(store, used(1))
    first = take(store)[0]
    settle(store, "h1", first, DELIVERED, state=ReportState.DELIVERED, now=AT)
    (second,) = sealed(store, used(2))
    assert second.cell == first.cell
    assert (store.cell_book(second), store.cell_book(first)) == ((1, 0), (0, 0))
    taken = take(store)[0]
    settle(store, "h1", taken, UNKNOWN, state=ReportState.DOUBTFUL, now=AT)
    assert store.cell_book(first) == (0, 1)
    assert [e.identifier for e in store.witnesses(first.event_name, after=AT - 1, limit=5)] == [first.identifier]
    assert store.witnesses(first.event_name, after=AT, limit=5) == []


def test_parked_events(store: Store) -> None:
    """What is parked counts in the backlog with its age, and is taken up again once, with a word in the audit log."""
    buyer(store)
    sealed(store, used(4), used(3, meter="tokens"))
    store.commit_batch(batch(1, used(16)))
    for event, state in zip(take(store), (ReportState.REJECTED, ReportState.DOUBTFUL), strict=True):
        settle(store, "h1", event, UNKNOWN, state=state, now=AT + 1)
    backlog = store.report_backlog()
    assert (backlog.unsealed_quantity, backlog.oldest_open_at, backlog.oldest_parked_at) == (16, None, AT)
    assert (sum(backlog.counts.values()), sum(backlog.quantities.values())) == (2, 7)
    names = [event.identifier for event in store.meter_events()]
    entry = AuditEntry("audit_1", AT, "ada", "usage.retry", "ledger")
    moved = store.retry_meter_events([*names, "nobody"], suffix="again", now=AT + 9, audit=entry)
    assert {e.state for e in moved} == {ReportState.REJECTED, ReportState.DOUBTFUL}
    assert store.retry_meter_events(names, suffix="more", now=AT + 9) == []
    assert [e.detail["count"] for e in store.audit("ledger")] == [2]
    again = take(store, now=AT + 9)
    assert {e.idempotency_key for e in again} == {f"{name}_again" for name in names}
    assert all(e.first_unknown_at is not None for e in again)


def test_keys_and_facts(store: Store) -> None:
    """Facts are key, account and all subscriptions, found by any of the digests; unknown is None."""
    account = buyer(store)
    store.add_key(key())
    fence = store.take_fence("acc_1")
    assert store.put_subscriptions("acc_1", (SUBSCRIPTION,), fence=fence, at=AT + 1)
    facts = Facts(key().id, Standing(account, (replace(SUBSCRIPTION, status_since_at=AT + 1),)))
    assert store.find_facts(["no", "digest of key_1"]) == facts
    assert store.find_facts(["no"]) is None
    assert store.peppers_in_use(AT) == {"pepper": 1}
    assert (store.account_of_customer("cus_1"), store.account("acc_9")) == (account, None)


def test_ending_keys(store: Store) -> None:
    """An end is never moved later, a revocation is for ever, both only for the own account's live keys (I9, A16)."""
    buyer(store)
    store.add_key(key())
    assert not store.end_key("acc_2", "key_1", at=AT)
    assert store.end_key("acc_1", "key_1", at=AT, expires_at=AT + 50)
    assert store.end_key("acc_1", "key_1", at=AT, expires_at=AT + 90)
    assert store.keys("acc_1") == [key(expires_at=AT + 50)]
    assert not store.rotate_key("key_2", key("key_3"), expires_at=AT + 60)
    assert store.rotate_key("key_1", key("key_2", created_at=AT + 1), expires_at=AT + 60)
    assert store.end_key("acc_1", "key_1", at=AT + 2)
    assert not store.end_key("acc_1", "key_1", at=AT + 3)
    assert not store.end_key("acc_1", "key_1", at=AT + 3, expires_at=AT + 90)
    assert store.keys("acc_1")[0].revoked_at == AT + 2
    assert store.end_key("acc_1", "key_2", at=AT, expires_at=AT + 4)
    assert not store.end_key("acc_1", "key_2", at=AT + 4)
    assert store.peppers_in_use(AT + 4) == {}


def test_feed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each change of facts has the next number; a gap, a head that is behind and another epoch drop it all (L13)."""
    start = store.changes("", 0)
    assert (start.account_ids, start.complete) == ((), False)
    epoch, head = start.epoch, start.head
    buyer(store)
    store.add_key(key())
    store.rotate_key("key_1", key("key_2"), expires_at=AT + 60)
    store.end_key("acc_1", "key_1", at=AT)
    store.put_subscriptions("acc_1", (SUBSCRIPTION,), fence=store.take_fence("acc_1"), at=AT)
    assert store.changes(epoch, head) == Changes(epoch, head + 4, ("acc_1",) * 4, complete=True)
    assert store.changes(epoch, head + 3).account_ids == ("acc_1",)
    store.put_subscriptions("acc_1", (SUBSCRIPTION,), fence=store.take_fence("acc_1"), at=AT + 9)
    store.end_key("acc_1", "key_1", at=AT)
    assert store.changes(epoch, head + 4) == Changes(epoch, head + 4, (), complete=True)
    for asked, after in ((epoch, head + 5), ("other", head + 4)):
        assert store.changes(asked, after) == Changes(epoch, head + 4, (), complete=False)
    monkeypatch.setattr(feed, "FEED_ROWS_KEPT", 50)
    for n in range(100):
        store.add_key(key(f"many_{n}"))
    assert not store.changes(epoch, head + 4).complete
    assert store.changes(epoch, head + 103).account_ids == ("acc_1",)


def test_checkouts_and_claims(store: Store) -> None:
    """A purchase is claimed once; a new key replaces its live, unused one for a stated time, and only that one."""
    buyer(store)
    bought = Checkout("cs_1", "acc_1", "payg", AT)
    store.add_checkout(bought)
    assert store.open_checkouts("acc_1") == [bought]
    assert not store.claim("cs_2", key("key_1"), at=AT, replaceable_seconds=60)
    assert not store.claim("cs_1", key("key_1", "acc_2"), at=AT, replaceable_seconds=60)
    assert store.claim("cs_1", key("key_1"), at=AT + 1, replaceable_seconds=60)
    assert store.claim("cs_1", key("key_2"), at=AT + 60, replaceable_seconds=60)
    assert [k.revoked_at for k in store.keys("acc_1")] == [AT + 60, None]
    assert not store.claim("cs_1", key("key_3"), at=AT + 61, replaceable_seconds=60)
    assert store.checkout("cs_1") == replace(bought, status="complete", claimed_at=AT + 1, key_id="key_2")
    store.commit_batch(batch(1, used(1, key_id="key_2")))
    assert not store.claim("cs_1", key("key_3"), at=AT + 10, replaceable_seconds=60)
    store.set_checkout_status("cs_1", "expired")
    assert (store.open_checkouts("acc_1"), store.checkout("cs_9")) == ([], None)
    assert len(store.keys("acc_1")) == 2


def test_inbox(store: Store) -> None:
    """An event is stored once; a customer's work is leased whole and done exactly as far as it was taken (L17)."""
    buyer(store)
    assert [store.add_event(news(id), at=AT) for id in ("evt_1", "evt_2", "evt_1")] == [True, True, False]
    assert store.take_inbox("h1", now=AT - 1, lease_seconds=60) is None
    work = store.take_inbox("h1", now=AT, lease_seconds=60)
    assert work is not None
    assert (work.customer_id, work.events, work.attempts) == ("cus_1", (news("evt_1"), news("evt_2")), 1)
    store.add_event(news("evt_3"), at=AT + 1)
    assert store.take_inbox("h2", now=AT + 59, lease_seconds=60) is None
    assert store.finish_inbox(work, at=AT + 59, account_id="acc_1", subscriptions=(SUBSCRIPTION,))
    assert store.inbox_waiting() == 1
    rest = store.take_inbox("h2", now=AT + 59, lease_seconds=60)
    assert rest is not None
    assert rest.events == (news("evt_3"),)
    assert store.finish_inbox(rest, at=AT + 60)
    assert (store.inbox_waiting(), store.take_inbox("h2", now=EVER, lease_seconds=60)) == (0, None)
    assert not store.add_event(news("evt_1"), at=AT + 99)
    assert store.subscriptions("acc_1") == (replace(SUBSCRIPTION, status_since_at=AT + 59),)


def test_inbox_leases(store: Store) -> None:
    """Who lost the lease applies nothing, marks nothing and postpones nothing; a pause holds until its end (L17)."""
    buyer(store)
    store.add_event(news("evt_1"), at=AT)
    slow = store.take_inbox("h1", now=AT, lease_seconds=60)
    quick = store.take_inbox("h2", now=AT + 60, lease_seconds=60)
    assert slow is not None
    assert quick is not None
    assert not store.finish_inbox(slow, at=AT + 61, account_id="acc_1", subscriptions=(SUBSCRIPTION,))
    store.postpone_inbox(slow, until=EVER, reason="late")
    store.postpone_inbox(quick, until=AT + 90, reason="busy")
    assert store.take_inbox("h1", now=AT + 89, lease_seconds=60) is None
    last = store.take_inbox("h1", now=AT + 90, lease_seconds=60)
    assert last is not None
    assert (last.attempts, store.subscriptions("acc_1")) == (3, ())
    assert store.finish_inbox(last, at=AT + 90, account_id="acc_1", subscriptions=(SUBSCRIPTION,))
    assert [s.status for s in store.subscriptions("acc_1")] == ["active"]


def test_the_newest_fetch_wins(store: Store) -> None:
    """What a later fetch brought stays, whoever comes after it; a fetch that has merely begun stops nobody (L17)."""
    buyer(store)
    store.add_event(news("evt_1"), at=AT)
    work = store.take_inbox("h1", now=AT, lease_seconds=60)
    assert work is not None
    first, second = store.take_fence("acc_1"), store.take_fence("acc_1")
    paused, unpaid = (replace(SUBSCRIPTION, status=status) for status in ("paused", "unpaid"))
    assert store.put_subscriptions("acc_1", (paused,), fence=first, at=AT)
    assert store.put_subscriptions("acc_1", (SUBSCRIPTION,), fence=second, at=AT)
    for fence in (first, second):
        assert not store.put_subscriptions("acc_1", (unpaid,), fence=fence, at=AT)
    assert store.finish_inbox(work, at=AT, account_id="acc_1", subscriptions=(unpaid,))
    assert (store.inbox_waiting(), [s.status for s in store.subscriptions("acc_1")]) == (0, ["active"])


def test_a_fence_never_comes_again(store: Store) -> None:
    """A worker that slept while its work was finished and new work began still holds nothing (L17)."""
    store.add_event(news("evt_1"), at=AT)
    slow = store.take_inbox("h1", now=AT, lease_seconds=60)
    quick = store.take_inbox("h2", now=AT + 60, lease_seconds=60)
    assert slow is not None
    assert quick is not None
    assert store.finish_inbox(quick, at=AT + 61)
    store.add_event(news("evt_2"), at=AT + 62)
    current = store.take_inbox("h3", now=AT + 62, lease_seconds=60)
    assert current is not None
    assert not store.finish_inbox(slow, at=AT + 63)
    assert store.take_inbox("h4", now=AT + 64, lease_seconds=60) is None
    assert store.finish_inbox(current, at=AT + 65)


def test_the_oldest_work_comes_first(store: Store) -> None:
    """More news of a customer never sends it back behind others; it only ends a pause (L17)."""
    store.add_event(news("evt_1", "cus_1"), at=AT)
    store.add_event(news("evt_2", "cus_2"), at=AT + 1)
    store.add_event(news("evt_3", "cus_1"), at=AT + 2)
    store.add_event(news("evt_4", None), at=AT + 3)
    taken = [store.take_inbox("h1", now=AT + 9, lease_seconds=60) for _ in range(4)]
    assert [work and work.customer_id for work in taken] == ["cus_1", "cus_2", None, None]
    assert [work and work.name for work in taken] == ["cus_1", "cus_2", "evt_4", None]


def test_ended_subscriptions_stay_ended(store: Store) -> None:
    """A subscription that was canceled stays, whether a late answer leaves it out or calls it active (L13, F12)."""
    buyer(store)
    ended = replace(SUBSCRIPTION, status="canceled", status_since_at=AT)
    for fetched in ((ended,), (SUBSCRIPTION,), ()):
        assert store.put_subscriptions("acc_1", fetched, fence=store.take_fence("acc_1"), at=AT)
        assert store.subscriptions("acc_1") == (ended,)


def test_leases(store: Store) -> None:
    """A role has one holder at a time; a renewal keeps its fence, each new holder has a higher one (F15)."""
    assert store.take_lease("reporter", "h1", now=AT, seconds=15) == 1
    assert store.take_lease("reporter", "h1", now=AT + 10, seconds=15) == 1
    assert store.take_lease("reporter", "h2", now=AT + 24, seconds=15) is None
    assert store.take_lease("sweep", "h2", now=AT + 24, seconds=15) == 1
    assert store.take_lease("reporter", "h2", now=AT + 25, seconds=15) == 2
    assert store.take_lease("reporter", "h1", now=AT + 26, seconds=15) is None
    store.release_lease("reporter", "h1")
    assert store.take_lease("reporter", "h1", now=AT + 27, seconds=15) is None
    assert store.take_lease("reporter", "h2", now=AT + 99, seconds=15) == 3  # it ran out: somebody may have had it
    store.release_lease("reporter", "h2")
    assert store.take_lease("reporter", "h1", now=AT + 100, seconds=15) == 4


def test_a_lease_that_all_want(store: Store) -> None:
    """Of many that ask at the same moment one gets the lease (F15)."""
    start, got = threading.Barrier(8), []

    def ask(holder: str) -> None:
        start.wait(30)
        got.append(store.take_lease("reporter", holder, now=AT, seconds=15))

    threads = [threading.Thread(target=ask, args=(f"h{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(fence or 0 for fence in got) == [0] * 7 + [1]


def test_takers_side_by_side(store: Store) -> None:
    """However many take meter events at once, no two get events of the same customer and meter (L8, F15)."""
    for n in range(1, 6):
        buyer(store, n)
    hours = [used(1, account_id=f"acc_{n}", bucket_start=AT + h * HOUR) for n in range(1, 6) for h in range(4)]
    sealed(store, *hours, now=AT + 9 * HOUR)
    start, taken = threading.Barrier(6), []

    def ask(holder: str) -> None:
        start.wait(30)
        taken.extend(take(store, holder=holder, now=AT + 9 * HOUR))

    threads = [threading.Thread(target=ask, args=(f"h{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(event.account_id for event in taken) == [f"acc_{n}" for n in range(1, 6)]


def test_inbox_workers_side_by_side(store: Store) -> None:
    """However many work off webhooks at once, each customer's work is taken by one of them (L17)."""
    for n in range(12):
        store.add_event(news(f"evt_{n}", f"cus_{n % 6}"), at=AT)
    start, taken = threading.Barrier(6), []

    def ask(holder: str) -> None:
        start.wait(30)
        while work := store.take_inbox(holder, now=AT, lease_seconds=60):
            taken.append(work.name)

    threads = [threading.Thread(target=ask, args=(f"h{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [f"cus_{n}" for n in range(6)]


def test_claims_side_by_side(store: Store) -> None:
    """Of several claims of one purchase at the same moment, one key is left that works."""
    buyer(store)
    store.add_checkout(Checkout("cs_1", "acc_1", "payg", AT))
    start = threading.Barrier(6)

    def ask(id: str) -> None:
        start.wait(30)
        store.claim("cs_1", key(id), at=AT, replaceable_seconds=60)

    threads = [threading.Thread(target=ask, args=(f"key_{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [k.revoked_at for k in store.keys("acc_1")].count(None) == 1


def test_numbers_of_the_feed_under_load(store: Store) -> None:
    """However many change facts at once, a reader that follows the feed hears of each change once (L13)."""
    for n in range(1, 5):
        buyer(store, n)
    start = store.changes("", 0)
    heard: list[str] = []
    ended = threading.Event()
    position = start.head

    def change(account_id: str) -> None:
        for n in range(20):
            store.add_key(key(f"{account_id}_{n}", account_id))

    def follow() -> None:
        nonlocal position
        while True:
            last = ended.is_set()
            found = store.changes(start.epoch, position)
            assert found.complete
            heard.extend(found.account_ids)
            position = found.head
            if last:
                return

    reader = threading.Thread(target=follow)
    threads = [threading.Thread(target=change, args=(f"acc_{n}",)) for n in range(1, 5)]
    reader.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended.set()
    reader.join()
    assert sorted(heard) == sorted(f"acc_{n}" for n in range(1, 5) for _ in range(20))


def test_names_that_are_taken(store: Store) -> None:
    """What a unique name forbids is a StoreError like every refusal of the store, and changes nothing."""
    buyer(store, 1)
    buyer(store, 2)
    store.add_key(key())
    refused: list[Callable[[], object]] = [
        lambda: store.add_account(Account("acc_1", AT)),
        lambda: store.set_customer("acc_2", "cus_1"),
        lambda: store.add_key(key()),
    ]
    for ask in refused:
        with pytest.raises(StoreError):
            ask()
    assert [a.customer_id for a in store.accounts(limit=9)] == ["cus_1", "cus_2"]
    assert store.accounts(limit=9, after="acc_1") == [store.account("acc_2")]


def test_binding(store: Store) -> None:
    """A ledger belongs to the first Stripe account and mode, and says so to any other (F28)."""
    assert store.bind_ledger("acct_1", False) == store.bind_ledger("acct_1", False)
    for account, livemode in (("acct_2", False), ("acct_1", True)):
        with pytest.raises(StoreUnusable, match="belongs to the Stripe account acct_1 in test mode"):
            store.bind_ledger(account, livemode)
    assert (store.ledger().provider_account, store.ledger().livemode) == ("acct_1", False)


def test_closed(store: Store) -> None:
    """A ledger that was closed is unavailable, in words."""
    store.close()
    with pytest.raises(StoreUnavailable, match="The ledger is closed"):
        store.ping()


def test_reopening_keeps_everything(tmp_path: Path) -> None:
    """After a restart the ledger is the same: who it is, numbers, usage, sealed rows, keys, feed and inbox."""

    def told(store: Store) -> list[object]:
        identity, epoch = store.ledger(), store.changes("", 0).epoch
        facts, summary = store.find_facts(["digest of key_1"]), store.report_summary()
        return [identity, store.changes(epoch, 0), total(store), store.meter_events(), summary, facts]

    first, second = (of(f"sqlite:///{tmp_path / 'ledger.db'}") for _ in range(2))
    first.open()
    buyer(first)
    first.add_key(key())
    sealed(first, used(10))
    first.commit_batch(batch(1, used(5)))
    first.add_event(news("evt_1"), at=AT)
    before = told(first)
    first.close()
    second.open(migrate=False)
    assert (told(second), second.inbox_waiting()) == (before, 1)
    second.commit_batch(batch(2, used(1)))
    assert total(second) == 16
    second.close()


def _sqlite(path: Path, *statements: str) -> None:
    raw = sqlite3.connect(path)
    for statement in statements:
        raw.execute(statement)
    raw.commit()
    raw.close()


def _ledger(path: Path) -> None:
    store = of(f"sqlite:///{path}")
    store.open()
    store.close()


def _damaged(path: Path) -> None:
    _ledger(path)
    content = bytearray(path.read_bytes())
    content[100:2000] = b"\xaa" * 1900
    path.write_bytes(content)


def _newer(path: Path) -> None:
    _ledger(path)
    _sqlite(path, "UPDATE alembic_version SET version_num = '9999'")


UNUSABLE: Final[dict[str, tuple[Callable[[Path], object], str]]] = {
    "foreign": (lambda path: _sqlite(path, "CREATE TABLE notes (text)"), "another program's database"),
    "marked": (lambda path: _sqlite(path, "PRAGMA application_id = 42"), "another program's database"),
    "namesake": (lambda path: _sqlite(path, "CREATE TABLE accounts (id)"), "another program's database"),
    "text": (lambda path: path.write_text("Dear diary, " * 999), "is not a SQLite database, or is damaged"),
    "damaged": (_damaged, "is not a SQLite database, or is damaged"),
    "newer": (_newer, "written by a newer Farebox. Upgrade this one"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_unusable_files(tmp_path: Path, kind: str) -> None:
    """A file that is not our ledger, or that we cannot read, is refused in words and not changed by a byte (F28)."""
    path = tmp_path / "ledger.db"
    make, words = UNUSABLE[kind]
    make(path)
    before = path.read_bytes()
    with pytest.raises(StoreUnusable, match=words):
        of(f"sqlite:///{path}").open()
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["ledger.db"]


def test_unusable_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in the file's place, no folder, and places where nothing may be written, are each named in words."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreUnusable, match="folder is a folder, not a database file"):
        of("sqlite:///folder").open()
    with pytest.raises(StoreUnusable, match="The folder missing of the ledger does not exist"):
        of("sqlite:///missing/ledger.db").open()
    _ledger(tmp_path / "ledger.db")
    (tmp_path / "ledger.db").chmod(0o666)
    shutil.copy(tmp_path / "ledger.db", tmp_path / "locked.db")
    (tmp_path / "locked.db").chmod(0o444)
    tmp_path.chmod(0o555)
    with _nobody():
        for name, words in (
            ("new.db", "new.db cannot be written: Permission denied"),
            ("locked.db", "locked.db cannot be written: Permission denied"),
            ("ledger.db", "a ledger needs files beside it"),
        ):
            with pytest.raises(StoreUnusable, match=words):
                of(f"sqlite:///{name}").open()
    tmp_path.chmod(0o755)
    assert not (tmp_path / "new.db").exists()


@contextmanager
def _nobody() -> Iterator[None]:
    """Permissions do not bind root: put its rights down for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.setresuid(65_534, 65_534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def test_periods_are_kept_when_they_are_over(store: Store) -> None:
    """L10: a past period and its price are known after the renewal, in order of time."""
    account = buyer(store)
    for start in (AT, AT + 30 * DAY):
        item = replace(ITEM, period=Period(start, start + 30 * DAY), price=Price("calls", Decimal(start % 7)))
        subscription = replace(SUBSCRIPTION, items=(item,))
        store.put_subscriptions(account.id, (subscription,), fence=store.take_fence(account.id), at=start)
    first, second = store.periods(account.id)
    assert (first.start, first.end, second.end) == (AT, AT + 30 * DAY, AT + 60 * DAY)
    assert first.items[0].price == Price("calls", Decimal(AT % 7))
    assert store.periods(account.id, since=first.end) == [second]
    assert store.periods_to_look_at(now=AT + 31 * DAY, limit=9) == [first]


def test_periods_are_looked_at_in_the_order_of_their_times(store: Store) -> None:
    """I16: a page holds those that are due, the longest due first; a look put off is no longer in the way."""
    for number in range(5):
        account = buyer(store, number)
        end = AT + DAY + number
        subscription = replace(
            SUBSCRIPTION,
            id=f"sub_{number}",
            customer_id=f"cus_{number}",
            items=(replace(ITEM, period=Period(AT, end)),),
        )
        store.put_subscriptions(account.id, (subscription,), fence=store.take_fence(account.id), at=AT)
    due = AT + DAY + 2 * HOUR
    assert store.periods_to_look_at(now=due - 1, limit=9) == []
    assert [p.end - AT - DAY for p in store.periods_to_look_at(now=due + 3, limit=9)] == [0, 1, 2, 3]
    first, second = store.periods_to_look_at(now=due + 9, limit=2)
    assert store.take_look(first, now=due + 9, until=due + 100)
    assert not store.take_look(first, now=due + 9, until=due + 50), "somebody else has it"
    store.look_again(second, None)
    assert [p.end - AT - DAY for p in store.periods_to_look_at(now=due + 100, limit=9)] == [2, 3, 4, 0]


def test_a_second_invoice_is_kept(store: Store) -> None:
    """I15: the bill of a closed period follows its invoices; that of an open one is not touched."""
    account = buyer(store)
    store.put_subscriptions(account.id, (SUBSCRIPTION,), fence=store.take_fence(account.id), at=AT)
    (period,) = store.periods(account.id)
    more = PeriodBill("in_2", AT + 40 * DAY, {"calls": MeterBill(7, 11, 11)})
    assert not store.update_bill(period, more)
    store.close_period(period, PeriodBill(None, AT + 31 * DAY, {}, AT + 35 * DAY), plan=None, now=AT + 31 * DAY)
    assert store.periods_to_look_at(now=AT + 35 * DAY, limit=9) == store.periods(account.id)
    store.look_again(period, None)  # read before it was closed: whoever closed it knows when to look
    assert store.periods_to_look_at(now=AT + 35 * DAY, limit=9) == store.periods(account.id)
    assert store.update_bill(period, more)
    assert not store.update_bill(period, more)
    kept = store.bill(period)
    assert kept is not None
    assert (kept.invoice_id, kept.finalized_at, kept.meters) == ("in_2", AT + 31 * DAY, more.meters)


def test_the_providers_own_times_are_kept(store: Store) -> None:
    """I6: when a subscription ended or will end, and its trial's end, are read as they were applied."""
    account = buyer(store)
    told = replace(SUBSCRIPTION, status="canceled", ended_at=AT + DAY, cancel_at=AT + 2 * DAY, trial_end=AT + 3 * DAY)
    store.put_subscriptions(account.id, (told,), fence=store.take_fence(account.id), at=AT + DAY + 5)
    assert store.subscriptions(account.id) == (replace(told, status_since_at=AT + DAY + 5),)
    (period,) = store.periods(account.id)
    assert (period.trial, period.end) == (True, AT + DAY + 5)


def test_nothing_is_sealed_in_a_period_whose_invoice_is_final(store: Store) -> None:
    """L10: usage that comes after the invoice is no meter event; the next period's is sealed as ever."""
    account = buyer(store)
    for start in (AT, AT + 30 * DAY):
        subscription = replace(SUBSCRIPTION, items=(replace(ITEM, period=Period(start, start + 30 * DAY)),))
        store.put_subscriptions(account.id, (subscription,), fence=store.take_fence(account.id), at=start)
    (first,) = store.periods_to_look_at(now=AT + 31 * DAY, limit=9)
    store.close_period(first, PeriodBill("in_1", AT + 31 * DAY), plan=None, now=AT + 31 * DAY)
    assert store.periods_to_look_at(now=AT + 31 * DAY, limit=9) == []
    late, fresh = used(3), used(4, bucket_start=AT + 30 * DAY, used_at=AT + 30 * DAY + 5)
    assert [event.value for event in sealed(store, late, fresh, now=AT + 31 * DAY)] == [4]
    assert store.report_summary().unsealed_quantity == 3


def adjustment(quantity: int, **changes: Any) -> Adjustment:
    return replace(Adjustment("adj_1", "acc_1", "calls", AT + 60, quantity, "a mistake", "ada", AT + 90), **changes)


def adjusted(store: Store, asked: Adjustment) -> Adjustment:
    def plan(unsealed: Unsealed) -> MeterEvent:
        return freeze("ledger", unsealed, "farebox_calls", AT + 90, asked.quantity, kind="adjustment")

    audit = AuditEntry(SystemEntropy().token(), AT + 90, "ada", "adjust", asked.account_id)
    return store.adjust(asked, plan, period=ITEM.period, bucket_start=AT, audit=audit)


def test_a_correction_is_an_event_of_its_own(store: Store) -> None:
    """L11: it is no part of what the sealer takes for sealed, and usage goes on being sealed beside it."""
    buyer(store)
    (first,) = sealed(store, used(5))
    made = adjusted(store, adjustment(-2))
    (second,) = sealed(store, used(3))
    events = {event.identifier: event for event in store.meter_events()}
    assert made.identifier is not None
    assert (events[made.identifier].value, events[made.identifier].kind) == (-2, "adjustment")
    assert (first.value, second.value) == (5, 3)
    assert sorted(event.sequence for event in events.values()) == [0, 1, 2]
    assert len({event.timestamp for event in events.values()}) == 2, "in minutes of their own, as far as there are any"
    assert store.adjusted("acc_1", AT, AT + HOUR) == {"calls": -2}
    assert store.report_summary().unsealed_quantity == 0
    assert [entry.action for entry in store.audit("acc_1")] == ["adjust"]


def test_a_correction_counts_once_for_each_id(store: Store) -> None:
    """L11: a repetition changes nothing; the same id for something else is refused."""
    buyer(store)
    sealed(store, used(5))
    assert adjusted(store, adjustment(-2)) == adjusted(store, adjustment(-2))
    assert store.adjusted("acc_1", AT, EVER) == {"calls": -2}
    with pytest.raises(RecordConflict):
        adjusted(store, adjustment(-1))


def test_corrections_never_come_below_zero(store: Store) -> None:
    """L11: all corrections of a period together take off no more than it holds, of this account and meter alone."""
    buyer(store)
    buyer(store, 2)
    sealed(store, used(5), used(50, account_id="acc_2"), used(50, meter="tokens"))
    adjusted(store, adjustment(-4))
    with pytest.raises(AdjustmentRefused, match="holds 1 calls"):
        adjusted(store, adjustment(-2, id="adj_2"))
    adjusted(store, adjustment(-1, id="adj_3"))
    assert store.adjusted("acc_1", AT, EVER) == {"calls": -5}
    assert len(store.adjustments("acc_1")) == 2


def test_a_final_invoice_is_corrected_at_stripe(store: Store) -> None:
    """L11: no meter event can change a final invoice, so none is made, and the refusal says what helps."""
    account = buyer(store)
    store.put_subscriptions(account.id, (SUBSCRIPTION,), fence=store.take_fence(account.id), at=AT)
    sealed(store, used(5))
    (period,) = store.periods(account.id)
    store.close_period(period, PeriodBill("in_1", AT + 31 * DAY), plan=None, now=AT + 31 * DAY)
    with pytest.raises(AdjustmentRefused, match="credit note"):
        adjusted(store, adjustment(-2))
    assert store.adjusted("acc_1", AT, EVER) == {}


def test_an_act_and_its_entry_land_together(store: Store) -> None:
    """Who ended a key stands in the audit log exactly when the key was ended."""
    buyer(store)
    store.add_key(key())
    entry = AuditEntry("aud_1", AT, "ada@host", "key.revoke", "acc_1", {"key": "key_1"})
    assert not store.end_key("acc_1", "key_2", at=AT, audit=replace(entry, id="aud_0"))
    assert store.end_key("acc_1", "key_1", at=AT, audit=entry)
    assert store.audit() == store.audit("acc_1") == [entry]
    assert store.audit("acc_2") == []
