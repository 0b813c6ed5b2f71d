"""Deleted customers and ended subscriptions: what can still be read, and what is charged no more."""

from typing import Any

import pytest
from tests.unit.sandbox.test_licensed import MONTH, item_of, lines, payer, seats
from tests.unit.sandbox.town import BAD_CARD_LATER, DAY, HOUR, Seller


@pytest.mark.parametrize(
    "path", ["subscriptions", "invoices", "invoiceitems", "subscription_schedules", "checkout/sessions", "credit_notes"]
)
@pytest.mark.parametrize("deleted", [True, False])
def test_lists_of_a_customer_who_is_not_there(seller: Seller, path: str, *, deleted: bool) -> None:
    """A list of a deleted customer's objects, or of nobody's, is refused: there is no such customer."""
    customer = seller.subscribe()["customer"] if deleted else "cus_none"
    if deleted:
        seller.delete(f"/v1/customers/{customer}")
    reply = seller.ask("GET", f"/v1/{path}", {"customer": customer})
    assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "resource_missing", "customer")
    assert reply.json["error"]["message"] == f"No such customer: '{customer}'"


def test_what_is_left_of_a_deleted_customer(seller: Seller) -> None:
    """It says that it is deleted; its subscription is canceled and can be read by its id, with its invoices, and in the
    list of all that are canceled; its cards are gone."""
    subscription = seller.subscribe()
    customer = subscription["customer"]
    seller.use(customer, "3")
    seller.move(MONTH)
    seller.delete(f"/v1/customers/{customer}")
    gone = {"id": customer, "object": "customer", "deleted": True}
    assert seller.get(f"/v1/customers/{customer}") == gone
    left = seller.subscription(subscription["id"])
    assert (left["status"], left["default_payment_method"]) == ("canceled", None)
    assert [s["id"] for s in seller.get("/v1/subscriptions", status="canceled")["data"]] == [subscription["id"]]
    seller.move(HOUR)
    (invoice,) = seller.invoices(subscription)
    assert (invoice["status"], invoice["total"], invoice["next_payment_attempt"]) == ("open", 300, None)
    for path, params in (("/v1/customers", {"name": "x"}), ("/v1/customers", {})):
        assert seller.refused(404, "POST", f"{path}/{customer}", params)["code"] == "resource_missing"
    asked = {"customer": customer, "amount": 1, "currency": "usd"}
    assert seller.refused(400, "POST", "/v1/invoiceitems", asked)["param"] == "customer"
    method = subscription["default_payment_method"]
    assert seller.get(f"/v1/payment_methods/{method}")["customer"] is None


def test_cancelling_stops_the_collection_of_open_invoices(seller: Seller) -> None:
    """Once a subscription is canceled, Stripe charges no finalized invoice of its customer by itself any more."""
    subscription = seller.subscribe(BAD_CARD_LATER)
    seller.use(subscription["customer"], "3")
    seller.move(MONTH + HOUR)
    (invoice,) = seller.invoices(subscription)
    assert (invoice["status"], invoice["next_payment_attempt"] is not None) == ("open", True)
    seller.delete(f"/v1/subscriptions/{subscription['id']}")
    card = seller.post("/v1/payment_methods/pm_card_visa/attach", customer=subscription["customer"])["id"]
    seller.post(f"/v1/customers/{subscription['customer']}", invoice_settings={"default_payment_method": card})
    seller.move(30 * DAY)
    (left,) = seller.invoices(subscription)
    assert (left["status"], left["auto_advance"], left["next_payment_attempt"]) == ("open", False, None)
    assert seller.post(f"/v1/invoices/{left['id']}", auto_advance=True)["auto_advance"] is True


def test_a_last_invoice_takes_the_prorations_along(seller: Seller) -> None:
    """Cancelled now with invoice_now, pending prorations are billed; without it and without prorate they are gone."""
    customer = payer(seller)
    made = seller.post("/v1/subscriptions", customer=customer, items=[{"price": seats(seller)}])
    seller.move(DAY)
    item: dict[str, Any] = {"id": item_of(made, made["items"]["data"][0]["price"]["id"])["id"], "quantity": 3}
    seller.post(f"/v1/subscriptions/{made['id']}", items=[item])
    pending = seller.get("/v1/invoiceitems", pending=True)["data"]
    seller.delete(f"/v1/subscriptions/{made['id']}", invoice_now=True)
    assert seller.get("/v1/invoiceitems", pending=True)["data"] == []
    last = seller.invoices(made)[-1]
    assert sorted(amount for _, amount in lines(last)) == sorted(entry["amount"] for entry in pending)


def test_what_has_ended_takes_metadata_alone(seller: Seller) -> None:
    """A canceled subscription can still be given metadata, and nothing else."""
    subscription = seller.subscribe()
    path = f"/v1/subscriptions/{subscription['id']}"
    seller.delete(path)
    assert seller.post(path, metadata={"a": "1"})["metadata"] == {"a": "1"}
    seller.refused(400, "POST", path, {"metadata": {"a": "1"}, "description": "x"})
    seller.refused(400, "POST", path, {"trial_end": "now"})
