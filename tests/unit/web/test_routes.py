"""Farebox's own routes over HTTP: who may, what comes back, and what refusals look like."""

import json
from typing import Any

import pytest
from tests.shop import ADMIN_TOKEN, PUBLIC_URL, Shop, bearer, signed

from farebox.web.limits import BURST_REQUESTS_MAX

HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def event(type: str = "customer.subscription.updated", id: str = "evt_1", **changes: Any) -> bytes:
    thing = {"id": "sub_1", "object": "subscription", "customer": "cus_1"}
    document = {"id": id, "object": "event", "type": type, "created": 1_800_000_000, "livemode": False}
    return json.dumps({**document, "data": {"object": thing}, **changes}).encode()


def deliver(shop: Shop, body: bytes, signature: str | None = None) -> Any:
    signature = signature if signature is not None else signed(body, shop.clock.system_at())
    return shop.client.post("/billing/webhook", content=body, headers={"Stripe-Signature": signature})


def test_checkout_as_json(shop: Shop) -> None:
    """JSON in, 201 and JSON out, with the session's id and Stripe's page."""
    answer = shop.client.post("/billing/checkout", json={"plan": "payg", "email": "ada@example.test"})
    made = shop.objects("checkout.session")[0]
    assert (answer.status_code, answer.json()) == (201, {"id": made["id"], "url": made["url"]})


def test_checkout_as_form(shop: Shop) -> None:
    """A plain HTML form is sent on to Stripe's page with 303, without any script."""
    answer = shop.client.post("/billing/checkout", data={"plan": "payg", "email": ""}, headers=HTML)
    assert answer.status_code == 303
    assert answer.headers["location"] == shop.objects("checkout.session")[0]["url"]


def test_checkout_with_a_key(shop: Shop) -> None:
    """A valid key attaches to its own account, which is refused a second subscription with 409."""
    claimed = shop.buy()
    answer = shop.client.post("/billing/checkout", json={"plan": "payg"}, headers=bearer(claimed.key))
    assert (answer.status_code, answer.json()["code"]) == (409, "already_subscribed")


@pytest.mark.parametrize("key", ["fb_test_wrong", "", "fb_test_" + "0" * 43])
def test_checkout_with_a_bad_key(shop: Shop, key: str) -> None:
    """A key that is not valid is refused; it never quietly begins a purchase for a new account."""
    answer = shop.client.post("/billing/checkout", json={"plan": "payg"}, headers={"X-API-Key": key})
    assert answer.status_code == 401
    assert shop.store.accounts(limit=9) == []


def test_unknown_plan(shop: Shop) -> None:
    """422 that names the plans, also as a list; as a page for a form."""
    answer = shop.client.post("/billing/checkout", json={"plan": "gold"})
    assert (answer.status_code, answer.json()["code"]) == (422, "plan_unknown")
    assert answer.json()["plans"] == ["bulk", "payg"]
    page = shop.client.post("/billing/checkout", data={"plan": "gold"}, headers=HTML)
    assert page.status_code == 422
    assert page.headers["content-type"].startswith("text/html")
    assert "bulk, payg" in page.text


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "application/json"),
        (b"{", "application/json"),
        (b"[]", "application/json"),
        (b'"payg"', "application/json"),
        (b'{"plan": 1}', "application/json"),
        (b'{"plan": ["payg"]}', "application/json"),
        (b'{"plan": null}', "application/json"),
        (b'{"plan": "payg", "email": {"$ne": ""}}', "application/json"),
        (b'{"plan": "payg", "unknown": 1}', "application/json"),
        (b'{"\\ud800": "payg"}', "application/json"),
        (b'{"plan": "\\ud800"}', "application/json"),
        (b'{"plan": ' + b"9" * 5_000 + b"}", "application/json"),
        (b"[" * 50_000, "application/json"),
        (b'{"plan": "payg"}\xff', "application/json"),
        (b"plan=%ff%fe", FORM["Content-Type"]),
        (b"\xff\xfe", FORM["Content-Type"]),
        (b"&".join(b"plan=payg" for _ in range(50)), FORM["Content-Type"]),
        (b"plan=payg", "multipart/form-data; boundary=x"),
        (b"plan=payg", "text/plain"),
    ],
)
def test_bad_bodies(shop: Shop, content: bytes, kind: str) -> None:
    """Whatever is wrong with a body is 422 in words: no 500, and nothing is made."""
    answer = shop.client.post("/billing/checkout", content=content, headers={"Content-Type": kind})
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]
    assert shop.asked == []


def test_claim_as_json(shop: Shop) -> None:
    """The key as JSON with 201, kept by no cache; the same key opens the account's routes at once."""
    session_id = shop.checkout()
    shop.pay(session_id)
    answer = shop.client.post("/billing/claim", json={"session_id": session_id})
    assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
    assert answer.json()["plan"] == "payg"
    assert answer.json()["account"] == shop.store.accounts(limit=1)[0].id
    headers = {"Authorization": f"Bearer {answer.json()['key']}"}
    assert shop.client.get("/billing/usage", headers=headers).status_code == 200
    assert shop.client.get("/api", headers=headers).status_code == 200


def test_claim_by_accept(shop: Shop) -> None:
    """The same form post answers a browser with a page and a program with JSON."""
    session_id = shop.checkout()
    shop.pay(session_id)
    page = shop.client.post("/billing/claim", data={"session_id": session_id}, headers=HTML)
    assert (page.status_code, page.headers["content-type"]) == (201, "text/html; charset=utf-8")
    answer = shop.client.post("/billing/claim", data={"session_id": session_id}, headers={"Accept": "application/json"})
    assert answer.json()["key"].startswith("fb_test_")


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_only_post_mints(shop: Shop, method: str) -> None:
    """Link previews, prefetching and HEAD never take the key."""
    session_id = shop.checkout()
    shop.pay(session_id)
    shop.client.request(method, f"/billing/claim?session_id={session_id}")
    assert shop.store.keys(shop.store.accounts(limit=1)[0].id) == []


def test_keys_life(shop: Shop) -> None:
    """Create, list, rotate, revoke over HTTP; a list never shows more than the last four symbols."""
    claimed = shop.buy()
    mine = bearer(claimed.key)
    created = shop.client.post("/billing/keys", json={"name": "ci"}, headers=mine)
    assert (created.status_code, created.headers["cache-control"]) == (201, "no-store")
    listed = shop.client.get("/billing/keys", headers=mine)
    assert {(k["name"], k["current"]) for k in listed.json()["keys"]} == {("claimed", True), ("ci", False)}
    fresh = next(k for k in listed.json()["keys"] if k["name"] == "ci")
    assert fresh["last_four"] == created.json()["key"][-4:]
    assert created.json()["key"][8:-4] not in listed.text
    assert "digest" not in listed.text
    rotated = shop.client.post(
        f"/billing/keys/{created.json()['id']}/rotate", json={"overlap_seconds": 0}, headers=mine
    )
    assert rotated.status_code == 201
    old, new = ({"X-API-Key": a.json()["key"]} for a in (created, rotated))
    assert [shop.client.get("/api", headers=h).status_code for h in (old, new)] == [401, 200]
    assert shop.client.delete(f"/billing/keys/{rotated.json()['id']}", headers=mine).status_code == 204
    assert shop.client.get("/api", headers=new).json()["code"] == "key_revoked"


def test_rotation_without_a_body(shop: Shop) -> None:
    """Rotating with no body at all gives a day of overlap."""
    claimed = shop.buy()
    answer = shop.client.post(f"/billing/keys/{claimed.key_id}/rotate", headers=bearer(claimed.key))
    assert answer.status_code == 201
    old = next(k for k in shop.store.keys(claimed.account_id) if k.id == claimed.key_id)
    assert old.expires_at == shop.clock.now_at() + 86_400


def test_an_inactive_account_keeps_its_pages(shop: Shop) -> None:
    """Without an active subscription calls are 402 with where to pay; keys, usage and the portal stay open."""
    claimed = shop.buy()
    subscription = shop.store.subscriptions(claimed.account_id)[0]
    shop.provider.cancel_subscription(subscription.id, at_period_end=False)
    deliver(
        shop,
        event(data={"object": {"id": subscription.id, "object": "subscription", "customer": subscription.customer_id}}),
    )
    assert shop.runtime.background.worker.step()
    shop.runtime.gate.poll()
    mine = bearer(claimed.key)
    refused = shop.client.get("/api", headers=mine)
    assert (refused.status_code, refused.json()["pay_url"]) == (402, f"{PUBLIC_URL}/billing/")
    for method, path in [("GET", "/keys"), ("POST", "/keys"), ("GET", "/usage"), ("POST", "/portal")]:
        assert shop.client.request(method, f"/billing{path}", headers=mine).status_code in (200, 201), path
    assert shop.client.get("/billing/invoices/upcoming", headers=mine).status_code == 404
    again = shop.client.post("/billing/checkout", json={"plan": "payg"}, headers=mine)
    assert again.status_code == 201


def test_usage_and_upcoming(shop: Shop) -> None:
    """Quantities and cost from the ledger at once; Stripe's preview agrees once they are reported."""
    claimed = shop.buy()
    shop.call(claimed.key, 25)
    usage = shop.client.get("/billing/usage", headers=bearer(claimed.key))
    assert usage.headers["cache-control"] == "no-store"
    assert usage.json()["meters"] == [
        {
            "meter": "calls",
            "quantity": 25,
            "calls": 25,
            "unit_amount": "100",
            "price": "1.00 USD per unit",
            "amount": 2500,
            "limit": None,
        }
    ]
    assert (usage.json()["total"], usage.json()["total_text"]) == (2500, "25.00 USD")
    shop.clock.pass_seconds(60)
    shop.runtime.gate.poll()
    shop.runtime.background.flush()
    upcoming = shop.client.get("/billing/invoices/upcoming", headers=bearer(claimed.key))
    assert (upcoming.json()["total"], upcoming.json()["lines"][0]["quantity"]) == (2500, 25)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/usage"),
        ("GET", "/invoices/upcoming"),
        ("POST", "/portal"),
        ("GET", "/keys"),
        ("POST", "/keys"),
        ("POST", "/keys/key_1/rotate"),
        ("DELETE", "/keys/key_1"),
    ],
)
def test_account_routes_need_a_key(shop: Shop, method: str, path: str) -> None:
    """Without a key, and with one of a wrong checksum: 401 with WWW-Authenticate."""
    for headers in ({}, {"Authorization": "Bearer fb_test_nonsense"}, {"X-API-Key": "fb_test_nonsense"}):
        answer = shop.client.request(method, f"/billing{path}", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith('Bearer realm="farebox"')
        assert answer.headers["content-type"] == "application/problem+json"


def test_webhook_is_stored_once(shop: Shop) -> None:
    """A signed event is acknowledged and stored; the same one again is acknowledged and not stored."""
    body = event()
    assert deliver(shop, body).json() == {"received": True, "stored": True}
    assert deliver(shop, body).json() == {"received": True, "stored": False}
    assert shop.store.inbox_waiting() == 1


def test_webhook_with_a_bad_signature(shop: Shop) -> None:
    """400 with the reason in words, and nothing stored."""
    answer = deliver(shop, event(), signed(event(id="evt_2"), shop.clock.system_at()))
    assert (answer.status_code, answer.json()["code"]) == (400, "signature_invalid")
    assert shop.store.inbox_waiting() == 0


def test_store_lost(shop: Shop) -> None:
    """With the ledger gone every route answers 503 with Retry-After, and Stripe delivers the webhook again."""
    claimed = shop.buy()
    session_id = shop.checkout()
    shop.pay(session_id)
    shop.store.close()
    answers = [
        deliver(shop, event()),
        shop.client.get("/billing/usage", headers=bearer(claimed.key)),
        shop.client.post("/billing/claim", json={"session_id": session_id}),
    ]
    assert [a.status_code for a in answers] == [503, 503, 503]
    assert all(a.headers["retry-after"] == "2" for a in answers)
    shop.store.open()


def test_rate_limit(shop: Shop) -> None:
    """One address gets so many checkouts and claims in a burst; then 429 with Retry-After, and later more."""
    codes = [
        shop.client.post("/billing/checkout", json={"plan": "gold"}).status_code for _ in range(BURST_REQUESTS_MAX)
    ]
    assert set(codes) == {422}
    refused = shop.client.post("/billing/claim", json={"session_id": "cs_x"})
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "2")
    page = shop.client.get("/billing/claim?session_id=cs_x", headers=HTML)
    assert page.status_code == 429
    assert "Try again" in page.text
    shop.clock.pass_seconds(2)
    assert shop.client.post("/billing/claim", json={"session_id": "cs_x"}).status_code == 404


def test_health_and_readiness(shop: Shop) -> None:
    """Alive always; ready only while calls would be let in."""
    assert shop.client.get("/billing/healthz").json() == {"status": "ok"}
    assert shop.client.get("/billing/readyz").json() == {"status": "ready"}
    shop.clock.pass_seconds(3)
    late = shop.client.get("/billing/readyz")
    assert (late.status_code, late.json()) == (503, {"status": "not ready"})
    assert shop.client.get("/billing/healthz").status_code == 200


def test_metrics(shop: Shop) -> None:
    """With the operator's token the figures, as Prometheus reads them."""
    claimed = shop.buy()
    shop.call(claimed.key, 2)
    answer = shop.client.get("/billing/metrics", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})
    assert answer.status_code == 200
    assert "farebox_calls_total 2.0" in answer.text


def test_unknown_paths_and_methods(shop: Shop) -> None:
    """404 and 405 are problem documents too, and 405 says what is allowed."""
    assert shop.client.get("/billing/nothing").json()["code"] == "not_found"
    answer = shop.client.get("/billing/checkout")
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"
    assert shop.client.get("/billing/checkout", headers=HTML).headers["content-type"].startswith("text/html")


def test_a_broken_route_tells_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unforeseen error is 500 without its text, as a document and as a page."""

    def broken(session_id: str) -> None:
        raise RuntimeError("the secret plan of the house")

    monkeypatch.setattr(shop.store, "checkout", broken)
    for headers in ({"Accept": "application/json"}, HTML):
        answer = shop.client.get("/billing/claim?session_id=cs_test_a", headers=headers)
        assert answer.status_code == 500
        assert "secret plan" not in answer.text
        assert "Traceback" not in answer.text


def test_the_prefix_without_its_slash(shop: Shop) -> None:
    """The bare prefix leads to the plans, by the public URL."""
    answer = shop.client.get("/billing")
    assert (answer.status_code, answer.headers["location"]) == (307, f"{PUBLIC_URL}/billing/")


def test_openapi(shop: Shop) -> None:
    """The billing API describes itself: its paths, its bodies, its keys."""
    document = shop.client.get("/billing/openapi.json").json()
    assert document["info"]["title"] == "Farebox billing"
    paths = {"/checkout", "/claim", "/usage", "/invoices/upcoming", "/keys", "/keys/{id}/rotate", "/portal", "/webhook"}
    assert paths <= set(document["paths"])
    assert "requestBody" in document["paths"]["/checkout"]["post"]
    assert document["paths"]["/usage"]["get"]["security"]
