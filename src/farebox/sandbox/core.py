"""The synchronous heart: one request in, one answer out, under one lock. No HTTP, no threads of its own, no wall time.

Authentication, idempotency, faults, expansion and the error shape live here; what a route does, in its module.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

from farebox.sandbox.auth import STREAM, account_of_session, checked_key
from farebox.sandbox.clock import SandboxClock
from farebox.sandbox.decimals import encode
from farebox.sandbox.errors import StripeError, not_modelled
from farebox.sandbox.expansion import expanded
from farebox.sandbox.faults import Faults, Reset
from farebox.sandbox.forms import Form, decode
from farebox.sandbox.ids import Ids
from farebox.sandbox.inflight import InFlight, key_in_use, lock_timeout
from farebox.sandbox.listeners import Listeners
from farebox.sandbox.params import Field, array, check, integer, text
from farebox.sandbox.paths import compiled, is_stripes
from farebox.sandbox.ratelimits import Limits, refused_for
from farebox.sandbox.rehearsal import rehearsed
from farebox.sandbox.requestlog import remember
from farebox.sandbox.shelf import Watch
from farebox.sandbox.state import API_VERSION, State, StripeObject
from farebox.sandbox.timelines import asked_clock, refuse_while_advancing, time_of
from farebox.sandbox.v2 import body_of, error_of, is_v2

__all__ = [
    "IDEMPOTENCY_KEY_CHARACTERS_MAX",
    "PAGE_ITEMS_MAX",
    "Answer",
    "Context",
    "Route",
    "SandboxCore",
    "page",
]

PAGE_ITEMS_MAX: Final = 100
IDEMPOTENCY_KEY_CHARACTERS_MAX: Final = 255
_METER_EVENTS: Final = ("/v1/billing/meter_events", "/v2/billing/meter_events")
_CLOCKS: Final = "/v1/test_helpers/test_clocks"
_PUSHED: Final = "stripe-request-trigger"  # the SDK fetches what an event notification is about
_BY_HAND: Final = ("curl/", "HTTPie/", "Wget/", "Mozilla/")  # who reads the answer as it comes
_EXPAND: Final = {"expand": array(text(), 20)}
_PAGING: Final = {"limit": integer(1, PAGE_ITEMS_MAX), "starting_after": text(), "ending_before": text()}


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Context:
    """What a route's function gets: the account, the checked parameters, the path's ids, and the sandbox around it."""

    sandbox: "SandboxCore"
    state: State
    params: dict[str, Any]
    path: dict[str, str]
    request_id: str = ""
    idempotency_key: str | None = None

    @property
    def now_at(self) -> int:
        """The time in which this happens: the account's own, or a test clock's where the request names its objects."""
        return self.sandbox.now_at

    @property
    def account_now_at(self) -> int:
        """The account's own time, whatever test clock the objects at hand live by."""
        return self.sandbox.clock.now_at()

    def now_of(self, thing: StripeObject) -> int:
        """The time in which an object lives, for work on many objects at once."""
        at = time_of(self.state, thing)
        return at if at is not None else self.account_now_at

    def new_id(self, prefix: str) -> str:
        return self.sandbox.ids.new(prefix)

    def emit(self, type: str, thing: StripeObject, previous: StripeObject | None = None) -> None:
        """Record an event of this account and queue its deliveries."""
        cause = {"id": self.request_id or None, "idempotency_key": self.idempotency_key}
        self.state.touch(thing)
        self.sandbox.emit(self.state, type, thing, previous, cause)


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    template: str
    run: Callable[[Context], StripeObject]
    spec: Mapping[str, Field] = field(default_factory=dict)
    paged: bool = False


@dataclass(frozen=True, slots=True)
class _Request:
    """One API request whose path is known. `key` is its Idempotency-Key, which counts on POST only."""

    state: State
    route: Route
    path: str
    ids: dict[str, str]
    given: Mapping[str, Form]
    id: str
    key: str | None
    fingerprint: str
    for_people: bool

    @property
    def one_key(self) -> tuple[str, str] | None:
        return (self.state.account_id, self.key) if self.key is not None and self.route.method == "POST" else None

    @property
    def one_meter(self) -> tuple[str, ...] | None:
        """The customer and meter of a meter event: Stripe takes one at a time for both."""
        payload = self.given.get("payload")
        if self.path not in _METER_EVENTS or not isinstance(payload, dict):
            return None
        return self.state.account_id, str(self.given.get("event_name")), str(payload.get("stripe_customer_id"))


class SandboxCore:
    """All accounts, one clock. Subclassed by Sandbox, which knows the routes and what happens when time passes."""

    def __init__(self, routes: list[Route], clock: SandboxClock, ids: Ids) -> None:
        self.clock = clock
        self.ids = ids
        self.faults = Faults(ids)
        self.listeners = Listeners()
        self.lock = threading.RLock()
        self.accounts: dict[str, State] = {}
        self.aggregation_lag_seconds = 0
        self.after_retries = "canceled"  # or unpaid, past_due: what a subscription becomes that could not be paid
        self.grace_seconds = 3_600  # how long a draft that advances by itself stays one
        self.late_validation = False  # whether a meter event's customer and value are looked at by aggregation only
        self.base_url = "http://127.0.0.1:8001"
        self._routes = [(route, compiled(route.template)) for route in routes]
        self._exact = {(r.method, r.template): r for r in reversed(routes) if "{" not in r.template}
        self._instant: int | None = None
        self._quiet_until = 0  # nothing falls due by itself before this; 0 when that must be worked out again
        self.limits = Limits(clock.system_ms)
        self.watch = Watch()
        self._in_flight = InFlight()

    @property
    def now_at(self) -> int:
        """Stripe's time; while the past is being worked off, the instant that is being worked off."""
        return self._instant if self._instant is not None else self.clock.now_at()

    @property
    def is_quiet(self) -> bool:
        """Whether a request would be answered at once: no time to work off first, no fault, nothing that waits."""
        return not self.faults.any and not self.limits.in_flight_ms and self.clock.now_at() < self._quiet_until

    @contextmanager
    def standing_at(self, at: int | None) -> Iterator[None]:
        """Under the lock: Stripe's time stands at this instant for what is done inside. None changes nothing."""
        before, self._instant = self._instant, at if at is not None else self._instant
        try:
            yield
        finally:
            self._instant = before

    def emit(
        self, state: State, type: str, thing: StripeObject, previous: StripeObject | None, cause: StripeObject
    ) -> None:
        raise NotImplementedError

    def publish(self, state: State, event: StripeObject) -> None:
        """Queue a thin event's deliveries."""
        raise NotImplementedError

    def tick(self) -> None:
        raise NotImplementedError

    def reschedule(self) -> None:
        """Something changed that may move what falls due next."""
        self._quiet_until = 0

    def request(self, method: str, url: str, headers: Mapping[str, str], body: bytes = b"") -> Answer:
        """Serve one API request. Thread-safe. Raises only Reset, when a fault asks for a broken connection."""
        sent = {name.lower(): value for name, value in headers.items()}
        request_id = self.ids.new("req_")
        path, _, query = url.partition("?")
        state: State | None = None
        try:
            state = self._account(sent, path)
            route, ids = self._route(method, path)
            given = {**decode(query.encode()), **(body_of(body) if is_v2(path) else decode(body))}
            if method == "GET" and _PUSHED in sent:
                given.pop("usage", None)  # a note of the SDK's to itself, which its asynchronous calls send along
            key = sent.get("idempotency-key")
            for_people, print_ = sent.get("user-agent", "").startswith(_BY_HAND), _fingerprint(path, body)
            answer = self._answer(_Request(state, route, path, ids, given, request_id, key, print_, for_people))
        except StripeError as error:
            answer = Answer(error.status, error.headers, json.dumps(error_of(path, error), indent=2).encode())
        except Reset:
            self._remember(state, (method, request_id, url, body, sent), None)
            raise
        self._remember(state, (method, request_id, url, body, sent), answer)
        headers_out = {"Content-Type": "application/json", "Request-Id": request_id, "Stripe-Version": API_VERSION}
        return Answer(answer.status, {**headers_out, **answer.headers}, answer.body)

    def _account(self, sent: Mapping[str, str], path: str) -> State:
        """The account that a request's key opens, or its session's token."""
        if path == STREAM:
            return account_of_session(sent, self.accounts, self.clock.now_at())
        id = State.id_of(checked_key(sent))
        with self.lock:
            return self.accounts.get(id) or self.accounts.setdefault(id, State(id))

    def _route(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        exact = self._exact.get((method, path))
        if exact is not None:
            return exact, {}
        for route, pattern in self._routes:
            found = pattern.fullmatch(path)
            if found is not None and route.method == method:
                return route, {name: unquote(value) for name, value in found.groupdict().items()}
        if is_stripes(method, path):
            raise not_modelled(f"{method} {path}")
        raise StripeError(
            404,
            "invalid_request_error",
            f"Unrecognized request URL ({method}: {path}). Please see https://stripe.com/docs for the API's paths.",
        )

    def _answer(self, request: _Request) -> Answer:
        """One request for each idempotency key, one meter event for each customer and meter; faults; then the work."""
        self.limits.check(request.state.account_id, request.route.method, request.path)
        one_at_a_time = self._in_flight.alone
        with one_at_a_time(request.one_key, key_in_use), one_at_a_time(request.one_meter, lock_timeout):
            if self.limits.in_flight_ms and request.one_meter is not None:
                self.clock.sleep_ms(self.limits.in_flight_ms)
            saved = self._saved(request)
            fault = self.faults.next(request.route.method, request.path)
            if fault is not None:
                self.clock.sleep_ms(fault.latency_ms)
                if fault.reset == "before":
                    raise Reset
            if saved is not None:
                answer = saved
            elif fault is not None and fault.status is not None:
                answer = self._trouble(request, fault.status, fault.reason)
            else:
                answer = self._dispatch(request)
            if fault is not None and fault.reset == "after":
                raise Reset
            return answer

    def _saved(self, request: _Request) -> Answer | None:
        """The answer that the request's idempotency key has got already."""
        if request.one_key is None:
            return None
        _, key = request.one_key
        if len(key) > IDEMPOTENCY_KEY_CHARACTERS_MAX:
            raise StripeError(400, "idempotency_error", "Idempotency keys have at most 255 characters.")
        with self.lock:
            request.state.forget(self.now_at)
            saved = request.state.saved_answers.get(key)
        if saved is None:
            return None
        fingerprint, status, body = saved
        if fingerprint != request.fingerprint:
            raise StripeError(
                400,
                "idempotency_error",
                "Keys for idempotent requests can only be used with the same parameters they were first used "
                f"with. Try using a key other than '{key}' if you meant to execute a different request.",
            )
        return Answer(status, {"Idempotent-Replayed": "true"}, body)

    def _save(self, request: _Request, status: int, body: bytes) -> None:
        if request.one_key is not None:
            _, key = request.one_key
            request.state.save_answer(key, (request.fingerprint, status, body), self.clock.now_at())

    def _trouble(self, request: _Request, status: int, reason: str | None) -> Answer:
        """What a fault answers instead of the work."""
        said = f"The local Stripe was asked to answer {status} here."
        limited = status == 429
        error = refused_for(said, request.path, reason) if limited else StripeError(status, "api_error", said)
        content = json.dumps(error_of(request.path, error)).encode()
        if status >= 500:
            with self.lock:
                self._save(request, status, content)
        return Answer(status, error.headers, content)

    def _dispatch(self, request: _Request) -> Answer:
        """Check the parameters, then do the work. Only what the work answers is saved under the idempotency key."""
        route, state = request.route, request.state
        spec = {**route.spec, **({} if is_v2(request.path) else _EXPAND), **(_PAGING if route.paged else {})}
        with self.lock:
            self.tick()
            state.forget(self.now_at)
            params = check(request.given, spec)
            paths = params.pop("expand", [])
            clock = asked_clock(state, request.ids, params)
            refuse_while_advancing(clock, route.method, request.path)
            with self.standing_at(time_of(state, clock) if not request.path.startswith(_CLOCKS) else None):
                if paths and route.method != "GET":
                    self._rehearse(request, dict(params), paths)
                result = self._work(request, params)
            indent = 2 if request.for_people else None  # which takes longer than all else
            content = json.dumps(expanded(state, result, paths), indent=indent, default=encode).encode()
            self._save(request, 200, content)
            return Answer(200, {}, content)

    def _work(self, request: _Request, params: dict[str, Any]) -> StripeObject:
        state = request.state
        reads = request.route.method == "GET"
        try:
            with self.watch.off() if reads else nullcontext():
                result = request.route.run(Context(self, state, params, request.ids, request.id, request.key))
        except StripeError as error:
            if not is_v2(request.path):  # there a refused request may be sent again under its key
                self._save(request, error.status, json.dumps(error.body()).encode())
            raise
        finally:
            if not reads and request.path not in _METER_EVENTS:
                state.due.touch(*request.ids.values())
                self.reschedule()
        if not reads:
            state.touch(result)
        return result

    def _rehearse(self, request: _Request, params: dict[str, Any], paths: list[str]) -> None:
        """Only the object shows what of it can be expanded: make it on a copy, so that a refusal changes nothing."""
        state = rehearsed(request.state)
        try:
            result = request.route.run(Context(self, state, params, request.ids, request.id, request.key))
        except StripeError:
            return  # the work itself will refuse
        expanded(state, result, paths)

    def _remember(
        self, state: State | None, asked: tuple[str, str, str, bytes, Mapping[str, str]], answer: Answer | None
    ) -> None:
        if state is not None:
            with self.lock:
                remember(state, *asked, self.now_at, (answer.status, answer.body) if answer is not None else None)


def page(ctx: Context, things: list[StripeObject], url: str) -> StripeObject:
    """One page of a list, newest first, with Stripe's cursors."""
    things = list(reversed(things))
    limit = ctx.params.get("limit", 10)
    ids = [thing["id"] for thing in things]
    for name in ("starting_after", "ending_before"):
        if name in ctx.params and ctx.params[name] not in ids:
            raise StripeError(400, "invalid_request_error", f"No such object: '{ctx.params[name]}'", param=name)
    if "starting_after" in ctx.params:
        things = things[ids.index(ctx.params["starting_after"]) + 1 :]
        data, more = things[:limit], len(things) > limit
    elif "ending_before" in ctx.params:
        things = things[: ids.index(ctx.params["ending_before"])]
        data, more = things[-limit:], len(things) > limit
    else:
        data, more = things[:limit], len(things) > limit
    return {"object": "list", "data": data, "has_more": more, "url": url}


def _fingerprint(path: str, body: bytes) -> str:
    return hashlib.sha256(path.encode() + b"\0" + body).hexdigest()
