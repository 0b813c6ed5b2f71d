"""`farebox customers cancel --now` as an operator runs it, beside serving processes under traffic (L12)."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from tests.e2e.stack import EXAMPLES, HOST, Stack, free_port, stack_in, until


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with stack_in(tmp_path, seal_seconds=60) as running:
        yield running


def second_process(stack: Stack) -> str:
    """Another process that serves the same ledger. Returns its address."""
    port = free_port()
    uvicorn = ["-m", "uvicorn", "fire_api.app:app", "--app-dir", str(EXAMPLES), "--log-level", "warning"]
    address = ["--host", HOST, "--port", str(port)]
    stack.spawn(*uvicorn, *address, log="second.log", environment=stack.environment)
    base = f"http://{HOST}:{port}"
    until(lambda: stack.client.get(base + "/billing/readyz").is_success, "the second process starts")
    return base


def test_cancel_now_under_traffic(stack: Stack) -> None:
    """Two processes serve the buyer while the subscription is ended at once: the final invoice has exactly every call
    that was answered, to the last unit, and none is answered after it."""
    stack.start_api()
    buyer = stack.buy()
    bases = [stack.base, second_process(stack)]
    ended = threading.Event()

    def traffic(base: str) -> Counter[tuple[int, str]]:
        seen: Counter[tuple[int, str]] = Counter()
        with httpx.Client(timeout=30, trust_env=False) as client:
            while not ended.is_set():
                answer = client.get(base + "/api", headers=buyer)
                seen[answer.status_code, "" if answer.is_success else answer.json()["code"]] += 1
                ended.wait(0.02)
        return seen

    account = json.loads(stack.farebox("customers", "--json").stdout)[0]["account"]
    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(traffic, base) for base in bases * 2]
        try:
            done = stack.farebox("customers", "cancel", account, "--now", "--json")
            until(
                lambda: all(stack.client.get(b + "/api", headers=buyer).status_code == 402 for b in bases), "it is over"
            )
        finally:
            ended.set()
        seen = sum((each.result() for each in running), Counter())
    assert done.returncode == 0, done.stderr
    assert [s["status"] for s in json.loads(done.stdout)["subscriptions"]] == ["canceled"]
    answered = seen[200, ""]
    assert answered > 0
    assert seen[503, "account_settling"] > 0
    assert set(seen) <= {(200, ""), (503, "account_settling"), (402, "subscription_inactive")}
    totals = [invoice["total"] for invoice in stack.at_stripe("invoices")["data"]]
    assert (max(totals), stack.counted()) == (answered * 100, answered)


def test_cancel_at_the_period_s_end(stack: Stack) -> None:
    """Without --now the subscription runs to its period's end and calls go on; a second time changes nothing."""
    stack.start_api()
    buyer = stack.buy()
    account = json.loads(stack.farebox("customers", "list", "--json").stdout)[0]["account"]
    for _ in range(2):
        done = stack.farebox("customers", "cancel", account)
        assert (done.returncode, "ends at" in done.stdout) == (0, True), done.stderr
    stack.call(buyer)
    assert stack.at_stripe("subscriptions")["data"][0]["cancel_at_period_end"] is True
    assert "no account" in stack.farebox("customers", "cancel", "acct_nobody").stderr
