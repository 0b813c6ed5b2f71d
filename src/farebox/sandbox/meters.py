"""Meter events and what the meters show: Stripe's refusals, its uniqueness of identifiers, its lag."""

from decimal import Decimal, localcontext
from typing import Final

from farebox.sandbox.core import Context, Route, page
from farebox.sandbox.decimals import EXACT, parsed
from farebox.sandbox.errors import StripeError, invalid
from farebox.sandbox.params import anything, enum, integer, required, text
from farebox.sandbox.state import State, StripeObject

__all__ = [
    "FUTURE_SECONDS_MAX",
    "IDENTIFIER_CHARACTERS_MAX",
    "PAST_SECONDS_MAX",
    "ROUTES",
    "aggregate",
]

PAST_SECONDS_MAX: Final = 35 * 86_400
FUTURE_SECONDS_MAX: Final = 300
IDENTIFIER_CHARACTERS_MAX: Final = 100
_WINDOWS: Final = {"minute": 60, "hour": 3_600, "day": 86_400}


def _create_event(ctx: Context) -> StripeObject:
    p, state = ctx.params, ctx.state
    meter_id = state.meter_names.get(p["event_name"])
    if meter_id is None:
        raise invalid(
            f"No active meter found for event name {p['event_name']}. Create one, or check its status.",
            param="event_name",
        )
    meter = state.objects["billing.meter"][meter_id]
    customer_id, value = _payload(ctx, meter)
    timestamp = p.get("timestamp", ctx.now_at)
    if not ctx.now_at - PAST_SECONDS_MAX <= timestamp <= ctx.now_at + FUTURE_SECONDS_MAX:
        raise invalid(
            "The timestamp must be within the past 35 calendar days or up to 5 minutes in the future.",
            param="timestamp",
            code="timestamp_too_far_in_past" if timestamp < ctx.now_at else "timestamp_in_future",
        )
    identifier = p.get("identifier") or ctx.new_id("")
    if not state.add_identifier(meter_id, identifier, ctx.now_at):
        raise StripeError(
            400, "invalid_request_error", f"An event already exists with identifier {identifier}.", param="identifier"
        )
    state.usage.setdefault((meter_id, customer_id), []).append((timestamp, value, ctx.now_at))
    return {
        "object": "billing.meter_event",
        "created": ctx.now_at,
        "event_name": p["event_name"],
        "identifier": identifier,
        "livemode": False,
        "payload": p["payload"],
        "timestamp": timestamp,
    }


def _payload(ctx: Context, meter: StripeObject) -> tuple[str, Decimal]:
    payload = ctx.params["payload"]
    who, what = meter["customer_mapping"]["event_payload_key"], meter["value_settings"]["event_payload_key"]
    for name in (who, what):
        if name not in payload and not (name == what and meter["default_aggregation"]["formula"] == "count"):
            raise invalid(f"The payload must contain the key {name!r}.", param=f"payload[{name}]")
    value = parsed(payload.get(what, "1"))
    if value is None:
        raise invalid(f"The value {payload.get(what, '')[:40]!r} is not a number.", param=f"payload[{what}]")
    customer = ctx.state.objects["customer"].get(payload[who])
    if customer is None or customer.get("deleted"):
        raise invalid(f"No such customer: '{payload[who]}'", param=f"payload[{who}]", code="resource_missing")
    return payload[who], value


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
    return page(ctx, found, f"/v1/billing/meters/{meter['id']}/event_summaries")


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
