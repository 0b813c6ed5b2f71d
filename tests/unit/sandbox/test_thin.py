"""Event destinations and thin events over /v2, and how strictly /v2 reads what it is sent."""

import json
from typing import Any

import pytest
from tests.unit.sandbox.town import KEY, Reply, Town, signed

DESTINATIONS = "/v2/core/event_destinations"
ERROR_REPORT = "v1.billing.meter.error_report_triggered"
VERSION = "2026-10-28.endive"


def ask(town: Town, method: str, path: str, body: Any = None, *, key: str = KEY, idempotency_key: str = "") -> Reply:
    """A request of /v2: JSON, whatever the answer."""
    headers = {"Authorization": f"Bearer {key}", "Stripe-Version": VERSION, "Content-Type": "application/json"}
    if idempotency_key:
        headers["Idempotency-Key"] = idempotency_key
    raw = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
    answer = town.sandbox.request(method, path, headers, raw)
    return Reply(answer.status, answer.headers, answer.body)


def done(town: Town, method: str, path: str, body: Any = None) -> Any:
    reply = ask(town, method, path, body)
    assert reply.status == 200, reply.json
    return reply.json


def destination(town: Town, *types: str, **changes: Any) -> Any:
    asked = {
        "name": "ours",
        "type": "webhook_endpoint",
        "event_payload": "thin",
        "enabled_events": list(types) or [ERROR_REPORT],
        "webhook_endpoint": {"url": "https://seller.example/thin"},
        "include": ["webhook_endpoint.signing_secret", "webhook_endpoint.url"],
        **changes,
    }
    return done(town, "POST", DESTINATIONS, asked)


def test_a_destination(town: Town) -> None:
    """It is made, read, changed, switched off and on, and deleted; its secret is told at its creation only."""
    made = destination(town, metadata={"a": "1", "b": "2"}, description="theirs")
    assert (made["status"], made["event_payload"], made["livemode"]) == ("enabled", "thin", False)
    assert made["webhook_endpoint"]["url"] == "https://seller.example/thin"
    assert made["webhook_endpoint"]["signing_secret"].startswith("whsec_")
    one = f"{DESTINATIONS}/{made['id']}"
    assert done(town, "GET", one)["webhook_endpoint"] == {"signing_secret": None, "url": None}
    shown = done(town, "GET", f"{one}?include[0]=webhook_endpoint.url")
    assert shown["webhook_endpoint"] == {"signing_secret": None, "url": "https://seller.example/thin"}
    changed = done(town, "POST", one, {"name": "new", "metadata": {"a": None, "c": "3"}, "description": ""})
    assert (changed["name"], changed["metadata"], changed["description"]) == ("new", {"b": "2", "c": "3"}, "")
    off = done(town, "POST", f"{one}/disable")
    assert (off["status"], off["status_details"]) == ("disabled", {"disabled": {"reason": "user"}})
    assert done(town, "POST", f"{one}/enable")["status"] == "enabled"
    assert done(town, "DELETE", one) == {"id": made["id"], "object": "v2.core.event_destination"}
    assert ask(town, "GET", one).json["error"]["code"] == "not_found"


def test_pages_of_destinations(town: Town) -> None:
    """Lists go on by the address of their next page, and back."""
    ids = [destination(town, name=f"d{i}")["id"] for i in range(5)][::-1]
    first = done(town, "GET", f"{DESTINATIONS}?limit=2")
    assert ([d["id"] for d in first["data"]], first["previous_page_url"]) == (ids[:2], None)
    second = done(town, "GET", first["next_page_url"])
    assert [d["id"] for d in second["data"]] == ids[2:4]
    third = done(town, "GET", second["next_page_url"])
    assert ([d["id"] for d in third["data"]], third["next_page_url"]) == (ids[4:], None)
    assert [d["id"] for d in done(town, "GET", third["previous_page_url"])["data"]] == ids[2:4]
    assert [d["id"] for d in done(town, "GET", second["previous_page_url"])["data"]] == ids[:2]
    assert ask(town, "GET", f"{DESTINATIONS}?page=nothing").json["error"]["code"] == "invalid_page_token"


def test_a_thin_delivery(town: Town) -> None:
    """A destination that asks for an object's thin events gets them signed, small, and beside the snapshot."""
    secret = destination(town, "v1.customer.created")["webhook_endpoint"]["signing_secret"]
    customer = town.customer()
    assert town.deliver() == 1
    ((where, headers, body),) = town.received
    told = json.loads(body)
    assert where == "thin"
    assert headers["Stripe-Signature"] == signed(body, town.clock.system_at(), secret)
    assert (told["type"], told["object"]) == ("v1.customer.created", "v2.core.event")
    assert told["related_object"] == {"id": customer, "type": "customer", "url": f"/v1/customers/{customer}"}
    assert told["created"] == "2027-01-15T08:00:00.000Z"
    assert told["snapshot_event"] == town.get("/v1/events")["data"][0]["id"]
    assert {"data", "changes"} & told.keys() == set()
    assert {**done(town, "GET", f"/v2/core/events/{told['id']}")}.items() >= told.items()


def test_snapshots_for_a_destination(town: Town) -> None:
    """A destination may ask for snapshots as well, in the version that it is pinned to."""
    destination(town, "*", event_payload="snapshot", snapshot_api_version="2026-03-25.dahlia")
    town.customer()
    town.deliver()
    (told,) = (json.loads(body) for _, _, body in town.received)
    assert (told["type"], told["api_version"]) == ("customer.created", "2026-03-25.dahlia")


def test_a_ping(town: Town) -> None:
    """A ping goes to its destination alone, whatever that asks for."""
    made = destination(town)
    destination(town, webhook_endpoint={"url": "https://seller.example/other"})
    event = done(town, "POST", f"{DESTINATIONS}/{made['id']}/ping")
    assert (event["type"], event["related_object"]["id"]) == ("v2.core.event_destination.ping", made["id"])
    town.deliver()
    assert [(where, json.loads(body)["id"]) for where, _, body in town.received] == [("thin", event["id"])]


def test_a_destination_that_is_off(town: Town) -> None:
    """A disabled destination gets nothing, and no further tries."""
    one = f"{DESTINATIONS}/{destination(town, 'v1.customer.created')['id']}"
    town.customer()
    assert town.deliver(500) == 1
    done(town, "POST", f"{one}/disable")
    town.customer()
    town.clock.pass_ms(5_000)
    town.deliver()
    assert len(town.received) == 1


def test_the_list_of_thin_events(town: Town) -> None:
    """Thin events are found by type, by object and by time."""
    destination(town, "v1.customer.created", "v1.product.created")
    first = town.customer()
    town.move(60)
    town.post("/v1/products", name="x")

    def types(query: str = "") -> list[str]:
        return [event["type"] for event in done(town, "GET", f"/v2/core/events{query}")["data"]]

    assert types() == ["v1.product.created", "v1.customer.created"]
    assert types(f"?object_id={first}") == ["v1.customer.created"]
    assert types("?types[0]=v1.product.created") == ["v1.product.created"]
    assert types("?created[lt]=2027-01-15T08:01:00Z") == ["v1.customer.created"]
    assert types("?created[gte]=2027-01-15T09:01:00%2B01:00") == ["v1.product.created"]
    assert ask(town, "GET", "/v2/core/events?created[gt]=1800000000").status == 400


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"name": None}, 400, "invalid_parameter"),
        ({"name": 5}, 400, "invalid_parameter"),
        ({"colour": "red"}, 400, "parameter_unknown"),
        ({"event_payload": "fat"}, 400, "invalid_parameter"),
        ({"enabled_events": ERROR_REPORT}, 400, "invalid_parameter"),
        ({"enabled_events": ["customer.created"]}, 400, "invalid_parameter"),
        ({"enabled_events": ["*"]}, 400, "invalid_parameter"),
        ({"webhook_endpoint": {"url": "seller"}}, 400, "url_invalid"),
        ({"webhook_endpoint": {}}, 400, "parameter_missing"),
        ({"snapshot_api_version": VERSION}, 400, "invalid_parameter"),
        ({"metadata": {"a": 1}}, 400, "invalid_parameter"),
        ({"include": ["everything"]}, 400, "invalid_parameter"),
        ({"type": "amazon_eventbridge"}, 501, "not_modelled"),
        ({"events_from": ["@accounts"]}, 501, "not_modelled"),
    ],
)
def test_destinations_that_are_refused(town: Town, changes: dict[str, Any], status: int, code: str) -> None:
    """What cannot be a destination is refused with a code, never with a `param`, and makes none."""
    asked = {
        "name": "ours",
        "type": "webhook_endpoint",
        "event_payload": "thin",
        "enabled_events": [ERROR_REPORT],
        "webhook_endpoint": {"url": "https://seller.example/thin"},
        **changes,
    }
    refused = ask(town, "POST", DESTINATIONS, asked)
    assert (refused.status, refused.json["error"]["code"]) == (status, code)
    assert "param" not in refused.json["error"]
    assert done(town, "GET", DESTINATIONS)["data"] == []


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"5",
        b"{",
        b"name=ours",
        b"\xff",
        b'{"name": NaN}',
        b'{"name": "a", "name": "b"}',
        b'{"name": "\\ud800"}',
        b'{"name": "\\u0000"}',
        b'{"a":' * 20 + b"1" + b"}" * 20,
        b"[" * 100_000,
    ],
)
def test_bodies_that_are_no_json(town: Town, body: bytes) -> None:
    """A body that is no JSON object in UTF-8 is a 400, however it is broken."""
    refused = ask(town, "POST", DESTINATIONS, body)
    assert (refused.status, refused.json["error"]["code"]) == (400, "invalid_json")


def test_idempotency_of_v2(town: Town) -> None:
    """The same key gives the same answer; a refused request may be mended under its key."""
    asked: dict[str, Any] = {"name": "ours", "type": "webhook_endpoint", "event_payload": "thin"}
    whole = {**asked, "enabled_events": [ERROR_REPORT], "webhook_endpoint": {"url": "https://seller.example/thin"}}
    unknown = {**whole, "enabled_events": ["v1.no.such"]}
    assert ask(town, "POST", DESTINATIONS, unknown, idempotency_key="k").status == 400
    made = ask(town, "POST", DESTINATIONS, whole, idempotency_key="k")
    again = ask(town, "POST", DESTINATIONS, whole, idempotency_key="k")
    assert (made.status, again.json) == (200, made.json)
    other = ask(town, "POST", DESTINATIONS, {**whole, "name": "x"}, idempotency_key="k")
    assert other.json["error"]["type"] == other.json["error"]["code"] == "idempotency_error"


def test_what_v2_does_not_model(town: Town) -> None:
    """The rest of /v2 is a 501, in /v2's shape."""
    refused = ask(town, "GET", "/v2/core/accounts")
    assert (refused.status, refused.json["error"]["code"]) == (501, "not_modelled")
    assert ask(town, "GET", "/v2/core/events/evt_none").json["error"]["code"] == "not_found"
