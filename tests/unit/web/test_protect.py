"""Farebox in a seller's own application: where it stands in it, what handlers may ask and charge, when it refuses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Request, WebSocket
from fastapi.middleware.cors import CORSMiddleware
from fastapi.security import HTTPBasic
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.types import Message, Receive, Scope, Send
from structlog.testing import capture_logs
from tests.shop import CATALOG

from farebox import (
    Account,
    AccountUnknown,
    ChargeTooLate,
    ConfigError,
    Farebox,
    MeterUnknown,
    NotStarted,
    QuantityInvalid,
    RecordConflict,
)
from farebox.domain.usage import QUANTITY_MAX
from farebox.testing import BuyerClient, Kit
from farebox.web.middleware import PaidCalls

MORE = """
[meters.tokens]
title = "Tokens"
unpriced = "free"
[[routes]]
match = "GET /open"
access = "public"
[[routes]]
match = "GET /sockets/{name}"
meter = "calls"
quantity = 5
"""
ORIGIN = {"Origin": "https://app.example"}
PREFLIGHT = {**ORIGIN, "Access-Control-Request-Method": "GET"}


@dataclass
class Seller:
    """A seller's application with a paid route, not started yet."""

    app: FastAPI
    farebox: Farebox
    config: Path

    def open(self) -> Kit:
        return Kit(self.app, self.farebox, self.config)


@pytest.fixture
def seller(tmp_path: Path) -> Seller:
    config = tmp_path / "farebox.toml"
    config.write_text(CATALOG + MORE)
    app, farebox = FastAPI(), Farebox()

    @app.get("/api")
    async def api() -> str:
        return "served"

    @app.get("/open")
    async def public() -> str:
        return "open"

    return Seller(app, farebox, config)


@pytest.mark.parametrize("before", [True, False])
def test_cors(seller: Seller, before: bool) -> None:
    """With CORS added before protect or after it, a refusal can be read by the page that asked; a preflight is free."""
    if not before:
        seller.farebox.protect(seller.app)
    seller.app.add_middleware(CORSMiddleware, allow_origins=["https://app.example"])
    if before:
        seller.farebox.protect(seller.app)
    with seller.open() as kit:
        buyer = kit.paid_client()
        refused, preflight = kit.client().get("/api", headers=ORIGIN), kit.client().options("/api", headers=PREFLIGHT)
        served = buyer.get("/api", headers=ORIGIN)
        assert [a.status_code for a in (refused, preflight, served)] == [401, 200, 200]
        for answer in (refused, preflight, served):
            assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert kit.usage(buyer) == {"calls": 1}


def test_the_lifespan_inside(seller: Seller) -> None:
    """The application's own lifespan runs inside Farebox's: it may record usage from its first line to its last, and
    what it yields reaches the handlers, in the test kit's clients too."""
    seen: list[Any] = []
    buyers: list[BuyerClient] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        seen.append(seller.farebox.edge is not None)
        yield {"mine": "kept"}
        await seller.farebox.record(buyers[0].account_id, "tokens", 3, id="last")
        seen.append("recorded")

    app = FastAPI(lifespan=lifespan)

    @app.get("/open")
    async def public(request: Request) -> str:
        return str(getattr(request.state, "mine", "lost"))

    seller.farebox.protect(app)
    with Kit(app, seller.farebox, seller.config) as kit:
        buyers.append(kit.paid_client())
        seen.append(kit.client().get("/open").json())
    assert seen == [True, "kept", "recorded"]
    assert seller.farebox.edge is None


class _Host:
    """Stands for a Farebox: starts and stops as told and remembers when."""

    edge = None

    def __init__(self, log: list[str], refusal: Exception | None = None) -> None:
        self._log = log
        self._refusal = refusal

    async def start(self) -> None:
        self._log.append("start")
        if self._refusal is not None:
            raise self._refusal

    async def stop(self) -> None:
        self._log.append("stop")


@pytest.mark.parametrize("refusal", [ConfigError("FAREBOX_SECRET is not set."), None])
def test_a_start_that_fails(refusal: ConfigError | None) -> None:
    """A refusal to start is said in words before the application's own lifespan is entered; when that one fails,
    Farebox is stopped before the server hears of it."""
    log: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        assert refusal is None
        await send({"type": "lifespan.startup.failed", "message": "mine"})

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        log.append(message["message"])

    paid = PaidCalls(application, _Host(log, refusal))({"type": "lifespan"}, receive, send)
    if refusal is None:
        asyncio.run(paid)
        assert log[:3] == ["start", "stop", "mine"]
    else:
        with pytest.raises(ConfigError):
            asyncio.run(paid)
        assert log == ["start", "The configuration is wrong. FAREBOX_SECRET is not set."]


def test_whatever_is_added_later(seller: Seller) -> None:
    """Routers, mounts and websockets that are added after protect are protected, and each costs what its path costs."""
    seller.farebox.protect(seller.app)
    router = APIRouter(prefix="/v1")

    @router.get("/report", dependencies=[seller.farebox.price("calls", 4)])
    async def report(buyer: Annotated[Account, Depends(seller.farebox.account)]) -> str:
        return buyer.id

    async def mounted(request: Any) -> PlainTextResponse:
        return PlainTextResponse((await seller.farebox.account(request)).id)

    seller.app.include_router(router)
    seller.app.mount("/mounted", Starlette(routes=[Route("/x", mounted)]))

    @seller.app.websocket("/sockets/{name}")
    async def socket(websocket: WebSocket, buyer: Annotated[Account, Depends(seller.farebox.account)]) -> None:
        await websocket.accept()
        await websocket.send_text(buyer.id)
        await websocket.close()

    with seller.open() as kit:
        buyer, stranger = kit.paid_client(), kit.client()
        for path in ("/v1/report", "/mounted/x"):
            assert stranger.get(path).status_code == 401
        assert buyer.get("/v1/report").json() == buyer.get("/mounted/x").text == buyer.account_id
        assert kit.usage(buyer) == {"calls": 4}
        with buyer.websocket_connect("/sockets/a") as opened:
            assert opened.receive_text() == buyer.account_id
        assert kit.usage(buyer) == {"calls": 9}


def test_prices_in_code(seller: Seller) -> None:
    """A price in code replaces the file's, charges add to it, in async and plain handlers and their dependencies."""
    seller.farebox.protect(seller.app)
    price, charge = seller.farebox.price, seller.farebox.charge

    @seller.app.get("/plain", dependencies=[price("calls", 2), price("tokens")])
    def plain(extra: Annotated[None, Depends(lambda: charge("tokens", 9))]) -> str:
        charge("calls", 1)
        return "served"

    with seller.open() as kit:
        buyer = kit.paid_client()
        assert buyer.get("/plain").status_code == 200
        assert kit.usage(buyer) == {"calls": 3, "tokens": 10}


def test_charges_that_are_none(seller: Seller) -> None:
    """A quantity in code that is none, or more than one call can have, adds nothing: the work is done, so the answer
    goes out, the call counts what it costs otherwise, and the fault is named."""
    seller.farebox.protect(seller.app)
    charge = seller.farebox.charge

    @seller.app.get("/work", dependencies=[seller.farebox.price("calls")])
    def work(n: str) -> str:
        charge("tokens", {"minus": -5, "half": 0.5, "zero": 0, "more": QUANTITY_MAX}[n])  # type: ignore[arg-type]
        charge("tokens", 1)
        return "done"

    with seller.open() as kit:
        buyer = kit.paid_client()
        with capture_logs() as logs:
            assert [buyer.get(f"/work?n={n}").text for n in ("minus", "half", "zero", "more")] == ['"done"'] * 4
        parked = [entry for entry in logs if entry["event"] == "quantity_parked"]
        assert {(entry["source"], entry["counted"]) for entry in parked} == {("charge", 0)}
        assert kit.usage(buyer) == {"calls": 4, "tokens": 3 + QUANTITY_MAX}
        assert kit.parked() == {("tokens", "negative"): 1, ("tokens", "not_whole"): 1, ("tokens", "too_large"): 1}


def test_sockets_have_fixed_quantities(seller: Seller) -> None:
    """A rule that looks into an answer for its quantity refuses the start when one of the app's websockets falls under
    it, and names both; a rule of the websocket's own before it heals that."""
    seller.farebox.protect(seller.app)

    @seller.app.websocket("/sockets/{name}")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()

    written = seller.config.read_text()
    rule = '[[routes]]\nmatch = "GET /sockets/**"\ncharges = [{ meter = "tokens", from = "bytes" }]\n'
    seller.config.write_text(written.replace("[[routes]]", rule + "[[routes]]", 1))
    with pytest.raises(ConfigError, match=r"/sockets/\{name\} is a websocket.*'GET /sockets/\*\*'"), seller.open():
        pass
    seller.config.write_text(written + rule)
    with seller.open() as kit:
        assert kit.parked() == {}


def test_charges_that_come_too_late(seller: Seller) -> None:
    """After the answer began a charge raises, in a stream and in a background task, and is not billed."""
    seller.farebox.protect(seller.app)
    raised: list[type[Exception]] = []

    def charge_late() -> None:
        try:
            seller.farebox.charge("calls", 7)
        except ChargeTooLate as error:
            raised.append(type(error))

    @seller.app.get("/stream", dependencies=[seller.farebox.price("calls", 1)])
    async def stream() -> StreamingResponse:
        async def chunks() -> AsyncIterator[str]:
            charge_late()
            yield "some"

        return StreamingResponse(chunks())

    @seller.app.get("/later", dependencies=[seller.farebox.price("calls", 1)])
    async def later(tasks: BackgroundTasks) -> str:
        tasks.add_task(charge_late)
        return "served"

    with seller.open() as kit:
        buyer = kit.paid_client()
        assert [buyer.get(path).status_code for path in ("/stream", "/later")] == [200, 200]
        assert raised == [ChargeTooLate, ChargeTooLate]
        assert kit.usage(buyer) == {"calls": 2}


def test_public_routes_have_nobody(seller: Seller) -> None:
    """Code on a public route that asks who calls or wants to charge is told so with 500, never given some account."""
    seller.farebox.protect(seller.app)

    @seller.app.get("/open/who")
    async def who(buyer: Annotated[Account, Depends(seller.farebox.account)]) -> str:
        return buyer.id

    seller.app.add_api_route(
        "/open/charge", _nothing, dependencies=[Depends(lambda: seller.farebox.charge("calls", 1))]
    )

    seller.config.write_text(seller.config.read_text().replace("GET /open", "GET /open/**"))
    with seller.open() as kit:
        buyer = kit.paid_client()
        client = TestClient(seller.app, raise_server_exceptions=False, headers={"X-API-Key": buyer.key})
        client.portal = buyer.portal
        for path in ("/open/who", "/open/charge"):
            assert client.get(path).status_code == 500, path
        assert kit.usage(buyer) == {}


def test_jobs(seller: Seller) -> None:
    """Usage from outside a request counts once for each id; what cannot be is refused in words and counts nothing."""
    seller.farebox.protect(seller.app)
    with seller.open() as kit:
        buyer = kit.paid_client()
        record = seller.farebox.record

        async def jobs() -> None:
            await asyncio.gather(*(record(buyer.account_id, "tokens", 120, id="job-17") for _ in range(5)))
            await record(buyer.account_id, "tokens", 1, id="job-18")
            with pytest.raises(RecordConflict, match="job-17"):
                await record(buyer.account_id, "tokens", 121, id="job-17")
            with pytest.raises(RecordConflict, match="job-17"):
                await record(buyer.account_id, "calls", 120, id="job-17")
            with pytest.raises(AccountUnknown, match="acct_none"):
                await record("acct_none", "tokens", 1, id="job-19")
            with pytest.raises(MeterUnknown, match="known: calls, tokens"):
                await record(buyer.account_id, "token", 1, id="job-20")
            with pytest.raises(QuantityInvalid):
                await record(buyer.account_id, "tokens", -1, id="job-21")

        assert buyer.portal is not None
        buyer.portal.call(jobs)
        assert kit.usage(buyer) == {"tokens": 121}
    with pytest.raises(NotStarted):
        asyncio.run(seller.farebox.record(buyer.account_id, "tokens", 1, id="job-22"))


def refused(seller: Seller) -> str:
    """What the start is refused with."""
    with pytest.raises(ConfigError) as error, seller.open():
        pass
    assert seller.farebox.edge is None
    return error.value.detail


@pytest.mark.parametrize(
    ("method", "path", "ours"),
    [
        ("GET", "/billing/usage", "GET /billing/usage"),
        ("POST", "/billing/{anything}", "POST /billing/checkout"),
        ("DELETE", "/{a}/keys/{b}", "DELETE /billing/keys/{id}"),
        ("GET", "/billing/{rest:path}", "GET /billing/"),
        ("mount", "/billing", "GET /billing/"),
        ("mount", "/billing/keys", "POST /billing/keys/{id}/rotate"),
    ],
)
def test_collisions(seller: Seller, method: str, path: str, ours: str) -> None:
    """A route of the application that Farebox would take over refuses to start, naming both; another prefix helps."""
    seller.farebox.protect(seller.app)
    if method == "mount":
        seller.app.mount(path, Starlette(routes=[Route("/", _nothing)]), name="theirs")
    else:
        seller.app.add_api_route(path, _nothing, methods=[method], name="theirs")
    detail = refused(seller)
    assert f"Farebox's {ours} collides with the application's {method} {path} (theirs)." in detail
    seller.config.write_text('[http]\nprefix = "/paying"\n' + seller.config.read_text())
    if "{a}" not in path:
        with seller.open() as kit:
            assert kit.client().get("/paying/healthz").status_code == 200


@pytest.mark.parametrize("path", ["/{rest:path}", "/billings", "/bill", "/billing/usage/yearly", "/billing/other"])
def test_no_collision(seller: Seller, path: str) -> None:
    """A catch-all above the prefix, and paths of other names, are no collision."""
    seller.app.add_api_route(path, _nothing, methods=["GET"])
    seller.app.router.routes.append(Mount("/", Starlette()))
    seller.farebox.protect(seller.app)
    with seller.open() as kit:
        assert kit.client().get("/billing/healthz").json() == {"status": "ok"}


def test_prices_that_cannot_be(seller: Seller) -> None:
    """A price in code on a path that the file gives away, or for a meter that it has not, refuses to start."""
    seller.farebox.protect(seller.app)
    seller.app.add_api_route("/open/", _nothing, dependencies=[seller.farebox.price("calls", 2)])
    seller.config.write_text(seller.config.read_text().replace("GET /open", "GET /open/**"))
    assert f"{seller.config} makes GET /open/ public, but its code has a farebox.price" in refused(seller)
    seller.farebox.price("cals")
    assert refused(seller).startswith(f"farebox.price names 'cals', but {seller.config} has no such meter")


def test_protect_once_and_in_time(seller: Seller) -> None:
    """Protecting twice, or an application that is already started, is a mistake that is said at once."""
    seller.farebox.protect(seller.app)
    with pytest.raises(ConfigError, match="already protects"):
        seller.farebox.protect(seller.app)
    started = FastAPI()
    with TestClient(started), pytest.raises(ConfigError, match="before the application starts"):
        Farebox().protect(started)


def test_an_application_of_no_framework(seller: Seller) -> None:
    """What `wrap` returns is the application with its paid routes behind a key, and its lifespan kept."""
    told: list[str] = []

    async def raw(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for _ in range(2):
                message = await receive()
                told.append(message["type"])
                await send({"type": message["type"] + ".complete"})
            return
        seller.farebox.charge("tokens", 3)
        await PlainTextResponse("served")(scope, receive, send)

    wrapped = seller.farebox.wrap(raw)
    with Kit(wrapped, seller.farebox, seller.config) as kit:
        assert kit.client().get("/api").status_code == 401
        buyer = kit.paid_client()
        assert buyer.get("/api").text == "served"
        assert kit.usage(buyer) == {"calls": 1, "tokens": 3}
    assert told == ["lifespan.startup", "lifespan.shutdown"]
    for again in (seller.farebox.wrap, seller.farebox.protect):
        with pytest.raises(ConfigError, match="already protects"):
            again(seller.app)


def test_without_the_lifespan(seller: Seller) -> None:
    """A call that comes without the lifespan having run is 503 and names what is missing; a websocket likewise."""
    seller.farebox.protect(seller.app)
    client = TestClient(seller.app)
    for path in ("/api", "/open", "/billing/usage"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "not_started")
        assert "lifespan" in answer.json()["detail"]
    with pytest.raises(WebSocketDenialResponse) as denied, client.websocket_connect("/sockets/a"):
        pass
    assert denied.value.status_code == 503


def test_openapi(seller: Seller) -> None:
    """The application's document asks for the key wherever it is needed, beside its own schemes, and says the price."""
    seller.farebox.protect(seller.app)

    @seller.app.get("/own", dependencies=[Depends(HTTPBasic())])
    async def own() -> str:
        return "served"

    with seller.open() as kit:
        assert kit.client().get("/docs").status_code == 200  # the pages that describe the API need no key
        document = kit.client().get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["FareboxKey"] == {
        "type": "http",
        "scheme": "bearer",
        "description": "Your API key, fb_…",
    }
    api, public, own_ = (document["paths"][path]["get"] for path in ("/api", "/open", "/own"))
    assert (api["security"], api["x-farebox-price"]) == ([{"FareboxKey": []}], {"meter": "calls", "quantity": 1})
    assert {"401", "402"} <= set(api["responses"])
    assert "security" not in public
    assert "401" not in public["responses"]
    assert own_["security"] == [{"HTTPBasic": [], "FareboxKey": []}]
    assert "x-farebox-price" not in own_


async def _nothing() -> None:
    return None


def test_openapi_asked_before_the_start(seller: Seller) -> None:
    """A document that somebody made before the rules were known does not make public operations need a key."""
    seller.farebox.protect(seller.app)
    assert seller.app.openapi()["paths"]["/open"]["get"]["security"]
    with seller.open():
        paths = seller.app.openapi()["paths"]
    assert "security" not in paths["/open"]["get"]
    assert paths["/api"]["get"]["security"] == [{"FareboxKey": []}]
