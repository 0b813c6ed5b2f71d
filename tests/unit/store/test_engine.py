"""The ledger's file and its indexes: what a kill leaves is opened again, and what is old slows nothing down."""

import os
import re
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa
from tests.shop import StillClock

from farebox.domain.accounts import Account
from farebox.domain.reports import MeterEvent, Unsealed, seal
from farebox.domain.usage import Batch, Increment
from farebox.errors import StoreBusy
from farebox.store.engine import _Turns
from farebox.store.lock import FolderLock
from farebox.store.sql import SqlStore
from farebox.system import SystemEntropy

AT: Final = 1_800_000_000


def of(path: Path) -> SqlStore:
    return SqlStore(f"sqlite:///{path}", StillClock(AT), SystemEntropy())


def fill(store: SqlStore, writer: str, accounts: int) -> None:
    for n in range(accounts):
        store.add_account(Account(f"acc_{writer}_{n}", AT, reference="r" * 200, customer_id=f"cus_{writer}_{n}"))


def test_a_kill_in_the_middle_of_a_checkpoint(tmp_path: Path) -> None:
    """I14: page 1 already tells of pages that are only in the journal; the ledger opens and lacks nothing."""
    live, whole = tmp_path / "ledger.db", tmp_path / "whole.db"
    store = of(live)
    store.open()
    fill(store, "a", 50)
    store.close()
    with closing(sqlite3.connect(live)) as raw:
        raw.execute("PRAGMA wal_autocheckpoint = 0")
        raw.executemany(
            "INSERT INTO feed (n, account_id) VALUES (?, ?)", [(10_000 + n, "x" * 60) for n in range(20_000)]
        )
        raw.commit()
        for end in ("", "-wal"):
            shutil.copyfile(f"{live}{end}", f"{whole}{end}")
            shutil.copyfile(f"{live}{end}", f"{tmp_path / 'killed.db'}{end}")
    with closing(sqlite3.connect(whole)) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    killed = tmp_path / "killed.db"
    page = int.from_bytes(whole.read_bytes()[16:18], "big")
    killed.write_bytes(whole.read_bytes()[:page] + killed.read_bytes()[page:])
    again = of(killed)
    again.open()
    assert len(again.accounts(limit=100)) == 50
    again.close()
    with closing(sqlite3.connect(killed)) as raw:
        assert raw.execute("SELECT count(*) FROM feed WHERE n >= 10000").fetchone() == (20_000,)
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@contextmanager
def overheard() -> Iterator[list[tuple[str, Any]]]:
    """The statements that are sent meanwhile, each with one set of its values."""
    found: list[tuple[str, Any]] = []

    def hear(_c: object, _r: object, statement: str, values: Any, _x: object, many: bool) -> None:
        found.append((statement, values[0] if many else values))

    sa.event.listen(sa.Engine, "before_cursor_execute", hear)
    try:
        yield found
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", hear)


def plan(unsealed: Unsealed) -> MeterEvent | None:
    return seal("ledger", unsealed, unsealed.meter, AT)


def test_what_is_old_is_not_read_again(tmp_path: Path) -> None:
    """The questions of every second (seal, take, work off) read no table whole, however long the ledger lives."""
    path = tmp_path / "ledger.db"
    store = of(path)
    store.open()
    fill(store, "a", 3)
    increments = tuple(Increment(f"acc_a_{n}", "calls", "key", "GET /", AT, 1, 1, AT) for n in range(3))
    store.commit_batch(Batch("w", 1, "1", increments))
    with overheard() as asked:
        store.commit_batch(Batch("w", 2, "2", increments))
        assert len(store.seal(plan, now=AT)) == 3
        assert len(store.take_meter_events("h", now=AT, lease_seconds=60, limit=10)) == 3
        store.take_inbox("h", now=AT, lease_seconds=60)
    store.close()
    with closing(sqlite3.connect(path)) as raw:
        for statement, values in asked:
            if statement.split()[0] not in ("SELECT", "UPDATE", "WITH"):
                continue
            for row in raw.execute(f"EXPLAIN QUERY PLAN {statement}", values):
                whole = re.match(r"SCAN (usage|meter_events|events|inbox|accounts)\b(?! USING)", row[3])
                assert whole is None, (row[3], statement)


def test_writers_take_turns() -> None:
    """Who came first writes first: one that writes again and again keeps nobody out."""
    turns, order = _Turns(), []
    assert turns.take(1)
    threads = []
    for n in range(5):

        def write(n: int = n) -> None:
            assert turns.take(5)
            order.append(n)
            turns.give_back()

        threads.append(threading.Thread(target=write))
        threads[-1].start()
        while len(turns._waiting) <= n:
            pass
    assert not turns.take(0.01)
    turns.give_back()
    for thread in threads:
        thread.join(5)
    assert order == [0, 1, 2, 3, 4]
    assert turns.take(0)


def test_a_fork_does_not_keep_the_folder(tmp_path: Path) -> None:
    """A forked child that outlives its parent keeps no lock; while the parent lives, nobody else has the folder."""
    lock, ended = FolderLock(tmp_path / "demo.lock"), os.pipe()
    lock.take()
    child = os.fork()
    if child == 0:
        os.read(ended[0], 1)
        os._exit(0)
    with pytest.raises(StoreBusy):
        FolderLock(tmp_path / "demo.lock").take()
    lock.release()
    again = FolderLock(tmp_path / "demo.lock")
    again.take()
    again.release()
    os.write(ended[1], b"x")
    os.waitpid(child, 0)
    for end in ended:
        os.close(end)
