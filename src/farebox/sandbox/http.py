"""The ASGI shell: Stripe's API under /v1, the control API under /_sandbox, the pages, and the threads that pass time.

Binds to loopback only. What it answers is decided in core; nothing here knows a rule of Stripe's.
"""

import errno
import gc
import ipaddress
import logging
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from farebox.sandbox.core import Answer
from farebox.sandbox.eventcontrol import event_routes
from farebox.sandbox.faults import Reset
from farebox.sandbox.forms import BODY_BYTES_MAX
from farebox.sandbox.frame import is_foreign
from farebox.sandbox.limitcontrol import limit_routes
from farebox.sandbox.movement import Movement
from farebox.sandbox.pages import page_routes
from farebox.sandbox.persistence import Keeper
from farebox.sandbox.requestlog import with_bodies
from farebox.sandbox.sandbox import Sandbox
from farebox.sandbox.state import visible
from farebox.sandbox.stripecli import socket_routes

__all__ = [
    "DELIVERY_PAUSE_MILLISECONDS",
    "DELIVERY_SECONDS_MAX",
    "GRACE_HOURS_MAX",
    "create_app",
    "is_loopback",
    "serve",
]

DELIVERY_SECONDS_MAX: Final = 10
DELIVERY_PAUSE_MILLISECONDS: Final = 50
GRACE_HOURS_MAX: Final = 72  # as in Stripe's dashboard
_PORT_MAX: Final = 65_535
_GARBAGE_SOUGHT_AFTER: Final = 50_000  # new objects, of Python's own 700
_READING: Final = ("GET", "HEAD")
_log: Final = logging.getLogger(__name__)


def create_app(sandbox: Sandbox, keeper: Keeper | None = None) -> Starlette:
    """The sandbox as an ASGI application. Its lifespan runs the thread that delivers webhooks and lets time pass, and
    the one that keeps the state, if it is kept."""
    movement = Movement(sandbox)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        stopping = threading.Event()
        threads = [threading.Thread(target=_pass_time, args=(sandbox, stopping), name="local-stripe-time", daemon=True)]
        if keeper is not None:
            threads.append(
                threading.Thread(target=keeper.run, args=(stopping,), name="local-stripe-state", daemon=True)
            )
        for thread in threads:
            thread.start()
        yield
        stopping.set()
        movement.stop()
        for thread in threads:
            await run_in_threadpool(thread.join, DELIVERY_SECONDS_MAX)
        if keeper is not None:  # here: uvicorn raises the signal again that ended it, which ends the process
            await run_in_threadpool(keeper.close)

    control = _Control(sandbox, movement)
    return Starlette(
        lifespan=lifespan,
        middleware=[Middleware(_OwnKnobs)],
        routes=[
            Mount("/v1", app=_Api(sandbox)),
            Mount("/v2", app=_Api(sandbox)),
            Route("/_sandbox/clock", control.clock, methods=["GET", "POST"]),
            Route("/_sandbox/aggregation", control.aggregation, methods=["POST"]),
            Route("/_sandbox/settings", control.settings, methods=["GET", "POST"]),
            Route("/_sandbox/faults", control.faults, methods=["GET", "POST", "DELETE"]),
            Route("/_sandbox/requests", control.requests),
            *limit_routes(sandbox),
            *event_routes(sandbox),
            *socket_routes(sandbox),
            *page_routes(sandbox, movement),
        ],
    )


def _listening(host: str, port: int) -> socket.socket:
    """A socket on the port, 0 for any that is free. ValueError when it cannot be had."""
    if not 0 <= port <= _PORT_MAX:
        raise ValueError(f"{port} is not a port: they go from 1 to {_PORT_MAX}.")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise ValueError(f"The local Stripe cannot listen on {host}:{port}: {error.strerror}.") from None
        how = "Stop the program that listens there, or choose another port with --port."
        raise ValueError(f"Port {port} is in use. {how}") from None


def serve(
    *,
    host: str = "127.0.0.1",
    port: int = 8001,
    log_level: str = "warning",
    state: Path | None = None,
    reset: bool = False,
    account_limits: str = "off",
    ready: Callable[[str], None] = lambda _address: None,
) -> None:
    """Serve a sandbox until interrupted: a fresh one, or the one that `state` has kept, unless `reset`.

    ValueError unless `host` is a loopback address and the state can be used; nothing is served then.
    """
    if not is_loopback(host):
        raise ValueError(f"The local Stripe listens on loopback only, not on {host}. Use 127.0.0.1.")
    if reset and state is None:
        raise ValueError("--reset forgets what --state has kept: name the file.")
    sandbox = Sandbox()
    keeper = Keeper(sandbox, state, reset=reset) if state is not None else None
    try:
        if account_limits != "off" or keeper is None:
            sandbox.limits.set({"mode": account_limits})
        sockets = "websockets-sansio"  # for the official CLI's `listen`
        app = create_app(sandbox, keeper)
        config = uvicorn.Config(app, host=host, port=port, log_level=log_level, access_log=False, ws=sockets)
        gc.freeze()  # what is loaded stays, and what the state holds makes no circles: look for them seldom
        gc.set_threshold(_GARBAGE_SOUGHT_AFTER)
        with closing(_listening(host, port)) as listening, suppress(KeyboardInterrupt):
            sandbox.base_url = f"http://{host if ':' not in host else f'[{host}]'}:{listening.getsockname()[1]}"
            listening.listen(config.backlog)  # who connects from now on is served, if a moment later
            ready(sandbox.base_url)
            uvicorn.Server(config).run(sockets=[listening])
    finally:
        if keeper is not None:
            keeper.close()


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _OwnKnobs:
    """The control API asks for no key: what another site's page sends to it through a browser is refused."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        knob = scope["type"] == "http" and scope["path"].startswith("/_sandbox") and scope["method"] not in _READING
        if knob and is_foreign(Request(scope)):
            await _refusal("Another site's page may not ask this.", 403)(scope, receive, send)
            return
        await self._app(scope, receive, send)


class _Api:
    """Stripe's own paths: raw bytes in, the core's answer out, or a connection that breaks when a fault says so."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
            if len(body) > BODY_BYTES_MAX:
                error = {"type": "invalid_request_error", "message": f"The body is larger than {BODY_BYTES_MAX} bytes."}
                await JSONResponse({"error": error}, 413)(scope, receive, send)
                return
        query = scope["query_string"].decode("latin-1")
        path = scope["raw_path"].decode("latin-1")  # as it was sent: ids are decoded once, in core
        url = path + (f"?{query}" if query else "")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        asked = (scope["method"], url, headers, body)
        try:
            answer = self._at_once(asked)
            if answer is None:
                answer = await run_in_threadpool(self._sandbox.request, *asked)
        except Reset:
            # ASGI knows no way to hang up without an answer. Uvicorn's receive belongs to what holds the connection.
            connection = getattr(getattr(receive, "__self__", None), "transport", None)
            if connection is None:
                raise
            connection.abort()
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        await Response(answer.body, answer.status, answer.headers)(scope, receive, send)

    def _at_once(self, asked: tuple[str, str, dict[str, str], bytes]) -> Answer | None:
        """Serve it on the server's own thread, which saves most of its cost, unless something could make it wait."""
        box = self._sandbox
        if not box.is_quiet or not box.lock.acquire(blocking=False):
            return None
        try:
            return box.request(*asked) if box.is_quiet else None
        finally:
            box.lock.release()


class _Control:
    """What no real Stripe has: its time, its lag, its faults, and a look at what came and went."""

    def __init__(self, sandbox: Sandbox, movement: Movement) -> None:
        self._sandbox = sandbox
        self._movement = movement

    async def clock(self, request: Request) -> Response:
        if request.method == "POST":
            asked = await _json(request)
            try:
                await run_in_threadpool(self._movement.begin, asked)
            except ValueError as error:
                return _refusal(str(error), 409 if self._movement.moving else 400)
        shown = {
            "now_at": self._sandbox.clock.now_at(),
            "offset_seconds": self._sandbox.clock.offset_seconds,
            "moving": self._movement.moving,
        }
        return JSONResponse(shown, 202 if self._movement.moving else 200)

    async def settings(self, request: Request) -> Response:
        """What Stripe keeps in its dashboard: what becomes of a subscription that could not be paid, and how long a
        draft that advances by itself stays one."""
        box = self._sandbox
        if request.method == "POST":
            asked = await _json(request)
            after, hours = asked.get("after_retries", box.after_retries), asked.get("grace_hours", 1)
            whole = isinstance(hours, int) and not isinstance(hours, bool) and 1 <= hours <= GRACE_HOURS_MAX
            named = asked.keys() & {"after_retries", "grace_hours"}
            if asked.keys() != named or not named or after not in ("canceled", "past_due", "unpaid") or not whole:
                return _refusal("after_retries is canceled, past_due or unpaid; grace_hours from 1 to 72.")
            box.after_retries = after
            if "grace_hours" in asked:
                box.grace_seconds = hours * 3_600
        return JSONResponse({"after_retries": box.after_retries, "grace_hours": box.grace_seconds // 3_600})

    async def aggregation(self, request: Request) -> Response:
        box, asked = self._sandbox, await _json(request)
        lag = asked.get("lag_seconds", box.aggregation_lag_seconds)
        late = asked.get("late_validation", box.late_validation)
        whole = isinstance(lag, int) and not isinstance(lag, bool) and lag >= 0
        if not asked or asked.keys() - {"lag_seconds", "late_validation"} or not whole or not isinstance(late, bool):
            return _refusal("lag_seconds must be a whole number, zero or more; late_validation true or false.")
        self._sandbox.set_aggregation(lag, late=late)
        return JSONResponse({"lag_seconds": lag, "late_validation": late})

    async def faults(self, request: Request) -> Response:
        faults = self._sandbox.faults
        if request.method == "DELETE":
            faults.clear()
        elif request.method == "POST":
            try:
                faults.add(await _json(request))
            except ValueError as error:
                return _refusal(str(error))
        return JSONResponse({"faults": faults.listed()})

    async def requests(self, request: Request) -> Response:
        shown = with_bodies if request.query_params.get("bodies") == "true" else visible
        with self._sandbox.lock:
            found = [shown(entry) for state in self._sandbox.accounts.values() for entry in state.requests]
        return JSONResponse({"requests": found})


def _pass_time(sandbox: Sandbox, stopping: threading.Event) -> None:
    import httpx  # takes as long to load as all the rest, and nothing is sent before it is here

    with httpx.Client(timeout=DELIVERY_SECONDS_MAX, trust_env=False) as client:

        def send(url: str, headers: dict[str, str], body: bytes) -> int | None:
            try:
                return client.post(url, headers=headers, content=body).status_code
            except (httpx.HTTPError, httpx.InvalidURL, ValueError, RuntimeError):
                return None  # no answer: ValueError for a host's name that is none, RuntimeError at the very end

        while not stopping.wait(DELIVERY_PAUSE_MILLISECONDS / 1000):
            try:
                sandbox.tick()
                sandbox.start_deliveries(send)
            except Exception:  # a fault of one account's must not stop the time of all
                _log.exception("The local Stripe could not pass time.")


async def _json(request: Request) -> dict[str, Any]:
    try:
        found = await request.json()
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _refusal(message: str, status: int = 400) -> Response:
    return JSONResponse({"error": {"message": message}}, status)
