"""Whatever is sent, the answer is Stripe's in shape: never an exception, never a fault of our own, and time goes on.

What is sent is drawn from Stripe's own description of its endpoints, and then bent. What is answered is judged against
that description besides, as in every test.
"""

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.description import described as description
from tests.description import spec_file
from tests.judge import told
from tests.unit.sandbox.town import BAD_CARD_LATER, DAY, START_AT, Reply, Seller, Town, form

from farebox.sandbox import Sandbox
from farebox.sandbox.ids import Ids

pytestmark = pytest.mark.skipif(spec_file() is None, reason="Stripe's description is not installed")

ROUTES: Final = sorted({(route.method, route.template) for route, _ in Sandbox()._routes})
PLACES: Final = st.sampled_from(ROUTES)
JUNK: Final = st.one_of(
    st.sampled_from(
        ["", "0", "-1", "1e400", "NaN", "null", "true", "9" * 30, "0.1", "💸", "../..", "%00", "a" * 5_001]
    ),
    st.text(max_size=12),
)
NUMBERS: Final = st.sampled_from([0, 1, 2, -1, 100, 10**12, START_AT - DAY, START_AT, START_AT + 60, START_AT + DAY])
MONEY: Final = st.sampled_from(["0", "1", "0.5", "12.000000000001", "-3", "1000000000000"])
NAMES: Final = st.sampled_from(["calls", "usd", "eur", "USD", "month", "payg", "ada@example.test", "https://x.example"])


LIKELY: Final = {
    "billing_mode": {"type": "flexible"},
    "currency": "usd",
    "event_name": "calls",
    "mode": "subscription",
    "payload": {"stripe_customer_id": "cus_1", "value": "3"},
    "success_url": "https://x.example",
    "up_to": "inf",
    "url": "https://x.example/hook",
}
USUAL: Final = {
    "POST /v1/billing_portal/sessions": ("customer",),
    "POST /v1/checkout/sessions": ("line_items", "mode", "success_url"),
    "POST /v1/coupons": ("duration", "percent_off"),
    "POST /v1/invoiceitems": ("amount", "currency", "customer"),
    "POST /v1/invoices/create_preview": ("subscription",),
    "POST /v1/prices": ("product", "unit_amount_decimal"),
    "POST /v1/subscriptions": ("customer", "items"),
}
PREFIXES: Final = {
    "configurations": "bpc_",
    "coupons": "coupon",
    "credit_grants": "credgr_",
    "customers": "cus_",
    "default_payment_method": "pm_",
    "endpoints": "we_",
    "events": "evt_",
    "invoices": "in_",
    "meters": "mtr_",
    "payment_methods": "pm_",
    "prices": "price_",
    "products": "prod_",
    "promotion_codes": "promo_",
    "sessions": "cs_",
    "subscriptions": "sub_",
    "subscription_items": "si_",
    "webhook_endpoints": "we_",
}


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    """By path, whatever its ids are called: the parameters that Stripe describes."""
    paths = description()["paths"]
    return {
        f"{method} {_nameless(path)}": found["params"]
        for path, methods in paths.items()
        for method, found in methods.items()
    }


def _nameless(path: str) -> str:
    return "/".join("{}" if part.startswith("{") else part for part in path.split("/"))


@contextmanager
def counted_ids() -> Iterator[None]:
    """Ids that are the same on each run, so that a failure can be had again."""
    numbers = itertools.count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ids, "new", lambda self, prefix: f"{prefix}{next(numbers):024}")
        patch.setattr(Ids, "fraction", lambda self: 0)
        yield


def world() -> Seller:
    """A seller with subscribers who pay and who do not, invoices of each kind, and a webhook endpoint."""
    seller = Seller()
    seller.listen()
    for card in ("4242424242424242", BAD_CARD_LATER):
        seller.use(seller.subscribe(card)["customer"], "5")
    seller.post("/v1/billing_portal/configurations", features={"invoice_history": {"enabled": True}})
    seller.checkout(seller.price_id)
    seller.move(31 * DAY + 7_200)
    seller.subscribe()
    return seller


def ids_of(town: Town) -> list[str]:
    return [id for state in town.sandbox.accounts.values() for things in state.objects.values() for id in things]


def draw_id(data: st.DataObject, name: str, ids: list[str]) -> str:
    """An id of the kind that the name speaks of, mostly."""
    prefix = PREFIXES.get(name, PREFIXES.get(f"{name}s", "?"))
    fitting = [id for id in ids if id.startswith(prefix)] or ids
    return data.draw(st.sampled_from(fitting if data.draw(st.integers(0, 9)) else ids))


def draw_value(data: st.DataObject, name: str, schema: Any, ids: list[str], depth: int = 0) -> Any:
    """A value that the description allows, or nearly."""
    if not isinstance(schema, dict) or depth > 4:
        return data.draw(JUNK)
    if name in ("items", "line_items") and isinstance(schema.get("items"), dict) and data.draw(st.integers(0, 4)):
        return [{"price": draw_id(data, "price", ids)}]
    if name in LIKELY and data.draw(st.integers(0, 9)):
        return LIKELY[name]
    if "anyOf" in schema:
        return draw_value(data, name, data.draw(st.sampled_from(schema["anyOf"])), ids, depth + 1)
    if "enum" in schema:
        return data.draw(st.sampled_from(schema["enum"]))
    match schema.get("type"):
        case "object":
            inner = schema.get("properties") or {data.draw(NAMES): schema.get("additionalProperties")}
            must = [name for name in schema.get("required", ()) if name in inner]
            more = data.draw(st.lists(st.sampled_from(sorted(inner)), max_size=3, unique=True))
            return {name: draw_value(data, name, inner[name], ids, depth + 1) for name in dict.fromkeys(must + more)}
        case "array":
            return [
                draw_value(data, name, schema.get("items"), ids, depth + 1) for _ in range(data.draw(st.integers(0, 2)))
            ]
        case "integer" | "number":
            return data.draw(NUMBERS)
        case "boolean":
            return data.draw(st.booleans())
    if name in PREFIXES or f"{name}s" in PREFIXES:
        return draw_id(data, name, ids)
    return data.draw(MONEY if "decimal" in name else st.one_of(MONEY, NAMES, JUNK))


def draw_request(data: st.DataObject, described: dict[str, Any], ids: list[str]) -> tuple[str, str, str]:
    """A request to one of the routes: method, path, form."""
    method, template = data.draw(PLACES)
    parts = template.split("/")
    path = "/".join(draw_id(data, parts[i - 1], ids) if part.startswith("{") else part for i, part in enumerate(parts))
    params = described.get(f"{method} {_nameless(template)}", {})
    known = params.get("properties", {})
    more = data.draw(st.lists(st.sampled_from(sorted(known)), max_size=2, unique=True)) if known else []
    names = dict.fromkeys([*params.get("required", ()), *USUAL.get(f"{method} {template}", ()), *more])
    return method, path, form({name: draw_value(data, name, known[name], ids) for name in names})


def check(reply: Reply) -> None:
    """An answer that Stripe could have given, or 501 for what is not modelled."""
    told = reply.json
    assert reply.headers["Request-Id"].startswith("req_")
    if reply.status != 200:
        assert 400 <= reply.status < 500 or reply.status == 501, told
        assert told["error"]["type"] in ("api_error", "card_error", "idempotency_error", "invalid_request_error"), told
        assert told["error"]["message"]


@given(st.data())
def test_what_stripe_describes(described: dict[str, Any], judged_so_far: list[str], data: st.DataObject) -> None:
    """Described requests, in any order and state, are answered in Stripe's shape; and time passes afterwards."""
    with counted_ids():
        town = world()
        for _ in range(data.draw(st.integers(4, 16))):
            method, path, text = draw_request(data, described, ids_of(town))
            check(town.ask(method, path, text))
        town.move(40 * DAY)
        town.deliver()
    faults = list(judged_so_far)
    judged_so_far.clear()
    assert not faults, told(faults)


@given(st.data())
def test_bent_requests(described: dict[str, Any], data: st.DataObject) -> None:
    """A request with parts cut out, doubled, swapped, or put in from elsewhere is answered in Stripe's shape."""
    with counted_ids():
        town = Seller()
    method, path, text = draw_request(data, described, ids_of(town))
    parts = text.split("&")
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(parts) - 1))
        how = data.draw(st.sampled_from(["cut", "double", "nest", "junk", "bracket", "list"]))
        name, _, value = parts[at].partition("=")
        bent = {
            "cut": parts[at][: data.draw(st.integers(0, 9))],
            "double": f"{parts[at]}&{parts[at]}",
            "nest": f"{name}[{data.draw(NAMES)}]={value}",
            "junk": f"{name}={data.draw(JUNK)}",
            "bracket": f"{name}[={value}",
            "list": f"{name}[]={value}&{name}[7]={value}",
        }
        parts[at] = bent[how]
    check(town.ask(method, path, "&".join(parts)))


@given(place=PLACES, body=st.binary(max_size=120), query=st.text(max_size=40))
def test_any_bytes(place: tuple[str, str], body: bytes, query: str) -> None:
    """Bytes that are no form, on every route, are a Stripe-shaped refusal."""
    town = Town()
    url = place[1].replace("{", "").replace("}", "") + "?" + query
    answer = town.sandbox.request(place[0], url, {"Authorization": f"Bearer {town.key}"}, body)
    check(Reply(answer.status, answer.headers, answer.body))


@given(method=st.sampled_from(["GET", "POST", "DELETE", "PUT", "HEAD"]), path=st.text(max_size=30))
def test_any_path(method: str, path: str) -> None:
    """A path that nobody has is a Stripe-shaped 404, or 501 where Stripe has it."""
    town = Town()
    for url in (path, f"/v1/{path}", f"/v1/customers/{path}", f"/v2/{path}"):
        check(town.ask(method, url))


@given(headers=st.dictionaries(st.sampled_from(["Authorization", "Stripe-Version", "Idempotency-Key"]), st.text()))
def test_any_headers(headers: dict[str, str]) -> None:
    """Whatever the key, the version and the idempotency key are, the answer is JSON in Stripe's shape."""
    answer = Sandbox().request("POST", "/v1/customers", headers, b"")
    assert answer.status in (200, 400, 401)
    assert answer.status == 200 or "type" in json.loads(answer.body)["error"]
