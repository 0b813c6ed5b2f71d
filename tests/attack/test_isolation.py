"""A16, A34: whatever a buyer names, only their own is there; another's is answered exactly as what nobody has."""

import re
from pathlib import Path
from typing import Any

import pytest
from tests.shop import CATALOG, Shop, bearer, open_shop

from farebox.billing.claim import Claimed
from farebox.web.collisions import BILLING_ROUTES

# What each route may be given that names a thing of somebody: a path with its place, or a body's field.
NAMING: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("GET", "/claim"): [{"params": "session_id"}],
    ("POST", "/claim"): [{"json": "session_id"}, {"data": "session_id"}],
    ("POST", "/keys/{id}/rotate"): [{}],
    ("DELETE", "/keys/{id}"): [{}],
}
# Answers 200 whatever it is given: judged by a test of its own.
NAMING_INSIDE = {("POST", "/events")}
SAYING_NOTHING = {
    ("GET", "/"),
    ("GET", "/usage"),
    ("GET", "/invoices/upcoming"),
    ("GET", "/subscription"),
    ("POST", "/subscription"),
    ("DELETE", "/subscription/change"),
    ("GET", "/keys"),
    ("POST", "/keys"),
    ("POST", "/portal"),
    ("GET", "/pay"),
    ("POST", "/pay"),
    ("POST", "/checkout"),
    ("POST", "/webhook"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
}


def test_every_route_is_judged_here(shop: Shop) -> None:
    """A16: a route that is added must be added here too, and no route with an id in its path goes without a probe."""
    assert set(NAMING) | NAMING_INSIDE | SAYING_NOTHING == set(BILLING_ROUTES)
    described = shop.client.get("/billing/openapi.json").json()["paths"]
    named = {(method.upper(), path) for path, item in described.items() for method in item}
    assert named <= set(BILLING_ROUTES)
    assert {(m, path) for m, path in BILLING_ROUTES if "{" in path} <= set(NAMING)


def theirs_and_nobodys(shop: Shop, mine: Claimed, theirs: Claimed) -> list[tuple[str, str]]:
    """Pairs of an id that another account has, and one of the same form that nobody has."""
    account = shop.account(theirs)
    (subscription,) = shop.store.subscriptions(theirs.account_id)
    ids = [theirs.key_id, theirs.account_id, str(account.customer_id), subscription.id, subscription.items[0].id]
    ids += [str(shop.account(mine).customer_id), mine.account_id]
    return [(id, re.sub(r"_(.*)$", lambda found: "_" + "0" * len(found[1]), id)) for id in ids]


def told(answer: Any) -> tuple[int, bytes, dict[str, str]]:
    return answer.status_code, answer.content, {k: v for k, v in answer.headers.items() if k != "date"}


@pytest.mark.parametrize("accept", ["application/json", "text/html"])
def test_ids_of_others_on_every_route(shop: Shop, accept: str) -> None:
    """A16, A34: status, headers and body for another account's id are those for an id that nobody has, and nothing of
    theirs changes."""
    mine, theirs = shop.buy(), shop.buy()
    shop.call(theirs.key, 2)
    before = shop.store.keys(theirs.account_id), shop.store.subscriptions(theirs.account_id)
    headers = {**bearer(mine.key), "Accept": accept}
    for (method, path), ways in NAMING.items():
        for known, unknown in theirs_and_nobodys(shop, mine, theirs):
            for way in ways:
                answers = []
                for id in (known, unknown):
                    more: dict[str, Any] = {kind: {field: id} for kind, field in way.items()}
                    answer = shop.client.request(method, "/billing" + path.format(id=id), headers=headers, **more)
                    answers.append(told(answer))
                assert answers[0] == answers[1], (method, path, known)
                assert answers[0][0] == 404
                shop.clock.pass_seconds(2)  # or the rate limit would answer
                shop.runtime.gate.poll()
    assert before == (shop.store.keys(theirs.account_id), shop.store.subscriptions(theirs.account_id))
    assert len(shop.store.keys(mine.account_id)) == 1


def test_events_for_others(tmp_path: Path) -> None:
    """A16, A34: an event that names another's account, or an id that another has used, is answered as one that names
    nobody's, and nothing of theirs changes."""
    with open_shop(tmp_path, catalog=CATALOG + '[events]\nfrom = ["operator", "key"]\n') as shop:
        mine, theirs = shop.buy(), shop.buy()
        event = {"id": "job", "meter": "calls", "quantity": 5}
        shop.client.post("/billing/events", json=event, headers=bearer(theirs.key))
        for known, unknown in theirs_and_nobodys(shop, mine, theirs):
            if known != mine.account_id:
                answers = [
                    told(shop.client.post("/billing/events", json={**event, "account": id}, headers=bearer(mine.key)))
                    for id in (known, unknown)
                ]
                assert answers[0] == answers[1], known
                assert b"account_unknown" in answers[0][1]
        own = shop.client.post("/billing/events", json={**event, "quantity": 7}, headers=bearer(mine.key))
        assert own.json()["results"][0]["status"] == "recorded"
        used = [sum(line.quantity for line in shop.store.usage(b.account_id, 0, 2**40)) for b in (mine, theirs)]
        assert used == [7, 5]


FIELDS = ["account", "account_id", "customer", "customer_id", "key", "key_id", "id", "subscription"]


def test_fields_that_name_another(shop: Shop) -> None:
    """A16: no query, header or body's field turns a buyer's own routes to another account."""
    mine, theirs = shop.buy(), shop.buy()
    shop.call(theirs.key, 2)
    key = bearer(mine.key)
    secrets = [theirs.account_id, theirs.key_id, str(shop.account(theirs).customer_id), theirs.key.reveal()[-4:]]
    for field in FIELDS:
        for id in secrets[:3]:
            sent = {**key, f"X-{field}": id, field: id, "Cookie": f"{field}={id}"}
            for path in ("usage", "keys", "invoices/upcoming"):
                answer = shop.client.get(f"/billing/{path}", params={field: id}, headers=sent)
                assert answer.status_code == 200
                assert not [text for text in secrets if f'"{text}"' in answer.text]
                if path == "usage":
                    assert answer.json()["meters"][0]["quantity"] == 0
            for path in ("keys", "checkout"):
                answer = shop.client.post(f"/billing/{path}", json={"plan": "payg", field: id}, headers=sent)
                assert (answer.status_code, answer.json()["code"]) == (422, "input_invalid")
        shop.clock.pass_seconds(60)
        shop.runtime.gate.poll()
    assert len(shop.store.keys(theirs.account_id)) == len(shop.store.keys(mine.account_id)) == 1


def test_ids_that_nobody_can_have(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A16, A17: an id with characters that no database holds is 404 without a question to it."""
    asked: list[str] = []
    end = shop.store.end_key

    def spied(account_id: str, key_id: str, **more: Any) -> bool:
        asked.append(key_id)
        return end(account_id, key_id, **more)

    monkeypatch.setattr(shop.store, "end_key", spied)
    key = bearer(shop.buy().key)
    for id in ("%00", "key_%00", "%0a", "key_%ed%a0%80", "key_%ff"):
        for method, path in (("DELETE", id), ("POST", f"{id}/rotate")):
            answer = shop.client.request(method, f"/billing/keys/{path}", headers=key)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), id
    assert not [id for id in asked if not id.isprintable()]


def test_one_refusal_for_all_bad_keys(shop: Shop) -> None:
    """A34: a key of another mode, with a wrong checksum, cut or grown: one and the same answer, everywhere;
    only who holds a key that was good learns what became of it."""
    good = shop.buy()
    text = good.key.reveal()
    flipped = text[:-1] + ("0" if text[-1] != "0" else "1")
    strangers = [flipped, text.replace("test", "live"), text[:-1], text + "0", text.swapcase(), "fb_test_", "fb_", "x"]
    for path in ("/api", "/billing/usage", "/billing/keys", "/nothing/here"):
        answers = [told(shop.client.get(path, headers={"X-API-Key": key})) for key in strangers]
        assert answers[0][0] == 401
        assert [a for a in answers if a != answers[0]] == [], path
    missing = [told(shop.client.get(path)) for path in ("/api", "/nothing/here", "/billing/usage")]
    assert {status for status, _, _ in missing} == {401}
    assert len({body for _, body, _ in missing}) == 1


def test_purchases_of_others(shop: Shop) -> None:
    """A34: of a purchase that is paid and taken a stranger learns no more than that its link is spent."""
    session_id = shop.checkout()
    shop.pay(session_id)
    claimed = shop.claim(session_id)
    shop.call(claimed.key)
    for answer in (
        shop.client.get("/billing/claim", params={"session_id": session_id}),
        shop.client.post("/billing/claim", json={"session_id": session_id}, headers=bearer(shop.buy().key)),
    ):
        assert answer.status_code == 409
        account = shop.account(claimed)
        for text in (account.id, str(account.customer_id), claimed.key_id, "buyer@example.test", "payg"):
            assert text not in answer.text
