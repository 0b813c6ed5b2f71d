"""The ledger is away: calls go on into a file, and from there into the ledger, each exactly once (L16)."""

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.shop import StillClock

from farebox.domain.accounts import Account
from farebox.domain.usage import Batch, Increment
from farebox.errors import StoreError, StoreUnavailable, WriterFenced
from farebox.metering import recorder as recorder_module
from farebox.metering import tails as tails_module
from farebox.metering.gate import Gate
from farebox.metering.parking import Parking
from farebox.metering.presence import Presence
from farebox.metering.recorder import Recorder
from farebox.metering.spool import Spooler, replay
from farebox.metering.tails import Tails
from farebox.metering.writer import InDoubt
from farebox.ports import SpooledBatch
from farebox.store import spool as module
from farebox.store.spool import FileSpool, FileSpoolFolder
from farebox.store.sql import MEMORY_URL, SqlStore
from farebox.system import SystemEntropy

AT: Final = 1_800_000_000
T = TypeVar("T")


class Died(BaseException):
    """The process ends here: nothing behind it happens."""


class Ledger(SqlStore):
    """The real ledger that can be taken away, lose one answer, or let its caller die before or after a call."""

    def __init__(self, url: str = MEMORY_URL) -> None:
        super().__init__(url, StillClock(AT), SystemEntropy())
        self.away = False
        self.answer_lost = ""  # "before" or "after" the next commit's effect; then it is away
        self.die_at = 0  # counts down by each call, twice a call: before it and after it
        self.open()

    def _through(self, work: Callable[[], T]) -> T:
        if self.away:
            raise StoreUnavailable(internal="away")
        self._die()
        done = work()
        self._die()
        return done

    def _die(self) -> None:
        self.die_at -= 1
        if self.die_at == 0:
            raise Died

    def commit_batch(self, batch: Batch) -> None:
        lost, self.answer_lost = self.answer_lost, ""
        if lost == "after":
            super().commit_batch(batch)
        if lost:
            self.away = True
        self._through(lambda: super(Ledger, self).commit_batch(batch))

    def batch_landed(self, batch: Batch) -> bool:
        return self._through(lambda: super(Ledger, self).batch_landed(batch))

    def writer_state(self, writer: str) -> Any:
        return self._through(lambda: super(Ledger, self).writer_state(writer))

    def close_writer(self, writer: str) -> None:
        self._through(lambda: super(Ledger, self).close_writer(writer))

    @property
    def total(self) -> int:
        return sum(line.quantity for line in self.usage("acc", 0, 1 << 40))


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    opened = Ledger()
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "RETRY_MILLISECONDS", 1)
    monkeypatch.setattr(tails_module, "RETRY_MILLISECONDS", 1)


def used(quantity: int, record_id: str | None = None) -> list[Increment]:
    return [Increment("acc", "calls", "key", "GET /api", AT, quantity, 1, AT, record_id)]


def spooler(ledger: Ledger, folder: Path, seconds_max: int | None = 60, clock: StillClock | None = None) -> Spooler:
    made = Spooler(ledger, FileSpoolFolder(folder), clock or StillClock(AT), SystemEntropy(), seconds_max=seconds_max)
    made.learn()
    return made


def run(scenario: Callable[[Recorder], Awaitable[T]], ledger: Ledger, spool: Spooler) -> T:
    async def main() -> T:
        with ThreadPoolExecutor(1) as thread:
            recorder = Recorder(ledger, StillClock(AT), SystemEntropy(), thread, spool)
            try:
                return await asyncio.wait_for(scenario(recorder), 30)
            finally:
                await recorder.close()

    return asyncio.run(main())


async def ending(work: Awaitable[None]) -> str:
    try:
        await work
    except StoreError as error:
        return error.code
    return "accepted"


async def merged(recorder: Recorder) -> None:
    task = recorder._merging
    if task is not None:
        await asyncio.wait({task})
    assert not recorder.spooling


def files(folder: Path) -> list[str]:
    return sorted(path.suffix for path in folder.iterdir())


@pytest.mark.parametrize("lost", ["before", "after"])
def test_calls_go_on(ledger: Ledger, tmp_path: Path, lost: str) -> None:
    """While the ledger is away calls are accepted; when it is back each is in it once, that of the lost answer too."""

    async def scenario(recorder: Recorder) -> None:
        await recorder.record(used(1))
        ledger.answer_lost = lost
        for quantity in (10, 100, 1_000):
            await recorder.record(used(quantity))
            assert (recorder.spooling, recorder.healthy) == (True, True)
        assert files(tmp_path) == [".spool"]
        ledger.away = False
        await merged(recorder)
        assert (ledger.total, files(tmp_path)) == (1_111, [])
        await recorder.record(used(10_000))

    run(scenario, ledger, spooler(ledger, tmp_path))
    assert (ledger.total, files(tmp_path)) == (11_111, [])


def test_refusing_is_the_default(ledger: Ledger, tmp_path: Path) -> None:
    """Unless it is asked for nothing is spooled: 503, nothing in the ledger and no file (I12)."""

    async def scenario(recorder: Recorder) -> list[str]:
        ledger.away = True
        return [await ending(recorder.record(used(1))), str(recorder.healthy)]

    assert run(scenario, ledger, spooler(ledger, tmp_path, None)) == ["store_unavailable", "False"]
    assert (ledger.total, files(tmp_path)) == (0, [])


def test_usage_from_outside_a_request(ledger: Ledger, tmp_path: Path) -> None:
    """What bears an id is refused while the ledger is away, and stops nobody else's calls."""

    async def scenario(recorder: Recorder) -> list[str]:
        ledger.away = True
        ends = [await ending(recorder.record(used(1, "job"))), str(recorder.healthy)]
        ends += [await ending(recorder.record(increments)) for increments in (used(10), used(100, "job"), used(1_000))]
        ledger.away = False
        await merged(recorder)
        return ends

    ends = run(scenario, ledger, spooler(ledger, tmp_path))
    assert ends == ["store_unavailable", "True", "accepted", "store_unavailable", "accepted"]
    assert ledger.total == 1_010


def test_the_time_is_bounded(ledger: Ledger, tmp_path: Path) -> None:
    """After the stated time it refuses, keeps what it took, and heals when the ledger is back (I12)."""
    clock = StillClock(AT)

    async def scenario(recorder: Recorder) -> None:
        ledger.away = True
        await recorder.record(used(1))
        clock.pass_seconds(61)
        assert await ending(recorder.record(used(10))) == "store_unavailable"
        health = [recorder.healthy]
        ledger.away = False
        await merged(recorder)
        assert [*health, recorder.healthy] == [False, True]
        await recorder.record(used(100))

    run(scenario, ledger, spooler(ledger, tmp_path, 60, clock))
    assert ledger.total == 101


def test_the_size_is_bounded(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full spool refuses, keeps what it took, and nothing that was refused is counted (I12)."""
    monkeypatch.setattr(module, "SPOOL_BYTES_MAX", module._ROOM_BYTES + 600)

    async def scenario(recorder: Recorder) -> list[str]:
        ledger.away = True
        ends = [await ending(recorder.record(used(1))) for _ in range(20)]
        ledger.away = False
        await merged(recorder)
        return ends

    ends = run(scenario, ledger, spooler(ledger, tmp_path))
    assert ends == sorted(ends)
    assert 1 <= ends.count("accepted") == ledger.total < 20


def test_a_full_disk(ledger: Ledger, tmp_path: Path) -> None:
    """A record that the disk takes only in part is taken back and refused; with room again it goes on (F21, I12)."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def size_of_only_file() -> int:
        return next(tmp_path.iterdir()).stat().st_size

    async def scenario(recorder: Recorder) -> list[str]:
        ledger.away = True
        ends = [await ending(recorder.record(used(1)))]
        size = size_of_only_file()
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 30, limit[1]))
        ends.append(await ending(recorder.record(used(10))))
        assert size_of_only_file() == size
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        ends.append(await ending(recorder.record(used(100))))
        ledger.away = False
        await merged(recorder)
        return ends

    try:
        ends = run(scenario, ledger, spooler(ledger, tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert (ends, ledger.total) == (["accepted", "store_unavailable", "accepted"], 101)


def test_a_spool_that_never_took_anything(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spool that was begun and could take nothing does not keep calls out when the ledger is back (I12)."""

    def full(spool: FileSpool, batch: SpooledBatch) -> None:
        raise StoreUnavailable(internal="no room")

    async def scenario(recorder: Recorder) -> list[str]:
        ledger.away = True
        monkeypatch.setattr(FileSpool, "append", full)
        ends = [await ending(recorder.record(used(1)))]
        ledger.away = False
        await merged(recorder)
        return [*ends, str(recorder.healthy), await ending(recorder.record(used(10)))]

    assert run(scenario, ledger, spooler(ledger, tmp_path)) == ["store_unavailable", "True", "accepted"]
    assert (ledger.total, files(tmp_path)) == (10, [])


def test_a_folder_that_cannot_be_written(ledger: Ledger, tmp_path: Path) -> None:
    """Where no spool can be made, a lost ledger is refused as without one (I12)."""

    async def scenario(recorder: Recorder) -> str:
        ledger.away = True
        return await ending(recorder.record(used(1)))

    assert run(scenario, ledger, spooler(ledger, tmp_path / "gone")) == "store_unavailable"
    assert ledger.total == 0


def left_behind(ledger: Ledger, folder: Path, lost: str, closed: bool = False) -> int:
    """What a process that died in an outage leaves: three batches worth 111. Returns what is in the ledger before."""

    async def scenario(recorder: Recorder) -> None:
        await recorder.record(used(1_000))
        writer = recorder._writer.name
        ledger.answer_lost = lost
        for quantity in (1, 10, 100):
            await recorder.record(used(quantity))
        if closed:
            ledger.away = False
            SqlStore.close_writer(ledger, writer)
            ledger.away = True

    run(scenario, ledger, spooler(ledger, folder))
    ledger.away = False
    return 1_001 if lost == "after" else 1_000


@pytest.mark.parametrize("lost", ["before", "after"])
@pytest.mark.parametrize("closed", [False, True], ids=["live", "fenced"])
def test_a_crash_at_any_point_of_the_replay(tmp_path: Path, lost: str, closed: bool) -> None:
    """The next process finishes what a dead one left, wherever that died, fenced or not: each batch once (F01, I1)."""
    deaths = 0
    for die_at in range(1, 100):
        folder = tmp_path / str(die_at)
        folder.mkdir()
        ledger = Ledger()
        before = left_behind(ledger, folder, lost, closed)
        assert (ledger.total, files(folder)) == (before, [".spool"])
        ledger.die_at = die_at
        try:
            spooler(ledger, folder).adopt()
        except Died:
            deaths += 1
            ledger.die_at = 0
            spooler(ledger, folder).adopt()
        alive = ledger.die_at > 0
        assert (ledger.total, files(folder)) == (1_111, []), die_at
        ledger.close()
        if alive:
            break
    assert deaths > 10


def test_a_spool_whose_writer_was_closed(ledger: Ledger, tmp_path: Path) -> None:
    """Closed in the middle of its replay, again and again, a spool goes on under further writers, each batch once."""
    spool = FileSpoolFolder(tmp_path).create(ledger.ledger().id, "spool_1", AT)
    for number in range(1, 9):
        spool.append(SpooledBatch(number, f"nonce{number}", tuple(used(10 ** (number - 1)))))
    for closed in ("spool_1", "spool_1.1", "spool_1.2"):
        replay(ledger, spool, 2)
        ledger.close_writer(closed)
    spool.close()
    spooler(ledger, tmp_path).adopt()
    assert (ledger.total, files(tmp_path)) == (11_111_111, [])


def test_two_processes_and_one_file(ledger: Ledger, tmp_path: Path) -> None:
    """A spool that a living process holds is left alone; one that two replay at once is counted once all the same."""
    folder = FileSpoolFolder(tmp_path)
    name = ledger.ledger().id
    spool = folder.create(name, "spool_1", AT)
    for number in range(1, 6):
        spool.append(SpooledBatch(number, f"nonce{number}", tuple(used(10 ** (number - 1)))))
    assert list(folder.abandoned(name)) == []
    assert list(folder.abandoned("another")) == []
    spool.close()
    abandoned = folder.abandoned(name)
    first = next(abandoned)
    descriptor = os.open(first.path, os.O_RDWR)  # a file system that does not know locks
    second = FileSpool(first.path, descriptor)
    assert second.load()
    with ThreadPoolExecutor(2) as threads:
        for _ in range(5):
            for done in [threads.submit(replay, ledger, each, 1) for each in (first, second)]:
                done.result()
        replay(ledger, first, 5)
    assert ledger.total == 11_111
    abandoned.close()
    second.close()


def test_a_torn_end(ledger: Ledger, tmp_path: Path) -> None:
    """Every prefix that a power loss may leave gives exactly the whole records before it (F03)."""
    folder = FileSpoolFolder(tmp_path)
    name = ledger.ledger().id
    spool = folder.create(name, "spool_1", AT)
    ends = []
    for number in (1, 2, 3):
        spool.append(SpooledBatch(number, f"n{number}", tuple(used(number)), Batch("w", 7, "n", ())))
        ends.append(spool.bytes)
    content = spool.path.read_bytes()
    spool.close()
    for cut in range(len(content)):
        spool.path.write_bytes(content[:cut])
        whole = sum(cut >= end for end in ends)
        found = 0
        for each in folder.abandoned(name):
            found = each.batches
            assert not each.damaged
            assert [batch.number for batch in each.read(0)] == [1, 2, 3][:whole]
        assert (found, folder.waiting(name).batches) == (whole, whole)
        for aside in tmp_path.glob("*.damaged"):
            assert cut < ends[0]
            aside.unlink()


def test_damage_is_kept_for_a_person(ledger: Ledger, tmp_path: Path) -> None:
    """A record that cannot be read with good ones behind it is no torn end: the file is kept aside and counted."""
    folder = FileSpoolFolder(tmp_path)
    name = ledger.ledger().id
    spool = folder.create(name, "spool_1", AT)
    for number in (1, 2, 3):
        spool.append(SpooledBatch(number, f"n{number}", tuple(used(10 ** (number - 1)))))
        if number == 1:
            second = spool.bytes
    spool.close()
    content = bytearray(spool.path.read_bytes())
    content[second + 20] ^= 1
    spool.path.write_bytes(content)
    spooler(ledger, tmp_path).adopt()
    assert (ledger.total, files(tmp_path), folder.waiting(name).damaged) == (1, [".damaged"], 1)


def test_only_its_owner_reads_it(ledger: Ledger, tmp_path: Path) -> None:
    """A spool is readable by its owner alone, and one that was begun without an accepted call is cleared away."""
    folder = FileSpoolFolder(tmp_path)
    spool = folder.create(ledger.ledger().id, "spool_1", AT)
    assert spool.path.stat().st_mode & 0o777 == 0o600
    spool.path.rename(spool.path.with_suffix(".new"))
    spool.close()
    assert spooler(ledger, tmp_path).adopt() is False
    assert files(tmp_path) == []


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from(["call", "lost before", "lost after", "away", "back", "restart", "close"]), max_size=25)
)
def test_any_order_of_outages(tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> None:
    """Outages, lost answers, fences and restarts in any order: what was accepted is counted once, no more (I1, I2)."""
    folder = tmp_path_factory.mktemp("spools")
    ledger = Ledger()
    accepted = 0

    async def life(recorder: Recorder, todo: list[str]) -> None:
        nonlocal accepted
        while todo:
            step = todo.pop(0)
            if step == "restart":
                return
            if step == "call":
                await recorder.record(used(1))
                accepted += 1
            elif step in ("away", "back"):
                ledger.away = step == "away"
            elif step == "close" and not ledger.away and recorder._writer.name:
                SqlStore.close_writer(ledger, recorder._writer.name)
            elif step.startswith("lost") and not ledger.away and not recorder.spooling:
                ledger.answer_lost = step.split()[1]
        ledger.away = False
        await merged(recorder)

    todo = [*steps]
    while todo:
        run(lambda recorder: life(recorder, todo), ledger, spooler(ledger, folder))
    ledger.away, ledger.answer_lost = False, ""
    spooler(ledger, folder).adopt()
    assert (ledger.total, files(folder)) == (accepted, [])
    ledger.close()


CHILD: Final = """
import asyncio, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tests.unit.metering.test_spool import *

folder = Path(sys.argv[1])
ledger = Ledger(f"sqlite:///{folder / 'ledger.db'}")
spool = spooler(ledger, folder)

async def main():
    recorder = Recorder(ledger, StillClock(AT), SystemEntropy(), ThreadPoolExecutor(1), spool)
    count = 0
    async def calls():
        nonlocal count
        while True:
            await recorder.record(used(1))
            sys.stdout.write("accepted\\n")
            sys.stdout.flush()
            count += 1
            if count % 7 == 0:
                ledger.answer_lost = ["before", "after"][count % 2]
            elif count % 7 == 4:
                ledger.away = False
    await asyncio.gather(*(calls() for _ in range(3)))

spool.adopt()
asyncio.run(main())
"""


def test_kill_9(tmp_path: Path) -> None:
    """Killed at any time, in outages and merges of all phases, the next process counts each accepted call (F02, I1)."""
    accepted = 0
    for kill in range(5):
        command = [sys.executable, "-c", CHILD, str(tmp_path)]
        root = Path(__file__).resolve().parents[3]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root, text=True) as child:
            assert child.stdout is not None
            heard = 0
            for line in child.stdout:
                heard += line == "accepted\n"
                if heard == 10 + 5 * kill:
                    child.kill()
            accepted += heard
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    spooler(ledger, tmp_path).adopt()
    assert accepted <= ledger.total <= accepted + 3 * 5
    assert not list(tmp_path.glob("*.spool"))
    ledger.close()


def test_a_fenced_writer_spools_nothing(ledger: Ledger, tmp_path: Path) -> None:
    """Fenced off with its answer lost, a batch that landed is accepted: it is looked up, and does not go again."""

    async def scenario(recorder: Recorder) -> str:
        await recorder.record(used(1))
        landed = ledger.batch_landed

        def fenced(batch: Batch) -> bool:
            SqlStore.close_writer(ledger, batch.writer)
            return landed(batch)

        ledger.answer_lost = "after"
        ledger.batch_landed = fenced  # type: ignore[method-assign]
        original = ledger.commit_batch

        def lost(batch: Batch) -> None:
            try:
                original(batch)
            finally:
                ledger.away = False

        ledger.commit_batch = lost  # type: ignore[method-assign]
        return await ending(recorder.record(used(10)))

    assert run(scenario, ledger, spooler(ledger, tmp_path)) == "accepted"
    assert (ledger.total, files(tmp_path)) == (11, [])
    with pytest.raises(WriterFenced):
        SqlStore.commit_batch(ledger, Batch("nobody", 2, "n", ()))


class Flapping(Ledger):
    """A ledger that is back for the replay, and away again for its very last step."""

    flapped = False

    def close_writer(self, writer: str) -> None:
        if not self.flapped and writer.startswith("spool"):
            self.flapped = self.away = True
        super().close_writer(writer)


def test_a_ledger_that_flaps(tmp_path: Path) -> None:
    """F19, I1: away again when the spool's file is closed, a call goes into a new spool, and into no other file."""
    ledger, folder = Flapping(), tmp_path / "spools"
    folder.mkdir()

    async def scenario(recorder: Recorder) -> None:
        await recorder.record(used(1))
        ledger.away = True
        await recorder.record(used(10))
        ledger.away = False
        for _ in range(1_000):
            await asyncio.sleep(0.001)
            if ledger.flapped:
                break
        with contextlib.ExitStack() as opened:  # whoever opens a file now may get the spool's number
            others = [opened.enter_context((tmp_path / f"other{n}").open("w+")) for n in range(8)]
            await recorder.record(used(100))
            assert [other.read() for other in others] == [""] * 8
        ledger.away = False
        await merged(recorder)

    run(scenario, ledger, spooler(ledger, folder))
    assert (ledger.total, files(folder)) == (111, [])
    ledger.close()


def test_a_closed_file_takes_nothing(ledger: Ledger, tmp_path: Path) -> None:
    """L16: a spool that was closed refuses to be written and to be read, whoever has its descriptor's number now."""
    spool = FileSpoolFolder(tmp_path).create(ledger.ledger().id, "spool_1", AT)
    spool.append(SpooledBatch(1, "n", tuple(used(1))))
    spool.close()
    with (tmp_path / "other").open("w+b") as other:
        with pytest.raises(StoreUnavailable):
            spool.append(SpooledBatch(2, "n", tuple(used(1))))
        with pytest.raises(StoreUnavailable):
            list(spool.read(0))
        spool.close()
        assert other.read() == b""


def test_a_forked_child_has_no_spool(ledger: Ledger, tmp_path: Path) -> None:
    """F22: a child of a spooling process neither writes into its parent's spool nor closes a file by its number."""
    parent = spooler(ledger, tmp_path)
    parent.append(tuple(used(1)))
    spool = parent._require()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with (tmp_path / "other").open("w+b") as other:
                for refused in (parent.step, parent.finish, lambda: spool.append(SpooledBatch(2, "n", ()))):
                    with pytest.raises(StoreUnavailable):
                        refused()
                spool.close()
                parent.close()
                parent.append(tuple(used(10)))
                assert other.read() == b""
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    parent.append(tuple(used(100)))
    parent.finish()
    assert ledger.total == 101
    spooler(ledger, tmp_path).adopt()
    assert ledger.total == 111


@pytest.mark.parametrize("lost", ["before", "after"])
def test_a_doubt_that_the_spool_refuses(ledger: Ledger, tmp_path: Path, lost: str) -> None:
    """I4, L18: a commit's answer is lost and the spool cannot be written: the rest of an answer is counted once."""
    folder = tmp_path / "spools"
    folder.mkdir()

    async def scenario(recorder: Recorder) -> None:
        tails = Tails(recorder, Parking())
        await recorder.record(used(1))
        folder.rmdir()
        ledger.answer_lost = lost
        settling = tails.settle([(("acc", "calls", "key", "GET /api", AT), 47)], AT)
        await settling.tried.wait()
        assert not recorder.healthy
        ledger.away = False
        await asyncio.wait_for(settling.done.wait(), 10)

    run(scenario, ledger, spooler(ledger, folder))
    assert ledger.total == 48


def test_a_doubt_that_outlives_a_spool(ledger: Ledger, tmp_path: Path) -> None:
    """I4, L1: what the spool refused is still settled when later calls went into it: nothing waits for ever."""
    folder = tmp_path / "spools"

    async def scenario(recorder: Recorder) -> InDoubt:
        await recorder.record(used(1))
        ledger.answer_lost = "after"
        with pytest.raises(InDoubt) as doubt:
            await recorder.record(used(10))
        folder.mkdir()
        await recorder.record(used(100))
        ledger.away = False
        await merged(recorder)
        return doubt.value

    doubt = run(scenario, ledger, spooler(ledger, folder))
    assert (doubt.over, doubt.landed, ledger.total) == (True, True, 111)


def test_a_spool_acknowledges_after_its_merge(ledger: Ledger, tmp_path: Path) -> None:
    """L12: while usage of calls that it answered lies in its spool, a process does not say that they are committed."""

    async def scenario(recorder: Recorder) -> list[int]:
        gate = Gate(ledger, StillClock(AT), (), 0, spool_seconds=60)
        gate.poll()
        ledger.add_account(Account("acc", AT))
        own = Presence(
            ledger,
            StillClock(AT),
            SystemEntropy(),
            gate.admissions.acknowledged,
            host="here",
            unsettled=lambda: recorder.unsettled,
        )
        own.step()
        ledger.away = True
        await recorder.record(used(40))
        position = ledger.hold_account("acc", now=AT, until=AT + 300)
        gate.poll()
        own.step()
        said = [p.acknowledged for p in ledger.processes()]
        ledger.away = False
        await merged(recorder)
        own.step()
        assert [p.acknowledged for p in ledger.processes()] == [position]
        return said

    assert run(scenario, ledger, spooler(ledger, tmp_path)) == [0]
    assert ledger.total == 40
