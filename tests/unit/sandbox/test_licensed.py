"""Licensed items beside metered ones: billed in advance, by quantity, and in parts when they change in mid-period."""

from typing import Any

import pytest
from tests.unit.sandbox.town import BAD_CARD_LATER, DAY, GOOD_CARD, HOUR, START_AT, Seller

MONTH = 31 * DAY


def seats(seller: Seller, amount: int = 1_000, **recurring: Any) -> str:
    """A licensed price."""
    product = seller.post("/v1/products", name="Seats", unit_label="seat")["id"]
    shape = {"interval": "month", **recurring}
    return str(seller.post("/v1/prices", currency="usd", product=product, unit_amount=amount, recurring=shape)["id"])


def buy(seller: Seller, *items: dict[str, Any], number: str = GOOD_CARD, **params: Any) -> Any:
    session = seller.checkout(line_items=list(items), **params)
    seller.pay(session["id"], number)
    return seller.get(f"/v1/checkout/sessions/{session['id']}")


def payer(seller: Seller, number: str = GOOD_CARD) -> str:
    """A customer whose default is a card, and who has no subscription any more."""
    bought = seller.subscribe(number)
    card = {"default_payment_method": bought["default_payment_method"]}
    seller.post(f"/v1/customers/{bought['customer']}", invoice_settings=card)
    seller.delete(f"/v1/subscriptions/{bought['id']}")
    return str(bought["customer"])


def lines(invoice: Any) -> list[tuple[str, int]]:
    return [(line["description"], line["amount"]) for line in invoice["lines"]["data"]]


def item_of(subscription: Any, price: str) -> Any:
    return next(i for i in subscription["items"]["data"] if i["price"]["id"] == price)


def test_a_hybrid_plan_from_checkout_to_renewal(seller: Seller) -> None:
    """Seats are paid at checkout and ahead for each period; calls are billed at its end, on the same invoice (L4)."""
    price = seats(seller)
    session = buy(seller, {"price": price, "quantity": 3}, {"price": seller.price_id})
    assert (session["payment_status"], session["amount_subtotal"], session["amount_total"]) == ("paid", 3_000, 3_000)
    subscription = seller.subscription(session["subscription"])
    assert (subscription["status"], session["invoice"]) == ("active", subscription["latest_invoice"])
    assert [item.get("quantity") for item in subscription["items"]["data"]] == [3, None]
    (first,) = seller.invoices(subscription)
    assert (first["billing_reason"], first["status"], first["amount_paid"]) == ("subscription_create", "paid", 3_000)
    assert (first["period_start"], first["period_end"]) == (START_AT, START_AT)
    assert lines(first) == [("3 seat × Seats (at $10.00 / month)", 3_000)]
    assert first["lines"]["data"][0]["period"] == {"start": START_AT, "end": START_AT + MONTH}
    assert seller.events()[-7:] == [
        "customer.subscription.created",
        "invoice.created",
        "invoice.finalized",
        "invoice.paid",
        "invoice.payment_succeeded",
        "customer.subscription.updated",
        "checkout.session.completed",
    ]
    seller.use(subscription["customer"], "7")
    preview = seller.post("/v1/invoices/create_preview", subscription=subscription["id"])
    assert (preview["total"], preview["billing_reason"]) == (3_700, "upcoming")
    seller.move(MONTH + HOUR)
    renewal = seller.invoices(subscription)[1]
    assert (renewal["billing_reason"], renewal["status"], renewal["total"]) == ("subscription_cycle", "paid", 3_700)
    assert lines(renewal) == lines(preview)
    periods = [line["period"] for line in renewal["lines"]["data"]]
    assert [p["start"] for p in periods] == [START_AT, START_AT + MONTH]
    assert [p["end"] for p in periods] == [START_AT + MONTH, START_AT + MONTH + 28 * DAY]


def test_a_card_that_fails_cannot_pay_at_checkout(seller: Seller) -> None:
    """What is due at once is charged at once: a card that is declined when charged buys nothing and leaves nothing."""
    session = seller.checkout(line_items=[{"price": seats(seller), "quantity": 1}])
    before = seller.events()
    with pytest.raises(Exception, match="declined"):
        seller.pay(session["id"], BAD_CARD_LATER)
    assert seller.get(f"/v1/checkout/sessions/{session['id']}")["status"] == "open"
    assert seller.get("/v1/subscriptions")["data"] == []
    assert seller.events() == before


@pytest.mark.parametrize(
    ("behavior", "status"), [("allow_incomplete", "incomplete"), ("default_incomplete", "incomplete")]
)
def test_a_first_invoice_that_is_not_paid(seller: Seller, behavior: str, status: str) -> None:
    """A subscription whose first invoice stays unpaid is incomplete, and expires with its invoice after 23 hours."""
    customer = payer(seller, BAD_CARD_LATER)
    made = seller.post(
        "/v1/subscriptions",
        customer=customer,
        items=[{"price": seats(seller), "quantity": 2}],
        payment_behavior=behavior,
    )
    assert made["status"] == status
    path = f"/v1/subscriptions/{made['id']}"
    assert seller.get(f"/v1/invoices/{made['latest_invoice']}")["status"] == "open"
    seller.move(23 * HOUR - 1)
    assert seller.get(path)["status"] == "incomplete"
    seller.move(1)
    expired = seller.get(path)
    assert (expired["status"], expired["ended_at"]) == ("incomplete_expired", START_AT + 23 * HOUR)
    assert seller.get(f"/v1/invoices/{made['latest_invoice']}")["status"] == "void"
    assert seller.events()[-2:] == ["customer.subscription.updated", "invoice.voided"]


def test_an_incomplete_subscription_becomes_active_when_paid(seller: Seller) -> None:
    """Its first invoice, paid in time, makes it active."""
    customer = payer(seller, GOOD_CARD)
    asked = {"customer": customer, "items": [{"price": seats(seller)}], "payment_behavior": "default_incomplete"}
    made = seller.post("/v1/subscriptions", **asked)
    assert made["status"] == "incomplete"
    assert seller.post(f"/v1/invoices/{made['latest_invoice']}/pay")["status"] == "paid"
    assert seller.subscription(made["id"])["status"] == "active"


def test_what_cannot_be_paid_is_refused(seller: Seller) -> None:
    """Asked to, the sandbox refuses a subscription instead of leaving it incomplete; without a card it always does."""
    asked = {"customer": seller.customer(), "items": [{"price": seats(seller)}]}
    assert seller.refused(400, "POST", "/v1/subscriptions", asked)["code"] == "resource_missing"
    asked |= {"customer": payer(seller, BAD_CARD_LATER), "payment_behavior": "error_if_incomplete"}
    count = len(seller.get("/v1/subscriptions")["data"])
    assert seller.refused(402, "POST", "/v1/subscriptions", asked)["code"] == "card_declined"
    assert len(seller.get("/v1/subscriptions")["data"]) == count


def test_quantities_are_asked_for(seller: Seller) -> None:
    """At checkout a licensed item says how many; a subscription made by hand takes one when nothing is said."""
    price = seats(seller)
    session = {"mode": "subscription", "success_url": "https://x.example", "line_items": [{"price": price}]}
    assert seller.refused(400, "POST", "/v1/checkout/sessions", session)["param"] == "line_items"
    made = seller.post("/v1/subscriptions", customer=payer(seller), items=[{"price": price}])
    assert made["items"]["data"][0]["quantity"] == 1


def test_the_same_price_twice(seller: Seller) -> None:
    """Two items of one price are refused."""
    price = seats(seller)
    asked = {"customer": payer(seller), "items": [{"price": price}, {"price": price}]}
    assert seller.refused(400, "POST", "/v1/subscriptions", asked)["param"] == "items"


UNUSED = "Unused time on 2 × Seats after 25 Jan 2027"
REMAINING = "Remaining time on 5 × Seats after 25 Jan 2027"


@pytest.mark.parametrize("behavior", ["none", "create_prorations", "always_invoice"])
def test_a_quantity_that_changes_in_mid_period(seller: Seller, behavior: str) -> None:
    """The rest of the period is credited at the old quantity and charged at the new, to the second, as asked."""
    price = seats(seller)
    made = seller.post("/v1/subscriptions", customer=payer(seller), items=[{"price": price, "quantity": 2}])
    item = made["items"]["data"][0]["id"]
    seller.move(10 * DAY)
    path = f"/v1/subscriptions/{made['id']}"
    changed = seller.post(path, items=[{"id": item, "quantity": 5}], proration_behavior=behavior)
    assert [(i["id"], i["quantity"]) for i in changed["items"]["data"]] == [(item, 5)]
    waiting = seller.get("/v1/invoiceitems", pending=True)["data"]
    expected = [(UNUSED, -1_355), (REMAINING, 3_387)]  # 21 of 31 days of 20 and of 50 dollars
    if behavior == "none":
        assert (waiting, len(seller.invoices(made))) == ([], 1)
    elif behavior == "create_prorations":
        assert [(w["description"], w["amount"]) for w in reversed(waiting)] == expected
        assert {w["proration"] for w in waiting} == {True}
        assert len(seller.invoices(made)) == 1
    else:
        update = seller.invoices(made)[1]
        assert (update["billing_reason"], update["status"], update["total"]) == ("subscription_update", "paid", 2_032)
        assert lines(update) == expected
        parent = update["lines"]["data"][0]["parent"]["subscription_item_details"]
        assert (parent["proration"], parent["subscription_item"]) == (True, item)
        assert waiting == []
    seller.move(21 * DAY + HOUR)
    renewal = seller.invoices(made)[-1]
    due = [("5 seat × Seats (at $10.00 / month)", 5_000)]
    assert lines(renewal) == due + (expected if behavior == "create_prorations" else [])


def test_items_come_and_go(seller: Seller) -> None:
    """A metered item that is taken off is billed for what it used; one that is added counts from then on (L4)."""
    price, metered = seats(seller), seller.price(seller.meter_id, "300")
    customer = payer(seller)
    made = seller.post("/v1/subscriptions", customer=customer, items=[{"price": price}, {"price": seller.price_id}])
    path = f"/v1/subscriptions/{made['id']}"
    seller.use(customer, "2")
    seller.move(DAY)
    old = item_of(made, seller.price_id)["id"]
    changed = seller.post(path, items=[{"id": old, "deleted": True}, {"price": metered}])
    assert {i["price"]["id"] for i in changed["items"]["data"]} == {price, metered}
    seller.use(customer, "3")
    seller.move(30 * DAY + HOUR)
    renewal = seller.invoices(made)[-1]
    assert lines(renewal) == [
        ("2 × API calls (at $1.00 / month)", 200),
        ("3 × API calls (at $3.00 / month)", 900),
        ("1 seat × Seats (at $10.00 / month)", 1_000),
    ]
    periods = [line["period"] for line in renewal["lines"]["data"]]
    assert [p["end"] - p["start"] for p in periods[:2]] == [DAY, 30 * DAY]
    seller.move(28 * DAY)
    assert [amount for _, amount in lines(seller.invoices(made)[-1])] == [0, 1_000]


def test_a_metered_item_gets_another_price(seller: Seller) -> None:
    """Usage until then is billed at the old price, and usage from then on at the new one (L4)."""
    made = seller.subscribe()
    seller.use(made["customer"], "2")
    seller.move(DAY)
    item = {"id": made["items"]["data"][0]["id"], "price": seller.price(seller.meter_id, "300")}
    seller.post(f"/v1/subscriptions/{made['id']}", items=[item])
    seller.use(made["customer"], "3")
    assert seller.post("/v1/invoices/create_preview", subscription=made["id"])["total"] == 200 + 900
    seller.move(30 * DAY + HOUR)
    assert [amount for _, amount in lines(seller.invoices(made)[0])] == [200, 900]


def test_prorations_end_with_their_subscription(seller: Seller) -> None:
    """Cancelled at once, a subscription takes the prorations along that waited for its next invoice."""
    customer = payer(seller)
    made = seller.post("/v1/subscriptions", customer=customer, items=[{"price": seats(seller)}])
    seller.move(DAY)
    item = {"id": made["items"]["data"][0]["id"], "quantity": 3}
    seller.post(f"/v1/subscriptions/{made['id']}", items=[item])
    assert len(seller.get("/v1/invoiceitems", pending=True)["data"]) == 2
    seller.delete(f"/v1/subscriptions/{made['id']}", invoice_now=True)
    assert seller.get("/v1/invoiceitems", pending=True)["data"] == []
    assert len(seller.invoices(made)) == 1


def test_usage_that_is_cleared(seller: Seller) -> None:
    """A metered item taken off with clear_usage is not billed."""
    customer = payer(seller)
    made = seller.post(
        "/v1/subscriptions", customer=customer, items=[{"price": seats(seller)}, {"price": seller.price_id}]
    )
    seller.use(customer, "2")
    gone = {"id": item_of(made, seller.price_id)["id"], "deleted": True, "clear_usage": True}
    seller.move(HOUR)
    seller.post(f"/v1/subscriptions/{made['id']}", items=[gone])
    seller.move(MONTH + HOUR)
    assert [amount for _, amount in lines(seller.invoices(made)[-1])] == [1_000]


@pytest.mark.parametrize(
    ("items", "error"),
    [
        ([{"id": "si_none", "quantity": 2}], {"param": "items[0][id]", "code": "resource_missing"}),
        ([{"price": "price_none"}], {"param": "items[0][price]", "code": "resource_missing"}),
        ([{"quantity": 2}], {"param": "items[0]"}),
        ([{"id": "METERED", "quantity": 2}], {"param": "items[0][quantity]"}),
        ([{"id": "METERED", "deleted": True}], {"param": "items"}),
    ],
)
def test_items_that_are_refused(seller: Seller, items: list[dict[str, Any]], error: dict[str, str]) -> None:
    """An unknown item or price, a quantity of usage, and a subscription without items are refused; nothing changes."""
    made = seller.subscribe()
    own = made["items"]["data"][0]["id"]
    asked = [{k: own if v == "METERED" else v for k, v in entry.items()} for entry in items]
    refused = seller.refused(400, "POST", f"/v1/subscriptions/{made['id']}", {"items": asked})
    assert error.items() <= refused.items()
    assert seller.subscription(made["id"]) == made


def test_cancelling_now_credits_what_was_paid_ahead(seller: Seller) -> None:
    """With prorate, the rest of the period is credited: on the closing invoice, and so to the customer's balance."""
    customer = payer(seller)
    made = seller.post("/v1/subscriptions", customer=customer, items=[{"price": seats(seller), "quantity": 2}])
    seller.move(10 * DAY)
    seller.delete(f"/v1/subscriptions/{made['id']}", prorate=True, invoice_now=True)
    closing = seller.invoices(made)[-1]
    assert (lines(closing), closing["total"], closing["amount_due"]) == ([(UNUSED, -1_355)], -1_355, 0)
    assert (closing["status"], closing["starting_balance"], closing["ending_balance"]) == ("paid", 0, -1_355)
    assert seller.get(f"/v1/customers/{customer}")["balance"] == -1_355


def test_a_purely_licensed_plan_ends_without_a_last_invoice(seller: Seller) -> None:
    """Cancelled for its end, a plan that was paid ahead has nothing left to bill."""
    made = seller.post("/v1/subscriptions", customer=payer(seller), items=[{"price": seats(seller)}])
    seller.post(f"/v1/subscriptions/{made['id']}", cancel_at_period_end=True)
    seller.move(MONTH + HOUR)
    assert seller.subscription(made["id"])["status"] == "canceled"
    assert len(seller.invoices(made)) == 1
