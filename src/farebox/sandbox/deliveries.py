"""Deliveries of events to webhook endpoints and event destinations: queued, signed, tried again with a growing pause.

Receivers are served side by side, each in the order in which its events came to be.
"""

import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

from farebox.sandbox.decimals import encode
from farebox.sandbox.delivery_faults import DeliveryFaults
from farebox.sandbox.state import State, StripeObject, visible

__all__ = [
    "DELIVERIES_KEPT",
    "DELIVERY_THREADS_MAX",
    "HELD_MILLISECONDS",
    "PACES",
    "RETRY_FOR_MILLISECONDS",
    "RETRY_MILLISECONDS_MAX",
    "Deliverer",
    "Send",
    "asked_for",
    "body_of_event",
    "pending_of",
    "queue",
    "signature",
]

RETRY_MILLISECONDS_MAX: Final = 3_600_000
RETRY_FOR_MILLISECONDS: Final = 3 * 86_400_000
DELIVERIES_KEPT: Final = 2_000
DELIVERY_THREADS_MAX: Final = 8
HELD_MILLISECONDS: Final = 3_000  # an event that is to come out of order waits no longer for the one that overtakes it
PACES: Final = ("fast", "stripe")
_COPY: Final = "duplicated"  # the second of two
_MINUTE_MS: Final = 60_000
_STRIPES_PAUSES_MS: Final = tuple(minutes * _MINUTE_MS for minutes in (5, 30, 120, 300, 600, 720))

Send = Callable[[str, dict[str, str], bytes], int | None]  # url, headers, body → status, or None without an answer


def asked_for(receiver: StripeObject, type: str) -> bool:
    """Whether this endpoint or destination is on and has asked for this type of event."""
    names = receiver["enabled_events"]
    return receiver["status"] == "enabled" and ("*" in names or type in names)


def queue(
    state: State, event: StripeObject, receivers: Iterable[StripeObject], now_ms: int, faults: DeliveryFaults | None
) -> list[StripeObject]:
    """Queue the event for each of the receivers, troubled as `faults` say."""
    queued = []
    for receiver in receivers:
        fault = faults.next(event["type"], receiver["id"]) if faults is not None else None
        kind = fault.kind if fault is not None else None
        delivery = _new(state, event, receiver, now_ms, kind)
        queued.append(delivery)
        if kind == "drop":
            delivery.update(state="lost")
            continue
        if fault is not None and kind == "delay":
            delivery["due_ms"] += fault.delay_ms
        if kind == "reorder":
            delivery["due_ms"] += HELD_MILLISECONDS
        _wait(state, delivery)
        if kind == "duplicate":
            _wait(state, _new(state, event, receiver, now_ms, _COPY))
        held = state.held.pop(receiver["id"], None)
        if held is not None and held["id"] in state.pending:  # overtaken: now it may go
            del state.pending[held["id"]]
            held["due_ms"] = min(held["due_ms"], delivery["due_ms"])
            state.pending[held["id"]] = held
        if kind == "reorder":
            state.held[receiver["id"]] = delivery
    if "pending_webhooks" in event:
        event["pending_webhooks"] += sum(delivery["state"] == "pending" for delivery in queued)
    return queued


def _new(state: State, event: StripeObject, receiver: StripeObject, now_ms: int, fault: str | None) -> StripeObject:
    state.delivery_number += 1
    delivery = {
        "id": state.delivery_number,
        "event": event["id"],
        "type": event["type"],
        "object": _object_id(event),
        "endpoint": receiver["id"],
        "url": _url(receiver),
        "state": "pending",
        "fault": fault,
        "attempts": 0,
        "status": None,
        "due_ms": now_ms,
        "first_ms": now_ms,
    }
    state.deliveries.append(delivery)
    while len(state.deliveries) > DELIVERIES_KEPT:
        state.deliveries.popleft()
    return delivery


def _object_id(event: StripeObject) -> str:
    if event["object"] == "event":
        return str(event["data"]["object"].get("id", ""))
    return str((event.get("related_object") or {}).get("id", ""))


def _url(receiver: StripeObject) -> str:
    return str(receiver["url"] if receiver["object"] == "webhook_endpoint" else receiver["_url"])


def _wait(state: State, delivery: StripeObject) -> None:
    state.pending[delivery["id"]] = delivery
    name = f"{delivery['type']} {delivery['object']}"
    state.awaited[name] = state.awaited.get(name, 0) + 1


def _settled(state: State, delivery: StripeObject, how: str) -> None:
    delivery["state"] = how
    if state.pending.pop(delivery["id"], None) is None:
        return
    name = f"{delivery['type']} {delivery['object']}"
    state.awaited[name] -= 1
    if not state.awaited[name]:
        del state.awaited[name]


def pending_of(state: State, type: str, object_id: str) -> bool:
    """Whether some receiver has not acknowledged an event of this type about this object yet."""
    return f"{type} {object_id}" in state.awaited


class Deliverer:
    """Attempts what is due. Its lock is the sandbox's, and is not held while sending."""

    def __init__(self, lock: Any, *, now_ms: Callable[[], int], now_at: Callable[[], int]) -> None:
        self._lock = lock
        self._now_ms = now_ms
        self._now_at = now_at
        self._busy: set[tuple[str, str]] = set()
        self.pace = "fast"

    def due(self, state: State) -> list[StripeObject]:
        now_ms = self._now_ms()
        with self._lock:
            return [delivery for delivery in state.pending.values() if delivery["due_ms"] <= now_ms]

    def attempt_all(self, states: Iterable[State], send: Send, concluded: Callable[[State, str], None]) -> int:
        """Attempt what is due, one after another. Returns how many were attempted."""
        work = [(state, delivery) for state in states for delivery in self.due(state)]
        for state, delivery in work:
            self._attempt(state, delivery, send, concluded)
        return len(work)

    def start(self, states: Iterable[State], send: Send, concluded: Callable[[State, str], None]) -> None:
        """Attempt what is due on threads of its own, one for each receiver: a slow one delays no other."""
        for state in states:
            batches: dict[str, list[StripeObject]] = {}
            for delivery in self.due(state):
                batches.setdefault(delivery["endpoint"], []).append(delivery)
            for endpoint, batch in batches.items():
                with self._lock:
                    if (state.account_id, endpoint) in self._busy or len(self._busy) >= DELIVERY_THREADS_MAX:
                        continue
                    self._busy.add((state.account_id, endpoint))
                arguments = (state, endpoint, batch, send, concluded)
                threading.Thread(target=self._serve, args=arguments, name="local-stripe-post", daemon=True).start()

    def _serve(
        self,
        state: State,
        endpoint: str,
        batch: list[StripeObject],
        send: Send,
        concluded: Callable[[State, str], None],
    ) -> None:
        try:
            for delivery in batch:
                self._attempt(state, delivery, send, concluded)
        finally:
            with self._lock:
                self._busy.discard((state.account_id, endpoint))

    def _attempt(
        self, state: State, delivery: StripeObject, send: Send, concluded: Callable[[State, str], None]
    ) -> None:
        with self._lock:
            receiver = state.objects["webhook_endpoint"].get(delivery["endpoint"])
            receiver = receiver or state.objects["v2.core.event_destination"].get(delivery["endpoint"])
            if delivery["id"] not in state.pending:
                return
            if receiver is None or receiver["status"] == "disabled":
                _settled(state, delivery, "dropped")
                concluded(state, delivery["object"])
                return
            event = state.objects["event"].get(delivery["event"]) or state.objects["v2.core.event"][delivery["event"]]
            body = body_of_event(event, receiver)
            headers = {
                "Content-Type": "application/json; charset=utf-8",
                "Stripe-Signature": signature(receiver["_signing"], body, self._now_at()),
                "User-Agent": "local-stripe/1 (+a stand-in, not Stripe)",
            }
            url = _url(receiver)
        status = send(url, headers, body)
        with self._lock:
            self._conclude(state, delivery, event, status)
            concluded(state, delivery["object"])

    def _conclude(self, state: State, delivery: StripeObject, event: StripeObject, status: int | None) -> None:
        now_ms = self._now_ms()
        delivery["attempts"] += 1
        delivery["status"] = status
        if status is not None and 200 <= status < 300:
            _settled(state, delivery, "delivered")
            if "pending_webhooks" in event and delivery["fault"] != _COPY:
                event["pending_webhooks"] -= 1
        elif now_ms - delivery["first_ms"] > RETRY_FOR_MILLISECONDS:
            _settled(state, delivery, "failed")
        else:
            delivery["due_ms"] = now_ms + self._pause_ms(delivery["attempts"])

    def _pause_ms(self, attempts: int) -> int:
        """Seconds for people who wait at their own machine; or as long as Stripe's own, up to half a day."""
        if self.pace == "stripe":
            return _STRIPES_PAUSES_MS[min(attempts, len(_STRIPES_PAUSES_MS)) - 1]
        return min(1_000 << min(attempts - 1, 12), RETRY_MILLISECONDS_MAX)


def body_of_event(event: StripeObject, receiver: StripeObject | None = None) -> bytes:
    """A snapshot in the version that its receiver is pinned to; of a thin event, what it says without its data."""
    if event["object"] == "event":
        pinned = (receiver or {}).get("api_version") or (receiver or {}).get("snapshot_api_version")
        told = {**event, "api_version": pinned or event["api_version"]}
    else:
        told = {name: value for name, value in visible(event).items() if name not in ("data", "changes")}
    return json.dumps(told, default=encode, separators=(",", ":")).encode()


def signature(secret: str, body: bytes, at: int) -> str:
    """The Stripe-Signature header over the raw body."""
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"
