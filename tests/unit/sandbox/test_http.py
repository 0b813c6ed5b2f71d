"""The sandbox's HTTP shell: who is let in, what is said to be absent, its control API, its pages, its own threads."""

import base64
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Final

import pytest
import stripe
from starlette.testclient import TestClient
from tests.unit.sandbox.town import DAY, HOUR, START_AT, Seller, Town

from farebox.sandbox import Reset, create_app, serve
from farebox.sandbox.forms import BODY_BYTES_MAX
from farebox.sandbox.http import is_loopback
from farebox.sandbox.sandbox import Sandbox

AUTH: Final = {"Authorization": "Bearer sk_test_of_the_sandbox_tests"}
YEAR: Final = 366 * DAY
BY_ID: Final = [(route.method, route.template) for route, _ in Sandbox()._routes if "{id}" in route.template]


@pytest.fixture
def client(seller: Seller) -> TestClient:
    return TestClient(create_app(seller.sandbox), base_url="http://127.0.0.1:8001", follow_redirects=False)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.1.10", "10.0.0.1", "example.com", "", "127.0.0.1.example.com"]
)
def test_loopback_only(host: str) -> None:
    """It refuses to listen where another machine could reach it, and says where it would."""
    assert not is_loopback(host)
    with pytest.raises(ValueError, match="loopback only"):
        serve(host=host, port=1)


def test_a_port_in_use_is_said_in_words() -> None:
    """A port that another program holds is named with what to do, not as an errno."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"Port {port} is in use. .*--port"):
            serve(port=port)
    with pytest.raises(ValueError, match="not a port"):
        serve(port=70_000)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback(host: str) -> None:
    """Every name of the machine's own loopback is allowed."""
    assert is_loopback(host)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (None, "did not provide an API key"),
        ("", "did not provide an API key"),
        ("Bearer ", "did not provide an API key"),
        ("Basic c2tfdGVzdDo=", "Invalid API Key provided: sk_test***"),
        ("Basic ???", "did not provide an API key"),
        ("Digest sk_test_0123456789", "did not provide an API key"),
        ("Bearer sk_live_0123456789abcdef", "refuses live keys"),
        ("Bearer rk_live_0123456789abcdef", "refuses live keys"),
        ("Bearer pk_test_0123456789abcdef", "Invalid API Key provided: pk_test_***"),
        ("Bearer sk_test_1", "Invalid API Key provided: sk_test_***"),
    ],
)
def test_keys_that_are_refused(town: Town, header: str | None, says: str) -> None:
    """Without a test key there is a 401 and no account; a live key is refused and never repeated (A07, A28)."""
    client = TestClient(create_app(town.sandbox))
    answer = client.get("/v1/account", headers={"Authorization": header} if header is not None else {})
    assert (answer.status_code, answer.json()["error"]["type"]) == (401, "invalid_request_error")
    assert says in answer.json()["error"]["message"]
    assert "0123456789" not in answer.text
    assert town.sandbox.accounts == {}


def test_accounts_are_apart(seller: Seller) -> None:
    """Each key has an account of its own: nothing of one is found, listed or counted in another (A16)."""
    subscription = seller.subscribe()
    other = Town(clock=seller.clock, key="sk_test_somebody_else")
    other.sandbox = seller.sandbox
    assert other.get("/v1/account")["id"] != seller.get("/v1/account")["id"]
    for path in ("products", "prices", "customers", "subscriptions", "events", "billing/meters", "checkout/sessions"):
        assert other.get(f"/v1/{path}")["data"] == []
    for path in (f"subscriptions/{subscription['id']}", f"customers/{subscription['customer']}"):
        assert other.refused(404, "GET", f"/v1/{path}")["code"] == "resource_missing"
    assert other.use(subscription["customer"]).status == 400
    other.meter()  # the same event name is free there


def test_a_restricted_key_is_of_the_same_account(town: Town) -> None:
    """sk_test_x and rk_test_x open the same account."""
    restricted = town.ask("GET", "/v1/account", key="rk_test_of_the_sandbox_tests")
    assert restricted.json == town.get("/v1/account")


def test_versions_without_meters(client: TestClient) -> None:
    """A client that speaks a version from before billing meters is told so."""
    for version, status in (("2025-02-24.acacia", 400), ("2025-03-31.basil", 200), ("2026-10-28.endive", 200)):
        assert client.get("/v1/account", headers={**AUTH, "Stripe-Version": version}).status_code == status


@pytest.mark.parametrize("header", ["Stripe-Account", "Stripe-Context"])
@pytest.mark.parametrize("path", ["/v1/customers", "/v2/core/event_destinations"])
def test_no_key_reaches_another_account(client: TestClient, header: str, path: str) -> None:
    """There are no connected accounts: a request on behalf of one is refused and does nothing."""
    reply = client.get(path, headers={**AUTH, header: "acct_123456789"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "account_invalid")
    assert "acct_123456789" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/charges"),
        ("GET", "/v1/payment_intents/pi_1"),
        ("POST", "/v1/billing/alerts"),
        ("POST", "/v1/payment_methods/pm_1"),
        ("POST", "/v2/core/accounts"),
        ("GET", "/v2/commerce/product_catalog/imports"),
        ("POST", "/v1/subscription_items"),
        ("POST", "/v1/payment_links"),
        ("GET", "/v1/balance"),
        ("POST", "/v1/refunds"),
        ("POST", "/v1/invoices/in_1/send"),
        ("GET", "/v1/customers/search"),
        ("GET", "/v1/invoice_payments"),
        ("DELETE", "/v1/products/prod_1"),
    ],
)
def test_what_is_absent_is_said(client: TestClient, method: str, path: str) -> None:
    """What Stripe has and this does not is a 501 not_modelled, never a fake and never "no such thing"."""
    answer = client.request(method, path, headers=AUTH)
    error = answer.json()["error"]
    assert (answer.status_code, error.get("code"), error.get("doc_url")) == (501, "not_modelled", None)


def test_what_is_absent_from_v2(client: TestClient) -> None:
    """A v2 request with its JSON body is a 501, too."""
    answer = client.post("/v2/core/account_links", json={"account": "acct_1"}, headers=AUTH)
    assert (answer.status_code, answer.json()["error"].get("code")) == (501, "not_modelled")


def test_every_path_of_the_sdk_is_answered(town: Town) -> None:
    """Whatever the SDK can ask is modelled, or said to be absent with 501; no path of Stripe's is unknown here."""
    asked = re.compile(r'_request\(\s*"(\w+)",\s*"(/v[12]/[^"]+)"')
    sources = [path.read_text("utf-8") for path in Path(stripe.__file__).parent.rglob("*_service.py")]
    requests = {(m[1].upper(), re.sub(r"\{\w+\}", "none_1", m[2])) for text in sources for m in asked.finditer(text)}
    assert len(requests) > 400
    unknown = []
    for method, path in sorted(requests):
        answer = town.ask(method, path)
        if answer.status == 404 and b"Unrecognized request URL" in answer.body:
            unknown.append(f"{method} {path}")
    assert unknown == []


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/nothing"), ("POST", "/v1/nothing/none_1"), ("GET", "/v1/")])
def test_unknown_paths(client: TestClient, method: str, path: str) -> None:
    """A path that Stripe does not have is a 404 that names it."""
    answer = client.request(method, path, headers=AUTH)
    assert answer.status_code == 404
    assert f"({method}: {path})" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("method", "template"), BY_ID)
def test_unknown_ids(seller: Seller, method: str, template: str) -> None:
    """An id that nobody has is a 404 resource_missing on every path that takes one (A34)."""
    asked: dict[str, Any] = {}
    if template.endswith("/event_summaries"):
        asked = {"customer": seller.customer(), "start_time": START_AT, "end_time": START_AT + 60}
    if template.endswith("/advance"):
        asked = {"frozen_time": START_AT}
    if (method, template.rpartition("/")[2]) == ("POST", "balance_transactions"):
        asked = {"amount": -100, "currency": "usd"}
    if template.endswith("/attach"):
        asked = {"customer": seller.customer()}
    if template.endswith("/confirm"):
        asked = {"payment_method": "pm_card_visa"}
    refused = seller.refused(404, method, template.format(id="none_1", transaction="none_1"), asked)
    assert refused["code"] == ("not_found" if template.startswith("/v2/") else "resource_missing")


def test_ids_are_taken_as_they_are(client: TestClient) -> None:
    """An escaped id is an id, whatever is in it (A20)."""
    for id in ("cus%3Flimit%3D1", "cus%2500", "%F0%9F%9A%8C", "cus%26a"):
        answer = client.get(f"/v1/customers/{id}", headers=AUTH)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "resource_missing")


def test_huge_bodies(client: TestClient) -> None:
    """A body over the stated bound is a 413 in Stripe's shape (A11)."""
    answer = client.post("/v1/products", content=b"a" * (BODY_BYTES_MAX + 1), headers=AUTH)
    assert (answer.status_code, answer.json()["error"]["type"]) == (413, "invalid_request_error")


def test_every_page_says_what_it_is(client: TestClient, seller: Seller) -> None:
    """Every page, those of refusals too, says that it is no Stripe, runs its own script only, is not kept or framed."""
    session = seller.checkout(seller.price_id)["id"]
    pages = [client.get(path) for path in ("/", f"/pay/{session}", "/pay/none", "/portal/none")]
    pages.append(client.post("/move", data={"advance": "soon"}))
    assert [page.status_code for page in pages] == [200, 200, 404, 404, 400]
    for page in pages:
        assert "This is <strong>not</strong> Stripe" in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert (page.headers["cache-control"], page.headers["referrer-policy"]) == ("no-store", "no-referrer")
        assert "script-src 'self'" in page.headers["content-security-policy"]
        assert re.findall("<script[^>]*>[^<]*", page.text) == ['<script src="/live.js" defer>']
        assert not re.search(r"\son\w+=", page.text)


def test_names_are_escaped(client: TestClient, seller: Seller) -> None:
    """A product's name is text on the page, whatever it looks like (A29)."""
    product = seller.get("/v1/products")["data"][0]["id"]
    seller.post(f"/v1/products/{product}", name="<script>alert(1)</script>")
    page = client.get(f"/pay/{seller.checkout(seller.price_id)['id']}")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.text


def test_the_key_as_a_user_name(town: Town) -> None:
    """`curl -u sk_test_…:`, the form of Stripe's own documentation, opens the account of that key."""
    name = base64.b64encode(f"{town.key}:".encode()).decode()
    by_name = town.sandbox.request("GET", "/v1/account", {"Authorization": f"Basic {name}"}, b"")
    assert (by_name.status, town.get("/v1/account")["id"] in by_name.body.decode()) == (200, True)


@pytest.mark.parametrize(
    ("asked", "seconds", "paid"),
    [
        ({"advance": 90}, 90, 0),
        ({"advance": "45 days"}, 45 * DAY, 1),
        ({"advance": "1 hour"}, HOUR, 0),
        ({"advance": "1month"}, 31 * DAY + HOUR, 1),
        ({"advance": "13 months"}, (365 + 31) * DAY + HOUR, 13),
        ({"advance": "1 year"}, 365 * DAY + HOUR, 12),
        ({"to_at": START_AT + 5}, 5, 0),
        ({"to_at": START_AT + 31 * DAY}, 31 * DAY, 0),
    ],
)
def test_moving_time(client: TestClient, seller: Seller, asked: dict[str, Any], seconds: int, paid: int) -> None:
    """Time moves by a span in words or seconds or to an instant, and all that falls due on the way has happened.

    A span that ends at a renewal goes on for the hour in which its invoice is a draft; an instant is exact.
    """
    subscription = seller.subscribe()
    answer = client.post("/_sandbox/clock", json={**asked, "settle_seconds": 0, "wait": True})
    there = {"now_at": START_AT + seconds, "offset_seconds": seconds, "moving": False}
    assert (answer.status_code, answer.json()) == (200, there)
    assert client.get("/_sandbox/clock").json() == there
    assert seller.get("/v1/events", limit=1)["data"][0]["created"] <= START_AT + seconds
    assert [i["status"] for i in seller.invoices(subscription)].count("paid") == paid


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"advance": "soon"},
        {"advance": -1},
        {"advance": True},
        {"advance": None},
        {"advance": "0 months"},
        {"to_at": START_AT - 1},
        {"to_at": START_AT + 5 * YEAR + 1},
        {"to_at": "tomorrow"},
        {"advance": 1, "settle_seconds": -1},
        {"advance": 1, "settle_seconds": 601},
    ],
)
def test_moves_that_are_refused(client: TestClient, asked: dict[str, Any]) -> None:
    """Time never goes back, never more than five years at once, and never by what is not understood."""
    assert client.post("/_sandbox/clock", json=asked).status_code == 400
    assert client.get("/_sandbox/clock").json()["now_at"] == START_AT


def test_one_move_at_a_time(seller: Seller) -> None:
    """A move pauses at each period's end, is shown as under way, and a second one is refused with 409 meanwhile."""
    seller.subscribe()
    with TestClient(create_app(seller.sandbox)) as client:
        began = client.post("/_sandbox/clock", json={"advance": "2 months", "settle_seconds": 600})
        assert (began.status_code, began.json()["moving"]) == (202, True)
        assert client.post("/_sandbox/clock", json={"advance": 1}).status_code == 409
        assert client.get("/_sandbox/clock").json()["now_at"] in (START_AT, START_AT + 31 * DAY)
    assert seller.now <= START_AT + 59 * DAY  # stopping the server stops the move


def test_aggregation_lag(client: TestClient, seller: Seller) -> None:
    """The lag is set in whole seconds; anything else is refused."""
    shown = client.post("/_sandbox/aggregation", json={"lag_seconds": 90}).json()
    assert shown == {"lag_seconds": 90, "late_validation": False}
    for wrong in (
        {},
        {"late_validation": 1},
        {"lag": 5},
        {"lag_seconds": -1},
        {"lag_seconds": 1.5},
        {"lag_seconds": True},
        {"lag_seconds": "9"},
    ):
        assert client.post("/_sandbox/aggregation", json=wrong).status_code == 400
    assert seller.sandbox.aggregation_lag_seconds == 90


def test_faults(client: TestClient, seller: Seller) -> None:
    """A fault hits the requests that it names, so often as it says, and goes away when told to."""
    fault = {"method": "GET", "path": "/v1/cust*", "status": 503, "count": 2}
    (shown,) = client.post("/_sandbox/faults", json=fault).json()["faults"]
    assert fault.items() <= shown.items()
    paths = ("/v1/account", "/v1/customers", "/v1/customers/cus_1", "/v1/customers")
    assert [client.get(path, headers=AUTH).status_code for path in paths] == [200, 503, 503, 200]
    assert client.get("/_sandbox/faults").json() == {"faults": []}
    client.post("/_sandbox/faults", json={"status": 500, "rate_millionths": 0, "count": None})
    assert client.get("/v1/account", headers=AUTH).status_code == 200
    client.post("/_sandbox/faults", json={"status": 500, "count": None})
    assert [client.get("/v1/account", headers=AUTH).status_code for _ in range(3)] == [500] * 3
    assert client.delete("/_sandbox/faults").json() == {"faults": []}
    assert client.get("/v1/account", headers=AUTH).status_code == 200


@pytest.mark.parametrize(
    ("asked", "path", "code", "reason"),
    [
        ({}, "/v1/customers", "rate_limit", "global-rate"),
        ({}, "/v1/billing/meter_events", "rate_limit", "endpoint-rate"),
        ({"reason": "global-concurrency"}, "/v1/customers", "rate_limit", "global-concurrency"),
        ({"reason": "resource-specific"}, "/v1/billing/meter_events", "lock_timeout", "resource-specific"),
    ],
)
def test_a_429_gives_its_reason(client: TestClient, asked: dict[str, Any], path: str, code: str, reason: str) -> None:
    """A 429 on demand says in its header which limit was met, as a real one does: the path's own, or the one asked for
    (F04)."""
    client.post("/_sandbox/faults", json={"status": 429, **asked})
    refused = client.post(path, headers=AUTH)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, code)
    assert refused.headers["Stripe-Rate-Limited-Reason"] == reason


@pytest.mark.parametrize(
    "wrong",
    [
        {"colour": "red"},
        {"status": 0},
        {"status": 200},
        {"status": "500"},
        {"latency_ms": -1},
        {"latency_ms": 120_001},
        {"rate_millionths": 1_000_001},
        {"reset": "during"},
        {"count": "2"},
        {"count": 0},
        {"count": -1},
        {"path": 1},
        {"reason": "global-rate"},
        {"status": 429, "reason": "because"},
    ],
)
def test_faults_that_are_refused(client: TestClient, wrong: dict[str, Any]) -> None:
    """A fault that is not understood is a 400 and is not set."""
    assert client.post("/_sandbox/faults", json=wrong).status_code == 400
    assert client.get("/_sandbox/faults").json() == {"faults": []}


@pytest.mark.parametrize(("when", "made"), [("before", 0), ("after", 1)])
def test_resets(town: Town, when: str, made: int) -> None:
    """A connection is broken before the effect or after it (F06, F07)."""
    town.sandbox.faults.add({"path": "/v1/customers", "reset": when})
    with pytest.raises(Reset):
        town.customer()
    assert len(town.get("/v1/customers")["data"]) == made


def test_latency(town: Town) -> None:
    """Latency is waited out before the answer."""
    town.sandbox.faults.add({"latency_ms": 1_500})
    town.get("/v1/account")
    assert town.clock.system_ms() == START_AT * 1000 + 1_500


def test_what_came_and_went(client: TestClient, seller: Seller) -> None:
    """Requests are shown with their answer and error, deliveries with their state and number of tries."""
    seller.listen()
    refused = client.post("/v1/products", headers=AUTH, data={"colour": "red"})
    seller.customer()
    seller.deliver(503)
    shown = client.get("/_sandbox/requests").json()["requests"]
    assert shown[-2]["id"] == refused.headers["request-id"]
    assert (shown[-2]["method"], shown[-2]["path"], shown[-2]["status"]) == ("POST", "/v1/products", 400)
    assert (shown[-2]["error"]["param"], shown[-1]["error"]) == ("colour", None)
    (delivery,) = client.get("/_sandbox/deliveries").json()["deliveries"]
    assert (delivery["type"], delivery["state"], delivery["status"], delivery["attempts"]) == (
        "customer.created",
        "pending",
        503,
        1,
    )


class _Hook(BaseHTTPRequestHandler):
    came = threading.Event()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.came.set()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hook() -> Iterator[str]:
    _Hook.came.clear()
    with HTTPServer(("127.0.0.1", 0), _Hook) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_time_goes_on_after_an_error(seller: Seller, hook: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the sandbox's own while time passes ends neither time nor deliveries."""
    tick, troubles = seller.sandbox.tick, [ArithmeticError("of a bill")]

    def failing_once() -> None:
        if troubles and threading.current_thread().name == "local-stripe-time":
            raise troubles.pop()
        tick()

    monkeypatch.setattr(seller.sandbox, "tick", failing_once)
    seller.post("/v1/webhook_endpoints", url=hook, enabled_events=["*"])
    with TestClient(create_app(seller.sandbox)):
        seller.customer()
        assert _Hook.came.wait(5)
    assert troubles == []


def test_webhooks_leave_by_themselves(seller: Seller, hook: str) -> None:
    """The running sandbox delivers over HTTP, and an endpoint nobody answers or can address stops no other."""
    for url in ("http://127.0.0.1:9/closed", "http://a:b/", "http://[", hook):
        seller.ask("POST", "/v1/webhook_endpoints", {"url": url, "enabled_events": ["*"]})
    with TestClient(create_app(seller.sandbox)):
        seller.customer()
        assert _Hook.came.wait(5)
