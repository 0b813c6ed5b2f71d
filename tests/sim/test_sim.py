"""The simulation in the ordinary tests: a slice of seeds, and a check of the judge."""

import hashlib

import pytest
from tests.oracle import Counted, Oracle
from tests.sim.swarm import DAY_MS, ON, Swarm
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


def ends_elsewhere(swarm: Swarm) -> None:
    """Subscriptions end at Stripe, in every way, and otherwise the weather is fine."""
    swarm.calm()
    swarm.processes, swarm.accounts, swarm.days = 1, 2, 6
    swarm.bursts_gap_ms, swarm.burst_calls, swarm.changes_gap_ms = DAY_MS // 4, 3, 2 * DAY_MS
    swarm.endings_gap_ms = 2 * DAY_MS


@pytest.mark.skipif("F29" not in ON, reason="the simulation does not draw F29 yet")
@pytest.mark.parametrize("seed", range(3))
def test_endings_by_somebody_elses_hand(seed: int) -> None:
    """F29, I15: dashboard, API, dunning or a deleted customer end a subscription, with and without an invoice: what
    was used is on a final invoice, or is a named difference."""
    world = World(seed, ends_elsewhere)
    world.run()
    assert not world.oracle.violations, world.oracle.violations[0]


def commits_hang(swarm: Swarm) -> None:
    """The commits of one process after another do not answer, and otherwise the weather is fine."""
    swarm.calm()
    swarm.processes, swarm.accounts, swarm.days = 2, 2, 3
    swarm.bursts_gap_ms, swarm.burst_calls = DAY_MS // 24, 3
    swarm.hangs_gap_ms, swarm.hang_ms, swarm.hang_lost = DAY_MS // 12, 3_600_000, 500_000


@pytest.mark.skipif("F30" not in ON, reason="the simulation does not draw F30 yet")
@pytest.mark.parametrize("seed", range(3))
def test_commits_that_never_answer(seed: int) -> None:
    """F30, I12, I18: while the commits of a process hang and its reads do not, no client waits longer for its answer
    than the bound says, the other process goes on, and nothing is lost or counted twice."""
    world = World(seed, commits_hang)
    world.run()
    assert not world.oracle.violations, world.oracle.violations[0]


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


def test_the_oracle_knows_who_was_billed() -> None:
    """I7, I15, I16, I18: what nobody is billed for, what is billed twice, who waits for somebody else's trouble, and
    a client who waits too long or for ever, are each named."""
    oracle = Oracle()
    due, billed = {("a", "calls"): 5, ("b", "calls"): 5}, {("a", "calls"): 5, ("b", "calls"): 3}
    oracle.look_at_bills(due, billed, {("b", "calls"): 2})
    assert oracle.violations == []
    oracle.look_at_bills(due, billed, {("b", "calls"): 1})
    oracle.look_at_bills(billed, due, {})
    oracle.look_at_the_rest({"webhooks": 0, "late items": 0}, {"p1"})
    assert [text.split(":")[0] for text in oracle.violations] == ["I15", "I7"]
    oracle.look_at_the_rest({"webhooks": 1}, {"p1"})
    for call, process in ((1, "p1"), (2, "p2"), (3, "p1"), (4, "p1")):
        oracle.began(call, "a", "k", process, 0, {})
    oracle.ended(3, "refused", 25_000)
    oracle.ended(4, "refused", 25_001)
    oracle.look_at_the_rest({}, {"p1"})
    assert [text.split(":")[0] for text in oracle.violations[2:]] == ["I16", "I18", "I18"]


def one_is_broken(swarm: Swarm) -> None:
    """One account after another is in trouble at Stripe, every webhook is lost, and otherwise the weather is fine."""
    swarm.calm()
    swarm.processes, swarm.accounts, swarm.days = 1, 3, 2
    swarm.bursts_gap_ms, swarm.burst_calls, swarm.changes_gap_ms = DAY_MS // 4, 3, DAY_MS // 12
    swarm.broken_gap_ms, swarm.broken_ms, swarm.dropped = DAY_MS // 8, DAY_MS, 1_000_000


@pytest.mark.parametrize("seed", range(3))
def test_one_account_is_broken(seed: int) -> None:
    """F31, I16: Stripe refuses, throttles or saves failures for one account's objects; the others' webhooks, usage,
    late items and facts are worked off within a day all the same, and the broken one's once Stripe has mended it."""
    world = World(seed, one_is_broken)
    world.run()
    assert not world.oracle.violations, world.oracle.violations[0]
