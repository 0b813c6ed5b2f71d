"""Kill -9 in the ordinary tests: a slice. The harness runs in a process of its own, which has everything loaded, no
threads, and forks each life."""

import json
import subprocess
import sys
from typing import Any

import pytest
from tests.faulty import calls_of

from farebox.ports import Provider, Store


def crash(*asked: str) -> dict[str, Any]:
    run = subprocess.run(
        [sys.executable, "-m", "tests.crash", *asked], capture_output=True, text=True, check=False, timeout=300
    )
    assert run.stdout, run.stderr[-3000:]
    told: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    assert not told["violations"], f"python -m tests.crash {' '.join(asked)}  # {told}"
    assert (told["lost"], told["doubled"]) == (0, 0)
    return told


@pytest.mark.timeout(400)
def test_death_at_each_call_of_a_port() -> None:
    """F01, I1–I4, I14: killed before and after each call of Store and Provider that a serving life makes, nothing is
    lost or doubled, and the next life serves."""
    told = crash("--every")
    assert told["kills"] >= 2 * len(told["seen"])
    called = {name.partition(".")[2] for name in told["seen"]}
    assert called <= set(calls_of(Store)) | set(calls_of(Provider))
    assert called >= {"commit_batch", "seal", "take_meter_events", "settle_meter_events", "send_meter_event"}
    assert called >= {"add_event", "finish_inbox", "put_subscriptions", "end_key", "rotate_key"}


@pytest.mark.timeout(400)
def test_death_at_any_moment() -> None:
    """F02, I1–I4: processes that serve the same ledger are killed at random, by their own hand at a call of a port or
    from outside; what clients were told they paid for is in the ledger and at Stripe, once."""
    assert crash("--seed", "1", "--kills", "15", "--workers", "2")["kills"] >= 15
