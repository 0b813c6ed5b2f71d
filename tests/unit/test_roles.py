"""Roles of processes: one has it, the others do without, and a dead one is followed by another."""

from collections.abc import Iterator

import pytest
from tests.shop import StillClock

from farebox.errors import StoreUnavailable
from farebox.roles import ROLE_LEASE_SECONDS, Roles
from farebox.store.sql import MEMORY_URL, SqlStore
from farebox.system import SystemEntropy


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def store(clock: StillClock) -> Iterator[SqlStore]:
    opened = SqlStore(MEMORY_URL, clock, SystemEntropy())
    opened.open()
    yield opened
    opened.close()


def test_one_has_the_role(store: SqlStore, clock: StillClock) -> None:
    """The first to ask has it and is told once; it keeps it as long as it renews in time."""
    told: list[str] = []
    first, second = Roles(store, clock, "first"), Roles(store, clock, "second")
    ours = first.add("reporter", lambda: told.append("first"))
    theirs = second.add("reporter", lambda: told.append("second"))
    for _ in range(10):
        first.renew()
        second.renew()
        assert (ours.held, theirs.held) == (True, False)
        clock.pass_seconds(ROLE_LEASE_SECONDS - 1)
    assert (told, ours.fence) == (["first"], 1)


def test_a_dead_holder_is_followed(store: SqlStore, clock: StillClock) -> None:
    """F15: a holder that stops renewing stops holding when its lease ends, at which another may take it, not before."""
    first, second = Roles(store, clock, "first"), Roles(store, clock, "second")
    ours, theirs = first.add("reporter", lambda: None), second.add("reporter", lambda: None)
    first.renew()
    clock.pass_seconds(ROLE_LEASE_SECONDS - 1)
    second.renew()
    assert (ours.held, theirs.held) == (True, False)
    clock.pass_seconds(1)
    assert not ours.held
    second.renew()
    assert (theirs.held, theirs.fence) == (True, 2)
    first.renew()
    assert (ours.held, ours.fence) == (False, None)


def test_given_up_at_once(store: SqlStore, clock: StillClock) -> None:
    """A process that ends leaves its role to the next that asks, and holds it no more itself."""
    first, second = Roles(store, clock, "first"), Roles(store, clock, "second")
    ours, theirs = first.add("sweep", lambda: None), second.add("sweep", lambda: None)
    first.renew()
    first.release()
    assert not ours.held
    second.renew()
    first.release()
    assert (theirs.held, theirs.fence) == (True, 2)


def test_without_the_ledger(store: SqlStore, clock: StillClock) -> None:
    """When the ledger cannot be asked, a role ends with its lease, and giving it up is no error."""
    roles = Roles(store, clock, "first")
    ours = roles.add("reporter", lambda: None)
    roles.renew()
    store.close()
    with pytest.raises(StoreUnavailable):
        roles.renew()
    held = [ours.held]
    clock.pass_seconds(ROLE_LEASE_SECONDS)
    held.append(ours.held)
    assert held == [True, False]
    roles.release()
