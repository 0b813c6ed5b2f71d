"""Virtual time and seeded scheduling: tasks are greenlets, of which one runs until it waits; then chance picks who is
next among those whose time has come."""

import asyncio
import heapq
import random
import threading
import types
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from concurrent.futures._base import DoneAndNotDoneFutures
from typing import Any

from greenlet import greenlet

__all__ = ["Event", "Executor", "Hub", "Killed", "Lock", "Loop", "Task", "locks_of_the_hub", "wait"]


class Killed(BaseException):
    """The process is dead: nothing of it may happen any more."""


class Task:
    """Something that runs until it waits. `owner` is the process that it dies with."""

    __slots__ = ("greenlet", "loop", "owner", "turn")

    def __init__(self, work: Callable[[], None], owner: Any, main: greenlet) -> None:
        self.greenlet = greenlet(work, main)  # where it goes when it ends
        self.owner = owner
        self.loop: asyncio.AbstractEventLoop | None = None  # that runs in it, as in a thread
        self.turn = 0  # an entry of the schedule with another number is out of date


class Hub:
    """The only clock and the only scheduler."""

    def __init__(self, chance: random.Random, start_at: int) -> None:
        self.now_ms = start_at * 1000
        self.chance = chance
        self.running: Task | None = None
        self.steps = 0
        self.broken: BaseException | None = None
        self._due: list[tuple[int, float, int, Task]] = []
        self._of_owner: dict[int, set[Task]] = {}
        self._doomed: list[Any] = []
        self._main = greenlet.getcurrent()

    def spawn(self, work: Callable[[], object], owner: Any = None, delay_ms: int = 0) -> Task:
        """Begin a task. What it raises ends the simulation, but for Killed."""

        def run() -> None:
            try:
                work()
            except Killed:
                pass
            except BaseException as error:
                self.broken = self.broken or error
            finally:
                self._of_owner.get(id(owner), set()).discard(task)

        task = Task(run, owner, self._main)
        self._of_owner.setdefault(id(owner), set()).add(task)
        self.wake(task, delay_ms)
        return task

    def sleep(self, milliseconds: int) -> None:
        """The running task waits."""
        assert self.running is not None
        self.wake(self.running, milliseconds)
        self.park()

    def park(self) -> None:
        """The running task waits until it is woken."""
        task = self.running
        assert task is not None
        if task.owner is not None and task.owner.dead:
            raise Killed
        self._main.switch()
        if task.owner is not None and task.owner.dead:
            raise Killed

    def wake(self, task: Task, delay_ms: int = 0) -> None:
        """Let a task go on then, and not at any other time."""
        task.turn += 1
        heapq.heappush(self._due, (self.now_ms + delay_ms, self.chance.random(), task.turn, task))

    def kill(self, owner: Any) -> None:
        """End all tasks of an owner that is dead, as soon as the running task waits."""
        self._doomed.append(owner)

    def run(self, until_ms: int, after_step: Callable[[], None]) -> None:
        """Let everything happen that is due by then."""
        while self._due and self._due[0][0] <= until_ms and self.broken is None:
            at_ms, _, turn, task = heapq.heappop(self._due)
            if turn != task.turn or task.greenlet.dead or (task.owner is not None and task.owner.dead):
                continue
            self.now_ms = max(self.now_ms, at_ms)
            self._switch(task)
            self.reap()
            self.steps += 1
            after_step()
        if self.broken is not None:
            raise self.broken
        self.now_ms = max(self.now_ms, until_ms)

    def reap(self) -> None:
        """End what belongs to the dead. Not from within a task."""
        while self._doomed:
            for task in list(self._of_owner.pop(id(self._doomed.pop()), ())):
                self._switch(task, Killed)

    def _switch(self, task: Task, error: type[BaseException] | None = None) -> None:
        self.running = task
        asyncio._set_running_loop(task.loop)
        if error is None:
            task.greenlet.switch()
        elif not task.greenlet.dead and task.greenlet:
            task.greenlet.throw(error)
        task.loop = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        self.running = None


class Lock:
    """A lock of tasks, in the place of threading's, for what a product's thread holds across a port call."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._held = False
        self._waiting: deque[Task] = deque()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        until_ms = self._hub.now_ms + int(timeout * 1000) if timeout >= 0 else None
        while self._held:
            task = self._hub.running
            if not blocking or (until_ms is not None and self._hub.now_ms >= until_ms):
                return False
            assert task is not None
            self._waiting.append(task)
            if until_ms is not None:
                self._hub.wake(task, until_ms - self._hub.now_ms)
            self._hub.park()
            if task in self._waiting:
                self._waiting.remove(task)
        self._held = True
        return True

    def release(self) -> None:
        self._held = False
        if self._waiting:
            self._hub.wake(self._waiting.popleft())

    def locked(self) -> bool:
        return self._held

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Event:
    """An event that tasks wait for."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._set = False
        self._waiting: list[Task] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        for task in self._waiting:
            self._hub.wake(task)
        self._waiting.clear()

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        task = self._hub.running
        assert task is not None
        if not self._set:
            self._waiting.append(task)
            if timeout is not None:
                self._hub.wake(task, max(1, int(timeout * 1000)))
            self._hub.park()
            if task in self._waiting:
                self._waiting.remove(task)
        return self._set


def wait(futures: Iterable[Future[Any]], timeout: float | None = None, **_: object) -> DoneAndNotDoneFutures[Any]:
    """Until all of an Executor's futures are done, whatever came of them, or the time is over."""
    waited_for = list(futures)
    until_ms: int | None = None
    for future in waited_for:
        assert isinstance(future, HubFuture)
        if timeout is not None and until_ms is None:
            until_ms = future.hub.now_ms + int(timeout * 1000)
        future.wait_until(until_ms)
    done = {future for future in waited_for if future.done()}
    return DoneAndNotDoneFutures(done, set(waited_for) - done)


def locks_of_the_hub(hub: Hub) -> types.ModuleType:
    """The threading module with locks that a simulated process may wait for."""
    module = types.ModuleType("threading")
    module.__dict__.update({name: value for name, value in vars(threading).items() if not name.startswith("__")})
    module.__dict__.update(Lock=lambda: Lock(hub), Event=lambda: Event(hub))
    return module


class HubFuture(Future[Any]):
    """What a task of an Executor will bring. Who waits for it waits in the hub's time."""

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        self.hub = hub

    def result(self, timeout: float | None = None) -> Any:
        self.wait_until(None if timeout is None else self.hub.now_ms + int(timeout * 1000))
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self.wait_until(None if timeout is None else self.hub.now_ms + int(timeout * 1000))
        return super().exception(0)

    def wait_until(self, until_ms: int | None) -> None:
        """Until it is done, or the time has come."""
        waiting = [True]  # who has given up is not to be woken from another sleep
        while not self.done() and (until_ms is None or self.hub.now_ms < until_ms):
            task = self.hub.running
            assert task is not None
            self.add_done_callback(lambda _done, task=task: self.hub.wake(task) if waiting[0] else None)  # type: ignore[misc]
            if until_ms is not None:
                self.hub.wake(task, until_ms - self.hub.now_ms)
            self.hub.park()
        waiting[0] = False


class Executor:
    """Threads of a process as tasks: so many at a time, in the order in which work was handed in."""

    def __init__(self, hub: Hub, owner: Any, threads: int) -> None:
        self._hub = hub
        self._owner = owner
        self._idle = threads
        self._jobs: deque[tuple[HubFuture, Callable[[], Any]]] = deque()

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = HubFuture(self._hub)
        self._jobs.append((future, lambda: work(*args, **kwargs)))
        if self._idle:
            self._idle -= 1
            self._hub.spawn(self._work, self._owner)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Nothing to do: who waited for its work has had it done."""

    def end(self, seconds: float | None) -> bool:
        """As `shutdown`."""
        return True

    def _work(self) -> None:
        while self._jobs:
            future, work = self._jobs.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                answer = work()
            except Killed:
                raise
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(answer)
        self._idle += 1


class Loop(asyncio.BaseEventLoop):
    """The event loop of one process: a task that waits in the hub when asyncio would wait for the system."""

    def __init__(self, hub: Hub, owner: Any) -> None:
        super().__init__()
        self._hub = hub
        self._clock_resolution = 0.0005  # else a timer that is due right now would never be taken up
        self._selector = self  # asked for what has come from outside, which is nothing but calls from threads
        self._threads = Executor(hub, owner, 4)
        self.set_exception_handler(lambda _loop, _context: None)
        self.task = hub.spawn(self.run_forever, owner)

    def time(self) -> float:
        return self._hub.now_ms / 1000

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None or timeout > 0:
            if timeout is not None:
                self._hub.wake(self.task, int(timeout * 1000) + 1)
            self._hub.park()
        return []

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        return asyncio.wrap_future((executor or self._threads).submit(func, *args), loop=self)

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        self._hub.wake(self.task)
