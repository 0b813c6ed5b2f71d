"""The ASGI shell: Stripe's API under /v1, the control API under /_sandbox, the pages, and the threads that pass time.

Binds to loopback only. What it answers is decided in core; nothing here knows a rule of Stripe's.
"""

import ipaddress
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from farebox.sandbox.faults import Reset
from farebox.sandbox.forms import BODY_BYTES_MAX
from farebox.sandbox.movement import Movement
from farebox.sandbox.pages import page_routes
from farebox.sandbox.sandbox import Sandbox

__all__ = ["DELIVERY_PAUSE_MILLISECONDS", "DELIVERY_SECONDS_MAX", "create_app", "is_loopback", "serve"]

DELIVERY_SECONDS_MAX: Final = 10
DELIVERY_PAUSE_MILLISECONDS: Final = 50
_log: Final = logging.getLogger(__name__)


def create_app(sandbox: Sandbox) -> Starlette:
    """The sandbox as an ASGI application. Its lifespan runs the thread that delivers webhooks and lets time pass."""
    movement = Movement(sandbox)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        stopping = threading.Event()
        thread = threading.Thread(target=_pass_time, args=(sandbox, stopping), name="local-stripe-time", daemon=True)
        thread.start()
        yield
        stopping.set()
        movement.stop()
        await run_in_threadpool(thread.join, DELIVERY_SECONDS_MAX)

    control = _Control(sandbox, movement)
    return Starlette(
        lifespan=lifespan,
        routes=[
            Mount("/v1", app=_Api(sandbox)),
            Mount("/v2", app=_Api(sandbox)),
            Route("/_sandbox/clock", control.clock, methods=["GET", "POST"]),
            Route("/_sandbox/aggregation", control.aggregation, methods=["POST"]),
            Route("/_sandbox/faults", control.faults, methods=["GET", "POST", "DELETE"]),
            Route("/_sandbox/requests", control.requests),
            Route("/_sandbox/deliveries", control.deliveries),
            *page_routes(sandbox, movement),
        ],
    )


def serve(*, host: str = "127.0.0.1", port: int = 8001, log_level: str = "warning") -> None:
    """Serve a fresh sandbox until interrupted. ValueError unless `host` is a loopback address."""
    if not is_loopback(host):
        raise ValueError(f"The local Stripe listens on loopback only, not on {host}. Use 127.0.0.1.")
    sandbox = Sandbox()
    sandbox.base_url = f"http://{host if ':' not in host else f'[{host}]'}:{port}"
    uvicorn.run(create_app(sandbox), host=host, port=port, log_level=log_level, access_log=False)


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Api:
    """Stripe's own paths: raw bytes in, the core's answer out, or a connection that breaks when a fault says so."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > BODY_BYTES_MAX:
                error = {"type": "invalid_request_error", "message": f"The body is larger than {BODY_BYTES_MAX} bytes."}
                await JSONResponse({"error": error}, 413)(scope, receive, send)
                return
        query = scope["query_string"].decode("latin-1")
        path = scope["raw_path"].decode("latin-1")  # as it was sent: ids are decoded once, in core
        url = path + (f"?{query}" if query else "")
        try:
            answer = await run_in_threadpool(self._sandbox.request, scope["method"], url, dict(request.headers), body)
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

    async def aggregation(self, request: Request) -> Response:
        lag = (await _json(request)).get("lag_seconds")
        if not isinstance(lag, int) or isinstance(lag, bool) or lag < 0:
            return _refusal("lag_seconds must be a whole number, zero or more.")
        self._sandbox.aggregation_lag_seconds = lag
        return JSONResponse({"lag_seconds": lag})

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

    async def requests(self, _request: Request) -> Response:
        with self._sandbox.lock:
            found = [entry for state in self._sandbox.accounts.values() for entry in state.requests]
        return JSONResponse({"requests": found})

    async def deliveries(self, _request: Request) -> Response:
        with self._sandbox.lock:
            found = [dict(entry) for state in self._sandbox.accounts.values() for entry in state.deliveries]
        return JSONResponse({"deliveries": found})


def _pass_time(sandbox: Sandbox, stopping: threading.Event) -> None:
    with httpx.Client(timeout=DELIVERY_SECONDS_MAX, trust_env=False) as client:

        def send(url: str, headers: dict[str, str], body: bytes) -> int | None:
            try:
                return client.post(url, headers=headers, content=body).status_code
            except (httpx.HTTPError, httpx.InvalidURL, ValueError):  # a host's name that cannot be encoded is the last
                return None

        while not stopping.wait(DELIVERY_PAUSE_MILLISECONDS / 1000):
            try:
                sandbox.tick()
                sandbox.deliver_due(send)
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
