"""A COMMIT of PostgreSQL that never answers, because its synchronous standby is gone: reads go on as if nothing were
wrong (F30)."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from tests.postgres import Cluster, cluster_in, postgres_programs
from tests.shop import Shop, StillClock, bearer, open_shop

from farebox.domain.usage import Batch, Increment
from farebox.errors import StoreUnavailable
from farebox.metering import recorder as recorder_module
from farebox.metering.recorder import RECORDER_THREADS_MAX, Recorder
from farebox.metering.spool import Spooler
from farebox.metering.writer import InDoubt
from farebox.store import patience
from farebox.store.spool import FileSpoolFolder
from farebox.store.sql import SqlStore
from farebox.system import SystemClock, SystemEntropy
from farebox.threads import DaemonThreads

AT: Final = 1_800_000_000
ROW: Final = ("acc", "calls", "key", "GET /", AT)


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    """A server whose commits this test may hold up."""
    with cluster_in(postgres_programs()) as running:
        yield running


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_LOOKS_MAX", 15)
    monkeypatch.setattr(recorder_module, "COMMIT_SECONDS_MAX", 2)
    monkeypatch.setattr(recorder_module, "LEDGER_SECONDS_MAX", 1)


def standby(cluster: Cluster, *, gone: bool) -> None:
    """A synchronous standby that never comes, or none."""
    cluster.ask("ALTER SYSTEM SET synchronous_standby_names = 'gone'" if gone else "ALTER SYSTEM RESET ALL")
    cluster.ask("SELECT pg_reload_conf()")
    wanted = "gone" if gone else ""
    for _ in range(200):
        if cluster.ask("SHOW synchronous_standby_names") == [(wanted,)]:
            cluster.ask(
                "CHECKPOINT"
            )  # the checkpointer tells all others whether to wait: by now it has read the settings
            return
        threading.Event().wait(0.02)
    raise AssertionError("the server does not take its settings up")


def opened_at(url: str) -> SqlStore:
    store = SqlStore(url, StillClock(AT), SystemEntropy())
    store.open()
    return store


def opened(cluster: Cluster) -> SqlStore:
    return opened_at(cluster.fresh())


def batch(number: int) -> Batch:
    return Batch("w", number, f"n{number}", (Increment(*ROW, 10 ** (number - 1), 1, AT),))


def total(store: SqlStore) -> int:
    return sum(line.quantity for line in store.usage("acc", 0, 1 << 40))


async def until_healthy(recorder: Recorder) -> None:
    for _ in range(2_000):
        if recorder.healthy and not recorder.spooling:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not heal")


def test_a_silent_server_is_hung_up_on(own_cluster: Cluster) -> None:
    """F30, I18: a COMMIT without an answer ends within the bound with an unknown outcome, and a connection whose server
    process is frozen is given up for another one."""
    store = opened(own_cluster)
    store.commit_batch(batch(1))
    standby(own_cluster, gone=True)
    with pytest.raises(StoreUnavailable, match="not answered"):
        store.commit_batch(batch(2))
    assert total(store) == 1
    standby(own_cluster, gone=False)
    assert store.batch_landed(batch(2))
    backends = own_cluster.ask("SELECT pid FROM pg_stat_activity WHERE application_name = 'farebox'")
    try:
        for (pid,) in backends:
            os.kill(pid, signal.SIGSTOP)
        assert store.ledger().id  # after the bound, on a new connection
    finally:
        for (pid,) in backends:
            os.kill(pid, signal.SIGCONT)
    assert total(store) == 11
    store.close()


def test_a_migration_is_waited_for(own_cluster: Cluster) -> None:
    """A start waits for somebody else's migration for longer than for any answer, and is in a hurry afterwards."""
    url = own_cluster.fresh()
    first = SqlStore(url, StillClock(AT), SystemEntropy())
    first.open()
    ended = threading.Event()

    def migrate() -> None:
        with first.database.write() as connection:
            first.database._backend.lock_schema(connection)
            started.set()
            ended.wait(3)

    started = threading.Event()
    thread = threading.Thread(target=migrate)
    thread.start()
    assert started.wait(10)
    second = opened_at(url)
    thread.join(10)
    standby(own_cluster, gone=True)
    with pytest.raises(StoreUnavailable, match="not answered"):
        second.commit_batch(batch(1))
    for store in (first, second):
        store.close()


@pytest.mark.parametrize("mode", ["refuse", "spool"])
def test_a_recorder_goes_on(own_cluster: Cluster, tmp_path: Path, mode: str) -> None:
    """F30, I12, I18, L1: in doubt after the bound or answered out of the spool, refused from then on or spooled, and
    all of it counted once when the standby is back."""
    store = opened(own_cluster)
    spool = Spooler(store, FileSpoolFolder(tmp_path), SystemClock(), SystemEntropy(), seconds_max=60)
    spool.learn()

    async def main() -> None:
        threads = DaemonThreads(RECORDER_THREADS_MAX, name="test")
        recorder = Recorder(store, SystemClock(), SystemEntropy(), threads, spool if mode == "spool" else None)
        await recorder.count([(ROW, 1)], AT)
        standby(own_cluster, gone=True)
        if mode == "spool":
            await asyncio.wait_for(recorder.count([(ROW, 10)], AT), 4)
            await asyncio.wait_for(recorder.count([(ROW, 100)], AT), 4)
        else:
            with pytest.raises(InDoubt):
                await asyncio.wait_for(recorder.count([(ROW, 10)], AT), 4)
            assert not recorder.healthy
            await asyncio.sleep(4)
            waiting = own_cluster.ask("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
            assert waiting == [(1,)]  # attempts to go on leave no further backend behind
        standby(own_cluster, gone=False)
        await until_healthy(recorder)
        await recorder.count([(ROW, 1_000)], AT)
        await asyncio.wait_for(recorder.close(), 10)
        assert threads.end(10)

    asyncio.run(main())
    assert total(store) == (1_111 if mode == "spool" else 1_011)
    store.close()


def test_who_is_charged(own_cluster: Cluster, tmp_path: Path) -> None:
    """F30, I12: while commits hang a waiting call gets 503 within the bound, readiness says so, further calls are
    refused before the handler, and nobody is charged for more than the call that was in flight."""
    with open_shop(tmp_path, database=own_cluster.fresh()) as shop:
        buyer = shop.buy()
        assert call(shop, buyer.key) == 200
        standby(own_cluster, gone=True)
        assert call(shop, buyer.key) == 503
        assert shop.client.get("/billing/readyz").status_code == 503
        assert [call(shop, buyer.key) for _ in range(20)] == [503] * 20
        standby(own_cluster, gone=False)
        for _ in range(500):
            if shop.runtime.recorder.healthy:
                break
            threading.Event().wait(0.02)
        assert call(shop, buyer.key) == 200
        assert sum(line.quantity for line in shop.store.usage(buyer.account_id, 0, 1 << 40)) == 3


def call(shop: Shop, key: object) -> int:
    shop.runtime.gate.poll()  # what the feed's loop does: it only reads, and so it succeeds
    return shop.client.get("/api", headers=bearer(key)).status_code  # type: ignore[arg-type]
