"""Meter events and what the meters show: Stripe's refusals, its uniqueness of identifiers, its lag.

What is taken is looked at once more when aggregation reaches it; what is wrong by then goes into an error report.
"""

from decimal import Decimal, localcontext
from typing import Final, NamedTuple

from farebox.sandbox.core import Context, Route, page
from farebox.sandbox.decimals import EXACT, parsed
from farebox.sandbox.errors import StripeError, invalid
from farebox.sandbox.params import anything, enum, integer, required, text
from farebox.sandbox.state import State, StripeObject
from farebox.sandbox.thresholds import usage_came

__all__ = [
    "FUTURE_SECONDS_MAX",
    "IDENTIFIER_CHARACTERS_MAX",
    "PAST_SECONDS_MAX",
    "QUEUE",
    "ROUTES",
    "BadUsage",
    "Usage",
    "aggregate",
    "checked",
    "customer_problem",
    "keep",
    "meter_named",
    "take",
    "wait",
]

PAST_SECONDS_MAX: Final = 35 * 86_400
FUTURE_SECONDS_MAX: Final = 300
IDENTIFIER_CHARACTERS_MAX: Final = 100
QUEUE: Final = "0_usage"  # by this id time finds what waits for aggregation, before all else of the same instant
_WINDOWS: Final = {"minute": 60, "hour": 3_600, "day": 86_400}


class BadUsage(Exception):
    """What is wrong with a meter event: `code` as Stripe's error reports call it, and the payload's key if one is."""

    def __init__(self, code: str, message: str, key: str | None = None, meter_id: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.key = key
        self.meter_id = meter_id


class Usage(NamedTuple):
    """A meter event that would count."""

    meter_id: str
    customer_id: str
    timestamp: int
    value: Decimal
    received_at: int


def meter_named(state: State, event_name: str) -> StripeObject:
    """The active meter of this name. BadUsage where there is none, or only one that is retired."""
    meter_id = state.meter_names.get(event_name)
    if meter_id is not None:
        return state.objects["billing.meter"][meter_id]
    retired = next((m for m in state.objects["billing.meter"].values() if m["event_name"] == event_name), None)
    message = f"No active meter found for event name {event_name}. Create one, or check its status."
    if retired is None:
        raise BadUsage("no_meter", message)
    raise BadUsage("archived_meter", message, meter_id=retired["id"])


def checked(state: State, event: StripeObject, received_at: int) -> Usage:
    """The event, if all of it but its customer and its identifier is as it must be. BadUsage otherwise."""
    meter = meter_named(state, event["event_name"])
    payload, meter_id = event["payload"], meter["id"]
    who, what = meter["customer_mapping"]["event_payload_key"], meter["value_settings"]["event_payload_key"]
    if who not in payload:
        raise BadUsage("meter_event_no_customer_defined", f"The payload must contain the key {who!r}.", who, meter_id)
    if what not in payload and meter["default_aggregation"]["formula"] != "count":
        raise BadUsage("meter_event_no_value_defined", f"The payload must contain the key {what!r}.", what, meter_id)
    value = parsed(payload.get(what, "1"))
    if value is None:
        message = f"The value {payload.get(what, '')[:40]!r} is not a number."
        raise BadUsage("meter_event_invalid_value", message, what, meter_id)
    timestamp = event["timestamp"]
    if not received_at - PAST_SECONDS_MAX <= timestamp <= received_at + FUTURE_SECONDS_MAX:
        message = "The timestamp must be within the past 35 calendar days or up to 5 minutes in the future."
        code = "timestamp_too_far_in_past" if timestamp < received_at else "timestamp_in_future"
        raise BadUsage(code, message, meter_id=meter_id)
    return Usage(meter_id, payload[who], timestamp, value, received_at)


def customer_problem(state: State, usage: Usage) -> BadUsage | None:
    """What is wrong with the customer of an event, if anything is."""
    customer = state.objects["customer"].get(usage.customer_id)
    if customer is not None and not customer.get("deleted"):
        return None
    who = state.objects["billing.meter"][usage.meter_id]["customer_mapping"]["event_payload_key"]
    message = f"No such customer: '{usage.customer_id}'"
    return BadUsage("meter_event_customer_not_found", message, who, usage.meter_id)


def keep(state: State, usage: Usage) -> None:
    """Count the event."""
    entries = state.usage.setdefault((usage.meter_id, usage.customer_id), [])
    entries.append((usage.timestamp, usage.value, usage.received_at))


def take(ctx: Context, event: StripeObject, usage: Usage) -> None:
    """Count an event that is right now; look at it once more when aggregation reaches it, if that is later."""
    keep(ctx.state, usage)
    usage_came(ctx, usage.customer_id)
    if ctx.sandbox.aggregation_lag_seconds:
        wait(ctx, {**event, "kind": "counted", "usage": tuple(usage)})


def wait(ctx: Context, thing: StripeObject) -> None:
    """Let aggregation look at this when it gets there."""
    ctx.state.unsettled.append({**thing, "received_at": ctx.account_now_at, "key": ctx.idempotency_key})
    ctx.state.objects["usage_queue"].setdefault(QUEUE, {"id": QUEUE, "object": "usage_queue"})
    ctx.state.due.touch(QUEUE)
    ctx.sandbox.reschedule()


def _create_event(ctx: Context) -> StripeObject:
    p, state = ctx.params, ctx.state
    event = {**p, "timestamp": p.get("timestamp", ctx.now_at), "identifier": p.get("identifier") or ctx.new_id("")}
    try:
        usage = checked(state, event, ctx.now_at)
        problem = customer_problem(state, usage)
        if problem is not None:
            raise problem
    except BadUsage as bad:
        if not ctx.sandbox.late_validation or bad.code in ("no_meter", "archived_meter"):
            raise _refusal(bad) from None
        wait(ctx, {**event, "kind": "event"})
    else:
        if not state.add_identifier(usage.meter_id, event["identifier"], ctx.account_now_at, tuple(usage)):
            message = f"An event already exists with identifier {event['identifier']}."
            raise StripeError(400, "invalid_request_error", message, param="identifier")
        take(ctx, event, usage)
    return {
        "object": "billing.meter_event",
        "created": ctx.now_at,
        "event_name": p["event_name"],
        "identifier": event["identifier"],
        "livemode": False,
        "payload": p["payload"],
        "timestamp": event["timestamp"],
    }


def _refusal(bad: BadUsage) -> StripeError:
    """As /v1 tells it at once."""
    if bad.code in ("no_meter", "archived_meter"):
        return invalid(bad.message, param="event_name")
    if bad.code.startswith("timestamp"):
        return invalid(bad.message, param="timestamp", code=bad.code)
    missing = "resource_missing" if bad.code == "meter_event_customer_not_found" else None
    return invalid(bad.message, param=f"payload[{bad.key}]", code=missing)


def aggregate(state: State, meter: StripeObject, customer_id: str, start: int, end: int, *, seen_by: int) -> Decimal:
    """What the meter counts for a customer in [start, end), of the events that aggregation has reached by `seen_by`."""
    return _count(meter, _events(state, meter, customer_id, start, end, seen_by))


def _events(
    state: State, meter: StripeObject, customer_id: str, start: int, end: int, seen_by: int
) -> list[tuple[int, Decimal]]:
    events = state.usage.get((meter["id"], customer_id), ())
    return [(at, value) for at, value, received_at in events if start <= at < end and received_at <= seen_by]


def _count(meter: StripeObject, events: list[tuple[int, Decimal]]) -> Decimal:
    formula = meter["default_aggregation"]["formula"]
    if formula == "count":
        return Decimal(len(events))
    if formula == "last":
        return max(events, key=lambda entry: entry[0], default=(0, Decimal(0)))[1]
    with localcontext(EXACT):
        return sum((value for _, value in events), Decimal(0))


def _summaries(ctx: Context) -> StripeObject:
    p = ctx.params
    meter = ctx.state.get("billing.meter", ctx.path["id"])
    ctx.state.get("customer", p["customer"], param="customer", status=400)
    start, end = p["start_time"], p["end_time"]
    if end <= start:
        raise invalid("end_time must be after start_time.", param="end_time")
    window = p.get("value_grouping_window")
    unit = _WINDOWS[window or "minute"]
    for name, at in (("start_time", start), ("end_time", end)):
        if at % unit:
            raise invalid(f"{name} must be aligned with {window or 'minute'} boundaries in UTC.", param=name)
    seconds = unit if window is not None else end - start
    seen_by = ctx.now_at - ctx.sandbox.aggregation_lag_seconds
    grouped: dict[int, list[tuple[int, Decimal]]] = {} if window is not None else {start: []}
    for event in _events(ctx.state, meter, p["customer"], start, end, seen_by):
        grouped.setdefault(event[0] - (event[0] - start) % seconds, []).append(event)
    found = []
    for at in sorted(grouped):
        value = _count(meter, grouped[at])
        if value or window is None:
            found.append(
                {
                    "id": f"mtrusg_test_{meter['id'][-12:]}_{at}",
                    "object": "billing.meter_event_summary",
                    "aggregated_value": int(value) if value == value.to_integral_value() else float(value),
                    "end_time": at + seconds,
                    "livemode": False,
                    "meter": meter["id"],
                    "start_time": at,
                }
            )
    return page(ctx, found, f"/v1/billing/meters/{meter['id']}/event_summaries", of_deleted=True)


_EVENT: Final = {
    "event_name": required(text(100)),
    "payload": required(anything()),
    "identifier": text(IDENTIFIER_CHARACTERS_MAX),
    "timestamp": integer(0),
}
_SUMMARY: Final = {
    "customer": required(text()),
    "start_time": required(integer(0)),
    "end_time": required(integer(0)),
    "value_grouping_window": enum("day", "hour"),
}

ROUTES: Final = [
    Route("POST", "/v1/billing/meter_events", _create_event, _EVENT),
    Route("GET", "/v1/billing/meters/{id}/event_summaries", _summaries, _SUMMARY, paged=True),
]
