"""A window on the sandbox to debug with: what it holds, what was asked of it, what it told, and how that connects."""

import json
from collections.abc import Iterator
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from farebox.sandbox.decimals import encode
from farebox.sandbox.frame import Frame, see_other
from farebox.sandbox.markup import heading, made_at
from farebox.sandbox.movement import MOVE_SECONDS_MAX
from farebox.sandbox.requestlog import parameters
from farebox.sandbox.state import State, StripeObject, visible

__all__ = ["FOUND_MAX", "SCANNED_MAX", "SHOWN_MAX", "viewer_routes"]

SHOWN_MAX: Final = 50
FOUND_MAX: Final = 50
SCANNED_MAX: Final = 5_000  # the newest objects of each kind are looked through, no more
_GLIMPSE: Final = 8
_EVENTS: Final = ("event", "v2.core.event")


def viewer_routes(frame: Frame) -> list[BaseRoute]:
    viewer = _Viewer(frame)
    return [
        Route("/", viewer.home),
        Route("/objects", viewer.kinds),
        Route("/objects/of/{kind}", viewer.kind),
        Route("/objects/{id}", viewer.thing),
        Route("/events", viewer.events),
        Route("/events/{id}", viewer.event),
        Route("/requests", viewer.requests),
        Route("/requests/{id}", viewer.request),
        Route("/search", viewer.search),
    ]


class _Viewer:
    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._sandbox = frame.sandbox

    def _page(self, name: str, here: str, **values: Any) -> Response:
        accounts = list(self._sandbox.accounts)
        return self._frame.page(name, here=here, accounts=accounts, base_url=self._sandbox.base_url, **values)

    def _states(self, request: Request) -> list[State]:
        """All accounts, or the one that was chosen."""
        chosen = request.query_params.get("account", "")
        found = self._sandbox.accounts.get(chosen)
        return [found] if found is not None else list(self._sandbox.accounts.values())

    async def home(self, _request: Request) -> Response:
        sandbox, movement = self._sandbox, self._frame.movement
        with sandbox.lock:
            states = list(sandbox.accounts.values())
            now = sandbox.clock.now_at()
            return self._page(
                "home.html",
                "home",
                now=now,
                offset=sandbox.clock.offset_seconds,
                moving=movement.moving,
                next_period_at=sandbox.next_draft_at(now + MOVE_SECONDS_MAX),
                states=[_overview(state) for state in states],
                test_clocks=_newest(_all(states, "test_helpers.test_clock", _GLIMPSE), "created"),
                requests=_newest(((state, entry) for state in states for entry in state.requests[-_GLIMPSE:]), "at"),
                events=_newest(_all(states, "event", _GLIMPSE), "created"),
                faults=sandbox.faults.listed() + sandbox.delivery_faults.listed(),
                lag=sandbox.aggregation_lag_seconds,
                deliveries=_deliveries(states)[:_GLIMPSE],
            )

    async def kinds(self, request: Request) -> Response:
        with self._sandbox.lock:
            states = self._states(request)
            counts: dict[str, int] = {}
            for state in states:
                for kind, things in state.objects.items():
                    counts[kind] = counts.get(kind, 0) + len(things)
            found = sorted(((kind, count) for kind, count in counts.items() if count), key=lambda k: heading(k[0]))
            return self._page("kinds.html", "objects", kinds=found, chosen=request.query_params.get("account", ""))

    async def kind(self, request: Request) -> Response:
        kind = request.path_params["kind"]
        with self._sandbox.lock:
            states = self._states(request)
            shown = _newest(_all(states, kind, SHOWN_MAX), "created", SHOWN_MAX)
            count = sum(len(state.objects.get(kind, ())) for state in states)
            chosen = request.query_params.get("account", "")
            return self._page("kind.html", "objects", kind=kind, things=shown, count=count, chosen=chosen)

    async def thing(self, request: Request) -> Response:
        id = request.path_params["id"]
        with self._sandbox.lock:
            found = self._frame.find_any(id)
            if found is None:
                return self._frame.message("Nothing has this id", f"There is no {id} here (any more).", back="/objects")
            state, thing = found
            if thing["object"] in _EVENTS:
                return see_other(f"/events/{id}")
            return self._page(
                "object.html",
                "objects",
                thing=thing,
                shown=visible(thing),
                account=state.account_id,
                mentions=list(_mentions(state, id))[:FOUND_MAX],
                events=[e for e in _last(state, "event") if _object_of(e) == id][:SHOWN_MAX],
                requests=[r for r in reversed(state.requests) if id in r["path"]][:_GLIMPSE],
            )

    async def events(self, request: Request) -> Response:
        wanted = request.query_params.get("type", "").strip()
        with self._sandbox.lock:
            states = self._states(request)
            pairs = [pair for kind in _EVENTS for pair in _all(states, kind, SCANNED_MAX) if wanted in pair[1]["type"]]
            shown = _newest(iter(pairs), "created", SHOWN_MAX)
            told = {entry["event"]: entry for entry in reversed(_deliveries(states))}
            chosen = request.query_params.get("account", "")
            return self._page(
                "events.html", "events", events=shown, type=wanted, told=told, count=len(pairs), chosen=chosen
            )

    async def event(self, request: Request) -> Response:
        id = request.path_params["id"]
        found = self._frame.find("event", id) or self._frame.find("v2.core.event", id)
        if found is None:
            return self._frame.message("No such event", f"There is no event {id} here (any more).", back="/events")
        state, event = found
        with self._sandbox.lock:
            receivers = [
                *state.objects["webhook_endpoint"].values(),
                *state.objects["v2.core.event_destination"].values(),
            ]
            return self._page(
                "event.html",
                "events",
                event=event,
                shown=visible(event),
                object_id=_object_of(event),
                account=state.account_id,
                deliveries=[entry for entry in state.deliveries if entry["event"] == id],
                receivers=receivers,
            )

    async def requests(self, request: Request) -> Response:
        refused = request.query_params.get("only") == "refused"
        wanted = request.query_params.get("path", "").strip()
        with self._sandbox.lock:
            pairs = [
                (state, entry)
                for state in self._states(request)
                for entry in state.requests
                if wanted in entry["path"] and (not refused or entry["error"] is not None)
            ]
            shown = _newest(iter(pairs), "at", SHOWN_MAX)
            chosen = request.query_params.get("account", "")
            return self._page(
                "requests.html",
                "requests",
                requests=shown,
                refused=refused,
                path=wanted,
                count=len(pairs),
                chosen=chosen,
            )

    async def request(self, request: Request) -> Response:
        id = request.path_params["id"]
        found = self._frame.find_request(id)
        if found is None:
            text = f"There is no request {id} here (any more): only the last ones of each account are kept."
            return self._frame.message("No such request", text, back="/requests")
        state, entry = found
        with self._sandbox.lock:
            return self._page(
                "request.html",
                "requests",
                entry=entry,
                params=parameters(entry),
                answer=_json_or_text(entry["_answer"]),
                account=state.account_id,
                events=[e for e in _last(state, "event") if (e.get("request") or {}).get("id") == id][:SHOWN_MAX],
            )

    async def search(self, request: Request) -> Response:
        wanted = request.query_params.get("q", "").strip()
        target = self._frame.link(wanted)
        if target is not None:
            return see_other(target)
        with self._sandbox.lock:
            found = list(_matches(list(self._sandbox.accounts.values()), wanted)) if wanted else []
            return self._page("search.html", "search", q=wanted, things=found)


def _overview(state: State) -> dict[str, Any]:
    counts = [(kind, len(things)) for kind, things in state.objects.items() if things]
    refused = sum(entry["error"] is not None for entry in state.requests)
    return {"id": state.account_id, "counts": counts, "requests": len(state.requests), "refused": refused}


def _last(state: State, kind: str, count: int = SCANNED_MAX) -> list[StripeObject]:
    """The newest objects of a kind, the newest first, without touching the others."""
    things = state.objects.get(kind, {})
    return [thing for thing, _ in zip(reversed(things.values()), range(count), strict=False)]


def _all(states: list[State], kind: str, count: int) -> Iterator[tuple[State, StripeObject]]:
    return ((state, thing) for state in states for thing in _last(state, kind, count))


def _newest(
    pairs: Iterator[tuple[State, StripeObject]], by: str, count: int = _GLIMPSE
) -> list[tuple[str, StripeObject]]:
    """The newest of several accounts, each with its account's id. What is of one second stays in its order."""
    every = [(state.account_id, thing) for state, thing in pairs]
    if by == "at":
        every.reverse()
    return sorted(every, key=lambda pair: made_at(pair[1], by), reverse=True)[:count]


def _deliveries(states: list[State]) -> list[StripeObject]:
    """Of all accounts, the newest first."""
    every = [entry for state in states for entry in state.deliveries]
    return sorted(every, key=lambda entry: (entry["first_ms"], entry["id"]), reverse=True)


def _object_of(event: StripeObject) -> str:
    inside = event["data"]["object"] if event["object"] == "event" else event.get("related_object") or {}
    return str(inside.get("id", ""))


def _mentions(state: State, id: str) -> Iterator[StripeObject]:
    """Objects that name this one, other than events."""
    quoted = f'"{id}"'
    for kind in state.objects:
        if kind in _EVENTS:
            continue
        for thing in _last(state, kind):
            if thing["id"] != id and quoted in json.dumps(visible(thing), default=encode):
                yield thing


def _matches(states: list[State], wanted: str) -> Iterator[StripeObject]:
    """Objects in which some value holds the text, in whatever case: ids of their parts too, but no names of fields."""
    low = wanted.casefold()
    found = 0
    for state in states:
        for kind in state.objects:
            for thing in _last(state, kind) if kind not in _EVENTS else ():
                if any(low in text.casefold() for text in _texts(visible(thing))):
                    yield thing
                    found += 1
                    if found >= FOUND_MAX:
                        return


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _texts(entry)


def _json_or_text(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode("utf-8", "replace")
