"""What Stripe takes and refuses later comes back as a thin event, and is joined to the ledger's own rows (F11)."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from tests.reporting import HOUR, KEY, Town
from tests.shop import signed

from farebox.billing.catalog import push_error_destination
from farebox.billing.inbox import InboxWorker, receive
from farebox.domain.keys import Secret
from farebox.domain.reports import ErrorReport, MeterEvent, ReportedError, ReportState, Transport
from farebox.metering.pace import Rates
from farebox.provider.stripe import StripeProvider
from farebox.system import SystemEntropy

URL = "https://seller.example/billing/webhook"
State = ReportState


class Seller(Town):
    """A town whose thin events are told to its own inbox."""

    def __init__(self) -> None:
        super().__init__(rates=Rates(20, 40))
        _, made = push_error_destination(self.provider, URL)
        self.secret = str(made.secret)
        self.front = StripeProvider(Secret(KEY), (Secret(self.secret),), transport=self.wire.send)
        self.worker = InboxWorker(self.store, self.front, self.clock, SystemEntropy(), halt=self.reporter.halt)

    def hear(self) -> int:
        """Take in the thin events of Stripe's log, as deliveries would bring them. How many were new."""
        self.wire.sandbox.tick()
        (state,) = self.wire.sandbox.accounts.values()
        stored = 0
        for event in state.all("v2.core.event"):
            thin = {name: value for name, value in event.items() if name != "data" and not name.startswith("_")}
            body = json.dumps(thin).encode()
            signature = signed(body, self.clock.system_at(), self.secret)
            receipt = receive(self.front, self.store, self.clock, body, signature, live=False)
            stored += receipt.stored
        while self.worker.step():
            pass
        return stored

    def forget_customer(self, event: MeterEvent) -> None:
        path = f"/v1/customers/{event.customer_id}"
        assert self.wire.sandbox.request("DELETE", path, {"Authorization": f"Bearer {KEY}"}, b"").status == 200


@pytest.fixture
def seller() -> Iterator[Seller]:
    made = Seller()
    made.wire.sandbox.set_aggregation(60, late=True)
    yield made
    made.front.close()
    made.close()


def test_taken_and_refused_later(seller: Seller) -> None:
    """A delivered event that Stripe refuses when it counts becomes rejected, with Stripe's reason; the others stay
    (F11, I5)."""
    seller.add_buyer(1)
    seller.add_buyer(2)
    seller.seal(10)
    seller.use(5, buyer=2)
    seller.sealer.step(hard=True)
    assert (seller.step(), seller.states) == (2, [State.DELIVERED] * 2)
    seller.forget_customer(seller.events[0])
    seller.clock.pass_seconds(61)
    assert (seller.hear(), seller.hear()) == (1, 0)
    assert (seller.states, seller.wire.total) == ([State.REJECTED, State.DELIVERED], 5)
    assert "No such customer" in seller.events[0].reason
    assert seller.events[0].settled_at == seller.clock.now_at()
    assert seller.step() == 0


def test_an_operator_tries_again(seller: Seller) -> None:
    """Taken up again it waits until Stripe has forgotten the identifier, and is counted once (I4)."""
    seller.add_buyer(1)
    seller.seal(10)
    seller.step()
    event = seller.events[0]
    seller.store.refuse_reported(
        ReportedError("x", "not now", event.identifier), others=False, now=seller.clock.now_at()
    )
    moved = seller.store.retry_meter_events([event.identifier], suffix="again", now=seller.clock.now_at())
    assert [e.state for e in moved] == [State.REJECTED]
    seller.clock.pass_seconds(24 * HOUR)
    assert (seller.step(), seller.states) == (0, [State.PENDING])


def test_one_of_a_request_of_the_stream(seller: Seller) -> None:
    """When the report names a request that many share, the customer in its words tells which one is meant."""
    seller.settle_in(250)
    seller.add_buyer(250)
    seller.use(7, buyer=250)
    seller.sealer.step(hard=True)
    seller.step()
    seller.clock.pass_seconds(HOUR)
    seller.use_all(250)
    seller.sealer.step(hard=True)
    assert seller.step() == 250
    lost = next(event for event in seller.events if event.transport is Transport.STREAM)
    seller.forget_customer(lost)
    seller.clock.pass_seconds(61)
    assert seller.hear() == 1
    assert [e.identifier for e in seller.events if e.state is State.REJECTED] == [lost.identifier]
    assert sum(e.state is State.DELIVERED for e in seller.events) == 250


def test_a_request_whose_bad_event_nobody_names(seller: Seller) -> None:
    """Then its events are sent again, each alone and under its identifier, and none is counted twice (I4)."""
    seller.settle_in(250)
    seller.add_buyer(250)
    seller.use(7, buyer=250)
    seller.sealer.step(hard=True)
    seller.step()
    seller.clock.pass_seconds(HOUR)
    seller.use_all(250)
    seller.sealer.step(hard=True)
    seller.step()
    keys = Counter(event.idempotency_key for event in seller.events if event.transport is Transport.STREAM)
    ((key, _),) = keys.most_common(1)
    shared = {event.identifier for event in seller.events if event.idempotency_key == key}
    told = ReportedError("meter_event_invalid_value", "The value is not a number.", key)
    refused, again = seller.store.refuse_reported(told, others=False, now=seller.clock.now_at())
    assert (refused, set(again), len(shared)) == ([], shared, 100)
    seller.drain()
    single = {event.idempotency_key for event in seller.events if event.identifier in shared}
    assert len(single) == 100
    seller.clock.pass_seconds(61)
    assert (seller.wire.total, set(seller.states)) == (seller.used, {State.DELIVERED})
    one = next(event for event in seller.events if event.identifier in shared)
    assert seller.store.find_reported(one.idempotency_key) == [one]


def test_reports_of_others(seller: Seller, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is not ours, and one that is not delivered, change nothing."""
    seller.add_buyer(1)
    seller.seal(10)
    report = ErrorReport(
        (ReportedError("no_meter", "?", "theirs"), ReportedError("x", "?", seller.events[0].identifier)), 9
    )
    monkeypatch.setattr(seller.front, "error_report", lambda event_id: report)
    before = seller.events
    seller.store.add_event(_thin(seller), at=seller.clock.now_at())
    assert seller.worker.step()
    assert (seller.events, seller.store.inbox_waiting(), seller.reporter.halted) == (before, 0, None)


@pytest.mark.parametrize("unknown_before", [False, True])
def test_a_duplicate_told_late(seller: Seller, monkeypatch: pytest.MonkeyPatch, unknown_before: bool) -> None:
    """A duplicate is delivered; of an event that was sent once and answered it means a copied ledger (L6, F27)."""
    seller.add_buyer(1)
    seller.seal(10)
    if unknown_before:
        seller.step("before")
        seller.clock.pass_seconds(2)
    assert seller.step() == 1
    report = ErrorReport((ReportedError("duplicate_meter_event", "again", seller.events[0].identifier),), 1)
    monkeypatch.setattr(seller.front, "error_report", lambda event_id: report)
    seller.store.add_event(_thin(seller), at=seller.clock.now_at())
    assert seller.worker.step()
    assert seller.states == [State.DELIVERED]
    assert (seller.reporter.halted is None) is unknown_before


def test_a_forged_thin_event(seller: Seller) -> None:
    """Thin events are signed like all others (A01)."""
    body = json.dumps({"id": "evt_1", "object": "v2.core.event", "type": "v1.billing.meter.no_meter_found"}).encode()
    with pytest.raises(Exception, match="No signature matches"):
        receive(seller.front, seller.store, seller.clock, body, signed(body, seller.clock.system_at()), live=False)


def test_the_destination_is_made_once(seller: Seller) -> None:
    """A second push finds the event destination that there is."""
    change, found = push_error_destination(seller.provider, URL)
    assert (change.kind, found.secret, found.url) == ("unchanged", None, URL)
    assert push_error_destination(seller.provider, URL + "2")[0].kind == "create"


def _thin(seller: Seller) -> Any:
    told = {
        "id": "evt_thin",
        "object": "v2.core.event",
        "type": "v1.billing.meter.error_report_triggered",
        "created": "2027-01-15T08:00:00.000Z",
        "livemode": False,
    }
    body = json.dumps(told).encode()
    signature = signed(body, seller.clock.system_at(), seller.secret)
    return seller.front.verify_webhook(body, signature, now=seller.clock.system_at())
