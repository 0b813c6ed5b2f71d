"""Webhook endpoints and the events that they are told of."""

import re
from typing import Any, Final
from urllib.parse import urlsplit

from farebox.sandbox.catalog import merged_metadata
from farebox.sandbox.core import Context, Route, page
from farebox.sandbox.deliveries import asked_for, queue
from farebox.sandbox.delivery_faults import DeliveryFaults
from farebox.sandbox.errors import invalid
from farebox.sandbox.event_types import SNAPSHOT_TYPES
from farebox.sandbox.forms import Form
from farebox.sandbox.params import Field, array, boolean, integer, metadata, obj, required, text
from farebox.sandbox.snapshots import Snapshot
from farebox.sandbox.state import API_VERSION, State, StripeObject, visible

__all__ = ["ENDPOINTS_MAX", "ROUTES", "check_address", "check_types", "queue_event", "receivers_of"]

ENDPOINTS_MAX: Final = 16
_VERSION: Final = re.compile(r"20\d\d-\d\d-\d\d(\.[a-z]+)?")


def _create(ctx: Context) -> StripeObject:
    p = ctx.params
    check_address(p["url"])
    if len(ctx.state.objects["webhook_endpoint"]) >= ENDPOINTS_MAX:
        raise invalid(f"You have reached the maximum of {ENDPOINTS_MAX} test webhook endpoints.")
    endpoint = {
        "id": ctx.new_id("we_"),
        "object": "webhook_endpoint",
        "api_version": p.get("api_version", API_VERSION),
        "application": None,
        "created": ctx.now_at,
        "description": p.get("description"),
        "enabled_events": p["enabled_events"],
        "livemode": False,
        "metadata": merged_metadata({}, p.get("metadata")),
        "status": "enabled",
        "url": p["url"],
        "_signing": ctx.new_id("whsec_") + ctx.new_id("")[:8],
    }
    ctx.state.add(endpoint)
    return {**endpoint, "secret": endpoint["_signing"]}  # told once


def check_address(url: str) -> None:
    try:
        address = urlsplit(url)
        whole = address.scheme in ("http", "https") and address.hostname is not None and address.port != 0
    except ValueError:  # a port that is no number, a bracket without its other
        whole = False
    if not whole:
        raise invalid(
            "Invalid URL: a host and an explicit scheme (such as https) must be provided.",
            param="url",
            code="url_invalid",
        )


def _update(ctx: Context) -> StripeObject:
    endpoint = ctx.state.get("webhook_endpoint", ctx.path["id"])
    p = ctx.params
    if "url" in p:
        check_address(p["url"])
    if "disabled" in p:
        endpoint["status"] = "disabled" if p.pop("disabled") else "enabled"
    if "metadata" in p:
        endpoint["metadata"] = merged_metadata(endpoint["metadata"], p.pop("metadata"))
    if "description" in p:
        p["description"] = p["description"] or None
    endpoint.update(p)
    return endpoint


def _delete(ctx: Context) -> StripeObject:
    endpoint = ctx.state.get("webhook_endpoint", ctx.path["id"])
    del ctx.state.objects["webhook_endpoint"][endpoint["id"]]
    return {"id": endpoint["id"], "object": "webhook_endpoint", "deleted": True}


def _events(ctx: Context) -> StripeObject:
    p = ctx.params
    created = p.get("created", {})
    delivered = p.get("delivery_success")
    found = [
        event
        for event in ctx.state.all("event")
        if p.get("type") in (None, event["type"])
        and ("types" not in p or event["type"] in p["types"])
        and created.get("gte", 0) <= event["created"] <= created.get("lte", event["created"])
        and created.get("gt", -1) < event["created"] < created.get("lt", event["created"] + 1)
        and delivered in (None, event["pending_webhooks"] == 0)
    ]
    return page(ctx, found, "/v1/events")


def check_types(names: list[str], known: frozenset[str], param: str) -> None:
    """Refuse types of events that Stripe does not have."""
    for i, name in enumerate(names):
        if name != "*" and name not in known:
            message = f"Invalid {param}[{i}]: '{name[:100]}' is no type of event that can be asked for here"
            raise invalid(message, param=f"{param}[{i}]")


def _types() -> Field:
    def convert(value: Form, path: str) -> list[str]:
        names: list[str] = array(text()).convert(value, path)
        if not names:
            raise invalid(f"You must pass at least one type of event in {path}.", param=path)
        check_types(names, SNAPSHOT_TYPES, path)
        return names

    return Field(convert)


def _version() -> Field:
    def convert(value: Form, path: str) -> str:
        if not isinstance(value, str) or _VERSION.fullmatch(value) is None:
            raise invalid(f"Invalid {path}: it must be one of Stripe's API versions, such as {API_VERSION}", param=path)
        return value

    return Field(convert)


def _moment() -> Field:
    """An instant, or the bounds of a span of time."""
    bounds = obj({name: integer() for name in ("gt", "gte", "lt", "lte")})

    def convert(value: Form, path: str) -> dict[str, int]:
        if isinstance(value, str):
            at: int = integer().convert(value, path)
            return {"gte": at, "lte": at}
        found: dict[str, int] = bounds.convert(value, path)
        return found

    return Field(convert)


def receivers_of(state: State, type: str) -> list[StripeObject]:
    """The endpoints, and the event destinations for snapshots, that are on and have asked for this type."""
    snapshots = [d for d in state.all("v2.core.event_destination") if d["event_payload"] == "snapshot"]
    return [each for each in (*state.all("webhook_endpoint"), *snapshots) if asked_for(each, type)]


def queue_event(
    state: State,
    id: str,
    at: int,
    type: str,
    thing: StripeObject,
    previous: StripeObject | None,
    cause: StripeObject,
    due_ms: int,
    faults: DeliveryFaults | None = None,
) -> StripeObject:
    """Record an event with a snapshot of its object, and queue a delivery to each endpoint that asked for its type."""
    data: StripeObject = {"object": Snapshot.of(visible(thing))}
    if previous is not None:
        data["previous_attributes"] = visible(previous)
    event = {
        "id": id,
        "object": "event",
        "api_version": API_VERSION,
        "created": at,
        "data": data,
        "livemode": False,
        "pending_webhooks": 0,
        "request": cause,
        "type": type,
    }
    state.add(event)
    queue(state, event, receivers_of(state, type), due_ms, faults)
    return event


_ENDPOINT: Final[dict[str, Any]] = {
    "url": required(text()),
    "enabled_events": required(_types()),
    "api_version": _version(),
    "description": text(),
    "metadata": metadata(),
}
_CHANGE: Final = {
    "url": text(),
    "enabled_events": _types(),
    "description": text(empty=True),
    "metadata": metadata(),
    "disabled": boolean(),
}

ROUTES: Final = [
    Route("POST", "/v1/webhook_endpoints", _create, _ENDPOINT),
    Route(
        "GET",
        "/v1/webhook_endpoints",
        lambda ctx: page(ctx, ctx.state.all("webhook_endpoint"), "/v1/webhook_endpoints"),
        paged=True,
    ),
    Route("GET", "/v1/webhook_endpoints/{id}", lambda ctx: ctx.state.get("webhook_endpoint", ctx.path["id"])),
    Route("POST", "/v1/webhook_endpoints/{id}", _update, _CHANGE),
    Route("DELETE", "/v1/webhook_endpoints/{id}", _delete),
    Route(
        "GET",
        "/v1/events",
        _events,
        {"type": text(), "types": array(text(), 20), "created": _moment(), "delivery_success": boolean()},
        paged=True,
    ),
    Route("GET", "/v1/events/{id}", lambda ctx: ctx.state.get("event", ctx.path["id"])),
]
