"""Webhooks: stored once, worked off in any order, and at the end the ledger says what Stripe says."""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.shop import START_AT, Shop, bearer, open_shop, signed

from farebox.billing.inbox import (
    INBOX_BACKOFF_SECONDS_MAX,
    INBOX_LEASE_SECONDS,
    InboxWorker,
    Receipt,
    refresh_account,
)
from farebox.billing.sweep import SWEEP_ACCOUNTS_MAX, sweep
from farebox.domain.accounts import Account, Subscription
from farebox.domain.inbox import HANDLED_EVENT_TYPES, InboxEvent
from farebox.errors import ProviderUnavailable, StoreUnavailable
from farebox.provider.stripe import StripeProvider
from farebox.store.sql import SqlStore

_numbers = itertools.count()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """One shop for all orders of events: each gets a buyer of its own."""
    with open_shop(tmp_path_factory.mktemp("house")) as opened:
        yield opened


def told(type: str, subscription: Any) -> bytes:
    """An event with the subscription as it is now, as Stripe would send it."""
    document = {"id": f"evt_{next(_numbers)}", "object": "event", "created": START_AT, "livemode": False}
    data = {"type": f"customer.subscription.{type}", "data": {"object": dict(subscription)}}
    return json.dumps({**document, **data}, default=str).encode()


class Buyer:
    """An account with a customer at the local Stripe, and what Stripe has to tell about it."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.customer = shop.at_stripe("POST", "/v1/customers", "email=a@example.test")["id"]
        self.account = Account(f"acct_{next(_numbers):04}", START_AT, customer_id=self.customer)
        shop.store.add_account(self.account)
        self.events: list[bytes] = []

    @property
    def at_stripe(self) -> list[Any]:
        return [s for s in self.shop.objects("subscription") if s["customer"] == self.customer]

    def told(self, type: str, subscription: Any) -> bytes:
        self.events.append(told(type, subscription))
        return self.events[-1]

    def subscribe(self) -> bytes:
        (price,) = self.shop.provider.prices(["farebox_payg_calls"])
        made = self.shop.at_stripe("POST", "/v1/subscriptions", f"customer={self.customer}&items[0][price]={price.id}")
        return self.told("created", made)

    def end(self) -> bytes:
        living = [s for s in self.at_stripe if s["status"] != "canceled"]
        if not living:
            return self.subscribe()
        self.shop.at_stripe("DELETE", f"/v1/subscriptions/{living[0]['id']}")
        return self.told("deleted", living[0])

    def change(self, status: str) -> bytes:
        living = [s for s in self.at_stripe if s["status"] != "canceled"]
        if not living:
            return self.subscribe()
        living[-1]["status"] = status
        living[-1]["cancel_at_period_end"] = not living[-1]["cancel_at_period_end"]
        return self.told("updated", living[-1])

    def deliver(self, body: bytes) -> Receipt:
        return self.shop.runtime.receive(body, signed(body, self.shop.clock.system_at()))

    def stripe_says(self) -> dict[str, tuple[str, bool]]:
        return {s["id"]: (s["status"], s["cancel_at_period_end"]) for s in self.at_stripe}

    def ledger_says(self) -> dict[str, tuple[str, bool]]:
        known = self.shop.store.subscriptions(self.account.id)
        return {s.id: (s.status, s.cancel_at_period_end) for s in known}


def work_off(shop: Shop) -> None:
    while shop.runtime.background.worker.step():
        pass


class Interposed:
    """The provider, with something that happens between a fetch and what is done with it."""

    def __init__(self, provider: StripeProvider, then: Callable[[], None]) -> None:
        self._provider = provider
        self._then = then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)

    def subscriptions(self, customer_id: str) -> tuple[Subscription, ...]:
        fetched = self._provider.subscriptions(customer_id)
        self._then()
        return fetched


def slow_worker(shop: Shop, then: Callable[[], None]) -> InboxWorker:
    provider: Any = Interposed(shop.provider, then)
    return InboxWorker(shop.store, provider, shop.clock, shop.entropy)


@pytest.mark.parametrize("at_once", [True, False])
def test_every_order(house: Shop, at_once: bool) -> None:
    """I10, F12, L17: every order of four facts with a duplicate, worked off one by one or all at the end, leaves what
    Stripe says: the old subscription ended, the new one past due."""
    for order in sorted(set(itertools.permutations([0, 1, 2, 3, 1]))):
        buyer = Buyer(house)
        told = [buyer.subscribe(), buyer.end(), buyer.subscribe(), buyer.change("past_due")]
        seen: set[int] = set()
        for fact in order:
            assert buyer.deliver(told[fact]).stored == (fact not in seen), order
            seen.add(fact)
            if at_once:
                work_off(house)
        work_off(house)
        assert buyer.ledger_says() == buyer.stripe_says(), order
        assert sorted(status for status, _ in buyer.ledger_says().values()) == ["canceled", "past_due"]
    assert house.store.inbox_waiting() == 0


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["subscribe", "end", "past_due", "active", "deliver", "work", "crash", "overtaken", "refresh"]),
        st.integers(0, 99),
    ),
    min_size=4,
    max_size=14,
)


@settings(max_examples=60)
@given(_STEPS)
def test_any_history(house: Shop, steps: list[tuple[str, int]]) -> None:
    """I10, F12, F13: however changes, deliveries in any order and number, workers, crashes, fetches that are overtaken
    and refreshes from elsewhere are mixed: once quiet, the ledger says what Stripe says."""
    buyer = Buyer(house)
    buyer.subscribe()
    for step, pick in steps:
        _take(house, buyer, step, pick)
    for body in reversed(buyer.events):  # Stripe delivers until it is acknowledged
        buyer.deliver(body)
    house.clock.pass_seconds(INBOX_BACKOFF_SECONDS_MAX)
    work_off(house)
    assert house.store.inbox_waiting() == 0
    assert buyer.ledger_says() == buyer.stripe_says()


def _take(shop: Shop, buyer: Buyer, step: str, pick: int) -> None:
    if step == "subscribe":
        buyer.subscribe()
    elif step == "end":
        buyer.end()
    elif step == "deliver":
        buyer.deliver(buyer.events[pick % len(buyer.events)])
    elif step == "work":
        shop.runtime.background.worker.step()
    elif step == "crash":
        _crash_in_the_middle(shop)
    elif step == "overtaken":
        slow_worker(shop, lambda: _overtake(shop, buyer)).step()
    elif step == "refresh":
        refresh_account(shop.store, shop.provider, shop.clock, buyer.account)
    else:
        buyer.change(step)


def _crash_in_the_middle(shop: Shop) -> None:
    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    try:
        slow_worker(shop, die).step()
    except Killed:
        return


def _overtake(shop: Shop, buyer: Buyer) -> None:
    """While somebody holds an answer of Stripe: the world moves on, its lease ends, and others are faster."""
    shop.clock.pass_seconds(INBOX_LEASE_SECONDS)
    buyer.deliver(buyer.end())
    shop.runtime.background.worker.step()


def test_an_overtaken_fetch(house: Shop) -> None:
    """L17: what was fetched before a later fetch began is not applied, though it arrives after it."""
    buyer = Buyer(house)
    buyer.deliver(buyer.subscribe())
    slow_worker(house, lambda: _overtake(house, buyer)).step()
    assert set(buyer.ledger_says().values()) == {("canceled", False)}
    work_off(house)
    assert buyer.ledger_says() == buyer.stripe_says()


def test_news_during_the_fetch(house: Shop) -> None:
    """L17: an event that is stored while its customer is being fetched is not marked done by that fetch."""
    buyer = Buyer(house)
    buyer.deliver(buyer.subscribe())

    def news() -> None:
        buyer.deliver(buyer.change("past_due"))

    assert slow_worker(house, news).step()
    assert house.store.inbox_waiting() == 1
    assert {status for status, _ in buyer.ledger_says().values()} == {"active"}
    work_off(house)
    assert buyer.ledger_says() == buyer.stripe_says()


def test_a_stale_end(shop: Shop) -> None:
    """L17: the end of an old subscription that is told late does not take away the new one's access."""
    claimed = shop.buy()
    (old,) = shop.objects("subscription")
    shop.at_stripe("DELETE", f"/v1/subscriptions/{old['id']}")
    late = told("deleted", old)
    refresh_account(shop.store, shop.provider, shop.clock, shop.account(claimed))
    session_id = shop.checkout(key=claimed.key.reveal())
    shop.pay(session_id)
    again = shop.claim(session_id)
    assert again.account_id == claimed.account_id
    assert shop.runtime.receive(late, signed(late, shop.clock.system_at())).stored
    work_off(shop)
    shop.runtime.gate.poll()
    for key in (claimed.key, again.key):
        assert shop.client.get("/api", headers=bearer(key)).status_code == 200
    assert sorted(s.status for s in shop.store.subscriptions(claimed.account_id)) == ["active", "canceled"]


@pytest.mark.parametrize(
    ("changes", "stored"),
    [
        ({}, True),
        ({"livemode": True}, False),
        ({"account": "acct_connected"}, False),
        ({"livemode": True, "account": "acct_connected"}, False),
        ({"type": "customer.created"}, False),
        ({"type": "customer.subscription.updated.extra"}, False),
    ],
)
def test_events_of_others(house: Shop, changes: dict[str, Any], stored: bool) -> None:
    """A28: events of the other mode, of a connected account, and of types that are not ours are acknowledged with 200,
    so that Stripe does not repeat them, and are neither stored nor worked off."""
    buyer = Buyer(house)
    body = json.dumps({**json.loads(buyer.subscribe()), **changes}).encode()
    headers = {"Stripe-Signature": signed(body, house.clock.system_at())}
    answer = house.client.post("/billing/webhook", content=body, headers=headers)
    assert (answer.status_code, answer.json()) == (200, {"received": True, "stored": stored})
    assert house.store.inbox_waiting() == int(stored)
    work_off(house)
    assert (buyer.ledger_says() != {}) == stored


@pytest.mark.parametrize("type", HANDLED_EVENT_TYPES)
def test_every_type_refetches(house: Shop, type: str) -> None:
    """L17: whichever event names the customer, all of its subscriptions are looked up; the end of a period is said
    once, however often it is delivered."""
    buyer = Buyer(house)
    document = json.loads(buyer.subscribe())
    thing = {"id": "x_1", "object": type.rpartition(".")[0], "customer": buyer.customer}
    if type == "customer.deleted":
        thing = {"id": buyer.customer, "object": "customer"}
    body = json.dumps({**document, "type": type, "data": {"object": thing}}).encode()
    receipts = [buyer.deliver(body), buyer.deliver(body)]
    assert [r.stored for r in receipts] == [True, False]
    ended = buyer.account.id if type == "invoice.created" else None
    assert [r.ended_account for r in receipts] == [ended, None]
    work_off(house)
    assert buyer.ledger_says() == buyer.stripe_says() != {}


def test_nobody_we_know(house: Shop) -> None:
    """Events of customers and objects that are not ours are worked off without a trace; Stripe is not even asked."""
    customer = house.at_stripe("POST", "/v1/customers", "")["id"]
    house.asked.clear()
    for event in (
        InboxEvent("evt_a", "customer.subscription.updated", "sub_x", customer, 0, False),
        InboxEvent("evt_b", "checkout.session.expired", "cs_test_other", None, 0, False),
        InboxEvent("evt_c", "invoice.paid", "in_x", None, 0, False),
    ):
        assert house.store.add_event(event, at=house.clock.now_at())
    work_off(house)
    assert (house.store.inbox_waiting(), house.asked) == (0, [])


def test_lost_before_it_was_stored(house: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """F13, I12: an event that could not be stored is not acknowledged, so Stripe's next delivery counts; one that was
    stored before its answer was lost is acknowledged then and counts once."""
    buyer = Buyer(house)
    body = buyer.subscribe()

    def lost(event: InboxEvent, *, at: int) -> bool:
        raise StoreUnavailable("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(house.store, "add_event", lost)
        headers = {"Stripe-Signature": signed(body, house.clock.system_at())}
        assert house.client.post("/billing/webhook", content=body, headers=headers).status_code == 503
    assert house.store.inbox_waiting() == 0
    assert [buyer.deliver(body).stored for _ in range(2)] == [True, False]
    work_off(house)
    assert buyer.ledger_says() == buyer.stripe_says()


def test_killed_at_work(house: Shop) -> None:
    """F13: a worker that is killed between Stripe's answer and the ledger leaves its work to another, after its lease
    and not before."""
    buyer = Buyer(house)
    buyer.deliver(buyer.subscribe())
    _crash_in_the_middle(house)
    house.clock.pass_seconds(INBOX_LEASE_SECONDS - 1)
    assert not house.runtime.background.worker.step()
    house.clock.pass_seconds(1)
    assert house.runtime.background.worker.step()
    assert buyer.ledger_says() == buyer.stripe_says()


def test_restart(house: Shop, tmp_path: Path) -> None:
    """F13: events that were stored and not worked off when the process died are worked off by the next one."""
    buyer = Buyer(house)
    buyer.subscribe()
    url = f"sqlite:///{tmp_path / 'farebox.db'}"
    first, second = (SqlStore(url, house.clock, house.entropy) for _ in range(2))
    first.open()
    first.add_account(buyer.account)
    first.add_event(InboxEvent("evt_r", "invoice.paid", "in_1", buyer.customer, 0, False), at=house.clock.now_at())
    assert first.take_inbox("dead", now=house.clock.now_at(), lease_seconds=INBOX_LEASE_SECONDS) is not None
    first.close()
    house.clock.pass_seconds(INBOX_LEASE_SECONDS)
    second.open()
    worker = InboxWorker(second, house.provider, house.clock, house.entropy)
    assert [worker.step(), worker.step()] == [True, False]
    assert {s.id for s in second.subscriptions(buyer.account.id)} == set(buyer.stripe_says())
    second.close()


def test_stripe_away(house: Shop) -> None:
    """L17: while Stripe is away the work waits longer and longer, to a bound; news of the customer tries at once."""
    buyer = Buyer(house)

    def away() -> None:
        raise ProviderUnavailable

    worker = slow_worker(house, away)
    buyer.deliver(buyer.subscribe())
    for pause in (2, 4, 8, 16, 32, 64, 128, 256, 512, 600, INBOX_BACKOFF_SECONDS_MAX):
        assert worker.step()
        house.clock.pass_seconds(pause - 1)
        assert not worker.step()
        house.clock.pass_seconds(1)
    assert worker.step()
    assert not house.runtime.background.worker.step()
    buyer.deliver(buyer.change("past_due"))
    work_off(house)
    assert buyer.ledger_says() == buyer.stripe_says()


def test_the_sweep(tmp_path: Path) -> None:
    """I10: with every webhook lost, the sweep finds what Stripe says, a few accounts at a time, then begins anew; with
    Stripe away it stays where it is."""
    with open_shop(tmp_path) as shop:
        buyers = [Buyer(shop) for _ in range(SWEEP_ACCOUNTS_MAX + 1)]
        for buyer in buyers:
            buyer.subscribe()
        shop.asked.append("down")
        assert sweep(shop.store, shop.provider, shop.clock) == ""
        shop.asked.clear()
        after = sweep(shop.store, shop.provider, shop.clock)
        assert after == buyers[-2].account.id
        assert [bool(b.ledger_says()) for b in buyers] == [True] * SWEEP_ACCOUNTS_MAX + [False]
        shop.asked.append("down")
        assert sweep(shop.store, shop.provider, shop.clock) == after
        shop.asked.clear()
        assert sweep(shop.store, shop.provider, shop.clock) == ""
        assert all(b.ledger_says() == b.stripe_says() for b in buyers)
