"""The way to the local Stripe and back: what gets through, what is answered instead, and what Stripe has counted."""

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import httpx
import stripe
from tests.oracle import Counted
from tests.sim.hub import Killed

if TYPE_CHECKING:
    from tests.sim.process import Process
    from tests.sim.world import World

__all__ = ["EVENTS", "Broken", "Wire", "entry_of"]

Answer = tuple[bytes, int, Mapping[str, str]]
EVENTS: Final = "/v1/billing/meter_events"


class Broken:
    """One buyer whose objects Stripe has trouble with: all of them, or those below a path."""

    def __init__(self, customer: str, subscriptions: Iterable[str], path: str, how: str) -> None:
        self.customer = customer
        self.how = how
        self._names = (customer, *subscriptions)
        self._path = path

    def names(self, target: str, body: bytes) -> bool:
        text = unquote(target) + unquote(body.decode())
        return target.startswith(self._path) and any(name in text for name in self._names)


class Wire:
    """Between all processes and Stripe."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def send(self, process: "Process", method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """One request, troubled as the weather has it. Raises what the SDK's own transport would."""
        world, parts = self._world, urlsplit(url)
        swarm = world.swarm
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        asked = (method, target, headers, body)
        self._under_way(process)
        if world.hub.now_ms < world.stripe_away_until_ms:
            if world.chance.random() < 0.3:
                raise _unreached()
            if world.happens(swarm.silently):
                self.ask(*asked)
            raise _unanswered()
        for rate, status in ((swarm.throttled, 429), (swarm.conflict, 409)):
            if world.happens(rate):
                return _refusal(status)
        if world.happens(swarm.refused):
            raise _unreached()
        if world.broken is not None and world.broken.names(target, body):
            return self._of_the_broken(world.broken.how, *asked)
        if world.happens(swarm.error_saved):
            world.sandbox.faults.add({"status": world.chance.choice((500, 503)), "path": parts.path})
            return self.ask(*asked)
        if world.happens(swarm.error_unsaved):
            return _refusal(world.chance.choice((500, 502, 503)))
        if world.happens(swarm.timeout_before):
            raise _unanswered()
        answer = self.ask(*asked)
        self._under_way(process)
        if world.happens(swarm.timeout_after):
            raise _unanswered()
        if world.happens(swarm.error_after):
            return _refusal(500)
        return answer

    def straight(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """A request that nothing troubles: of whoever judges."""
        parts = urlsplit(url)
        return self.ask(method, f"{parts.path}?{parts.query}" if parts.query else parts.path, headers, body)

    def _of_the_broken(self, how: str, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """F31: an answer about the one account's objects, whatever is asked."""
        if how == "fails":  # Stripe saves it under the request's key, and replays it for a day
            self._world.sandbox.faults.add({"status": 500, "path": urlsplit(target).path})
            return self.ask(method, target, headers, body)
        # An event that Stripe has counted, and whose answer was lost, would be refused and parked as never counted.
        throttled = how == "throttles"
        status, code = (429, "lock_timeout") if throttled else (400, "resource_missing")
        return _refusal(status, "invalid_request_error" if status == 400 else "", code)

    def ask(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """It reaches Stripe. What Stripe counts is told to the oracle."""
        world = self._world
        answer = world.sandbox.request(method, target, headers, body)
        if target == EVENTS and answer.status == 200 and "Idempotent-Replayed" not in answer.headers:
            world.oracle.counted(entry_of(body, world.account_of, world.meter_of))
        return answer.body, answer.status, httpx.Headers(answer.headers)

    def _under_way(self, process: "Process") -> None:
        world = self._world
        if world.swarm.latency_ms and world.hub_task_may_wait():
            world.hub.sleep(world.chance.randint(0, world.swarm.latency_ms))
        if process.dead:
            raise Killed


def entry_of(body: bytes, account_of: Mapping[str, str], meter_of: Mapping[str, str]) -> Counted:
    """A meter event as it was sent."""
    sent = {name: values[0] for name, values in parse_qs(body.decode()).items()}
    return Counted(
        sent["identifier"],
        account_of[sent["payload[stripe_customer_id]"]],
        meter_of[sent["event_name"]],
        int(sent["payload[value]"]),
        int(sent["timestamp"]),
    )


def _unreached() -> stripe.APIConnectionError:
    error = stripe.APIConnectionError("simulated: no connection", should_retry=False)  # type: ignore[no-untyped-call]
    error.__cause__ = httpx.ConnectError("simulated: no connection")
    return error


def _unanswered() -> stripe.APIConnectionError:
    error = stripe.APIConnectionError("simulated: no answer", should_retry=False)  # type: ignore[no-untyped-call]
    error.__cause__ = httpx.ReadTimeout("simulated: no answer")
    return error


def _refusal(status: int, kind: str = "", code: str | None = None) -> Answer:
    kind = kind or ("rate_limit_error" if status == 429 else "api_error")
    body: dict[str, Any] = {"error": {"type": kind, "message": f"simulated: {status}"}}
    if code is not None:
        body["error"]["code"] = code
    return json.dumps(body).encode(), status, httpx.Headers({"Request-Id": "req_simulated"})
