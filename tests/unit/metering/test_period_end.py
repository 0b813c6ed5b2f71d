"""A period's end: the last second's usage is on its invoice, whatever the clock does and although Stripe is away."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest
from structlog.testing import capture_logs
from tests.shop import START_AT, Shop, open_shop, signed

from farebox.billing.claim import Claimed
from farebox.billing.inbox import refresh_account
from farebox.domain.reports import ReportState
from farebox.domain.usage import Increment, Period, bucket_start
from farebox.errors import StoreUnavailable
from farebox.metering.sealer import EDGE_BACK_SECONDS, EDGE_SECONDS

DAY: Final = 86_400


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with open_shop(tmp_path) as opened:
        opened.store.bind_ledger(opened.provider.account().id, False)
        yield opened


def period_of(shop: Shop, claimed: Claimed) -> Period:
    found = shop.store.subscriptions(claimed.account_id)[0].period
    assert found is not None
    return found


def report_edge(shop: Shop) -> int:
    """What the reporter's loop does at a period's end, without its usual pace."""
    background = shop.runtime.background
    made = background.sealer.edge()
    while background.reporter.step(64):
        pass
    return made


def billed(shop: Shop) -> list[int]:
    """Units on the final invoices of renewals, oldest first (a call costs one dollar)."""
    return [
        i["total"] // 100 for i in sorted(shop.objects("invoice"), key=lambda found: found["created"]) if i["total"]
    ]


def at_stripe(shop: Shop, claimed: Claimed) -> int:
    """All that Stripe has counted for the buyer."""
    meter = shop.provider.meters()[0]
    customer = str(shop.account(claimed).customer_id)
    end = (shop.clock.now_at() // 60 + 2) * 60
    return shop.provider.summary(meter.id, customer, (START_AT - DAY) // 60 * 60, end)


def sum_of_events(shop: Shop) -> int:
    return sum(event.value for event in shop.store.meter_events(limit=10_000))


def pass_time(shop: Shop, seconds: int) -> None:
    """On every clock, and at Stripe."""
    shop.clock.pass_seconds(seconds)
    shop.sandbox.advance(shop.clock.now_at())


@pytest.mark.parametrize("begun", [START_AT, START_AT + 1_234, START_AT + 16 * DAY + 59, 1_803_859_199])
def test_the_last_second(shop: Shop, begun: int) -> None:
    """Usage of a period's last second is on its invoice, that of the next second on the next one (I6, L4).

    Subscriptions that begin at odd seconds, and at a month's last second.
    """
    shop.sandbox.advance(begun)
    shop.runtime.gate.poll()
    claimed = shop.buy()
    period = period_of(shop, claimed)
    shop.call(claimed.key, 2)
    shop.runtime.background.flush()
    shop.sandbox.advance(period.end - 1)
    shop.call(claimed.key, 3)
    assert report_edge(shop) == 0
    shop.clock.pass_seconds(1)  # Stripe's own work of this second comes later
    shop.call(claimed.key, 5)
    assert report_edge(shop) >= 2
    shop.sandbox.advance(period.end + 2 * EDGE_BACK_SECONDS)
    assert billed(shop) == [5]
    assert at_stripe(shop, claimed) == 10


def test_a_call_under_way_at_the_end(shop: Shop) -> None:
    """What is committed a moment after the end for the old period is sealed at once, though one was just sealed."""
    claimed = shop.buy()
    period = period_of(shop, claimed)
    shop.sandbox.advance(period.end - 1)
    shop.call(claimed.key, 1)
    shop.clock.pass_seconds(1)
    assert report_edge(shop) == 1
    shop.client.portal.call(shop.runtime.recorder.record, _call_at(shop, claimed, period.end - 1))  # type: ignore[union-attr]
    shop.clock.pass_seconds(EDGE_SECONDS - 1)
    shop.runtime.gate.poll()
    assert report_edge(shop) == 1
    assert report_edge(shop) == 0
    shop.sandbox.advance(period.end + 2 * EDGE_BACK_SECONDS)
    assert billed(shop) == [2]


def _call_at(shop: Shop, claimed: Claimed, at: int) -> list[Increment]:
    start = bucket_start(at, [period_of(shop, claimed).end])
    return [Increment(claimed.account_id, "calls", claimed.key_id, "GET /api", start, 1, 1, at)]


@pytest.mark.parametrize("jump", [3_600, 40 * DAY])
def test_the_clock_jumps_over_the_end(shop: Shop, jump: int) -> None:
    """F23: a clock that jumps an hour or forty days at a period's end loses nothing: the old bucket is sealed at once,
    in its own time."""
    claimed = shop.buy()
    period = period_of(shop, claimed)
    shop.sandbox.advance(period.end - 10)
    shop.runtime.background.sealer.edge()
    shop.call(claimed.key, 4)
    shop.clock.pass_seconds(jump)
    assert report_edge(shop) == 1
    event = shop.store.meter_events()[0]
    assert (event.value, period.contains(event.timestamp)) == (4, True)
    shop.call(claimed.key, 2)
    shop.runtime.background.flush()
    assert (sum_of_events(shop), len(shop.store.meter_events())) == (6, 2)


def test_a_restart_at_the_end(shop: Shop) -> None:
    """A process that starts soon after a period's end looks back for it."""
    claimed = shop.buy()
    period = period_of(shop, claimed)
    shop.sandbox.advance(period.end - 1)
    shop.call(claimed.key, 4)
    shop.clock.pass_seconds(EDGE_BACK_SECONDS)
    assert report_edge(shop) == 1


def test_more_accounts_than_a_page(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Periods that end together are sealed page by page; a page that fails is the next one again (I5)."""
    monkeypatch.setattr("farebox.metering.sealer.EDGE_ACCOUNTS_MAX", 2)
    buyers = [shop.buy() for _ in range(5)]
    period = period_of(shop, buyers[0])
    shop.sandbox.advance(period.end - 1)
    for buyer in buyers:
        shop.call(buyer.key, 1)
    shop.clock.pass_seconds(1)
    sealer = shop.runtime.background.sealer
    assert (sealer.edge(), sealer.edge_left) == (2, True)
    with monkeypatch.context() as patch:
        patch.setattr(shop.store, "seal", away)
        with pytest.raises(StoreUnavailable):
            sealer.edge()
    assert [sealer.edge(), sealer.edge_left, sealer.edge(), sealer.edge_left] == [2, True, 1, False]
    assert sum_of_events(shop) == 5


def test_a_seal_that_fails_keeps_nothing_from_being_sent(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sealed already goes out although no more can be sealed (I5)."""
    buyer = shop.buy()
    shop.call(buyer.key, 3)
    background = shop.runtime.background
    background.sealer.step(hard=True)
    background._roles.renew()
    monkeypatch.setattr(shop.store, "seal", away)
    monkeypatch.setattr(shop.store, "period_ends", away)
    background.report_period_end(buyer.account_id)
    background._report_step()
    assert at_stripe(shop, buyer) == 3
    monkeypatch.undo()
    shop.call(buyer.key, 4)
    background._report_step()
    assert at_stripe(shop, buyer) == 7, "the account whose period ended is sealed as soon as that is possible"


def away(*_: Any, **__: Any) -> NoReturn:
    raise StoreUnavailable


def test_a_webhook_of_a_period_seals_its_account_alone(shop: Shop) -> None:
    """`invoice.created` seals hard the usage of its own customer, and nothing for customers whom Farebox does not know
    (I16, L5)."""
    buyers = [shop.buy() for _ in range(3)]
    background = shop.runtime.background
    background._roles.renew()
    for buyer in buyers:
        shop.call(buyer.key)
    background._report_step()
    before = len(shop.store.meter_events())
    for n, customer in enumerate(("cus_of_another_product", shop.account(buyers[1]).customer_id)):
        shop.clock.pass_seconds(1)
        for buyer in buyers:
            shop.call(buyer.key)
        tell_of_an_invoice(shop, f"evt_{n}", str(customer))
        background._report_step()
    made = shop.store.meter_events()[: len(shop.store.meter_events()) - before]
    assert {event.account_id for event in made} == {buyers[1].account_id}
    assert len(made) == 1


def tell_of_an_invoice(shop: Shop, event_id: str, customer: str) -> None:
    invoice = {"id": f"in_{event_id}", "object": "invoice", "customer": customer}
    document = {"id": event_id, "object": "event", "type": "invoice.created", "created": shop.clock.now_at()}
    body = json.dumps({**document, "livemode": False, "data": {"object": invoice}}).encode()
    headers = {"Stripe-Signature": signed(body, shop.clock.system_at())}
    assert shop.client.post("/billing/webhook", content=body, headers=headers).status_code == 200


def test_a_boundary_that_was_learned_late(shop: Shop) -> None:
    """A row from both sides of a boundary that nobody knew counts wholly before it, at Stripe too, and says so (L4)."""
    shop.sandbox.advance(START_AT + 1_234)
    shop.runtime.gate.poll()
    claimed = shop.buy()
    period = period_of(shop, claimed)
    shop.sandbox.advance(period.end + 100)
    # Two ends are known, and the third month's is not: it comes as a surprise.
    second = shop.at_stripe("GET", "/v1/subscriptions")["data"][0]["items"]["data"][0]["current_period_end"]
    shop.sandbox.advance(second - 20)
    shop.call(claimed.key, 3)
    shop.clock.pass_seconds(60)
    shop.call(claimed.key, 5)
    shop.sandbox.advance(shop.clock.now_at())
    with capture_logs() as logs:
        refresh_account(shop.store, shop.provider, shop.clock, shop.account(claimed))
    said = [line for line in logs if line["event"] == "boundary_learned_late"]
    assert [(line["boundary"], line["units_before"]) for line in said] == [(second, 8)]
    shop.runtime.background.flush()
    assert all(event.timestamp < second for event in shop.store.meter_events())
    assert sum_of_events(shop) == 8
    with capture_logs() as logs:
        refresh_account(shop.store, shop.provider, shop.clock, shop.account(claimed))
    assert [line for line in logs if line["event"] == "boundary_learned_late"] == []


def test_seven_days_without_stripe(shop: Shop) -> None:
    """F08, I3, I4: Stripe is gone for seven days over a period's end, and took what was sent last without an answer:
    calls go on, and afterwards each is at Stripe once, each in its own period."""
    claimed = shop.buy()
    period = period_of(shop, claimed)
    shop.sandbox.advance(period.end - 3 * DAY)
    shop.call(claimed.key, 10)
    shop.runtime.background.flush()
    shop.call(claimed.key, 100)
    shop.asked.append("deaf")
    shop.runtime.background.flush()
    shop.asked.append("unplugged")
    made = 100
    for day in range(7):
        pass_time(shop, DAY)
        shop.call(claimed.key, 1 + day)  # active stays active: no webhook can say otherwise
        made += 1 + day
        shop.runtime.background.sealer.step()
        shop.runtime.background.sealer.edge()
        shop.runtime.background.reporter.step(64)
    shop.asked.clear()
    shop.sandbox.advance(shop.clock.now_at())
    for _ in range(40):
        shop.clock.pass_seconds(600)
        shop.runtime.background.flush()
    refresh_account(shop.store, shop.provider, shop.clock, shop.account(claimed))
    assert sum(line.quantity for line in shop.store.usage(claimed.account_id, 0, 1 << 40)) == 10 + made
    assert sum_of_events(shop) == 10 + made
    assert at_stripe(shop, claimed) == 10 + made
    before = [e.value for e in shop.store.meter_events(limit=1_000) if e.bucket_start < period.end]
    assert sum(before) == 110 + 1 + 2  # two days of the outage lie before the end, the third at it
    # What may have been counted more than 23 hours ago is not sent again blindly: it was counted, and is not doubled.
    left = [event for event in shop.store.meter_events(limit=1_000) if event.state is not ReportState.DELIVERED]
    assert [(event.value, event.state) for event in left] in ([], [(100, ReportState.DOUBTFUL)])


@pytest.mark.parametrize("reporter_first", [True, False])
def test_seven_days_without_stripe_in_money(shop: Shop, reporter_first: bool) -> None:
    """F08, I3, L10: what Stripe heard of only after the invoice was final is billed on the next one: all invoices
    together have each accepted call once, whichever of the loops comes first when Stripe is back."""
    claimed = shop.buy()
    account, first = shop.account(claimed), period_of(shop, claimed)
    background = shop.runtime.background
    shop.sandbox.advance(first.end - 3 * DAY)
    shop.call(claimed.key, 10)
    background.flush()
    shop.asked.append("unplugged")
    for _ in range(7):
        pass_time(shop, DAY)
        shop.call(claimed.key, 3)
        background.sealer.step()
        background.reporter.step(64)
    shop.asked.clear()
    refresh_account(shop.store, shop.provider, shop.clock, account)
    steps = [background.flush, background.late.step]
    for _ in range(40):
        pass_time(shop, 1_800)
        for step in steps if reporter_first else reversed(steps):
            step()
    second = period_of(shop, claimed)
    assert second.start == first.end
    shop.sandbox.advance(second.end)
    pass_time(shop, 1)
    shop.call(claimed.key, 1)
    report_edge(shop)
    for _ in range(8):
        pass_time(shop, 1_800)
        background.late.step()
    assert sum(billed(shop)) == 10 + 7 * 3
    used = sum(line.quantity for line in shop.store.usage(claimed.account_id, 0, second.end))
    assert used == 10 + 7 * 3
