"""Cancel now without losing the last unit: hold, finish, seal, deliver, see Stripe agree, change, release (L12)."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient
from tests.shop import PUBLIC_URL, Shop, bearer

from farebox.app import Runtime
from farebox.billing.cancel import cancel_subscriptions, require_running
from farebox.domain.accounts import Account, Subscription
from farebox.errors import (
    AccountSettling,
    ProviderUnavailable,
    SettlementMissed,
    SettlementUnderWay,
    SubscriptionMissing,
)
from farebox.metering.reporter import Reporter
from farebox.metering.settlement import HOLD_SECONDS, Settlement
from farebox.web.middleware import PaidCalls

MINUTE: Final = 60


def settlement(shop: Shop, meanwhile: Callable[[int], None] | None = None) -> Settlement:
    """One whose pauses let time pass, the serving process beat, and `meanwhile` act."""
    runtime = shop.runtime

    def pause(milliseconds: int) -> None:
        shop.clock.manual.pass_ms(milliseconds)
        if meanwhile is not None:
            meanwhile(milliseconds)
        runtime.gate.poll()
        runtime.presence.step()

    shop.store.bind_ledger(shop.provider.account().id, False)
    reporter = Reporter(shop.store, shop.provider, shop.clock, shop.entropy)
    return Settlement(shop.store, shop.provider, shop.clock, runtime.background.sealer, reporter, pause)


def cancel(shop: Shop, account: Account) -> Callable[[], tuple[Subscription, ...]]:
    return lambda: cancel_subscriptions(shop.store, shop.provider, shop.clock, account, at_period_end=False)


def invoiced(shop: Shop) -> list[int]:
    """Totals of all invoices at Stripe, oldest first."""
    return [int(invoice["total"]) for invoice in sorted(shop.objects("invoice"), key=lambda found: found["created"])]


def test_cancel_now(shop: Shop) -> None:
    """The final invoice has every call up to the last, calls are refused from then on, and the hold is released."""
    claimed = shop.buy()
    account = shop.account(claimed)
    shop.call(claimed.key, 7)
    shop.clock.pass_seconds(600)
    shop.call(claimed.key, 5)
    after = settlement(shop).run(account, cancel(shop, account))
    assert [s.status for s in after] == ["canceled"]
    assert invoiced(shop)[-1] == 1_200
    shop.runtime.gate.poll()
    refused = shop.client.get("/api", headers=bearer(claimed.key))
    assert (refused.status_code, refused.json()["code"]) == (402, "subscription_inactive")
    assert shop.store.held_until(account.id) is None
    with pytest.raises(SubscriptionMissing):
        require_running(shop.store, shop.provider, shop.clock, account)


def test_calls_wait_meanwhile(shop: Shop) -> None:
    """While the account is settled its calls, and what is recorded for it, are told to come again; others go on."""
    claimed, other = shop.buy(), shop.buy()
    account = shop.account(claimed)
    shop.call(claimed.key, 3)
    seen: list[tuple[int, Any, Any]] = []

    def meanwhile(_: int) -> None:
        if not seen:
            shop.runtime.gate.poll()
            answer = shop.client.get("/api", headers=bearer(claimed.key))
            seen.append((answer.status_code, answer.json()["code"], answer.headers["retry-after"]))
            with pytest.raises(AccountSettling):
                shop.client.portal.call(record, shop.runtime, account.id)  # type: ignore[union-attr]
            assert shop.client.get("/api", headers=bearer(other.key)).status_code == 200
            assert shop.client.get("/billing/usage", headers=bearer(claimed.key)).status_code == 200

    settlement(shop, meanwhile).run(account, cancel(shop, account))
    assert seen == [(503, "account_settling", "2")]
    assert [line.quantity for line in shop.store.usage(account.id, 0, 1 << 40)] == [3]


async def record(runtime: Runtime, account_id: str) -> None:
    await runtime.record(account_id, "calls", 1, record_id="job")


def test_a_call_under_way_is_waited_for(shop: Shop) -> None:
    """A call that was let in before the hold is on the final invoice, however late it ends (L12)."""
    claimed = shop.buy()
    account = shop.account(claimed)
    entered, go_on = threading.Event(), threading.Event()

    async def slow(_: Request) -> Response:
        entered.set()
        while not go_on.is_set():
            await _turn()
        return PlainTextResponse("served")

    app = PaidCalls(Starlette(routes=[Route("/api", slow)]), _Host(shop))
    pauses = 0

    def meanwhile(_: int) -> None:
        nonlocal pauses
        pauses += 1
        if pauses == 5:
            go_on.set()
            assert answer.result(10).status_code == 200

    with TestClient(app, base_url=PUBLIC_URL) as client, ThreadPoolExecutor(1) as thread:
        answer = thread.submit(client.get, "/api", headers=bearer(claimed.key))
        assert entered.wait(10)
        settlement(shop, meanwhile).run(account, cancel(shop, account))
    assert invoiced(shop)[-1] == 100


async def _turn() -> None:
    await asyncio.sleep(0.005)


class _Host:
    """The shop's runtime under another application, started and stopped by the shop."""

    def __init__(self, shop: Shop) -> None:
        self.edge = shop.runtime.edge

    async def start(self) -> None: ...
    async def stop(self) -> None: ...


def test_a_missed_deadline(shop: Shop) -> None:
    """With Stripe away nothing is changed, the reason is said, and calls go on; later it works (L12)."""
    claimed = shop.buy()
    account = shop.account(claimed)
    shop.call(claimed.key, 4)
    with pytest.raises(SettlementMissed, match="not reached Stripe"):
        _settle_while_down(shop, account)
    shop.asked.clear()
    shop.call(claimed.key, 1)
    shop.clock.pass_seconds(600)
    settlement(shop).run(account, cancel(shop, account))
    assert invoiced(shop)[-1] == 500


def _settle_while_down(shop: Shop, account: Account) -> None:
    shop.asked.clear()
    made = settlement(shop)
    shop.asked.append("down")
    made.run(account, cancel(shop, account))


def test_a_process_that_does_not_answer(shop: Shop) -> None:
    """A process that lives and does not come to its end makes it abort; a dead one is removed and not waited for."""
    claimed = shop.buy()
    account = shop.account(claimed)
    shop.call(claimed.key, 2)
    other = shop.store.processes()[0]
    stuck = type(other)("stuck", "there", 4_711, 0, 0, 0)

    def beating(_: int) -> None:
        shop.store.beat(stuck)

    with pytest.raises(SettlementMissed, match="process 4711 on there"):
        settlement(shop, beating).run(account, cancel(shop, account), seconds_max=30)
    shop.call(claimed.key, 1)
    settlement(shop).run(account, cancel(shop, account))
    assert [row.id for row in shop.store.processes()] == [other.id]
    assert invoiced(shop)[-1] == 300


def test_a_crash_in_between(shop: Shop) -> None:
    """What a dead settlement holds is free again after the stated time, and it can be repeated (L12)."""
    claimed = shop.buy()
    account = shop.account(claimed)
    shop.call(claimed.key, 2)
    assert shop.store.hold_account(account.id, now=shop.clock.now_at(), until=shop.clock.now_at() + HOLD_SECONDS)
    shop.runtime.gate.poll()
    assert shop.client.get("/api", headers=bearer(claimed.key)).json()["code"] == "account_settling"
    with pytest.raises(SettlementUnderWay):
        settlement(shop).run(account, cancel(shop, account))
    shop.clock.pass_seconds(HOLD_SECONDS)
    shop.call(claimed.key, 1)
    settlement(shop).run(account, cancel(shop, account))
    assert invoiced(shop)[-1] == 300


def test_a_lost_answer(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a cancellation whose answer was lost was made, is looked up: made it is done, else it is an error."""
    claimed = shop.buy()
    account = shop.account(claimed)
    shop.call(claimed.key, 2)
    real = shop.provider.cancel_subscription

    def before(subscription_id: str, *, at_period_end: bool) -> None:
        raise ProviderUnavailable

    def after(subscription_id: str, *, at_period_end: bool) -> None:
        real(subscription_id, at_period_end=at_period_end)
        raise ProviderUnavailable

    monkeypatch.setattr(shop.provider, "cancel_subscription", before)
    with pytest.raises(ProviderUnavailable):
        settlement(shop).run(account, cancel(shop, account))
    shop.call(claimed.key, 1)
    shop.clock.pass_seconds(600)
    monkeypatch.setattr(shop.provider, "cancel_subscription", after)
    settlement(shop).run(account, cancel(shop, account))
    assert invoiced(shop)[-1] == 300


def test_cancel_at_the_period_s_end(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default it ends with its period: calls go on until then and are billed, and none is let in after it (I6)."""
    claimed = shop.buy()
    account = shop.account(claimed)
    shop.call(claimed.key, 2)
    after = cancel_subscriptions(shop.store, shop.provider, shop.clock, account, at_period_end=True)
    assert [(s.status, s.cancel_at_period_end) for s in after] == [("active", True)]
    period = after[0].period
    assert period is not None
    shop.sandbox.advance(period.end - 1)
    shop.call(claimed.key, 3)
    shop.sandbox.advance(period.end)
    shop.runtime.gate.poll()
    assert shop.client.get("/api", headers=bearer(claimed.key)).json()["code"] == "subscription_inactive"
    shop.runtime.background.flush()
    shop.sandbox.advance(period.end + 7_200)
    assert invoiced(shop)[-1] == 500
