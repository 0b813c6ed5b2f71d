"""One life of a serving process: real threads, a real file, paid calls through the middleware, reports to a Stripe that
the parent holds; and its death at a call of a port, by SIGKILL from its own hand."""

import asyncio
import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import structlog
from starlette.types import Message, Receive, Scope, Send
from tests.crash.talk import Talk
from tests.faulty import Faulty
from tests.shop import signed
from tests.sim.shop import WEBHOOK_SECRET, Buyer

from farebox import app
from farebox.app import Adapters, Runtime
from farebox.billing.keys import create_key, revoke_key, rotate_key
from farebox.config import Settings
from farebox.domain.keys import Secret
from farebox.errors import FareboxError
from farebox.provider.stripe import StripeProvider
from farebox.store.sql import SqlStore
from farebox.system import SystemEntropy
from farebox.web.calls import current_call
from farebox.web.middleware import PaidCalls

__all__ = ["Life", "Plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long a life is, in paid calls, and where it ends: before or after the so-manyeth call of a port, or never."""

    calls: int
    kill_at: int | None
    after: bool
    pause_ms: int = 0


class Life:
    """Lived in a forked child. Never returns."""

    def __init__(self, settings: Settings, url: str, clock: Any, buyer: Buyer, talk: Talk, plan: Plan) -> None:
        self._settings = settings
        self._buyer = buyer
        self._clock = clock
        self._talk = talk
        self._plan = plan
        self._calls: list[str] = []
        self._counting = threading.Lock()
        entropy = SystemEntropy()
        sdk = StripeProvider(settings.require_stripe(), [Secret(WEBHOOK_SECRET)], transport=self._transport)
        store: Any = Faulty(SqlStore(url, clock, entropy), self._around("store"))
        provider: Any = Faulty(sdk, self._around("provider"))
        vars(app)["create_routes"] = lambda _billing: _api  # the billing routes are not called, and take long to make
        self._runtime = Runtime(settings, Adapters(store, provider, clock, entropy), background=False)
        self._app = PaidCalls(_api, self._runtime)

    def run(self) -> None:
        """Serve, report, end."""
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        try:
            asyncio.run(self._serve())
            self._talk.tell("calls", self._calls)
            os._exit(0)
        except BaseException as error:
            self._talk.tell("broken", repr(error))
            raise

    async def _serve(self) -> None:
        await self._runtime.start()
        for number in range(self._plan.calls):
            await asyncio.gather(*(self._call(number + i) for i in range(2)))
            await asyncio.sleep(self._plan.pause_ms / 1000)
            await asyncio.to_thread(self._report)
        await self._runtime.stop()

    async def _call(self, number: int) -> None:
        key, text = next(iter(self._buyer.keys.items()))
        charges = {"calls": 1, "tokens": 1 + number % 7}
        call = await asyncio.to_thread(self._talk.ask, "began", (key, charges))

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._talk.tell("ended", (call, message["status"]))

        scope: dict[str, Any] = {
            "type": "http",
            "method": "GET",
            "path": "/api",
            "root_path": "",
            "query_string": b"",
            "headers": [(b"x-api-key", text.encode())],
            "state": charges,
        }
        self._runtime.gate.poll()
        await self._app(scope, _nothing, send)

    def _report(self) -> None:
        background = self._runtime.background
        own = (
            background._presence.step,
            self._hear,
            background._inbox_step,
            background.worker.bill_step,
            self._change_keys,
            background.flush,
        )
        of_roles = (background._report_step, background._sweep_step, background._reconcile_step)
        # Time is fast here: a role is renewed before each of its steps, or it would have run out.
        for step in (*(step for one in of_roles for step in (background._roles.renew, one)), *own):
            try:
                step()
            except FareboxError as error:
                self._talk.tell("broken", f"{step.__name__}: {error!r}")

    def _hear(self) -> None:
        """A webhook says that the buyer's subscription has changed."""
        thing = {"id": "sub_of_the_buyer", "object": "subscription", "customer": self._buyer.customer}
        event = {
            "id": f"evt_{SystemEntropy().token()}",
            "type": "customer.subscription.updated",
            "created": self._clock.now_at(),
            "livemode": False,
            "data": {"object": thing},
        }
        body, at = json.dumps(event).encode(), self._clock.system_at()
        self._runtime.receive(body, signed(body, at, WEBHOOK_SECRET))

    def _change_keys(self) -> None:
        """The buyer makes a key, rotates it, and revokes what came of it."""
        store, peppers = self._runtime.adapters.store, self._settings.peppers
        made: dict[str, Any] = {"live": False, "account_id": self._buyer.account}
        _, first = create_key(store, self._clock, SystemEntropy(), peppers, **made)
        _, second = rotate_key(store, self._clock, SystemEntropy(), peppers, key_id=first.id, **made)
        for key in (first, second):
            revoke_key(store, self._clock, account_id=self._buyer.account, key_id=key.id)

    def _around(self, port: str) -> Callable[[str, Callable[[], Any]], Any]:
        def around(name: str, call: Callable[[], Any]) -> Any:
            with self._counting:
                self._calls.append(f"{port}.{name}")
                last = len(self._calls) == self._plan.kill_at
            if last and not self._plan.after:
                os.kill(os.getpid(), signal.SIGKILL)
            answer = call()
            if last:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        return around

    def _transport(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[bytes, int, Mapping[str, str]]:
        parts = urlsplit(url)
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        content, status, answered = self._talk.ask("ask", (method, target, dict(headers), body))
        return content, status, httpx.Headers(answered)


async def _api(scope: Scope, _receive: Receive, send: Send) -> None:
    current_call().charge("tokens", scope["state"]["tokens"])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"served"})


async def _nothing() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}
