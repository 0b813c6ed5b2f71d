"""The control API of events: the log, sending again, and deliveries that are lost, doubled, reordered or late."""

import json
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from farebox.sandbox.decimals import encode
from farebox.sandbox.deliveries import PACES, queue
from farebox.sandbox.sandbox import Sandbox
from farebox.sandbox.state import State, StripeObject, visible

__all__ = ["EVENTS_SHOWN_MAX", "event_routes"]

EVENTS_SHOWN_MAX: Final = 1_000
_KINDS: Final = ("event", "v2.core.event")


def event_routes(sandbox: Sandbox) -> list[BaseRoute]:
    """The routes, for the shell to serve beside the API."""
    control = _Events(sandbox)
    return [
        Route("/_sandbox/deliveries", control.deliveries),
        Route("/_sandbox/deliveries/faults", control.faults, methods=["GET", "POST", "DELETE"]),
        Route("/_sandbox/deliveries/retries", control.retries, methods=["GET", "POST"]),
        Route("/_sandbox/events", control.events),
        Route("/_sandbox/events/{id}/resend", control.resend, methods=["POST"]),
    ]


class _Events:
    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def deliveries(self, request: Request) -> Response:
        wanted = {name: request.query_params.get(name) for name in ("type", "state", "endpoint", "event")}
        with self._sandbox.lock:
            found = [dict(each) for state in self._sandbox.accounts.values() for each in _logged(state)]
        shown = [d for d in found if all(value in (None, d[name]) for name, value in wanted.items())]
        return JSONResponse({"deliveries": shown})

    async def faults(self, request: Request) -> Response:
        faults = self._sandbox.delivery_faults
        if request.method == "DELETE":
            faults.clear()
        elif request.method == "POST":
            try:
                faults.add(await _asked(request))
            except ValueError as error:
                return _refusal(str(error))
        return JSONResponse({"faults": faults.listed()})

    async def retries(self, request: Request) -> Response:
        if request.method == "POST":
            try:
                pace = (await _asked(request)).get("pace")
            except ValueError as error:
                return _refusal(str(error))
            if pace not in PACES:
                return _refusal(f"pace is one of {', '.join(PACES)}")
            self._sandbox.deliverer.pace = pace
        return JSONResponse({"pace": self._sandbox.deliverer.pace})

    async def events(self, request: Request) -> Response:
        """The newest first, of both kinds, each with what became of its deliveries."""
        asked = request.query_params
        limit = asked.get("limit", "100")
        if not (limit.isascii() and limit.isdecimal() and 1 <= int(limit[:9]) <= EVENTS_SHOWN_MAX):
            return _refusal(f"limit is a whole number from 1 to {EVENTS_SHOWN_MAX}")
        with self._sandbox.lock:
            found = [
                (event["created"] if kind == "event" else event["_at"], state, event)
                for state in self._sandbox.accounts.values()
                if asked.get("account") in (None, state.account_id)
                for kind in _KINDS
                for event in state.all(kind)
                if asked.get("type") in (None, event["type"]) and asked.get("object") in (None, _about(event))
            ]
            found.sort(key=lambda entry: entry[0])
            shown = [
                {"account": state.account_id, "event": visible(event), "deliveries": _deliveries(state, event)}
                for _, state, event in found[: -int(limit) - 1 : -1]
            ]
            return Response(json.dumps({"events": shown}, default=encode), media_type="application/json")

    async def resend(self, request: Request) -> Response:
        """Deliver an event again: to all that ask for it now, or to one by name whatever it asks for."""
        try:
            endpoint = (await _asked(request)).get("endpoint")
        except ValueError as error:
            return _refusal(str(error))
        with self._sandbox.lock:
            for state in self._sandbox.accounts.values():
                event = next((e for k in _KINDS if (e := state.objects[k].get(request.path_params["id"]))), None)
                if event is None:
                    continue
                receivers = self._sandbox.receivers_of(state, event, endpoint)
                if endpoint is not None and not receivers:
                    return _refusal("There is no such endpoint, or it takes no events of this kind.", 404)
                queued = queue(state, event, receivers, self._sandbox.clock.system_ms(), None)
                return JSONResponse({"deliveries": [dict(each) for each in queued]})
        return _refusal("There is no such event.", 404)


def _logged(state: State) -> list[StripeObject]:
    """The log, after those that wait for longer than it reaches back."""
    first = state.deliveries[0]["id"] if state.deliveries else 0
    return [d for d in state.pending.values() if d["id"] < first] + list(state.deliveries)


def _deliveries(state: State, event: StripeObject) -> list[dict[str, Any]]:
    names = ("endpoint", "url", "state", "attempts", "status", "fault")
    return [{name: d[name] for name in names} for d in _logged(state) if d["event"] == event["id"]]


def _about(event: StripeObject) -> str | None:
    thing = event["data"]["object"] if event["object"] == "event" else event.get("related_object", {})
    found: str | None = thing.get("id")
    return found


async def _asked(request: Request) -> dict[str, Any]:
    """The JSON object that was sent, or nothing. ValueError for anything else."""
    if not await request.body():
        return {}
    try:
        found = await request.json()
    except RecursionError:
        found = None
    if not isinstance(found, dict):
        raise ValueError("send a JSON object")
    return found


def _refusal(message: str, status: int = 400) -> Response:
    return JSONResponse({"error": {"message": message}}, status)
