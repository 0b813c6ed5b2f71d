"""How subscriptions end or pause, by the seller's request and by the buyer's in the portal, and what is billed then."""

from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.unit.sandbox.town import DAY, HOUR, START_AT, Seller

from farebox.sandbox import create_app

PREVIEW = "/v1/invoices/create_preview"


def invoices(seller: Seller, subscription: Any) -> list[tuple[str, int]]:
    return [(invoice["status"], invoice["total"]) for invoice in seller.invoices(subscription)]


def test_cancel_at_period_end(seller: Seller) -> None:
    """It runs to its end, can be taken back, and bills its last period after the same grace."""
    subscription = seller.subscribe()
    path, customer = f"/v1/subscriptions/{subscription['id']}", subscription["customer"]
    end = subscription["items"]["data"][0]["current_period_end"]
    asked = seller.post(path, cancel_at_period_end=True)
    assert (asked["status"], asked["cancel_at"], asked["canceled_at"]) == ("active", end, START_AT)
    assert seller.post(path, cancel_at_period_end=False)["cancel_at"] is None
    seller.post(path, cancel_at_period_end=True)
    seller.use(customer, "2")
    seller.move(end - seller.now - 1)
    assert seller.get(path)["status"] == "active"
    seller.move(1)
    ended = seller.get(path)
    assert (ended["status"], ended["ended_at"]) == ("canceled", end)
    assert ended["items"]["data"][0]["current_period_end"] == end
    seller.use(customer, "3", at=end - 1)
    seller.move(HOUR)
    assert invoices(seller, subscription) == [("paid", 500)]
    seller.move(80 * DAY)
    assert invoices(seller, subscription) == [("paid", 500)]
    assert seller.get("/v1/subscriptions")["data"] == []
    assert [s["id"] for s in seller.get("/v1/subscriptions", status="all")["data"]] == [subscription["id"]]
    assert seller.refused(400, "POST", PREVIEW, {"subscription": subscription["id"]})["code"] == "invoice_upcoming_none"


@pytest.mark.parametrize(("invoice_now", "billed"), [(False, []), (True, [("paid", 200)])])
def test_cancel_now(seller: Seller, invoice_now: bool, billed: list[tuple[str, int]]) -> None:
    """Ended at once: unbilled usage is dropped, unless invoice_now bills what was reported (L12)."""
    subscription = seller.subscribe()
    seller.use(subscription["customer"], "2")
    seller.move(DAY)
    path = f"/v1/subscriptions/{subscription['id']}"
    before = len(seller.events())
    ended = seller.delete(path, invoice_now=invoice_now)
    assert (ended["status"], ended["ended_at"], ended["canceled_at"]) == ("canceled", seller.now, seller.now)
    collected = ["invoice.created", "invoice.finalized", "invoice.paid", "invoice.payment_succeeded"]
    assert seller.events()[before:] == [*(collected if invoice_now else []), "customer.subscription.deleted"]
    seller.move(60 * DAY)
    assert invoices(seller, subscription) == billed
    seller.refused(400, "POST", path, {"cancel_at_period_end": True})
    assert seller.ask("DELETE", path).error["code"] == "resource_missing"


def test_a_deleted_customer_is_billed_no_more(seller: Seller) -> None:
    """Deleting a customer ends its subscriptions and leaves a stub that says so."""
    subscription = seller.subscribe()
    path = f"/v1/customers/{subscription['customer']}"
    stub = {"id": subscription["customer"], "object": "customer", "deleted": True}
    assert seller.delete(path) == stub == seller.get(path)
    assert seller.subscription(subscription["id"])["status"] == "canceled"
    assert seller.get("/v1/customers")["data"] == []
    assert seller.events()[-2:] == ["customer.subscription.deleted", "customer.deleted"]


@pytest.mark.parametrize(
    ("behavior", "status"), [("void", "void"), ("mark_uncollectible", "uncollectible"), ("keep_as_draft", "draft")]
)
def test_paused_collection_collects_nothing(seller: Seller, behavior: str, status: str) -> None:
    """While collection is paused no invoice is charged; resumed, the next one is."""
    subscription = seller.subscribe()
    path = f"/v1/subscriptions/{subscription['id']}"
    seller.post(path, pause_collection={"behavior": behavior})
    seller.use(subscription["customer"], "2")
    seller.move(31 * DAY + HOUR)
    assert [s for s, _ in invoices(seller, subscription)] == [status]
    assert seller.post(path, pause_collection="")["pause_collection"] is None
    seller.use(subscription["customer"], "1")
    seller.move(31 * DAY)
    assert invoices(seller, subscription)[1] == ("paid", 100)


def test_a_pause_ends_by_itself(seller: Seller) -> None:
    """With resumes_at, collection goes on at that instant; an invoice of the pause stays void."""
    subscription = seller.subscribe()
    path = f"/v1/subscriptions/{subscription['id']}"
    behavior = {"behavior": "void"}
    assert seller.refused(400, "POST", path, {"pause_collection": {**behavior, "resumes_at": START_AT}}) == {
        "type": "invalid_request_error",
        "param": "pause_collection[resumes_at]",
    }
    paused = {**behavior, "resumes_at": START_AT + 40 * DAY}
    assert seller.post(path, pause_collection=paused)["pause_collection"] == paused
    seller.use(subscription["customer"], "2")
    seller.move(40 * DAY - 1)
    assert (seller.get(path)["pause_collection"], invoices(seller, subscription)) == (paused, [("void", 200)])
    seller.move(1)
    assert seller.get(path)["pause_collection"] is None
    event = seller.get("/v1/events", limit=1)["data"][0]
    assert (event["type"], event["created"]) == ("customer.subscription.updated", START_AT + 40 * DAY)
    assert event["data"]["previous_attributes"] == {"pause_collection": paused}
    seller.use(subscription["customer"], "1")
    seller.move(31 * DAY)
    assert invoices(seller, subscription) == [("void", 200), ("paid", 100)]


@pytest.mark.parametrize("behavior", ["void", "mark_uncollectible", "keep_as_draft"])
def test_a_paused_invoice_can_be_paid_by_hand(seller: Seller, behavior: str) -> None:
    """The pause stops what happens by itself, and not what the seller asks for by name."""
    subscription = seller.subscribe()
    seller.post(f"/v1/subscriptions/{subscription['id']}", pause_collection={"behavior": behavior})
    seller.use(subscription["customer"], "2")
    seller.move(31 * DAY)
    (draft,) = seller.invoices(subscription)
    assert draft["auto_advance"] is (behavior != "keep_as_draft")
    assert seller.post(f"/v1/invoices/{draft['id']}/pay")["amount_paid"] == 200


def test_every_change_that_is_taken_is_answered(seller: Seller) -> None:
    """Each parameter of an update works beside each other one, and the change is an event."""
    subscription = seller.subscribe()
    path = f"/v1/subscriptions/{subscription['id']}"
    changed = seller.post(path, description="gold", proration_behavior="none", metadata={"a": "b"})
    assert (changed["description"], changed["metadata"]) == ("gold", {"a": "b"})
    assert seller.events()[-1] == "customer.subscription.updated"


def test_finalizing_and_voiding_by_hand(seller: Seller) -> None:
    """A draft is finalized once, and only an open invoice is voided."""
    subscription = seller.subscribe("4000000000000341")
    seller.use(subscription["customer"], "1")
    seller.move(31 * DAY)
    path = f"/v1/invoices/{seller.invoices(subscription)[0]['id']}"
    seller.refused(400, "POST", f"{path}/void")
    assert seller.post(f"{path}/finalize")["status"] == "open"
    seller.refused(400, "POST", f"{path}/finalize")
    voided = seller.post(f"{path}/void")
    assert (voided["status"], voided["next_payment_attempt"]) == ("void", None)
    seller.refused(400, "POST", f"{path}/pay")
    assert [i["id"] for i in seller.get("/v1/invoices", status="void")["data"]] == [voided["id"]]


def test_a_draft_stays_itself(seller: Seller) -> None:
    """Reading a draft twice shows the same line, under the same id."""
    subscription = seller.subscribe()
    seller.move(31 * DAY)
    assert seller.invoices(subscription) == seller.invoices(subscription)


@pytest.mark.parametrize(
    ("mode", "status", "ends"), [("at_period_end", "active", True), ("immediately", "canceled", False)]
)
def test_the_portal_cancels_as_configured(seller: Seller, mode: str, status: str, ends: bool) -> None:
    """The buyer's cancel button does what the portal's configuration says, and only to the buyer's own."""
    subscription, foreign = seller.subscribe(), seller.subscribe()
    cancel = {"enabled": True, "mode": mode}
    made = seller.post("/v1/billing_portal/configurations", features={"subscription_cancel": cancel})
    assert made["is_default"] is True
    portal = seller.post("/v1/billing_portal/sessions", customer=subscription["customer"])
    browser = TestClient(create_app(seller.sandbox), base_url="http://127.0.0.1", follow_redirects=False)
    url = portal["url"].removeprefix(seller.sandbox.base_url)
    assert "<strong>not</strong> Stripe" in browser.get(url).text
    form = {"action": "cancel", "subscription": foreign["id"]}
    assert browser.post(url, data=form).status_code == 400
    assert seller.subscription(foreign["id"]) == foreign
    assert browser.post(url, data={**form, "subscription": subscription["id"]}).status_code == 303
    found = seller.subscription(subscription["id"])
    assert (found["status"], found["cancel_at_period_end"]) == (status, ends)


def test_the_portal_needs_a_configuration(seller: Seller) -> None:
    """Without saved settings there is no portal; what it forbids the page refuses."""
    subscription = seller.subscribe()
    asked = {"customer": subscription["customer"]}
    assert seller.refused(400, "POST", "/v1/billing_portal/sessions", asked)["param"] == "configuration"
    seller.post("/v1/billing_portal/configurations", features={"invoice_history": {"enabled": True}})
    portal = seller.post("/v1/billing_portal/sessions", **asked)
    browser = TestClient(create_app(seller.sandbox), base_url="http://127.0.0.1", follow_redirects=False)
    form = {"action": "cancel", "subscription": subscription["id"]}
    assert browser.post(f"/portal/{portal['id']}", data=form).status_code == 400
    assert seller.subscription(subscription["id"]) == subscription
