"""Updates that are billed at once: paid first or refused, a cycle that begins anew, and items that are added."""

from typing import Any

import pytest
from tests.unit.sandbox.test_licensed import lines, payer, seats
from tests.unit.sandbox.town import DAY, HOUR, START_AT, Seller

MONTH = 31 * DAY
DECLINED = "pm_card_chargeCustomerFail"
ASKS_THE_BANK = "pm_card_authenticationRequired"


def hybrid(seller: Seller, base: str, **params: Any) -> Any:
    """A subscription to a base fee and to calls at a dollar each."""
    items = [{"price": base}, {"price": seller.price_id}]
    return seller.post("/v1/subscriptions", customer=payer(seller), items=items, **params)


def swap(made: Any, *prices: str) -> list[dict[str, Any]]:
    """All old items off, these on."""
    return [*({"id": i["id"], "deleted": True} for i in made["items"]["data"]), *({"price": p} for p in prices)]


def upgrade(made: Any, *prices: str, **params: Any) -> dict[str, Any]:
    """What asks for a change that happens only when it is paid."""
    asked = {
        "items": swap(made, *prices),
        "billing_cycle_anchor": "now",
        "proration_behavior": "always_invoice",
        "payment_behavior": "error_if_incomplete",
    }
    return asked | params


def give_card(seller: Seller, customer: str, card: str) -> None:
    """Make this ready card the customer's default."""
    method = seller.post(f"/v1/payment_methods/{card}/attach", customer=customer)["id"]
    seller.post(f"/v1/customers/{customer}", invoice_settings={"default_payment_method": method})


def test_a_cycle_begins_anew(seller: Seller) -> None:
    """The running period closes: its usage is billed at the old prices on the change's own invoice, its base comes back
    by the time left, and a whole new period begins, paid in full at once."""
    made = hybrid(seller, seats(seller, 3_100))
    seller.use(made["customer"], "7")
    seller.move(10 * DAY)
    dear, cheap_calls = seats(seller, 9_900), seller.price(seller.meter_id, "50")
    changed = seller.post(f"/v1/subscriptions/{made['id']}", **upgrade(made, dear, cheap_calls))
    now = START_AT + 10 * DAY
    assert changed["billing_cycle_anchor"] == now
    ends = {i["current_period_end"] for i in changed["items"]["data"]}
    assert ({i["current_period_start"] for i in changed["items"]["data"]}, ends) == ({now}, {now + MONTH})
    invoice = seller.invoices(made)[-1]
    assert (invoice["billing_reason"], invoice["status"]) == ("subscription_update", "paid")
    assert sorted(amount for _, amount in lines(invoice)) == [-2_100, 700, 9_900]
    usage = next(line for line in invoice["lines"]["data"] if line["amount"] == 700)
    assert usage["period"] == {"start": START_AT, "end": now}
    assert (invoice["period_start"], invoice["period_end"]) == (START_AT, now)
    seller.use(made["customer"], "4")
    seller.move(MONTH + HOUR)
    assert sorted(amount for _, amount in lines(seller.invoices(made)[-1])) == [200, 9_900]


def test_without_prorations_nothing_comes_back(seller: Seller) -> None:
    """A cycle that begins anew without prorations bills the new period in full and gives nothing back."""
    made = hybrid(seller, seats(seller, 3_100))
    seller.move(10 * DAY)
    seller.post(f"/v1/subscriptions/{made['id']}", billing_cycle_anchor="now", proration_behavior="none")
    assert [amount for _, amount in lines(seller.invoices(made)[-1])] == [0, 3_100]


@pytest.mark.parametrize(("card", "code"), [(DECLINED, "card_declined"), (ASKS_THE_BANK, "authentication_required")])
def test_what_is_not_paid_does_not_happen(seller: Seller, card: str, code: str) -> None:
    """A card that is declined, or whose bank wants to ask: 402, and no object and no event is other than before."""
    made = hybrid(seller, seats(seller))
    give_card(seller, made["customer"], card)
    seller.move(DAY)
    path = f"/v1/subscriptions/{made['id']}"
    before = seller.subscription(made["id"]), seller.invoices(made), seller.events(), seller.get("/v1/invoiceitems")
    dear = seats(seller, 9_900)
    told = seller.events()
    asked = upgrade(made, dear, seller.price_id, metadata={"plan": "dear"})
    assert seller.refused(402, "POST", path, asked)["code"] == code
    without_anchor = {name: value for name, value in asked.items() if name != "billing_cycle_anchor"}
    assert seller.refused(402, "POST", path, without_anchor)["code"] == code
    after = seller.subscription(made["id"]), seller.invoices(made), before[2], seller.get("/v1/invoiceitems")
    assert (after, seller.events()) == (before, told)


def test_without_a_payment_method(seller: Seller) -> None:
    """Nothing to charge is refused as well, where there is something to pay; a free change needs none."""
    customer = seller.customer()
    made = seller.post("/v1/subscriptions", customer=customer, items=[{"price": seller.price_id}])
    path = f"/v1/subscriptions/{made['id']}"
    refused = seller.refused(400, "POST", path, upgrade(made, seats(seller), seller.price(seller.meter_id, "50")))
    assert refused["code"] == "resource_missing"
    changed = seller.post(path, **upgrade(made, seller.price(seller.meter_id, "50")))
    assert len(changed["items"]["data"]) == 1


def test_a_trial_is_ended_and_paid(seller: Seller) -> None:
    """To end a trial with a change bills the whole first period at once, or changes nothing."""
    made = hybrid(seller, seats(seller), trial_period_days=14)
    seller.use(made["customer"], "9")
    seller.move(DAY)
    path = f"/v1/subscriptions/{made['id']}"
    asked = upgrade(made, seats(seller, 5_000), seller.price(seller.meter_id, "50"), trial_end="now")
    good = seller.get(f"/v1/customers/{made['customer']}")["invoice_settings"]["default_payment_method"]
    give_card(seller, made["customer"], DECLINED)
    assert seller.refused(402, "POST", path, asked)["code"] == "card_declined"
    assert seller.subscription(made["id"])["status"] == "trialing"
    changed = seller.post(path, **asked, default_payment_method=good)
    assert (changed["status"], changed["billing_cycle_anchor"]) == ("active", START_AT + DAY)
    assert (seller.invoices(made)[-1]["status"], seller.invoices(made)[-1]["total"]) == ("paid", 5_000)
    seller.move(MONTH + HOUR)
    assert seller.invoices(made)[-1]["total"] == 5_000, "what the trial used stays free"


def test_items_that_are_added(seller: Seller) -> None:
    """One-time prices and single amounts, credits too, are on the change's invoice; without one they wait."""
    made = hybrid(seller, seats(seller))
    product = seller.post("/v1/products", name="Setup")["id"]
    fee = seller.post("/v1/prices", currency="usd", product=product, unit_amount=500)["id"]
    credit = {"currency": "usd", "product": product, "unit_amount": -120}
    added = [{"price": fee}, {"price_data": credit}]
    path = f"/v1/subscriptions/{made['id']}"
    seller.post(path, **upgrade(made, seats(seller, 9_900), seller.price_id, add_invoice_items=added))
    assert sorted(amount for _, amount in lines(seller.invoices(made)[-1])) == [-1_000, -120, 0, 500, 9_900]
    seller.post(path, add_invoice_items=[{"price": fee, "quantity": 2}])
    assert [item["amount"] for item in seller.get("/v1/invoiceitems", pending=True)["data"]] == [1_000]


def test_a_phase_adds_to_its_first_invoice(seller: Seller) -> None:
    """What a schedule's later phase adds is on the invoice with which it begins, and on no other."""
    made = hybrid(seller, seats(seller))
    product = seller.post("/v1/products", name="Setup")["id"]
    fee = seller.post("/v1/prices", currency="usd", product=product, unit_amount=500)["id"]
    schedule = seller.post("/v1/subscription_schedules", from_subscription=made["id"])
    running = schedule["phases"][0]
    names = [i["price"] for i in running["items"]]
    phases = [
        {"items": [{"price": p} for p in names], "start_date": running["start_date"], "end_date": running["end_date"]},
        {
            "items": [{"price": seats(seller, 2_000)}, {"price": seller.price_id}],
            "duration": {"interval": "month"},
            "add_invoice_items": [{"price": fee}],
        },
    ]
    path = f"/v1/subscription_schedules/{schedule['id']}"
    wrong = [phases[0], {**phases[1], "add_invoice_items": [{"price": names[0]}]}]
    assert seller.refused(400, "POST", path, {"phases": wrong})["param"] == "phases[1][add_invoice_items][0][price]"
    assert seller.refused(501, "POST", path, {"phases": [{**phases[0], "add_invoice_items": [{"price": fee}]}]})
    seller.post(path, phases=phases)
    seller.move(MONTH + HOUR)
    assert sorted(amount for _, amount in lines(seller.invoices(made)[-1])) == [0, 500, 2_000]
    seller.move(31 * DAY)
    assert sorted(amount for _, amount in lines(seller.invoices(made)[-1])) == [0, 2_000]


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"payment_behavior": "default_incomplete"}, 501),
        ({"payment_behavior": "pending_if_incomplete"}, 501),
        ({"payment_behavior": "never"}, 400),
        ({"billing_cycle_anchor": "1800000000"}, 400),
        ({"billing_cycle_anchor": "now", "proration_date": START_AT}, 501),
        ({"add_invoice_items": [{"quantity": 1}]}, 400),
        ({"add_invoice_items": [{"price": "price_gone"}]}, 400),
        ({"add_invoice_items": [{"price_data": {"currency": "usd", "unit_amount": 5}}]}, 400),
    ],
)
def test_refusals(seller: Seller, asked: dict[str, Any], status: int) -> None:
    """What is wrong is 400, and what the stand-in does not model is 501: never a plausible fake."""
    made = hybrid(seller, seats(seller))
    seller.refused(status, "POST", f"/v1/subscriptions/{made['id']}", asked)


def test_a_trial_is_not_cut_by_the_anchor_alone(seller: Seller) -> None:
    """A cycle cannot begin anew inside a trial unless the trial ends with it."""
    made = hybrid(seller, seats(seller), trial_period_days=14)
    seller.refused(501, "POST", f"/v1/subscriptions/{made['id']}", {"billing_cycle_anchor": "now"})


def test_added_items_are_of_the_subscriptions_currency(seller: Seller) -> None:
    """A recurring price and another currency are refused."""
    made = hybrid(seller, seats(seller))
    path = f"/v1/subscriptions/{made['id']}"
    assert seller.refused(400, "POST", path, {"add_invoice_items": [{"price": seats(seller)}]})["param"]
    product = seller.post("/v1/products", name="Setup")["id"]
    euros = {"currency": "eur", "product": product, "unit_amount": 5}
    assert seller.refused(400, "POST", path, {"add_invoice_items": [{"price_data": euros}]})["param"]
