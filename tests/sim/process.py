"""One process of Farebox in the simulation: the real Runtime, whose threads are tasks, whose ports can be troubled, and
which can die between any two calls of a port."""

import asyncio
import random
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest
import stripe
from starlette.types import Message, Receive, Scope, Send
from tests.faulty import Faulty
from tests.oracle import ACCEPTED, REFUSED, UNKNOWN
from tests.sim.hub import Executor, Killed, Loop, Task, locks_of_the_hub, wait

from farebox import app, loops
from farebox.app import Adapters, Runtime
from farebox.errors import FareboxError, StoreUnavailable
from farebox.provider.stripe import StripeProvider
from farebox.threads import DaemonThreads
from farebox.web.calls import current_call
from farebox.web.middleware import PaidCalls

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["Process", "staged"]

SEND_FREEZE_MS_MAX: Final = 1_800_000
"""Between the reporter's last look at its lease and the socket nothing can be fenced (L9): a freeze there is shorter
than the day for which Stripe knows identifiers."""
HANG_LOOK_MS: Final = 10_000
BEATING: Final = ("feed", "presence", "roles")
SLOW_MS: Final = {
    "sweep": 12 * 3_600_000,
    "reconciler": 6 * 3_600_000,
}  # what asks Stripe for everything, and finds nothing new


class Process:
    """Born, serving, dead. `name` is new for each life."""

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.name = name
        self.dead = False
        self.serving = False
        self.beating = False
        self.stopped_ms = 0
        self.commits_hang_until_ms = 0
        self.clock = ProcessClock(world, self)
        self.loops: list[Cadence] = []
        store = Faulty(world.store, self.around_store)
        self.sdk = StripeProvider(world.settings.require_stripe(), world.secrets, transport=self._transport)
        self.provider = Faulty(self.sdk, self.around_provider)
        self.store: Any = store
        world.everybody.append(self)
        world.stage.built = self
        adapters = Adapters(self.store, self.provider, self.clock, world.entropy)
        self.runtime = Runtime(world.settings, adapters)
        self._app = PaidCalls(_api, self.runtime)
        self.loop = Loop(world.hub, self)

    def start(self) -> None:
        """Begin to serve; whoever cannot dies."""

        async def start() -> None:
            try:
                await self.runtime.start()
                self.serving = True
            except FareboxError:
                self.die()

        self.submit(start)

    def stop(self) -> None:
        """End in good order."""

        async def stop() -> None:
            self.serving = False
            await self.runtime.stop()
            self.die()

        self.submit(stop)

    def die(self) -> None:
        """As by kill -9: no further call of a port happens, and clients learn nothing."""
        if not self.dead:
            self.dead, self.serving = True, False
            self.world.hub.kill(self)
            self.world.died(self)

    def bury(self) -> None:
        """Leave nothing behind that asyncio would complain of."""
        for _ in range(5):
            tasks = asyncio.all_tasks(self.loop)
            if not tasks:
                break
            for task in tasks:
                task.cancel()
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()
        self.loop.close()
        self.sdk.close()

    def submit(self, work: Callable[[], Any]) -> None:
        """Run a coroutine on the process's event loop."""

        def begin() -> None:
            task = self.loop.create_task(work())
            self.world.running.add(task)  # asyncio itself remembers tasks only weakly
            task.add_done_callback(self.world.running.discard)

        self.loop.call_soon_threadsafe(begin)

    def call(self, key: str, tokens: int, ended: Callable[[str], None]) -> None:
        """A client's call. `ended` hears what the client knows in the end."""
        headers = [(b"x-api-key", key.encode())]
        scope: dict[str, Any] = {
            "type": "http",
            "method": "GET",
            "path": "/api",
            "root_path": "",
            "query_string": b"",
            "headers": headers,
            "state": {"tokens": tokens, "served": False},
        }
        statuses: list[int] = []

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start" and not self.dead:
                statuses.append(message["status"])

        async def serve() -> None:
            try:
                await self._app(scope, _nothing, send)
            finally:
                status = statuses[0] if statuses else 0
                before = status in (401, 402, 403, 429) or (status == 503 and not scope["state"]["served"])
                ended(ACCEPTED if status == 200 else REFUSED if before else UNKNOWN)

        self.submit(serve)

    # what is around a call of a port

    def around_store(self, name: str, call: Callable[[], Any]) -> Any:
        world = self.world
        if name in ("open", "close"):  # one ledger in memory for all processes
            self._live()
            return None
        if name == "wait_for_change":
            return None  # nobody waits here: time passes otherwise
        self._trouble()
        if world.hub.now_ms < world.store_away_until_ms or world.happens(world.swarm.store_fails):
            raise StoreUnavailable(internal="simulated: nothing happened")
        answer = call()
        world.changed.add(name)
        world.usage_writes += name == "commit_batch"
        world.inbox_writes += name == "add_event"
        self._trouble()
        if world.happens(world.swarm.store_fails_after):
            raise StoreUnavailable(internal="simulated: it happened, and nobody heard")
        return answer

    def around_provider(self, name: str, call: Callable[[], Any]) -> Any:
        if name == "verify_webhook":
            return call()
        self._trouble(SEND_FREEZE_MS_MAX)
        answer = call()
        self._trouble()
        return answer

    def _live(self) -> None:
        if self.dead:
            raise Killed

    def _trouble(self, freeze_ms_max: int = 1 << 62) -> None:
        self._live()
        world = self.world
        swarm = world.swarm
        if not world.hub_task_may_wait():
            return
        if world.happens(swarm.kill):
            self.die()
            raise Killed
        if world.happens(swarm.pause):
            self._stand_still(world.chance.randint(0, swarm.pause_ms))
        if world.happens(swarm.freeze):
            self._stand_still(min(world.chance.randint(0, swarm.freeze_ms), freeze_ms_max))
        self._live()

    def _stand_still(self, milliseconds: int) -> None:
        """Somebody stopped the process, and no bound of its own holds for so long."""
        began_ms = self.world.hub.now_ms
        try:
            self.world.hub.sleep(milliseconds)
        finally:
            self.stopped_ms += self.world.hub.now_ms - began_ms

    def hang(self) -> None:
        """F30: a commit waits here for as long as commits do not answer. Then it lands, or is lost."""
        world = self.world
        if world.hub.now_ms >= self.commits_hang_until_ms:
            return
        if not world.hub_task_may_wait():
            raise StoreUnavailable(internal="simulated: the commit did not answer in time")
        while world.hub.now_ms < self.commits_hang_until_ms:
            world.hub.sleep(HANG_LOOK_MS)
        self._live()
        if world.happens(world.swarm.hang_lost):
            raise StoreUnavailable(internal="simulated: the connection broke while the commit hung")

    def _transport(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[bytes, int, Mapping[str, str]]:
        return self.world.wire.send(self, method, url, headers, body)


class ProcessClock:
    """A machine's clock, which may be wrong; what the product's own clock promises holds: it never goes back."""

    def __init__(self, world: "World", process: Process) -> None:
        self._world = world
        self._latest = 0
        most = world.swarm.clock_offset_seconds
        self.offset_seconds = world.chance.randint(-most, most)

    def now_at(self) -> int:
        self._latest = max(self._latest, self.system_at())
        return self._latest

    def system_at(self) -> int:
        return self._world.hub.now_ms // 1000 + self.offset_seconds

    def monotonic_ms(self) -> int:
        return self._world.hub.now_ms


class Cadence:
    """In the place of farebox.loops.Loop: the same steps, as often as the world's weather says."""

    def __init__(
        self,
        process: Process,
        name: str,
        step: Callable[[], bool],
        *,
        interval_ms: int,
        backoff_seconds_max: int = loops.BACKOFF_SECONDS_MAX,
    ) -> None:
        self.name = name
        self.step = step
        self._process = process
        self._interval_ms = interval_ms
        self._resting = False
        self._stopping = False
        self._task: Task | None = None
        process.loops.append(self)

    def start(self) -> None:
        """What beats all the time does so just before somebody needs it: for months it would change nothing."""
        if self.name not in BEATING:
            self._task = self._process.world.hub.spawn(self._run, self._process)

    def wake(self) -> None:
        if self._task is not None and self._resting and not self._process.beating:
            self._process.world.hub.wake(self._task, self._process.world.chance.randint(0, 2_000))

    def stop(self, timeout_seconds: int) -> bool:
        self._stopping = True
        self.wake()
        return True

    def _run(self) -> None:
        """Briskly after something was written that concerns it; ever more seldom while nothing is."""
        world, idle, seen = self._process.world, 0, -1
        low = SLOW_MS.get(self.name, self._interval_ms)
        while not self._stopping:
            if self.name != "reporter" or world.reporting_is_worth_it():
                if self.name not in ("inbox", "billing"):
                    self._beat()
                if self.once():
                    continue
            now = world.inbox_writes if self.name in ("inbox", "billing") else world.usage_writes
            idle, seen = (idle + 1, seen) if seen == now else (0, now)
            high = max(low, min(world.swarm.brisk_ms << min(2 * idle, 20), world.swarm.loop_gap_ms))
            self._resting = True
            world.hub.sleep(world.chance.randint(low, high))
            self._resting = False

    def _beat(self) -> None:
        """Be present and hold the roles that are free: a role that is new to us is no news to those who rest."""
        for other in self._process.loops:
            if other.name in BEATING[1:]:
                self._process.beating = True
                try:
                    other.once()
                finally:
                    self._process.beating = False

    def once(self) -> bool:
        try:
            return self.step()
        except FareboxError:
            return False


class Stage:
    """Whose threads and loops are being made: of whoever runs, or of the process that is being built."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.built: Process | None = None

    @property
    def process(self) -> Process:
        running = self._world.hub.running
        owner = running.owner if running is not None else None
        process = owner if isinstance(owner, Process) else self.built
        assert process is not None
        return process


@contextmanager
def staged(world: "World") -> Iterator[Stage]:
    """Farebox's threads, loops and locks become the hub's tasks, and the SDK's pauses its waiting."""
    stage, patch = Stage(world), pytest.MonkeyPatch()

    def threads(count: int = 1, **_names: Any) -> Executor:
        return Executor(world.hub, stage.process, count)

    def loop(name: str, step: Callable[[], bool], **spans: int) -> Cadence:
        return Cadence(stage.process, name, step, **spans)

    locks = locks_of_the_hub(world.hub)
    instead: dict[int, Any] = {id(DaemonThreads): threads, id(loops.Loop): loop, id(futures.wait): wait}
    for name, module in list(sys.modules.items()):
        if not name.startswith("farebox.") or name.startswith(("farebox.sandbox", "farebox.store", "farebox.loops")):
            continue
        for attribute, value in list(vars(module).items()):
            if id(value) in instead:
                patch.setattr(module, attribute, instead[id(value)])
            elif attribute == "threading":
                patch.setattr(module, attribute, locks)
    patch.setattr(app, "create_routes", lambda _billing: _api)
    patch.setattr(stripe._http_client, "random", random.Random(0))
    clock = types.SimpleNamespace(**{**vars(time), "sleep": lambda seconds: world.hub.sleep(int(seconds * 1000))})
    patch.setattr(stripe._http_client, "time", clock)
    try:
        yield stage
    finally:
        patch.undo()


async def _api(scope: Scope, receive: Receive, send: Send) -> None:
    """The seller's API: each call costs one call, and tokens as the client asked for."""
    scope["state"]["served"] = True
    if scope["state"]["tokens"]:
        current_call().charge("tokens", scope["state"]["tokens"])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"served"})


async def _nothing() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}
