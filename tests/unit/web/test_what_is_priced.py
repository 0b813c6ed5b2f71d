"""What is served is priced, or the seller said so: methods, paths, pages, mounts, and meters that a plan lacks."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route as AppPath
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from tests.shop import CATALOG, PUBLIC_URL, Shop, bearer, open_shop

from farebox.configcheck import check_file
from farebox.domain.access import Grant
from farebox.domain.advice import advice_on
from farebox.web.approutes import app_routes, own_pages
from farebox.web.calls import RouteTable, require_prices
from farebox.web.collisions import unpriced
from farebox.web.middleware import Edge, PaidCalls

TWO_METERS = (
    CATALOG.replace(
        "[plans.payg]",
        '[meters.tokens]\ntitle = "Tokens"\n\n[plans.rich]\ntitle = "Rich"\ncurrency = "usd"\ninterval = "month"\n'
        '[[plans.rich.prices]]\nmeter = "calls"\nunit_amount = "1.00"\n[[plans.rich.prices]]\nmeter = "tokens"\n'
        'unit_amount = "0.01"\n\n[plans.payg]',
        1,
    )
    + '[[routes]]\nmatch = "GET /chat"\nmeter = "tokens"\nquantity = 7\n'
)


@dataclass
class Served:
    """An application that answers everything, and what reached it."""

    requests: list[str]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.requests.append(f"{scope.get('method', scope['type'])} {scope['path']}")
        await PlainTextResponse("served")(scope, receive, send)


@dataclass
class Running:
    """A Farebox that runs already."""

    edge: Edge

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


@contextmanager
def serving(shop: Shop, app: Any, edge: Edge | None = None) -> Iterator[TestClient]:
    host = Running(edge or shop.runtime.edge)
    yield TestClient(PaidCalls(app, host), base_url=PUBLIC_URL, raise_server_exceptions=False)


@pytest.mark.parametrize("method", ["get", "Get", "pOST", "options"])
def test_a_method_in_small_letters_is_refused(shop: Shop, method: str) -> None:
    """A25: frameworks that serve `get` as GET never see it: no rule would have priced it."""
    app, buyer = Served([]), shop.buy()
    assert raw_status(shop, method, "/api", bearer(buyer.key), app) == 405
    assert app.requests == []


def raw_status(shop: Shop, method: str, path: str, headers: dict[str, str], app: Any) -> int:
    """The status of a request whose method reaches Farebox to the letter."""
    statuses: list[int] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "http_version": "1.1",
        "headers": [(n.lower().encode(), v.encode()) for n, v in headers.items()],
    }
    asyncio.run(PaidCalls(app, shop.runtime)(scope, receive, send))
    return statuses[0]


@pytest.mark.parametrize(
    ("match", "word"),
    [
        ("GET /files/{path:path}", "/**"),
        ("ANY /dear", "ANY is not an HTTP method"),
        ("ALL /dear", "ALL is not an HTTP method"),
        ("GETT /dear", 'did you mean "GET"'),
        ("GET /{id", "write a name as {name}"),
        ("GET /id}", "write a name as {name}"),
        ("GET /{}", "write a name as {name}"),
    ],
)
def test_a_rule_that_prices_nothing_is_refused(tmp_path: Path, match: str, word: str) -> None:
    """A match that a framework would read in another way is a fault with its line, not a rule that never fits."""
    path = tmp_path / "farebox.toml"
    path.write_text(CATALOG.replace("GET /api", match))
    (fault,) = check_file(path).faults
    assert word in f"{fault.message}; {fault.hint}"
    assert fault.line is not None


@pytest.mark.parametrize(
    ("first", "second", "reached"),
    [
        ("* /**", "GET /report", False),
        ("GET /**", "GET /report", False),
        ("GET /**", "POST /report", True),
        ("GET /a/**", "GET /a/b/{id}/**", False),
        ("GET /a/{x}", "GET /a/b", False),
        ("GET /a/b", "GET /a/{x}", True),
        ("GET /a/{x}", "GET /a/**", True),
        ("GET /a/{x}", "* /a/{y}", True),
        ("GET /a-{x}", "GET /a-{y}", False),
    ],
)
def test_rules_that_no_request_reaches(tmp_path: Path, first: str, second: str, reached: bool) -> None:
    """`plan check` warns of a rule whose requests an earlier one takes, and of no other."""
    path = tmp_path / "farebox.toml"
    rules = f'[[routes]]\nmatch = "{first}"\nmeter = "calls"\n[[routes]]\nmatch = "{second}"\nmeter = "calls"\n'
    path.write_text(CATALOG[: CATALOG.index("[[routes]]")] + rules)
    catalog = check_file(path).require()[1]
    warned = [one.path for one in advice_on(catalog) if "no request reaches" in one.message]
    assert warned == ([] if reached else ["routes[1].match"])


def test_a_meter_that_the_plan_lacks_is_refused(tmp_path: Path) -> None:
    """Who is on a plan without a price for the route's meter gets 403 `plan_required`; who has one is served."""
    with open_shop(tmp_path, catalog=TWO_METERS) as shop:
        poor, rich, app = shop.buy(plan="payg"), shop.buy(plan="rich"), Served([])
        with serving(shop, app) as client:
            refused = client.get("/chat", headers=bearer(poor.key))
            assert (refused.status_code, refused.json()["code"]) == (403, "plan_required")
            assert "Tokens" in refused.json()["detail"]
            assert app.requests == []
            assert client.get("/chat", headers=bearer(rich.key)).status_code == 200
            assert client.get("/api", headers=bearer(poor.key)).status_code == 200
        warned = [one for one in advice_on(shop.catalog) if "plan_required" in one.message]
        assert [one.path for one in warned] == ["plans.payg", "plans.bulk"]


def test_the_seller_may_serve_it_free(tmp_path: Path) -> None:
    """With `unpriced = "free"` the call is served on every plan, counted, and costs nothing where no price is."""
    free = TWO_METERS.replace('title = "Tokens"', 'title = "Tokens"\nunpriced = "free"')
    with open_shop(tmp_path, catalog=free) as shop:
        poor = shop.buy(plan="payg")
        with serving(shop, Served([])) as client:
            assert client.get("/chat", headers=bearer(poor.key)).status_code == 200
        usage = shop.client.get("/billing/usage", headers=bearer(poor.key)).json()
        assert usage["total"] == 0


def test_a_renamed_meter_keeps_its_price(tmp_path: Path) -> None:
    """A meter that got another name in the file and kept its event name is still priced for those who subscribed."""
    with open_shop(tmp_path) as shop:
        buyer = shop.buy()
        path = tmp_path / "renamed.toml"
        renamed = CATALOG.replace("[meters.calls]", '[meters.api_calls]\nevent_name = "calls"')
        path.write_text(renamed.replace('meter = "calls"', 'meter = "api_calls"'))
        grant = Grant(shop.account(buyer), shop.store.subscriptions(buyer.account_id)[0])
        assert grant.meters == {"calls"}
        require_prices(grant, ("api_calls",), check_file(path).require()[1].meters)


@pytest.mark.parametrize(("method", "path"), [("POST", "/docs"), ("PUT", "/openapi.json"), ("DELETE", "/redoc")])
def test_only_reading_a_page_is_public(shop: Shop, method: str, path: str) -> None:
    """FastAPI's own pages are public for GET and HEAD; another method at the same path needs a key."""
    table = RouteTable(shop.catalog.routes, ("/docs", "/openapi.json", "/redoc"))
    app = Served([])
    with serving(shop, app, replace(shop.runtime.edge, table=table)) as client:
        assert client.get(path).status_code == 200
        assert client.request(method, path).status_code == 401
        with pytest.raises(WebSocketDisconnect), client.websocket_connect(path):
            pass
    assert app.requests == [f"GET {path}"]


def test_a_page_of_the_sellers_own_is_not_public() -> None:
    """A route of the seller at the path of FastAPI's page comes first, so the path is not made public."""
    app = FastAPI(docs_url="/")

    async def own(request: Request) -> Response:
        return PlainTextResponse("paid")

    app.router.routes.insert(0, AppPath("/openapi.json", own))
    assert "/openapi.json" not in own_pages(app)
    assert "/" in own_pages(app)


def test_mounted_applications_are_looked_into() -> None:
    """Routes of mounted FastAPI and Starlette applications, websockets and class endpoints without a rule are named."""

    async def page(request: Request) -> Response:
        return PlainTextResponse("served")

    async def raw(scope: Any, receive: Any, send: Any) -> None: ...

    class Thing(HTTPEndpoint):
        async def get(self, request: Request) -> Response:
            return PlainTextResponse("served")

    app, inner = FastAPI(), FastAPI()
    inner.add_api_route("/x", page, methods=["POST"])
    inner.mount("/deep", Starlette(routes=[AppPath("/y", page)]))
    app.mount("/sub", inner)
    app.mount("/raw", raw)
    app.router.routes.append(AppPath("/thing", Thing))

    @app.websocket("/ws")
    async def ws(socket: Any) -> None: ...

    named = unpriced(app_routes(app, lambda route: False), (), own_pages(app))
    assert named == ["POST /sub/x", "GET /sub/deep/y", "* /raw/**", "GET /thing", "GET /ws"]
