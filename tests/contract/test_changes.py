"""News of changed facts between processes: passed on by PostgreSQL, looked for elsewhere, lost at no cost but time."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from tests.postgres import Cluster
from tests.shop import StillClock

from farebox.domain.accounts import Account
from farebox.metering.gate import Gate
from farebox.store.sql import SqlStore
from farebox.system import SystemClock, SystemEntropy

AT: Final = 1_800_000_000


def of(url: str) -> SqlStore:
    store = SqlStore(url, StillClock(AT), SystemEntropy())
    store.open()
    return store


@pytest.fixture
def url(cluster: Cluster) -> Iterator[str]:
    fresh = cluster.fresh()
    yield fresh
    cluster.drop(fresh)


def seconds_until_heard(listening: SqlStore, change: Callable[[], object], timeout_ms: int) -> float:
    """How long a listener waits that began to before the change."""
    listening.wait_for_change(1)  # the first time it begins to listen
    waited: list[float] = []
    ready = threading.Event()

    def wait() -> None:
        ready.set()
        began = time.monotonic()
        listening.wait_for_change(timeout_ms)
        waited.append(time.monotonic() - began)

    thread = threading.Thread(target=wait)
    thread.start()
    ready.wait(10)
    change()
    thread.join()
    return waited[0]


def test_a_notice(url: str) -> None:
    """I9: who waits for changes is woken by another process's, long before it would look again by itself."""
    ours, theirs = of(url), of(url)
    theirs.add_account(Account("acc_1", AT))
    assert seconds_until_heard(ours, lambda: theirs.set_customer("acc_1", "cus_1"), 20_000) < 10
    began = time.monotonic()
    ours.wait_for_change(200)
    assert time.monotonic() - began > 0.15
    ours.close()
    theirs.close()


def test_a_lost_notice(url: str, cluster: Cluster) -> None:
    """F18: when the connection that listens is cut, waiting ends with its time and never with an error."""
    ours = of(url)
    ours.wait_for_change(1)
    listening = "FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"
    cut = cluster.ask(f"SELECT count(pg_terminate_backend(pid)) {listening}", url.rpartition("/")[2])
    assert cut == [(1,)]
    for _ in range(30):  # longer than it stays away from listening
        ours.wait_for_change(10)
    theirs = of(url)
    theirs.add_account(Account("acc_1", AT))
    assert seconds_until_heard(ours, lambda: theirs.set_customer("acc_1", "cus_1"), 20_000) < 10
    ours.close()
    theirs.close()


def test_without_notices(tmp_path: Path) -> None:
    """SQLite passes nothing on: who waits looks again when its time is over."""
    ours = of(f"sqlite:///{tmp_path / 'ledger.db'}")
    began = time.monotonic()
    ours.wait_for_change(100)
    assert time.monotonic() - began > 0.08
    ours.close()


def test_the_databases_time(url: str, tmp_path: Path) -> None:
    """L4: PostgreSQL tells its own time with the feed; a SQLite file's is the machine's."""
    store = of(url)
    told_ms = store.changes("", 0).at_ms
    assert told_ms is not None
    assert abs(told_ms // 1000 - SystemClock().system_at()) <= 5
    store.close()
    file = of(f"sqlite:///{tmp_path / 'ledger.db'}")
    assert file.changes("", 0).at_ms is None
    file.close()


@pytest.mark.parametrize("apart_seconds", [600, -600])
def test_a_machine_that_is_wrong(url: str, apart_seconds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """F23, L4: a machine ten minutes off its database's time counts calls at the database's, from the first poll on."""
    right = time.time_ns
    monkeypatch.setattr("farebox.system.time.time_ns", lambda: right() + apart_seconds * 1_000_000_000)
    clock = SystemClock()
    store = SqlStore(url, clock, SystemEntropy())
    store.open()
    gate = Gate(store, clock, (), 0, told_time=clock.follow_store)
    gate.poll()
    assert abs(clock.now_at() - right() // 1_000_000_000) <= 5
    store.close()
