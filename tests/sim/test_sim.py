"""The simulation in the ordinary tests: a slice of seeds, and a check of the judge."""

import hashlib

import pytest
from tests.oracle import Counted
from tests.sim.swarm import Swarm
from tests.sim.world import World

SLICE = range(16)  # the bugs of tests/planted that a world can show turn some of these red


def short(swarm: Swarm) -> None:
    swarm.days = min(swarm.days, 10)


@pytest.mark.parametrize("seed", SLICE)
def test_a_shop_stays_right_under_faults(seed: int) -> None:
    """I1–I6, I9, I10 hold in every step under F01, F04–F08, F12, F13 and F15, and once all is healed nothing waits."""
    world = World(seed, short)
    world.run()
    assert not world.oracle.violations, f"python -m tests.sim --seed {seed}  # {world.oracle.violations[0]}"


@pytest.mark.parametrize("seed", [795766509])
def test_seeds_that_have_failed(seed: int) -> None:
    """Worlds that once ended in a violation, with all of their days.

    795766509: events that Stripe counted when their invoice was final were billed late, which is right (L10).
    """
    world = World(seed)
    world.run()
    assert not world.oracle.violations, f"python -m tests.sim --seed {seed}  # {world.oracle.violations[0]}"


def test_the_same_seed_has_the_same_history() -> None:
    """A failure can be replayed: two worlds of one seed agree in every event that Stripe has counted, and in every
    step."""

    def history() -> tuple[str, int, int]:
        world = World(4, short)
        world.run()
        return hashlib.sha256(repr(sorted(world.oracle.book)).encode()).hexdigest(), world.hub.steps, world.calls

    assert history() == history()


def test_the_oracle_can_say_no() -> None:
    """I1–I4 and I9: each lie about a call, an event or a key is named."""
    world = World(0)
    oracle = world.oracle
    oracle.began(1, "a", "k", "p1", 5_000, {"calls": 2})
    oracle.revoked("k", "p2", 1_000)
    oracle.ended(1, "accepted")
    oracle.look_at_usage({("a", "calls"): 1, ("b", "calls"): 1})
    entry = Counted("e", "a", "calls", 1, 0)
    oracle.counted(entry)
    oracle.counted(entry)
    oracle.look_at_end({}, [], 7)
    assert sorted({text[:2] for text in oracle.violations}) == ["I1", "I2", "I3", "I4", "I9"]
    assert (oracle.lost, oracle.doubled) == (1, 1)
