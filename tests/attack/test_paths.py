"""A20, A25: no spelling of a path gets what another rule protects or prices, and no path costs memory or time."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.testclient import TestClient
from tests.shop import CATALOG, PUBLIC_URL, Shop, bearer, open_shop

from farebox.web.calls import PATH_CHARACTERS_MAX
from farebox.web.middleware import PaidCalls

RULES = """
[[routes]]
match = "GET /free/**"
access = "public"
[[routes]]
match = "GET /paid/**"
meter = "calls"
quantity = 2
[[routes]]
match = "GET /files/**"
meter = "calls"
quantity = 3
"""


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with open_shop(tmp_path, catalog=CATALOG + RULES) as opened:
        yield opened


async def _files(request: Request) -> Response:
    return PlainTextResponse("the list of files")


@pytest.fixture
def client(shop: Shop, tmp_path: Path) -> TestClient:
    for name in ("free", "paid"):
        (tmp_path / "site" / name).mkdir(parents=True)
        (tmp_path / "site" / name / "report.txt").write_text(f"the {name} report")
    routes = [Route("/files", _files), Mount("/", StaticFiles(directory=tmp_path / "site"))]
    asgi = PaidCalls(Starlette(routes=routes), shop.runtime)
    made = TestClient(asgi, base_url=PUBLIC_URL, follow_redirects=False)
    made.portal = shop.client.portal
    return made


SPELLINGS = [
    "/free/../paid/report.txt",
    "/free/%2e%2e/paid/report.txt",
    "//paid/report.txt",
    "/./paid/report.txt",
    "/free/..//paid/./report.txt",
    "/paid//report.txt/../../paid/report.txt",
    "/paid/../free/../paid/report.txt",
]


def raw(client: TestClient, path: str, headers: dict[str, str]) -> str:
    """Ask for exactly this path: a client library would tidy it up. Returns what was served, if it was."""
    request = client.build_request("GET", PUBLIC_URL + "/x", headers=headers)
    request.url = request.url.copy_with(raw_path=path.encode())
    answer = client.send(request)
    return answer.text if answer.status_code == 200 else ""


@pytest.mark.parametrize("path", SPELLINGS)
def test_nothing_paid_without_a_key(client: TestClient, path: str) -> None:
    """Without a key no spelling opens a paid file."""
    assert "paid" not in raw(client, path, {})


@pytest.mark.parametrize("path", [*SPELLINGS, "/files", "/files%0A", "/paid/report.txt"])
def test_what_is_served_is_priced(shop: Shop, client: TestClient, path: str) -> None:
    """With a key, whatever is served of the paid files is billed at their price."""
    claimed = shop.buy()
    served = raw(client, path, bearer(claimed.key))
    used = sum(line.quantity for line in shop.store.usage(claimed.account_id, 0, 2**40))
    assert used == (3 if "list of files" in served else 2 if "paid" in served else 0)


def test_honest_paths_are_served(shop: Shop, client: TestClient) -> None:
    """A public file needs no key, and doubled slashes within one rule change nothing."""
    assert raw(client, "/free/report.txt", {}) == "the free report"
    assert raw(client, "/free//report.txt", {}) == "the free report"
    assert raw(client, "/paid/report.txt", bearer(shop.buy().key)) == "the paid report"


def test_a_path_without_end(shop: Shop, client: TestClient) -> None:
    """A11: a path beyond the bound is refused before anything is matched or remembered, with or without a key."""
    for headers in ({}, bearer(shop.buy().key)):
        answer = client.get("/" + "a" * PATH_CHARACTERS_MAX, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (414, "path_too_long")
    for n in range(50):
        client.get(f"/{n}/" + "a" * 1_000)
    assert all(len(path) <= 256 for _, path in shop.runtime.edge.table._remembered)
