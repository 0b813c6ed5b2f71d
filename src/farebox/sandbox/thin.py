"""Thin events and the destinations that they are told to: what happened to which object, without a snapshot of it."""

from typing import Any, Final

from farebox.sandbox.core import Context, Route
from farebox.sandbox.deliveries import asked_for, queue
from farebox.sandbox.errors import StripeError, not_modelled
from farebox.sandbox.event_types import SNAPSHOT_TYPES, THIN_TYPES
from farebox.sandbox.params import array, enum, obj, required, text
from farebox.sandbox.state import API_VERSION, State, StripeObject
from farebox.sandbox.v2 import moment, moment_text, page_v2, refused, strings, whole
from farebox.sandbox.webhooks import ENDPOINTS_MAX, check_address, check_types

__all__ = ["ROUTES", "emit_thin", "mirrored", "wanted_by"]

_DESTINATION: Final = "v2.core.event_destination"
_EVENT: Final = "v2.core.event"
_SECRET: Final = "webhook_endpoint.signing_secret"
_URL: Final = "webhook_endpoint.url"
_PATHS: Final = {
    "billing.meter": "billing/meters",
    "billing_portal.configuration": "billing_portal/configurations",
    "billing_portal.session": "billing_portal/sessions",
    "checkout.session": "checkout/sessions",
    "test_helpers.test_clock": "test_helpers/test_clocks",
}


def emit_thin(
    ctx: Context,
    type: str,
    thing: StripeObject | None,
    data: StripeObject | None = None,
    *,
    snapshot: str | None = None,
    cause: StripeObject | None = None,
) -> StripeObject:
    """Record a thin event and queue its deliveries."""
    event: StripeObject = {
        "id": ctx.new_id("evt_test_"),
        "object": _EVENT,
        "changes": None,
        "context": None,
        "created": moment_text(ctx.now_at),
        "data": data,
        "livemode": False,
        "reason": None,
        "related_object": _related(thing),
        "snapshot_event": snapshot,
        "type": type,
        "_at": ctx.now_at,
    }
    if cause is not None and cause["id"] is not None:
        event["reason"] = {"type": "request", "request": {**cause, "idempotency_key": cause["idempotency_key"] or ""}}
    for name in ("data", "related_object", "snapshot_event"):
        if event[name] is None:
            del event[name]
    ctx.state.add(event)
    ctx.sandbox.publish(ctx.state, event)
    return event


def _related(thing: StripeObject | None) -> StripeObject | None:
    if thing is None:
        return None
    kind = thing["object"]
    return {"id": thing["id"], "type": kind, "url": f"/v1/{_PATHS.get(kind, kind + 's')}/{thing['id']}"}


def wanted_by(state: State, type: str) -> list[StripeObject]:
    """The destinations of thin events that are on and have asked for this type."""
    return [d for d in state.all(_DESTINATION) if d["event_payload"] == "thin" and asked_for(d, type)]


def mirrored(type: str) -> str | None:
    """The thin event that stands beside a snapshot event, if Stripe has one."""
    return f"v1.{type}" if f"v1.{type}" in THIN_TYPES else None


def _create(ctx: Context) -> StripeObject:
    p = ctx.params
    if p["type"] != "webhook_endpoint":
        raise not_modelled(f"event destinations of type {p['type']}")
    if p.get("events_from", ["@self"]) != ["@self"]:
        raise not_modelled("events of other accounts")
    if "webhook_endpoint" not in p:
        raise refused("parameter_missing", "Missing required param: webhook_endpoint.")
    check_address(p["webhook_endpoint"]["url"])
    thin = p["event_payload"] == "thin"
    check_types(p["enabled_events"], THIN_TYPES if thin else SNAPSHOT_TYPES, "enabled_events")
    if thin and ("*" in p["enabled_events"] or "snapshot_api_version" in p):
        raise refused("invalid_parameter", "Thin events are asked for by name, and have no snapshot_api_version.")
    if len(ctx.state.objects[_DESTINATION]) >= ENDPOINTS_MAX:
        raise refused("limit_reached", f"You have reached the maximum of {ENDPOINTS_MAX} event destinations.")
    now = moment_text(ctx.now_at)
    destination = {
        "id": ctx.new_id("ed_test_"),
        "object": _DESTINATION,
        "created": now,
        "description": p.get("description", ""),
        "enabled_events": p["enabled_events"],
        "event_payload": p["event_payload"],
        "events_from": ["@self"],
        "livemode": False,
        "metadata": p.get("metadata", {}),
        "name": p["name"],
        "snapshot_api_version": None if thin else p.get("snapshot_api_version", API_VERSION),
        "status": "enabled",
        "status_details": None,
        "type": "webhook_endpoint",
        "updated": now,
        "_url": p["webhook_endpoint"]["url"],
        "_signing": ctx.new_id("whsec_") + ctx.new_id("")[:8],
    }
    return _shown(ctx, ctx.state.add(destination))


def _shown(ctx: Context, destination: StripeObject) -> StripeObject:
    """What is secret, or where it is, is told only to who asks for it."""
    asked = ctx.params.get("include", [])
    address = {
        "signing_secret": destination["_signing"] if _SECRET in asked else None,
        "url": destination["_url"] if _URL in asked else None,
    }
    return {**destination, "webhook_endpoint": address}


def _found(ctx: Context, kind: str = _DESTINATION) -> StripeObject:
    found = ctx.state.objects[kind].get(ctx.path["id"])
    if found is None:
        raise StripeError(404, "invalid_request_error", f"No such {kind}: '{ctx.path['id']}'", code="not_found")
    return found


def _update(ctx: Context) -> StripeObject:
    destination, p = _found(ctx), ctx.params
    if "webhook_endpoint" in p:
        check_address(p["webhook_endpoint"]["url"])
    if "enabled_events" in p:
        thin = destination["event_payload"] == "thin"
        check_types(p["enabled_events"], THIN_TYPES if thin else SNAPSHOT_TYPES, "enabled_events")
        if thin and "*" in p["enabled_events"]:
            raise refused("invalid_parameter", "Thin events are asked for by name.")
    if "webhook_endpoint" in p:
        destination["_url"] = p["webhook_endpoint"]["url"]
    if "metadata" in p:
        kept = {**destination["metadata"], **p["metadata"]}
        destination["metadata"] = {name: value for name, value in kept.items() if value is not None}
    destination.update({name: p[name] for name in ("description", "enabled_events", "name") if name in p})
    destination["updated"] = moment_text(ctx.now_at)
    return _shown(ctx, destination)


def _switch(ctx: Context, *, on: bool) -> StripeObject:
    destination = _found(ctx)
    destination["status"] = "enabled" if on else "disabled"
    destination["status_details"] = None if on else {"disabled": {"reason": "user"}}
    destination["updated"] = moment_text(ctx.now_at)
    return _shown(ctx, destination)


def _delete(ctx: Context) -> StripeObject:
    destination = _found(ctx)
    del ctx.state.objects[_DESTINATION][destination["id"]]
    return {"id": destination["id"], "object": _DESTINATION}


def _ping(ctx: Context) -> StripeObject:
    """Tell this destination alone that it is there."""
    destination = _found(ctx)
    if destination["event_payload"] != "thin":
        raise not_modelled("pings of destinations for snapshots")
    event = {
        "id": ctx.new_id("evt_test_"),
        "object": _EVENT,
        "changes": None,
        "context": None,
        "created": moment_text(ctx.now_at),
        "livemode": False,
        "reason": {"type": "request", "request": {"id": ctx.request_id, "idempotency_key": ctx.idempotency_key or ""}},
        "related_object": {
            "id": destination["id"],
            "type": _DESTINATION,
            "url": f"/v2/core/event_destinations/{destination['id']}",
        },
        "type": "v2.core.event_destination.ping",
        "_at": ctx.now_at,
    }
    ctx.state.add(event)
    queue(ctx.state, event, [destination], ctx.sandbox.clock.system_ms(), None)
    return event


def _destinations(ctx: Context) -> StripeObject:
    shown = [_shown(ctx, destination) for destination in ctx.state.all(_DESTINATION)]
    return page_v2(ctx.params, shown, "/v2/core/event_destinations")


def _events(ctx: Context) -> StripeObject:
    p = ctx.params
    created = p.get("created", {})
    found = [
        event
        for event in ctx.state.all(_EVENT)
        if p.get("object_id") in (None, event.get("related_object", {}).get("id"))
        and ("types" not in p or event["type"] in p["types"])
        and created.get("gte", 0) <= event["_at"] <= created.get("lte", event["_at"])
        and created.get("gt", -1) < event["_at"] < created.get("lt", event["_at"] + 1)
    ]
    return page_v2(p, found, "/v2/core/events")


_PAGE: Final = {"limit": whole(1, 100), "page": text(100)}
_INCLUDE: Final = array(enum(_SECRET, _URL))
_INCLUDE_URL: Final = array(enum(_URL))
_ADDRESS: Final = obj({"url": required(text())})
_CHANGE: Final[dict[str, Any]] = {
    "description": text(empty=True),
    "enabled_events": array(text()),
    "include": _INCLUDE_URL,
    "metadata": strings(unset=True),
    "name": text(250),
    "webhook_endpoint": _ADDRESS,
}
_CREATE: Final[dict[str, Any]] = {
    **_CHANGE,
    "enabled_events": required(array(text())),
    "event_payload": required(enum("snapshot", "thin")),
    "events_from": array(text()),
    "include": _INCLUDE,
    "metadata": strings(),
    "name": required(text(250)),
    "snapshot_api_version": text(40),
    "type": required(enum("amazon_eventbridge", "azure_event_grid", "webhook_endpoint")),
}
_CREATED: Final = obj({name: moment() for name in ("gt", "gte", "lt", "lte")})
_ONE: Final = "/v2/core/event_destinations/{id}"

ROUTES: Final = [
    Route("POST", "/v2/core/event_destinations", _create, _CREATE),
    Route("GET", "/v2/core/event_destinations", _destinations, {"include": _INCLUDE_URL, **_PAGE}),
    Route("GET", _ONE, lambda ctx: _shown(ctx, _found(ctx)), {"include": _INCLUDE_URL}),
    Route("POST", _ONE, _update, _CHANGE),
    Route("DELETE", _ONE, _delete),
    Route("POST", f"{_ONE}/disable", lambda ctx: _switch(ctx, on=False)),
    Route("POST", f"{_ONE}/enable", lambda ctx: _switch(ctx, on=True)),
    Route("POST", f"{_ONE}/ping", _ping),
    Route(
        "GET",
        "/v2/core/events",
        _events,
        {"created": _CREATED, "object_id": text(), "types": array(text(), 20), **_PAGE},
    ),
    Route("GET", "/v2/core/events/{id}", lambda ctx: _found(ctx, _EVENT)),
]
