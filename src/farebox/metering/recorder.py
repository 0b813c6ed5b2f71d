"""Durable before delivered: calls that finish together share one fenced commit (L1–L4).

Runs on the event loop; the store's work runs on one writer thread. A call is accepted only when its commit is proven.
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from typing import Any, Final

import structlog

from farebox.domain.usage import Batch, Increment, RowName
from farebox.errors import RecordConflict, StoreError, StoreUnavailable, WriterFenced
from farebox.metering.spool import Spooler
from farebox.ports import Clock, Entropy, Store

__all__ = [
    "BATCH_ROWS_MAX",
    "COMMIT_INTERVAL_MILLISECONDS",
    "GATHER_MILLISECONDS_MAX",
    "MERGE_ROUNDS_MAX",
    "RESOLVE_ATTEMPTS_MAX",
    "RETRY_MILLISECONDS",
    "InDoubt",
    "Recorder",
]

BATCH_ROWS_MAX: Final = 5_000
RESOLVE_ATTEMPTS_MAX: Final = 3
RETRY_MILLISECONDS: Final = 250
MERGE_ROUNDS_MAX: Final = 20
GATHER_MILLISECONDS_MAX: Final = 8
COMMIT_INTERVAL_MILLISECONDS: Final = 1
_QUIET_TURNS: Final = 3
_MAY_HAVE_HAPPENED: Final = "Usage could not be recorded. The call may have done its work."

_log = structlog.get_logger("farebox.recorder")


class InDoubt(StoreUnavailable):
    """A commit whose outcome is not known yet. When it is `over`, `landed` says it; None: nobody will ever know."""

    landed: bool | None = None
    over = False

    def resolve(self, landed: bool | None) -> None:
        self.landed, self.over = landed, True


class _Group:
    """What will be committed together: sums by usage row, and one future for each of the calls that wait."""

    __slots__ = ("named", "sums", "waiting")

    def __init__(self, named: Sequence[Increment] = ()) -> None:
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
        thread: Executor,
        spool: Spooler | None = None,
        process_id: Callable[[], str] | None = None,
    ) -> None:
        """`process_id` begins the names of this process's writers, so that they can be closed when it has died."""
        self._store = store
        self._spool = spool if spool is not None and spool.allowed else None
        self._clock = clock
        self._entropy = entropy
        self._thread = thread
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[_Group] = []
        self._open: _Group | None = None
        self._task: asyncio.Task[None] | None = None
        self._recovery: asyncio.Task[None] | None = None
        self._merging: asyncio.Task[None] | None = None
        self._writer = ""
        self._writer_process = 0
        self._process_id = process_id
        self._number = 0
        self._commit_from_ms = 0
        self._unproven: Batch | None = None
        self._doubt = InDoubt()
        self.healthy = True
        self.committed_batches = 0
        self.committed_calls = 0

    @property
    def spooling(self) -> bool:
        """Whether what is accepted now goes into the spool instead of the ledger."""
        return self._spool is not None and self._spool.active

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
            group = self._open = _Group()
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
        group = _Group(increments)
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
        """Commit what waits, and close the writer. Raises nothing: what could not be committed has been refused."""
        while self._task is not None:
            await asyncio.wait({self._task})
        for task in (self._recovery, self._merging):
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
        if self._spool is not None:
            await self._run(self._spool.close)
        if self._writer and self._unproven is None and self._writer_process == os.getpid():
            try:
                await self._run(self._store.close_writer, self._writer)
            except StoreError as error:
                _log.warning("writer_not_closed", reason=str(error))

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
                    await self._run(self._commit, increments)
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

    def _commit(self, increments: tuple[Increment, ...]) -> None:
        """On the writer thread: into the ledger; when that is lost, and for as long as it is, into the spool."""
        if self._spool is not None and self._spool.active:
            _into(self._spool, increments)
            return
        try:
            self._commit_to_ledger(increments)
        except StoreUnavailable:
            if self._spool is None or not increments or not self._writer:
                raise  # without a writer it was fenced off: what became of the batch is not known and never will be
            # The batch whose answer was lost goes along by name: only the replay will know whether it landed.
            lost = self._unproven if self._unproven is not None and self._unproven.increments is increments else None
            _into(self._spool, increments, lost)
            self._writer, self._unproven = "", None

    def _commit_to_ledger(self, increments: tuple[Increment, ...]) -> None:
        """Settle what is unproven, then commit, and find out what became of it."""
        self._ensure_writer()
        self._settle_unproven()
        try:
            self._commit_once(increments)
        except WriterFenced:
            # The transaction was rolled back, so nothing landed; the same increments may go under a new writer.
            _log.warning("writer_fenced", writer=self._writer)
            self._writer = ""
            self._commit_once(increments)

    def _commit_once(self, increments: tuple[Increment, ...]) -> None:
        self._ensure_writer()
        batch = Batch(self._writer, self._number + 1, self._entropy.token(), increments)
        try:
            self._store.commit_batch(batch)
        except StoreUnavailable as unknown:
            self._unproven, self._doubt = batch, InDoubt(_MAY_HAVE_HAPPENED)
            if not self._landed(batch):
                raise StoreUnavailable(_MAY_HAVE_HAPPENED) from unknown
        self._number = batch.number

    def _landed(self, batch: Batch) -> bool:
        """Ask a few times whether the batch landed; what stays unknown is settled before anything else is committed.

        With a spool to go on with, once is enough: the call waits meanwhile.
        """
        attempts = 1 if self._spool is not None else RESOLVE_ATTEMPTS_MAX
        for attempt in range(attempts):
            try:
                landed = self._store.batch_landed(batch)
            except WriterFenced:
                self._writer, self._unproven = "", None
                self._doubt.resolve(None)
                raise self._doubt from None
            except StoreUnavailable as unknown:
                if attempt + 1 == attempts:
                    self._doubt.internal = unknown.internal
                    raise self._doubt from unknown
            else:
                self._unproven, self._number = None, batch.number
                self._doubt.resolve(landed)
                return landed
        raise AssertionError("unreachable")

    def _settle_unproven(self) -> None:
        """Find out about the batch before. What comes after it has not been tried, so it is in no doubt itself."""
        if self._unproven is not None:
            try:
                self._landed(self._unproven)
            except InDoubt as doubt:
                raise StoreUnavailable(_MAY_HAVE_HAPPENED, internal=doubt.internal) from doubt

    def _ensure_writer(self) -> None:
        """A writer belongs to one process: after a fork the child is another (L1)."""
        process = os.getpid()
        if not self._writer or self._writer_process != process:
            name = self._entropy.token()
            self._writer = f"{self._process_id()}-{name}" if self._process_id is not None else name
            self._writer_process, self._number = process, 0
            self._unproven = None

    def _fail(self, error: StoreError) -> None:
        _log.error("commit_failed", reason=str(error))
        self.healthy = False
        self._merge_when_spooling()
        if self._recovery is None or self._recovery.done():
            self._recovery = asyncio.get_running_loop().create_task(self._recover())

    async def _recover(self) -> None:
        """Try an empty commit until one succeeds, so that calls are let in again only then."""
        while not self.healthy:
            await asyncio.sleep(RETRY_MILLISECONDS / 1000)
            try:
                await self._run(self._commit, ())
            except StoreError:
                continue
            self.healthy = True
            _log.info("commit_recovered")

    def _merge_when_spooling(self) -> None:
        if self.spooling and (self._merging is None or self._merging.done()):
            self._merging = asyncio.get_running_loop().create_task(self._merge())

    async def _merge(self) -> None:
        """Bring the spool into the ledger as soon as it is back, and end it in a moment in which nothing is added."""
        spool, rounds = self._spool, 0
        while spool is not None and spool.active:
            try:
                rounds += 1
                if await asyncio.to_thread(spool.step) or rounds >= MERGE_ROUNDS_MAX:
                    await self._run(spool.finish)
                    self.healthy = True
            except StoreError:
                rounds = 0
                await asyncio.sleep(RETRY_MILLISECONDS / 1000)
            except Exception:
                _log.exception("merge_broken")
                await asyncio.sleep(RETRY_MILLISECONDS / 1000)

    async def _run(self, work: Callable[..., None], *arguments: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)


def _into(spool: Spooler, increments: tuple[Increment, ...], lost: Batch | None = None) -> None:
    """Usage from outside a request is refused: whether its id is new is known to the ledger alone."""
    if _has_ids(increments):
        raise StoreUnavailable(_MAY_HAVE_HAPPENED)
    spool.append(increments, lost)


def _has_ids(increments: Sequence[Increment]) -> bool:
    return any(i.record_id is not None for i in increments)
