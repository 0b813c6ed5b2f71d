"""Usage that other processes send over HTTP: each event is billed once, whatever dies in between."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.stack import Stack, stack_in, until


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with stack_in(tmp_path) as running:
        running.start_api()
        yield running


def test_events_sent_again_after_a_kill(stack: Stack) -> None:
    """What was answered as recorded outlives kill -9; sent again it is a duplicate, and Stripe counts each once."""
    buyer = stack.buy()
    account = str(stack.usage(buyer)["account"])
    operator = {"Authorization": f"Bearer {stack.environment['FAREBOX_ADMIN_TOKEN']}"}
    events = [{"id": f"job-{n}", "meter": "calls", "quantity": n, "account": account} for n in range(1, 11)]

    def send(some: list[dict[str, object]], headers: dict[str, str]) -> set[str]:
        answer = stack.client.post(stack.base + "/billing/events", json={"events": some}, headers=headers)
        assert answer.status_code == 200, answer.text
        return {result["status"] for result in answer.json()["results"]}

    assert send(events[:6], operator) == {"recorded"}
    stack.stop_api(signal.SIGKILL)
    stack.start_api()
    assert send(events[:6], operator) == {"duplicate"}
    refused = stack.client.post(stack.base + "/billing/events", json={**events[6], "account": None}, headers=buyer)
    assert (refused.status_code, refused.json()["code"]) == (403, "operator_only")
    assert send(events[6:], operator) == {"recorded"}
    assert send([{**events[0], "quantity": 99}], operator) == {"rejected"}
    assert stack.usage(buyer)["meters"][0]["quantity"] == 55
    until(lambda: stack.counted() == 55, "Stripe has all of it", 60)
