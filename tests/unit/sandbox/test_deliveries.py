"""Deliveries on demand: lost, doubled, out of order, late, sent again; and no receiver waits for a slow one."""

import json
import threading
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.unit.sandbox.town import Town, signed

from farebox.sandbox import create_app
from farebox.sandbox.event_types import SNAPSHOT_TYPES, THIN_TYPES

FAULTS = "/_sandbox/deliveries/faults"


@pytest.fixture
def control(town: Town) -> TestClient:
    """The control API, without the threads that pass time."""
    return TestClient(create_app(town.sandbox))


def got(town: Town, path: str = "hook") -> list[str]:
    """What came to this endpoint so far: the events' objects, in order."""
    return [json.loads(body)["data"]["object"]["name"] for where, _, body in town.received if where == path]


def make(town: Town, *names: str) -> None:
    for name in names:
        town.post("/v1/products", name=name)


def logged(control: TestClient, **wanted: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = control.get("/_sandbox/deliveries", params=wanted).json()["deliveries"]
    return found


def test_a_lost_delivery(town: Town, control: TestClient) -> None:
    """A dropped delivery never comes and is not tried again; the event holds nothing up and can be found (F12)."""
    town.listen()
    assert control.post(FAULTS, json={"kind": "drop", "type": "product.*"}).json()["faults"][0]["count"] == 1
    make(town, "lost", "kept")
    assert town.deliver() == 1
    town.clock.pass_ms(4 * 86_400_000)
    assert town.deliver() == 0
    assert got(town) == ["kept"]
    assert [event["pending_webhooks"] for event in town.get("/v1/events")["data"]] == [0, 0]
    assert [d["state"] for d in logged(control)] == ["lost", "delivered"]
    assert control.get(FAULTS).json() == {"faults": []}


def test_a_doubled_delivery(town: Town, control: TestClient) -> None:
    """A duplicate is the same event twice, under one id (F12)."""
    town.listen()
    control.post(FAULTS, json={"kind": "duplicate", "count": 2})
    make(town, "a", "b", "c")
    assert town.deliver() == 5
    assert got(town) == ["a", "a", "b", "b", "c"]
    assert len({json.loads(body)["id"] for _, _, body in town.received}) == 3
    assert [event["pending_webhooks"] for event in town.get("/v1/events")["data"]] == [0, 0, 0]


def test_out_of_order(town: Town, control: TestClient) -> None:
    """An event that is to come out of order comes after the one that follows it, or alone after three seconds."""
    town.listen()
    control.post(FAULTS, json={"kind": "reorder"})
    make(town, "first", "second", "third")
    assert town.deliver() == 3
    assert got(town) == ["second", "first", "third"]
    control.post(FAULTS, json={"kind": "reorder"})
    make(town, "alone")
    assert town.deliver() == 0
    town.clock.pass_ms(3_000)
    assert town.deliver() == 1


def test_a_late_delivery(town: Town, control: TestClient) -> None:
    """A delayed delivery comes that much later, others at once."""
    town.listen()
    control.post(FAULTS, json={"kind": "delay", "delay_ms": 90_000})
    make(town, "late", "prompt")
    town.deliver()
    assert got(town) == ["prompt"]
    town.clock.pass_ms(89_999)
    assert town.deliver() == 0
    town.clock.pass_ms(1)
    assert town.deliver() == 1


def test_faults_choose(town: Town, control: TestClient) -> None:
    """A fault hits the types and the endpoint that it names, at its rate, until it is cleared."""
    one, other = town.listen("one"), town.listen("other")
    control.post(FAULTS, json={"kind": "drop", "endpoint": one["id"], "type": "product.created", "count": None})
    control.post(FAULTS, json={"kind": "drop", "rate_millionths": 0, "count": None})
    make(town, "a")
    town.customer(name="ada")
    town.deliver()
    assert (got(town, "one"), got(town, "other")) == (["ada"], ["a", "ada"])
    control.delete(FAULTS)
    make(town, "b")
    town.deliver()
    assert got(town, "one") == ["ada", "b"]
    assert other["status"] == "enabled"


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"kind": "explode"},
        {"kind": ["drop"]},
        {"kind": "drop", "often": 1},
        {"kind": "drop", "count": 0},
        {"kind": "drop", "count": "1"},
        {"kind": "drop", "rate_millionths": 1_000_001},
        {"kind": "drop", "delay_ms": 5},
        {"kind": "delay"},
        {"kind": "delay", "delay_ms": 86_400_001},
        {"kind": "delay", "delay_ms": True},
        {"kind": "drop", "type": 5},
    ],
)
def test_faults_that_are_none(control: TestClient, asked: dict[str, Any]) -> None:
    """What a fault cannot be is a 400 that says so, and adds nothing."""
    assert control.post(FAULTS, json=asked).status_code == 400
    assert control.get(FAULTS).json() == {"faults": []}


@pytest.mark.parametrize("body", [b"[]", b"{", b"\xff", b"[" * 100_000])
@pytest.mark.parametrize("path", [FAULTS, "/_sandbox/deliveries/retries", "/_sandbox/events/evt_x/resend"])
def test_malformed_control(control: TestClient, path: str, body: bytes) -> None:
    """Whatever is sent to the control API, it is refused and nothing breaks."""
    assert control.post(path, content=body).status_code in (400, 404)


def test_sending_again(town: Town, control: TestClient) -> None:
    """An event is sent again to all that ask for it, or to one by name, as it was, with a new signature."""
    one, other = town.listen("one", "product.created"), town.listen("other", "invoice.paid")
    make(town, "a")
    town.deliver()
    event = town.get("/v1/events")["data"][0]["id"]
    town.clock.pass_ms(60_000)
    path = f"/_sandbox/events/{event}/resend"
    assert [d["endpoint"] for d in control.post(path).json()["deliveries"]] == [one["id"]]
    assert [d["endpoint"] for d in control.post(path, json={"endpoint": other["id"]}).json()["deliveries"]] == [
        other["id"]
    ]
    assert town.get(f"/v1/events/{event}")["pending_webhooks"] == 2
    assert town.deliver() == 2
    first, again, forced = town.received
    assert (first[0], again[0], forced[0]) == ("one", "one", "other")
    assert json.loads(again[2])["id"] == json.loads(forced[2])["id"] == event
    assert again[1]["Stripe-Signature"] == signed(again[2], town.clock.system_at(), one["secret"])
    assert town.get(f"/v1/events/{event}")["pending_webhooks"] == 0
    assert control.post("/_sandbox/events/evt_none/resend").status_code == 404
    assert control.post(path, json={"endpoint": "we_none"}).status_code == 404


def test_the_event_log(town: Town, control: TestClient) -> None:
    """Events are shown newest first with what became of their deliveries, by type, by object, and a few at a time."""
    endpoint = town.listen("hook", "product.created")
    make(town, "a", "b")
    customer = town.customer()
    town.deliver(500)

    def shown(**wanted: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = control.get("/_sandbox/events", params=wanted).json()["events"]
        return found

    assert [e["event"]["type"] for e in shown()] == ["customer.created", "product.created", "product.created"]
    assert [e["event"]["id"] for e in shown(object=customer)] == [shown()[0]["event"]["id"]]
    states = [
        [(d["endpoint"], d["state"], d["status"]) for d in e["deliveries"]] for e in shown(type="product.created")
    ]
    assert states == [[(endpoint["id"], "delivered", 200)], [(endpoint["id"], "pending", 500)]]
    assert len(shown(limit="1")) == 1
    assert shown(account="acct_none") == []
    assert control.get("/_sandbox/events", params={"limit": "0"}).status_code == 400
    assert [d["status"] for d in logged(control, state="pending")] == [500]


def test_stripes_own_pace(town: Town, control: TestClient) -> None:
    """Asked to, the local Stripe waits as long between tries as Stripe does: minutes, then hours, for three days."""
    assert control.post("/_sandbox/deliveries/retries", json={"pace": "stripe"}).json() == {"pace": "stripe"}
    assert control.post("/_sandbox/deliveries/retries", json={"pace": "soon"}).status_code == 400
    town.listen()
    make(town, "a")
    for minutes in (5, 30, 120, 300, 600, 720, 720, 720, 720, 720):
        assert town.deliver(500) == 1
        town.clock.pass_ms(minutes * 60_000 - 1)
        assert town.deliver() == 0
        town.clock.pass_ms(1)
    assert town.deliver(500) == 1
    town.clock.pass_ms(86_400_000)
    assert town.deliver() == 0
    assert [d["state"] for d in logged(control)] == ["failed"]


def test_a_slow_endpoint(town: Town) -> None:
    """An endpoint that does not answer keeps no other waiting, and gets its own events one after another."""
    town.listen("slow")
    town.listen("quick")
    make(town, "a", "b")
    release, came, lock = threading.Event(), list[str](), threading.Lock()
    quick_done = threading.Event()

    def send(url: str, _headers: dict[str, str], body: bytes) -> int | None:
        name = json.loads(body)["data"]["object"]["name"]
        with lock:
            came.append(f"{url.rpartition('/')[2]} {name}")
            if came.count("quick a") + came.count("quick b") == 2:
                quick_done.set()
        if url.endswith("slow"):
            assert release.wait(10)
        return 200

    town.sandbox.start_deliveries(send)
    assert quick_done.wait(10)
    town.sandbox.start_deliveries(send)  # the slow one is busy: nothing is sent to it twice
    assert "slow b" not in came
    release.set()
    while len(came) < 4 or any(e["pending_webhooks"] for e in town.get("/v1/events")["data"]):
        threading.Event().wait(0.01)
    assert [each for each in came if each.startswith("slow")] == ["slow a", "slow b"]
    assert [each for each in came if each.startswith("quick")] == ["quick a", "quick b"]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"enabled_events": ["invoice.payed"]}, "enabled_events[0]"),
        ({"enabled_events": ["*", "v1.billing.meter.no_meter_found"]}, "enabled_events[1]"),
        ({"enabled_events": "*"}, "enabled_events"),
        ({"api_version": "yesterday"}, "api_version"),
    ],
)
def test_endpoints_that_are_refused(town: Town, changes: dict[str, Any], param: str) -> None:
    """An endpoint asks for events and a version that Stripe has; anything else is refused by name."""
    asked = {"url": "https://seller.example/hook", "enabled_events": ["*"], **changes}
    assert town.refused(400, "POST", "/v1/webhook_endpoints", asked)["param"] == param


def test_sixteen_endpoints(town: Town) -> None:
    """An account has room for sixteen endpoints."""
    for i in range(16):
        town.listen(f"hook{i}")
    asked = {"url": "https://seller.example/more", "enabled_events": ["*"]}
    assert town.refused(400, "POST", "/v1/webhook_endpoints", asked) == {"type": "invalid_request_error"}


def test_a_description_goes(town: Town) -> None:
    """An endpoint's description can be changed and taken away."""
    path = f"/v1/webhook_endpoints/{town.listen(description='ours')['id']}"
    assert town.post(path, description="yours")["description"] == "yours"
    assert town.post(path, description="")["description"] is None


def test_success_of_deliveries(town: Town) -> None:
    """Events are found by whether all of their deliveries came through."""
    town.listen()
    make(town, "a", "b")
    town.deliver(500)
    names = {
        wanted: [e["data"]["object"]["name"] for e in town.get("/v1/events", delivery_success=wanted)["data"]]
        for wanted in (True, False)
    }
    assert names == {True: ["b"], False: ["a"]}
    at = town.now
    assert len(town.get("/v1/events", created=at)["data"]) == 2
    assert town.get("/v1/events", created=at - 1)["data"] == []


def test_the_types_are_stripes() -> None:
    """The lists hold what the SDK lists, and every thin event that stands beside a snapshot's."""
    assert {"invoice.paid", "customer.subscription.created", "billing.meter.deactivated"} <= SNAPSHOT_TYPES
    assert {"v1.invoice.paid", "v1.billing.meter.no_meter_found", "v2.core.event_destination.ping"} <= THIN_TYPES
    assert (len(SNAPSHOT_TYPES), len(THIN_TYPES)) == (275, 326)
