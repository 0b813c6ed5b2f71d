"""Stripe's own limits, switched on: so many requests a second of each kind, and one meter event of each at a time."""

import threading
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.unit.sandbox.town import EVENTS, KEY, HeldClock, Seller, Town

from farebox.sandbox import ManualClock, create_app
from farebox.sandbox.ids import Ids
from farebox.sandbox.ratelimits import Limits


def allowed(town: Town, method: str, path: str, params: Any = "") -> int:
    """How many requests of a kind are answered before the first that comes too soon."""
    for count in range(10_000):
        reply = town.ask(method, path, params)
        if reply.status == 429:
            assert reply.error == {"type": "invalid_request_error", "code": "rate_limit"}
            reason = "endpoint-rate" if path == EVENTS else "global-rate"
            assert reply.headers["Stripe-Rate-Limited-Reason"] == reason
            return count
        assert reply.status == 200
    raise AssertionError("never refused")


@pytest.mark.parametrize(("mode", "general", "usage"), [("live", 100, 1_000), ("test", 25, 25)])
def test_real_values(town: Town, mode: str, general: int, usage: int) -> None:
    """Reading, writing and meter events have each their own second: 100, 100 and 1,000 live; 25 each in a sandbox."""
    town.meter()
    customer = town.customer()
    event = {"event_name": "calls", "payload": {"stripe_customer_id": customer, "value": "1"}}
    town.sandbox.limits.set({"mode": mode})
    assert allowed(town, "GET", "/v1/customers") == general
    assert allowed(town, "POST", "/v1/customers") == general
    assert allowed(town, "POST", EVENTS, event) == usage
    town.clock.pass_ms(100)
    assert allowed(town, "POST", EVENTS, event) == usage // 10
    town.clock.pass_ms(60_000)
    assert allowed(town, "GET", "/v1/customers") == general
    assert town.ask("GET", "/v1/customers", key="sk_test_another_account").status == 200


def test_off_until_asked_for(town: Town) -> None:
    """Without being asked the sandbox limits nothing, and stops limiting when told."""
    for _ in range(200):
        town.get("/v1/customers")
    town.sandbox.limits.set({"read_per_second": 1})
    assert allowed(town, "GET", "/v1/customers") == 1
    town.sandbox.limits.set({"mode": "off"})
    for _ in range(200):
        town.get("/v1/customers")


def test_a_limited_request_has_no_effect(town: Town) -> None:
    """What was limited was not done, and its idempotency key is free."""
    town.sandbox.limits.set({"write_per_second": 1})
    assert town.ask("POST", "/v1/customers", {"name": "a"}, idempotency_key="a").status == 200
    assert town.ask("POST", "/v1/customers", {"name": "b"}, idempotency_key="b").status == 429
    assert [customer["name"] for customer in town.get("/v1/customers")["data"]] == ["a"]
    town.clock.pass_ms(1_000)
    replay = town.ask("POST", "/v1/customers", {"name": "b"}, idempotency_key="b")
    assert (replay.status, replay.headers.get("Idempotent-Replayed")) == (200, None)


def test_one_in_flight_for_customer_and_meter() -> None:
    """While a meter event is being taken, another of its customer and meter is a 429 lock_timeout; others are not."""
    clock = HeldClock()
    seller = Seller(clock)
    seller.meter("tokens")
    ada, bob = seller.customer(), seller.customer()
    seller.sandbox.limits.set({"in_flight_milliseconds": 50})
    replies: list[Any] = []
    first = threading.Thread(target=lambda: replies.append(seller.use(ada)))
    first.start()
    assert clock.entered.wait(10)
    second = seller.use(ada)
    assert (second.status, second.error["code"]) == (429, "lock_timeout")
    assert second.headers["Stripe-Rate-Limited-Reason"] == "resource-specific"
    clock.released.set()
    first.join(10)
    assert [reply.status for reply in replies] == [200]
    assert [seller.use(ada, name="tokens").status, seller.use(bob).status, seller.use(ada).status] == [200] * 3


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"mode": "loud"}, "mode is one of"),
        ({"mode": None}, "mode is one of"),
        ({"reads": 1}, "unknown: reads"),
        ({"read_per_second": 0}, "from 1 to"),
        ({"read_per_second": 1.5}, "whole number"),
        ({"write_per_second": True}, "whole number"),
        ({"meter_events_per_second": "9"}, "whole number"),
        ({"in_flight_milliseconds": None}, "from 0 to"),
        ({"in_flight_milliseconds": -1}, "from 0 to"),
    ],
)
def test_limits_that_are_refused(asked: dict[str, Any], says: str) -> None:
    """A limit that cannot be is refused in words, and nothing changes."""
    limits = Limits(lambda: 0)
    limits.set({"mode": "live"})
    before = limits.asked()
    with pytest.raises(ValueError, match=says):
        limits.set(asked)
    assert limits.asked() == before


def test_control_api(town: Town) -> None:
    """Limits, seed and the rest of test clocks are seen and set over HTTP; what cannot be is a 400."""
    client = TestClient(create_app(town.sandbox))
    shown = client.post("/_sandbox/limits", json={"mode": "test", "in_flight_milliseconds": 5}).json()
    assert shown == {
        "read_per_second": 25,
        "write_per_second": 25,
        "meter_events_per_second": 25,
        "in_flight_milliseconds": 5,
        "refused": 0,
    }
    statuses = [client.get("/v1/customers", headers={"Authorization": f"Bearer {KEY}"}).status_code for _ in range(26)]
    assert statuses == [200] * 25 + [429]
    assert client.get("/_sandbox/limits").json()["refused"] == 1
    assert client.post("/_sandbox/seed", json={"seed": 42}).json() == {"seed": 42, "draws": {}}
    assert client.post("/_sandbox/test_clocks", json={"settle_seconds": 0}).json() == {"settle_seconds": 0}
    for path, asked in (
        ("limits", {"mode": "x"}),
        ("limits", []),
        ("seed", {"seed": -1}),
        ("seed", {}),
        ("seed", {"seed": True}),
        ("test_clocks", {"settle_seconds": 601}),
        ("test_clocks", {"settle_seconds": None}),
    ):
        answer = client.post(f"/_sandbox/{path}", json=asked)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"]
    assert client.post("/_sandbox/seed", content=b"{").status_code == 400


def outcomes(seed: int | None) -> list[int]:
    town = Town(ManualClock(1_800_000_000))
    town.sandbox.ids.seed(seed)
    town.sandbox.faults.add({"path": "/v1/customers", "status": 500, "count": None, "rate_millionths": 300_000})
    return [town.ask("POST", "/v1/customers").status for _ in range(60)]


def test_chance_can_be_repeated() -> None:
    """Faults at a rate hit the same requests for the same seed, others for another, about as many as asked."""
    assert outcomes(42) == outcomes(42)
    assert outcomes(42) != outcomes(43)
    assert 8 <= outcomes(42).count(500) <= 28


def test_each_purpose_has_its_own_row() -> None:
    """What is drawn for webhooks does not change what requests meet."""
    first, second = Ids(), Ids()
    for ids in (first, second):
        ids.seed(1)
    [second.fraction("webhooks") for _ in range(7)]
    assert [first.fraction("requests") for _ in range(9)] == [second.fraction("requests") for _ in range(9)]


def test_ids_are_never_seeded() -> None:
    """Identifiers and secrets are different each time, seed or not."""
    ids = Ids()
    ids.seed(1)
    first = ids.new("cus_")
    ids.seed(1)
    assert ids.new("cus_") != first
    assert (len(first), first[:4]) == (28, "cus_")
