"""Who serves, who is dead, and what a process has finished that it let in before a change (L1, L12)."""

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.shop import StillClock

from farebox.domain.accounts import Account
from farebox.domain.usage import Batch, Increment
from farebox.errors import WriterFenced
from farebox.metering.presence import (
    PRESENCE_SECONDS_MAX,
    WATCH_GAP_SECONDS_MAX,
    Admission,
    Admissions,
    Presence,
    Watch,
)
from farebox.ports import ProcessRow
from farebox.store.sql import MEMORY_URL, SqlStore
from farebox.system import SystemEntropy

AT: Final = 1_800_000_000


@pytest.fixture
def store() -> Iterator[SqlStore]:
    opened = SqlStore(MEMORY_URL, StillClock(AT), SystemEntropy())
    opened.open()
    yield opened
    opened.close()


def presence(store: SqlStore, clock: StillClock, acknowledged: int = 0) -> Presence:
    return Presence(store, clock, SystemEntropy(), lambda: acknowledged, host="here")


def test_what_was_let_in_before() -> None:
    """A position is acknowledged when all calls are done that were let in without knowing it, whatever came after."""
    admissions = Admissions()
    before, also = admissions.enter(), admissions.enter()
    admissions.advance(5)
    later = admissions.enter()
    assert admissions.acknowledged() == 0
    before.leave()
    before.leave()
    assert admissions.acknowledged() == 0
    also.leave()
    assert admissions.acknowledged() == 5
    admissions.advance(7)
    admissions.advance(7)
    assert admissions.acknowledged() == 5
    later.leave()
    assert admissions.acknowledged() == 7


@given(st.lists(st.one_of(st.just("enter"), st.just("advance"), st.integers(0, 5)), max_size=40))
def test_never_too_early(steps: list[str | int]) -> None:
    """In any order: what is acknowledged is known to every call under way, and all of it is once none is (L12)."""
    admissions, position = Admissions(), 0
    under_way: list[tuple[int, Admission]] = []
    for step in steps:
        if step == "enter":
            under_way.append((position, admissions.enter()))
        elif step == "advance":
            position += 1
            admissions.advance(position)
        elif isinstance(step, int) and step < len(under_way):
            under_way.pop(step)[1].leave()
        assert admissions.acknowledged() == min([position, *(known for known, _ in under_way)])


def test_a_process_that_stops_beating(store: SqlStore) -> None:
    """After the stated time without a beat a process is removed by any other, and its writers are closed (L1)."""
    clock = StillClock(AT)
    here, dead = presence(store, clock), presence(store, clock)
    dead.step()
    writer = f"{dead.id}-1"
    mine = f"{here.id}-1"
    used = (Increment("acc", "calls", "key", "", AT, 1, 1, AT),)
    store.commit_batch(Batch(writer, 1, "n", used))
    store.commit_batch(Batch(mine, 1, "n", used))
    for _ in range(PRESENCE_SECONDS_MAX + 1):
        here.step()
        assert len(store.processes()) == 2
        clock.pass_seconds(1)
    here.step()
    assert [row.id for row in store.processes()] == [here.id]
    with pytest.raises(WriterFenced):
        store.commit_batch(Batch(writer, 2, "n", used))
    store.commit_batch(Batch(mine, 2, "m", used))
    dead.step()  # it was only slow
    assert len(store.processes()) == 2


def test_a_beat_in_the_last_moment(store: SqlStore) -> None:
    """A process that beats after it was taken for dead stays, and so do its writers."""
    clock = StillClock(AT)
    slow = presence(store, clock)
    slow.step()
    seen = store.processes()[0]
    slow.step()
    assert store.remove_process(seen) is False
    assert store.remove_process(store.processes()[0]) is True
    assert store.processes() == []


def test_an_outage_kills_nobody() -> None:
    """Who could not look itself for a while calls nobody dead: while the ledger is away nobody can beat (F19)."""
    clock = StillClock(AT)
    watch, row = Watch(clock), ProcessRow("p", "here", 1, AT, AT, 0)
    assert watch.dead([row]) == []
    clock.pass_seconds(PRESENCE_SECONDS_MAX + 1)
    assert watch.dead([row]) == []
    for _ in range(PRESENCE_SECONDS_MAX // WATCH_GAP_SECONDS_MAX):
        clock.pass_seconds(WATCH_GAP_SECONDS_MAX)
        assert watch.dead([row]) == []
    clock.pass_seconds(1)
    assert watch.dead([row]) == [row]
    assert watch.dead([replace(row, beats=1)]) == []


def test_clocks_do_not_matter(store: SqlStore) -> None:
    """A process whose clock stands still or is an hour off lives as long as it beats (F23)."""
    clock, other = StillClock(AT), StillClock(AT - 3_600)
    here, there = presence(store, clock), presence(store, other)
    for _ in range(2 * PRESENCE_SECONDS_MAX):
        here.step()
        there.step()
        clock.pass_seconds(1)
    assert len(store.processes()) == 2


def test_going(store: SqlStore) -> None:
    """A process that goes is gone at once; a forked child is another one (F22)."""
    here = presence(store, StillClock(AT), acknowledged=7)
    here.step()
    row = store.processes()[0]
    assert (row.id, row.host, row.pid, row.acknowledged, row.beats) == (here.id, "here", os.getpid(), 7, 1)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, here.id.encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 100).decode() != here.id
    os.close(reading)
    os.close(writing)
    here.leave()
    assert store.processes() == []


def test_holds(store: SqlStore) -> None:
    """One hold at a time; it is in the feed, ends by itself, and is released only by who took it (L12)."""
    store.add_account(Account("acc", AT))
    before = store.changes("", 0)
    position = store.hold_account("acc", now=AT, until=AT + 300)
    after = store.changes(before.epoch, before.head)
    assert (after.head, after.account_ids) == (position, ("acc",))
    assert store.hold_account("acc", now=AT + 299, until=AT + 600) is None
    store.release_account("acc", until=AT + 1)
    assert store.held_until("acc") == AT + 300
    assert store.hold_account("acc", now=AT + 300, until=AT + 600) is not None
    store.release_account("acc", until=AT + 600)
    assert (store.held_until("acc"), store.changes(before.epoch, before.head).head) == (None, before.head + 3)
    assert store.hold_account("nobody", now=AT, until=AT + 1) is None
