"""What aggregation finds when it gets there: streams, late refusals and their reports, and cancellations."""

import json
from typing import Any

import pytest
from tests.unit.sandbox.test_thin import ask, destination, done
from tests.unit.sandbox.town import DAY, START_AT, Seller, Town

MINUTE = START_AT - START_AT % 60
STREAM = "/v2/billing/meter_event_stream"
ADJUSTMENTS = "/v1/billing/meter_event_adjustments"
NO_METER = "v1.billing.meter.no_meter_found"
ERROR_REPORT = "v1.billing.meter.error_report_triggered"


@pytest.fixture
def customer(seller: Seller) -> str:
    return seller.customer()


def total(seller: Seller, customer: str) -> Any:
    return seller.total(seller.meter_id, customer, MINUTE - 40 * DAY, MINUTE + 40 * DAY)


def reports(town: Town) -> list[Any]:
    """The error reports so far, oldest first."""
    return list(reversed(done(town, "GET", "/v2/core/events")["data"]))


def event(customer: str, value: Any = "1", identifier: str = "e1", **more: Any) -> dict[str, Any]:
    payload = {"stripe_customer_id": customer, "value": value}
    return {"event_name": "calls", "identifier": identifier, "payload": payload, **more}


def stream(town: Town, *events: dict[str, Any]) -> None:
    token = done(town, "POST", "/v2/billing/meter_event_session")["authentication_token"]
    reply = ask(town, "POST", STREAM, {"events": list(events)}, key=token)
    assert (reply.status, reply.json) == (200, {})


def test_a_stream(seller: Seller, customer: str) -> None:
    """A hundred events of a stream are counted, each identifier once, at the times that they say."""
    events = [event(customer, "2", f"e{i}") for i in range(99)]
    stream(seller, *events, event(customer, "2", "e0"))
    stream(seller, event(customer, "0.5", "late", timestamp="2027-01-14T08:00:00.250Z"), event(customer, "7", "e1"))
    assert total(seller, customer) == 198.5
    assert seller.total(seller.meter_id, customer, MINUTE - DAY, MINUTE - DAY + 60) == 0.5
    assert reports(seller) == []


def test_a_session_ends(town: Town) -> None:
    """A session's token opens the stream for a quarter of an hour; an API key never does, nor the token all else."""
    session = done(town, "POST", "/v2/billing/meter_event_session")
    assert (session["created"], session["expires_at"]) == ("2027-01-15T08:00:00.000Z", "2027-01-15T08:15:00.000Z")
    token = session["authentication_token"]
    town.move(899)
    assert ask(town, "POST", STREAM, {"events": []}, key=token).status == 200
    town.move(1)
    expired = ask(town, "POST", STREAM, {"events": []}, key=token)
    assert expired.status == 401
    assert expired.error == {"type": "temporary_session_expired", "code": "billing_meter_event_session_expired"}
    assert ask(town, "POST", STREAM, {"events": []}).status == 401
    assert ask(town, "POST", STREAM, {"events": []}, key=token + "x").status == 401
    assert ask(town, "GET", "/v2/core/events", key=token).status == 401


@pytest.mark.parametrize(
    "events",
    [None, "e", [5], [{}], [{"event_name": "calls"}], [{"event_name": "calls", "payload": {"value": 1}}], [{}] * 101],
)
def test_streams_that_are_refused(town: Town, events: Any) -> None:
    """A stream's shape is looked at at once: up to a hundred events, each with a name and a payload of texts."""
    token = done(town, "POST", "/v2/billing/meter_event_session")["authentication_token"]
    assert ask(town, "POST", STREAM, {"events": events}, key=token).status == 400


def test_what_is_wrong_is_reported(seller: Seller, customer: str) -> None:
    """All that is wrong with a stream's events comes in one report for each meter, and one for those without."""
    secret = destination(seller, ERROR_REPORT, NO_METER)["webhook_endpoint"]["signing_secret"]
    wrong = [
        event("cus_none", identifier="a"),
        event("cus_none", identifier="b"),
        event(customer, "x", "c"),
        event(customer, identifier="d", timestamp="2026-11-01T00:00:00Z"),
        event(customer, identifier="e", timestamp="2027-01-15T09:00:00Z"),
        {"event_name": "calls", "identifier": "f", "payload": {"value": "1"}},
        {"event_name": "nothing", "identifier": "g", "payload": {}},
    ]
    stream(seller, *wrong, event(customer, "5", "right"))
    assert total(seller, customer) == 5
    report, unknown = reports(seller)
    assert (report["type"], unknown["type"]) == (ERROR_REPORT, NO_METER)
    path = f"/v1/billing/meters/{seller.meter_id}"
    assert report["related_object"] == {"id": seller.meter_id, "type": "billing.meter", "url": path}
    assert "related_object" not in unknown
    reason = report["data"]["reason"]
    assert reason["error_count"] == 6
    assert {each["code"]: each["error_count"] for each in reason["error_types"]} == {
        "meter_event_customer_not_found": 2,
        "meter_event_invalid_value": 1,
        "timestamp_too_far_in_past": 1,
        "timestamp_in_future": 1,
        "meter_event_no_customer_defined": 1,
    }
    assert [s["request"]["identifier"] for s in reason["error_types"][0]["sample_errors"]] == ["a", "b"]
    assert unknown["data"]["reason"]["error_types"][0]["code"] == "no_meter"
    assert unknown["data"]["developer_message_summary"] == "There is 1 invalid event"
    assert seller.deliver() == 2
    told = [json.loads(body) for _, _, body in seller.received]
    assert [each["type"] for each in told] == [ERROR_REPORT, NO_METER]
    assert secret
    assert all("data" not in each for each in told)


@pytest.mark.parametrize(
    ("gone", "code"), [("customer", "meter_event_customer_not_found"), ("meter", "archived_meter")]
)
def test_gone_before_it_was_counted(seller: Seller, customer: str, gone: str, code: str) -> None:
    """An event that was accepted is not counted if its customer or meter goes before aggregation gets to it (F09)."""
    seller.sandbox.set_aggregation(90, late=False)
    sent = {"event_name": "calls", "payload": {"stripe_customer_id": customer, "value": "3"}, "identifier": "e1"}
    assert seller.ask("POST", "/v1/billing/meter_events", sent, idempotency_key="key-1").status == 200
    if gone == "customer":
        seller.delete(f"/v1/customers/{customer}")
    else:
        seller.post(f"/v1/billing/meters/{seller.meter_id}/deactivate")
    seller.move(89)
    assert reports(seller) == []
    seller.move(1)
    (report,) = reports(seller)
    (kind,) = report["data"]["reason"]["error_types"]
    assert (kind["code"], kind["sample_errors"][0]["request"]["identifier"]) == (code, "key-1")
    assert report["created"] == "2027-01-15T08:01:30.000Z"
    assert (report["data"]["validation_start"], report["data"]["validation_end"]) == (
        "2027-01-15T08:00:00.000Z",
        "2027-01-15T08:01:30.000Z",
    )
    assert total(seller, customer) == 0


def test_counted_is_counted(seller: Seller, customer: str) -> None:
    """What aggregation has reached stays, whatever becomes of the customer or the meter."""
    seller.sandbox.set_aggregation(90, late=False)
    seller.use(customer, "3")
    seller.move(90)
    seller.post(f"/v1/billing/meters/{seller.meter_id}/deactivate")
    assert (total(seller, customer), reports(seller)) == (3, [])


def test_late_validation(seller: Seller, customer: str) -> None:
    """Asked to, /v1 takes events for nobody and values that are none, and reports them later; names it still knows."""
    seller.sandbox.set_aggregation(0, late=True)
    assert seller.use("cus_none", identifier="a").status == 200
    assert seller.use(customer, "x", identifier="b").status == 200
    assert seller.use(customer, name="nothing").status == 400
    assert seller.use(customer, "2").status == 200
    assert total(seller, customer) == 2
    codes = [kind["code"] for each in reports(seller) for kind in each["data"]["reason"]["error_types"]]
    assert codes == ["meter_event_customer_not_found", "meter_event_invalid_value"]


def test_one_event_of_v2(seller: Seller, customer: str) -> None:
    """/v2 looks at an event at once, tells a duplicate by its code, and looks for the customer later."""
    path = "/v2/billing/meter_events"
    assert done(seller, "POST", path, event(customer, "4", timestamp="2027-01-15T07:59:00Z")) == {
        "object": "v2.billing.meter_event",
        "created": "2027-01-15T08:00:00.000Z",
        "event_name": "calls",
        "identifier": "e1",
        "livemode": False,
        "payload": {"stripe_customer_id": customer, "value": "4"},
        "timestamp": "2027-01-15T07:59:00.000Z",
    }
    again = ask(seller, "POST", path, event(customer, "4"))
    assert (again.status, again.json["error"]["code"]) == (400, "duplicate_meter_event")
    assert ask(seller, "POST", path, event("cus_none", identifier="e2")).status == 200
    assert total(seller, customer) == 4
    assert [each["type"] for each in reports(seller)] == [ERROR_REPORT]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"event_name": "nothing"}, "no_meter"),
        ({"payload": {"value": "1"}}, "payload_no_customer_defined"),
        ({"payload": {"stripe_customer_id": "cus_x"}}, "payload_no_value_defined"),
        ({"payload": {"stripe_customer_id": "cus_x", "value": "x"}}, "payload_invalid_value"),
        ({"payload": {"stripe_customer_id": "cus_x", "value": 1}}, "invalid_parameter"),
        ({"timestamp": "2026-11-01T00:00:00Z"}, "timestamp_too_far_in_past"),
        ({"timestamp": 1_800_000_000}, "invalid_timestamp"),
        ({"timestamp": "2027-02-30T00:00:00Z"}, "invalid_timestamp"),
        ({"value": "1"}, "parameter_unknown"),
    ],
)
def test_events_that_v2_refuses(seller: Seller, customer: str, changes: dict[str, Any], code: str) -> None:
    """Each refusal of /v2 has Stripe's code for it, and counts nothing."""
    refused = ask(seller, "POST", "/v2/billing/meter_events", {**event(customer), **changes})
    assert (refused.status, refused.json["error"]["code"]) == (400, code)
    assert total(seller, customer) == 0


def test_a_retired_meter_of_v2(seller: Seller, customer: str) -> None:
    """/v2 tells a retired meter from one that never was."""
    seller.post(f"/v1/billing/meters/{seller.meter_id}/deactivate")
    refused = ask(seller, "POST", "/v2/billing/meter_events", event(customer))
    assert refused.json["error"]["code"] == "archived_meter"


def adjust(seller: Seller, identifier: str = "e1", name: str = "calls") -> Any:
    return seller.ask("POST", ADJUSTMENTS, {"event_name": name, "type": "cancel", "cancel": {"identifier": identifier}})


def test_a_cancellation(seller: Seller, customer: str) -> None:
    """A canceled event counts no more; its identifier stays used, and it cannot be canceled twice."""
    seller.use(customer, "5", identifier="e1")
    seller.use(customer, "2", identifier="e2")
    made = adjust(seller)
    assert (made.status, made.json["status"], made.json["cancel"]) == (200, "pending", {"identifier": "e1"})
    assert total(seller, customer) == 2
    assert adjust(seller).error == {"type": "invalid_request_error", "param": "cancel[identifier]"}
    assert seller.use(customer, "5", identifier="e1").status == 400


def test_cancellations_wait_for_aggregation(seller: Seller, customer: str) -> None:
    """A cancellation applies when aggregation gets to it, in order with the events that it may be about."""
    seller.sandbox.set_aggregation(60, late=False)
    stream(seller, event(customer, "5"))
    seller.move(30)
    assert adjust(seller).status == 200
    seller.move(30)
    assert total(seller, customer) == 5
    seller.move(30)
    assert total(seller, customer) == 0


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"identifier": "e9"}, "cancel[identifier]"),
        ({"name": "nothing"}, "event_name"),
    ],
)
def test_cancellations_of_nothing(seller: Seller, customer: str, asked: dict[str, str], param: str) -> None:
    """What no meter has counted cannot be canceled."""
    seller.use(customer, identifier="e1")
    refused = adjust(seller, **asked)
    assert (refused.status, refused.error["code"], refused.error["param"]) == (400, "resource_missing", param)


def test_a_day_to_cancel(seller: Seller, customer: str) -> None:
    """An event can be canceled for 24 hours after it came, whatever its own time says."""
    seller.use(customer, "1", identifier="e1", at=START_AT - 20 * DAY)
    seller.use(customer, "2", identifier="e2")
    seller.move(DAY)
    assert adjust(seller, "e1").status == 200
    seller.move(1)
    assert adjust(seller, "e2").error["code"] == "resource_missing"
    assert total(seller, customer) == 2
    missing = seller.ask("POST", ADJUSTMENTS, {"event_name": "calls", "type": "cancel"})
    assert missing.error["param"] == "cancel[identifier]"


def test_finalized_invoices_stay(seller: Seller) -> None:
    """A cancellation takes usage off a draft, and never off an invoice that is finalized."""
    subscription = seller.subscribe()
    customer, end = subscription["customer"], subscription["items"]["data"][0]["current_period_end"]
    seller.sandbox.advance(end - 60)
    seller.use(customer, "5", identifier="e1")
    seller.use(customer, "2", identifier="e2")
    seller.move(120)
    assert adjust(seller, "e1").status == 200
    assert seller.invoices(subscription)[-1]["total"] == 200
    seller.move(3_600)
    assert adjust(seller, "e2").status == 200
    assert seller.invoices(subscription)[-1]["total"] == 200
    assert seller.total(seller.meter_id, customer, MINUTE, MINUTE + 40 * DAY) == 0


def test_a_cancellation_of_v2(seller: Seller, customer: str) -> None:
    """/v2 cancels alike, and refuses with its own code."""
    seller.use(customer, "5", identifier="e1")
    asked = {"event_name": "calls", "type": "cancel", "cancel": {"identifier": "e1"}}
    made = done(seller, "POST", "/v2/billing/meter_event_adjustments", asked)
    assert (made["object"], made["status"]) == ("v2.billing.meter_event_adjustment", "pending")
    refused = ask(seller, "POST", "/v2/billing/meter_event_adjustments", asked)
    assert (refused.status, refused.json["error"]["code"]) == (400, "invalid_cancel_configuration")
    assert total(seller, customer) == 0
