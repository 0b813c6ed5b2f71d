"""From the hosted checkout page to the last invoice: cards, periods, renewal, grace, failure, cancellation."""

import calendar
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from tests.unit.sandbox.town import BAD_CARD_LATER, DAY, HOUR, START_AT, Seller

from farebox.sandbox import ManualClock, create_app
from farebox.sandbox.periods import period_around

CARD = {"email": "ada@example.test", "card_number": "4242 4242 4242 4242", "exp": "12/40", "cvc": "123"}
PREVIEW = "/v1/invoices/create_preview"


def at(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=UTC).timestamp())  # type: ignore[arg-type,misc]


def browser(seller: Seller) -> TestClient:
    return TestClient(create_app(seller.sandbox), base_url="http://127.0.0.1", follow_redirects=False)


def period(subscription: Any) -> tuple[int, int]:
    (item,) = subscription["items"]["data"]
    return item["current_period_start"], item["current_period_end"]


def to_period_end(seller: Seller, subscription: Any, extra: int = 0) -> None:
    seller.move(period(subscription)[1] + extra - seller.now)


def shown(seller: Seller, subscription: Any) -> list[tuple[str, int]]:
    return [(invoice["status"], invoice["total"]) for invoice in seller.invoices(subscription)]


def test_paying_on_the_hosted_page(seller: Seller) -> None:
    """The page takes the card, begins the subscription, completes the session and sends the buyer back with its id."""
    data = {"metadata": {"plan": "payg"}, "billing_mode": {"type": "flexible"}}
    session = seller.checkout(seller.price_id, client_reference_id="acc_1", subscription_data=data)
    assert (session["status"], session["payment_status"], session["expires_at"]) == ("open", "unpaid", START_AT + DAY)
    path = session["url"].removeprefix(seller.sandbox.base_url)
    page = browser(seller).get(path)
    assert page.status_code == 200
    assert "<strong>not</strong> Stripe" in page.text
    assert "1.00 USD a unit" in page.text
    paid = browser(seller).post(path, data=CARD)
    assert (paid.status_code, paid.headers["location"]) == (
        303,
        f"https://seller.example/done?session_id={session['id']}",
    )
    done = seller.get(f"/v1/checkout/sessions/{session['id']}")
    assert (done["status"], done["payment_status"], done["url"]) == ("complete", "no_payment_required", None)
    assert (done["client_reference_id"], done["customer_details"]) == ("acc_1", {"email": "ada@example.test"})
    subscription = seller.subscription(done["subscription"])
    assert (subscription["status"], subscription["customer"]) == ("active", done["customer"])
    assert (subscription["metadata"], subscription["billing_mode"]["type"]) == ({"plan": "payg"}, "flexible")
    assert seller.invoices(subscription) == []  # purely metered: nothing is due at the start
    assert seller.events()[-4:] == [
        "customer.created",
        "payment_method.attached",
        "customer.subscription.created",
        "checkout.session.completed",
    ]
    assert browser(seller).get(path).status_code == 410
    assert browser(seller).post(path, data=CARD).status_code == 410


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"card_number": "4000 0000 0000 0002"}, "Your card was declined."),
        ({"card_number": "4000-0000-0000-9995"}, "Your card has insufficient funds."),
        ({"card_number": "4000000000000069"}, "Your card has expired."),
        ({"card_number": "4000000000000127"}, "Your card&#39;s security code is incorrect."),
        ({"card_number": "4111111111111111"}, "only Stripe&#39;s test cards work here"),
        ({"card_number": "4242424242424241"}, "Your card number is incorrect."),
        ({"card_number": ""}, "Your card number is incorrect."),
        ({"exp": "12/26"}, "in the past"),
        ({"exp": "13/40"}, "not valid"),
        ({"exp": "soon"}, "not valid"),
        ({"cvc": "12"}, "security code is incomplete"),
    ],
)
def test_declined(seller: Seller, changes: dict[str, str], says: str) -> None:
    """A refused card is a 402 page that says why and sells nothing; another card then works."""
    session = seller.checkout(seller.price_id)
    page = browser(seller).post(f"/pay/{session['id']}", data={**CARD, **changes})
    assert page.status_code == 402
    assert says in page.text
    assert seller.get(f"/v1/checkout/sessions/{session['id']}") == session
    assert seller.get("/v1/subscriptions")["data"] == []
    assert browser(seller).post(f"/pay/{session['id']}", data=CARD).status_code == 303


@pytest.mark.parametrize("why", ["the card", "the price"])
def test_declined_and_gone(seller: Seller, why: str) -> None:
    """A refused card, or a price retired meanwhile, leaves no customer, no card and no event behind."""
    session = seller.checkout(seller.price_id)
    if why == "the price":
        seller.post(f"/v1/prices/{seller.price_id}", active=False)
    before = seller.events()
    number = "4000000000000002" if why == "the card" else CARD["card_number"]
    refused = browser(seller).post(f"/pay/{session['id']}", data={**CARD, "card_number": number})
    assert refused.status_code == (402 if why == "the card" else 400)
    assert seller.get("/v1/customers")["data"] == []
    assert seller.events() == before


def test_a_small_price_is_shown_whole(seller: Seller) -> None:
    """A price of half a cent is shown as such on the hosted page, not rounded to nothing."""
    session = seller.checkout(seller.price(seller.meter_id, "0.5"))
    assert "0.005 USD a unit" in browser(seller).get(f"/pay/{session['id']}").text


def test_sessions_expire(seller: Seller) -> None:
    """An open session ends by itself to the second, or when told to; an expired one cannot be paid."""
    session = seller.checkout(seller.price_id, expires_at=START_AT + 1_800)
    seller.move(1_799)
    assert seller.get(f"/v1/checkout/sessions/{session['id']}")["status"] == "open"
    seller.move(1)
    assert seller.get(f"/v1/checkout/sessions/{session['id']}")["status"] == "expired"
    assert browser(seller).post(f"/pay/{session['id']}", data=CARD).status_code == 410
    other = seller.checkout(seller.price_id)["id"]
    assert seller.post(f"/v1/checkout/sessions/{other}/expire")["url"] is None
    seller.refused(400, "POST", f"/v1/checkout/sessions/{other}/expire")
    assert seller.events()[-2:] == ["checkout.session.expired"] * 2


@pytest.mark.parametrize(
    ("changes", "status", "error"),
    [
        ({"mode": "setup"}, 501, {"code": "not_modelled"}),
        ({"expires_at": START_AT + 1_799}, 400, {"param": "expires_at"}),
        ({"expires_at": START_AT + DAY + 1}, 400, {"param": "expires_at"}),
        ({"customer": "cus_none"}, 400, {"param": "customer", "code": "resource_missing"}),
        ({"line_items": [{"price": "price_none"}]}, 400, {"param": "line_items[0][price]"}),
        ({"payment_method_types": ["card"]}, 400, {"param": "payment_method_types", "code": "parameter_unknown"}),
    ],
)
def test_sessions_that_are_refused(seller: Seller, changes: dict[str, Any], status: int, error: dict[str, str]) -> None:
    """A session needs a known customer and prices and a lifetime within Stripe's bounds."""
    params = {"mode": "subscription", "success_url": "https://x.example", "line_items": [{"price": seller.price_id}]}
    refused = seller.refused(status, "POST", "/v1/checkout/sessions", {**params, **changes})
    assert error.items() <= refused.items()


def test_a_metered_item_takes_no_quantity(seller: Seller) -> None:
    """A quantity on a metered price is refused, in a session and in a subscription."""
    item = {"price": seller.price_id, "quantity": 1}
    session = {"mode": "subscription", "success_url": "https://x.example", "line_items": [item]}
    assert seller.refused(400, "POST", "/v1/checkout/sessions", session)["param"] == "line_items[0][quantity]"
    subscription = {"customer": seller.customer(), "items": [item]}
    assert seller.refused(400, "POST", "/v1/subscriptions", subscription)["param"] == "items[0][quantity]"


@pytest.mark.parametrize("shape", [{"interval": "year"}, {"interval_count": 2}])
def test_items_of_different_rhythm(seller: Seller, shape: dict[str, Any]) -> None:
    """Items that differ in their period are refused with 501, never billed twice."""
    items = [{"price": seller.price_id}, {"price": seller.price(seller.meter("tokens"), **shape)}]
    asked = {"customer": seller.customer(), "items": items}
    assert seller.refused(501, "POST", "/v1/subscriptions", asked)["code"] == "not_modelled"
    session = {"mode": "subscription", "success_url": "https://x.example", "line_items": items}
    assert seller.refused(501, "POST", "/v1/checkout/sessions", session)["code"] == "not_modelled"


@pytest.mark.parametrize(
    ("begun", "shape", "ends"),
    [
        ((2027, 1, 15, 8, 0, 7), {}, [(2027, 2, 15, 8, 0, 7), (2027, 3, 15, 8, 0, 7)]),
        ((2028, 1, 31, 23, 59, 59), {}, [(2028, 2, 29, 23, 59, 59), (2028, 3, 31, 23, 59, 59)]),
        ((2027, 1, 30), {}, [(2027, 2, 28), (2027, 3, 30), (2027, 4, 30)]),
        ((2027, 12, 31), {}, [(2028, 1, 31), (2028, 2, 29), (2028, 3, 31)]),
        ((2027, 11, 30), {"interval_count": 3}, [(2028, 2, 29), (2028, 5, 30)]),
        ((2028, 2, 29), {"interval": "year"}, [(2029, 2, 28), (2030, 2, 28), (2031, 2, 28), (2032, 2, 29)]),
        ((2027, 3, 1), {"interval": "week", "interval_count": 2}, [(2027, 3, 15), (2027, 3, 29)]),
        ((2028, 2, 28), {"interval": "day"}, [(2028, 2, 29), (2028, 3, 1)]),
    ],
)
def test_periods(begun: tuple[int, ...], shape: dict[str, Any], ends: list[tuple[int, ...]]) -> None:
    """Items carry the period, from the anchor to the second, through month ends and leap years (I6)."""
    seller = Seller(clock=ManualClock(at(*begun)))
    subscription = seller.subscribe("4242424242424242", seller.price(seller.meter("other"), **shape))
    assert "current_period_end" not in subscription
    start = at(*begun)
    for end in ends:
        assert period(subscription) == (start, at(*end))
        to_period_end(seller, subscription, -1)
        assert period(seller.subscription(subscription["id"])) == (start, at(*end))
        to_period_end(seller, subscription)
        start, subscription = at(*end), seller.subscription(subscription["id"])
    assert subscription["billing_cycle_anchor"] == at(*begun)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(at(2020, 1, 1), at(2032, 1, 1)), st.integers(0, 40), st.integers(1, 24), st.data())
def test_months_from_the_anchor(anchor: int, number: int, count: int, data: st.DataObject) -> None:
    """The n-th period begins n times so many months after the anchor, on the same day or the month's last (I6)."""

    def begins(n: int) -> int:
        first = datetime.fromtimestamp(anchor, UTC)
        year, month = divmod(first.year * 12 + first.month - 1 + n * count, 12)
        day = min(first.day, calendar.monthrange(year, month + 1)[1])
        return int(first.replace(year=year, month=month + 1, day=day).timestamp())

    start, end = begins(number), begins(number + 1)
    inside = data.draw(st.integers(start, end - 1))
    assert period_around(anchor, "month", count, inside) == (start, end)


def test_renewal(seller: Seller) -> None:
    """At the period's end the invoice is drafted; an hour later it is finalized with what came in until then (L4)."""
    subscription = seller.subscribe()
    customer, (_, end) = subscription["customer"], period(subscription)
    seller.use(customer, "25")
    assert seller.post(PREVIEW, subscription=subscription["id"])["total"] == 2_500
    to_period_end(seller, subscription)
    (draft,) = seller.invoices(subscription)
    assert (draft["status"], draft["created"], draft["automatically_finalizes_at"]) == ("draft", end, end + HOUR)
    assert (draft["period_start"], draft["period_end"], draft["total"]) == (START_AT, end, 2_500)
    assert draft["parent"]["subscription_details"]["subscription"] == subscription["id"]
    seller.move(HOUR - 1)
    seller.use(customer, "2", at=end - 1)  # late, and of the old period
    seller.use(customer, "7", at=end)  # of the new one
    assert shown(seller, subscription) == [("draft", 2_700)]
    seller.move(1)
    (paid,) = seller.invoices(subscription)
    assert (paid["status"], paid["total"], paid["amount_paid"], paid["number"]) == ("paid", 2_700, 2_700, "LOCAL-0001")
    assert paid["status_transitions"]["finalized_at"] == paid["status_transitions"]["paid_at"] == end + HOUR
    assert [(x["quantity"], x["amount"]) for x in paid["lines"]["data"]] == [(27, 2_700)]
    seller.use(customer, "100", at=end - 1)  # too late: lost to it
    assert shown(seller, subscription) == [("paid", 2_700)]
    assert seller.post(PREVIEW, subscription=subscription["id"])["total"] == 700
    assert seller.events()[-5:] == [
        "invoice.created",
        "customer.subscription.updated",
        "invoice.finalized",
        "invoice.paid",
        "invoice.payment_succeeded",
    ]


def test_a_year_at_once(seller: Seller) -> None:
    """A jump over many periods bills each of them once, in order, at its own instants."""
    subscription = seller.subscribe()
    seller.use(subscription["customer"], "3")
    seller.move(366 * DAY)
    invoices = seller.invoices(subscription)
    assert [i["total"] for i in invoices] == [300] + [0] * 11
    assert {i["status"] for i in invoices} == {"paid"}
    edges = [i["period_start"] for i in invoices] + [invoices[-1]["period_end"]]
    assert edges == [at(2027, month, 15, 8) for month in range(1, 13)] + [at(2028, 1, 15, 8)]
    assert [i["period_end"] for i in invoices] == edges[1:]


def test_finalization_waits_for_the_webhook(seller: Seller) -> None:
    """An unacknowledged invoice.created holds the draft, at most 72 hours, and usage until then is billed."""
    seller.listen("hook", "invoice.created")
    subscription = seller.subscribe()
    customer, (_, end) = subscription["customer"], period(subscription)
    to_period_end(seller, subscription, 5 * HOUR)
    assert seller.deliver(500) == 1
    seller.use(customer, "4", at=end - 1)
    assert shown(seller, subscription) == [("draft", 400)]
    seller.clock.pass_ms(1_000)
    assert seller.deliver(200) == 1
    assert shown(seller, subscription) == [("paid", 400)]
    to_period_end(seller, seller.subscription(subscription["id"]), 72 * HOUR - 1)
    assert [status for status, _ in shown(seller, subscription)] == ["paid", "draft"]
    seller.move(1)
    assert [status for status, _ in shown(seller, subscription)] == ["paid", "paid"]


def test_a_card_that_fails_at_renewal(seller: Seller) -> None:
    """A failed renewal is past_due at once, tried again after 3, 5 and 7 days, then canceled, each with its event."""
    seller.use((subscription := seller.subscribe(BAD_CARD_LATER))["customer"], "1")
    to_period_end(seller, subscription, HOUR)
    tries = seller.now
    for number, days in enumerate((3, 5, 7), 1):
        (invoice,) = seller.invoices(subscription)
        assert (invoice["status"], invoice["attempt_count"]) == ("open", number)
        assert invoice["next_payment_attempt"] == (tries := tries + days * DAY)
        assert seller.subscription(subscription["id"])["status"] == "past_due"
        seller.move(days * DAY)
    ended = seller.subscription(subscription["id"])
    assert (ended["status"], ended["ended_at"]) == ("canceled", tries)
    assert ended["cancellation_details"]["reason"] == "payment_failed"
    assert seller.events()[-7:] == [
        "invoice.payment_failed",
        "customer.subscription.updated",
        *["invoice.payment_failed"] * 3,
        "invoice.updated",
        "customer.subscription.deleted",
    ]
    (updated, _) = seller.get("/v1/events", type="customer.subscription.updated")["data"]
    assert updated["data"]["previous_attributes"] == {"status": "active"}


def test_a_new_card_heals(seller: Seller) -> None:
    """A past_due buyer who gives another card in the portal is charged at the next try and active again."""
    seller.use((subscription := seller.subscribe(BAD_CARD_LATER))["customer"], "1")
    to_period_end(seller, subscription, HOUR)
    invoice = seller.invoices(subscription)[0]["id"]
    failed = seller.refused(402, "POST", f"/v1/invoices/{invoice}/pay")
    assert failed == {"type": "card_error", "code": "card_declined"}
    seller.post("/v1/billing_portal/configurations", features={"payment_method_update": {"enabled": True}})
    portal = seller.post("/v1/billing_portal/sessions", customer=subscription["customer"])
    assert browser(seller).get(f"/portal/{portal['id']}").status_code == 200
    saved = browser(seller).post(f"/portal/{portal['id']}", data={**CARD, "action": "card"})
    assert saved.status_code == 303
    assert seller.post(f"/v1/invoices/{invoice}/pay")["status"] == "paid"
    assert seller.subscription(subscription["id"])["status"] == "active"
    assert seller.refused(400, "POST", f"/v1/invoices/{invoice}/pay") == {"type": "invalid_request_error"}
