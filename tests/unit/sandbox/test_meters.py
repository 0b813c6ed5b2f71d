"""Meter events by every rule of Stripe's that a reporter must live with, and what the meters then show."""

import threading
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.sandbox.town import DAY, EVENTS, HOUR, START_AT, HeldClock, Reply, Seller, Town

MINUTE = START_AT - START_AT % 60
NEXT_MINUTE = MINUTE + 60


@pytest.fixture
def customer(seller: Seller) -> str:
    return seller.customer()


def total(seller: Seller, customer: str) -> object:
    return seller.total(seller.meter_id, customer, MINUTE - 40 * DAY, MINUTE + 40 * DAY)


def test_an_event(seller: Seller, customer: str) -> None:
    """An event is accepted as sent, at the time it says or now, under its identifier or a fresh one."""
    sent = seller.use(customer, "25", at=START_AT - 5, identifier="fb_1").json
    assert sent == {
        "object": "billing.meter_event",
        "created": START_AT,
        "event_name": "calls",
        "identifier": "fb_1",
        "livemode": False,
        "payload": {"stripe_customer_id": customer, "value": "25"},
        "timestamp": START_AT - 5,
    }
    again = seller.use(customer, "1").json
    assert again["timestamp"] == START_AT
    assert len(again["identifier"]) == 24
    assert total(seller, customer) == 26


def test_a_duplicate_identifier(seller: Seller, customer: str) -> None:
    """The same identifier again is a 400 without a code and counts nothing, whatever else it says (F09, L8)."""
    assert seller.use(customer, "25", identifier="fb_1").status == 200
    other = seller.customer()
    for who, value, at in ((customer, "25", None), (customer, "7", START_AT - 60), (other, "25", None)):
        refused = seller.use(who, value, at=at, identifier="fb_1")
        assert (refused.status, refused.error) == (400, {"type": "invalid_request_error", "param": "identifier"})
        assert refused.json["error"]["message"] == "An event already exists with identifier fb_1."
    assert (total(seller, customer), total(seller, other)) == (25, 0)


@pytest.mark.parametrize("keyed", [False, True])
def test_uniqueness_ends(seller: Seller, customer: str, keyed: bool) -> None:
    """Identifiers and idempotency keys are kept for 24 hours only: sent blindly later, it counts twice (L9, F08)."""

    def send() -> Reply:
        payload = {"stripe_customer_id": customer, "value": "25"}
        event = {"event_name": "calls", "payload": payload, "identifier": "fb_1", "timestamp": START_AT}
        return seller.ask("POST", EVENTS, event, idempotency_key="fb_1" if keyed else None)

    assert send().status == 200
    seller.move(DAY - 1)
    assert send().status == (200 if keyed else 400)
    assert total(seller, customer) == 25
    seller.move(2)
    assert send().status == 200
    assert total(seller, customer) == 50


@pytest.mark.parametrize(
    ("seconds", "code"),
    [
        (-35 * DAY, None),
        (-35 * DAY - 1, "timestamp_too_far_in_past"),
        (300, None),
        (301, "timestamp_in_future"),
    ],
)
def test_the_time_window(seller: Seller, customer: str, seconds: int, code: str | None) -> None:
    """35 days back and 5 minutes ahead are taken, a second more is not."""
    reply = seller.use(customer, at=START_AT + seconds)
    if code is None:
        assert reply.status == 200
    else:
        expected = {"type": "invalid_request_error", "param": "timestamp", "code": code}
        assert (reply.status, reply.error) == (400, expected)
    assert total(seller, customer) == (1 if code is None else 0)


def test_a_meter_that_is_not_there(seller: Seller, customer: str) -> None:
    """An event for an unknown or retired meter is refused, and never counted later."""
    refused = seller.use(customer, name="nothing")
    assert (refused.status, refused.error["param"]) == (400, "event_name")
    seller.post(f"/v1/billing/meters/{seller.meter_id}/deactivate")
    assert seller.use(customer).status == 400
    seller.post(f"/v1/billing/meters/{seller.meter_id}/reactivate")
    assert total(seller, customer) == 0
    assert seller.use(customer).status == 200


def test_customers_that_are_not_there(seller: Seller, customer: str) -> None:
    """Usage of an unknown or deleted customer is refused by name; so is an event that names nobody."""
    refused = seller.use("cus_none")
    assert (refused.status, refused.error["code"]) == (400, "resource_missing")
    assert refused.error["param"] == "payload[stripe_customer_id]"
    seller.delete(f"/v1/customers/{customer}")
    assert seller.use(customer).status == 400
    nobody = {"event_name": "calls", "payload": {"value": "1"}}
    assert seller.refused(400, "POST", EVENTS, nobody)["param"] == "payload[stripe_customer_id]"


@pytest.mark.parametrize("value", ["", "x", "NaN", "Infinity", "-Infinity", "1_000", " 5", "٣", "0x10", "1e999999"])
def test_values_that_are_no_number(seller: Seller, customer: str, value: str) -> None:
    """A value is a plain decimal in ASCII digits; anything else is a 400 that names it."""
    refused = seller.use(customer, value)
    assert (refused.status, refused.error["param"]) == (400, "payload[value]")


@pytest.mark.parametrize("value", ["9" * 40, "1e39", "-" + "9" * 39])
def test_no_value_breaks_the_bill(seller: Seller, value: str) -> None:
    """However large a value is, it is refused or billed; it never breaks previews, renewals or the passing of time."""
    subscription = seller.subscribe()
    seller.use(subscription["customer"], value)
    assert seller.post("/v1/invoices/create_preview", subscription=subscription["id"])["status"] == "draft"
    seller.move(40 * DAY)
    assert [i["status"] for i in seller.invoices(subscription)] == ["paid"]


def test_long_values_are_exact(seller: Seller) -> None:
    """Forty digits are counted and billed to the last one; one more is refused."""
    subscription = seller.subscribe()
    value = "1234567890" * 3 + "1234567.891"
    assert seller.use(subscription["customer"], value).status == 200
    assert seller.use(subscription["customer"], "1" + value).error["param"] == "payload[value]"
    preview = seller.post("/v1/invoices/create_preview", subscription=subscription["id"])
    assert preview["lines"]["data"][0]["quantity_decimal"] == value
    assert preview["total"] == int("1234567890" * 3 + "123456789")


def test_identifiers_are_bounded(seller: Seller, customer: str) -> None:
    """100 characters are an identifier, 101 are not."""
    assert seller.use(customer, identifier="i" * 100).status == 200
    assert seller.use(customer, identifier="i" * 101).error["param"] == "identifier"


@pytest.mark.parametrize(("formula", "shown"), [("sum", 12), ("count", 3), ("last", 5)])
def test_formulas(town: Town, formula: str, shown: int) -> None:
    """A meter sums, counts, or shows the value with the latest time of its own."""
    meter, customer = town.meter("calls", formula), town.customer()
    for value, at in (("4", START_AT - 20), ("5", START_AT), ("3", START_AT - 10)):
        assert town.use(customer, value, at=at).status == 200
    assert town.total(meter, customer, MINUTE - 60, NEXT_MINUTE) == shown


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.decimals(-1_000_000, 1_000_000, places=3), max_size=8))
def test_sums_are_exact(values: list[object]) -> None:
    """Whole, fractional and negative values add up exactly; a negative total bills as nothing."""
    seller = Seller()
    subscription = seller.subscribe()
    for value in values:
        assert seller.use(subscription["customer"], f"{value}").status == 200
    exact = sum(Fraction(str(value)) for value in values)
    (line,) = seller.post("/v1/invoices/create_preview", subscription=subscription["id"])["lines"]["data"]
    assert Fraction(line["quantity_decimal"]) == max(exact, Fraction(0))
    assert line["amount"] == int(max(exact, Fraction(0)) * 100 + Fraction(1, 2))  # half up
    assert total(seller, subscription["customer"]) == float(exact)


def test_windows_are_half_open(seller: Seller, customer: str) -> None:
    """A summary holds its first second and not its end, and one customer's and meter's usage only."""
    other = seller.customer()
    seller.meter("tokens")
    for value, at in (("1", MINUTE - 1), ("10", MINUTE), ("100", MINUTE + 59), ("1000", MINUTE + 60)):
        assert seller.use(customer, value, at=at).status == 200
    seller.use(other, "5", at=MINUTE)
    seller.use(customer, "7", at=MINUTE, name="tokens")
    assert seller.total(seller.meter_id, customer, MINUTE, MINUTE + 60) == 110
    assert seller.total(seller.meter_id, customer, MINUTE - 60, MINUTE + 120) == 1111
    assert seller.total(seller.meter_id, other, MINUTE, MINUTE + 60) == 5


@pytest.mark.parametrize(
    ("window", "start", "end", "param"),
    [
        (None, MINUTE + 1, MINUTE + 60, "start_time"),
        (None, MINUTE, MINUTE + 61, "end_time"),
        (None, MINUTE, MINUTE, "end_time"),
        (None, MINUTE + 60, MINUTE, "end_time"),
        ("hour", MINUTE + 60, MINUTE + HOUR, "start_time"),
        ("hour", MINUTE, MINUTE + HOUR + 60, "end_time"),
        ("day", MINUTE, MINUTE + 16 * HOUR, "start_time"),
        ("day", MINUTE - 8 * HOUR, MINUTE, "end_time"),
        ("week", MINUTE, MINUTE + HOUR, "value_grouping_window"),
    ],
)
def test_alignment(seller: Seller, customer: str, window: str | None, start: int, end: int, param: str) -> None:
    """Both ends of a summary lie on whole minutes, and on whole hours or UTC days when grouped so."""
    asked = {"customer": customer, "start_time": start, "end_time": end}
    grouped = {**asked, "value_grouping_window": window} if window is not None else asked
    path = f"/v1/billing/meters/{seller.meter_id}/event_summaries"
    assert seller.refused(400, "GET", path, grouped)["param"] == param


def test_grouped_summaries(seller: Seller, customer: str) -> None:
    """Hours and days are summed each for itself, newest first, and those without usage are left out."""
    hour = START_AT - START_AT % HOUR
    for value, at in (("1", hour - 2 * HOUR), ("2", hour - 2 * HOUR + 1), ("4", hour)):
        seller.use(customer, value, at=at)
    path = f"/v1/billing/meters/{seller.meter_id}/event_summaries"
    asked = {"customer": customer, "start_time": hour - 3 * HOUR, "end_time": hour + HOUR}
    found = seller.get(path, **asked, value_grouping_window="hour")["data"]
    shown = [(s["start_time"], s["end_time"], s["aggregated_value"]) for s in found]
    assert shown == [(hour, hour + HOUR, 4), (hour - 2 * HOUR, hour - HOUR, 3)]
    midnight = START_AT - START_AT % DAY
    days = seller.get(
        path, customer=customer, start_time=midnight - DAY, end_time=midnight + DAY, value_grouping_window="day"
    )["data"]
    assert [(s["start_time"], s["aggregated_value"]) for s in days] == [(midnight, 7)]


def test_huge_windows(seller: Seller, customer: str) -> None:
    """The longest window that can be asked for is answered at once: what is worked on is the events there are (A11)."""
    seller.use(customer, "3")
    path = f"/v1/billing/meters/{seller.meter_id}/event_summaries"
    end = 999_999_999_999 - 999_999_999_999 % DAY
    for window, seconds in (("hour", HOUR), ("day", DAY)):
        asked = {"customer": customer, "start_time": 0, "end_time": end, "value_grouping_window": window}
        (found,) = seller.get(path, **asked)["data"]
        assert (found["start_time"], found["aggregated_value"]) == (START_AT - START_AT % seconds, 3)


def test_aggregation_lags(seller: Seller) -> None:
    """Accepted is not counted: summaries and previews show an event only when the lag since its arrival is over."""
    subscription = seller.subscribe()
    customer = subscription["customer"]
    seller.sandbox.aggregation_lag_seconds = 90
    seller.use(customer, "3")
    for seconds, shown in ((89, 0), (1, 3)):
        seller.move(seconds)
        assert total(seller, customer) == shown
        preview = seller.post("/v1/invoices/create_preview", subscription=subscription["id"])
        assert (preview["total"], preview["lines"]["data"][0]["quantity"]) == (100 * shown, shown)


def test_one_in_flight_for_each_customer_and_meter() -> None:
    """While an event of a customer and meter is being taken, another one of both is 429 and counts nothing (L8)."""
    clock = HeldClock()
    seller = Seller(clock=clock)
    seller.meter("tokens")
    first, second = seller.customer(), seller.customer()
    seller.sandbox.faults.add({"path": EVENTS, "latency_ms": 1})
    replies: list[Reply] = []
    held = threading.Thread(target=lambda: replies.append(seller.use(first, "1")))
    held.start()
    assert clock.entered.wait(10)
    refused = seller.use(first, "10")
    assert (refused.status, refused.error) == (429, {"type": "invalid_request_error", "code": "lock_timeout"})
    assert refused.headers["Stripe-Rate-Limited-Reason"] == "resource-specific"
    assert seller.use(second, "10").status == 200
    assert seller.use(first, "10", name="tokens").status == 200
    clock.released.set()
    held.join(10)
    assert [reply.status for reply in replies] == [200]
    assert total(seller, first) == 1
    assert seller.use(first, "100").status == 200
