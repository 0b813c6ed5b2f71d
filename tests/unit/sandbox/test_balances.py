"""Money beside subscriptions: the customer's balance, invoice items, credit notes, disputes."""

from typing import Any

import pytest
from tests.unit.sandbox.test_licensed import MONTH, lines, payer, seats
from tests.unit.sandbox.town import BAD_CARD_LATER, HOUR, START_AT, Seller


def renewed(seller: Seller, subscription: Any) -> Any:
    seller.move(MONTH + HOUR)
    return seller.invoices(subscription)[-1]


@pytest.mark.parametrize(
    ("balance", "due", "ending"), [(-200, 300, 0), (-900, 0, -400), (150, 650, 0), (-500, 0, 0), (0, 500, 0)]
)
def test_the_balance_settles_what_is_due(seller: Seller, balance: int, due: int, ending: int) -> None:
    """Credit pays an invoice before the card does, and a debt is collected with it; each move is a transaction (L4)."""
    made = seller.subscribe()
    path = f"/v1/customers/{made['customer']}"
    if balance:
        moved = seller.post(f"{path}/balance_transactions", amount=balance, currency="usd", description="gift")
        assert (moved["type"], moved["ending_balance"]) == ("adjustment", balance)
        assert seller.get(f"{path}/balance_transactions/{moved['id']}") == moved
    seller.use(made["customer"], "5")
    invoice = renewed(seller, made)
    assert (invoice["total"], invoice["amount_due"], invoice["amount_paid"]) == (500, due, due)
    assert (invoice["starting_balance"], invoice["ending_balance"], invoice["status"]) == (balance, ending, "paid")
    assert seller.get(path)["balance"] == ending
    found = [(t["type"], t["amount"], t["invoice"]) for t in seller.get(f"{path}/balance_transactions")["data"]]
    applied = [("applied_to_invoice", ending - balance, invoice["id"])]
    assert found == (applied if balance else []) + ([("adjustment", balance, None)] if balance else [])
    assert len(invoice["payments"]["data"]) == (1 if due else 0)


def test_a_voided_invoice_gives_the_balance_back(seller: Seller) -> None:
    """What an invoice took from the balance returns when it is voided."""
    made = seller.subscribe(BAD_CARD_LATER)
    path = f"/v1/customers/{made['customer']}"
    seller.post(path, balance=-200)
    seller.use(made["customer"], "5")
    invoice = renewed(seller, made)
    assert (invoice["amount_due"], seller.get(path)["balance"]) == (300, 0)
    seller.post(f"/v1/invoices/{invoice['id']}/void")
    assert seller.get(path)["balance"] == -200


def test_invoice_items_wait_for_the_next_invoice(seller: Seller) -> None:
    """Single amounts come onto the customer's next invoice: of any subscription, or of the one they name."""
    first, second = seller.subscribe(), None
    customer = first["customer"]
    second = seller.post(
        "/v1/subscriptions", customer=customer, items=[{"price": seller.price(seller.meter("b"), interval="week")}]
    )
    item = seller.post("/v1/invoiceitems", customer=customer, amount=700, currency="usd", description="Setup")
    named = seller.post(
        "/v1/invoiceitems",
        customer=customer,
        subscription=first["id"],
        unit_amount_decimal="0.5",
        quantity=3,
        currency="usd",
        period={"start": START_AT, "end": START_AT + 5},
    )
    assert (item["invoice"], item["parent"], named["amount"], named["quantity"]) == (None, None, 2, 3)
    assert [i["id"] for i in seller.get("/v1/invoiceitems", customer=customer, pending=True)["data"]] == [
        named["id"],
        item["id"],
    ]
    seller.move(7 * 24 * HOUR + HOUR)
    (weekly,) = seller.invoices(second)
    assert lines(weekly)[1:] == [("Setup", 700)]
    assert seller.get(f"/v1/invoiceitems/{item['id']}")["invoice"] == weekly["id"]
    parent = weekly["lines"]["data"][1]["parent"]["invoice_item_details"]
    assert (parent["invoice_item"], parent["proration"]) == (item["id"], False)
    seller.move(24 * 24 * HOUR)
    assert [amount for _, amount in lines(seller.invoices(first)[0])] == [0, 2]


def test_invoice_items_are_changed_and_taken_back(seller: Seller) -> None:
    """While it waits an item can be changed or deleted; once billed it cannot."""
    made = seller.subscribe()
    product = seller.get("/v1/products")["data"][0]["id"]
    price = seller.post("/v1/prices", currency="usd", product=product, unit_amount=250)["id"]
    item = seller.post("/v1/invoiceitems", customer=made["customer"], pricing={"price": price}, quantity=2)
    assert (item["amount"], item["description"]) == (500, "API calls")
    gone = seller.post("/v1/invoiceitems", customer=made["customer"], amount=9, currency="usd")
    assert seller.post(f"/v1/invoiceitems/{gone['id']}", amount=10, description="x")["amount"] == 10
    assert seller.refused(400, "POST", f"/v1/invoiceitems/{item['id']}", {"amount": 1})["param"] == "amount"
    assert seller.delete(f"/v1/invoiceitems/{gone['id']}")["deleted"] is True
    assert renewed(seller, made)["total"] == 500
    seller.refused(400, "DELETE", f"/v1/invoiceitems/{item['id']}")
    assert [type for type in seller.events() if type.startswith("invoiceitem")] == [
        "invoiceitem.created",
        "invoiceitem.created",
        "invoiceitem.deleted",
    ]


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({}, "amount"),
        ({"amount": 5, "unit_amount_decimal": "5"}, "amount"),
        ({"amount": 5}, "currency"),
        ({"amount": 5, "currency": "usd", "quantity": 2}, "quantity"),
        ({"pricing": {"price": "METERED"}}, "pricing[price]"),
        ({"amount": 5, "currency": "usd", "period": {"start": 5, "end": 4}}, "period[end]"),
        ({"amount": 5, "currency": "usd", "subscription": "sub_none"}, "subscription"),
    ],
)
def test_invoice_items_that_are_refused(seller: Seller, asked: dict[str, Any], param: str) -> None:
    """An item has one amount, in a currency, and a one-time price at most."""
    if "pricing" in asked:
        asked = {"pricing": {"price": seller.price_id}}
    assert seller.refused(400, "POST", "/v1/invoiceitems", {"customer": seller.customer(), **asked})["param"] == param


def test_a_credit_note_on_an_open_invoice(seller: Seller) -> None:
    """Before payment it lowers what is due, down to paid; voided in time it is due again."""
    made = seller.subscribe(BAD_CARD_LATER)
    seller.use(made["customer"], "5")
    invoice = renewed(seller, made)
    path = f"/v1/invoices/{invoice['id']}"
    note = seller.post("/v1/credit_notes", invoice=invoice["id"], amount=200, reason="order_change", memo="sorry")
    assert (note["type"], note["status"], note["number"]) == ("pre_payment", "issued", f"{invoice['number']}-CN-01")
    assert [seller.get(path)[k] for k in ("amount_due", "pre_payment_credit_notes_amount")] == [300, 200]
    assert seller.post(f"/v1/credit_notes/{note['id']}/void")["status"] == "void"
    assert seller.get(path)["amount_remaining"] == 500
    seller.refused(400, "POST", f"/v1/credit_notes/{note['id']}/void")
    assert (
        seller.refused(400, "POST", "/v1/credit_notes", {"invoice": invoice["id"], "amount": 501})["param"] == "amount"
    )
    last = seller.post("/v1/credit_notes", invoice=invoice["id"], amount=500)
    assert (seller.get(path)["status"], seller.subscription(made["id"])["status"]) == ("paid", "active")
    assert [n["id"] for n in seller.get("/v1/credit_notes", invoice=invoice["id"])["data"]] == [last["id"], note["id"]]
    assert seller.get(f"/v1/credit_notes/{note['id']}")["memo"] == "sorry"


def test_a_credit_note_on_a_paid_invoice(seller: Seller) -> None:
    """After payment it goes to the customer's balance, or outside; together no more than was paid."""
    made = seller.subscribe()
    seller.use(made["customer"], "5")
    invoice = renewed(seller, made)
    asked: dict[str, Any] = {"invoice": invoice["id"], "amount": 300}
    assert seller.refused(400, "POST", "/v1/credit_notes", asked)["param"] == "credit_amount"
    note = seller.post("/v1/credit_notes", **asked, credit_amount=200, out_of_band_amount=100)
    assert (note["type"], note["post_payment_amount"]) == ("post_payment", 300)
    assert seller.get(f"/v1/customers/{made['customer']}")["balance"] == -200
    assert seller.refused(400, "POST", "/v1/credit_notes", {**asked, "credit_amount": 300})["param"] == "amount"
    assert seller.events()[-2:] == ["customer.updated", "credit_note.created"]


def test_a_disputed_charge(seller: Seller) -> None:
    """The card that disputes pays, and the dispute opens at once; it can be looked at and given up."""
    made = seller.subscribe("4000 0000 0000 0259")
    seller.use(made["customer"], "5")
    invoice = renewed(seller, made)
    assert invoice["status"] == "paid"
    (dispute,) = seller.get("/v1/disputes")["data"]
    intent = invoice["payments"]["data"][0]["payment"]["payment_intent"]
    assert (dispute["amount"], dispute["status"], dispute["payment_intent"]) == (500, "needs_response", intent)
    assert seller.events()[-1] == "charge.dispute.created"
    assert seller.get("/v1/disputes", payment_intent=intent)["data"] == [dispute]
    assert seller.get("/v1/disputes", charge="ch_none")["data"] == []
    assert seller.post(f"/v1/disputes/{dispute['id']}/close")["status"] == "lost"
    assert seller.get(f"/v1/disputes/{dispute['id']}")["status"] == "lost"
    seller.refused(400, "POST", f"/v1/disputes/{dispute['id']}/close")


def test_paid_elsewhere_and_uncollectible(seller: Seller) -> None:
    """An open invoice can be marked as uncollectible, and as paid outside of Stripe."""
    made = seller.subscribe(BAD_CARD_LATER)
    seller.use(made["customer"], "5")
    path = f"/v1/invoices/{renewed(seller, made)['id']}"
    assert seller.post(f"{path}/mark_uncollectible")["status"] == "uncollectible"
    seller.refused(400, "POST", f"{path}/mark_uncollectible")
    paid = seller.post(f"{path}/pay", paid_out_of_band=True)
    assert (paid["status"], paid["payments"]["data"]) == ("paid", [])


def test_an_invoices_lines_and_what_may_change(seller: Seller) -> None:
    """Lines are listed by themselves; a draft is held by auto_advance, and every invoice takes metadata."""
    made = seller.post(
        "/v1/subscriptions", customer=payer(seller), items=[{"price": seats(seller)}, {"price": seller.price_id}]
    )
    seller.move(MONTH)
    draft = seller.invoices(made)[-1]
    path = f"/v1/invoices/{draft['id']}"
    assert seller.get(f"{path}/lines")["data"] == draft["lines"]["data"]
    held = seller.post(path, auto_advance=False, metadata={"a": "b"}, description="x")
    assert (held["automatically_finalizes_at"], held["metadata"], held["description"]) == (None, {"a": "b"}, "x")
    seller.move(5 * HOUR)
    assert seller.get(path)["status"] == "draft"
    assert seller.post(path, auto_advance=True)["automatically_finalizes_at"] == seller.now + HOUR
