"""Webhooks: signed, to every endpoint that asked, again until acknowledged, each with a snapshot of its object."""

import json
from typing import Any

import pytest
from tests.unit.sandbox.town import BAD_CARD_LATER, HOUR, START_AT, Seller, Town, signed

THREE_DAYS_MS = 3 * 86_400_000


def bodies(town: Town, path: str = "hook") -> list[Any]:
    return [json.loads(body) for where, _, body in town.received if where == path]


def test_an_endpoint(town: Town) -> None:
    """Its secret is told once, at its creation; it can be changed, disabled and deleted."""
    made = town.listen("hook", "invoice.paid", description="ours")
    assert made.pop("secret").startswith("whsec_")
    path = f"/v1/webhook_endpoints/{made['id']}"
    assert town.get(path) == made == town.get("/v1/webhook_endpoints")["data"][0]
    assert (made["status"], made["enabled_events"], made["livemode"]) == ("enabled", ["invoice.paid"], False)
    changed = town.post(path, enabled_events=["*"], disabled=True, metadata={"a": "b"})
    assert (changed["status"], changed["enabled_events"], changed["metadata"]) == ("disabled", ["*"], {"a": "b"})
    assert town.delete(path) == {"id": made["id"], "object": "webhook_endpoint", "deleted": True}
    assert town.refused(404, "GET", path)["code"] == "resource_missing"


@pytest.mark.parametrize(
    "url", ["", "seller.example/hook", "ftp://seller.example", "http://", "http://a:b/", "http://["]
)
def test_addresses_that_are_none(town: Town, url: str) -> None:
    """An endpoint's address is a whole http or https URL."""
    asked = {"url": url, "enabled_events": ["*"]}
    assert town.refused(400, "POST", "/v1/webhook_endpoints", asked)["param"] == "url"
    endpoint = f"/v1/webhook_endpoints/{town.listen()['id']}"
    assert town.refused(400, "POST", endpoint, {"url": url, "disabled": True})["param"] == "url"
    assert town.get(endpoint)["status"] == "enabled"


def test_signature(town: Town) -> None:
    """A delivery is signed over its raw body with the endpoint's own secret, at system time (A01)."""
    endpoint = town.listen()
    town.move(40 * 86_400)  # Stripe's time moves; signatures stay in the present
    town.customer()
    assert town.deliver() == 1
    ((_, headers, body),) = town.received
    assert headers["Stripe-Signature"] == signed(body, START_AT, endpoint["secret"])
    assert headers["Content-Type"] == "application/json; charset=utf-8"


def test_a_delivery_is_the_event(seller: Seller) -> None:
    """What is delivered is what the events list shows: its type, its cause, and its object as it was then."""
    seller.listen()
    product = seller.get("/v1/products")["data"][0]["id"]
    price = {"currency": "usd", "product": product, "unit_amount_decimal": "1.50", "nickname": "then"}
    made = seller.ask("POST", "/v1/prices", price, idempotency_key="key-1")
    seller.post(f"/v1/prices/{made.json['id']}", nickname="now")
    seller.deliver()
    created, updated = bodies(seller)
    assert created["request"] == {"id": made.headers["Request-Id"], "idempotency_key": "key-1"}
    assert (created["type"], created["created"], created["livemode"]) == ("price.created", START_AT, False)
    assert created["data"] == {"object": made.json}
    assert updated["data"]["object"]["nickname"] == "now"
    assert updated["data"]["previous_attributes"] == {"nickname": "then"}
    assert seller.get(f"/v1/events/{created['id']}") == {**created, "pending_webhooks": 0}


def test_time_has_no_request(seller: Seller) -> None:
    """An event that nobody asked for names no request, and is of its own instant."""
    subscription = seller.subscribe()
    end = subscription["items"]["data"][0]["current_period_end"]
    seller.move(35 * 86_400)
    (event,) = seller.get("/v1/events", type="invoice.created")["data"]
    assert (event["request"], event["created"]) == ({"id": None, "idempotency_key": None}, end)


def test_what_was_there_before(seller: Seller) -> None:
    """previous_attributes hold the values from before the change, nested ones too."""
    customer = seller.subscribe(BAD_CARD_LATER)["customer"]
    session = seller.checkout(seller.price_id, customer=customer)["id"]
    seller.pay(session)
    first, second = (card["id"] for card in seller.get(f"/v1/customers/{customer}/payment_methods")["data"])
    path = f"/v1/customers/{customer}"
    before = seller.post(path, invoice_settings={"default_payment_method": first})["invoice_settings"]
    seller.post(path, invoice_settings={"default_payment_method": second})
    event = seller.get("/v1/events", type="customer.updated")["data"][0]
    assert event["data"]["previous_attributes"] == {"invoice_settings": before}


@pytest.mark.parametrize("version", ["2026-10-28.endive", "2026-03-25.dahlia"])
def test_the_version_is_pinned(town: Town, version: str) -> None:
    """Deliveries bear the version that their endpoint was created with."""
    assert town.listen(api_version=version)["api_version"] == version
    town.customer()
    town.deliver()
    assert [event["api_version"] for event in bodies(town)] == [version]


def test_several_endpoints(town: Town) -> None:
    """Each endpoint gets what it asked for, by its own secret, and fails for itself alone."""
    every, some = town.listen("all"), town.listen("some", "product.created")
    town.listen("none", "invoice.paid")
    town.customer()
    town.post("/v1/products", name="x")
    assert town.deliver(200, 500, 200) == 3
    assert [where for where, _, _ in town.received] == ["all", "all", "some"]
    for (_, headers, body), endpoint in zip(town.received, (every, every, some), strict=True):
        assert headers["Stripe-Signature"] == signed(body, START_AT, endpoint["secret"])
    product, customer = town.get("/v1/events")["data"]
    assert (product["type"], product["pending_webhooks"], customer["pending_webhooks"]) == ("product.created", 1, 0)


def test_order(seller: Seller) -> None:
    """Without failures events leave in the order in which they came to be; a refused one comes again, after others."""
    seller.subscribe()
    before = len(seller.events())
    seller.listen()
    seller.move(31 * 86_400)
    seller.deliver(500)
    seller.clock.pass_ms(1_000)
    seller.deliver()
    kinds = [event["type"] for event in bodies(seller)]
    assert kinds[:2] == ["invoice.created", "customer.subscription.updated"]
    assert kinds[2] == "invoice.created"
    ids = [event["id"] for event in bodies(seller)]
    assert ids[0] == ids[2]
    seller.move(HOUR)
    seller.deliver()
    assert sorted({event["id"] for event in bodies(seller)}) == sorted(
        event["id"] for event in seller.get("/v1/events", limit=len(seller.events()) - before)["data"]
    )


@pytest.mark.parametrize("answer", [None, 199, 302, 400, 404, 500])
def test_retries(town: Town, answer: int | None) -> None:
    """Anything but 2xx is tried again after 1, 2, 4, … seconds, an hour at the most, with the same event (F12)."""
    town.listen()
    town.customer()
    pause_ms = 1_000
    for _ in range(15):
        assert town.deliver(answer) == 1
        assert town.deliver() == 0
        town.clock.pass_ms(pause_ms - 1)
        assert town.deliver() == 0
        town.clock.pass_ms(1)
        pause_ms = min(pause_ms * 2, 3_600_000)
    assert town.get("/v1/events")["data"][0]["pending_webhooks"] == 1
    assert town.deliver(204) == 1
    assert town.get("/v1/events")["data"][0]["pending_webhooks"] == 0
    town.clock.pass_ms(THREE_DAYS_MS)
    assert town.deliver() == 0
    assert len({event["id"] for event in bodies(town)}) == 1


def test_retries_end(town: Town) -> None:
    """After three days a delivery is given up for good."""
    town.listen()
    town.customer()
    began = town.clock.system_ms()
    while town.deliver(500):
        last = town.clock.system_ms()
        town.clock.pass_ms(3_600_000)
    assert THREE_DAYS_MS < last - began <= THREE_DAYS_MS + 3_600_000
    (delivery,) = next(iter(town.sandbox.accounts.values())).deliveries
    assert (delivery["state"], delivery["status"]) == ("failed", 500)


@pytest.mark.parametrize("change", ["disabled", "deleted"])
def test_endpoints_that_are_off(town: Town, change: str) -> None:
    """A disabled or deleted endpoint gets nothing new, and no further tries of what it had refused."""
    path = f"/v1/webhook_endpoints/{town.listen()['id']}"
    town.customer()
    assert town.deliver(500) == 1
    if change == "disabled":
        town.post(path, disabled=True)
    else:
        town.delete(path)
    town.customer()
    town.clock.pass_ms(5_000)
    town.deliver()
    assert len(town.received) == 1


def test_the_event_list(town: Town) -> None:
    """Events are found by type, by several types and by time, newest first."""
    town.customer()
    town.move(10)
    product = town.post("/v1/products", name="x")["id"]
    town.move(10)
    town.post(f"/v1/products/{product}", name="y")

    def kinds(**wanted: Any) -> list[str]:
        return [event["type"] for event in town.get("/v1/events", **wanted)["data"]]

    assert kinds() == ["product.updated", "product.created", "customer.created"]
    assert kinds(type="product.created") == ["product.created"]
    assert kinds(types=["product.updated", "customer.created"]) == ["product.updated", "customer.created"]
    assert kinds(created={"gte": START_AT + 10}) == ["product.updated", "product.created"]
    assert kinds(created={"gt": START_AT + 10}) == ["product.updated"]
    assert kinds(created={"lt": START_AT + 10}) == ["customer.created"]
    assert kinds(created={"gt": START_AT, "lte": START_AT + 10}) == ["product.created"]
    assert town.refused(404, "GET", "/v1/events/evt_none")["code"] == "resource_missing"
