"""What settlements and spools ask of a ledger holds on every kind of database."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from tests.postgres import Cluster
from tests.shop import StillClock

from farebox.domain.accounts import Account
from farebox.domain.usage import Batch, Increment
from farebox.errors import WriterFenced
from farebox.metering.spool import replay
from farebox.ports import ProcessRow, SpooledBatch, WriterState
from farebox.store.spool import FileSpoolFolder
from farebox.store.sql import MEMORY_URL, SqlStore
from farebox.system import SystemEntropy

AT: Final = 1_800_000_000


@pytest.fixture(params=["memory", "file", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlStore]:
    url = MEMORY_URL if request.param == "memory" else f"sqlite:///{tmp_path / 'ledger.db'}"
    cluster: Cluster | None = request.getfixturevalue("cluster") if request.param == "postgres" else None
    opened = SqlStore(cluster.fresh() if cluster is not None else url, StillClock(AT), SystemEntropy())
    opened.open()
    yield opened
    opened.close()


def used(quantity: int) -> tuple[Increment, ...]:
    return (Increment("acc", "calls", "key", "GET /api", AT, quantity, 1, AT),)


def total(store: SqlStore) -> int:
    return sum(line.quantity for line in store.usage("acc", 0, 1 << 40))


def test_writer_state(store: SqlStore) -> None:
    """How far a writer has come is known, also when it was closed or its number was used up by a look-up (L1)."""
    assert store.writer_state("w") is None
    store.commit_batch(Batch("w", 1, "n1", used(1)))
    store.commit_batch(Batch("w", 2, "n2", used(1)))
    assert store.writer_state("w") == WriterState(2, "n2", True)
    assert store.batch_landed(Batch("w", 3, "n3", ())) is False
    assert store.writer_state("w") == WriterState(3, "", True)
    store.close_writer("w")
    assert store.writer_state("w") == WriterState(3, "", False)


def test_a_dead_process_and_its_writers(store: SqlStore) -> None:
    """A process is removed only if it has not beaten since, with its own writers closed and nobody else's (L1)."""
    dead = ProcessRow("aa", "here", 1, AT, AT, 3)
    assert store.beat(dead) is False
    assert store.beat(replace(dead, seen_at=AT + 1, acknowledged=4)) is True
    assert store.beat(ProcessRow("aab", "here", 2, AT, AT, 0)) is False
    rows = store.processes()
    assert rows == [
        ProcessRow("aa", "here", 1, AT, AT + 1, 4, 2),
        ProcessRow("aab", "here", 2, AT, AT, 0, 1),
    ]
    for writer in ("aa-1", "aa-2", "aab-1"):
        store.commit_batch(Batch(writer, 1, "n", used(1)))
    assert store.remove_process(replace(rows[0], beats=1)) is False
    assert store.remove_process(rows[0]) is True
    assert store.remove_process(rows[0]) is False
    for writer in ("aa-1", "aa-2"):
        with pytest.raises(WriterFenced):
            store.commit_batch(Batch(writer, 2, "m", used(1)))
    store.commit_batch(Batch("aab-1", 2, "m", used(1)))
    assert total(store) == 4


def test_one_of_many_holds(store: SqlStore) -> None:
    """Of many that want to hold an account at once, one does (L12)."""
    store.add_account(Account("acc", AT))
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(store.hold_account, "acc", now=AT, until=AT + 60 + n) for n in range(8)]
        positions = [each.result() for each in asked]
    assert len([p for p in positions if p is not None]) == 1
    assert store.held_until("acc") == AT + 60 + next(n for n, p in enumerate(positions) if p is not None)


def test_many_replay_one_spool(store: SqlStore, tmp_path: Path) -> None:
    """Several that replay the same spool at once, with the lost batch in it, count each batch once (L16)."""
    store.commit_batch(Batch("w", 1, "n1", used(1)))  # its answer was lost, and it goes into the spool as well
    spool = FileSpoolFolder(tmp_path).create("ledger", "spool_1", AT)
    spool.append(SpooledBatch(1, "s1", used(1), Batch("w", 1, "n1", ())))
    for number in range(2, 13):
        spool.append(SpooledBatch(number, f"s{number}", used(10)))

    def work() -> None:
        for _ in range(30):
            replay(store, spool, 3)

    with ThreadPoolExecutor(3) as threads:
        for done in [threads.submit(work) for _ in range(3)]:
            done.result()
    state = store.writer_state("spool_1")
    assert (total(store), state) == (111, WriterState(12, "s12", True))
    spool.close()
