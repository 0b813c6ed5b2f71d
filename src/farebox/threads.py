"""Threads that never keep the process from ending: what hangs in them is left behind.

The threads of the standard library's pool are joined when the interpreter ends, however long that takes.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

__all__ = ["DaemonThreads"]

_T = TypeVar("_T")
_Job = tuple[Future[Any], Callable[[], Any]]


class DaemonThreads(Executor):
    """At most `count` threads, begun when they are needed, that run what is handed in, in that order."""

    def __init__(self, count: int, *, name: str) -> None:
        self._count = count
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._changed = threading.Condition()
        self._begun = 0
        self._alive = 0
        self._ended = False

    def submit(self, work: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """Have `work` run. RuntimeError once `shutdown` or `end` was called."""
        with self._changed:
            if self._ended:
                raise RuntimeError(f"the threads {self._name} have ended")
            future: Future[_T] = Future()
            self._jobs.put((future, partial(work, *args, **kwargs)))
            if not self._idle.acquire(blocking=False) and self._begun < self._count:
                self._begun += 1
                self._alive += 1
                name = f"{self._name}_{self._begun}"
                threading.Thread(target=self._run, name=name, daemon=True).start()
            return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take nothing more. Waits without a bound if told so; `end` has one."""
        self.end(None if wait else 0)

    def end(self, seconds: float | None) -> bool:
        """Take nothing more, and wait until all that was handed in is done. False when it is not after `seconds`."""
        with self._changed:
            if not self._ended:
                self._ended = True
                self._jobs.put(None)
            return self._changed.wait_for(lambda: self._alive == 0, seconds)

    def _run(self) -> None:
        while (job := self._next()) is not None:
            _do(*job)
            del job
        self._jobs.put(None)  # for the next thread
        with self._changed:
            self._alive -= 1
            self._changed.notify_all()

    def _next(self) -> _Job | None:
        try:
            return self._jobs.get_nowait()
        except Empty:
            self._idle.release()
            return self._jobs.get()


def _do(future: Future[Any], work: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        answer = work()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(answer)
