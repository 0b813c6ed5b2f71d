"""Which payment method an invoice is charged to, and when an invoice is collected at all."""

from typing import Any

from tests.unit.sandbox.town import BAD_CARD_LATER, HOUR, Seller, Town


def subscriber(seller: Seller, number: str = "4242 4242 4242 4242") -> Any:
    return seller.subscribe(number)


def test_checkout_gives_its_card_to_the_subscription_alone(seller: Seller) -> None:
    """A buyer who paid at Checkout has no default payment method of their own: only the subscription has one."""
    subscription = subscriber(seller)
    assert subscription["default_payment_method"].startswith("pm_")
    customer = seller.get(f"/v1/customers/{subscription['customer']}")
    assert customer["invoice_settings"]["default_payment_method"] is None


def test_a_renewal_is_charged_to_the_subscriptions_card(seller: Seller) -> None:
    """The renewal of a subscription bought at Checkout is paid with its own card."""
    subscription = subscriber(seller)
    seller.use(subscription["customer"], "3")
    seller.move(32 * 24 * HOUR)
    assert [i["status"] for i in seller.invoices(subscription)] == ["paid"]


def test_the_portals_card_becomes_the_subscriptions_and_the_customers(seller: Seller) -> None:
    """Nothing else than the portal, or the API, gives a customer a default payment method."""
    subscription = subscriber(seller, BAD_CARD_LATER)
    other = seller.post("/v1/payment_methods/pm_card_visa/attach", customer=subscription["customer"])
    one_off = item_on_an_invoice(seller, subscription["customer"], auto_advance=True)
    seller.move(2 * HOUR)
    assert seller.get(f"/v1/invoices/{one_off}")["status"] == "open"  # attached is not chosen
    seller.post(f"/v1/customers/{subscription['customer']}", invoice_settings={"default_payment_method": other["id"]})
    assert seller.post(f"/v1/invoices/{one_off}/pay")["status"] == "paid"


def item_on_an_invoice(town: Town, customer: str, **params: Any) -> str:
    town.post("/v1/invoiceitems", customer=customer, amount=300, currency="usd")
    given = {"customer": customer, "currency": "usd", "pending_invoice_items_behavior": "include", **params}
    return str(town.post("/v1/invoices", **given)["id"])


def payer(seller: Seller) -> str:
    """A customer whose default is a good card, and who has no subscription any more."""
    bought = subscriber(seller)
    seller.delete(f"/v1/subscriptions/{bought['id']}")
    card = {"default_payment_method": bought["default_payment_method"]}
    return str(seller.post(f"/v1/customers/{bought['customer']}", invoice_settings=card)["id"])


def test_an_invoice_by_hand_is_charged_to_its_own_method_first(seller: Seller) -> None:
    """An invoice's own payment method comes before the customer's default."""
    subscription = subscriber(seller)
    customer = subscription["customer"]
    seller.post(f"/v1/customers/{customer}", invoice_settings={"default_payment_method": "pm_card_chargeCustomerFail"})
    bad = item_on_an_invoice(seller, customer, auto_advance=True)
    good = item_on_an_invoice(
        seller, customer, auto_advance=True, default_payment_method=subscription["default_payment_method"]
    )
    seller.move(2 * HOUR)
    assert [seller.get(f"/v1/invoices/{id}")["status"] for id in (bad, good)] == ["open", "paid"]


def test_without_auto_advance_nothing_happens_by_itself(seller: Seller) -> None:
    """An invoice by hand does not advance unless that is asked for: a draft stays one, and an open one stays open."""
    id = item_on_an_invoice(seller, payer(seller))
    seller.move(30 * 24 * HOUR)
    draft = seller.get(f"/v1/invoices/{id}")
    assert (draft["auto_advance"], draft["automatically_finalizes_at"], draft["status"]) == (False, None, "draft")
    assert seller.post(f"/v1/invoices/{id}/finalize")["status"] == "open"
    seller.move(30 * 24 * HOUR)
    assert (seller.get(f"/v1/invoices/{id}")["status"], seller.get(f"/v1/invoices/{id}")["attempted"]) == (
        "open",
        False,
    )
    assert seller.post(f"/v1/invoices/{id}/pay")["status"] == "paid"


def test_finalizing_never_pays(seller: Seller) -> None:
    """Finalizing leaves an invoice open even where it advances; Stripe tries to collect it afterwards."""
    id = item_on_an_invoice(seller, payer(seller))
    made = seller.post(f"/v1/invoices/{id}/finalize", auto_advance=True)
    assert (made["status"], made["attempted"], made["amount_paid"]) == ("open", False, 0)
    assert made["next_payment_attempt"] == seller.now + HOUR
    seller.move(HOUR)
    paid = seller.get(f"/v1/invoices/{id}")
    assert (paid["status"], paid["auto_advance"]) == ("paid", False)


def test_an_open_invoice_is_let_advance_and_stopped(seller: Seller) -> None:
    """auto_advance of an open invoice begins and ends the attempts to collect it."""
    id = item_on_an_invoice(seller, payer(seller))
    seller.post(f"/v1/invoices/{id}/finalize")
    assert seller.post(f"/v1/invoices/{id}", auto_advance=True)["next_payment_attempt"] == seller.now + HOUR
    assert seller.post(f"/v1/invoices/{id}", auto_advance=False)["next_payment_attempt"] is None
    seller.move(2 * HOUR)
    assert seller.get(f"/v1/invoices/{id}")["status"] == "open"


def test_an_invoice_that_asks_for_nothing_is_paid_by_being_finalized(seller: Seller) -> None:
    """Nothing due is nothing to collect."""
    id = str(seller.post("/v1/invoices", customer=payer(seller))["id"])
    assert seller.post(f"/v1/invoices/{id}/finalize")["status"] == "paid"


def test_nobody_pays_without_a_payment_method(town: Town) -> None:
    """Without a payment method an invoice cannot be paid by name, and is not paid by itself."""
    customer = town.customer()
    id = item_on_an_invoice(town, customer, auto_advance=True)
    assert town.refused(400, "POST", f"/v1/invoices/{id}/pay") == {"type": "invalid_request_error"}
    town.move(10 * HOUR)
    left = town.get(f"/v1/invoices/{id}")
    assert (left["status"], left["attempted"]) == ("open", True)
    assert town.get(f"/v1/invoices/{id}")["payments"]["data"] == []


def test_paying_with_a_method_of_the_customers(seller: Seller) -> None:
    """An invoice can be paid with any payment method of its customer, and with nobody else's."""
    customer = town_customer_with_bad_card(seller)
    id = item_on_an_invoice(seller, customer)
    seller.post(f"/v1/invoices/{id}/finalize")
    seller.refused(402, "POST", f"/v1/invoices/{id}/pay")
    other = seller.post("/v1/payment_methods/pm_card_visa/attach", customer=seller.customer())["id"]
    refused = seller.refused(400, "POST", f"/v1/invoices/{id}/pay", {"payment_method": other})
    assert (refused["param"], refused["code"]) == ("payment_method", "resource_missing")
    own = seller.post("/v1/payment_methods/pm_card_visa/attach", customer=customer)["id"]
    assert seller.post(f"/v1/invoices/{id}/pay", payment_method=own)["status"] == "paid"


def town_customer_with_bad_card(town: Town) -> str:
    customer = town.customer()
    card = {"default_payment_method": "pm_card_chargeCustomerFail"}
    town.post(f"/v1/customers/{customer}", invoice_settings=card)
    return customer


def test_an_invoice_takes_only_what_waits_for_it(seller: Seller) -> None:
    """By hand: items of its currency without a subscription, and only when asked to; those of a subscription that has
    ended stay pending; with a subscription, that subscription's items alone."""
    subscription = subscriber(seller)
    customer = subscription["customer"]

    def item(**params: Any) -> str:
        given = {"customer": customer, "amount": 300, "currency": "usd", **params}
        return str(seller.post("/v1/invoiceitems", **given)["id"])

    free, euros, bound = item(), item(currency="eur"), item(subscription=subscription["id"])
    asked = {"customer": customer, "currency": "usd"}
    assert seller.post("/v1/invoices", **asked)["lines"]["data"] == []
    one_off = seller.post("/v1/invoices", **asked, pending_invoice_items_behavior="include")
    assert invoiced(one_off) == [free]
    own = seller.post("/v1/invoices", customer=customer, subscription=subscription["id"])
    assert (invoiced(own), own["parent"]["subscription_details"]["subscription"]) == ([bound], subscription["id"])
    again = {"customer": customer, "subscription": subscription["id"]}
    refused = seller.refused(400, "POST", "/v1/invoices", again)
    assert refused["code"] == "invoice_no_subscription_line_items"
    left = item(subscription=subscription["id"])
    seller.delete(f"/v1/subscriptions/{subscription['id']}")
    assert seller.refused(400, "POST", "/v1/invoices", again)["param"] == "subscription"
    seller.refused(400, "POST", "/v1/invoiceitems", {**again, "amount": 1, "currency": "usd"})
    assert invoiced(seller.post("/v1/invoices", **asked, pending_invoice_items_behavior="include")) == []
    pending = seller.get("/v1/invoiceitems", customer=customer, pending=True)["data"]
    assert {each["id"] for each in pending} == {euros, left}
    assert seller.delete(f"/v1/invoiceitems/{left}")["deleted"] is True


def invoiced(invoice: Any) -> list[str]:
    return [line["parent"]["invoice_item_details"]["invoice_item"] for line in invoice["lines"]["data"]]


def test_items_of_a_draft_come_change_and_go(seller: Seller) -> None:
    """An item is put on a draft by name, changed there and taken off; a finalized invoice lets nobody at its items."""
    customer = payer(seller)
    id = str(seller.post("/v1/invoices", customer=customer, currency="usd")["id"])
    asked = {"customer": customer, "invoice": id, "currency": "usd"}
    first = seller.post("/v1/invoiceitems", **asked, amount=500)
    second = seller.post("/v1/invoiceitems", **asked, amount=200)
    assert (first["invoice"], seller.get(f"/v1/invoices/{id}")["total"]) == (id, 700)
    seller.post(f"/v1/invoiceitems/{first['id']}", amount=600)
    seller.delete(f"/v1/invoiceitems/{second['id']}")
    assert seller.get(f"/v1/invoices/{id}")["total"] == 600
    wrong = {**asked, "currency": "eur", "amount": 1}
    assert seller.refused(400, "POST", "/v1/invoiceitems", wrong)["param"] == "currency"
    seller.post(f"/v1/invoices/{id}/pay")
    refused = seller.refused(400, "POST", "/v1/invoiceitems", {**asked, "amount": 1})
    assert refused["code"] == "invoice_not_editable"
    seller.refused(400, "POST", f"/v1/invoiceitems/{first['id']}", {"amount": 1})
    seller.refused(400, "DELETE", f"/v1/invoiceitems/{first['id']}")


def test_discounts_of_an_invoice_and_of_its_items(seller: Seller) -> None:
    """A discount of an item is taken off that item first; the invoice's then off all that is left."""
    customer = payer(seller)
    half = seller.post("/v1/coupons", percent_off=50, duration="forever")["id"]
    tenth = seller.post("/v1/coupons", percent_off=10, duration="once")["id"]
    item = seller.post(
        "/v1/invoiceitems", customer=customer, amount=1_000, currency="usd", discounts=[{"coupon": half}]
    )
    seller.post("/v1/invoiceitems", customer=customer, amount=200, currency="usd")
    asked = {"customer": customer, "currency": "usd", "pending_invoice_items_behavior": "include"}
    made = seller.post("/v1/invoices", **asked, discounts=[{"coupon": tenth}])
    assert (made["subtotal"], made["total"]) == (1_200, 630)
    by_line = [[each["amount"] for each in line["discount_amounts"]] for line in made["lines"]["data"]]
    assert by_line == [[500, 50], [20]]
    assert made["lines"]["data"][0]["discounts"] == item["discounts"]
    assert seller.post(f"/v1/invoices/{made['id']}", discounts="")["total"] == 700
    kept = seller.post(f"/v1/invoices/{made['id']}", discounts=[{"discount": made["discounts"][0]}])
    assert (kept["total"], kept["discounts"]) == (630, made["discounts"])
    assert seller.get(f"/v1/coupons/{tenth}")["times_redeemed"] == 1


def test_nobody_reuses_anothers_discount(seller: Seller) -> None:
    """An existing discount goes on only for the customer that has it."""
    half = seller.post("/v1/coupons", percent_off=50, duration="forever")["id"]
    made = seller.post("/v1/invoices", customer=payer(seller), currency="usd", discounts=[{"coupon": half}])
    asked = {"customer": seller.customer(), "discounts": [{"discount": made["discounts"][0]}]}
    assert seller.refused(400, "POST", "/v1/invoices", asked)["code"] == "resource_missing"


def test_what_is_negative_is_not_discounted(seller: Seller) -> None:
    """Negative items are discountable only when that is asked for."""
    customer = seller.customer()
    asked = {"customer": customer, "amount": -100, "currency": "usd"}
    assert seller.post("/v1/invoiceitems", **asked)["discountable"] is False
    assert seller.post("/v1/invoiceitems", **asked, discountable=True)["discountable"] is True


def test_automatic_tax_needs_an_address(seller: Seller) -> None:
    """Without an address an invoice with automatic tax cannot be finalized by name, and by itself goes without tax."""
    customer = payer(seller)
    id = item_on_an_invoice(seller, customer, automatic_tax={"enabled": True}, auto_advance=True)
    assert seller.get(f"/v1/invoices/{id}")["automatic_tax"]["status"] == "requires_location_inputs"
    for path in ("finalize", "pay"):
        refused = seller.refused(400, "POST", f"/v1/invoices/{id}/{path}")
        assert refused["code"] == "customer_tax_location_invalid"
    seller.move(HOUR)
    tax = seller.get(f"/v1/invoices/{id}")["automatic_tax"]
    assert (tax["enabled"], tax["disabled_reason"]) == (False, "finalization_requires_location_inputs")
    asked = {"customer": customer, "items": [{"price": seller.price_id}], "automatic_tax": {"enabled": True}}
    assert seller.refused(400, "POST", "/v1/subscriptions", asked)["code"] == "customer_tax_location_invalid"
    seller.post(f"/v1/customers/{customer}", address={"country": "US", "postal_code": "94080"})
    assert seller.post("/v1/subscriptions", **asked)["automatic_tax"]["enabled"] is True
    id = item_on_an_invoice(seller, customer, automatic_tax={"enabled": True})
    assert seller.post(f"/v1/invoices/{id}/finalize")["automatic_tax"]["status"] == "complete"


def test_checkout_with_tax_makes_a_subscription_with_tax(seller: Seller) -> None:
    """Tax asked for at Checkout is asked for by the subscription and its invoices, at the address that was typed."""
    customer = seller.customer()
    asked = {"automatic_tax": {"enabled": True}, "customer_update": {"address": "auto"}}
    session = seller.checkout(seller.price_id, customer=customer, **asked)
    seller.pay(session["id"])
    found = seller.subscription(seller.get(f"/v1/checkout/sessions/{session['id']}")["subscription"])
    assert found["automatic_tax"]["enabled"] is True
    assert seller.get(f"/v1/customers/{customer}")["address"]["country"] == "US"
    seller.use(customer, "3")
    seller.move(32 * 24 * HOUR)
    assert [i["automatic_tax"]["status"] for i in seller.invoices(found)] == ["complete"]
