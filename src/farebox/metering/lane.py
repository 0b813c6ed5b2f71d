"""Blocking work, one job after another, and no wait for it without an end (I18).

Belongs to the event loop. A job that does not come back in time is given up: it keeps its thread for as long as it
hangs, and the next one gets another thread. Only so many may hang at once; then nothing is begun.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, Final, TypeVar

from farebox.errors import StoreUnavailable

__all__ = ["STUCK_JOBS_MAX", "Lane", "Overdue", "within"]

STUCK_JOBS_MAX: Final = 2

_T = TypeVar("_T")


class Overdue(StoreUnavailable):
    """The time is over. `begun`: the job runs on, and what becomes of it is not known; else it never ran."""

    def __init__(self, *, begun: bool, internal: str) -> None:
        super().__init__(internal=internal)
        self.begun = begun


class Lane:
    """Needs STUCK_JOBS_MAX + 1 threads of its own to go on when jobs hang."""

    def __init__(self, threads: Executor) -> None:
        self._threads = threads
        self._turn = asyncio.Lock()
        self._stuck: set[Future[Any]] = set()

    async def run(self, work: Callable[..., _T], *arguments: Any, milliseconds: int) -> _T:
        """What `work` returns, its turn included in the time. Overdue; also raises what `work` raises."""
        job: Future[_T] | None = None
        try:
            async with asyncio.timeout(milliseconds / 1000) as deadline, self._turn:
                if len(self._stuck) >= STUCK_JOBS_MAX:
                    raise Overdue(begun=False, internal=f"{STUCK_JOBS_MAX} threads hang")
                job = self._threads.submit(work, *arguments)
                return await asyncio.wrap_future(job)
        except TimeoutError:
            if not deadline.expired():
                raise
            if job is None or job.cancel():
                raise Overdue(begun=False, internal=f"no turn within {milliseconds} ms") from None
            if job.done():
                return job.result()
            self._stuck.add(job)
            job.add_done_callback(self._stuck.discard)
            raise Overdue(begun=True, internal=f"no end after {milliseconds} ms") from None


async def within(seconds: int, threads: Executor, work: Callable[..., _T], *arguments: Any) -> _T:
    """What a reading `work` returns, for which nobody waits longer. Overdue; also raises what `work` raises."""
    try:
        async with asyncio.timeout(seconds) as deadline:
            return await asyncio.get_running_loop().run_in_executor(threads, work, *arguments)
    except TimeoutError:
        if not deadline.expired():
            raise
        raise Overdue(begun=True, internal=f"the ledger did not answer within {seconds} s") from None
