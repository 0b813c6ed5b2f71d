"""Schedules that change a subscription when its period ends, and what checkout takes beside recurring prices."""

from typing import Any

import pytest
from tests.unit.sandbox.test_licensed import MONTH, buy, lines, seats
from tests.unit.sandbox.town import BAD_CARD_LATER, HOUR, START_AT, Seller

from farebox.sandbox.errors import StripeError

SCHEDULES = "/v1/subscription_schedules"


def planned(seller: Seller, subscription: Any, *items: dict[str, Any], **phase: Any) -> Any:
    """A change to these items when the running period ends."""
    made = seller.post(SCHEDULES, from_subscription=subscription["id"])
    running = made["phases"][0]
    kept = [{"price": entry["price"]} for entry in running["items"]]
    method = running["default_payment_method"]
    card = {"default_payment_method": method} if method is not None else {}
    trial = {"trial_end": running["trial_end"]} if running["trial_end"] is not None else {}
    dates = {"start_date": running["start_date"], "end_date": running["end_date"]}
    first = {"items": kept, **dates, **card, **trial}
    coming = {"items": list(items), "duration": {"interval": "month", "interval_count": 1}, **card, **phase}
    return seller.post(f"{SCHEDULES}/{made['id']}", phases=[first, coming], end_behavior="release")


def once(seller: Seller, amount: int = 500) -> str:
    product = seller.post("/v1/products", name="Set-up")["id"]
    return str(seller.post("/v1/prices", currency="usd", product=product, unit_amount=amount)["id"])


def test_items_change_with_the_period(seller: Seller) -> None:
    """Until the last second the old price counts, from the next one on the new; a phase later the schedule is gone."""
    subscription = seller.subscribe()
    dearer, fee = seller.price(seller.meter_id, "300"), seats(seller)
    made = planned(seller, subscription, {"price": dearer}, {"price": fee}, metadata={"tier": "2", "old": ""})
    end = START_AT + MONTH
    assert [(p["start_date"], p["end_date"]) for p in made["phases"]] == [(START_AT, end), (end, end + 28 * 86_400)]
    seller.post(f"/v1/subscriptions/{subscription['id']}", metadata={"old": "1"})
    seller.use(subscription["customer"], "2")
    seller.move(MONTH - 1)
    before = seller.subscription(subscription["id"])
    assert ([item["price"]["id"] for item in before["items"]["data"]], before["metadata"]) == (
        [seller.price_id],
        {"old": "1"},
    )
    seller.move(1)
    after = seller.subscription(subscription["id"])
    assert ([item["price"]["id"] for item in after["items"]["data"]], after["metadata"]) == (
        [dearer, fee],
        {"tier": "2"},
    )
    assert {(i["created"], i["current_period_start"]) for i in after["items"]["data"]} == {(end, end)}
    seller.use(subscription["customer"], "5")
    seller.move(2 * HOUR)
    (renewal,) = seller.invoices(subscription)
    assert [amount for _, amount in lines(renewal)] == [200, 1_000]
    assert seller.get(f"{SCHEDULES}/{made['id']}")["current_phase"]["start_date"] == end
    seller.move(28 * 86_400)
    assert [amount for _, amount in lines(seller.invoices(subscription)[-1])] == [1_500, 1_000]
    done = seller.get(f"{SCHEDULES}/{made['id']}")
    assert (done["status"], done["released_subscription"]) == ("released", subscription["id"])
    assert seller.subscription(subscription["id"])["schedule"] is None


def test_a_longer_interval_begins_with_its_phase(seller: Seller) -> None:
    """From months to years: the year begins when the month ends."""
    subscription = seller.subscribe()
    yearly = seller.price(seller.meter_id, "100", interval="year")
    planned(seller, subscription, {"price": yearly}, duration={"interval": "year"})
    seller.move(MONTH)
    (item,) = seller.subscription(subscription["id"])["items"]["data"]
    assert item["current_period_end"] - item["current_period_start"] == 365 * 86_400


def test_a_released_schedule_changes_nothing(seller: Seller) -> None:
    """Released, the subscription goes on as it is, and can be scheduled again; one at a time."""
    subscription = seller.subscribe()
    made = planned(seller, subscription, {"price": seller.price(seller.meter_id, "300")})
    error = seller.refused(400, "POST", SCHEDULES, {"from_subscription": subscription["id"]})
    assert error["param"] == "from_subscription"
    seller.post(f"{SCHEDULES}/{made['id']}/release")
    seller.refused(400, "POST", f"{SCHEDULES}/{made['id']}/release")
    seller.refused(400, "POST", f"{SCHEDULES}/{made['id']}", {"metadata": {"a": "1"}})
    seller.move(MONTH)
    (item,) = seller.subscription(subscription["id"])["items"]["data"]
    assert item["price"]["id"] == seller.price_id
    seller.post(SCHEDULES, from_subscription=subscription["id"])
    assert [s["status"] for s in seller.get(SCHEDULES, customer=subscription["customer"])["data"]] == [
        "active",
        "released",
    ]


def test_what_is_scheduled_cannot_be_ended_past_the_schedule(seller: Seller) -> None:
    """As at Stripe: the schedule manages the subscription's end until it is released."""
    subscription = seller.subscribe()
    made = planned(seller, subscription, {"price": seller.price(seller.meter_id, "300")})
    path = f"/v1/subscriptions/{subscription['id']}"
    seller.refused(400, "POST", path, {"cancel_at_period_end": True})
    seller.post(f"{SCHEDULES}/{made['id']}/release")
    assert seller.post(path, cancel_at_period_end=True)["cancel_at_period_end"]


def test_a_subscription_that_ends_takes_its_schedule_along(seller: Seller) -> None:
    """Cancelled at once, what was planned is cancelled too."""
    subscription = seller.subscribe()
    made = planned(seller, subscription, {"price": seller.price(seller.meter_id, "300")})
    seller.delete(f"/v1/subscriptions/{subscription['id']}")
    assert seller.get(f"{SCHEDULES}/{made['id']}")["status"] == "canceled"


@pytest.mark.parametrize(
    ("changed", "status", "param"),
    [
        ({"start_date": START_AT + 1}, 400, "phases[0][start_date]"),
        ({"end_date": START_AT + 1}, 501, None),
    ],
)
def test_the_running_phase_stays(seller: Seller, changed: dict[str, int], status: int, param: str | None) -> None:
    """What is not modelled of phases is said; a first phase that begins elsewhere is refused."""
    subscription = seller.subscribe()
    made = seller.post(SCHEDULES, from_subscription=subscription["id"])
    first = {"items": [{"price": seller.price_id}], "start_date": START_AT, "end_date": START_AT + MONTH, **changed}
    error = seller.refused(status, "POST", f"{SCHEDULES}/{made['id']}", {"phases": [first]})
    assert error.get("param") == param


def test_bad_schedules(seller: Seller) -> None:
    """Unknown and ended subscriptions, a last phase without an end, prices that do not go together: each is refused."""
    subscription = seller.subscribe()
    assert seller.refused(400, "POST", SCHEDULES, {"from_subscription": "sub_none"})["param"] == "from_subscription"
    made = seller.post(SCHEDULES, from_subscription=subscription["id"])
    first = {"items": [{"price": seller.price_id}], "start_date": START_AT, "end_date": START_AT + MONTH}
    path = f"{SCHEDULES}/{made['id']}"
    endless = {"phases": [first, {"items": [{"price": seller.price_id}]}]}
    assert seller.refused(400, "POST", path, endless)["param"] == "phases[1][duration]"
    unknown = {"phases": [first, {"items": [{"price": "price_none"}], "duration": {"interval": "month"}}]}
    assert seller.refused(400, "POST", path, unknown)["param"] == "phases[1][items][0][price]"
    seller.post(f"{path}/release")
    seller.delete(f"/v1/subscriptions/{subscription['id']}")
    seller.refused(400, "POST", SCHEDULES, {"from_subscription": subscription["id"]})


def test_a_one_time_price_is_on_the_first_invoice(seller: Seller) -> None:
    """Beside a metered price it is paid at checkout, on an invoice that would not be there without it, once."""
    session = buy(seller, {"price": seller.price_id}, {"price": once(seller), "quantity": 2})
    assert (session["payment_status"], session["amount_total"]) == ("paid", 1_000)
    subscription = seller.subscription(session["subscription"])
    (first,) = seller.invoices(subscription)
    assert (subscription["status"], first["status"], lines(first)) == ("active", "paid", [("Set-up", 1_000)])
    seller.move(MONTH + 2 * HOUR)
    assert [invoice["total"] for invoice in seller.invoices(subscription)] == [1_000, 0]


def test_a_one_time_price_is_due_in_a_trial_too(seller: Seller) -> None:
    """A trial makes the recurring prices free, not what is charged once; a card that fails then buys nothing."""
    items = [{"price": seats(seller), "quantity": 1}, {"price": once(seller), "quantity": 1}]
    trial: dict[str, Any] = {"subscription_data": {"trial_period_days": 7}}
    session = buy(seller, *items, **trial)
    assert session["amount_total"] == 500
    assert seller.subscription(session["subscription"])["status"] == "trialing"
    failing = seller.checkout(line_items=items, **trial)
    with pytest.raises(StripeError, match="declined"):
        seller.pay(failing["id"], BAD_CARD_LATER)


def test_a_subscription_needs_a_recurring_price(seller: Seller) -> None:
    """One-time prices alone are no subscription."""
    asked = {"mode": "subscription", "success_url": "https://x.example/", "line_items": [{"price": once(seller)}]}
    assert seller.refused(400, "POST", "/v1/checkout/sessions", asked)["param"] == "line_items"


def test_automatic_tax(seller: Seller) -> None:
    """It needs to know where a known customer lives, or leave to keep what the page asks; it then comes to nothing."""
    customer = seller.customer()
    asked: dict[str, Any] = {"customer": customer, "automatic_tax": {"enabled": True}}
    base = {"mode": "subscription", "success_url": "https://x.example/", "line_items": [{"price": seller.price_id}]}
    assert seller.refused(400, "POST", "/v1/checkout/sessions", {**base, **asked})["param"] == "automatic_tax"
    session = seller.post("/v1/checkout/sessions", **base, **asked, customer_update={"address": "auto"})
    assert (session["automatic_tax"]["enabled"], session["total_details"]["amount_tax"]) == (True, 0)
    alone = {**base, "customer_update": {"address": "auto"}}
    assert seller.refused(400, "POST", "/v1/checkout/sessions", alone)["param"] == "customer_update"


def test_expanding_goes_four_levels_deep(seller: Seller) -> None:
    """Deeper is refused, as at Stripe; tiers of a price without tiers are simply not there."""
    subscription = seller.subscribe()
    deep = {"expand": ["data.items.data.price.product"], "customer": subscription["customer"]}
    assert seller.refused(400, "GET", "/v1/subscriptions", deep)["param"] == "expand"
    assert "tiers" not in seller.get(f"/v1/prices/{seller.price_id}", expand=["tiers"])
