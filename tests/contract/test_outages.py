"""PostgreSQL goes away and comes back under load: nothing is lost and nothing double, refusing or spooling (F19)."""

import asyncio
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest
from tests.postgres import Cluster, cluster_in, postgres_programs
from tests.shop import StillClock

from farebox.domain.usage import Increment
from farebox.errors import StoreError
from farebox.metering.recorder import Recorder
from farebox.metering.spool import Spooler
from farebox.store.spool import FileSpoolFolder
from farebox.store.sql import SqlStore
from farebox.system import SystemClock, SystemEntropy

AT: Final = 1_800_000_000
RESTARTS: Final = 3
UP_SECONDS: Final = 2
CALLERS: Final = 8


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    """A server that this test may take away."""
    with cluster_in(postgres_programs()) as running:
        yield running


@pytest.mark.parametrize("mode", ["refuse", "spool"])
def test_restarts_under_load(own_cluster: Cluster, tmp_path: Path, mode: str) -> None:
    """F19, I1, I12: restarted every few seconds, crashed or stopped in order, each accepted call is counted once.

    Spooling, calls go on meanwhile: none is refused. Refusing, what was not accepted is counted at most once.
    """
    store = SqlStore(own_cluster.url(), StillClock(AT), SystemEntropy())
    store.open()
    seconds_max = 60 if mode == "spool" else None
    spool = Spooler(store, FileSpoolFolder(tmp_path), SystemClock(), SystemEntropy(), seconds_max=seconds_max)
    spool.learn()
    accepted, refused = asyncio.run(_under_load(own_cluster, store, spool))
    total = sum(line.quantity for line in store.usage("acc", 0, 1 << 40))
    assert accepted <= total <= accepted + refused
    assert accepted > 100
    assert not list(tmp_path.iterdir())
    if mode == "spool":
        assert (refused, total) == (0, accepted)
        assert spool.spooled_batches > 0
    store.close()


async def _under_load(cluster: Cluster, store: SqlStore, spool: Spooler) -> tuple[int, int]:
    counts = {"accepted": 0, "refused": 0}
    going = True

    async def calls(recorder: Recorder, caller: int) -> None:
        while going:
            try:
                await recorder.record([Increment("acc", "calls", f"key_{caller}", "GET /", AT, 1, 1, AT)])
                counts["accepted"] += 1
            except StoreError:
                counts["refused"] += 1
                await asyncio.sleep(0.01)

    with ThreadPoolExecutor(1) as thread:
        recorder = Recorder(store, SystemClock(), SystemEntropy(), thread, spool)
        callers = [asyncio.ensure_future(calls(recorder, n)) for n in range(CALLERS)]
        for restart in range(RESTARTS):
            await asyncio.sleep(UP_SECONDS)
            await asyncio.to_thread(cluster.stop, signal.SIGQUIT if restart % 2 == 0 else signal.SIGINT)
            await asyncio.sleep(UP_SECONDS / 2)
            await asyncio.to_thread(cluster.start)
        await asyncio.sleep(UP_SECONDS)
        going = False
        await asyncio.wait(callers)
        if recorder._merging is not None:
            await asyncio.wait({recorder._merging}, timeout=30)
        await recorder.close()
    return counts["accepted"], counts["refused"]
