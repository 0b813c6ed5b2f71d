"""Attacks by what is sent or passed in: SQL, ids used twice, quantities that are none, depth, length and slow patterns.

Answers are timed with a bound so generous that only a runaway exceeds it.
"""

import asyncio
import json
import re
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from fastapi import FastAPI, Request
from hypothesis import given
from hypothesis import strategies as st
from tests.shop import CATALOG, Shop, bearer

from farebox import Farebox, QuantityInvalid, RecordConflict
from farebox.domain.catalog import Route
from farebox.domain.usage import QUANTITY_MAX
from farebox.errors import AccountUnknown, InputInvalid
from farebox.metering.records import RECORD_ID_CHARACTERS_MAX
from farebox.testing import BuyerClient, Kit
from farebox.web.calls import RouteTable

SECONDS_MAX = 10

INJECTIONS = [
    "' OR '1'='1",
    "' OR 1=1 --",
    "'; DROP TABLE accounts; --",
    "x') UNION SELECT digest, 1, 1 FROM api_keys --",
    '" OR ""="',
    "%' ESCAPE '!",
    "\\'; DELETE FROM api_keys; --",
    "1; PRAGMA writable_schema = 1",
    "${jndi:ldap://x}",
    "{{7*7}}",
    "%(name)s %s :name ?",
]


def rows(shop: Shop) -> dict[str, list[Any]]:
    """The whole ledger."""
    found = {}
    with shop.store.database.read() as connection:
        for table in sorted(sa.inspect(connection).get_table_names()):
            found[table] = [tuple(row) for row in connection.execute(sa.text(f'SELECT * FROM "{table}"'))]  # noqa: S608
    return found


@pytest.mark.parametrize("text", INJECTIONS)
def test_sql_in_every_place(shop: Shop, text: str) -> None:
    """A17: SQL in ids, keys, names and bodies is a text like any other: nothing is found by it and nothing changes."""
    claimed = shop.buy()
    key, before = bearer(claimed.key), rows(shop)
    tried = [
        shop.client.post(f"/billing/keys/{quote(text)}/rotate", headers=key),
        shop.client.delete(f"/billing/keys/{quote(text)}", headers=key),
        shop.client.get("/billing/claim", params={"session_id": text}),
        shop.client.post("/billing/claim", json={"session_id": text}),
        shop.client.post("/billing/checkout", json={"plan": text}),
        shop.client.get("/billing/usage", headers={"X-API-Key": text}),
        shop.client.get("/api", headers={"X-API-Key": f"fb_test_{text}"}),
        shop.client.get("/billing/usage", headers=key, params={"account": text, "meter": text}),
        shop.client.get("/billing/metrics", headers={"Authorization": f"Bearer {text}"}),
        shop.client.post("/billing/webhook", content=text, headers={"Stripe-Signature": text}),
    ]
    assert [a.status_code for a in tried] == [404, 404, 404, 404, 422, 401, 401, 200, 403, 400]
    assert not [a for a in tried if re.search("sqlite|psycopg|syntax|sqlalchemy|digest", a.text, re.IGNORECASE)]
    assert rows(shop) == before
    with pytest.raises(AccountUnknown):
        asyncio.run(shop.runtime.record(text, "calls", 1, record_id="job"))
    made = shop.client.post("/billing/keys", json={"name": text}, headers=key)
    assert made.status_code == 201
    listed = shop.client.get("/billing/keys", headers=key).json()["keys"]
    assert sorted(k["name"] for k in listed) == sorted(["claimed", text])  # kept as it was written
    bought = shop.client.post("/billing/checkout", json={"plan": "payg", "reference": text})
    assert bought.status_code == 201
    assert text in [account.reference for account in shop.store.accounts(limit=9)]


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[Kit]:
    """A seller's application whose one route is charged for what its query says, in code."""
    config = tmp_path / "farebox.toml"
    config.write_text(CATALOG)
    app, farebox = FastAPI(), Farebox()

    @app.get("/spend")
    async def spend(request: Request) -> str:
        farebox.charge("calls", WRONG[int(request.query_params["n"])])
        return "served"

    farebox.protect(app)
    with Kit(app, farebox, config) as opened:
        yield opened


class Sly(int):
    """An int that claims to be in bounds."""

    def __ge__(self, other: object) -> bool:
        return True

    def __le__(self, other: object) -> bool:
        return True


WRONG: list[Any] = [
    *(-1, -(10**30), QUANTITY_MAX + 1, 2**63, 10**40),
    *(0.5, 1.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e308),
    *(True, False, None, "3", b"3", "١", [3], (3,), {"3": 3}),
    *(Decimal(3), Decimal("NaN"), Fraction(3), Fraction(1, 3), complex(3)),
    object(),
    Sly(-5),
    Sly(10**30),
]


def test_wrong_quantities_cost_nothing(kit: Kit) -> None:
    """A26: whatever is no whole number from 0 to the bound is refused by price and record, and nothing is counted; a
    record that was refused has not used up its id. A charge of it is parked, and the answer goes out."""
    buyer = kit.paid_client()
    farebox = kit._farebox
    for n, quantity in enumerate(WRONG):
        answer = buyer.get(f"/spend?n={n}")
        assert (answer.status_code, answer.json()) == (200, "served"), quantity
        assert sum(kit.parked().values()) == n + 1
        with pytest.raises(QuantityInvalid):
            farebox.price("calls", quantity)
        with pytest.raises(QuantityInvalid):
            recorded(kit, buyer, "calls", quantity, "job")
    assert kit.usage(buyer) == {}
    assert {reason for _, reason in kit.parked()} == {"negative", "too_large", "not_whole", "missing"}
    recorded(kit, buyer, "calls", QUANTITY_MAX, "job")
    assert kit.usage(buyer) == {"calls": QUANTITY_MAX}


def recorded(kit: Kit, buyer: BuyerClient, meter: str, quantity: Any, id: Any) -> None:
    portal = buyer.portal
    assert portal is not None
    portal.call(lambda: kit._farebox.record(buyer.account_id, meter, quantity, id=id))


LONG_ID = "i" * RECORD_ID_CHARACTERS_MAX
ODD_IDS: list[Any] = ["", " \n", " ", "\x00", "a\x00b", "a\nb", "\ud800", LONG_ID + "i", None, 7, b"id", ["id"]]


def test_odd_record_ids(kit: Kit) -> None:
    """A24: an id that no ledger can keep is refused in words before anything is written, and hurts nobody else."""
    buyer = kit.paid_client()
    for id in ODD_IDS:
        with pytest.raises(InputInvalid):
            recorded(kit, buyer, "calls", 1, id)
    assert kit.usage(buyer) == {}
    recorded(kit, buyer, "calls", 1, LONG_ID)
    assert kit.usage(buyer) == {"calls": 1}


def test_a_record_id_used_again(kit: Kit) -> None:
    """A24: an id counts once for its account, however often and in whatever crowd; with other values it is a conflict
    that changes nothing; another account's same id is another's."""
    one, other = kit.paid_client(), kit.paid_client()
    for _ in range(3):
        recorded(kit, one, "calls", 5, "job-17")
    for quantity in (4, 6, 0):
        with pytest.raises(RecordConflict):
            recorded(kit, one, "calls", quantity, "job-17")
    recorded(kit, other, "calls", 7, "job-17")
    assert one.portal is not None

    async def crowd() -> list[Any]:
        made = [kit._farebox.record(one.account_id, "calls", n % 2 + 1, id="job-18") for n in range(40)]
        return await asyncio.gather(*made, return_exceptions=True)

    said = one.portal.call(crowd)
    assert [type(error) for error in said].count(RecordConflict) == 20
    (counted,) = {n % 2 + 1 for n, error in enumerate(said) if error is None}
    assert (kit.usage(one), kit.usage(other)) == ({"calls": 5 + counted}, {"calls": 7})


IDEMPOTENT = ["Idempotency-Key", "X-Idempotency-Key", "X-Request-Id", "Stripe-Idempotency-Key"]


def test_idempotency_headers_buy_nothing(shop: Shop) -> None:
    """A24: no header of the caller's makes a call free, replays another's answer, or comes near Stripe's own keys."""
    one, other = shop.buy(), shop.buy()
    headers = dict.fromkeys(IDEMPOTENT, "the same")
    for _ in range(3):
        assert shop.client.get("/api", headers={**headers, **bearer(one.key)}).status_code == 200
    assert sum(line.quantity for line in shop.store.usage(one.account_id, 0, 2**40)) == 3
    sessions = [shop.client.post("/billing/checkout", json={"plan": "payg"}, headers=headers).json() for _ in range(2)]
    assert sessions[0]["id"] != sessions[1]["id"]
    made = [shop.client.post("/billing/keys", headers={**headers, **bearer(b.key)}).json() for b in (one, one, other)]
    assert len({key["key"] for key in made}) == 3
    assert made[2]["account"] == other.account_id


def deep(symbols: str, depth: int) -> bytes:
    return (symbols[0] * depth + symbols[1] * depth).encode()


NESTED = b'{"plan": ' * 7_000 + b"1" + b"}" * 7_000
LONG = "a" * 60_000
HEAVY: dict[str, bytes] = {
    "deep lists": deep("[]", 30_000),
    "deep objects": NESTED[:65_000],
    "closed objects": b'{"a":' * 9_000 + b"1" + b"}" * 9_000,
    "a deep field": b'{"plan": ' + deep("[]", 30_000) + b"}",
    "unclosed": b"[" * 65_000,
    "a long string": json.dumps({"plan": LONG, "email": "", "reference": ""}).encode(),
    "a long name": json.dumps({LONG: 1}).encode(),
    "many names": json.dumps({f"n{n}": n for n in range(4_000)}).encode(),
    "a name of surrogates": b'{"plan": "payg", "\\ud800": 1}',
    "a value of surrogates": b'{"plan": "\\ud800", "session_id": "\\udfff", "name": "\\ud800"}',
    "a long number": b'{"plan": ' + b"9" * 60_000 + b"}",
    "a great exponent": b'{"plan": 1e99999999, "overlap_seconds": 1e99999999}',
    "no numbers": b'{"plan": NaN, "overlap_seconds": Infinity}',
    "NUL": b'{"plan": "\\u0000", "session_id": "\\u0000", "name": "\\u0000"}',
    "no UTF-8": b'{"plan": "\xff\xfe"}',
    "another UTF": '{"plan": "payg"}'.encode("utf-16"),
    "the same name": b'{"plan": "payg", "plan": ["x"]}',
    "dots": ("." * 60_000).encode(),
}
FORMS: dict[str, bytes] = {
    "many fields": b"&".join(b"a=1" for _ in range(16_000)),
    "signs": b"&" * 60_000,
    "escapes": b"plan=" + b"%" * 60_000,
    "equals": b"=" * 60_000,
    "no UTF-8": b"plan=\xff",
    "NUL": b"plan=%00&session_id=%00&name=%00&overlap_seconds=%00",
    "an e-mail of signs": b"plan=payg&email=" + b"@" * 60_000,
    "an e-mail of dots": b"plan=payg&email=" + b"a." * 30_000 + b"!",
}
PATHS = ["checkout", "claim", "keys", "keys/key_x/rotate"]


@pytest.mark.parametrize("name", [*HEAVY, *(f"form: {name}" for name in FORMS)])
def test_heavy_bodies(shop: Shop, name: str) -> None:
    """A32: deep, long and malformed bodies are refused in words, at once, and never come back in the answer."""
    form = name.startswith("form: ")
    body = FORMS[name.removeprefix("form: ")] if form else HEAVY[name]
    kind = "application/x-www-form-urlencoded" if form else "application/json"
    headers = {"Content-Type": kind, **bearer(shop.buy().key)}
    for path in PATHS:
        answer = quick(shop.client.post, f"/billing/{path}", content=body, headers=headers)
        assert answer.status_code == 422, (path, answer.text)
        assert len(answer.content) < 2_000, path


NO_WHOLE_NUMBERS: list[Any] = [True, "60", 0.5, 60.5, None, [], {}, -1]
WRONG_KINDS: list[tuple[str, dict[str, Any]]] = [
    ("checkout", {"plan": ["payg"]}),
    ("checkout", {"plan": "payg", "email": None}),
    ("checkout", {"plan": "payg", "reference": 5}),
    ("claim", {"session_id": 5}),
    ("keys", {"name": True}),
    *[("keys/key_x/rotate", {"overlap_seconds": wrong}) for wrong in NO_WHOLE_NUMBERS],
]


@pytest.mark.parametrize(("path", "body"), WRONG_KINDS)
def test_no_kind_is_guessed(shop: Shop, path: str, body: dict[str, Any]) -> None:
    """A26, A32: in JSON a field has its own kind or is refused: no text is read as a number, no truth as one second."""
    answer = shop.client.post(f"/billing/{path}", json=body, headers=bearer(shop.buy().key))
    assert (answer.status_code, answer.json()["code"]) == (422, "input_invalid")


def quick(ask: Callable[..., Any], *what: Any, **more: Any) -> Any:
    began = time.monotonic()
    answer = ask(*what, **more)
    assert time.monotonic() - began < SECONDS_MAX
    return answer


SLOW = ["a" * 2_000, "/a" * 1_000, "cs_" + "_" * 2_000, "%0a" * 600, "{" * 2_000, "a/" * 999 + "%0A", "é" * 300]


@pytest.mark.parametrize("text", SLOW)
def test_no_pattern_is_slow(shop: Shop, text: str) -> None:
    """A32: no path, id, header or query makes a pattern walk in circles."""
    headers = bearer(shop.buy().key)
    for path in (f"/{text}", f"/api{text}", f"/billing/{text}", f"/billing/keys/{text}/rotate"):
        for method in ("GET", "POST"):
            answer = quick(shop.client.request, method, path, headers=headers)
            assert answer.status_code in (404, 405, 414), path[:40]
    for value in (text, f"t={text}", f"t=1,v1={text}", "t=1," + "v1=a," * 400):
        sent = {"Stripe-Signature": value.encode()}
        assert quick(shop.client.post, "/billing/webhook", headers=sent).status_code == 400
    claim = quick(shop.client.get, "/billing/claim", params={"session_id": text})
    assert claim.status_code == 404


NAMED = "/{a}{b}{c}{d}-{e}{f}-{g}/{h}-{i}-{j}/x"


@pytest.mark.parametrize("path", ["/" + "a" * 1_500 + "/y", "/" + "a-" * 700 + "/" + "b-" * 300 + "/y", "/-" * 1_000])
def test_rules_with_many_names_are_quick(path: str) -> None:
    """A32: a rule with many names in one part of the path does not make a stranger's path walk in circles."""
    assert quick(RouteTable([Route("GET", NAMED, public=True)]).find, "GET", path) is None


@given(
    rule=st.lists(st.sampled_from(["/", "{n}", "a", "-", "."]), max_size=7).map("".join),
    path=st.text("/a-.", max_size=9),
    tail=st.sampled_from(["", "\n"]),
)
def test_rules_match_what_they_say(rule: str, path: str, tail: str) -> None:
    """A32, A20: for all that it never looks again, a rule matches exactly what the plain pattern of it would."""
    plain = re.compile("[^/]+".join(re.escape(text) for text in f"/{rule}".split("{n}")) + "\n?")
    found = RouteTable([Route("GET", f"/{rule}", public=True)]).find("GET", f"/{path}{tail}")
    assert (found is not None) == (plain.fullmatch(f"/{path}{tail}") is not None)
