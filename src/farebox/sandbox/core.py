"""The synchronous heart: one request in, one answer out, under one lock. No HTTP, no threads of its own, no wall time.

Authentication, idempotency, faults, expansion and the error shape live here; what a route does, in its module.
"""

import base64
import copy
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

from farebox.sandbox.clock import SandboxClock
from farebox.sandbox.decimals import encode
from farebox.sandbox.errors import StripeError, not_modelled
from farebox.sandbox.faults import Faults, Reset
from farebox.sandbox.forms import Form, decode
from farebox.sandbox.ids import Ids
from farebox.sandbox.params import Field, array, check, integer, text
from farebox.sandbox.paths import compiled, is_stripes
from farebox.sandbox.state import API_VERSION, State, StripeObject, visible

__all__ = [
    "IDEMPOTENCY_KEY_CHARACTERS_MAX",
    "PAGE_ITEMS_MAX",
    "REQUESTS_KEPT",
    "Answer",
    "Context",
    "Route",
    "SandboxCore",
    "page",
]

PAGE_ITEMS_MAX: Final = 100
REQUESTS_KEPT: Final = 500
IDEMPOTENCY_KEY_CHARACTERS_MAX: Final = 255
_METER_EVENTS: Final = "/v1/billing/meter_events"
_OLDEST_VERSION: Final = "2025-03-31"
_PAGING: Final = {"limit": integer(1, PAGE_ITEMS_MAX), "starting_after": text(), "ending_before": text()}
_LIVE: Final = ("sk_live_", "rk_live_")
_TEST: Final = ("sk_test_", "rk_test_")


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
        return self.sandbox.now_at

    def new_id(self, prefix: str) -> str:
        return self.sandbox.ids.new(prefix)

    def emit(self, type: str, thing: StripeObject, previous: StripeObject | None = None) -> None:
        """Record an event of this account and queue its deliveries."""
        cause = {"id": self.request_id or None, "idempotency_key": self.idempotency_key}
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

    @property
    def one_key(self) -> tuple[str, str] | None:
        return (self.state.account_id, self.key) if self.key is not None and self.route.method == "POST" else None

    @property
    def one_meter(self) -> tuple[str, ...] | None:
        """The customer and meter of a meter event: Stripe takes one at a time for both."""
        payload = self.given.get("payload")
        if self.path != _METER_EVENTS or not isinstance(payload, dict):
            return None
        return self.state.account_id, str(self.given.get("event_name")), str(payload.get("stripe_customer_id"))


class SandboxCore:
    """All accounts, one clock. Subclassed by Sandbox, which knows the routes and what happens when time passes."""

    def __init__(self, routes: list[Route], clock: SandboxClock, ids: Ids) -> None:
        self.clock = clock
        self.ids = ids
        self.faults = Faults(ids)
        self.lock = threading.RLock()
        self.accounts: dict[str, State] = {}
        self.aggregation_lag_seconds = 0
        self.base_url = "http://127.0.0.1:8001"
        self._routes = [(route, compiled(route.template)) for route in routes]
        self._instant: int | None = None
        self._quiet_until = 0  # nothing falls due by itself before this; 0 when that must be worked out again
        self._in_flight: set[tuple[str, ...]] = set()
        self._in_flight_lock = threading.Lock()

    @property
    def now_at(self) -> int:
        """Stripe's time; while the past is being worked off, the instant that is being worked off."""
        return self._instant if self._instant is not None else self.clock.now_at()

    def emit(
        self, state: State, type: str, thing: StripeObject, previous: StripeObject | None, cause: StripeObject
    ) -> None:
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
            state = self._account(sent)
            route, ids = self._route(method, path)
            given = {**decode(query.encode()), **decode(body)}
            key = sent.get("idempotency-key")
            answer = self._answer(_Request(state, route, path, ids, given, request_id, key, _fingerprint(path, body)))
        except StripeError as error:
            answer = Answer(error.status, error.headers, json.dumps(error.body(), indent=2).encode())
        self._remember(state, method, path, request_id, answer)
        headers_out = {"Content-Type": "application/json", "Request-Id": request_id, "Stripe-Version": API_VERSION}
        return Answer(answer.status, {**headers_out, **answer.headers}, answer.body)

    def _account(self, sent: Mapping[str, str]) -> State:
        key = _key_of(sent.get("authorization", ""))
        if not key:
            raise StripeError(
                401,
                "invalid_request_error",
                "You did not provide an API key. Send `Authorization: Bearer sk_test_…`; any test key works here.",
            )
        if key.startswith(_LIVE):
            raise StripeError(
                401,
                "invalid_request_error",
                "This is a local stand-in for Stripe. It refuses live keys; use a test key.",
            )
        if not key.startswith(_TEST) or len(key) < 12:
            raise StripeError(401, "invalid_request_error", f"Invalid API Key provided: {key[:8]}***")
        version = sent.get("stripe-version", API_VERSION)
        if version[:10] < _OLDEST_VERSION:
            raise StripeError(
                400,
                "invalid_request_error",
                f"The local Stripe speaks {API_VERSION}; {version[:30]} has no billing meters.",
            )
        with self.lock:
            fresh = State.of_key(key)
            return self.accounts.setdefault(fresh.account_id, fresh)

    def _route(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
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
        with self._alone(request.one_key, _key_in_use), self._alone(request.one_meter, _lock_timeout):
            saved = self._saved(request)
            fault = self.faults.next(request.route.method, request.path)
            if fault is not None:
                self.clock.sleep_ms(fault.latency_ms)
                if fault.reset == "before":
                    raise Reset
            if saved is not None:
                answer = saved
            elif fault is not None and fault.status is not None:
                answer = self._trouble(request, fault.status)
            else:
                answer = self._dispatch(request)
            if fault is not None and fault.reset == "after":
                raise Reset
            return answer

    @contextmanager
    def _alone(self, one: tuple[str, ...] | None, refusal: Callable[[], StripeError]) -> Iterator[None]:
        """Refuse a second request for the same while the first is being served. None is shared by all."""
        if one is None:
            yield
            return
        with self._in_flight_lock:
            if one in self._in_flight:
                raise refusal()
            self._in_flight.add(one)
        try:
            yield
        finally:
            with self._in_flight_lock:
                self._in_flight.discard(one)

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
            request.state.save_answer(key, (request.fingerprint, status, body), self.now_at)

    def _trouble(self, request: _Request, status: int) -> Answer:
        """What a fault answers instead of the work."""
        kind = "rate_limit_error" if status == 429 else "api_error"
        error = StripeError(status, kind, f"The local Stripe was asked to answer {status} here.")
        content = json.dumps(error.body()).encode()
        if status >= 500:
            with self.lock:
                self._save(request, status, content)
        return Answer(status, {}, content)

    def _dispatch(self, request: _Request) -> Answer:
        """Check the parameters, then do the work. Only what the work answers is saved under the idempotency key."""
        route, state = request.route, request.state
        spec = {"expand": array(text(), 20), **route.spec, **(_PAGING if route.paged else {})}
        with self.lock:
            self.tick()
            state.forget(self.now_at)
            params = check(request.given, spec)
            paths = params.pop("expand", [])
            if paths and route.method != "GET":
                self._rehearse(request, dict(params), paths)
            if route.method != "GET" and request.path != _METER_EVENTS:
                self.reschedule()
            try:
                result = route.run(Context(self, state, params, request.ids, request.id, request.key))
            except StripeError as error:
                self._save(request, error.status, json.dumps(error.body()).encode())
                raise
            content = json.dumps(_expanded(state, result, paths), indent=2, default=encode).encode()
            self._save(request, 200, content)
            return Answer(200, {}, content)

    def _rehearse(self, request: _Request, params: dict[str, Any], paths: list[str]) -> None:
        """Only the object shows what of it can be expanded: make it on a copy, so that a refusal changes nothing."""
        state = copy.deepcopy(request.state)
        try:
            result = request.route.run(Context(self, state, params, request.ids, request.id, request.key))
        except StripeError:
            return  # the work itself will refuse
        _expanded(state, result, paths)

    def _remember(self, state: State | None, method: str, path: str, request_id: str, answer: Answer) -> None:
        if state is None:
            return
        error = json.loads(answer.body).get("error") if answer.status >= 400 else None
        entry = {"id": request_id, "method": method, "path": path, "status": answer.status, "error": error}
        with self.lock:
            state.requests.append({**entry, "at": self.now_at})
            del state.requests[:-REQUESTS_KEPT]


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


def _expanded(state: State, result: StripeObject, paths: list[str]) -> Any:
    document = visible(result)
    for path in paths:
        _expand(state, document, result, path)
    return document


def _expand(state: State, document: Any, source: Any, path: str) -> None:
    """Replace the id at a dotted path by its object, or show what is only there when asked for."""
    name, _, rest = path.partition(".")
    if isinstance(document, list):
        for i, entry in enumerate(document):
            _expand(state, entry, source[i] if isinstance(source, list) else entry, path)
        return
    if not isinstance(document, dict):
        raise StripeError(400, "invalid_request_error", f"This property cannot be expanded ({path}).", param="expand")
    hidden = source.get(f"_{name}") if isinstance(source, dict) else None
    if name not in document and hidden is None:
        raise StripeError(400, "invalid_request_error", f"This property cannot be expanded ({path}).", param="expand")
    if hidden is not None:
        document[name] = visible(hidden)
    value = document[name]
    if isinstance(value, str):
        found = state.find(value)
        document[name] = visible(found) if found is not None else value
    if rest and document[name] is not None:
        inner = source.get(name) if isinstance(source, dict) else None
        _expand(state, document[name], inner if isinstance(inner, (dict, list)) else document[name], rest)


def _fingerprint(path: str, body: bytes) -> str:
    return hashlib.sha256(path.encode() + b"\0" + body).hexdigest()


def _key_in_use() -> StripeError:
    message = "There is currently another in-progress request using this Idempotency-Key. Try again later."
    return StripeError(409, "idempotency_error", message, code="idempotency_key_in_use")


def _lock_timeout() -> StripeError:
    error = StripeError(
        429,
        "invalid_request_error",
        "This object cannot be accessed right now because another API request is currently accessing it. "
        "Send meter events of one customer and meter one after another.",
        code="lock_timeout",
    )
    error.headers["Stripe-Rate-Limited-Reason"] = "resource-specific"
    return error


def _key_of(header: str) -> str:
    """The key of a Bearer header, or the user name of a Basic one, as `curl -u sk_test_…:` sends it."""
    scheme, _, text = header.partition(" ")
    match scheme.lower():
        case "bearer":
            return text.strip()
        case "basic":
            with suppress(ValueError):
                return base64.b64decode(text.strip(), validate=True).decode("ascii").partition(":")[0]
    return ""
