"""Usage that the seller's code records: it is under way before its caller goes on, from whatever thread it comes.

It runs on the application's event loop and on no other, since that is where calls are counted.
"""

import asyncio
import concurrent.futures
import os
from collections.abc import Coroutine, Generator, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Final, TypeVar

import structlog

from farebox.domain.usage import Recorded
from farebox.errors import FareboxError, NotStarted, StoreUnavailable

__all__ = ["RECORDINGS_CLOSE_SECONDS_MAX", "RECORDING_SECONDS_MAX", "Recording", "Recordings"]

RECORDING_SECONDS_MAX: Final = 30
RECORDINGS_CLOSE_SECONDS_MAX: Final = 10
_ELSEWHERE: Final = (
    "Farebox does not run in this process, so nothing was recorded. Record it in the process that serves your "
    "application, or send it to POST /events."
)
_UNKNOWN: Final = "Whether the usage was recorded is not known. Record it again with the same id."

_log = structlog.get_logger("farebox.recording")
_T = TypeVar("_T")


class Recording(Coroutine[Any, Any, _T]):
    """Usage that is being recorded. `await` it on an event loop, or ask for its `result()`; who does neither is told in
    the log when it fails."""

    def __init__(self, work: "concurrent.futures.Future[_T]", what: Mapping[str, object]) -> None:
        self._work = work
        self._what = what
        self._heard = False
        self._steps: Generator[Any, None, _T] | None = None

    def result(self) -> _T:
        """What became of it, once it is durable: at once where no event loop runs, since there the call itself waited.
        On an event loop `await` it instead: RuntimeError while it is under way.
        """
        if not self._work.done():
            raise RuntimeError("The usage is still being recorded. Use `await` on an event loop.")
        self._heard = True
        try:
            return self._work.result()
        except concurrent.futures.CancelledError:
            raise StoreUnavailable(_UNKNOWN) from None

    def wait(self) -> None:
        """Wait until it is durable, in a thread without an event loop. What is wrong with it is raised;
        StoreUnavailable when it takes longer than RECORDING_SECONDS_MAX."""
        try:
            self._work.exception(timeout=RECORDING_SECONDS_MAX)
        except concurrent.futures.CancelledError:
            pass  # result() says what that means
        except concurrent.futures.TimeoutError:
            raise StoreUnavailable(_UNKNOWN, internal=f"no end within {RECORDING_SECONDS_MAX} s") from None
        if self._work.cancelled() or self._work.exception() is not None:
            self.result()

    def __await__(self) -> Generator[Any, None, _T]:
        return self._outcome().__await__()

    async def _outcome(self) -> _T:
        try:
            # Who stops waiting does not stop the work.
            await asyncio.shield(asyncio.wrap_future(self._work))
        except asyncio.CancelledError:
            if not self._work.cancelled():
                raise
        except BaseException:
            if not self._work.done():
                raise
        return self.result()

    # A coroutine as far as asyncio can tell: `create_task`, `gather`, `wait_for` and `asyncio.run` take it.
    def send(self, value: Any) -> Any:
        if self._steps is None:
            self._steps = self.__await__()
        return self._steps.send(value)

    def throw(
        self,
        kind: Any,
        value: BaseException | object = None,
        trace: TracebackType | None = None,
    ) -> Any:
        if self._steps is None:
            self._steps = self.__await__()
        error = kind if isinstance(kind, BaseException) else value if isinstance(value, BaseException) else kind()
        return self._steps.throw(error)

    def close(self) -> None:
        if self._steps is not None:
            self._steps.close()

    def __del__(self) -> None:
        if not self._heard:
            self._work.add_done_callback(partial(_say_what_failed, self._what))


class Recordings:
    """Begins recordings from any thread, and knows those under way."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0
        self._open: set[concurrent.futures.Future[Any]] = set()

    def open(self) -> None:
        """On the application's event loop, before anything is recorded."""
        self._loop, self._process = asyncio.get_running_loop(), os.getpid()

    def begin(self, work: Coroutine[Any, Any, _T], what: Mapping[str, object]) -> Recording[_T]:
        """Have the work done on the application's event loop. In a thread in which no event loop runs, return when it
        is durable, and raise what is wrong with it. `what` names it in the log. NotStarted.
        """
        loop = self._loop
        try:
            if loop is None or not loop.is_running() or self._process != os.getpid():
                raise RuntimeError("no event loop")
            future = asyncio.run_coroutine_threadsafe(work, loop)
        except RuntimeError:  # also of a loop that has just been closed
            work.close()
            raise NotStarted(_ELSEWHERE) from None
        self._open.add(future)
        future.add_done_callback(self._open.discard)
        recording = Recording(future, what)
        if not _on_an_event_loop():
            recording.wait()
        return recording

    async def close(self) -> None:
        """Wait for those under way, RECORDINGS_CLOSE_SECONDS_MAX at most, and take no more."""
        self._loop = None
        if self._open:
            waiting = [asyncio.wrap_future(future) for future in list(self._open)]
            await asyncio.wait(waiting, timeout=RECORDINGS_CLOSE_SECONDS_MAX)
            for future in waiting:
                if not future.done():
                    future.cancel()
                elif not future.cancelled():
                    future.exception()  # told to who waits for it, or in the log


def _on_an_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _say_what_failed(what: Mapping[str, object], work: "concurrent.futures.Future[Any]") -> None:
    if work.cancelled():
        _log.error("usage_not_recorded", **what, code=StoreUnavailable.code, reason=_UNKNOWN)
        return
    error = work.exception()
    if error is not None:
        code = error.code if isinstance(error, FareboxError) else ""
        _log.error("usage_not_recorded", **what, code=code, reason=str(error))
        return
    made = work.result()
    for rejected in (r for r in made or () if isinstance(r, Recorded) and r.status == "rejected"):
        _log.error("usage_not_recorded", id=rejected.id, code=rejected.code, reason=rejected.detail)
