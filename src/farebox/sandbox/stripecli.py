"""What the official CLI asks beside the API: `stripe listen` begins a session and takes events from a socket.

Nothing of this is documented by Stripe; it is what the CLI itself, which is open source, sends and waits for.
"""

import asyncio
import json
from contextlib import suppress
from typing import Any, Final

from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from farebox.sandbox.core import Context, Route, SandboxCore
from farebox.sandbox.errors import not_modelled
from farebox.sandbox.listeners import Listener, secret_of
from farebox.sandbox.params import array, boolean, required, text
from farebox.sandbox.state import API_VERSION, StripeObject

__all__ = ["RECONNECT_SECONDS", "ROUTES", "socket_routes"]

RECONNECT_SECONDS: Final = 3_600
_PATH: Final = "/_sandbox/stripecli"
_PROTOCOL: Final = "stripecli-devproxy-v1"
_FEATURES: Final = ("webhooks", "v2_events")


def _session(ctx: Context) -> StripeObject:
    features = ctx.params["websocket_features"]
    unknown = [feature for feature in features if feature not in _FEATURES]
    if unknown or not features:
        raise not_modelled(f"the CLI's {', '.join(unknown) or 'nothing'}; only `stripe listen` works")
    id = ctx.new_id("cliws_")
    forwards_to = ctx.params.get("forward_to_url") or ctx.params.get("forward_thin_to_url") or ""
    ctx.sandbox.listeners.open(id, ctx.state.account_id, features, forwards_to)
    return {
        "object": "stripecli.session",
        "default_version": API_VERSION,
        "display_connect_filter_warning": False,
        "latest_version": API_VERSION,
        "reconnect_delay": RECONNECT_SECONDS,
        "secret": secret_of(ctx.state.account_id),
        "websocket_authorized_feature": features[0],
        "websocket_id": id,
        "websocket_url": ctx.sandbox.base_url.replace("http", "ws", 1) + _PATH,
    }


def socket_routes(sandbox: SandboxCore) -> list[BaseRoute]:
    """The socket's route, for the shell to serve beside the API."""

    async def listen(socket: WebSocket) -> None:
        listener = sandbox.listeners.find(socket.headers.get("websocket-id", ""))
        if listener is None or _PROTOCOL not in socket.scope["subprotocols"]:
            await socket.send_denial_response(JSONResponse({"error": {"message": "Unknown WebSocket ID."}}, 400))
            return
        await socket.accept(subprotocol=_PROTOCOL)
        with suppress(WebSocketDisconnect, RuntimeError):  # both say that the other side has gone
            await _talk(socket, listener)

    return [WebSocketRoute(_PATH, listen)]


async def _talk(socket: WebSocket, listener: Listener) -> None:
    """Pass on what is there and what comes, until the other side goes."""
    loop, wake = asyncio.get_running_loop(), asyncio.Event()

    def woken() -> None:
        loop.call_soon_threadsafe(wake.set)

    listener.wake = woken
    hearing = asyncio.create_task(_hear(socket, listener))
    try:
        while not hearing.done():
            wake.clear()
            while listener.messages:
                text, sent = listener.messages[0]
                await socket.send_text(text)
                sent()
                listener.messages.popleft()
            waiting = asyncio.create_task(wake.wait())
            await asyncio.wait({hearing, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
    finally:
        hearing.cancel()
        if listener.wake is woken:
            listener.wake = None


async def _hear(socket: WebSocket, listener: Listener) -> None:
    """What the CLI says of each event: that it came, and what the one it was forwarded to answered."""
    with suppress(WebSocketDisconnect):
        while True:
            try:
                said: Any = json.loads(await socket.receive_text())
            except (ValueError, KeyError):
                continue
            if not isinstance(said, dict) or said.get("type") != "webhook_response":
                continue
            entry = listener.sent.pop(str(said.get("webhook_conversation_id")), None)
            if entry is not None:
                status = said.get("status")
                entry["status"] = status
                entry["state"] = "delivered" if isinstance(status, int) and 200 <= status < 300 else "failed"


_ADDRESSES: Final = ("forward_to_url", "forward_connect_to_url", "forward_thin_to_url", "forward_thin_connect_to_url")

ROUTES: Final = [
    Route(
        "POST",
        "/v1/stripecli/sessions",
        _session,
        {
            "device_name": text(),
            "filters": text(empty=True),
            "use_latest_api_version": boolean(),
            "websocket_features": required(array(text())),
            **{name: text(empty=True) for name in _ADDRESSES},
        },
    ),
]
