"""The real clock: it follows the store's time where there is one, and never goes back."""

import gc

import pytest

from farebox.system import COLLECTOR_OBJECTS, FollowingClock, SystemClock, calm_collector

HOUR_MS = 3_600_000


class Machine:
    """A machine's clocks, set by the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall_ms = 1_800_000_000_000
        self.monotonic_ms = 5_000
        monkeypatch.setattr("farebox.system.time.time_ns", lambda: self.wall_ms * 1_000_000)
        monkeypatch.setattr(SystemClock, "monotonic_ms", lambda clock: self.monotonic_ms)

    def pass_ms(self, milliseconds: int) -> None:
        self.wall_ms += milliseconds
        self.monotonic_ms += milliseconds


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_set_back(machine: Machine) -> None:
    """F23: after a step of an hour back it neither goes back nor stands still: half speed until time has caught up."""
    clock = SystemClock()
    before = clock.now_at()
    machine.wall_ms -= HOUR_MS
    assert clock.now_at() == before
    machine.pass_ms(600_000)
    assert clock.now_at() == before + 300
    machine.pass_ms(2 * HOUR_MS - 600_000)
    assert clock.now_at() == before + 3600 == machine.wall_ms // 1000
    machine.pass_ms(10_000)
    assert clock.now_at() == before + 3610


def test_half_speed_in_small_steps(machine: Machine) -> None:
    """Asked a thousand times a second it goes no slower."""
    clock = SystemClock()
    before = clock.now_at()
    machine.wall_ms -= HOUR_MS
    for _ in range(10_000):
        machine.pass_ms(1)
        clock.now_at()
    assert clock.now_at() == before + 5


@pytest.mark.parametrize("apart_seconds", [600, -600, 0])
def test_the_stores_time(machine: Machine, apart_seconds: int) -> None:
    """L4, F23: with a database 10 minutes apart its time counts, and steps of the machine's clock change nothing."""
    clock = SystemClock()
    store_ms = machine.wall_ms + apart_seconds * 1000
    clock.follow_store(store_ms, machine.monotonic_ms)
    assert clock.now_at() == store_ms // 1000
    for step_ms in (HOUR_MS, -HOUR_MS, 40 * 24 * HOUR_MS):
        machine.wall_ms += step_ms
        machine.pass_ms(7_000)
        store_ms += 7_000
        assert clock.now_at() == store_ms // 1000
    assert clock.system_at() != store_ms // 1000


def test_the_stores_time_set_back(machine: Machine) -> None:
    """A store whose time is set back, or a server that takes over with another one, does not take time back."""
    clock = SystemClock()
    clock.follow_store(machine.wall_ms, machine.monotonic_ms)
    before = clock.now_at()
    clock.follow_store(machine.wall_ms - 60_000, machine.monotonic_ms)
    machine.pass_ms(60_000)
    assert clock.now_at() == before + 30
    clock.follow_store(machine.wall_ms, machine.monotonic_ms)
    assert clock.now_at() == before + 60


def test_beside_a_moved_local_stripe(machine: Machine) -> None:
    """The local Stripe's offset comes on top of the store's time."""
    clock = FollowingClock(lambda: 86_400)
    clock.refresh()
    clock.follow_store(machine.wall_ms + 5_000, machine.monotonic_ms)
    assert clock.now_at() == machine.wall_ms // 1000 + 5 + 86_400


@pytest.mark.parametrize(("before", "after"), [(700, COLLECTOR_OBJECTS), (2_000, COLLECTOR_OBJECTS), (50, 50), (0, 0)])
def test_a_calm_collector(before: int, after: int) -> None:
    """What is there at the start is left out of the collector's work, once; a number that somebody chose stays."""
    chosen, frozen = gc.get_threshold(), gc.get_freeze_count()
    try:
        gc.unfreeze()
        gc.set_threshold(before, 10, 10)
        calm_collector()
        assert gc.get_threshold() == (after, 10, 10)
        assert gc.get_freeze_count() > 1_000
        gc.set_threshold(51, 10, 10)
        calm_collector()
        assert gc.get_threshold() == (51, 10, 10)
    finally:
        gc.set_threshold(*chosen)
        if not frozen:
            gc.unfreeze()
