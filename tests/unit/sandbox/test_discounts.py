"""Coupons and promotion codes: what they take off, for how long, and who may use them."""

from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.unit.sandbox.test_licensed import MONTH, buy, payer, seats
from tests.unit.sandbox.town import DAY, GOOD_CARD, HOUR, START_AT, Seller

from farebox.sandbox import create_app
from farebox.sandbox.errors import StripeError

LEAST = {"minimum_amount": 2_000, "minimum_amount_currency": "usd"}


def coupon(seller: Seller, **params: Any) -> str:
    return str(seller.post("/v1/coupons", **(params or {"percent_off": 25}))["id"])


def code(seller: Seller, coupon_id: str, text: str = "SPRING", **params: Any) -> Any:
    return seller.post("/v1/promotion_codes", promotion={"type": "coupon", "coupon": coupon_id}, code=text, **params)


def subscribed(seller: Seller, coupon_id: str, quantity: int = 1) -> Any:
    items = [{"price": seats(seller), "quantity": quantity}, {"price": seller.price_id}]
    return seller.post("/v1/subscriptions", customer=payer(seller), items=items, discounts=[{"coupon": coupon_id}])


def totals(seller: Seller, subscription: Any) -> list[tuple[int, int]]:
    """What each invoice came to before and after its discounts."""
    return [(i["subtotal"], i["total"]) for i in seller.invoices(subscription)]


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ({"duration": "once"}, [(1_000, 750), (1_000, 1_000), (1_000, 1_000), (1_000, 1_000)]),
        (
            {"duration": "repeating", "duration_in_months": 2},
            [(1_000, 750), (1_000, 750), (1_000, 1_000), (1_000, 1_000)],
        ),
        ({"duration": "forever"}, [(1_000, 750)] * 4),
    ],
)
def test_how_long_a_discount_lasts(seller: Seller, terms: dict[str, Any], expected: list[tuple[int, int]]) -> None:
    """Once is one invoice, repeating is for some months, forever is every one; its end is an event."""
    made = subscribed(seller, coupon(seller, percent_off=25, **terms))
    seller.move(31 * DAY + 28 * DAY + 31 * DAY + HOUR)
    assert totals(seller, made) == expected
    ended = terms["duration"] != "forever"
    assert ("customer.discount.deleted" in seller.events()) is ended
    assert seller.subscription(made["id"])["discounts"] == ([] if ended else made["discounts"])


def test_an_invoice_shows_its_discounts(seller: Seller) -> None:
    """The discount is spread over the lines, to the cent, and shown on lines and invoice."""
    made = subscribed(seller, coupon(seller, percent_off="33.33", duration="forever"))
    seller.use(made["customer"], "7")
    seller.move(MONTH + HOUR)
    invoice = seller.invoices(made)[1]
    assert (invoice["subtotal"], invoice["total"], invoice["amount_paid"]) == (1_700, 1_133, 1_133)
    (discount,) = invoice["discounts"]
    assert invoice["total_discount_amounts"] == [{"amount": 567, "discount": discount}]
    shares = [line["discount_amounts"] for line in invoice["lines"]["data"]]
    assert shares == [[{"amount": 233, "discount": discount}], [{"amount": 334, "discount": discount}]]
    found = seller.get(f"/v1/subscriptions/{made['id']}", expand=["discounts.source.coupon"])["discounts"][0]
    assert (found["start"], found["end"], found["source"]["coupon"]["percent_off"]) == (START_AT, None, 33.33)


def test_an_amount_off_takes_no_more_than_there_is(seller: Seller) -> None:
    """A fixed amount is taken off once for the whole invoice, down to nothing."""
    made = subscribed(seller, coupon(seller, amount_off=1_500, currency="usd", duration="forever"), quantity=2)
    assert totals(seller, made) == [(2_000, 500)]
    small = subscribed(seller, coupon(seller, amount_off=1_500, currency="usd"))
    assert totals(seller, small) == [(1_000, 0)]
    assert seller.invoices(small)[0]["status"] == "paid"


def test_discounts_one_after_the_other(seller: Seller) -> None:
    """A second discount is taken of what the first has left."""
    half, fixed = coupon(seller, percent_off=50), coupon(seller, amount_off=900, currency="usd")
    asked = {"customer": payer(seller), "items": [{"price": seats(seller), "quantity": 2}]}
    made = seller.post("/v1/subscriptions", **asked, discounts=[{"coupon": half}, {"coupon": half}])
    assert totals(seller, made) == [(2_000, 500)]
    made = seller.post("/v1/subscriptions", **asked, discounts=[{"coupon": fixed}, {"coupon": half}])
    assert totals(seller, made) == [(2_000, 550)]
    assert [entry["amount"] for entry in seller.invoices(made)[0]["total_discount_amounts"]] == [900, 550]


def test_a_coupon_for_some_products(seller: Seller) -> None:
    """A coupon that applies to some products takes nothing off the others."""
    product = seller.get(f"/v1/prices/{seller.price_id}")["product"]
    made = subscribed(seller, coupon(seller, percent_off=50, duration="forever", applies_to={"products": [product]}))
    seller.use(made["customer"], "4")
    assert seller.post("/v1/invoices/create_preview", subscription=made["id"])["total"] == 1_000 + 200


def test_a_discount_is_put_on_and_taken_off(seller: Seller) -> None:
    """A running subscription gets a discount, and loses it; a deleted coupon stays with those who have it."""
    made = seller.subscribe()
    path = f"/v1/subscriptions/{made['id']}"
    half = coupon(seller, percent_off=50, duration="forever")
    changed = seller.post(path, discounts=[{"coupon": half}])
    assert len(changed["discounts"]) == 1
    seller.use(made["customer"], "4")
    assert seller.delete(f"/v1/coupons/{half}")["deleted"] is True
    assert seller.post("/v1/invoices/create_preview", subscription=made["id"])["total"] == 200
    assert seller.delete(f"{path}/discount")["deleted"] is True
    assert seller.post("/v1/invoices/create_preview", subscription=made["id"])["total"] == 400
    seller.refused(400, "DELETE", f"{path}/discount")
    assert seller.refused(400, "POST", path, {"discounts": [{"coupon": half}]})["code"] == "resource_missing"


def test_a_promotion_code_at_checkout(seller: Seller) -> None:
    """The buyer types a code on the page: it is taken off what is due, whatever its case, and counted."""
    made = code(seller, coupon(seller, percent_off=25, duration="forever"))
    session = seller.checkout(line_items=[{"price": seats(seller), "quantity": 2}], allow_promotion_codes=True)
    with pytest.raises(StripeError, match="not valid"):
        seller.sandbox.pay(session["id"], number=GOOD_CARD, expiry="12/40", cvc="123", promotion_code="WINTER")
    seller.sandbox.pay(session["id"], number=GOOD_CARD, expiry="12/40", cvc="123", promotion_code=" spring ")
    done = seller.get(f"/v1/checkout/sessions/{session['id']}")
    assert (done["amount_subtotal"], done["amount_total"]) == (2_000, 1_500)
    assert done["discounts"] == [{"coupon": made["promotion"]["coupon"], "promotion_code": made["id"]}]
    assert done["total_details"]["amount_discount"] == 500
    assert totals(seller, {"id": done["subscription"]}) == [(2_000, 1_500)]
    assert seller.get(f"/v1/promotion_codes/{made['id']}")["times_redeemed"] == 1
    (discount,) = seller.get(f"/v1/subscriptions/{done['subscription']}", expand=["discounts"])["discounts"]
    assert (discount["promotion_code"], discount["checkout_session"]) == (made["id"], session["id"])


def test_a_promotion_code_typed_on_the_page(seller: Seller) -> None:
    """The hosted page has a field for the code where the session allows one; a bad code sells nothing."""
    code(seller, coupon(seller, percent_off=25, duration="forever"), restrictions=LEAST)
    session = seller.checkout(line_items=[{"price": seats(seller), "quantity": 2}], allow_promotion_codes=True)
    browser = TestClient(create_app(seller.sandbox), base_url="http://127.0.0.1", follow_redirects=False)
    path, form = f"/pay/{session['id']}", {"card_number": GOOD_CARD, "exp": "12/40", "cvc": "123"}
    assert 'name="promotion_code"' in browser.get(path).text
    assert browser.post(path, data={**form, "promotion_code": "WINTER"}).status_code == 400
    assert browser.post(path, data={**form, "promotion_code": "SPRING"}).status_code == 303
    assert seller.get(f"/v1/checkout/sessions/{session['id']}")["amount_total"] == 1_500
    small = seller.checkout(line_items=[{"price": seats(seller), "quantity": 1}], allow_promotion_codes=True)
    assert browser.post(f"/pay/{small['id']}", data={**form, "promotion_code": "SPRING"}).status_code == 400
    assert seller.get(f"/v1/checkout/sessions/{small['id']}") == small
    plain = seller.checkout(seller.price_id)
    assert 'name="promotion_code"' not in browser.get(f"/pay/{plain['id']}").text
    assert browser.post(f"/pay/{plain['id']}", data={**form, "promotion_code": "SPRING"}).status_code == 400


def test_a_coupon_is_counted_once_when_the_answer_is_expanded(seller: Seller) -> None:
    """What is tried out first to see what can be expanded leaves no trace: one redemption, one invoice, one charge."""
    half = coupon(seller, percent_off=50)
    asked = {"customer": payer(seller), "items": [{"price": seats(seller)}], "discounts": [{"coupon": half}]}
    made = seller.post("/v1/subscriptions", **asked, expand=["latest_invoice", "customer"])
    assert (made["latest_invoice"]["amount_paid"], made["customer"]["balance"]) == (500, 0)
    assert seller.get(f"/v1/coupons/{half}")["times_redeemed"] == 1
    assert len(seller.invoices(made)) == 1


def test_a_trial_does_not_use_a_discount_up(seller: Seller) -> None:
    """What is good for one invoice is kept for the first that costs something."""
    once = coupon(seller, percent_off=50, duration="once")
    asked = {"customer": payer(seller), "items": [{"price": seats(seller)}], "discounts": [{"coupon": once}]}
    made = seller.post("/v1/subscriptions", **asked, trial_period_days=5)
    seller.move(5 * DAY + HOUR)
    assert totals(seller, made) == [(0, 0), (1_000, 500)]


def test_a_session_with_its_discount(seller: Seller) -> None:
    """A session may bring its discount; all of it off means that no payment is required."""
    free = coupon(seller, percent_off=100, duration="once")
    session = buy(seller, {"price": seats(seller), "quantity": 1}, discounts=[{"coupon": free}])
    assert (session["payment_status"], session["amount_total"]) == ("no_payment_required", 0)
    both: dict[str, Any] = {
        "mode": "subscription",
        "success_url": "https://x.example",
        "line_items": [{"price": seller.price_id}],
    }
    both |= {"allow_promotion_codes": True, "discounts": [{"coupon": free}]}
    assert seller.refused(400, "POST", "/v1/checkout/sessions", both)["param"] == "discounts"


@pytest.mark.parametrize(
    ("terms", "why"),
    [
        ({"max_redemptions": 1}, "full"),
        ({"expires_at": START_AT + 60}, "late"),
        ({"active": False}, "inactive"),
        ({"customer": "OTHER"}, "another customer's"),
        ({"restrictions": {"first_time_transaction": True}}, "not the first purchase"),
    ],
)
def test_codes_that_are_not_taken(seller: Seller, terms: dict[str, Any], why: str) -> None:
    """A code that is full, late, inactive, another's, or for first purchases only is refused."""
    half = coupon(seller, percent_off=50, duration="forever")
    terms = {k: seller.customer() if v == "OTHER" else v for k, v in terms.items()}
    made = code(seller, half, **terms)
    first = subscribed(seller, half)  # a purchase
    asked = {"items": [{"price": seller.price_id}], "discounts": [{"promotion_code": made["id"]}]}
    if why == "full":
        seller.post("/v1/subscriptions", customer=seller.customer(), **asked)
    seller.move(60)
    refused = seller.refused(400, "POST", "/v1/subscriptions", {"customer": first["customer"], **asked})
    assert refused["param"] == "discounts[0][promotion_code]"


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({}, {"param": "percent_off"}),
        ({"percent_off": 10, "amount_off": 5, "currency": "usd"}, {"param": "percent_off"}),
        ({"percent_off": 101}, {"param": "percent_off"}),
        ({"percent_off": 0}, {"param": "percent_off"}),
        ({"amount_off": 5}, {"param": "currency", "code": "parameter_missing"}),
        ({"percent_off": 5, "duration": "repeating"}, {"param": "duration_in_months"}),
        ({"percent_off": 5, "duration": "once", "duration_in_months": 3}, {"param": "duration_in_months"}),
        ({"percent_off": 5, "id": "TAKEN"}, {"param": "id", "code": "resource_already_exists"}),
        ({"percent_off": 5, "applies_to": {"products": ["prod_none"]}}, {"param": "applies_to[products][0]"}),
    ],
)
def test_coupons_that_are_refused(seller: Seller, params: dict[str, Any], error: dict[str, str]) -> None:
    """A coupon takes off a percentage or an amount, and a name is taken once."""
    coupon(seller, percent_off=5, id="TAKEN")
    assert error.items() <= seller.refused(400, "POST", "/v1/coupons", params).items()


def test_a_coupon_in_another_currency_or_used_up(seller: Seller) -> None:
    """An amount off in another currency, and a coupon that is used up or late, are refused."""
    customer = seller.customer()

    def refused(id: str) -> dict[str, str]:
        asked = {"customer": customer, "items": [{"price": seller.price_id}], "discounts": [{"coupon": id}]}
        return seller.refused(400, "POST", "/v1/subscriptions", asked)

    assert refused(coupon(seller, amount_off=5, currency="eur"))["param"] == "discounts[0]"
    full = coupon(seller, percent_off=5, max_redemptions=1)
    subscribed(seller, full)
    assert refused(full)["code"] == "coupon_expired"
    late = coupon(seller, percent_off=5, redeem_by=START_AT + 10)
    seller.move(10)
    assert refused(late)["code"] == "coupon_expired"
    assert [c["valid"] for c in seller.get("/v1/coupons")["data"]] == [False, False, True]


def test_coupons_and_codes_are_kept(seller: Seller) -> None:
    """Both are listed, found and changed in what may change; one active code of a name at a time."""
    half = coupon(seller, percent_off=50, name="Half", metadata={"a": "b"})
    assert seller.post(f"/v1/coupons/{half}", name="Fifty")["name"] == "Fifty"
    made = code(seller, half, "spring")
    promotion = {"type": "coupon", "coupon": half}
    asked = {"promotion": promotion, "code": "SPRING"}
    assert seller.refused(400, "POST", "/v1/promotion_codes", asked)["param"] == "code"
    assert [c["id"] for c in seller.get("/v1/promotion_codes", code="Spring")["data"]] == [made["id"]]
    assert seller.post(f"/v1/promotion_codes/{made['id']}", active=False)["active"] is False
    again = seller.post("/v1/promotion_codes", **asked)
    assert [c["id"] for c in seller.get("/v1/promotion_codes", active=True, coupon=half)["data"]] == [again["id"]]
    assert (
        seller.get(f"/v1/promotion_codes/{again['id']}", expand=["promotion.coupon"])["promotion"]["coupon"]["id"]
        == half
    )
    seller.delete(f"/v1/coupons/{half}")
    assert seller.refused(404, "GET", f"/v1/coupons/{half}")["code"] == "resource_missing"
    assert seller.get("/v1/coupons")["data"] == []
