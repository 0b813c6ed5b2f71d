"""The rest of what a call used, known when its answer ended (L18): settled outside the client's task, whether or not
the client is still there.

The answer has left, so a failed commit is tried again until it is certain; only the end of the process ends that.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from farebox.domain.measures import Fault
from farebox.domain.usage import RowName
from farebox.errors import StoreError
from farebox.metering.parking import Parking
from farebox.metering.presence import Admission
from farebox.metering.recorder import RETRY_MILLISECONDS, Recorder
from farebox.metering.writer import InDoubt

__all__ = ["TAILS_SECONDS_MAX", "Settling", "Tails"]

TAILS_SECONDS_MAX: Final = 10

_log = structlog.get_logger("farebox.tails")
_Usage = Sequence[tuple[RowName, int]]


class Tails:
    """What is still to be settled. For the event loop alone."""

    def __init__(self, recorder: Recorder, parking: Parking) -> None:
        self._recorder = recorder
        self._parking = parking
        self._open: dict[asyncio.Task[None], _Usage] = {}

    def settle(self, usage: _Usage, at: int, admission: Admission | None = None) -> "Settling":
        """Have the usage counted, no matter who waits for it. The admission is left when nothing more comes."""
        settling = Settling()
        if not usage:
            settling.over()
            if admission is not None:
                admission.leave()
            return settling
        task = asyncio.get_running_loop().create_task(self._settle(usage, at, settling))
        self._open[task] = usage

        def over(done: asyncio.Task[None]) -> None:
            del self._open[done]
            settling.over()
            if admission is not None:
                admission.leave()

        task.add_done_callback(over)
        return settling

    async def close(self) -> None:
        """Wait for what is open, within TAILS_SECONDS_MAX; what may be lost is named."""
        if self._open:
            await asyncio.wait(self._open, timeout=TAILS_SECONDS_MAX)
        for task, usage in list(self._open.items()):
            task.cancel()
            self._lose(usage, "the process ended first")

    async def _settle(self, usage: _Usage, at: int, settling: "Settling") -> None:
        while True:
            doubt: InDoubt | None = None
            try:
                await self._recorder.count(usage, at, calls=0)
                return
            except InDoubt as unknown:
                doubt = unknown
            except StoreError:
                pass  # nothing of it landed
            settling.tried.set()
            while True:
                await asyncio.sleep(RETRY_MILLISECONDS / 1000)
                if doubt is None or doubt.over:
                    break
            if doubt is not None and doubt.landed is not False:
                if doubt.landed is None:
                    self._lose(usage, "its commit was cut off, and whether it landed will never be known")
                return

    def _lose(self, usage: _Usage, why: str) -> None:
        for (account_id, meter, _, operation, _), quantity in usage:
            self._parking.park(account_id, operation, meter, Fault.UNRECORDED, quantity, counted=None)
        _log.error("tail_unsettled", reason=why)


class Settling:
    """A tail on its way. `tried`: the first attempt is over, for better or worse; `done`: nothing is left to do."""

    __slots__ = ("done", "tried")

    def __init__(self) -> None:
        self.tried = asyncio.Event()
        self.done = asyncio.Event()

    def over(self) -> None:
        self.tried.set()
        self.done.set()
