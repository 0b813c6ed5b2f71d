"""A local Stripe in one process for its own tests: asked in raw forms, at a time that stands still until moved.

Encodes its forms itself, so that nothing of the sandbox judges the sandbox.
"""

import hashlib
import hmac
import json
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final
from urllib.parse import quote, urlsplit

from farebox.sandbox import ManualClock, Sandbox
from farebox.sandbox.keeping import Book
from farebox.sandbox.state import State

__all__ = [
    "BAD_CARD_LATER",
    "DAY",
    "GOOD_CARD",
    "HOUR",
    "KEY",
    "START_AT",
    "HeldClock",
    "Reply",
    "Seller",
    "Town",
    "form",
    "shown",
    "signed",
    "survive",
]

START_AT: Final = 1_800_000_000  # Friday 15 January 2027, 08:00:00 UTC
HOUR: Final = 3_600
DAY: Final = 86_400
KEY: Final = "sk_test_of_the_sandbox_tests"
GOOD_CARD: Final = "4242 4242 4242 4242"
BAD_CARD_LATER: Final = "4000 0000 0000 0341"
EVENTS: Final = "/v1/billing/meter_events"


def form(params: Mapping[str, Any]) -> str:
    """Stripe's form encoding, as its SDKs write it."""
    return "&".join(f"{quote(name, safe='[]')}={quote(value)}" for name, value in _flat("", params))


def _flat(path: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        return [pair for k, v in value.items() for pair in _flat(f"{path}[{k}]" if path else str(k), v)]
    if isinstance(value, list):
        return [pair for i, v in enumerate(value) for pair in _flat(f"{path}[{i}]", v)]
    return [(path, str(value).lower() if isinstance(value, bool) else str(value))]


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, str]:
        """Stripe's error object, without the prose and its link."""
        return {name: value for name, value in self.json["error"].items() if name not in ("message", "doc_url")}


@dataclass
class Town:
    """The sandbox and one test key's account in it."""

    clock: ManualClock = field(default_factory=lambda: ManualClock(START_AT))
    key: str = KEY
    sandbox: Sandbox = field(init=False)
    received: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sandbox = Sandbox(self.clock)

    @property
    def now(self) -> int:
        return self.sandbox.now_at

    def ask(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any] | str = "",
        *,
        idempotency_key: str | None = None,
        key: str | None = None,
    ) -> Reply:
        """One request, whatever the answer."""
        headers = {"Authorization": f"Bearer {key or self.key}"}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        text = params if isinstance(params, str) else form(params)
        url, body = (f"{path}?{text}" if text else path, "") if method == "GET" else (path, text)
        answer = self.sandbox.request(method, url, headers, body.encode())
        return Reply(answer.status, answer.headers, answer.body)

    def get(self, path: str, **params: Any) -> Any:
        return self._done("GET", path, params)

    def post(self, path: str, **params: Any) -> Any:
        return self._done("POST", path, params)

    def delete(self, path: str, **params: Any) -> Any:
        return self._done("DELETE", path, params)

    def _done(self, method: str, path: str, params: dict[str, Any]) -> Any:
        reply = self.ask(method, path, params)
        assert reply.status == 200, reply.json
        return reply.json

    def refused(self, status: int, method: str, path: str, params: Mapping[str, Any] | str = "") -> dict[str, str]:
        """The refusal that is expected, without its prose."""
        reply = self.ask(method, path, params)
        assert reply.status == status, reply.json
        return reply.error

    def move(self, seconds: int) -> None:
        self.sandbox.advance(self.now + seconds)

    def meter(self, name: str = "calls", formula: str = "sum") -> str:
        made = self.post(
            "/v1/billing/meters", display_name=name, event_name=name, default_aggregation={"formula": formula}
        )
        return str(made["id"])

    def price(self, meter: str, amount: str = "100", **recurring: Any) -> str:
        product = self.post("/v1/products", name="API calls")["id"]
        shape = {"interval": "month", "usage_type": "metered", "meter": meter, **recurring}
        made = self.post("/v1/prices", currency="usd", product=product, unit_amount_decimal=amount, recurring=shape)
        return str(made["id"])

    def customer(self, **params: Any) -> str:
        return str(self.post("/v1/customers", **params)["id"])

    def checkout(self, *prices: str, **params: Any) -> Any:
        items = [{"price": price} for price in prices]
        where = "https://seller.example/done?session_id={CHECKOUT_SESSION_ID}"
        given = {"mode": "subscription", "success_url": where, "line_items": items, **params}
        return self.post("/v1/checkout/sessions", **given)

    def pay(self, session_id: str, number: str = GOOD_CARD, email: str = "ada@example.test") -> str:
        return self.sandbox.pay(session_id, number=number, expiry="12/40", cvc="123", email=email)

    def use(self, customer: str, value: str = "1", *, at: int | None = None, name: str = "calls", **more: Any) -> Reply:
        """Send a meter event, whatever the answer."""
        payload = {"stripe_customer_id": customer, "value": value}
        return self.ask(
            "POST",
            EVENTS,
            {"event_name": name, "payload": payload, **({"timestamp": at} if at is not None else {}), **more},
        )

    def total(self, meter: str, customer: str, start: int, end: int) -> Any:
        found = self.get(
            f"/v1/billing/meters/{meter}/event_summaries", customer=customer, start_time=start, end_time=end
        )
        return found["data"][0]["aggregated_value"]

    def events(self) -> list[str]:
        """The types of all events so far, oldest first."""
        data = self.get("/v1/events", limit=100)["data"]
        return [event["type"] for event in reversed(data)]

    def listen(self, path: str = "hook", *types: str, **params: Any) -> Any:
        return self.post(
            "/v1/webhook_endpoints",
            url=f"https://seller.example/{path}",
            enabled_events=list(types) or ["*"],
            **params,
        )

    def deliver(self, *statuses: int | None) -> int:
        """Attempt what is due. Endpoints answer with these statuses in turn, then with 200. Returns how many."""
        left = list(statuses)

        def send(url: str, headers: dict[str, str], body: bytes) -> int | None:
            self.received.append((urlsplit(url).path.lstrip("/"), headers, body))
            return left.pop(0) if left else 200

        return self.sandbox.deliver_due(send)


class Seller(Town):
    """A town with one meter, one price of a dollar a call, and one subscriber who paid at checkout."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.meter_id = self.meter()
        self.price_id = self.price(self.meter_id)
        self.session_id = ""

    def subscribe(self, number: str = GOOD_CARD, *prices: str) -> Any:
        session = self.checkout(*(prices or (self.price_id,)))
        self.pay(session["id"], number)
        self.session_id = session["id"]
        return self.subscription(self.get(f"/v1/checkout/sessions/{session['id']}")["subscription"])

    def subscription(self, id: str) -> Any:
        return self.get(f"/v1/subscriptions/{id}")

    def invoices(self, subscription: Any) -> list[Any]:
        """Oldest first."""
        return list(reversed(self.get("/v1/invoices", subscription=subscription["id"], limit=100)["data"]))


class HeldClock(ManualClock):
    """Its sleeps last until they are released: a request that is in flight for as long as a test likes."""

    def __init__(self) -> None:
        super().__init__(START_AT)
        self.entered = threading.Event()
        self.released = threading.Event()

    def sleep_ms(self, milliseconds: int) -> None:
        if milliseconds:
            self.entered.set()
            assert self.released.wait(10)


def signed(body: bytes, at: int, secret: str) -> str:
    """A Stripe-Signature header, made here by hand."""
    return f"t={at},v1={hmac.new(secret.encode(), b'%d.' % at + body, hashlib.sha256).hexdigest()}"


def survive(sandbox: Sandbox) -> None:
    """Whatever a test has brought about can be kept and found again, and goes on at the same instants."""
    rows = Book(sandbox).changes()
    again = Sandbox(ManualClock(START_AT))
    Book(again).restore((*name, json.loads(text)) for name, text in rows.items() if text is not None)
    assert again.accounts.keys() == sandbox.accounts.keys()
    for id, state in sandbox.accounts.items():
        assert shown(again.accounts[id]) == shown(state)
        for box in (sandbox, again):
            box._look_again(box.accounts[id])
        assert again.accounts[id].due._due == state.due._due


def shown(state: State) -> dict[str, Any]:
    """All of an account but what is worked out from it, with the order of what is in it."""
    names = [field.name for field in fields(State) if field.name not in ("due", "by_customer")]
    return {name: ordered(getattr(state, name)) for name in names}


def ordered(value: Any) -> Any:
    if isinstance(value, dict):
        found = [(name, list(v.items()) if isinstance(v, dict) else v) for name, v in value.items()]
        return [(name, entries) for name, entries in found if entries != []]
    return list(value) if isinstance(value, deque) else value
