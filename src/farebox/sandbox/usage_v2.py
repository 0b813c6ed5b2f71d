"""Meter events over /v2: one by one, looked at at once; in streams of a session, looked at later; and cancellations.

A session's token opens the stream for a quarter of an hour, and nothing else.
"""

from typing import Any, Final

from farebox.sandbox.auth import SESSION_SECONDS, STREAM
from farebox.sandbox.core import Context, Route
from farebox.sandbox.errors import StripeError, missing_object, wrong_state
from farebox.sandbox.meters import (
    IDENTIFIER_CHARACTERS_MAX,
    BadUsage,
    checked,
    customer_problem,
    take,
    wait,
)
from farebox.sandbox.params import array, enum, obj, required, text
from farebox.sandbox.state import StripeObject
from farebox.sandbox.v2 import moment, moment_text, refused, strings

__all__ = ["ROUTES", "STREAM_EVENTS_MAX"]

STREAM_EVENTS_MAX: Final = 100
_SESSION: Final = "v2.billing.meter_event_session"
_CODES: Final = {  # what is refused at once, and how
    "archived_meter": "archived_meter",
    "meter_event_invalid_value": "payload_invalid_value",
    "meter_event_no_customer_defined": "payload_no_customer_defined",
    "meter_event_no_value_defined": "payload_no_value_defined",
    "no_meter": "no_meter",
}


def _event(ctx: Context, asked: dict[str, Any]) -> StripeObject:
    return {
        "event_name": asked["event_name"],
        "identifier": asked.get("identifier") or ctx.new_id(""),
        "payload": asked["payload"],
        "timestamp": asked.get("timestamp", ctx.now_at),
    }


def _create(ctx: Context) -> StripeObject:
    event = _event(ctx, ctx.params)
    try:
        usage = checked(ctx.state, event, ctx.now_at)
    except BadUsage as bad:
        if not ctx.sandbox.late_validation or bad.code in ("no_meter", "archived_meter"):
            raise refused(_CODES.get(bad.code, bad.code), bad.message) from None
        wait(ctx, {**event, "kind": "event"})
        return _shown(ctx, event)
    known = ctx.state.identifiers.get(usage.meter_id, {})
    if event["identifier"] in known:
        message = f"An event already exists with identifier {event['identifier']}."
        raise refused("duplicate_meter_event", message)
    if customer_problem(ctx.state, usage) is not None:
        wait(ctx, {**event, "kind": "event"})  # who it is for is looked at later
    else:
        ctx.state.add_identifier(usage.meter_id, event["identifier"], ctx.account_now_at, tuple(usage))
        take(ctx, event, usage)
    return _shown(ctx, event)


def _shown(ctx: Context, event: StripeObject) -> StripeObject:
    return {
        **event,
        "object": "v2.billing.meter_event",
        "created": moment_text(ctx.now_at),
        "livemode": False,
        "timestamp": moment_text(event["timestamp"]),
    }


def _session(ctx: Context) -> StripeObject:
    sessions = ctx.state.objects[_SESSION]
    for old in [id for id, session in sessions.items() if session["_ends_at"] + SESSION_SECONDS <= ctx.account_now_at]:
        del sessions[old]
    ends_at = ctx.account_now_at + SESSION_SECONDS
    id = ctx.new_id("mes_test_")
    return ctx.state.add(
        {
            "id": id,
            "object": _SESSION,
            "authentication_token": f"{id}.{ctx.new_id('')}",
            "created": moment_text(ctx.account_now_at),
            "expires_at": moment_text(ends_at),
            "livemode": False,
            "_ends_at": ends_at,
        }
    )


def _stream(ctx: Context) -> StripeObject:
    for asked in ctx.params["events"]:
        wait(ctx, {**_event(ctx, asked), "kind": "event"})
    return {}


def _adjust(ctx: Context, asked: dict[str, Any]) -> None:
    """Take a cancellation: of an event of the last 24 hours, once. Finalized invoices stay as they are."""
    name, identifier = asked["event_name"], asked["cancel"]["identifier"]
    meters = [meter["id"] for meter in ctx.state.objects["billing.meter"].values() if meter["event_name"] == name]
    if not meters:
        raise missing_object("billing meter with event name", name, "event_name", status=400)
    waiting = [w["identifier"] for w in ctx.state.unsettled if w["event_name"] == name and w["kind"] != "cancel"]
    found = next((id for id in meters if identifier in ctx.state.identifiers.get(id, {})), None)
    if found is None and identifier not in waiting:
        message = f"No event of the last 24 hours has the identifier {identifier}, or it cannot be canceled any more."
        raise StripeError(400, "invalid_request_error", message, code="resource_missing", param="cancel[identifier]")
    canceled = any(w["identifier"] == identifier for w in ctx.state.unsettled if w["kind"] == "cancel")
    if canceled or (found is not None and ctx.state.identifiers[found][identifier] == "canceled"):
        raise wrong_state(f"The event {identifier} is canceled already.", param="cancel[identifier]")
    meter_id = found or ctx.state.meter_names.get(name, meters[-1])
    wait(ctx, {"kind": "cancel", "event_name": name, "identifier": identifier, "meter": meter_id})


def _cancel_v1(ctx: Context) -> StripeObject:
    p = ctx.params
    if "identifier" not in p.get("cancel", {}):
        message = "Missing required param: cancel[identifier]."
        raise StripeError(400, "invalid_request_error", message, code="parameter_missing", param="cancel[identifier]")
    _adjust(ctx, p)
    return {
        "object": "billing.meter_event_adjustment",
        "cancel": p["cancel"],
        "event_name": p["event_name"],
        "livemode": False,
        "status": "pending",
        "type": p["type"],
    }


def _cancel_v2(ctx: Context) -> StripeObject:
    p = ctx.params
    try:
        _adjust(ctx, p)
    except StripeError as error:
        raise refused("invalid_cancel_configuration", error.message) from None
    return {
        "id": ctx.new_id("mtr_event_adj_"),
        "object": "v2.billing.meter_event_adjustment",
        "cancel": p["cancel"],
        "created": moment_text(ctx.now_at),
        "event_name": p["event_name"],
        "livemode": False,
        "status": "pending",
        "type": p["type"],
    }


_EVENT: Final[dict[str, Any]] = {
    "event_name": required(text(100)),
    "identifier": text(IDENTIFIER_CHARACTERS_MAX),
    "payload": required(strings()),
    "timestamp": moment(),
}
_IDENTIFIER: Final = {"identifier": required(text(IDENTIFIER_CHARACTERS_MAX))}
_CANCEL: Final[dict[str, Any]] = {
    "cancel": required(obj(_IDENTIFIER)),
    "event_name": required(text(100)),
    "type": required(enum("cancel")),
}

ROUTES: Final = [
    Route(
        "POST",
        "/v1/billing/meter_event_adjustments",
        _cancel_v1,
        {**_CANCEL, "cancel": obj({"identifier": text(IDENTIFIER_CHARACTERS_MAX)})},
    ),
    Route("POST", "/v2/billing/meter_event_adjustments", _cancel_v2, _CANCEL),
    Route("POST", "/v2/billing/meter_event_session", _session),
    Route("POST", STREAM, _stream, {"events": required(array(obj(_EVENT), STREAM_EVENTS_MAX))}),
    Route("POST", "/v2/billing/meter_events", _create, _EVENT),
]
