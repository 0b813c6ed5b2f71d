"""The paid call over ASGI: who gets in, what is billed, and that nothing leaves before it is durable."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.types import ASGIApp, Message
from starlette.websockets import WebSocket, WebSocketDisconnect
from tests.shop import CATALOG, PUBLIC_URL, Shop, bearer, open_shop

from farebox.billing.claim import Claimed
from farebox.domain.keys import mint
from farebox.errors import StoreUnavailable
from farebox.web.calls import current_call
from farebox.web.middleware import PaidCalls

ROUTES = """
[[routes]]
match = "* /v2/**"
meter = "calls"
quantity = 2
[[routes]]
match = "GET /things/{id}"
meter = "calls"
quantity = 3
[[routes]]
match = "GET /open"
access = "public"
[[routes]]
match = "GET /socket"
meter = "calls"
quantity = 5
"""
STRANGE_KEY = mint(b"s" * 32, live=False).reveal()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """A shop with more routes than the usual one."""
    with open_shop(tmp_path, catalog=CATALOG + ROUTES) as opened:
        yield opened


async def _answer(request: Request) -> Response:
    current_call()
    return PlainTextResponse("served", int(request.query_params.get("status", 200)))


async def _public(request: Request) -> Response:
    return PlainTextResponse("open")


async def _socket(websocket: WebSocket) -> None:
    if "refuse" in websocket.query_params:
        await websocket.close()
        return
    await websocket.accept()
    await websocket.send_text("hello")
    await websocket.close()


def served(*extra: Route) -> Starlette:
    methods = ["GET", "POST", "PUT", "OPTIONS"]
    inner = [Route("/deep/{x:path}", _answer, methods=methods)]
    routes = [
        *extra,
        Route("/api", _answer, methods=methods),
        Route("/things/{id}", _answer),
        Route("/unpriced", _answer),
        Route("/billingx", _answer),
        Route("/open", _public),
        Mount("/v2", Starlette(routes=inner)),
        WebSocketRoute("/socket", _socket),
    ]
    return Starlette(routes=routes)


def client_of(shop: Shop, app: ASGIApp | None = None, **options: Any) -> TestClient:
    """A client of another application under the same running Farebox, on the same event loop."""
    paid = PaidCalls(app or served(), shop.runtime)
    client = TestClient(paid, base_url=PUBLIC_URL, raise_server_exceptions=False, follow_redirects=False, **options)
    client.portal = shop.client.portal
    return client


def used(shop: Shop, claimed: Claimed) -> int:
    return sum(line.quantity for line in shop.store.usage(claimed.account_id, 0, 2**40))


def exchange(
    shop: Shop,
    app: ASGIApp,
    key: Claimed,
    *,
    on_send: Callable[[Message], None] = lambda message: None,
    cancel_after: threading.Event | None = None,
) -> list[Message]:
    """One GET /api as a server would drive it, cancelled once `cancel_after` is set. Returns what was sent."""
    sent: list[Message] = []
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/api",
        "raw_path": b"/api",
        "query_string": b"",
        "headers": [(b"authorization", f"Bearer {key.key.reveal()}".encode())],
        "asgi": {"spec_version": "2.4"},
    }

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError("nothing comes")

    async def send(message: Message) -> None:
        on_send(message)
        sent.append(message)

    async def run() -> None:
        task = asyncio.ensure_future(PaidCalls(app, shop.runtime)(scope, receive, send))
        if cancel_after is not None:
            await asyncio.to_thread(cancel_after.wait)
            task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()

    assert shop.client.portal is not None
    shop.client.portal.call(run)
    return sent


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "key_missing"),
        ({"Authorization": "Basic Zm9vOmJhcg=="}, "key_missing"),
        ({"Authorization": "Bearer fb_test_wrong"}, "key_invalid"),
        ({"X-API-Key": STRANGE_KEY}, "key_invalid"),
        ({"X-API-Key": STRANGE_KEY, "Authorization": "Bearer fb_test_other"}, "credentials_conflict"),
    ],
)
def test_no_good_key(shop: Shop, headers: dict[str, str], code: str) -> None:
    """Without a good key: 401 that says how to send one, as a problem document that no cache keeps; no work is done."""
    answer = client_of(shop, Starlette()).get("/api", headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")
    assert answer.headers["cache-control"] == "no-store"
    error = "" if code == "key_missing" else ' error="invalid_token",'
    assert answer.headers["www-authenticate"] == f'Bearer realm="farebox",{error} charset="UTF-8"'
    document = answer.json()
    assert (document["code"], document["status"], document["type"]) == (code, 401, f"urn:farebox:problem:{code}")
    assert set(document) == {"type", "title", "status", "detail", "code"}


def test_no_subscription(shop: Shop) -> None:
    """An account that never had a subscription gets 402 with where to pay."""
    claimed = shop.buy()
    fence = shop.store.take_fence(claimed.account_id)
    assert shop.store.put_subscriptions(claimed.account_id, (), fence=fence, at=shop.clock.now_at())
    answer = client_of(shop).get("/api", headers=bearer(claimed.key))
    assert (answer.status_code, answer.json()["code"]) == (402, "subscription_missing")
    assert answer.json()["pay_url"] == f"{PUBLIC_URL}/billing/"
    assert "www-authenticate" not in answer.headers


def test_which_answers_are_billed(shop: Shop) -> None:
    """L18, A25: 200 to 299 is billed, a Range's 206 among them, and nothing else: no redirect, no 304, no fault."""
    claimed, client = shop.buy(), client_of(shop)
    billed = []
    for status in (200, 201, 204, 206, 299, 301, 304, 307, 400, 404, 418, 429, 500, 503):
        before = used(shop, claimed)
        assert client.get(f"/api?status={status}", headers=bearer(claimed.key)).status_code == status
        billed += [status] * (used(shop, claimed) - before)
    assert billed == [200, 201, 204, 206, 299]


PRICES = [
    ("GET", "/api", 200, 1),
    ("HEAD", "/api", 200, 1),
    ("POST", "/api", 200, 0),
    ("OPTIONS", "/api", 200, 0),
    ("GET", "/things/7", 200, 3),
    ("GET", "/v2/deep/a/b", 200, 2),
    ("PUT", "/v2/deep/", 200, 2),
    ("OPTIONS", "/v2/deep/", 200, 2),
    ("TRACE", "/v2/deep/", 405, 0),
    ("GET", "/v2/none", 404, 0),
    ("GET", "/unpriced", 200, 0),
    ("GET", "/billingx", 200, 0),
    ("GET", "/open", 200, 0),
    ("GET", "/api/", 307, 0),
]


def test_which_path_costs_what(shop: Shop) -> None:
    """A25: each method and path has its stated price, mounted ones by their full path; only the public one is free of
    a key, and a path that merely begins like Farebox's own is the application's."""
    claimed, client = shop.buy(), client_of(shop)
    for method, path, status, quantity in PRICES:
        assert client.request(method, path).status_code == (200 if path == "/open" else 401), (method, path)
        before = used(shop, claimed)
        answer = client.request(method, path, headers=bearer(claimed.key))
        assert (answer.status_code, used(shop, claimed) - before) == (status, quantity), (method, path)


@pytest.mark.parametrize("path", ["/api%0A", "/things/7%0A"])
def test_what_is_routed_is_priced(shop: Shop, path: str) -> None:
    """A20, A25: however the path is spelled, if the application serves the route, the route's price is due."""
    claimed = shop.buy()
    answer = client_of(shop).get(path, headers=bearer(claimed.key))
    assert (answer.status_code, used(shop, claimed)) in {(404, 0), (200, 1), (200, 3)}


def test_behind_a_root_path(shop: Shop) -> None:
    """A20: under a server's root path the routes cost what they cost without, and Farebox's own are found."""
    claimed = shop.buy()
    client = client_of(shop, root_path="/behind")
    assert client.get("/behind/api", headers=bearer(claimed.key)).status_code == 200
    assert used(shop, claimed) == 1
    assert client.get("/behind/billing/usage", headers=bearer(claimed.key)).status_code == 200


def test_preflights_do_no_work(shop: Shop) -> None:
    """A25: a browser's preflight needs no key, costs nothing and never reaches a handler; plain OPTIONS is a call."""
    headers = {"Origin": "https://app.example", "Access-Control-Request-Method": "GET"}
    served: list[str] = []

    async def handler(request: Request) -> Response:
        served.append(request.method)
        return PlainTextResponse("paid work")

    client = client_of(shop, Starlette(routes=[Route("/api", handler, methods=["OPTIONS"])]))
    answer = client.options("/api", headers=headers)
    assert (answer.status_code, answer.content, served) == (204, b"", [])
    assert "access-control-allow-origin" not in answer.headers
    assert client_of(shop).options("/api").status_code == 401
    assert client_of(shop).get("/api", headers=headers).status_code == 401


@pytest.mark.parametrize(("query", "quantity"), [("", 5), ("?refuse=1", 0)])
def test_websockets(shop: Shop, query: str, quantity: int) -> None:
    """A25: a websocket is billed as a GET of its path once it is accepted, and not when the application refuses it."""
    claimed = shop.buy()
    client = client_of(shop)
    if query:
        with (
            pytest.raises(WebSocketDisconnect),
            client.websocket_connect(f"/socket{query}", headers=bearer(claimed.key)),
        ):
            pass
    else:
        with client.websocket_connect("/socket", headers=bearer(claimed.key)) as socket:
            assert socket.receive_text() == "hello"
    assert used(shop, claimed) == quantity


def test_websockets_need_a_key(shop: Shop) -> None:
    """A websocket without a key is refused before it is accepted, with the same problem document where it can be."""
    with pytest.raises(WebSocketDenialResponse) as refused, client_of(shop).websocket_connect("/socket"):
        pass
    assert (refused.value.status_code, refused.value.json()["code"]) == (401, "key_missing")


def test_usage_before_the_first_byte(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """L3, I1: of a stream nothing leaves, not even its headers, before the usage is committed."""
    claimed, seen, commit = shop.buy(), [], shop.store.commit_batch

    def spied(batch: Any) -> None:
        seen.append("commit begins")
        commit(batch)
        seen.append(f"committed {used(shop, claimed)}")

    async def chunks() -> AsyncIterator[str]:
        for n in range(2):
            seen.append(f"chunk {n} made")
            yield f"chunk {n}"

    async def stream(request: Request) -> Response:
        seen.append("handler")
        return StreamingResponse(chunks())

    def on_send(message: Message) -> None:
        seen.append(message["type"] + " " + message.get("body", b"").decode())

    monkeypatch.setattr(shop.store, "commit_batch", spied)
    exchange(shop, Starlette(routes=[Route("/api", stream)]), claimed, on_send=on_send)
    assert seen[:4] == ["handler", "commit begins", "committed 1", "http.response.start "]
    assert seen[4:6] == ["chunk 0 made", "http.response.body chunk 0"]
    assert seen.count("commit begins") == 1


@pytest.mark.parametrize("gone_at", [0, 1, 2])
def test_client_gone(shop: Shop, gone_at: int) -> None:
    """F14, A25: whichever message finds the client gone, the call was durable before it and counts once."""
    claimed, sent = shop.buy(), []

    async def chunks() -> AsyncIterator[str]:
        for _ in range(5):
            yield "chunk"

    async def stream(request: Request) -> Response:
        return StreamingResponse(chunks())

    def on_send(message: Message) -> None:
        sent.append(message)
        if len(sent) > gone_at:
            raise OSError("the client is gone")

    with pytest.raises((OSError, ClientDisconnect)):
        exchange(shop, Starlette(routes=[Route("/api", stream)]), claimed, on_send=on_send)
    assert len(sent) == gone_at + 1
    assert used(shop, claimed) == 1


def test_gone_while_committing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """F14, L3: a call whose client leaves during its commit does not take the commit back; it counts once."""
    claimed, commit = shop.buy(), shop.store.commit_batch
    begun, left = threading.Event(), threading.Event()

    def slow(batch: Any) -> None:
        begun.set()
        left.wait(2)
        commit(batch)

    monkeypatch.setattr(shop.store, "commit_batch", slow)
    sent = exchange(shop, served(), claimed, cancel_after=begun)
    left.set()
    monkeypatch.undo()
    shop.call(claimed.key)  # its commit waits for the one under way
    assert sent == []
    assert used(shop, claimed) == 2


@pytest.mark.parametrize(("late", "status", "quantity"), [(False, 500, 0), (True, 200, 1)])
def test_a_handler_that_breaks(shop: Shop, late: bool, status: int, quantity: int) -> None:
    """I1, I2: a handler that breaks before its answer is 500 and free; one that breaks behind its start was billed."""

    async def chunks() -> AsyncIterator[str]:
        yield "some"
        raise RuntimeError("broken")

    async def broken(request: Request) -> Response:
        if late:
            return StreamingResponse(chunks())
        raise RuntimeError("broken")

    claimed = shop.buy()
    answer = client_of(shop, Starlette(routes=[Route("/api", broken)])).get("/api", headers=bearer(claimed.key))
    assert (answer.status_code, used(shop, claimed)) == (status, quantity)


def test_store_lost_before_the_handler(shop: Shop) -> None:
    """I12, L16: while usage cannot be recorded, or access not be checked, the handler does not run at all."""
    claimed = shop.buy()
    client = client_of(shop, Starlette(routes=[Route("/api", _never)]))
    shop.runtime.recorder.healthy = False
    refused = client.get("/api", headers=bearer(claimed.key))
    assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
    assert refused.headers["retry-after"] == "2"
    shop.runtime.recorder.healthy = True
    shop.clock.pass_seconds(3)
    stale = client.get("/api", headers=bearer(claimed.key))
    assert (stale.status_code, stale.json()["code"]) == (503, "facts_stale")


def test_store_lost_after_the_handler(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """I12, L16: an answer whose usage could not be committed does not leave: 503 in its place, and then 503 at once
    until a commit succeeds again."""

    def lost(batch: Any) -> None:
        raise StoreUnavailable(internal="/secret/path: disk I/O error")

    claimed = shop.buy()
    monkeypatch.setattr(shop.store, "commit_batch", lost)
    monkeypatch.setattr(shop.store, "batch_landed", lost)
    answer = client_of(shop).get("/api", headers=bearer(claimed.key))
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    assert "may have done its work" in answer.json()["detail"]
    assert "served" not in answer.text
    assert "/secret/path" not in answer.text
    assert (
        client_of(shop, Starlette(routes=[Route("/api", _never)])).get("/api", headers=bearer(claimed.key)).status_code
        == 503
    )
    assert used(shop, claimed) == 0


async def _never(request: Request) -> Response:
    raise AssertionError("the handler ran")


def test_a_refused_stream_ends(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream whose usage could not be recorded is told that its client is gone: an endless one stops (I12)."""
    claimed, pulled = shop.buy(), 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal pulled
        while True:
            pulled += 1
            yield b"x"

    async def stream(request: Request) -> Response:
        return StreamingResponse(endless())

    def lost(*_: object) -> None:
        raise StoreUnavailable(internal="the disk is gone")

    monkeypatch.setattr(shop.store, "commit_batch", lost)
    monkeypatch.setattr(shop.store, "batch_landed", lost)
    client = client_of(shop, Starlette(routes=[Route("/api", stream)]))
    answer = client.get("/api", headers=bearer(claimed.key))
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    assert pulled <= 2
