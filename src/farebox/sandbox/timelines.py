"""Whose time a request is in: the account's own, or the test clock's by which the objects live that it names."""

from collections.abc import Mapping
from typing import Any, Final

from farebox.sandbox.errors import StripeError, invalid, missing_object
from farebox.sandbox.state import State, StripeObject

__all__ = [
    "CLOCK",
    "CLOCK_CUSTOMERS_MAX",
    "CLOCK_SUBSCRIPTIONS_MAX",
    "asked_clock",
    "check_room",
    "joined_clock",
    "refuse_while_advancing",
    "time_of",
]

CLOCK: Final = "test_helpers.test_clock"
CLOCK_CUSTOMERS_MAX: Final = 3
CLOCK_SUBSCRIPTIONS_MAX: Final = 3  # of each of its customers
_USAGE: Final = ("/v1/billing/meter_events", "/v1/billing/meter_event_adjustments", "/v2/")


def asked_clock(state: State, ids: Mapping[str, str], params: Mapping[str, Any]) -> StripeObject | None:
    """The test clock of the objects that a request names in its path, its parameters, or a meter event's payload."""
    if not state.objects[CLOCK]:
        return None
    payload = params.get("payload")
    for value in (*ids.values(), *params.values(), *(payload.values() if isinstance(payload, dict) else ())):
        thing = state.find(value) if isinstance(value, str) else None
        if thing is not None:
            clock = thing if thing["object"] == CLOCK else state.objects[CLOCK].get(state.timeline(thing))
            if clock is not None:
                return clock
    return None


def time_of(state: State, thing: StripeObject | None) -> int | None:
    """Where the test clock stands by which an object lives; None for the account's own time."""
    if thing is None:
        return None
    clock = thing if thing["object"] == CLOCK else state.objects[CLOCK].get(state.timeline(thing))
    return int(clock["_now_at"]) if clock is not None else None


def refuse_while_advancing(clock: StripeObject | None, method: str, path: str) -> None:
    """While a test clock advances, Stripe changes nothing that lives by it. Usage is taken: it belongs to no object."""
    if clock is None or clock["status"] != "advancing" or method == "GET" or path.startswith(_USAGE):
        return
    message = f"Test clock advancement underway - cannot perform modifications: {clock['id']}"
    raise StripeError(429, "invalid_request_error", message, code="lock_timeout")


def joined_clock(state: State, id: str, param: str = "test_clock") -> StripeObject:
    """The test clock that one more customer is to live by."""
    clock = state.objects[CLOCK].get(id)
    if clock is None:
        raise missing_object("test clock", id, param, status=400)
    own = sum(c.get("test_clock") == id and not c.get("deleted") for c in state.objects["customer"].values())
    if own >= CLOCK_CUSTOMERS_MAX:
        raise invalid(f"A test clock can have at most {CLOCK_CUSTOMERS_MAX} customers.", param=param)
    return clock


def check_room(state: State, customer: StripeObject) -> None:
    """Refuse one more subscription of a customer whose test clock has no room for it."""
    if not customer["test_clock"]:
        return
    own = [s for s in state.of_customer("subscription", customer["id"]) if s["ended_at"] is None]
    if len(own) >= CLOCK_SUBSCRIPTIONS_MAX:
        message = f"A customer of a test clock can have at most {CLOCK_SUBSCRIPTIONS_MAX} subscriptions."
        raise invalid(message, param="customer")
