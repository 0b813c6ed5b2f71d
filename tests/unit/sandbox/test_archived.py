"""Archived products and prices: nothing new is sold of them, and what runs goes on."""

from typing import Any

import pytest
from tests.unit.sandbox.test_licensed import MONTH
from tests.unit.sandbox.test_schedules import SCHEDULES, once
from tests.unit.sandbox.town import HOUR, Seller

from farebox.sandbox.errors import StripeError

WORDS = "is marked as inactive"


def archive(seller: Seller, price: str) -> str:
    product = str(seller.get(f"/v1/prices/{price}")["product"])
    seller.post(f"/v1/products/{product}", active=False)
    return product


def refused(seller: Seller, path: str, params: dict[str, Any]) -> str | None:
    reply = seller.ask("POST", path, params)
    assert reply.status == 400, reply.json
    assert WORDS in reply.json["error"]["message"]
    return reply.error.get("param")


def test_nothing_new_is_sold_of_an_archived_product(seller: Seller) -> None:
    """Sessions, subscriptions, items, invoice items, prices and phases on an archived product are refused."""
    one_time = once(seller)
    running = seller.subscribe()
    other = seller.price(seller.meter_id, "200")
    product = archive(seller, other)
    archive(seller, one_time)
    base = {"mode": "subscription", "success_url": "https://x.example/"}
    recurring = {**base, "line_items": [{"price": other}]}
    assert refused(seller, "/v1/checkout/sessions", recurring) == "line_items[0][price]"
    both = {**base, "line_items": [{"price": seller.price_id}, {"price": one_time, "quantity": 1}]}
    assert refused(seller, "/v1/checkout/sessions", both) == "line_items[0][price]"
    alone = {**base, "mode": "payment", "line_items": [{"price": one_time, "quantity": 1}]}
    assert refused(seller, "/v1/checkout/sessions", alone) == "line_items[0][price]"
    asked = {"customer": running["customer"], "items": [{"price": other}]}
    assert refused(seller, "/v1/subscriptions", asked) == "items[0][price]"
    path = f"/v1/subscriptions/{running['id']}"
    assert refused(seller, path, {"items": [{"price": other}]}) == "items[0][price]"
    swap = {"items": [{"id": running["items"]["data"][0]["id"], "price": other}]}
    assert refused(seller, path, swap) == "items[0][price]"
    item = {"customer": running["customer"], "pricing": {"price": one_time}}
    assert refused(seller, "/v1/invoiceitems", item) == "pricing[price]"
    price = {"currency": "usd", "product": product, "unit_amount": 100}
    assert refused(seller, "/v1/prices", price) == "product"
    made = seller.post(SCHEDULES, from_subscription=running["id"])
    (phase,) = made["phases"]
    first = {"items": [{"price": seller.price_id}], "start_date": phase["start_date"], "end_date": phase["end_date"]}
    coming = {"items": [{"price": other}], "duration": {"interval": "month"}}
    where = refused(seller, f"{SCHEDULES}/{made['id']}", {"phases": [first, coming]})
    assert where == "phases[1][items][0][price]"


@pytest.mark.parametrize("what", ["product", "price"])
def test_what_runs_goes_on(seller: Seller, what: str) -> None:
    """A subscription at an archived price renews, may keep its item in an update, and may be scheduled."""
    running = seller.subscribe()
    if what == "product":
        archive(seller, seller.price_id)
    else:
        seller.post(f"/v1/prices/{seller.price_id}", active=False)
    (item,) = running["items"]["data"]
    same = [{"id": item["id"], "price": seller.price_id}]
    kept = seller.post(f"/v1/subscriptions/{running['id']}", items=same, metadata={"a": "1"})
    assert kept["metadata"] == {"a": "1"}
    seller.use(running["customer"], "3")
    seller.move(MONTH + HOUR)
    assert [invoice["total"] for invoice in seller.invoices(running)] == [300]
    seller.post(SCHEDULES, from_subscription=running["id"])


def test_a_session_that_was_open_when_its_product_was_archived(seller: Seller) -> None:
    """What is archived while a buyer is on the page is not sold any more."""
    session = seller.checkout(seller.price_id)
    archive(seller, seller.price_id)
    with pytest.raises(StripeError, match=WORDS):
        seller.pay(session["id"])
