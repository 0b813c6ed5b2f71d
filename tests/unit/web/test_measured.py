"""L18: quantities that an answer tells itself: in a header, in its JSON, in an event, by its bytes and its time."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket
from structlog.testing import capture_logs
from tests.shop import ADMIN_TOKEN, CATALOG, PUBLIC_URL, Shop, bearer, open_shop

from farebox.billing.claim import Claimed
from farebox.domain.measures import Fault
from farebox.domain.usage import QUANTITY_MAX
from farebox.errors import StoreUnavailable
from farebox.web.calls import current_call
from farebox.web.measured import UNSETTLED_BYTES_MAX, UNSETTLED_SECONDS_MAX
from farebox.web.middleware import PaidCalls
from farebox.web.reading import ANSWER_BYTES_MAX, EVENT_BYTES_MAX

ROUTES = """
[meters.tokens]
title = "Tokens"
unpriced = "free"
[meters.rows]
title = "Rows"
unpriced = "free"
[meters.bytes]
title = "Bytes"
unpriced = "free"
[meters.seconds]
title = "Seconds"
unpriced = "free"
[meters.ms]
title = "Milliseconds"
unpriced = "free"

[[routes]]
match = "GET /header"
charges = [{ meter = "rows", from = "header:X-Rows", minimum = 2, maximum = 1000, strip = true }]
[[routes]]
match = "GET /chat"
charges = [{ meter = "calls" }, { meter = "tokens", from = "json:usage.total_tokens", minimum = 3 }]
[[routes]]
match = "GET /list"
charges = [{ meter = "tokens", from = "json:results.1.cost" }, { meter = "rows", from = "json:rows" }]
[[routes]]
match = "GET /bytes"
charges = [{ meter = "bytes", from = "bytes", maximum = 5000000 }, { meter = "calls", quantity = 2 }]
[[routes]]
match = "GET /time"
charges = [
    { meter = "seconds", from = "seconds", minimum = 1 },
    { meter = "ms", from = "milliseconds", maximum = 2500 },
]
[[routes]]
match = "GET /billed"
billed = ["2xx", "404"]
charges = [{ meter = "calls", quantity = 2 }, { meter = "rows", from = "header:x-rows" }]
[[routes]]
match = "GET /plain"
meter = "calls"
quantity = 4
billed = ["404"]
"""
SSE = "text/event-stream"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """A shop whose routes are charged by what their answers tell."""
    with open_shop(tmp_path, catalog=CATALOG + ROUTES) as opened:
        yield opened


def used(shop: Shop, claimed: Claimed) -> dict[str, int]:
    return {line.meter: line.quantity for line in shop.store.usage(claimed.account_id, 0, 2**40)}


def calls(shop: Shop, claimed: Claimed) -> dict[str, int]:
    return {line.meter: line.calls for line in shop.store.usage(claimed.account_id, 0, 2**40)}


def faults(shop: Shop) -> dict[str, int]:
    return {f"{meter} {reason}": n for (meter, reason), n in shop.runtime.metering.parking.counts().items()}


def client_of(shop: Shop, app: ASGIApp) -> TestClient:
    client = TestClient(PaidCalls(app, shop.runtime), base_url=PUBLIC_URL, raise_server_exceptions=False)
    client.portal = shop.client.portal
    return client


def get(shop: Shop, claimed: Claimed, path: str, response: ASGIApp, method: str = "GET") -> Any:
    shop.runtime.gate.poll()  # however much time was moved
    return client_of(shop, response).request(method, path, headers=bearer(claimed.key))


def streamed(*chunks: str, kind: str = SSE) -> Response:
    async def pieces() -> AsyncIterator[str]:
        for chunk in chunks:
            yield chunk

    return StreamingResponse(pieces(), media_type=kind)


def event(document: object) -> str:
    return f"data: {json.dumps(document)}\n\n"


def tokens(n: object) -> dict[str, Any]:
    return {"usage": {"total_tokens": n}}


class Client:
    """What stands where a server would: it takes what is sent, and may leave."""

    def __init__(self, shop: Shop, claimed: Claimed, path: str, method: str = "GET") -> None:
        self.shop = shop
        self.sent: list[Message] = []
        self.left = asyncio.Event()
        self.on_send: Callable[[Message], Awaitable[None]] | None = None
        self.scope: Scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"authorization", f"Bearer {claimed.key.reveal()}".encode())],
            "asgi": {"spec_version": "2.3"},
        }

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.on_send is not None:
            await self.on_send(message)
        self.sent.append(message)

    async def serve(self, app: ASGIApp) -> None:
        await PaidCalls(app, self.shop.runtime)(self.scope, self.receive, self.send)
        await self.shop.runtime.metering.tails.close()


def exchange(shop: Shop, claimed: Claimed, path: str, run: Callable[[Client], Awaitable[None]]) -> Client:
    """One call, driven by `run`."""

    shop.runtime.gate.poll()

    async def whole() -> Client:
        client = Client(shop, claimed, path)
        await run(client)
        return client

    assert shop.client.portal is not None
    return shop.client.portal.call(whole)


HEADERS: list[tuple[list[str], int, str | None]] = [
    (["7"], 7, None),
    (["0"], 2, None),
    (["1000"], 1000, None),
    (["  7\t"], 7, None),
    (["007"], 7, None),
    ([], 2, "missing"),
    ([""], 2, "not_whole"),
    (["-1"], 2, "negative"),
    (["-0"], 2, None),
    (["1001"], 2, "too_large"),
    (["9" * 40], 2, "too_large"),
    (["9" * 4000], 2, "not_whole"),
    (["1.0"], 2, "not_whole"),
    (["1e3"], 2, "not_whole"),
    (["+5"], 2, "not_whole"),
    (["5, 6"], 2, "not_whole"),
    (["0x10"], 2, "not_whole"),
    (["NaN"], 2, "not_whole"),
    (["\u00b2"], 2, "not_whole"),
    (["5", "5"], 2, "repeated"),
]


@pytest.mark.parametrize(("values", "quantity", "reason"), HEADERS)
def test_a_quantity_in_a_header(shop: Shop, values: list[str], quantity: int, reason: str | None) -> None:
    """A whole number in bounds is counted; of anything else the answer goes out all the same, the minimum is counted,
    and the fault stands in the log and the metrics. The header is for Farebox alone."""
    response = PlainTextResponse("served", headers={"X-Other": "1"})
    response.raw_headers += [(b"X-Rows", value.encode("latin-1")) for value in values]
    claimed = shop.buy()
    with capture_logs() as logs:
        answer = get(shop, claimed, "/header", response)
    assert (answer.status_code, answer.text, answer.headers.get("x-rows")) == (200, "served", None)
    assert answer.headers["x-other"] == "1"
    assert used(shop, claimed) == {"rows": quantity}
    parked = [entry for entry in logs if entry["event"] == "quantity_parked"]
    assert [(e["route"], e["meter"], e["reason"]) for e in parked] == (
        [("GET /header", "rows", reason)] if reason else []
    )
    assert all(len(entry["found"]) < 60 for entry in parked)
    assert [entry["counted"] for entry in parked] == ([2] if reason else [])
    assert faults(shop) == ({f"rows {reason}": 1} if reason else {})


def test_faults_are_metrics(shop: Shop) -> None:
    """A fault can be alarmed on: by meter and reason."""
    get(shop, shop.buy(), "/header", PlainTextResponse("served"))
    told = shop.client.get("/billing/metrics", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"}).text
    assert 'farebox_quantities_parked_total{meter="rows",reason="missing"} 1.0' in told


def test_statuses_to_bill(shop: Shop) -> None:
    """A route says which statuses are billed, with fixed quantities and found ones; a fault of others is none. The
    header that is to be stripped is stripped from each."""
    claimed = shop.buy()
    for status, total in ((200, 2), (404, 4), (400, 4), (302, 4), (500, 4)):
        answer = get(shop, claimed, "/billed", PlainTextResponse("x", status, headers={"x-rows": "1"}))
        assert (answer.status_code, used(shop, claimed)["calls"]) == (status, total)
    assert used(shop, claimed)["rows"] == 2
    get(shop, claimed, "/billed", PlainTextResponse("x", 500))
    assert (
        get(shop, claimed, "/header", PlainTextResponse("x", 500, headers={"x-rows": "1"})).headers.get("x-rows")
        is None
    )
    assert faults(shop) == {}
    for status, total in ((200, 4), (404, 8)):
        get(shop, claimed, "/plain", PlainTextResponse("x", status))
        assert used(shop, claimed)["calls"] == total


BODIES: list[tuple[object, int, str | None]] = [
    (tokens(120), 120, None),
    (tokens(0), 3, None),
    (tokens(None), 3, "missing"),
    ({"usage": {}}, 3, "missing"),
    ({"usage": 7}, 3, "missing"),
    ([], 3, "missing"),
    (tokens(-5), 3, "negative"),
    (tokens(5.0), 3, "not_whole"),
    (tokens("120"), 3, "not_whole"),
    (tokens(True), 3, "not_whole"),
    (tokens([120]), 3, "not_whole"),
    (tokens({"a": 1}), 3, "not_whole"),
    (tokens(float("nan")), 3, "not_whole"),
    (tokens(QUANTITY_MAX), QUANTITY_MAX, None),
    (tokens(QUANTITY_MAX + 1), 3, "too_large"),
    (tokens(10**4000), 3, "too_large"),
]


@pytest.mark.parametrize(("body", "quantity", "reason"), BODIES)
def test_a_quantity_in_json(shop: Shop, body: object, quantity: int, reason: str | None) -> None:
    """The number at the path is counted whole; anything else is a fault with a name, and the minimum is counted."""
    claimed = shop.buy()
    text = json.dumps(body)
    answer = get(shop, claimed, "/chat", Response(text, media_type="application/json"))
    assert (answer.status_code, answer.text) == (200, text)
    assert used(shop, claimed) == {"calls": 1, "tokens": quantity}
    assert faults(shop) == ({f"tokens {reason}": 1} if reason else {})


def test_positions_in_lists(shop: Shop) -> None:
    """A path goes through lists by position; zero is a quantity, and what is not there is not zero."""
    claimed = shop.buy()
    get(shop, claimed, "/list", JSONResponse({"results": [{"cost": 4}, {"cost": 0}], "rows": 5}))
    assert (used(shop, claimed), faults(shop)) == ({"tokens": 0, "rows": 5}, {})
    get(shop, claimed, "/list", JSONResponse({"results": [{"cost": 4}], "rows": 5}))
    assert (used(shop, claimed), faults(shop)) == ({"tokens": 0, "rows": 10}, {"tokens missing": 1})


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (lambda: Response(b'{"usage": {"total_tokens": 12'), "unreadable"),
        (lambda: Response(b"\xff\xfe{}", media_type="application/json"), "unreadable"),
        (lambda: Response(b"[" * 60_000), "unreadable"),
        (lambda: Response(b'{"usage": {"total_tokens": ' + b"9" * 5000 + b"}}"), "unreadable"),
        (lambda: Response(status_code=204), "missing"),
        (lambda: Response(b""), "missing"),
        (lambda: JSONResponse(tokens(9), headers={"Content-Encoding": "gzip"}), "compressed"),
        (lambda: JSONResponse({**tokens(9), "pad": "x" * ANSWER_BYTES_MAX}), "body_too_large"),
    ],
)
def test_bodies_that_cannot_be_read(shop: Shop, response: Callable[[], Response], reason: str) -> None:
    """A body that is no JSON, compressed or too large to look into reaches the client as it is, with the minimum
    counted and the reason said."""
    claimed = shop.buy()
    made = response()
    client = exchange(shop, claimed, "/chat", lambda c: c.serve(made))
    assert b"".join(m.get("body", b"") for m in client.sent) == made.body
    assert used(shop, claimed) == {"calls": 1, "tokens": 3}
    assert faults(shop) == {f"tokens {reason}": 1}


def test_a_whole_answer_is_durable_before_its_first_byte(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """L3, L18: where the whole answer is there before any of it has left, all that it used is committed first, in one
    commit; and when that fails, none of it leaves."""
    claimed, seen, commit = shop.buy(), [], shop.store.commit_batch

    def spied(batch: Any) -> None:
        commit(batch)
        seen.append(used(shop, claimed))

    async def on_send(message: Message) -> None:
        seen.append(message["type"])

    async def run(client: Client) -> None:
        client.on_send = on_send
        await client.serve(JSONResponse(tokens(120)))

    monkeypatch.setattr(shop.store, "commit_batch", spied)
    exchange(shop, claimed, "/chat", run)
    assert seen == [{"calls": 1, "tokens": 120}, "http.response.start", "http.response.body"]

    def lost(batch: Any) -> None:
        raise StoreUnavailable(internal="gone")

    monkeypatch.setattr(shop.store, "commit_batch", lost)
    monkeypatch.setattr(shop.store, "batch_landed", lambda batch: False)
    answer = get(shop, claimed, "/chat", JSONResponse({**tokens(120), "secret": 1}))
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    assert "secret" not in answer.text


def test_a_stream_is_not_held(shop: Shop) -> None:
    """L18: of a stream the fixed quantities and the minimum are durable before the first byte; each piece leaves as it
    is made; the rest is durable before the end of the stream leaves, and the call counts once."""
    claimed = shop.buy()
    seen: list[Any] = []

    async def pieces() -> AsyncIterator[str]:
        for piece in (event({"text": "a"}), event(tokens(50)), "data: [DONE]\n\n"):
            seen.append("made")
            yield piece

    async def on_send(message: Message) -> None:
        seen.append((message["type"].split(".")[-1], message.get("more_body"), used(shop, claimed).get("tokens")))

    async def run(client: Client) -> None:
        client.on_send = on_send
        await client.serve(StreamingResponse(pieces(), media_type=SSE))

    exchange(shop, claimed, "/chat", run)
    assert seen[:3] == [("start", None, 3), "made", ("body", True, 3)]
    assert seen[-1] == ("body", False, 50)
    assert used(shop, claimed) == {"calls": 1, "tokens": 50}
    assert {line.meter: line.calls for line in shop.store.usage(claimed.account_id, 0, 2**40)} == {
        "calls": 1,
        "tokens": 1,
    }


STREAMS: list[tuple[list[str], int, str | None]] = [
    ([event({"x": 1}), event(tokens(50)), "data: [DONE]\n\n"], 50, None),
    ([event(tokens(10)), event(tokens(50)), event({"usage": None})], 50, None),
    ([event(tokens(50)), event(tokens(40))], 40, None),
    ([event(tokens(50)), event(tokens(0))], 3, None),
    ([event(tokens(50)).replace("\n", "\r\n")], 50, None),
    ([event(tokens(50)).replace("\n", "\r")], 50, None),
    (list(event(tokens(50)).replace("\n", "\r\n")), 50, None),
    ([": hi\n" * 90_000, event(tokens(50))], 50, None),
    (["event: end\nid: 7\n" + event(tokens(50))], 50, None),
    (['data: {"usage":\ndata: {"total_tokens": 50}}\n\n'], 50, None),
    ([event(tokens(50)).rstrip("\n")], 50, None),
    (["data: no json\n\n", "data\n\n", "\n\n\n", event(tokens(50))], 50, None),
    ([event({"x": 1}), "data: [DONE]\n\n"], 3, "missing"),
    ([], 3, "missing"),
    ([event(tokens(50)), event(tokens(-1))], 3, "negative"),
    ([event(tokens("9"))], 3, "not_whole"),
    ([event({**tokens(50), "pad": "x" * EVENT_BYTES_MAX})], 3, "body_too_large"),
    ([event({"pad": "x" * EVENT_BYTES_MAX}), event(tokens(50))], 50, None),
    ([f"data: {'x' * EVENT_BYTES_MAX}\ndata: {json.dumps(tokens(50))}\n\n"], 3, "body_too_large"),
]


@pytest.mark.parametrize(("chunks", "quantity", "reason"), STREAMS)
def test_a_quantity_in_the_last_event(shop: Shop, chunks: list[str], quantity: int, reason: str | None) -> None:
    """The last event that has something at the path counts, however the stream is cut into pieces and lines."""
    claimed = shop.buy()
    answer = get(shop, claimed, "/chat", streamed(*chunks))
    assert answer.text == "".join(chunks)
    assert used(shop, claimed) == {"calls": 1, "tokens": quantity}
    assert faults(shop) == ({f"tokens {reason}": 1} if reason else {})


def test_bytes(shop: Shop) -> None:
    """Bytes are those of the body as it leaves, up to the maximum, whole or in pieces; HEAD has none."""
    claimed = shop.buy()
    for response, total in (
        (PlainTextResponse("x" * 1000), 1000),
        (streamed("x" * 300, "", "\u00e9" * 100, kind="text/plain"), 1500),
        (PlainTextResponse(""), 1500),
    ):
        get(shop, claimed, "/bytes", response)
        assert used(shop, claimed)["bytes"] == total
    get(shop, claimed, "/bytes", PlainTextResponse("x" * 1000), "HEAD")
    assert used(shop, claimed) == {"bytes": 1500, "calls": 8}
    get(shop, claimed, "/bytes", PlainTextResponse("x" * 6_000_000))
    assert used(shop, claimed)["bytes"] == 5_001_500
    assert faults(shop) == {}


def test_head_follows_get(shop: Shop) -> None:
    """A HEAD is charged by its GET's rule: by header, by the JSON that the application made; without a body there is
    nothing to find, and that is no fault."""
    claimed = shop.buy()
    get(shop, claimed, "/chat", JSONResponse(tokens(9)), "HEAD")
    assert used(shop, claimed) == {"calls": 1, "tokens": 9}
    get(shop, claimed, "/chat", Response(headers={"content-type": "application/json"}), "HEAD")
    assert (used(shop, claimed), faults(shop)) == ({"calls": 2, "tokens": 12}, {})


def test_time(shop: Shop) -> None:
    """Time is whole units, rounded up, from when the call is let in to the end of its answer, up to the maximum."""

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        shop.clock.manual.pass_ms(1100)
        await PlainTextResponse("slow")(scope, receive, send)

    claimed = shop.buy()
    get(shop, claimed, "/time", slow)
    assert used(shop, claimed) == {"seconds": 2, "ms": 1100}

    async def pieces() -> AsyncIterator[str]:
        shop.clock.manual.pass_ms(900)
        yield "a"
        shop.clock.manual.pass_ms(1700)

    get(shop, claimed, "/time", StreamingResponse(pieces()))
    assert used(shop, claimed) == {"seconds": 2 + 3, "ms": 1100 + 2500}
    get(shop, claimed, "/time", PlainTextResponse("at once"))
    assert used(shop, claimed)["seconds"] == 6


def leaving(shop: Shop, claimed: Claimed, path: str, pieces: list[str], how: str) -> Client:
    """The client leaves after these pieces of an answer that would go on for ever."""

    async def endless() -> AsyncIterator[str]:
        for piece in pieces:
            yield piece
        shop.clock.manual.pass_ms(5_000)
        gone.set()
        await asyncio.Event().wait()

    gone = asyncio.Event()

    async def run(client: Client) -> None:
        task = asyncio.ensure_future(client.serve(StreamingResponse(endless(), media_type=SSE)))
        await gone.wait()
        if how == "cancelled":
            task.cancel()
        else:
            client.left.set()
        await asyncio.wait({task})
        await shop.runtime.metering.tails.close()

    return exchange(shop, claimed, path, run)


@pytest.mark.parametrize("how", ["disconnect", "cancelled"])
def test_a_client_that_leaves_pays_for_what_went(shop: Shop, how: str) -> None:
    """L18: when the client leaves, the bytes and the time until then are counted, in the ledger and not in its task."""
    claimed = shop.buy()
    leaving(shop, claimed, "/bytes", ["x" * 700, "y" * 300], how)
    assert used(shop, claimed) == {"bytes": 1000, "calls": 2}
    leaving(shop, claimed, "/time", ["x"], how)
    assert used(shop, claimed) == {"bytes": 1000, "calls": 2, "seconds": 5, "ms": 2500}
    assert faults(shop) == {}


@pytest.mark.parametrize("how", ["disconnect", "cancelled"])
@pytest.mark.parametrize(("pieces", "quantity"), [([event(tokens(50)), event({"x": 1})], 50), ([event({"x": 1})], 3)])
def test_a_last_event_that_never_came(shop: Shop, how: str, pieces: list[str], quantity: int) -> None:
    """L18: a stream that somebody left is settled by the last event that told its quantity, or by the minimum, and says
    so."""
    claimed = shop.buy()
    with capture_logs() as logs:
        leaving(shop, claimed, "/chat", pieces, how)
    assert used(shop, claimed) == {"calls": 1, "tokens": quantity}
    assert faults(shop) == {"tokens ended_early": 1}
    (parked,) = (entry for entry in logs if entry["event"] == "quantity_parked")
    assert (parked["counted"], parked["source"]) == (quantity, "json:usage.total_tokens")
    assert "record the difference alone" in parked["meaning"]


@pytest.mark.parametrize(("resolved", "counted"), [(True, 0), (False, None)])
def test_what_a_refused_answer_was_counted_as(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, resolved: bool, counted: int | None
) -> None:
    """A wrong quantity of an answer that became a 503 was counted as nothing, or nobody knows: whoever records what the
    log says is missing bills nothing twice."""

    def away(batch: Any) -> bool:
        if resolved:
            return False
        raise StoreUnavailable(internal="away")

    def cut_off(batch: Any) -> None:
        raise StoreUnavailable(internal="cut off")

    claimed = shop.buy()
    monkeypatch.setattr(shop.store, "commit_batch", cut_off)
    monkeypatch.setattr(shop.store, "batch_landed", away)
    with capture_logs() as logs:
        assert get(shop, claimed, "/header", PlainTextResponse("served")).status_code == 503
    (parked,) = (entry for entry in logs if entry["event"] == "quantity_parked")
    assert (parked["reason"], parked["counted"]) == ("missing", counted)
    assert ("compare the account's usage" in parked["meaning"]) == (counted is None)


def test_a_send_that_fails(shop: Shop) -> None:
    """A server that says by an error that the client is gone ends the call: what went before it is counted."""
    claimed = shop.buy()

    async def pieces() -> AsyncIterator[str]:
        while True:
            yield "x" * 100

    async def run(client: Client) -> None:
        async def on_send(message: Message) -> None:
            if len(client.sent) == 4:
                raise OSError("the client is gone")

        client.on_send = on_send
        client.scope["asgi"] = {"spec_version": "2.4"}
        with pytest.raises(Exception):  # noqa: B017, PT011 -- whatever the application makes of it
            await client.serve(StreamingResponse(pieces()))
        await shop.runtime.metering.tails.close()

    exchange(shop, claimed, "/bytes", run)
    assert used(shop, claimed) == {"bytes": 300, "calls": 2}


def test_nothing_is_counted_after_the_client_left(shop: Shop) -> None:
    """An application that writes on into the void does not charge for it once the server has said that nobody reads."""
    claimed = shop.buy()

    async def deaf(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 10, "more_body": True})
        scope["leave"]()
        await receive()
        for more in (True, True, False):
            shop.clock.manual.pass_ms(1000)
            await send({"type": "http.response.body", "body": b"x" * 10, "more_body": more})

    async def run(client: Client) -> None:
        client.scope["leave"] = client.left.set
        await client.serve(deaf)

    exchange(shop, claimed, "/bytes", run)
    exchange(shop, claimed, "/time", run)
    assert used(shop, claimed) == {"bytes": 10, "calls": 2, "seconds": 1, "ms": 0}


def test_a_handler_that_breaks_in_its_stream(shop: Shop) -> None:
    """A stream that breaks is settled like one that was left; one that breaks before its first byte costs nothing."""
    claimed = shop.buy()

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": scope["fields"]})
        if not scope["fields"]:
            await send({"type": "http.response.body", "body": b"x" * 10, "more_body": True})
        raise RuntimeError("broken")

    async def run(client: Client) -> None:
        for fields in ([], [(b"content-length", b"20")]):
            client.scope["fields"] = fields
            with pytest.raises(RuntimeError):
                await client.serve(broken)
        await shop.runtime.metering.tails.close()

    client = exchange(shop, claimed, "/bytes", run)
    assert used(shop, claimed) == {"bytes": 10, "calls": 2}
    assert len(client.sent) == 2


def test_long_answers_are_counted_ahead(shop: Shop) -> None:
    """L18: of a long answer never more than the stated tail is unsettled: before the piece that would be leaves, what
    went is durable."""
    claimed, before = shop.buy(), []
    size = UNSETTLED_BYTES_MAX // 2

    async def pieces() -> AsyncIterator[str]:
        for _ in range(5):
            yield "x" * size

    async def on_send(message: Message) -> None:
        before.append(used(shop, claimed).get("bytes"))

    async def run(client: Client) -> None:
        client.on_send = on_send
        await client.serve(StreamingResponse(pieces()))

    exchange(shop, claimed, "/bytes", run)
    assert before == [0, 0, 2 * size, 2 * size, 4 * size, 4 * size, 5 * size]
    assert calls(shop, claimed)["bytes"] == 1

    async def slowly() -> AsyncIterator[str]:
        for _ in range(3):
            shop.clock.pass_seconds(UNSETTLED_SECONDS_MAX + 1)
            before.append(used(shop, claimed).get("seconds"))
            yield "x"

    before.clear()

    async def simply(client: Client) -> None:
        await client.serve(StreamingResponse(slowly()))

    exchange(shop, claimed, "/time", simply)
    assert before == [1, UNSETTLED_SECONDS_MAX + 1, 2 * UNSETTLED_SECONDS_MAX + 2]


@pytest.mark.parametrize("fenced", [False, True])
@pytest.mark.parametrize("landed", [False, True])
def test_a_tail_outlives_a_lost_store(shop: Shop, monkeypatch: pytest.MonkeyPatch, landed: bool, fenced: bool) -> None:
    """L1, L18: a rest whose commit failed is tried again until it is certain, and counted once: not lost when the
    commit had not landed, not doubled when it had, although its writer was closed meanwhile."""
    claimed, commit = shop.buy(), shop.store.commit_batch
    lost: list[Any] = []

    def failing(batch: Any) -> None:
        tail = [i for i in batch.increments if i.meter == "tokens" and i.quantity == 47]
        if tail and len(lost) < 1:
            lost.append(batch)
            if landed:
                commit(batch)
            if fenced:
                shop.store.close_writer(batch.writer)
            raise StoreUnavailable(internal="cut off")
        if len(lost) < 5 and lost:
            lost.append(batch)
            raise StoreUnavailable(internal="still away")
        commit(batch)

    outcome = shop.store.batch_landed

    def away(batch: Any) -> bool:
        if len(lost) < 5:
            lost.append(batch)
            raise StoreUnavailable(internal="still away")
        return outcome(batch)

    monkeypatch.setattr(shop.store, "commit_batch", failing)
    monkeypatch.setattr(shop.store, "batch_landed", away)
    with capture_logs() as logs:
        answer = get(shop, claimed, "/chat", streamed(event(tokens(50))))
        assert answer.status_code == 200
        assert shop.client.portal is not None
        shop.client.portal.call(shop.runtime.metering.tails.close)
    assert lost
    assert used(shop, claimed) == {"calls": 1, "tokens": 50}
    assert faults(shop) == {}
    assert not [e for e in logs if e["event"] == "tail_unsettled"]


def test_a_held_account_waits_for_the_tail(shop: Shop) -> None:
    """L12: a call is under way until its rest is durable; only then has its process come to its end."""
    claimed, seen = shop.buy(), []
    admissions = shop.runtime.gate.admissions
    before = admissions.acknowledged()

    async def pieces() -> AsyncIterator[str]:
        yield "x"
        admissions.advance(before + 1)
        seen.append(admissions.acknowledged())
        yield "y"

    async def run(client: Client) -> None:
        await client.serve(StreamingResponse(pieces()))
        seen.append(admissions.acknowledged())

    exchange(shop, claimed, "/bytes", run)
    assert seen == [before, before + 1]


def test_code_adds_to_what_the_answer_tells(shop: Shop) -> None:
    """What a handler charges is counted beside what its answer tells, of the same meter too."""
    claimed = shop.buy()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        current_call().charge("tokens", 1000)
        await JSONResponse(tokens(50))(scope, receive, send)

    get(shop, claimed, "/chat", app)
    assert used(shop, claimed) == {"calls": 1, "tokens": 1050}


def test_sockets_take_minimums(shop: Shop) -> None:
    """A websocket under such a rule is charged the fixed quantities and the minimum, and the fault is said."""
    claimed = shop.buy()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        socket = WebSocket(scope, receive, send)
        await socket.accept()
        await socket.send_text("hello")
        await socket.close()

    with client_of(shop, app).websocket_connect("/chat", headers=bearer(claimed.key)) as socket:
        assert socket.receive_text() == "hello"
    assert used(shop, claimed) == {"calls": 1, "tokens": 3}
    assert faults(shop) == {"tokens unreadable": 1}


def test_files_are_seen(shop: Shop) -> None:
    """A server that could send a file by itself is not asked to: its bytes pass by and are counted."""
    claimed, offered = shop.buy(), []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        offered.append(dict(scope["extensions"]))
        await PlainTextResponse("12345")(scope, receive, send)

    async def run(client: Client) -> None:
        client.scope["extensions"] = {"http.response.pathsend": {}, "http.response.debug": {}}
        await client.serve(app)

    exchange(shop, claimed, "/bytes", run)
    assert offered == [{"http.response.debug": {}}]
    assert used(shop, claimed)["bytes"] == 5


def test_each_fault_is_named() -> None:
    """The names of the faults are labels that alarms are made of: they stay."""
    assert {fault.value for fault in Fault} == {
        *("missing", "negative", "not_whole", "too_large", "repeated", "unreadable"),
        *("compressed", "body_too_large", "ended_early", "unrecorded"),
    }
