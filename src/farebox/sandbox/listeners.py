"""Who listens with the official CLI: its sessions, and the messages that wait for their sockets."""

import hashlib
import json
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from farebox.sandbox.deliveries import body_of_event, signature
from farebox.sandbox.state import API_VERSION, State, StripeObject

__all__ = ["LISTENERS_MAX", "LISTENER_MESSAGES_MAX", "Listener", "Listeners", "secret_of"]

LISTENERS_MAX: Final = 32
LISTENER_MESSAGES_MAX: Final = 1_000


@dataclass(slots=True)
class Listener:
    """One session of `stripe listen`. `wake` is set while its socket is open."""

    id: str
    account_id: str
    features: frozenset[str]
    forwards_to: str
    messages: deque[tuple[str, Callable[[], None]]] = field(  # each with what is to be done when it is sent
        default_factory=lambda: deque(maxlen=LISTENER_MESSAGES_MAX)
    )
    sent: dict[str, StripeObject] = field(default_factory=dict)  # by conversation: what the log says of it
    wake: Callable[[], None] | None = None


class Listeners:
    """Thread-safe. An event is told once and never again, as Stripe's own CLI gets it."""

    def __init__(self) -> None:
        self._listeners: dict[str, Listener] = {}
        self._lock = threading.Lock()

    def open(self, id: str, account_id: str, features: Iterable[str], forwards_to: str) -> None:
        """Begin a session. Too many, and the oldest ends."""
        with self._lock:
            self._listeners[id] = Listener(id, account_id, frozenset(features), forwards_to)
            while len(self._listeners) > LISTENERS_MAX:
                del self._listeners[next(iter(self._listeners))]

    def find(self, id: str) -> Listener | None:
        with self._lock:
            return self._listeners.get(id)

    def of(self, state: State, feature: str) -> list[Listener]:
        with self._lock:
            return [
                listener
                for listener in self._listeners.values()
                if listener.account_id == state.account_id and feature in listener.features
            ]

    def tell(self, state: State, event: StripeObject, now_at: int) -> None:
        """Send the event to all who listen to the account for events of its kind."""
        snapshot = event["object"] == "event"
        for listener in self.of(state, "webhooks" if snapshot else "v2_events"):
            body = body_of_event(event).decode()
            headers = {
                "Content-Type": "application/json; charset=utf-8",
                "Stripe-Signature": signature(secret_of(state.account_id), body.encode(), now_at),
                "User-Agent": "local-stripe/1 (+a stand-in, not Stripe)",
            }
            state.delivery_number += 1
            number = f"wc_{state.delivery_number}"
            listener.sent[number] = entry = _entry(state, event, listener)
            while len(listener.sent) > LISTENER_MESSAGES_MAX:
                del listener.sent[next(iter(listener.sent))]
            if snapshot:
                message = {
                    "type": "webhook_event",
                    "endpoint": {"api_version": None},
                    "event_payload": body,
                    "http_headers": headers,
                    "webhook_conversation_id": number,
                    "webhook_id": event["id"],
                }
                latest = {**message, "endpoint": {"api_version": API_VERSION}}  # what `--latest` waits for
                messages = [message, latest]
            else:
                messages = [
                    {"type": "v2_event", "payload": body, "http_headers": headers, "destination_id": listener.id}
                ]
            listener.messages.extend((json.dumps(each), partial(_log, state, entry)) for each in messages)
            if listener.wake is not None:
                listener.wake()


def _entry(state: State, event: StripeObject, listener: Listener) -> StripeObject:
    return {
        "id": state.delivery_number,
        "event": event["id"],
        "type": event["type"],
        "endpoint": "stripe listen",
        "url": listener.forwards_to,
        "state": "told",
        "fault": None,
        "attempts": 0,
        "status": None,
    }


def _log(state: State, entry: StripeObject) -> None:
    """The message is on its way: the log shows it, once."""
    if not entry["attempts"]:
        entry["attempts"] = 1
        state.deliveries.append(entry)


def secret_of(account_id: str) -> str:
    """What the CLI prints, and signs with: the same for an account each time."""
    return "whsec_" + hashlib.sha256(f"stripe listen {account_id}".encode()).hexdigest()
