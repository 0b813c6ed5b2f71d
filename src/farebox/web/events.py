"""POST /events: usage from anywhere over HTTP, by the operator for any account and, where the seller says so, by a key
for its own. Each event is answered by itself: a bad one never loses the others.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from fastapi import Depends, FastAPI, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer

from farebox.domain.usage import KeySender, Recorded, UsageEvent
from farebox.errors import AccountUnknown, InputInvalid
from farebox.web import models
from farebox.web.limits import RateLimit, bounded_body
from farebox.web.operator import Operator

__all__ = ["EVENTS_BODY_BYTES_MAX", "EVENTS_MAX", "Events", "add_event_routes"]

EVENTS_MAX: Final = 1_000
EVENTS_BODY_BYTES_MAX: Final = 262_144
_NEEDED: Final = ("id", "meter", "quantity")
_FIELDS: Final = frozenset((*_NEEDED, "at", "account"))
_EVENT: Final = {
    "type": "object",
    "required": list(_NEEDED),
    "description": "id: text, once for each account. meter: a meter's name. quantity: a whole number, zero or more. "
    "at: when it was used, in Unix seconds, up to 34 days ago; now, if left out. account: its id; the key's own, if "
    "left out. What is wrong with an event is said in its result.",
    "example": {"id": "job-17", "meter": "calls", "quantity": 120},
}
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "anyOf": [
                        _EVENT,
                        {
                            "type": "object",
                            "required": ["events"],
                            "properties": {"events": {"type": "array", "minItems": 1, "maxItems": EVENTS_MAX}},
                        },
                    ]
                }
            }
        },
    }
}


@dataclass(frozen=True, slots=True)
class Events:
    """What the route works with. `entitle` gives the key that may record, or raises; `record_many` takes that key,
    or None for the operator."""

    entitle: Callable[[Request], Awaitable[KeySender]]
    operator: Operator
    record_many: Callable[[list[UsageEvent], KeySender | None], Awaitable[list[Recorded]]]
    limit: RateLimit


def add_event_routes(app: FastAPI, events: Events) -> None:
    """The one route."""
    bearer: Any = Security(HTTPBearer(auto_error=False))
    header: Any = Security(APIKeyHeader(name="X-API-Key", auto_error=False))

    async def sender(request: Request, _bearer: Any = bearer, _header: Any = header) -> KeySender | None:
        """The key that sends, or None for the operator."""
        if events.operator.admits(request):
            return None
        key = await events.entitle(request)
        events.limit.take(key.account_id)
        return key

    sent_by: Any = Depends(sender)

    @app.post("/events", openapi_extra=_BODY)
    async def record(request: Request, key: Any = sent_by) -> models.EventsAnswer:
        """Record usage from outside a call: one event, or many as `{"events": […]}`. Durable when answered."""
        asked = _read(await bounded_body(request, EVENTS_BODY_BYTES_MAX))
        own = key.account_id if key is not None else None
        results: list[Recorded | None] = []
        good: list[UsageEvent] = []
        for document in asked:
            try:
                good.append(_event(document, own))
                results.append(None)
            except (InputInvalid, AccountUnknown) as error:
                results.append(Recorded(_shown(document), "rejected", error.code, error.detail))
        made = iter(await events.record_many(good, key))
        return models.EventsAnswer(results=[_answer(next(made) if result is None else result) for result in results])


def _read(body: bytes) -> list[Any]:
    """The events in the body. InputInvalid when it cannot be read as one or many."""
    try:
        found = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise InputInvalid("The body is not JSON.") from None
    if not isinstance(found, dict):
        raise InputInvalid('The body must be a JSON object: one event, or {"events": [event, …]}.')
    if "events" not in found:
        missing = [name for name in _NEEDED if name not in found]
        if missing:
            raise InputInvalid(f'An event needs {", ".join(missing)}. For many events send {{"events": [event, …]}}.')
        return [found]
    listed = found["events"]
    if len(found) > 1 or not isinstance(listed, list) or not 0 < len(listed) <= EVENTS_MAX:
        raise InputInvalid(f"events: must be a list of 1 to {EVENTS_MAX} events, with nothing beside it.")
    return listed


def _event(document: Any, own: str | None) -> UsageEvent:
    """The event as it was sent, of whatever kind its values are: they are checked where they are recorded."""
    if not isinstance(document, dict):
        raise InputInvalid("An event must be a JSON object.")
    missing = [name for name in _NEEDED if name not in document]
    if missing:
        raise InputInvalid(f"An event needs {', '.join(missing)}.")
    if not document.keys() <= _FIELDS:
        raise InputInvalid("An event has no other fields than id, meter, quantity, at and account.")
    account = own if document.get("account") is None else document["account"]
    if account is None:
        raise InputInvalid("account: is required from the operator.")
    if own is not None and account != own:
        raise AccountUnknown("A key records usage of its own account only. Leave account out.")
    return UsageEvent(account, document["meter"], document["quantity"], document["id"], document.get("at"))


def _shown(document: Any) -> str:
    found = document.get("id") if isinstance(document, dict) else None
    return found if isinstance(found, str) else ""


def _answer(result: Recorded) -> models.EventResult:
    id = result.id if isinstance(result.id, str) and result.id.isprintable() and result.id else None
    return models.EventResult(
        id=id[:200] if id is not None else None,
        status=result.status,
        code=result.code or None,
        detail=result.detail or None,
    )
