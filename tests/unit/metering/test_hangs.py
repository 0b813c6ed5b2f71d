"""What hangs is waited for within a bound, and what may have happened meanwhile is counted once (I18, L1, L16)."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
from tests.shop import StillClock

from farebox.domain.usage import Batch, Increment
from farebox.errors import StoreError, StoreUnavailable
from farebox.metering import recorder as module
from farebox.metering import spool as spool_module
from farebox.metering import tails as tails_module
from farebox.metering.lane import STUCK_JOBS_MAX
from farebox.metering.parking import Parking
from farebox.metering.recorder import RECORDER_THREADS_MAX, Recorder
from farebox.metering.spool import Spooler
from farebox.metering.tails import Tails
from farebox.metering.writer import InDoubt
from farebox.store.spool import FileSpool, FileSpoolFolder
from farebox.store.sql import SqlStore
from farebox.system import SystemEntropy
from farebox.threads import DaemonThreads

AT: Final = 1_800_000_000
ROW: Final = ("acc", "calls", "key", "GET /api", AT)
T = TypeVar("T")


class Hanging(SqlStore):
    """A ledger in a file whose commits may hang, before they reach the file or with their answer on its way."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"sqlite:///{path}", StillClock(AT), SystemEntropy())
        self.hang = ""  # "before", "after": the next commit; "all": everything that writes
        self.released = threading.Event()
        self.hanging = 0
        self.open()

    def _wait(self) -> None:
        self.hanging += 1
        assert self.released.wait(30)
        self.hanging -= 1

    def commit_batch(self, batch: Batch) -> None:
        hang = self.hang
        if hang in ("before", "after"):
            self.hang = ""
        if hang in ("before", "all"):
            self._wait()
        super().commit_batch(batch)
        if hang == "after":
            self._wait()

    def batch_landed(self, batch: Batch) -> bool:
        if self.hang == "all":
            self._wait()
        return super().batch_landed(batch)

    @property
    def total(self) -> int:
        return sum(line.quantity for line in self.usage("acc", 0, 1 << 40))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Hanging]:
    opened = Hanging(tmp_path / "ledger.db")
    yield opened
    opened.released.set()
    opened.close()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for where in (module, tails_module):
        monkeypatch.setattr(where, "RETRY_MILLISECONDS", 10)
    monkeypatch.setattr(module, "COMMIT_SECONDS_MAX", 0.5)
    monkeypatch.setattr(module, "LEDGER_SECONDS_MAX", 0.25)
    monkeypatch.setattr(module, "CLOSE_SECONDS_MAX", 0.2)
    monkeypatch.setattr(spool_module, "SPOOL_TURN_SECONDS_MAX", 0.1)


def used(quantity: int) -> list[Increment]:
    return [Increment(*ROW, quantity, 1, AT)]


def spooler(ledger: SqlStore, folder: Path) -> Spooler:
    made = Spooler(ledger, FileSpoolFolder(folder), StillClock(AT), SystemEntropy(), seconds_max=60)
    made.learn()
    return made


def run(scenario: Callable[[Recorder], Awaitable[T]], ledger: Hanging, spool: Spooler | None = None) -> T:
    async def main() -> T:
        threads = DaemonThreads(RECORDER_THREADS_MAX, name="test")
        recorder = Recorder(ledger, StillClock(AT), SystemEntropy(), threads, spool)
        try:
            return await asyncio.wait_for(scenario(recorder), 20)
        finally:
            ledger.released.set()
            await asyncio.wait_for(recorder.close(), 20)
            assert threads.end(20)

    return asyncio.run(main())


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(1_000):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never held")


@pytest.mark.parametrize("hang", ["before", "after"])
def test_a_commit_that_hangs(ledger: Hanging, hang: str) -> None:
    """F30, I12, I18: its calls are in doubt after a stated time, who waits behind it is refused and not counted, and
    what became of it is found out by its number."""

    async def scenario(recorder: Recorder) -> InDoubt:
        await recorder.record(used(1))
        ledger.hang = hang
        first = recorder.count([(ROW, 10)], AT)
        await until(lambda: ledger.hanging == 1)
        behind = recorder.count([(ROW, 100)], AT)
        await asyncio.wait({first, behind}, timeout=5)
        assert not recorder.healthy
        doubt = first.exception()
        assert isinstance(doubt, InDoubt)
        assert isinstance(behind.exception(), StoreUnavailable)
        assert not isinstance(behind.exception(), InDoubt)
        await until(lambda: recorder.healthy)
        await recorder.record(used(1_000))
        return doubt

    doubt = run(scenario, ledger)
    assert (doubt.over, doubt.landed) == (True, hang == "after")
    assert ledger.total == (1_011 if hang == "after" else 1_001)


def test_threads_are_bounded(ledger: Hanging) -> None:
    """I18: while everything hangs no more threads are begun than stated, calls are refused at once, and it heals."""

    async def scenario(recorder: Recorder) -> list[str]:
        await recorder.record(used(1))
        ledger.hang = "all"
        ends = []
        for _ in range(4):
            try:
                await recorder.record(used(10))
            except StoreError as error:
                ends.append(type(error).__name__)
        await asyncio.sleep(1)
        assert ledger.hanging <= STUCK_JOBS_MAX
        ledger.hang = ""
        ledger.released.set()
        await until(lambda: recorder.healthy)
        await recorder.record(used(100))
        return ends

    ends = run(scenario, ledger)
    assert ends[0] == "InDoubt"
    assert len(ends) == 4
    assert ledger.total in (101, 111)


@pytest.mark.parametrize("hang", ["before", "after"])
def test_the_spool_takes_over(ledger: Hanging, tmp_path: Path, hang: str) -> None:
    """F30, L16: with a spool a commit that hangs is answered out of it, and each call is counted once."""

    async def scenario(recorder: Recorder) -> None:
        await recorder.record(used(1))
        ledger.hang = hang
        await recorder.record(used(10))
        await recorder.record(used(100))
        assert recorder.healthy
        await until(lambda: not recorder.spooling)
        await recorder.record(used(1_000))

    run(scenario, ledger, spooler(ledger, tmp_path))
    assert ledger.total == 1_111
    assert not list(tmp_path.glob("*.spool"))


@pytest.mark.parametrize("lands", [True, False])
def test_a_spool_that_hangs(ledger: Hanging, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lands: bool) -> None:
    """I18: a disk that does not answer is waited for within the bound too, and the doubt ends when it answers."""
    released, append = threading.Event(), FileSpool.append

    def hangs(spool: FileSpool, batch: Any) -> None:
        if sum(i.quantity for i in batch.increments) == 100:
            assert released.wait(30)
            if not lands:
                raise StoreUnavailable(internal="no room")
        append(spool, batch)

    async def scenario(recorder: Recorder) -> InDoubt:
        await recorder.record(used(1))
        ledger.hang = "all"
        await recorder.record(used(10))
        monkeypatch.setattr(FileSpool, "append", hangs)
        with pytest.raises(InDoubt) as doubt:
            await recorder.record(used(100))
        assert not recorder.healthy
        released.set()
        ledger.hang = ""
        ledger.released.set()
        await until(lambda: recorder.healthy and not recorder.spooling)
        return doubt.value

    doubt = run(scenario, ledger, spooler(ledger, tmp_path))
    assert (doubt.over, doubt.landed) == (True, lands)
    assert ledger.total == (111 if lands else 11)


@pytest.mark.parametrize("hang", ["before", "after"])
def test_a_tail_in_doubt(ledger: Hanging, hang: str) -> None:
    """I1, I4: the rest of an answer whose commit hangs is counted once, whether or not that commit landed."""

    async def scenario(recorder: Recorder) -> None:
        tails = Tails(recorder, Parking())
        await recorder.record(used(1))
        ledger.hang = hang
        settling = tails.settle([(ROW, 47)], AT)
        await asyncio.wait_for(settling.done.wait(), 10)

    run(scenario, ledger)
    assert ledger.total == 48


def test_close_has_an_end(ledger: Hanging, monkeypatch: pytest.MonkeyPatch) -> None:
    """I18: a recorder whose ledger hangs is closed within its bounds, and leaves the batch in doubt to its number."""

    async def scenario(recorder: Recorder) -> None:
        await recorder.record(used(1))
        ledger.hang = "all"
        pending = recorder.count([(ROW, 10)], AT)
        await asyncio.sleep(0)
        await asyncio.wait_for(recorder.close(), 5)
        assert isinstance(pending.exception(), InDoubt)

    run(scenario, ledger)


def test_threads_that_hang_do_not_keep_the_process() -> None:
    """I18: threads are begun as they are needed, their end is waited for within a bound, and they are daemons."""
    threads, released = DaemonThreads(2, name="test"), threading.Event()
    hanging = [threads.submit(released.wait, 30) for _ in range(2)]
    queued, cancelled = threads.submit(int, "7"), threads.submit(int, "8")
    assert cancelled.cancel()
    assert not threads.end(0.05)
    with pytest.raises(RuntimeError):
        threads.submit(int)
    assert all(t.daemon for t in threading.enumerate() if t.name.startswith("test_"))
    released.set()
    assert threads.end(10)
    assert (queued.result(0), [one.result(0) for one in hanging]) == (7, [True, True])
