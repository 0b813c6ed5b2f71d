"""Attacks on the webhook's door: what strangers and eavesdroppers may send there, over HTTP, and what it may cost."""

import hmac
import json
from typing import Any

import pytest
from tests.shop import START_AT, Shop, bearer, signed

from farebox.provider.signature import SIGNATURE_WINDOW_SECONDS
from farebox.store.engine import Database
from farebox.web.limits import WEBHOOK_BODY_BYTES_MAX

OTHERS_SECRET = "whsec_of_somebody_else_entirely"


def event(customer: str | None = "cus_1", **more: Any) -> bytes:
    thing = {"id": "sub_1", "object": "subscription", "customer": customer}
    document = {"id": "evt_attack", "object": "event", "type": "customer.subscription.deleted", "created": START_AT}
    return json.dumps({**document, "livemode": False, "data": {"object": thing}, **more}).encode()


@pytest.fixture
def begun(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every transaction that was begun in the ledger, as "read" or "write"."""
    kinds: list[str] = []
    begin = Database._transaction

    def counting(self: Database, kind: str) -> Any:
        kinds.append(kind)
        return begin(self, kind)

    monkeypatch.setattr(Database, "_transaction", counting)
    return kinds


def writes(shop: Shop, kinds: list[str]) -> int:
    return kinds.count("write")


def deliver(shop: Shop, body: bytes, header: str | None) -> tuple[int, str]:
    headers = {"Stripe-Signature": header} if header is not None else {}
    answer = shop.client.post("/billing/webhook", content=body, headers=headers)
    document = answer.json()
    return answer.status_code, document.get("code", str(document.get("stored")))


REFUSED = (400, "signature_invalid")


def test_forged_signatures(shop: Shop) -> None:
    """A01: forged, altered, serialised anew, cut, re-encoded, mis-timed or unsigned: 400, and nothing is stored."""
    body, now = event(), shop.clock.system_at()
    good = signed(body, now)
    digest = good.partition("v1=")[2]
    tried: list[tuple[bytes, str | None]] = [
        (body, None),
        (body, ""),
        (body, f"t={now},v1={'0' * 64}"),
        (body, f"t={now},v1={digest[:-1]}"),
        (body, f"t={now},v1={digest[:32]}"),
        (body, f"t={now},v1={digest.upper()}"),
        (body, f"t={now},v0={digest}"),
        (body, f"t={now}"),
        (body, f"v1={digest}"),
        (body, f"t={now + 1},v1={digest}"),
        (body, f"t={now},t={now},v1={digest}"),
        (body, signed(body, now, OTHERS_SECRET)),
        (body, signed(body, now, "")),
        (body, signed(body, now - SIGNATURE_WINDOW_SECONDS - 1)),
        (body, signed(body, now + SIGNATURE_WINDOW_SECONDS + 1)),
        (body + b"\n", good),
        (body[:-1], good),
        (body.replace(b"sub_1", b"sub_2"), good),
        (json.dumps(json.loads(body), separators=(",", ":")).encode(), good),
        (json.dumps(json.loads(body), sort_keys=True).encode(), good),
        (b"\xef\xbb\xbf" + body, good),
        (b"", good),
    ]
    for number, (sent, header) in enumerate(tried):
        assert deliver(shop, sent, header) == REFUSED, number
    assert shop.store.inbox_waiting() == 0
    assert deliver(shop, body, good) == (200, "True")


def test_a_flood_of_unsigned_webhooks(shop: Shop, begun: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A03: what is not signed costs no transaction of the ledger, and what is too large not even an HMAC."""
    hashed: list[int] = []
    make = hmac.new

    def counting(key: bytes, message: bytes, digest: Any) -> Any:
        hashed.append(len(message))
        return make(key, message, digest)

    monkeypatch.setattr(hmac, "new", counting)
    begun.clear()
    now = shop.clock.system_at()
    for n in range(100):
        assert deliver(shop, event(id=f"evt_{n}"), f"t={now},v1={n:064x}") == REFUSED
        assert deliver(shop, event(id=f"evt_{n}"), None) == REFUSED
    assert (writes(shop, begun), len(hashed)) == (0, 100)
    hashed.clear()
    for n in range(20):
        large = b" " * (WEBHOOK_BODY_BYTES_MAX + 1)
        assert deliver(shop, large, f"t={now},v1={n:064x}") == (413, "body_too_large")
    assert (writes(shop, begun), hashed) == (0, [])
    assert deliver(shop, event(), signed(event(), now)) == (200, "True")
    assert writes(shop, begun) > 0


def test_a_replayed_webhook(shop: Shop) -> None:
    """A04: sent again as it was, an event is acknowledged and changes nothing; after the window it is refused."""
    claimed = shop.buy()
    customer = str(shop.account(claimed).customer_id)
    body, at = event(customer), shop.clock.system_at()
    header = signed(body, at)
    assert deliver(shop, body, header) == (200, "True")
    for _ in range(5):
        assert deliver(shop, body, header) == (200, "False")
    assert shop.store.inbox_waiting() == 1
    while shop.runtime.background.worker.step():
        pass
    assert deliver(shop, body, header) == (200, "False")
    assert shop.store.inbox_waiting() == 0
    shop.clock.pass_seconds(SIGNATURE_WINDOW_SECONDS + 1)
    for replayed in (header, header.replace(str(at), str(shop.clock.system_at())), f"{header},t={at + 1}"):
        assert deliver(shop, body, replayed) == REFUSED
    shop.call(claimed.key)  # it said "deleted", Stripe did not


@pytest.mark.parametrize(
    "more",
    [
        {"livemode": True},
        {"account": "acct_somebody_else"},
        {"type": "customer.subscription.deleted.v2"},
        {"type": "payment_intent.succeeded"},
    ],
    ids=["the other mode", "another account", "an unknown type", "a type of no use"],
)
def test_webhooks_of_others(shop: Shop, begun: list[str], more: dict[str, Any]) -> None:
    """A28: a well signed event of another account, mode or kind is acknowledged, costs no write and changes nothing."""
    claimed = shop.buy()
    begun.clear()
    body = event(str(shop.account(claimed).customer_id), **more)
    assert deliver(shop, body, signed(body, shop.clock.system_at())) == (200, "False")
    assert (begun.count("write"), shop.store.inbox_waiting()) == (0, 0)
    shop.call(claimed.key)


def test_a_webhook_that_lies(shop: Shop) -> None:
    """A28: an event in another customer's name, or nobody's, cannot move an account: only what Stripe says now does."""
    mine, theirs = shop.buy(), shop.buy()
    shop.asked.clear()
    for n, customer in enumerate([str(shop.account(theirs).customer_id), "cus_nobody", None, "acct_' OR 1=1 --"]):
        body = event(customer, id=f"evt_{n}")
        assert deliver(shop, body, signed(body, shop.clock.system_at())) == (200, "True")
    while shop.runtime.background.worker.step():
        pass
    assert shop.store.inbox_waiting() == 0
    for buyer in (mine, theirs):
        shop.call(buyer.key)
        (subscription,) = shop.store.subscriptions(buyer.account_id)
        assert subscription.status == "active"


ODD_EVENTS: list[bytes] = [
    b"null",
    b"[]",
    b'"event"',
    b"{}",
    b'{"id": 7}',
    event(id=None),
    event(id={"a": 1}),
    event(id="evt_\x00"),
    event(id="evt_" + "x" * 10_000),
    event(type=["customer.subscription.deleted"]),
    event(created="yesterday"),
    event(created=10**30),
    event(data=None),
    event(data={"object": None}),
    event(data={"object": {"id": ["sub"], "customer": {"id": []}}}),
    b"[" * 200_000 + b"]" * 200_000,
    b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    b'{"id": ' + b"9" * 100_000 + b"}",
    b"\xff\xfe\x00",
]


@pytest.mark.parametrize("number", range(len(ODD_EVENTS)))
def test_odd_events(shop: Shop, number: int) -> None:
    """A32: even what bears a good signature is not trusted to be an event: 400 in words, never 500."""
    body = ODD_EVENTS[number]
    status, code = deliver(shop, body, signed(body, shop.clock.system_at()))
    assert (status, code) == REFUSED
    assert shop.store.inbox_waiting() == 0


@pytest.mark.parametrize("equal", [True, False])
def test_only_compare_digest_decides(shop: Shop, monkeypatch: pytest.MonkeyPatch, equal: bool) -> None:
    """A06: signatures are compared in constant time: all of them, by hmac.compare_digest alone, whose word decides."""
    asked: list[tuple[bytes, bytes]] = []

    def says(ours: bytes, theirs: bytes) -> bool:
        asked.append((ours, theirs))
        return equal

    body, now = event(), shop.clock.system_at()
    good = signed(body, now).partition("v1=")[2]
    monkeypatch.setattr(hmac, "compare_digest", says)
    status, _ = deliver(shop, body, f"t={now},v1={good},v1={'0' * 64},v1={'f' * 64}")
    assert status == (200 if equal else 400)
    assert [theirs for _, theirs in asked] == [good.encode(), b"0" * 64, b"f" * 64]  # no stop at the first
    assert {ours for ours, _ in asked} == {good.encode()}


def test_the_door_has_one_answer(shop: Shop) -> None:
    """A34: a refusal does not tell whether an event is known, nor which of the secrets failed."""
    body, now = event(), shop.clock.system_at()
    assert deliver(shop, body, signed(body, now)) == (200, "True")
    answers = []
    for sent in (body, event(id="evt_never_seen")):
        for secret in (OTHERS_SECRET, "x"):
            headers = {"Stripe-Signature": signed(sent, now, secret), **bearer(shop.buy().key)}
            answers.append(shop.client.post("/billing/webhook", content=sent, headers=headers))
    assert {a.status_code for a in answers} == {400}
    assert len({a.content for a in answers}) == 1
