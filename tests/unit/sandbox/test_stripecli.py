"""The session and the socket of the official CLI's `listen`, as the CLI uses them; the CLI itself comes end to end."""

import json
from typing import Any

import pytest
from starlette.testclient import TestClient, WebSocketDenialResponse
from tests.unit.sandbox.test_thin import ask
from tests.unit.sandbox.town import Town, signed

from farebox.sandbox import create_app

SOCKET = "/_sandbox/stripecli"
PROTOCOL = "stripecli-devproxy-v1"


@pytest.fixture
def client(town: Town) -> TestClient:
    return TestClient(create_app(town.sandbox))


def begin(town: Town, *features: str) -> Any:
    return town.post("/v1/stripecli/sessions", device_name="x", websocket_features=list(features) or ["webhooks"])


def connect(client: TestClient, session: Any) -> Any:
    return client.websocket_connect(SOCKET, [PROTOCOL], headers={"Websocket-Id": session["websocket_id"]})


def test_a_session(town: Town, client: TestClient) -> None:
    """What came between the session and the socket is told, signed with the account's own secret, twice: by version."""
    session = begin(town)
    assert session["secret"] == begin(town)["secret"]
    assert session["websocket_url"].endswith(SOCKET)
    customer = town.customer()
    with connect(client, session) as socket:
        assert socket.accepted_subprotocol == PROTOCOL
        first, latest = socket.receive_json(), socket.receive_json()
        assert [m["endpoint"]["api_version"] for m in (first, latest)] == [None, "2026-10-28.endive"]
        assert (first["type"], json.loads(first["event_payload"])["data"]["object"]["id"]) == (
            "webhook_event",
            customer,
        )
        body = first["event_payload"].encode()
        header = first["http_headers"]["Stripe-Signature"]
        assert header == signed(body, town.clock.system_at(), session["secret"])
        town.post("/v1/products", name="later")
        assert json.loads(socket.receive_json()["event_payload"])["type"] == "product.created"


def test_who_hears_what(town: Town, client: TestClient) -> None:
    """A listener hears its own account only, and the kind of events that it asked for."""
    session = begin(town, "v2_events")
    town.ask("POST", "/v1/customers", {"name": "other"}, key="sk_test_somebody_else")
    with connect(client, session) as socket:
        town.customer()
        message = socket.receive_json()
    assert (message["type"], json.loads(message["payload"])["type"]) == ("v2_event", "v1.customer.created")
    assert ask(town, "GET", "/v2/core/events").json["data"][0]["type"] == "v1.customer.created"


@pytest.mark.parametrize(("id", "protocols"), [("cliws_none", [PROTOCOL]), (None, ["chat"]), (None, [])])
def test_sockets_that_are_refused(town: Town, client: TestClient, id: str | None, protocols: list[str]) -> None:
    """A socket needs a session that is there, and the CLI's protocol; the refusal is what the CLI understands."""
    headers = {"Websocket-Id": id or begin(town)["websocket_id"]}
    with (
        pytest.raises(WebSocketDenialResponse) as refused,
        client.websocket_connect(SOCKET, protocols, headers=headers),
    ):
        pass
    assert refused.value.json() == {"error": {"message": "Unknown WebSocket ID."}}


@pytest.mark.parametrize("said", ["", "[]", "{", '{"type": "webhook_response"}', '{"type": "event_ack"}', "5"])
def test_whatever_the_cli_says(town: Town, client: TestClient, said: str) -> None:
    """What the other side says breaks nothing."""
    session = begin(town)
    with connect(client, session) as socket:
        socket.send_text(said)
        town.customer()
        assert socket.receive_json()["type"] == "webhook_event"


def test_other_features(town: Town) -> None:
    """`stripe logs tail` is not modelled, and says so."""
    asked = {"device_name": "x", "websocket_features": ["request_logs"]}
    assert town.refused(501, "POST", "/v1/stripecli/sessions", asked)["code"] == "not_modelled"
