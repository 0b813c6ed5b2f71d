"""Trials, and every status that a subscription can have: how it comes to be, and what ends it."""

from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.unit.sandbox.test_licensed import MONTH, buy, lines, payer, seats
from tests.unit.sandbox.town import BAD_CARD_LATER, DAY, HOUR, START_AT, Seller

from farebox.sandbox import create_app


def on_trial(seller: Seller, *, days: int = 14, metered: bool = True, card: bool = True, **params: Any) -> Any:
    customer = payer(seller) if card else seller.customer()
    prices = [seats(seller), *([seller.price_id] if metered else [])]
    items = [{"price": price} for price in prices]
    return seller.post("/v1/subscriptions", customer=customer, items=items, trial_period_days=days, **params)


def told(seller: Seller, type: str) -> list[int]:
    """When each event of this type was."""
    return [event["created"] for event in reversed(seller.get("/v1/events", type=type)["data"])]


def test_a_trial_from_beginning_to_end(seller: Seller) -> None:
    """A trial is free, says so three days before its end, and is followed by a paid period from that instant on."""
    made = on_trial(seller)
    end = START_AT + 14 * DAY
    assert (made["status"], made["trial_start"], made["trial_end"]) == ("trialing", START_AT, end)
    assert {i["current_period_end"] for i in made["items"]["data"]} == {made["billing_cycle_anchor"]} == {end}
    (free,) = seller.invoices(made)
    assert (free["status"], free["total"], lines(free)) == ("paid", 0, [("Trial period for Seats", 0)])
    seller.use(made["customer"], "50")
    seller.move(11 * DAY - 1)
    assert told(seller, "customer.subscription.trial_will_end") == []
    seller.move(1)
    assert told(seller, "customer.subscription.trial_will_end") == [START_AT + 11 * DAY]
    seller.move(3 * DAY)
    begun = seller.subscription(made["id"])
    assert (begun["status"], begun["billing_cycle_anchor"]) == ("active", end)
    assert {i["current_period_start"] for i in begun["items"]["data"]} == {end}
    seller.use(made["customer"], "4")
    seller.move(HOUR)
    first = seller.invoices(made)[1]
    assert (first["billing_reason"], first["status"], first["total"]) == ("subscription_cycle", "paid", 1_000)
    assert lines(first) == [("Trial period for API calls", 0), ("1 seat × Seats (at $10.00 / month)", 1_000)]
    seller.move(MONTH)
    assert seller.invoices(made)[2]["total"] == 1_400
    assert told(seller, "customer.subscription.trial_will_end") == [START_AT + 11 * DAY]


def test_a_trial_at_checkout(seller: Seller) -> None:
    """With a trial nothing is paid at checkout; the card is charged when it ends."""
    data = {"trial_period_days": 7, "trial_settings": {"end_behavior": {"missing_payment_method": "cancel"}}}
    session = buy(seller, {"price": seats(seller), "quantity": 1}, subscription_data=data)
    assert (session["payment_status"], session["amount_total"]) == ("no_payment_required", 0)
    subscription = seller.subscription(session["subscription"])
    assert (subscription["status"], subscription["trial_end"]) == ("trialing", START_AT + 7 * DAY)
    seller.move(7 * DAY + HOUR)
    assert [i["amount_paid"] for i in seller.invoices(subscription)] == [0, 1_000]


def test_a_short_trial_is_told_at_once(seller: Seller) -> None:
    """A trial of less than three days says that it will end when it begins."""
    on_trial(seller, days=2)
    assert told(seller, "customer.subscription.trial_will_end") == [START_AT]


@pytest.mark.parametrize(
    ("behavior", "status", "event", "invoices"),
    [
        ("cancel", "canceled", "customer.subscription.deleted", 1),
        ("pause", "paused", "customer.subscription.paused", 1),
        ("create_invoice", "past_due", "invoice.payment_failed", 2),
    ],
)
def test_a_trial_that_ends_without_a_card(
    seller: Seller, behavior: str, status: str, event: str, invoices: int
) -> None:
    """Without a payment method the trial's end cancels, pauses, or bills what then cannot be paid, as asked for."""
    settings = {"end_behavior": {"missing_payment_method": behavior}}
    made = on_trial(seller, card=False, trial_settings=settings)
    assert made["trial_settings"] == settings
    seller.move(14 * DAY + HOUR)
    assert seller.subscription(made["id"])["status"] == status
    assert len(seller.invoices(made)) == invoices
    assert event in seller.events()


def test_pausing_and_resuming(seller: Seller) -> None:
    """A paused subscription bills nothing until it is resumed, and then from that instant on, once it is paid."""
    settings = {"end_behavior": {"missing_payment_method": "pause"}}
    made = on_trial(seller, card=False, trial_settings=settings)
    path = f"/v1/subscriptions/{made['id']}"
    assert seller.refused(400, "POST", f"{path}/resume")["type"] == "invalid_request_error"
    seller.move(60 * DAY)
    assert (seller.get(path)["status"], len(seller.invoices(made))) == ("paused", 1)
    assert seller.post(f"{path}/resume")["status"] == "paused"  # there is no card to pay the invoice of the seat
    invoice = seller.invoices(made)[-1]
    assert (invoice["status"], invoice["total"]) == ("open", 1_000)
    seller.post(path, default_payment_method="pm_card_visa")
    assert seller.post(f"/v1/invoices/{invoice['id']}/pay")["status"] == "paid"
    assert seller.get(path)["status"] == "active"
    assert told(seller, "customer.subscription.resumed") == [START_AT + 60 * DAY]


def test_resuming_what_costs_nothing_ahead(seller: Seller) -> None:
    """A paused subscription of usage alone is active as soon as it is resumed, in a new period."""
    customer = seller.customer()
    asked = {"customer": customer, "items": [{"price": seller.price_id}], "trial_period_days": 5}
    settings = {"end_behavior": {"missing_payment_method": "pause"}}
    made = seller.post("/v1/subscriptions", **asked, trial_settings=settings)
    seller.move(9 * DAY)
    resumed = seller.post(f"/v1/subscriptions/{made['id']}/resume")
    assert (resumed["status"], resumed["billing_cycle_anchor"]) == ("active", START_AT + 9 * DAY)
    assert resumed["items"]["data"][0]["current_period_start"] == START_AT + 9 * DAY


def test_ending_and_moving_a_trial(seller: Seller) -> None:
    """A running trial is moved by its end, or ended now; another one is not begun."""
    made = on_trial(seller)
    path = f"/v1/subscriptions/{made['id']}"
    moved = seller.post(path, trial_end=START_AT + 20 * DAY)
    assert (moved["trial_end"], moved["status"]) == (START_AT + 20 * DAY, "trialing")
    assert {i["current_period_end"] for i in moved["items"]["data"]} == {START_AT + 20 * DAY}
    assert seller.refused(400, "POST", path, {"trial_end": START_AT})["param"] == "trial_end"
    seller.move(DAY)
    ended = seller.post(path, trial_end="now")
    assert (ended["status"], ended["billing_cycle_anchor"]) == ("active", START_AT + DAY)
    assert seller.refused(501, "POST", path, {"trial_end": START_AT + 9 * DAY})["code"] == "not_modelled"


def test_a_trial_that_is_moved_is_told_again(seller: Seller) -> None:
    """A trial that is moved after it was told that it will end, is told once more before its new end."""
    made = on_trial(seller)
    seller.move(12 * DAY)
    seller.post(f"/v1/subscriptions/{made['id']}", trial_end=START_AT + 20 * DAY)
    seller.move(6 * DAY)
    assert told(seller, "customer.subscription.trial_will_end") == [START_AT + 11 * DAY, START_AT + 17 * DAY]


def test_a_trial_that_is_cancelled(seller: Seller) -> None:
    """Cancelled for its end, a trial ends without a bill."""
    made = on_trial(seller)
    seller.post(f"/v1/subscriptions/{made['id']}", cancel_at_period_end=True)
    seller.move(15 * DAY)
    assert seller.subscription(made["id"])["status"] == "canceled"
    assert [i["total"] for i in seller.invoices(made)] == [0]


@pytest.mark.parametrize(
    "trial", [{"trial_end": START_AT}, {"trial_period_days": 731}, {"trial_end": START_AT + 9, "trial_period_days": 5}]
)
def test_trials_that_are_refused(seller: Seller, trial: dict[str, int]) -> None:
    """A trial ends in the future, within two years, and is asked for in one way."""
    asked = {"customer": seller.customer(), "items": [{"price": seller.price_id}], **trial}
    assert seller.refused(400, "POST", "/v1/subscriptions", asked)["param"].startswith("trial_")


@pytest.mark.parametrize(
    ("setting", "status", "after"),
    [("unpaid", "unpaid", ["open", "draft"]), ("past_due", "past_due", ["open", "open"])],
)
def test_what_becomes_of_a_subscription_that_cannot_be_paid(
    seller: Seller, setting: str, status: str, after: list[str]
) -> None:
    """After the last retry the account's setting decides; while unpaid, new invoices stay drafts; paying heals."""
    browser = TestClient(create_app(seller.sandbox), base_url="http://127.0.0.1")
    assert browser.get("/_sandbox/settings").json() == {"after_retries": "canceled", "grace_hours": 1}
    assert browser.post("/_sandbox/settings", json={"after_retries": "gone"}).status_code == 400
    set_to = browser.post("/_sandbox/settings", json={"after_retries": setting}).json()
    assert set_to == {"after_retries": setting, "grace_hours": 1}
    made = seller.subscribe(BAD_CARD_LATER)
    seller.use(made["customer"], "1")
    seller.move(MONTH + HOUR + 15 * DAY)
    assert seller.subscription(made["id"])["status"] == status
    seller.use(made["customer"], "1")
    seller.move(15 * DAY)
    invoices = seller.invoices(made)
    assert [i["status"] for i in invoices] == after
    seller.post(f"/v1/subscriptions/{made['id']}", default_payment_method="pm_card_visa")
    seller.post(f"/v1/invoices/{invoices[0]['id']}/pay")
    assert seller.subscription(made["id"])["status"] == "active"
