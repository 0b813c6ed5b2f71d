"""The paid call (ASGI): credential → gate → the seller's API → durable usage → only then the first byte of the answer.

Never lets an unrecorded billable answer out, and never holds a body: only its start waits for the commit.
It also carries Farebox through the application's lifespan: started before it, stopped after it.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from farebox.domain.access import Facts, Grant
from farebox.domain.catalog import Meter, Route
from farebox.domain.measures import Terms
from farebox.errors import (
    AccessRefused,
    FareboxError,
    MethodNotAllowed,
    NotStarted,
    RequestRefused,
    StoreError,
    StoreUnavailable,
    UsageError,
)
from farebox.metering.gate import FILL_SECONDS_MAX, Gate
from farebox.metering.lane import within
from farebox.metering.presence import Admission
from farebox.metering.recorder import Recorder
from farebox.web.calls import SCOPE_KEY, Call, RouteTable, credential_of, require_prices, running_call
from farebox.web.measured import MeasuredAnswer, Metering
from farebox.web.problems import refuse

__all__ = ["Edge", "Host", "PaidCalls"]

_log = structlog.get_logger("farebox.edge")


@dataclass(frozen=True, slots=True)
class Edge:
    """What a running Farebox gives its middleware.

    `billing` serves the routes under `prefix`; `readers` runs what reads the store.
    """

    gate: Gate
    recorder: Recorder
    table: RouteTable
    metering: Metering
    meters: Mapping[str, Meter]
    credentials: Sequence[str]
    prefix: str
    pay_url: str
    billing: ASGIApp
    readers: Executor
    preflight_to_app: bool = False

    async def admit(self, text: str) -> tuple[str, Grant]:
        """The key's id and leave to make a paid call, or the refusal raised: where the gate's memory did not do."""
        facts = await self._facts(text)
        decision = self.gate.decide(facts)
        if isinstance(decision, Grant):
            return facts.key_id, decision
        raise decision

    async def _facts(self, text: str) -> Facts:
        facts = self.gate.known(text)
        if facts is None:
            facts = await within(FILL_SECONDS_MAX, self.readers, self.gate.fill, text)
        return facts

    async def identify_holder(self, scope: Mapping[str, Any]) -> Facts:
        """The facts of a key that works, whatever its subscription: for a buyer's own pages."""
        return await self.identify_key(credential_of(scope, self.credentials))

    async def identify_key(self, text: str) -> Facts:
        """The facts of a key that works, whatever its subscription. AccessRefused or StoreError."""
        facts = await self._facts(text)
        refusal = self.gate.refusal_of_key(facts)
        if refusal is not None:
            raise refusal
        return facts


class Host(Protocol):
    """Whom the middleware serves. `edge` is None while it is not running."""

    @property
    def edge(self) -> Edge | None: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...


class PaidCalls:
    """The middleware."""

    def __init__(self, app: ASGIApp, host: Host) -> None:
        self._app = app
        self._host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await _Lifespan(self._app, self._host, receive, send).run(scope)
            return
        if kind not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        edge = self._host.edge
        if edge is None:
            await refuse(_not_started(), scope, receive, send, pay_url=None)
            return
        path = _route_path(scope)
        if path.startswith(edge.prefix) and path[len(edge.prefix) :][:1] in ("", "/"):
            await _serve_billing(edge, path, scope, receive, send)
            return
        method = scope.get("method", "GET")
        if method == "OPTIONS" and _is_preflight(scope):
            await self._preflight(edge, scope, receive, send)
            return
        try:
            route = _route_of(edge, kind, method, path)
        except RequestRefused as error:
            await refuse(error, scope, receive, send, pay_url=None)
            return
        if route is not None and route.public:
            await self._app(scope, receive, send)
            return
        admission = edge.gate.admissions.enter()
        try:
            try:
                text = credential_of(scope, edge.credentials)
                key_id, grant = edge.gate.admit(text) or await edge.admit(text)
                if route is not None and not grant.meters.issuperset(route.meters):
                    require_prices(grant, route.meters, edge.meters)
                if not edge.recorder.healthy:
                    raise StoreUnavailable("Usage cannot be recorded right now. Try again shortly.")
            except FareboxError as error:
                await refuse(error, scope, receive, send, pay_url=edge.pay_url)
                return
            call = Call(grant, key_id, route.match if route is not None else "", edge.meters)
            if route is not None and route.meter is not None:
                call.charges[route.meter] = route.quantity
            scope[SCOPE_KEY] = call  # never the answer, which leads to the scope: the collector would have to free both
            if route is not None and route.terms is not None:
                await self._run_measured(edge.metering, call, route.terms, admission, scope, receive, send)
            else:
                await self._run(call, _Answer(edge, call, admission, scope, receive, send), scope, receive, send)
        finally:
            admission.leave()

    async def _preflight(self, edge: Edge, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a CORS preflight without a key and without the application's work: any caller may send one.

        CORS middleware outside Farebox has answered its own before. With `[http] preflight = "app"` the application
        answers, with no body to read and none to send.
        """
        if not edge.preflight_to_app:
            await Response(status_code=204, headers={"Cache-Control": "no-store"})(scope, receive, send)
            return

        async def nothing() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                allowed = [pair for pair in message.get("headers", ()) if _answers_preflight(pair[0].lower())]
                await send({**message, "headers": allowed})
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app(scope, nothing, send_headers)

    async def _run_measured(
        self,
        metering: Metering,
        call: Call,
        terms: Terms,
        admission: Admission,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        call.charges.update(terms.fixed)
        answer = MeasuredAnswer(metering, call, terms, admission, scope, receive, send)
        try:
            await self._run(call, answer, scope, answer.receive, send)
        finally:
            answer.end()

    async def _run(
        self, call: Call, answer: "_Answer | MeasuredAnswer", scope: Scope, receive: Receive, send: Send
    ) -> None:
        token = running_call.set(call)
        try:
            await self._app(scope, receive, answer.send)
        except AccessRefused as error:
            edge = self._host.edge
            if call.begun or edge is None:
                raise
            await refuse(error, scope, receive, send, pay_url=edge.pay_url)
        except UsageError as error:
            _log.error("charge_refused", code=error.code, reason=error.detail, operation=call.operation)
            if call.begun:
                raise
            await refuse(type(error)(), scope, receive, send, pay_url=None)
        except Exception:
            if not answer.refused:
                raise
            # The application was told that its client is gone, and said so.
        finally:
            running_call.reset(token)


class _Lifespan:
    """The application's lifespan with Farebox around it. A refusal to start is said in words, without a stack trace."""

    def __init__(self, app: ASGIApp, host: Host, receive: Receive, send: Send) -> None:
        self._app = app
        self._host = host
        self._receive = receive
        self._send = send
        self._first: Message | None = None

    async def run(self, scope: Scope) -> None:
        self._first = await self._receive()
        try:
            await self._host.start()
        except FareboxError as error:
            await self._send({"type": "lifespan.startup.failed", "message": f"{error.title}. {error.detail}"})
            raise
        try:
            await self._app(scope, self._replay, self._forward)
        finally:
            await self._host.stop()

    async def _replay(self) -> Message:
        first, self._first = self._first, None
        return first if first is not None else await self._receive()

    async def _forward(self, message: Message) -> None:
        if message["type"] in ("lifespan.startup.failed", "lifespan.shutdown.complete", "lifespan.shutdown.failed"):
            await self._host.stop()
        await self._send(message)


class _Answer:
    """The seller's answer on its way out: its start waits until the call is durable; a lost store makes it a 503."""

    __slots__ = ("_admission", "_call", "_edge", "_receive", "_scope", "_send", "refused")

    def __init__(
        self, edge: Edge, call: Call, admission: Admission, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._edge = edge
        self._call = call
        self._admission = admission
        self._scope = scope
        self._receive = receive
        self._send = send
        self.refused = False

    async def send(self, message: Message) -> None:
        call = self._call
        if call.begun:
            if self.refused:
                # As a server says that the client has left: a stream that nobody will read must end, not run on.
                raise OSError("the answer was refused: its usage could not be recorded")
        elif message["type"] in ("http.response.start", "websocket.accept"):
            call.begin()
            if call.charges and 200 <= message.get("status", 200) < 300:
                recorder = self._edge.recorder
                # A subscription may begin by Stripe's clock a moment before it does by ours: its calls are its own.
                at = max(recorder.now_at(), call.grant.started_at)
                try:
                    await recorder.count(call.usage(at), at)
                except StoreError as error:
                    self.refused = True
                    await refuse(error, self._scope, self._receive, self._send, pay_url=None)
                    return
            self._admission.leave()  # from here on the call costs nothing more, however long its answer is
        await self._send(message)


async def _serve_billing(edge: Edge, path: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Farebox's own routes. What a request changed is known in this process before its answer leaves."""
    root = scope.get("root_path", "")
    inner = {**scope, "path": root + path, "root_path": root + edge.prefix, "app_root_path": root}
    if scope.get("method") == "HEAD":

        async def send_head(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await edge.billing({**inner, "method": "GET"}, receive, send_head)
        return
    if scope["type"] != "http" or scope["method"] in ("GET", "OPTIONS"):
        await edge.billing(inner, receive, send)
        return

    async def send_after_feed(message: Message) -> None:
        if message["type"] == "http.response.start":
            try:
                await within(FILL_SECONDS_MAX, edge.readers, edge.gate.poll)
            except StoreError as error:
                _log.warning("feed_unread", reason=str(error))
        await send(message)

    await edge.billing(inner, receive, send_after_feed)


def _route_path(scope: Scope) -> str:
    """The path as the application's own router sees it: without what a proxy or an outer mount stands for."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root) and path[len(root) :][:1] in ("", "/"):
        return path[len(root) :]
    return path


def _route_of(edge: Edge, kind: str, method: str, path: str) -> Route | None:
    """The rule that prices the request. RequestRefused when none can be told for certain."""
    if method != method.upper():  # some frameworks serve it as if it were in capitals, and no rule names it
        raise MethodNotAllowed("Write the method in capital letters.")
    route = edge.table.price(method, path)
    return None if kind == "websocket" and route in edge.table.pages else route


def _is_preflight(scope: Scope) -> bool:
    names = {name for name, _ in scope["headers"]}
    return b"origin" in names and b"access-control-request-method" in names


def _answers_preflight(header: bytes) -> bool:
    return header in (b"vary", b"allow") or header.startswith(b"access-control-")


def _not_started() -> NotStarted:
    return NotStarted(
        "Farebox has not been started: the application's lifespan did not run. "
        "Run the app that `protect` was given as the outermost application, with lifespan on."
    )
