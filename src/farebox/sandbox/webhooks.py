"""Webhook endpoints and events: signed, delivered at least once in no promised order, retried with a growing pause."""

import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

from farebox.sandbox.catalog import merged_metadata
from farebox.sandbox.core import Context, Route, page
from farebox.sandbox.decimals import encode
from farebox.sandbox.errors import invalid
from farebox.sandbox.params import array, boolean, integer, metadata, obj, required, text
from farebox.sandbox.state import API_VERSION, State, StripeObject, visible

__all__ = [
    "DELIVERIES_KEPT",
    "RETRY_FOR_MILLISECONDS",
    "RETRY_MILLISECONDS_MAX",
    "ROUTES",
    "Send",
    "deliver_due",
    "pending_of",
    "queue_event",
    "signature",
]

RETRY_MILLISECONDS_MAX: Final = 3_600_000
RETRY_FOR_MILLISECONDS: Final = 3 * 86_400_000
DELIVERIES_KEPT: Final = 2_000

Send = Callable[[str, dict[str, str], bytes], int | None]  # url, headers, body → status, or None without an answer


def _create(ctx: Context) -> StripeObject:
    p = ctx.params
    _check_address(p["url"])
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


def _check_address(url: str) -> None:
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
        _check_address(p["url"])
    if "disabled" in p:
        endpoint["status"] = "disabled" if p.pop("disabled") else "enabled"
    if "metadata" in p:
        endpoint["metadata"] = merged_metadata(endpoint["metadata"], p.pop("metadata"))
    endpoint.update(p)
    return endpoint


def _delete(ctx: Context) -> StripeObject:
    endpoint = ctx.state.get("webhook_endpoint", ctx.path["id"])
    del ctx.state.objects["webhook_endpoint"][endpoint["id"]]
    return {"id": endpoint["id"], "object": "webhook_endpoint", "deleted": True}


def _events(ctx: Context) -> StripeObject:
    p = ctx.params
    created = p.get("created", {})
    found = [
        event
        for event in ctx.state.all("event")
        if p.get("type") in (None, event["type"])
        and ("types" not in p or event["type"] in p["types"])
        and created.get("gte", 0) <= event["created"] <= created.get("lte", event["created"])
        and created.get("gt", -1) < event["created"] < created.get("lt", event["created"] + 1)
    ]
    return page(ctx, found, "/v1/events")


def queue_event(
    state: State,
    id: str,
    at: int,
    type: str,
    thing: StripeObject,
    previous: StripeObject | None,
    cause: StripeObject,
    due_ms: int,
) -> StripeObject:
    """Record an event with a snapshot of its object, and queue a delivery to each endpoint that asked for its type."""
    data: StripeObject = {"object": visible(thing)}
    if previous is not None:
        data["previous_attributes"] = visible(previous)
    wanted = [
        endpoint
        for endpoint in state.all("webhook_endpoint")
        if endpoint["status"] == "enabled" and ("*" in endpoint["enabled_events"] or type in endpoint["enabled_events"])
    ]
    event = {
        "id": id,
        "object": "event",
        "api_version": API_VERSION,
        "created": at,
        "data": data,
        "livemode": False,
        "pending_webhooks": len(wanted),
        "request": cause,
        "type": type,
    }
    state.add(event)
    for endpoint in wanted:
        state.deliveries.append(
            {
                "event": id,
                "type": type,
                "endpoint": endpoint["id"],
                "url": endpoint["url"],
                "state": "pending",
                "attempts": 0,
                "status": None,
                "due_ms": due_ms,
                "first_ms": due_ms,
            }
        )
    _forget_old(state)
    return event


def _forget_old(state: State) -> None:
    if len(state.deliveries) > DELIVERIES_KEPT:
        done = [d for d in state.deliveries if d["state"] != "pending"][: len(state.deliveries) - DELIVERIES_KEPT]
        for delivery in done:
            state.deliveries.remove(delivery)


def pending_of(state: State, type: str, object_id: str) -> bool:
    """Whether some endpoint has not acknowledged an event of this type about this object yet."""
    events = state.objects["event"]
    return any(
        d["state"] == "pending" and d["type"] == type and events[d["event"]]["data"]["object"]["id"] == object_id
        for d in state.deliveries
    )


def deliver_due(state: State, send: Send, *, now_ms: int, now_at: int, lock: Any) -> int:
    """Attempt each delivery that is due, without holding the lock while sending. Returns how many were attempted."""
    with lock:
        due = [d for d in state.deliveries if d["state"] == "pending" and d["due_ms"] <= now_ms]
    for delivery in due:
        with lock:
            endpoint = state.objects["webhook_endpoint"].get(delivery["endpoint"])
            event = state.objects["event"][delivery["event"]]
            if endpoint is None or endpoint["status"] == "disabled":
                delivery["state"] = "dropped"
                continue
            pinned = {**event, "api_version": endpoint["api_version"]}
            body = json.dumps(pinned, default=encode, separators=(",", ":")).encode()
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "Stripe-Signature": signature(endpoint["_signing"], body, now_at),
            "User-Agent": "local-stripe/1 (+a stand-in, not Stripe)",
        }
        status = send(endpoint["url"], headers, body)
        with lock:
            _conclude(delivery, event, status, now_ms)
    return len(due)


def _conclude(delivery: StripeObject, event: StripeObject, status: int | None, now_ms: int) -> None:
    delivery["attempts"] += 1
    delivery["status"] = status
    if status is not None and 200 <= status < 300:
        delivery["state"] = "delivered"
        event["pending_webhooks"] -= 1
    elif now_ms - delivery["first_ms"] > RETRY_FOR_MILLISECONDS:
        delivery["state"] = "failed"
    else:
        delivery["due_ms"] = now_ms + min(1_000 << min(delivery["attempts"] - 1, 12), RETRY_MILLISECONDS_MAX)


def signature(secret: str, body: bytes, at: int) -> str:
    """The Stripe-Signature header over the raw body."""
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


_ENDPOINT: Final = {
    "url": required(text()),
    "enabled_events": required(array(text())),
    "api_version": text(),
    "description": text(),
    "metadata": metadata(),
}
_CHANGE: Final = {
    "url": text(),
    "enabled_events": array(text()),
    "description": text(empty=True),
    "metadata": metadata(),
    "disabled": boolean(),
}
_CREATED: Final = obj({name: integer() for name in ("gt", "gte", "lt", "lte")})

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
        {"type": text(), "types": array(text(), 20), "created": _CREATED},
        paged=True,
    ),
    Route("GET", "/v1/events/{id}", lambda ctx: ctx.state.get("event", ctx.path["id"])),
]
