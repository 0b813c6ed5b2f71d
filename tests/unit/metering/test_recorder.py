"""Durable before delivered: shared commits, unknown outcomes, recovery, and writers across a fork."""

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.shop import StillClock

from farebox.domain.usage import Batch, Increment
from farebox.errors import RecordConflict, StoreError, StoreUnavailable, WriterFenced
from farebox.metering import recorder as module
from farebox.metering.recorder import GATHER_MILLISECONDS_MAX, Recorder
from farebox.store import tables as t
from farebox.store.sql import MEMORY_URL, SqlStore
from farebox.system import SystemEntropy

AT: Final = 1_800_000_000
T = TypeVar("T")


class Faulty(SqlStore):
    """The real ledger, with what happens to the next calls of the recorder put down in `faults`.

    "before" and "after" lose the answer before or after the effect, "closed" closes the writer and then loses it.
    """

    def __init__(self, url: str = MEMORY_URL) -> None:
        super().__init__(url, StillClock(AT), SystemEntropy())
        self.faults: list[str] = []
        self.batches: list[Batch] = []
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.open()

    def commit_batch(self, batch: Batch) -> None:
        self.batches.append(batch)
        self.entered.set()
        assert self.gate.wait(10)
        self._through(lambda: super(Faulty, self).commit_batch(batch), batch)

    def batch_landed(self, batch: Batch) -> bool:
        return self._through(lambda: super(Faulty, self).batch_landed(batch), batch)

    def _through(self, work: Callable[[], T], batch: Batch) -> T:
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "closed":
            self.close_writer(batch.writer)
        if fault in ("before", "closed"):
            raise StoreUnavailable(internal=fault)
        done = work()
        if fault == "after":
            raise StoreUnavailable(internal=fault)
        return done

    @property
    def sizes(self) -> list[int]:
        """How many calls each commit was for."""
        return [sum(increment.calls for increment in batch.increments) for batch in self.batches]

    @property
    def total(self) -> int:
        return sum(line.quantity for line in self.usage("acc", 0, 1 << 40))

    def writers(self) -> dict[str, str]:
        with self.database.read() as connection:
            return {row[0]: row[1] for row in connection.execute(sa.select(t.writers.c.id, t.writers.c.state))}


@pytest.fixture
def store() -> Iterator[Faulty]:
    opened = Faulty()
    yield opened
    opened.close()


class InlineThread(Executor):
    """The writer thread that is no thread, so that a fork takes it along."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class TickingClock(StillClock):
    """A millisecond passes at each look at it."""

    def monotonic_ms(self) -> int:
        self.manual.pass_ms(1)
        return super().monotonic_ms()


def run(store: Faulty, scenario: Callable[[Recorder], Awaitable[T]], clock: StillClock | None = None) -> T:
    """The scenario on an event loop, with a recorder and its one writer thread."""

    async def main() -> T:
        with ThreadPoolExecutor(1) as thread:
            recorder = Recorder(store, clock or StillClock(AT), SystemEntropy(), thread)
            try:
                return await asyncio.wait_for(scenario(recorder), 20)
            finally:
                store.gate.set()
                await recorder.close()

    return asyncio.run(main())


def used(quantity: int = 1, record_id: str | None = None, key: str = "key") -> list[Increment]:
    return [Increment("acc", "calls", key, "GET /api", AT, quantity, 1, AT, record_id)]


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def held(store: Faulty) -> None:
    """Wait until a commit is under way and stands still."""
    assert await asyncio.to_thread(store.entered.wait, 10)


async def ending(work: Awaitable[None]) -> str:
    """How a call ended, as a word."""
    try:
        await work
    except StoreError as error:
        return error.code
    return "accepted"


def test_calls_that_finish_together_share_a_commit(store: Faulty) -> None:
    """Fifty calls at once are one batch, and those that come while it is written are the next one (L3)."""

    async def scenario(recorder: Recorder) -> tuple[int, int]:
        store.gate.clear()
        first = [asyncio.ensure_future(recorder.record(used())) for _ in range(50)]
        await held(store)
        second = [asyncio.ensure_future(recorder.record(used())) for _ in range(20)]
        await turns()
        assert not any(call.done() for call in [*first, *second])
        store.gate.set()
        await asyncio.gather(*first, *second)
        return recorder.committed_batches, recorder.committed_calls

    assert run(store, scenario) == (2, 70)
    assert (store.sizes, [b.number for b in store.batches], store.total) == ([50, 20], [1, 2], 70)


def test_a_batch_is_bounded(store: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than a batch may hold are several batches, and none is left behind."""
    monkeypatch.setattr(module, "BATCH_ROWS_MAX", 10)

    async def scenario(recorder: Recorder) -> None:
        await asyncio.gather(*(recorder.record(used(key=f"key_{n}")) for n in range(25)))

    run(store, scenario)
    assert (store.sizes, store.total) == ([10, 10, 5], 25)


def test_a_steady_stream_is_not_waited_out(store: Faulty) -> None:
    """Calls that keep coming put a commit off by the stated milliseconds at most."""

    async def scenario(recorder: Recorder) -> None:
        calls = []
        for _ in range(100):
            calls.append(asyncio.ensure_future(recorder.record(used())))
            await asyncio.sleep(0)
        await asyncio.gather(*calls)

    run(store, scenario, TickingClock(AT))
    assert 1 < store.sizes[0] <= GATHER_MILLISECONDS_MAX + 1
    assert store.total == 100


def test_a_cancelled_caller(store: Faulty) -> None:
    """A caller that goes away while its batch is written cancels nothing: the others are accepted, all are counted."""

    async def scenario(recorder: Recorder) -> list[str]:
        store.gate.clear()
        calls = [asyncio.ensure_future(ending(recorder.record(used()))) for _ in range(3)]
        await held(store)
        calls[0].cancel()
        await turns()
        assert calls[0].cancelled()
        store.gate.set()
        return list(await asyncio.gather(*calls[1:]))

    assert run(store, scenario) == ["accepted", "accepted"]
    assert (store.sizes, store.total) == ([3], 3)


@pytest.mark.parametrize(
    ("faults", "endings", "counted", "writers"),
    [
        ("- after", "yes yes yes", 111, 1),
        ("after", "yes yes yes", 111, 1),
        ("- before", "yes no yes", 101, 1),
        ("before", "no yes yes", 110, 1),
        ("after before before", "yes yes yes", 111, 1),
        ("before before before", "no yes yes", 110, 1),
        ("before after before", "no yes yes", 110, 1),  # the empty batch's own answer was lost: it is an answer, too
        ("- closed", "yes no yes", 101, 2),
        ("- before closed", "yes no yes", 101, 2),
        ("after before before before", "no yes yes", 111, 1),  # refused although it landed: work may have happened
        ("before before before before", "no yes yes", 110, 1),
        ("- before before before before closed", "yes no yes", 101, 2),
        ("- before before before before - before", "yes no no", 1, 1),
    ],
)
def test_an_unknown_outcome(
    store: Faulty, faults: str, endings: str, counted: int, writers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accepted means proven: a lost answer is looked up before anything else is written, and counts once or never (L1).

    The faults meet the recorder's commits and look-ups in turn; the calls are worth 1, 10 and 100.
    """
    monkeypatch.setattr(module, "RETRY_MILLISECONDS", 60_000)
    store.faults = [fault.strip("-") for fault in faults.split()]

    async def scenario(recorder: Recorder) -> list[str]:
        return [await ending(recorder.record(used(quantity))) for quantity in (1, 10, 100)]

    words = {"accepted": "yes", "store_unavailable": "no"}
    assert " ".join(words[end] for end in run(store, scenario)) == endings
    assert (store.total, len(store.writers())) == (counted, writers)


def test_a_writer_that_was_closed(store: Faulty) -> None:
    """Fenced off without any doubt, the same calls are committed under a new writer, and nobody is refused (L1)."""

    async def scenario(recorder: Recorder) -> None:
        await recorder.record(used(1))
        store.close_writer(store.batches[0].writer)
        await recorder.record(used(2))

    run(store, scenario)
    assert store.total == 3
    assert [b.number for b in store.batches] == [1, 2, 1]
    assert len({b.writer for b in store.batches}) == 2


def test_recovery(store: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed commit it is not healthy until an empty commit of its own has succeeded (L16, I12)."""
    monkeypatch.setattr(module, "RETRY_MILLISECONDS", 1)
    store.faults = ["before"] * 7

    async def scenario(recorder: Recorder) -> list[bool]:
        assert await ending(recorder.record(used())) == "store_unavailable"
        seen = [recorder.healthy]
        while not recorder.healthy:
            assert store.total == 0
            await asyncio.sleep(0.001)
        return [*seen, recorder.healthy]

    assert run(store, scenario) == [False, True]
    assert (store.faults, set(store.sizes[1:]), store.total) == ([], {0}, 0)


def test_a_success_heals(store: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that is committed while recovery waits makes it healthy at once."""
    monkeypatch.setattr(module, "RETRY_MILLISECONDS", 60_000)
    store.faults = ["before"]

    async def scenario(recorder: Recorder) -> list[bool]:
        await ending(recorder.record(used()))
        before = recorder.healthy
        await recorder.record(used())
        return [before, recorder.healthy]

    assert run(store, scenario) == [False, True]


def test_a_conflict_hurts_only_itself(store: Faulty) -> None:
    """A reused record id with other values is refused alone: calls beside it are accepted, all stays healthy."""

    work = [used(1), used(2, "job"), used(4), used(8, "job"), used(2, "job"), used(16)]

    async def scenario(recorder: Recorder) -> tuple[list[str], bool]:
        ends = await asyncio.gather(*(recorder.record(increments) for increments in work), return_exceptions=True)
        return [type(end).__name__ for end in ends], recorder.healthy

    names = ["NoneType", "NoneType", "NoneType", RecordConflict.__name__, "NoneType", "NoneType"]
    assert run(store, scenario) == (names, True)
    assert store.total == 1 + 2 + 4 + 16


def test_something_broken_is_refused(store: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that nobody foresaw refuses its own calls with 503 and leaves the recorder working."""
    tokens = ["nonce", "nonce", "writer"]  # and then there are none
    monkeypatch.setattr(SystemEntropy, "token", lambda self: tokens.pop())

    async def scenario(recorder: Recorder) -> list[str]:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        ends = [await ending(recorder.record(used(n))) for n in (1, 2, 4)]
        monkeypatch.undo()
        return [*ends, await ending(recorder.record(used(8)))]

    assert run(store, scenario) == ["accepted", "accepted", "store_unavailable", "accepted"]
    assert store.total == 11


def test_close_commits_what_waits(store: Faulty) -> None:
    """close() commits calls that are under way or waiting, then closes the writer for good (L1)."""

    async def scenario(recorder: Recorder) -> list[str]:
        store.gate.clear()
        first = asyncio.ensure_future(ending(recorder.record(used(1))))
        await held(store)
        waiting = [asyncio.ensure_future(ending(recorder.record(increments))) for increments in (used(2), used(4, "j"))]
        closing = asyncio.ensure_future(recorder.close())
        await turns()
        assert not closing.done()
        store.gate.set()
        await closing
        return [await call for call in (first, *waiting)]

    assert run(store, scenario) == ["accepted"] * 3
    assert (store.total, store.writers()) == (7, {store.batches[0].writer: "closed"})
    with pytest.raises(WriterFenced):
        SqlStore.commit_batch(store, Batch(store.batches[0].writer, 4, "n", ()))


def test_close_without_a_store(store: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    """close() ends quietly although the ledger is gone, and leaves a writer with an unknown batch to be settled."""
    monkeypatch.setattr(module, "RETRY_MILLISECONDS", 1)
    store.faults = ["before"] * 100_000

    async def scenario(recorder: Recorder) -> str:
        end = await ending(recorder.record(used()))
        await asyncio.sleep(0.005)
        await recorder.close()
        return end

    assert run(store, scenario) == "store_unavailable"
    assert store.writers() == {}


@pytest.mark.parametrize("records", [True, False])
def test_a_fork(tmp_path: Path, records: bool) -> None:
    """A child has a writer of its own, and closes only that: parent and child are counted side by side (L1, F22)."""
    store = Faulty(f"sqlite:///{tmp_path / 'ledger.db'}")
    recorder = Recorder(store, StillClock(AT), SystemEntropy(), InlineThread())
    asyncio.run(recorder.record(used(1)))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if records:
                asyncio.run(recorder.record(used(2)))
            asyncio.run(recorder.close())
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    asyncio.run(recorder.record(used(4)))
    assert store.total == (7 if records else 5)
    assert len({batch.writer for batch in store.batches}) == 1
    assert sorted(store.writers().values()) == (["closed", "live"] if records else ["live"])
    store.close()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=4), min_size=1, max_size=5),
    st.lists(st.sampled_from(["", "before", "after", "closed"]), max_size=14),
)
def test_accepted_is_counted_once(waves: list[list[int]], faults: list[str]) -> None:
    """Whatever answers are lost in whatever order: accepted calls are counted once, others once at most (I1, I2)."""
    store = Faulty()
    store.faults = list(faults)
    accepted: Counter[int] = Counter()

    async def scenario(recorder: Recorder, place: int = 0) -> None:
        for wave in waves:
            calls = []
            for named in wave:
                # Each call has a decimal place of its own: the sum's digits say how often each was counted.
                calls.append((place, recorder.record(used(10**place, f"job-{place}" if named else None))))
                place += 1
            ends = await asyncio.gather(*(ending(call) for _, call in calls))
            accepted.update(place for (place, _), end in zip(calls, ends, strict=True) if end == "accepted")

    run(store, scenario)
    counted = Counter({place: int(digit) for place, digit in enumerate(reversed(str(store.total))) if digit != "0"})
    assert set(counted.values()) <= {1}
    assert accepted <= counted
    assert faults or accepted.total() == sum(len(wave) for wave in waves)
    store.close()
