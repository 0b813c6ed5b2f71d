"""What a stop, a kill or a lost network must not change: every call is counted and billed once."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.stack import Stack, stack_in, until


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with stack_in(tmp_path) as running:
        yield running


@pytest.fixture
def slow_stack(tmp_path: Path) -> Iterator[Stack]:
    """One that seals once a minute only, so that usage is still unreported when the test stops it."""
    with stack_in(tmp_path, seal_seconds=60) as running:
        yield running


def test_a_kill_loses_nothing(slow_stack: Stack) -> None:
    """I1, I4: usage that was not reported when the process was killed is in the ledger, and billed once afterwards."""
    slow_stack.start_api()
    buyer = slow_stack.buy()
    slow_stack.call(buyer, 7)
    slow_stack.stop_api(signal.SIGKILL)
    slow_stack.start_api()
    slow_stack.call(buyer, 2)
    assert slow_stack.usage(buyer)["meters"][0]["quantity"] == 9
    slow_stack.stop_api()
    assert slow_stack.counted() == 9


def test_shutting_down_flushes(slow_stack: Stack) -> None:
    """A stop seals and reports what is left: nothing waits for the next start."""
    slow_stack.start_api()
    buyer = slow_stack.buy()
    slow_stack.call(buyer, 5)
    before = slow_stack.counted()
    slow_stack.stop_api()
    assert slow_stack.counted() == 5
    assert before <= 5
    assert "Traceback" not in slow_stack.log


def test_webhooks_survive_a_restart(stack: Stack) -> None:
    """I10, F13: an event that was stored but not worked off when the process died is worked off after it."""
    stack.start_api()
    buyer = stack.buy()
    stack.call(buyer)
    subscription = stack.at_stripe("subscriptions")["data"][0]["id"]
    stack.fault(path="/v1/subscriptions*", method="GET", status=503, count=None)
    headers = {"Authorization": f"Bearer {stack.environment['STRIPE_SECRET_KEY']}"}
    ended = stack.client.delete(f"{stack.stripe}/v1/subscriptions/{subscription}", headers=headers)
    assert ended.status_code == 200
    until(
        lambda: any(d["state"] == "delivered" for d in stack.deliveries("customer.subscription.deleted")),
        "the event is delivered",
    )
    stack.call(buyer)  # the event is only a hint, and what it hints at cannot be read yet
    stack.stop_api(signal.SIGKILL)
    stack.heal()
    stack.start_api()
    until(lambda: stack.client.get(stack.base + "/api", headers=buyer).status_code == 402, "the key stops working")


def test_stripe_may_be_away(stack: Stack) -> None:
    """F04: with Stripe gone before the start and during calls, known keys go on.

    All of it is reported when Stripe is back.
    """
    stack.start_api()
    buyer = stack.buy()
    stack.call(buyer, 3)
    stack.stop_api()
    assert stack.counted() == 3
    stack.relay.close()
    stack.start_api()
    stack.call(buyer, 4)
    refused = stack.client.post(stack.base + "/billing/checkout", json={"plan": "payg"})
    assert refused.status_code == 503
    assert refused.json()["code"] == "provider_unavailable"
    assert refused.headers["retry-after"]
    assert stack.counted() == 3
    stack.relay.open()
    until(lambda: stack.counted() == 7, "what was used in the meantime is reported", 60)
    assert stack.usage(buyer)["total"] == 700
    assert "Traceback" not in stack.log


def test_lost_answers_bill_once(stack: Stack) -> None:
    """I4, F07: Stripe counts an event and breaks the connection before it answers: sent again, counted once."""
    stack.start_api()
    buyer = stack.buy()
    stack.fault(path="/v1/billing/meter_events", method="POST", reset="after", count=3)
    stack.call(buyer, 6)
    until(lambda: stack.counted() == 6, "all is counted")
    stack.call(buyer, 1)
    until(lambda: stack.counted() == 7, "reporting goes on")
    events = stack.farebox("usage", str(stack.usage(buyer)["account"]), "--events", "--json")
    assert events.returncode == 0, events.stderr
