"""Durable before delivered: calls that finish together share one fenced commit (L1–L4).

Runs on the event loop; the store's work runs on threads, one job at a time, and is waited for within a bound (I18).
A call is accepted only when its commit is proven.
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from typing import Final

import structlog

from farebox.domain.usage import Increment, RowName
from farebox.errors import RecordConflict, StoreError, StoreUnavailable
from farebox.metering.lane import Lane, Overdue
from farebox.metering.spool import Spooler
from farebox.metering.writer import InDoubt, Writer
from farebox.ports import Clock, Entropy, Store

__all__ = [
    "BATCH_ROWS_MAX",
    "CLOSE_SECONDS_MAX",
    "COMMIT_INTERVAL_MILLISECONDS",
    "COMMIT_SECONDS_MAX",
    "GATHER_MILLISECONDS_MAX",
    "LEDGER_SECONDS_MAX",
    "MERGE_ROUNDS_MAX",
    "RECORDER_THREADS_MAX",
    "RETRY_MILLISECONDS",
    "Recorder",
]

BATCH_ROWS_MAX: Final = 5_000
RETRY_MILLISECONDS: Final = 250
MERGE_ROUNDS_MAX: Final = 20
GATHER_MILLISECONDS_MAX: Final = 8
COMMIT_INTERVAL_MILLISECONDS: Final = 1
COMMIT_SECONDS_MAX: Final = 20  # of a call, from its being handed over to its answer
LEDGER_SECONDS_MAX: Final = 10  # where a spool may take over: so long of them the ledger is waited for
CLOSE_SECONDS_MAX: Final = 5
RECORDER_THREADS_MAX: Final = 6  # commits and merges each go on beside STUCK_JOBS_MAX that hang
_QUIET_TURNS: Final = 3
_NOT_TRIED: Final = "Usage cannot be recorded right now: the ledger does not answer."

_log = structlog.get_logger("farebox.recorder")


class _Group:
    """What will be committed together: sums by usage row, and one future for each of the calls that wait."""

    __slots__ = ("born_ms", "named", "sums", "waiting")

    def __init__(self, born_ms: int, named: Sequence[Increment] = ()) -> None:
        self.born_ms = born_ms
        self.sums: dict[RowName, list[int]] = {}  # quantity, calls, and when it was used last
        self.named = tuple(named)
        self.waiting: list[asyncio.Future[None]] = []

    def increments(self) -> tuple[Increment, ...]:
        return self.named or tuple(
            Increment(*name, quantity, calls, used_at) for name, (quantity, calls, used_at) in self.sums.items()
        )

    def end(self, error: Exception | None = None) -> None:
        """Tell those who still wait how it ended."""
        for future in self.waiting:
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
                future.exception()  # seen here, since its waiter may be about to leave


class Recorder:
    """One writer of the ledger. `healthy` is False from a failed commit until one succeeds again (L16).

    With a `spool` that allows it, a lost ledger is no failed commit as long as the spool takes what comes.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        entropy: Entropy,
        threads: Executor,
        spool: Spooler | None = None,
        process_id: Callable[[], str] | None = None,
    ) -> None:
        """`process_id` begins the names of this process's writers, so that they can be closed when it has died.

        Of `threads` one is enough until something hangs; with RECORDER_THREADS_MAX it goes on even then.
        """
        self._store = store
        self._spool = spool if spool is not None and spool.allowed else None
        self._clock = clock
        self._entropy = entropy
        self._process_id = process_id
        self._writer = self._new_writer()
        self._lane = Lane(threads)
        self._aside = Lane(threads)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[_Group] = []
        self._open: _Group | None = None
        self._task: asyncio.Task[None] | None = None
        self._recovery: asyncio.Task[None] | None = None
        self._merging: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._commit_from_ms = 0
        self.healthy = True
        self.committed_batches = 0
        self.committed_calls = 0

    @property
    def spooling(self) -> bool:
        """Whether what is accepted now goes into the spool instead of the ledger."""
        return self._spool is not None and self._spool.active

    @property
    def unsettled(self) -> bool:
        """Whether usage of calls that are over may still come into the ledger: out of the spool, or in doubt."""
        return self.spooling or (not self.healthy and self._writer.in_doubt)

    def now_at(self) -> int:
        """The time of a call that is handed over now (L4)."""
        return self._clock.now_at()

    def count(self, usage: Iterable[tuple[RowName, int]], at: int, calls: int = 1) -> asyncio.Future[None]:
        """What is done when the usage of a call at `at` is durable; a StoreError when that is not proven, InDoubt when
        it may still turn out. `calls` is 0 for more of a call that was counted before.

        Who stops waiting does not cancel the commit for the others.
        """
        group = self._open
        if group is None or len(group.sums) >= BATCH_ROWS_MAX:
            group = self._open = _Group(self._clock.monotonic_ms())
            self._waiting.append(group)
        sums = group.sums
        for name, quantity in usage:
            row = sums.get(name)
            if row is None:
                sums[name] = [quantity, calls, at]
            else:
                row[0] += quantity
                row[1] += calls
                row[2] = at
        return self._wait_in(group)

    async def record(self, increments: Sequence[Increment]) -> None:
        """Return once the increments are durable, each once for its id; without one they are counted as a call is.

        StoreError when that is not proven; RecordConflict when an id is known with other values.
        """
        if all(increment.record_id is None for increment in increments):
            await self.count([(increment[:5], increment.quantity) for increment in increments], increments[-1].used_at)
            return
        group = _Group(self._clock.monotonic_ms(), increments)
        self._waiting.append(group)
        self._open = None
        await self._wait_in(group)

    def _wait_in(self, group: _Group) -> asyncio.Future[None]:
        loop = self._own_loop()
        future = loop.create_future()
        group.waiting.append(future)
        if self._task is None:
            self._task = loop.create_task(self._drain())
        return future

    async def close(self) -> None:
        """Commit what waits, and close the writer. Raises nothing: what could not be committed has been refused.

        Takes COMMIT_SECONDS_MAX and some CLOSE_SECONDS_MAX at most.
        """
        self._closing.set()
        while self._task is not None:
            await asyncio.wait({self._task})
        going = {task for task in (self._recovery, self._merging) if task is not None and not task.done()}
        hanging: set[asyncio.Task[None]] = set()
        if going:
            _, hanging = await asyncio.wait(going, timeout=CLOSE_SECONDS_MAX)
            for task in hanging:
                task.cancel()
                await asyncio.wait({task})
        if self._spool is not None:
            await self._close_part("spool_not_closed", self._spool.close)
        if self._writer.settled and not hanging:
            await self._close_part("writer_not_closed", self._store.close_writer, self._writer.name)

    async def _close_part(self, failure: str, work: Callable[..., None], *arguments: str) -> None:
        try:
            await self._lane.run(work, *arguments, milliseconds=CLOSE_SECONDS_MAX * 1000)
        except StoreError as error:
            _log.warning(failure, reason=str(error), internal=error.internal)

    async def _drain(self) -> None:
        """Commit group after group until none waits, each once the event loop has no further call for it."""
        try:
            while self._waiting:
                await self._gather_calls(self._waiting[0])
                group = self._waiting.pop(0)
                if group is self._open:
                    self._open = None
                increments = group.increments()
                try:
                    await self._commit(group, increments)
                except StoreError as error:
                    if self._spool is None or not group.named:
                        self._fail(error)
                    group.end(error)
                except RecordConflict as error:
                    group.end(error)
                except BaseException as error:
                    unknown = InDoubt(internal=repr(error))
                    unknown.resolve(None)
                    group.end(unknown)
                    raise
                else:
                    self.healthy = True
                    self.committed_batches += 1
                    self.committed_calls += sum(increment.calls for increment in increments)
                    if self._spool is not None:
                        self._merge_when_spooling()
                    group.end()
        finally:
            self._task = None
            if self._waiting:
                self._task = asyncio.get_running_loop().create_task(self._drain())

    async def _commit(self, group: _Group, increments: tuple[Increment, ...]) -> None:
        """Return when the group is durable, within COMMIT_SECONDS_MAX of its birth. StoreError; InDoubt."""
        left_ms = self._left_ms(group)
        if left_ms == 0:
            raise StoreUnavailable(_NOT_TRIED)
        if self._spool is not None and not self._spool.active:
            left_ms = min(left_ms, LEDGER_SECONDS_MAX * 1000)
        writer = self._own_writer()
        try:
            await self._lane.run(writer.commit, increments, milliseconds=left_ms)
        except Overdue as late:
            given_up = writer.give_up(increments) if late.begun else None
            if given_up is not None:
                _log.error("commit_hangs", writer=writer.name, reason=late.internal)
                self._writer = given_up.successor
                if given_up.durable:
                    return
            await self._spill(group, increments, given_up.doubt if given_up is not None else None)

    async def _spill(self, group: _Group, increments: tuple[Increment, ...], doubt: InDoubt | None) -> None:
        """The ledger hangs: into the spool where there is one; else refuse the group, and all who wait behind it."""
        error: StoreUnavailable = doubt if doubt is not None else StoreUnavailable(_NOT_TRIED)
        if self._spool is not None and not self._spool.active:
            writer = self._writer
            try:
                await self._lane.run(writer.spill, increments, error, milliseconds=self._left_ms(group))
            except Overdue as late:
                given_up = writer.give_up(increments) if late.begun else None
                if given_up is not None:
                    self._writer = given_up.successor
                    if given_up.durable:
                        return
                    error = given_up.doubt or error
            except StoreUnavailable as refused:
                error = refused
            else:
                return
        waiting, self._waiting, self._open = self._waiting, [], None
        for other in waiting:
            other.end(StoreUnavailable(_NOT_TRIED))
        raise error

    def _left_ms(self, group: _Group) -> int:
        return max(group.born_ms + COMMIT_SECONDS_MAX * 1000 - self._clock.monotonic_ms(), 0)

    async def _gather_calls(self, group: _Group) -> None:
        """Let calls that are about to finish join: wait while the loop still brings some, a few milliseconds at most,
        and until the last commit is a little while ago.

        A commit costs more than a call, so under load one commit should serve many; when nothing else is going on
        this costs no more than a few turns of the loop.
        """
        until_ms = self._clock.monotonic_ms() + GATHER_MILLISECONDS_MAX
        waiting = group.waiting
        quiet, seen = 0, len(waiting)
        while quiet < _QUIET_TURNS and group is self._open and self._clock.monotonic_ms() < until_ms:
            await asyncio.sleep(0)
            quiet, seen = (quiet + 1, seen) if len(waiting) == seen else (0, len(waiting))
        early_ms = self._commit_from_ms - self._clock.monotonic_ms()
        if early_ms > 0:
            await asyncio.sleep(early_ms / 1000)
        self._commit_from_ms = self._clock.monotonic_ms() + COMMIT_INTERVAL_MILLISECONDS

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.get_running_loop()
        return self._loop

    def _new_writer(self) -> Writer:
        return Writer(self._store, self._entropy, self._spool, self._process_id)

    def _own_writer(self) -> Writer:
        """A writer belongs to one process: after a fork the child is another (L1)."""
        if self._writer.process != os.getpid():
            self._writer = self._new_writer()
        return self._writer

    def _fail(self, error: StoreError) -> None:
        _log.error("commit_failed", reason=str(error))
        self.healthy = False
        self._merge_when_spooling()
        if self._recovery is None or self._recovery.done():
            self._recovery = asyncio.get_running_loop().create_task(self._recover())

    async def _recover(self) -> None:
        """Try an empty commit until one succeeds, so that calls are let in again only then."""
        while not self.healthy and not await self._pause():
            self.healthy = await self._attempt()
            if self.healthy:
                _log.info("commit_recovered")

    async def _attempt(self) -> bool:
        """Settle what is in doubt and commit nothing. False when the ledger did not take it."""
        writer = self._own_writer()
        try:
            await self._lane.run(writer.commit, (), milliseconds=COMMIT_SECONDS_MAX * 1000)
        except Overdue as late:
            if late.begun:
                self._writer = writer.give_up(()).successor
            return False
        except StoreError:
            return False
        return True

    async def _pause(self) -> bool:
        """Wait before the next attempt. Whether there shall be none, because the process ends."""
        try:
            async with asyncio.timeout(RETRY_MILLISECONDS / 1000):
                await self._closing.wait()
        except TimeoutError:
            pass
        return self._closing.is_set()

    def _merge_when_spooling(self) -> None:
        if self.spooling and (self._merging is None or self._merging.done()):
            self._merging = asyncio.get_running_loop().create_task(self._merge())

    async def _merge(self) -> None:
        """Bring the spool into the ledger as soon as it is back, and end it in a moment in which nothing is added."""
        spool, rounds = self._spool, 0
        while spool is not None and spool.active and not self._closing.is_set():
            try:
                rounds += 1
                few = await self._aside.run(spool.step, milliseconds=COMMIT_SECONDS_MAX * 1000)
                if few or rounds >= MERGE_ROUNDS_MAX:
                    await self._lane.run(spool.finish, milliseconds=COMMIT_SECONDS_MAX * 1000)
                    self.healthy = True
                    if self._writer.in_doubt:
                        await self._attempt()
            except StoreError:
                rounds = 0
                await self._pause()
            except Exception:
                _log.exception("merge_broken")
                await self._pause()
