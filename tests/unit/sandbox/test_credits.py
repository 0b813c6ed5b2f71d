"""Billing credits: which grants pay which metered lines, in which order, and what is left of them."""

from typing import Any

import pytest
from tests.unit.sandbox.test_licensed import MONTH, payer, seats
from tests.unit.sandbox.town import BAD_CARD_LATER, DAY, HOUR, START_AT, Seller

GRANTS = "/v1/billing/credit_grants"
TRANSACTIONS = "/v1/billing/credit_balance_transactions"


def shape(customer: str, value: int, prices: tuple[str, ...] = (), **params: Any) -> dict[str, Any]:
    scope = {"prices": [{"id": price} for price in prices]} if prices else {"price_type": "metered"}
    amount = {"type": "monetary", "monetary": {"currency": "usd", "value": value}}
    return {"customer": customer, "amount": amount, "applicability_config": {"scope": scope}, **params}


def grant(seller: Seller, customer: str, value: int, *prices: str, **params: Any) -> str:
    return str(seller.post(GRANTS, **shape(customer, value, prices, **params))["id"])


def balance(seller: Seller, customer: str, **scope: Any) -> tuple[int, int]:
    """What can be spent, and what there is with what becomes effective later."""
    chosen = {"type": "applicability_scope", "applicability_scope": scope or {"price_type": "metered"}}
    found = seller.get("/v1/billing/credit_balance_summary", customer=customer, filter=chosen)["balances"]
    (only,) = found
    return only["available_balance"]["monetary"]["value"], only["ledger_balance"]["monetary"]["value"]


def left(seller: Seller, customer: str, id: str) -> int:
    chosen = {"type": "credit_grant", "credit_grant": id}
    found = seller.get("/v1/billing/credit_balance_summary", customer=customer, filter=chosen)["balances"]
    return int(found[0]["available_balance"]["monetary"]["value"])


def renewed(seller: Seller, subscription: Any) -> Any:
    seller.move(MONTH + HOUR)
    return seller.invoices(subscription)[-1]


def test_credits_pay_usage_at_finalization(seller: Seller) -> None:
    """A grant pays metered lines when the invoice is finalized, never licensed ones; what is left is charged (L4)."""
    customer = payer(seller)
    items = [{"price": seats(seller)}, {"price": seller.price_id}]
    made = seller.post("/v1/subscriptions", customer=customer, items=items)
    id = grant(seller, customer, 2_500)
    assert balance(seller, customer) == (2_500, 2_500)
    seller.use(customer, "7")
    assert seller.post("/v1/invoices/create_preview", subscription=made["id"])["total"] == 1_000
    assert balance(seller, customer) == (2_500, 2_500)  # a preview spends nothing
    invoice = renewed(seller, made)
    assert (invoice["subtotal"], invoice["total"], invoice["amount_paid"]) == (1_700, 1_000, 1_000)
    debit, credit = seller.get(TRANSACTIONS, customer=customer)["data"]
    assert (credit["type"], credit["credit"]["type"], credit["credit_grant"]) == ("credit", "credits_granted", id)
    assert (debit["type"], debit["debit"]["amount"]["monetary"]["value"]) == ("debit", 700)
    line = next(x for x in invoice["lines"]["data"] if x["pretax_credit_amounts"])
    assert debit["debit"]["credits_applied"] == {"invoice": invoice["id"], "invoice_line_item": line["id"]}
    expected = [{"amount": 700, "credit_balance_transaction": debit["id"], "type": "credit_balance_transaction"}]
    assert line["pretax_credit_amounts"] == invoice["total_pretax_credit_amounts"] == expected
    assert left(seller, customer, id) == 1_800
    assert seller.get(f"{TRANSACTIONS}/{debit['id']}") == debit
    types = seller.events()
    assert types.count("billing.credit_balance_transaction.created") == 2
    assert types.count("billing.credit_grant.created") == 1


ORDER: list[dict[str, Any]] = [
    {"priority": 10, "category": "paid"},
    {"category": "promotional", "expires_at": START_AT + 60 * DAY},
    {"category": "paid", "expires_at": START_AT + 60 * DAY},
    {"category": "promotional", "expires_at": START_AT + 90 * DAY},
    {"category": "promotional"},
    {"category": "paid"},
    {"priority": 90, "category": "promotional", "expires_at": START_AT + 50 * DAY},
]


@pytest.mark.parametrize("used", range(1, len(ORDER) + 1))
def test_the_order_of_grants(seller: Seller, used: int) -> None:
    """By priority, then the sooner to expire, then promotional before paid: each is used up before the next."""
    made = seller.subscribe()
    customer = made["customer"]
    ids = [grant(seller, customer, 100, **terms) for terms in reversed(ORDER)][::-1]
    seller.use(customer, str(used))
    assert renewed(seller, made)["amount_paid"] == 0
    assert [left(seller, customer, id) for id in ids] == [0] * used + [100] * (len(ORDER) - used)


@pytest.mark.parametrize(
    ("terms", "pays"),
    [
        ({"effective_at": START_AT + 40 * DAY}, False),
        ({"expires_at": START_AT + MONTH}, False),
        ({"expires_at": START_AT + MONTH + HOUR}, False),
        ({"expires_at": START_AT + MONTH + HOUR + 1}, True),
        ({"effective_at": START_AT + MONTH + HOUR}, True),
    ],
)
def test_when_a_grant_counts(seller: Seller, terms: dict[str, int], pays: bool) -> None:
    """A grant pays from when it is effective until it expires, by the instant of finalization."""
    made = seller.subscribe()
    grant(seller, made["customer"], 1_000, **terms)
    seller.use(made["customer"], "3")
    assert renewed(seller, made)["amount_paid"] == (0 if pays else 300)


def test_a_grant_for_one_price(seller: Seller) -> None:
    """A grant for some prices pays these only, and is counted so in the balance."""
    other = seller.price(seller.meter("tokens"), "50")
    made = seller.subscribe("4242424242424242", seller.price_id, other)
    customer = made["customer"]
    grant(seller, customer, 10_000, other)
    assert balance(seller, customer, prices=[{"id": other}]) == (10_000, 10_000)
    seller.use(customer, "2")
    seller.use(customer, "4", name="tokens")
    assert renewed(seller, made)["amount_paid"] == 200


def test_credits_come_after_discounts(seller: Seller) -> None:
    """A line is discounted first; the grant pays what is left of it."""
    made = seller.subscribe()
    coupon = seller.post("/v1/coupons", percent_off=50, duration="forever")["id"]
    seller.post(f"/v1/subscriptions/{made['id']}", discounts=[{"coupon": coupon}])
    id = grant(seller, made["customer"], 1_000)
    seller.use(made["customer"], "8")
    assert renewed(seller, made)["total"] == 0
    assert left(seller, made["customer"], id) == 600


def test_a_voided_invoice_gives_its_credits_back(seller: Seller) -> None:
    """What an invoice used is reinstated when it is voided."""
    made = seller.subscribe(BAD_CARD_LATER)
    id = grant(seller, made["customer"], 300)
    seller.use(made["customer"], "8")
    invoice = renewed(seller, made)
    assert (invoice["status"], invoice["amount_due"], left(seller, made["customer"], id)) == ("open", 500, 0)
    seller.post(f"/v1/invoices/{invoice['id']}/void")
    assert left(seller, made["customer"], id) == 300
    newest = seller.get(TRANSACTIONS, customer=made["customer"], credit_grant=id)["data"][0]
    assert newest["credit"]["type"] == "credits_application_invoice_voided"


def test_changing_voiding_and_expiring(seller: Seller) -> None:
    """A grant's expiry can be moved; expired it pays no more; voided it is as if it had never been, if unused."""
    customer = seller.customer()
    first, second = (grant(seller, customer, 100, name=name) for name in ("a", "b"))
    later = grant(seller, customer, 40, effective_at=START_AT + DAY)
    assert balance(seller, customer) == (200, 240)
    moved = seller.post(f"{GRANTS}/{first}", expires_at=START_AT + DAY, metadata={"a": "b"})
    assert (moved["expires_at"], moved["metadata"]) == (START_AT + DAY, {"a": "b"})
    assert seller.post(f"{GRANTS}/{first}/expire")["expires_at"] == START_AT
    assert seller.post(f"{GRANTS}/{second}/void")["voided_at"] == START_AT
    assert balance(seller, customer) == (0, 40)
    for path in (f"{GRANTS}/{first}/void", f"{GRANTS}/{second}/expire", f"{GRANTS}/{second}"):
        seller.refused(400, "POST", path)
    assert [g["id"] for g in seller.get(GRANTS, customer=customer)["data"]] == [later, second, first]
    assert seller.get(f"{GRANTS}/{first}")["name"] == "a"


def test_a_used_grant_is_not_voided(seller: Seller) -> None:
    """A grant of which something was used can only expire."""
    made = seller.subscribe()
    id = grant(seller, made["customer"], 1_000)
    seller.use(made["customer"], "1")
    renewed(seller, made)
    seller.refused(400, "POST", f"{GRANTS}/{id}/void")
    assert seller.post(f"{GRANTS}/{id}/expire")["voided_at"] is None


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"customer": "cus_none"}, "customer"),
        ({"amount": {"type": "monetary"}}, "amount[monetary]"),
        ({"amount": {"type": "monetary", "monetary": {"currency": "usd", "value": 0}}}, "amount[monetary][value]"),
        ({"expires_at": START_AT}, "expires_at"),
        ({"priority": 101}, "priority"),
        ({"category": "gift"}, "category"),
        ({"applicability_config": {"scope": {"price_type": "licensed"}}}, "applicability_config[scope][price_type]"),
        (
            {"applicability_config": {"scope": {"prices": [{"id": "SEATS"}]}}},
            "applicability_config[scope][prices][0][id]",
        ),
    ],
)
def test_grants_that_are_refused(seller: Seller, changes: dict[str, Any], param: str) -> None:
    """A grant is money for a customer's metered prices, and ends after it begins."""
    price = seats(seller)
    sent = {**shape(seller.customer(), 100), **changes}
    if param.endswith("[id]"):
        sent["applicability_config"] = {"scope": {"prices": [{"id": price}]}}
    assert seller.refused(400, "POST", GRANTS, sent)["param"] == param


def test_a_customer_has_so_many_grants(seller: Seller) -> None:
    """At most 100 unused grants of a customer."""
    customer = seller.customer()
    for _ in range(100):
        grant(seller, customer, 1)
    assert seller.refused(400, "POST", GRANTS, shape(customer, 1))["param"] == "customer"


def test_the_summarys_filter(seller: Seller) -> None:
    """The balance is asked for by scope or by grant, and what is said must be there."""
    asked = {"customer": seller.customer(), "filter": {"type": "credit_grant"}}
    path = "/v1/billing/credit_balance_summary"
    assert seller.refused(400, "GET", path, asked)["param"] == "filter[credit_grant]"
    asked["filter"] = {"type": "credit_grant", "credit_grant": "credgr_none"}
    assert seller.refused(400, "GET", path, asked)["code"] == "resource_missing"
