"""The applications that are measured: each bare, and protected by Farebox. All are factories for uvicorn."""

import os
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from farebox import Farebox

__all__ = ["bare_asgi", "bare_fastapi", "paid_asgi", "paid_fastapi"]

_BODY = b'{"hello":"world"}'
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(_BODY)).encode())]


def bare_fastapi() -> FastAPI:
    """The smallest endpoint that people would write."""
    app = FastAPI()

    @app.get("/api")
    async def hello() -> dict[str, str]:
        return {"hello": "world"}

    return app


def paid_fastapi() -> FastAPI:
    app = bare_fastapi()
    Farebox(os.environ["FAREBOX_CONFIG"]).protect(app)
    return app


def bare_asgi() -> ASGIApp:
    """The same with no framework at all, where there is nowhere to hide."""
    return _hello


def paid_asgi() -> ASGIApp:
    return Farebox(os.environ["FAREBOX_CONFIG"]).wrap(_hello)


async def _hello(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _BODY})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message: Any = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return
