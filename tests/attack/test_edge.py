"""Attacks on the edge: what strangers and buyers may try against Farebox's routes and the calls it guards."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient
from tests.shop import ADMIN_TOKEN, PUBLIC_URL, Shop, bearer, open_shop, signed

from farebox.billing.claim import Claimed
from farebox.domain.keys import mint
from farebox.domain.usage import QUANTITY_MAX
from farebox.web.calls import current_call
from farebox.web.limits import BODY_BYTES_MAX, WEBHOOK_BODY_BYTES_MAX
from farebox.web.middleware import PaidCalls

HTML = {"Accept": "text/html"}
FORM = "application/x-www-form-urlencoded"
STRANGE_KEY = mint(b"s" * 32, live=False).reveal()
EVIL = "evil.example"


def used(shop: Shop, claimed: Claimed) -> int:
    return sum(line.quantity for line in shop.store.usage(claimed.account_id, 0, 2**40))


def client_of(shop: Shop, handler: Any, methods: list[str] | None = None) -> TestClient:
    """A client of an application with this handler at /api, guarded by the running shop."""
    guard = Middleware(PaidCalls, host=shop.runtime)
    app = Starlette(routes=[Route("/api", handler, methods=methods)], middleware=[guard])
    client = TestClient(app, base_url=PUBLIC_URL, raise_server_exceptions=False)
    client.portal = shop.client.portal
    return client


@pytest.fixture
def looked_up(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the store was asked about keys."""
    asked: list[Any] = []
    find = shop.store.find_facts

    def spied(digests: Any) -> Any:
        asked.append(digests)
        return find(digests)

    monkeypatch.setattr(shop.store, "find_facts", spied)
    return asked


@pytest.mark.parametrize("path", ["/api", "/billing/usage", "/billing/keys", "/anything"])
def test_guessed_keys(shop: Shop, looked_up: list[Any], path: str) -> None:
    """A05: a guess whose checksum is wrong never reaches the store; a well-formed one asks it once."""
    for n in range(50):
        assert shop.client.get(path, headers={"X-API-Key": f"fb_test_{n:043d}"}).status_code == 401
    assert looked_up == []
    for _ in range(3):
        assert shop.client.get(path, headers={"X-API-Key": STRANGE_KEY}).status_code == 401
    assert len(looked_up) == 1


ODD_KEYS = [
    b"fb_test_\xff\xfe\x80",
    "fb_test_ключ".encode(),
    b"fb_test_" + "𝟘".encode() * 43,
    b"fb_test_" + b"\xc2\xa0" * 43,
    b"fb_live_\x00" + b"0" * 42,
    b"fb_test_" + b"0" * 100_000,
    b"fb_test_%30%30",
    STRANGE_KEY.replace("fb_test_", "fb_test_\u200b").encode(),
    STRANGE_KEY.encode() + b"\x00",
    b"fb_" * 10_000,
]


def test_odd_keys(shop: Shop, looked_up: list[Any]) -> None:
    """A22: keys of unicode, of control characters and of giant length are 401 and never come back in the answer."""
    for key in ODD_KEYS:
        for headers in ([(b"x-api-key", key)], [(b"authorization", b"Bearer " + key)]):
            for path in ("/api", "/billing/usage"):
                answer = shop.client.get(path, headers=headers)
                assert (answer.status_code, len(answer.content) < 500, key in answer.content) == (401, True, False)
    assert looked_up == []


@pytest.mark.parametrize("path", ["/api", "/billing/usage"])
def test_several_keys(shop: Shop, path: str) -> None:
    """A23: with two buyers' good keys in one request neither is chosen: 401, and nobody is charged."""
    one, other = shop.buy(), shop.buy()
    a, b = one.key.reveal(), other.key.reveal()
    for headers in (
        [("X-API-Key", a), ("X-API-Key", b)],
        [("X-API-Key", a), ("Authorization", f"Bearer {b}")],
        [("Authorization", f"Bearer {a}"), ("Authorization", f"Bearer {b}")],
        [("Authorization", f"Bearer {a}"), ("X-API-Key", "not-a-key")],
    ):
        answer = shop.client.get(path, headers=headers)
        assert answer.status_code == 401, headers
        assert answer.json()["code"] == "credentials_conflict"
    assert (used(shop, one), used(shop, other)) == (0, 0)


@pytest.mark.parametrize(
    "path",
    [
        "/billing/claim?session_id=cs_%0d%0aSet-Cookie:%20a=b",
        "/billing/%0d%0aevent='started'%20forged=1",
        "/billing/claim%00?session_id=%00",
        "/billing?next=%0d%0aLocation:%20https://evil.example",
        "/billing/static/..%2f..%2fconfig.py%0a",
    ],
)
def test_line_breaks(shop: Shop, path: str, caplog: pytest.LogCaptureFixture) -> None:
    """A08: line breaks and NUL in what is sent reach no header of the answer and begin no line in the log."""
    with caplog.at_level(logging.DEBUG, logger="farebox"):
        for method in ("GET", "POST"):
            for accept in ("application/json", "text/html"):
                headers = {"Accept": accept, "X-API-Key": "fb_\x0bx"}
                answer = shop.client.request(method, path, headers=headers)
                assert answer.status_code < 500
                assert "set-cookie" not in answer.headers
                assert answer.headers.get("location", PUBLIC_URL).startswith(PUBLIC_URL)
                assert not [v for v in answer.headers.values() if "\n" in v or "\r" in v or "\0" in v]
    assert not [r.getMessage() for r in caplog.records if set(r.getMessage()) & set("\r\n\0")]


BODIES = [("/checkout", BODY_BYTES_MAX), ("/claim", BODY_BYTES_MAX), ("/keys", BODY_BYTES_MAX)]
BODIES += [("/keys/key_x/rotate", BODY_BYTES_MAX), ("/webhook", WEBHOOK_BODY_BYTES_MAX)]


@pytest.mark.parametrize(("path", "most"), BODIES)
def test_giant_bodies(shop: Shop, path: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A11, A03: a body beyond the bound is 413, declared, sent piece by piece, or with a length that lies, and no
    signature is computed over it."""
    claimed = shop.buy()
    verified: list[bytes] = []
    monkeypatch.setattr(shop.provider, "verify_webhook", lambda body, *_, **__: verified.append(body))
    url, key = f"/billing{path}", bearer(claimed.key)
    shop.asked.clear()
    answers = [
        shop.client.post(url, content=b" " * (most + 1), headers=key),
        shop.client.post(url, content=(b" " * 4096 for _ in range(most // 4096 + 2)), headers=key),
        shop.client.post(url, content=b" " * (most + 1), headers={**key, "Content-Length": "1"}),
        shop.client.post(url, content=b" " * (most + 1), headers={**key, "Content-Length": "-1"}),
        shop.client.post(url, content=b"{}", headers={**key, "Content-Length": "9" * 4_000}),
        shop.client.post(url, content=b" " * (most + 1), headers={**key, "Content-Type": FORM}),
    ]
    assert [(a.status_code, a.json()["code"]) for a in answers] == [(413, "body_too_large")] * len(answers)
    assert (verified, shop.asked) == ([], [])


def test_the_largest_body(shop: Shop) -> None:
    """A11: a body of exactly the bound is read and judged for what it says."""
    body = b'{"plan": "gold"}'.ljust(BODY_BYTES_MAX)
    answer = shop.client.post("/billing/checkout", content=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "plan_unknown")


def test_giant_texts(shop: Shop) -> None:
    """A11: giant paths, queries, headers and fields are refused or ignored, and never come back in the answer."""
    giant, key = "A" * 60_000, bearer(shop.buy().key)
    answers = [
        shop.client.get(f"/billing/claim?session_id={giant}"),
        shop.client.get(f"/billing/{giant}"),
        shop.client.post(f"/billing/keys/{giant}/rotate", headers=key),
        shop.client.delete(f"/billing/keys/{giant}", headers=key),
        shop.client.get("/billing/usage", headers={"Authorization": f"Bearer {giant}"}),
        shop.client.post("/billing/webhook", content=b"{}", headers={"Stripe-Signature": f"t=1,v1={giant}"}),
        shop.client.post("/billing/checkout", json={"plan": giant}),
        shop.client.post("/billing/checkout", json={"plan": "payg", "email": giant}),
    ]
    assert [a.status_code for a in answers] == [404, 404, 404, 404, 401, 400, 422, 422]
    assert all(len(a.content) < 1_000 for a in answers)


def test_forms_of_other_sites(shop: Shop) -> None:
    """A15: a form or script on another site can neither begin a purchase nor take its key with a buyer's browser. One
    on the seller's own site may begin a purchase, and no more."""
    session_id = shop.checkout()
    shop.pay(session_id)
    for site in ("cross-site", "same-site", "nonsense", ""):
        for kind in (FORM, "text/plain", "multipart/form-data; boundary=x", ""):
            headers = {"Sec-Fetch-Site": site, "Content-Type": kind, "Origin": "https://evil.example", **HTML}
            claim = ("claim", f"session_id={session_id}".encode())
            paths = [claim, ("pay", b"key=fb_test_x")]
            for path, body in paths if site == "same-site" else [*paths, ("checkout", b"plan=payg")]:
                answer = shop.client.post(f"/billing/{path}", content=body, headers=headers)
                assert answer.status_code == 422, (site, kind)
                assert "access-control-allow-origin" not in answer.headers
            shop.clock.pass_seconds(60)  # or the rate limit would answer
    assert len(shop.objects("checkout.session")) == 1
    assert shop.store.keys(shop.store.accounts(limit=1)[0].id) == []


def test_no_ambient_authority(shop: Shop) -> None:
    """A15: no route sets a cookie, and a cookie opens none: there is nothing that a browser would send by itself."""
    claimed = shop.buy()
    cookies = {"Cookie": f"key={claimed.key.reveal()}; X-API-Key={claimed.key.reveal()}"}
    for method, path in [("GET", "/"), ("GET", "/usage"), ("POST", "/portal"), ("POST", "/keys"), ("GET", "/claim")]:
        answer = shop.client.request(method, f"/billing{path}", headers=cookies)
        assert "set-cookie" not in answer.headers
        assert answer.status_code == {"/": 200, "/claim": 404}.get(path, 401)


def test_another_accounts_ids(shop: Shop) -> None:
    """A16, I11: another account's ids are answered exactly as ids that nobody has, and nothing of it is shown."""
    mine, theirs = shop.buy(), shop.buy()
    shop.call(theirs.key, 3)
    key = bearer(mine.key)
    for method, path in [("POST", "/keys/{}/rotate"), ("DELETE", "/keys/{}")]:
        answers = [
            shop.client.request(method, "/billing" + path.format(id), headers=key)
            for id in (theirs.key_id, "key_nobody", theirs.account_id, mine.account_id)
        ]
        assert {a.status_code for a in answers} == {404}
        assert len({a.content for a in answers}) == 1
    for path in ("/usage", "/keys", f"/usage?account={theirs.account_id}", f"/keys?account_id={theirs.account_id}"):
        answer = shop.client.get(f"/billing{path}", headers={**key, "X-Account": theirs.account_id})
        assert answer.status_code == 200
        assert not {theirs.account_id, theirs.key_id, theirs.key.reveal()[-4:]} & set(answer.text.split('"'))
    assert shop.client.get("/billing/usage", headers=key).json()["meters"][0]["quantity"] == 0
    named = shop.client.post("/billing/keys", json={"name": "x", "account": theirs.account_id}, headers=key)
    assert named.status_code == 422
    assert shop.client.get("/api", headers=bearer(theirs.key)).status_code == 200


@pytest.mark.parametrize("host", [EVIL, f"{EVIL}:443", f"{EVIL}/billing?", "[", "a b", "", "~", f"x@{EVIL}"])
def test_host_header(shop: Shop, host: str) -> None:
    """A19, A18: no link, redirect, page or Stripe session is made from a header: only from the configured address."""
    claimed = shop.buy()
    headers = {"Host": host, "X-Forwarded-Host": EVIL, "X-Forwarded-Prefix": "/evil", "Forwarded": f"host={EVIL}"}
    headers |= {"Referer": f"https://{EVIL}/", "X-Original-URL": f"https://{EVIL}/"}
    key = {**headers, **bearer(claimed.key)}
    session_id = shop.client.post("/billing/checkout", json={"plan": "payg"}, headers=headers).json()["id"]
    made = shop.stripe.objects["checkout.session"][session_id]
    assert made["success_url"].startswith(f"{PUBLIC_URL}/billing/claim?session_id=")
    assert made["cancel_url"] == f"{PUBLIC_URL}/billing/"
    shop.pay(session_id)
    answers = [
        shop.client.get("/billing", headers=headers),
        shop.client.get("/billing/", headers=headers),
        shop.client.get("/billing/usage/", headers=headers),
        shop.client.get("/billing/nothing", headers={**headers, **HTML}),
        shop.client.get(f"/billing/claim?session_id={session_id}", headers=headers),
        shop.client.post("/billing/claim", data={"session_id": session_id}, headers={**headers, **HTML}),
        shop.client.post("/billing/portal", headers=key),
        shop.client.get("/billing/openapi.json", headers=headers),
    ]
    assert [a.status_code for a in answers] == [307, 200, 404, 404, 200, 201, 200, 200]
    assert answers[0].headers["location"] == f"{PUBLIC_URL}/billing/"
    assert not [a for a in answers if EVIL in a.text or EVIL in str(a.headers)]
    assert not [p for p in shop.objects("billing_portal.session") if EVIL in json.dumps(p, default=str)]


async def _served(request: Request) -> Response:
    return PlainTextResponse("served", int(request.query_params.get("status", 200)))


SPELLINGS = """
    /api /api%0A /api%0D%0A /%61pi /api? /api%3F /api#x /api;v=1 //api /./api /x/../api /api/. /api/ /api%2F /API
    /api%00 /api%20 /api%09 /api%0D /api%E2%80%A8 /api%C2%85 /api%5C /billing/../api /billing%2F..%2Fapi /ap%C4%B1
"""


def test_spellings_of_a_path(shop: Shop) -> None:
    """A25, A20: there is no spelling of a priced path that the application serves and that costs nothing."""
    claimed, client, free = shop.buy(), client_of(shop, _served), []
    for path in SPELLINGS.split():
        before = used(shop, claimed)
        answer = client.get(path, headers=bearer(claimed.key), follow_redirects=False)
        if (answer.status_code == 200) != (used(shop, claimed) == before + 1):
            free.append(path)
    assert free == []


RIDES: list[tuple[str, dict[str, str], int, int]] = [
    ("GET", {"Range": "bytes=0-0"}, 200, 1),
    ("GET", {"If-None-Match": "*"}, 200, 1),
    ("HEAD", {}, 200, 1),
    ("GET", {"X-HTTP-Method-Override": "OPTIONS"}, 200, 1),
    ("GET", {"Origin": "https://a.example", "Access-Control-Request-Method": "GET"}, 200, 1),
    ("OPTIONS", {}, 405, 0),
    ("TRACE", {}, 405, 0),
]


def test_free_rides(shop: Shop) -> None:
    """A25: no header makes a served answer free, and every method has its rule."""
    claimed, client = shop.buy(), client_of(shop, _served, ["GET"])
    for method, headers, status, quantity in RIDES:
        before = used(shop, claimed)
        answer = client.request(method, "/api", headers={**headers, **bearer(claimed.key)})
        assert (answer.status_code, used(shop, claimed) - before) == (status, quantity), (method, headers)


def test_wrong_quantities(shop: Shop) -> None:
    """A26: a quantity that is none is 500 in words that tell nothing of the code, and the whole call is free."""
    wrong: list[Any] = [-1, 0.5, 1.0, True, float("nan"), QUANTITY_MAX + 1, 10**40, "3", None]

    async def charging(request: Request) -> Response:
        current_call().charge("calls", 2)
        current_call().charge("calls", wrong[int(request.query_params["n"])])
        return PlainTextResponse("served")

    claimed, client = shop.buy(), client_of(shop, charging)
    for n, quantity in enumerate(wrong):
        answer = client.get(f"/api?n={n}", headers=bearer(claimed.key))
        assert (answer.status_code, answer.json()["code"]) == (500, "quantity_invalid"), quantity
        assert answer.json()["detail"] == "A quantity must be a whole number, zero or more"
    assert used(shop, claimed) == 0


TAMPERED: list[dict[str, Any]] = [
    {"unit_amount": "0"},
    {"price": "price_free"},
    {"line_items": [{"price": "price_free", "quantity": 1}]},
    {"currency": "jpy"},
    {"discounts": [{"coupon": "free"}]},
    {"trial_period_days": 10_000},
    {"account": "acct_other"},
    {"customer": "cus_other"},
    {"success_url": "https://evil.example"},
    {"mode": "setup"},
]


def test_tampered_checkout(shop: Shop) -> None:
    """A27, A18: a purchase says which plan and no more; whatever else is sent along is refused and nothing is made."""
    for more in TAMPERED:
        answer = shop.client.post("/billing/checkout", json={"plan": "payg", **more})
        assert (answer.status_code, answer.json()["code"]) == (422, "input_invalid"), more
        form = {"plan": "payg", **{name: str(value) for name, value in more.items()}}
        assert shop.client.post("/billing/checkout", data=form).status_code == 422
    assert (shop.objects("checkout.session"), shop.asked) == ([], [])


def test_checkout_sells_the_catalog(shop: Shop) -> None:
    """A27: what Stripe is asked to sell is the plan's own price at the catalog's amount, and nothing else."""
    session = shop.stripe.objects["checkout.session"][shop.checkout(plan="bulk")]
    shop.pay(session["id"])
    (subscription,) = shop.objects("subscription")
    prices = [item["price"] for item in subscription["items"]["data"]]
    assert [(p["lookup_key"], str(p["unit_amount_decimal"])) for p in prices] == [("farebox_bulk_calls", "1.5")]


@pytest.mark.parametrize("admin", [True, False])
def test_metrics_are_closed(tmp_path: Path, admin: bool) -> None:
    """A33: the figures open to the operator's token alone, and with none configured to nobody, not to an empty one."""
    with open_shop(tmp_path, admin=admin) as shop:
        key = shop.buy().key.reveal()
        tried = ["", "Bearer", "Bearer ", f"Bearer {key}", f"Bearer {ADMIN_TOKEN}x", f"Bearer {ADMIN_TOKEN[:-1]}"]
        tried += [f"Basic {ADMIN_TOKEN}", ADMIN_TOKEN, "Bearer None", "Bearer \xff", f"Bearer {ADMIN_TOKEN.upper()}"]
        for value in tried:
            answer = shop.client.get("/billing/metrics", headers=[(b"authorization", value.encode("latin-1"))])
            assert (answer.status_code, answer.json()["code"]) == (403, "operator_only"), value
            assert "farebox_" not in answer.text
        found = shop.client.get("/billing/metrics", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})
        assert found.status_code == (200 if admin else 403)
        assert shop.client.get(f"/billing/metrics?token={ADMIN_TOKEN}").status_code == 403


CLOSED = """
    /docs /redoc /debug /admin /console /.env /farebox.toml /static/ /static/../pages.py /static/%2e%2e/pages.py
    /static/..%2Fpages.py /claim.html /metrics/ /keys/ /__init__.py
"""


def test_debug_pages_are_closed(shop: Shop) -> None:
    """A33: under the prefix there is nothing but what the documentation lists: no debug page, no file."""
    for path in CLOSED.split():
        for headers in ({}, HTML):
            answer = shop.client.get(f"/billing{path}", headers=headers)
            assert (answer.status_code, "Traceback" in answer.text) == (404, False), path


def test_what_errors_tell(shop: Shop) -> None:
    """A34: whether an e-mail, a purchase, a key or an account exists cannot be read off any refusal."""
    claimed = shop.buy()
    shop.client.post("/billing/checkout", json={"plan": "payg", "email": "known@example.test"})
    known, unknown = (
        shop.client.post("/billing/checkout", json={"plan": "payg", "email": f"{name}@example.test"})
        for name in ("known", "nobody")
    )
    assert (known.status_code, set(known.json())) == (unknown.status_code, set(unknown.json())) == (201, {"id", "url"})
    others = shop.at_stripe("GET", "/v1/customers")["data"][0]["id"]
    for ids in ([others, "cus_none"], ["cs_test_" + "a" * 24, "cs_live_" + "a" * 24], [claimed.key_id, "key_none"]):
        looks = [shop.client.get(f"/billing/claim?session_id={id}") for id in ids]
        takes = [shop.client.post("/billing/claim", json={"session_id": id}) for id in ids]
        assert {answer.status_code for answer in looks + takes} == {404}
        assert len({answer.content for answer in looks + takes}) == 1
    body = b'{"id": "evt_1"}'
    refusals = [
        shop.client.post("/billing/webhook", content=body, headers={"Stripe-Signature": header})
        for header in ("", "t=1,v1=00", signed(body, shop.clock.system_at(), "whsec_of_somebody_else_entirely"))
    ]
    assert {r.status_code for r in refusals} == {400}
    assert not [r for r in refusals if "whsec" in r.text or "stored" in r.text]
