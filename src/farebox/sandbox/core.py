"""The synchronous heart: one request in, one answer out, under one lock. No HTTP, no threads of its own, no wall time.

Authentication, idempotency, faults, expansion and the error shape live here; what a route does, in its module.
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final
from urllib.parse import unquote

from farebox.sandbox.clock import SandboxClock
from farebox.sandbox.errors import StripeError, not_modelled
from farebox.sandbox.faults import Faults, Reset
from farebox.sandbox.forms import Form, decode
from farebox.sandbox.ids import Ids
from farebox.sandbox.params import Field, array, check, integer, text
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
# Stripe has these; this stand-in does not. Said with 501, never faked.
_ABSENT: Final = re.compile(
    r"/v1/(charges|coupons|credit_notes|disputes|invoiceitems|payment_intents|promotion_codes|quotes|refunds|setup_intents|"
    r"subscription_schedules|tax|test_helpers|tokens|billing/(alerts|credit_|meter_event_adjustments)|payment_methods$)|/v2/"
)


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
        self._routes = [(route, _compiled(route.template)) for route in routes]
        self._instant: int | None = None
        self._quiet_until = 0  # nothing falls due by itself before this; 0 when that must be worked out again
        self._in_flight: set[tuple[str, str, str]] = set()
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
            given = {**decode(query.encode()), **decode(body)}
            answer = self._guarded(state, method, path, given, sent, request_id, body)
        except StripeError as error:
            answer = Answer(error.status, error.headers, json.dumps(error.body(), indent=2).encode())
        self._remember(state, method, path, request_id, answer)
        headers_out = {"Content-Type": "application/json", "Request-Id": request_id, "Stripe-Version": API_VERSION}
        return Answer(answer.status, {**headers_out, **answer.headers}, answer.body)

    def _account(self, sent: Mapping[str, str]) -> State:
        scheme, _, key = sent.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise StripeError(
                401,
                "invalid_request_error",
                "You did not provide an API key. Send `Authorization: Bearer sk_test_…`; any test key works here.",
            )
        key = key.strip()
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

    def _guarded(
        self,
        state: State,
        method: str,
        path: str,
        given: dict[str, Form],
        sent: Mapping[str, str],
        request_id: str,
        body: bytes,
    ) -> Answer:
        """Faults before and after, one meter event in flight for each customer and meter, then the route."""
        with self._serial(state, path, given):
            fault = self.faults.next(method, path)
            if fault is not None:
                self.clock.sleep_ms(fault.latency_ms)
                if fault.reset == "before":
                    raise Reset
                if fault.status is not None:
                    return self._fault_answer(state, fault.status, sent, body, path)
            answer = self._idempotent(state, method, path, given, sent, request_id, body)
            if fault is not None and fault.reset == "after":
                raise Reset
            return answer

    def _fault_answer(self, state: State, status: int, sent: Mapping[str, str], body: bytes, path: str) -> Answer:
        kind = "rate_limit_error" if status == 429 else "api_error"
        error = StripeError(status, kind, f"The local Stripe was asked to answer {status} here.")
        content = json.dumps(error.body()).encode()
        key = sent.get("idempotency-key")
        if status >= 500 and key is not None:
            state.saved_answers[key] = (_fingerprint(path, body), status, content)
        return Answer(status, {}, content)

    @contextmanager
    def _serial(self, state: State, path: str, given: Mapping[str, Form]) -> Iterator[None]:
        payload = given.get("payload")
        if path != _METER_EVENTS or not isinstance(payload, dict):
            yield
            return
        one = (state.account_id, str(given.get("event_name")), str(payload.get("stripe_customer_id")))
        with self._in_flight_lock:
            busy = one in self._in_flight
            self._in_flight.add(one)
        if busy:
            error = StripeError(
                429,
                "invalid_request_error",
                "This object cannot be accessed right now because another API request is currently accessing it. "
                "Send meter events of one customer and meter one after another.",
                code="lock_timeout",
            )
            error.headers["Stripe-Rate-Limited-Reason"] = "resource-specific"
            raise error
        try:
            yield
        finally:
            with self._in_flight_lock:
                self._in_flight.discard(one)

    def _idempotent(
        self,
        state: State,
        method: str,
        path: str,
        given: dict[str, Form],
        sent: Mapping[str, str],
        request_id: str,
        body: bytes,
    ) -> Answer:
        key = sent.get("idempotency-key")
        if key is not None and len(key) > IDEMPOTENCY_KEY_CHARACTERS_MAX:
            raise StripeError(400, "idempotency_error", "Idempotency keys have at most 255 characters.")
        with self.lock:
            self.tick()
            if method != "POST" or key is None:
                return self._dispatch(state, method, path, given, request_id, key)
            print_ = _fingerprint(path, body)
            saved = state.saved_answers.get(key)
            if saved is not None:
                if saved[0] != print_:
                    raise StripeError(
                        400,
                        "idempotency_error",
                        "Keys for idempotent requests can only be used with the same parameters they were first used "
                        f"with. Try using a key other than '{key}' if you meant to execute a different request.",
                    )
                return Answer(saved[1], {"Idempotent-Replayed": "true"}, saved[2])
            try:
                answer = self._dispatch(state, method, path, given, request_id, key)
            except StripeError as error:
                if error.status != 400 or error.code not in ("parameter_unknown", "parameter_missing"):
                    state.saved_answers[key] = (print_, error.status, json.dumps(error.body()).encode())
                raise
            state.saved_answers[key] = (print_, answer.status, answer.body)
            return answer

    def _dispatch(
        self, state: State, method: str, path: str, given: dict[str, Form], request_id: str, key: str | None
    ) -> Answer:
        known = False
        for route, pattern in self._routes:
            found = pattern.fullmatch(path)
            if found is None:
                continue
            known = True
            if route.method != method:
                continue
            spec = {"expand": array(text(), 20), **route.spec, **(_PAGING if route.paged else {})}
            params = check(given, spec)
            paths = params.pop("expand", [])
            ids = {name: unquote(value) for name, value in found.groupdict().items()}
            if method != "GET" and path != _METER_EVENTS:
                self.reschedule()
            result = route.run(Context(self, state, params, ids, request_id, key))
            document = visible(result)
            for entry in paths:
                _expand(state, document, result, entry)
            return Answer(200, {}, json.dumps(document, indent=2, default=_encode).encode())
        if _ABSENT.match(path):
            raise not_modelled(f"{method} {path}")
        verb = f"{method}: {path}"
        hint = "This path takes other methods." if known else "Please see https://stripe.com/docs for the API's paths."
        raise StripeError(404, "invalid_request_error", f"Unrecognized request URL ({verb}). {hint}")

    def _remember(self, state: State | None, method: str, path: str, request_id: str, answer: Answer) -> None:
        if state is None:
            return
        error = json.loads(answer.body).get("error") if answer.status >= 400 else None
        entry = {
            "id": request_id,
            "at": self.now_at,
            "method": method,
            "path": path,
            "status": answer.status,
            "error": error,
        }
        with self.lock:
            state.requests.append(entry)
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


def _compiled(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", template))


def _fingerprint(path: str, body: bytes) -> str:
    return hashlib.sha256(path.encode() + b"\0" + body).hexdigest()


def _encode(value: object) -> str:
    if isinstance(value, Decimal):
        return format(value.normalize(), "f")
    raise TypeError(f"{type(value).__name__} cannot be sent")
