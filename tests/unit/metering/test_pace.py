"""How fast Stripe is asked: below its limits, slower when it refuses, and back to full speed."""

import pytest
from tests.reporting import AT, EvenEntropy, Town
from tests.shop import StillClock

from farebox.domain.reports import OutcomeKind, ReportState
from farebox.metering.pace import PACE_PAUSE_SECONDS_MAX, PACE_RECOVERY_SECONDS, Pace, Rates


def calls_in(pace: Pace, clock: StillClock, seconds: int) -> list[int]:
    """Make all calls that may be made, looked at each 50 ms: how many in each second."""
    made = []
    for _ in range(seconds):
        count = 0
        for _ in range(20):
            now = pace.available()
            pace.spend(now)
            count += now
            clock.manual.pass_ms(50)
        made.append(count)
    return made


def test_no_second_has_more_than_a_quarter_above_the_rate() -> None:
    """A rate of 80 % of Stripe's limit with a burst of a quarter keeps every second below the limit (F10)."""
    clock = StillClock(AT)
    pace = Pace(clock, EvenEntropy(), 20, 5)
    clock.pass_seconds(100)
    made = calls_in(pace, clock, 10)
    assert max(made) <= 25
    assert 200 <= sum(made) <= 205


def test_slower_and_back() -> None:
    """Refusals of one second halve the rate once; a minute later it is whole again; Retry-After is obeyed."""
    clock = StillClock(AT)
    pace = Pace(clock, EvenEntropy(), 100, 25)
    for _ in range(30):
        pace.slow(0)
    assert pace.slowdowns == 1
    assert calls_in(pace, clock, 1)[0] in range(45, 55)
    pace.slow(7)
    assert (pace.available(), pace.wait_ms()) == (0, 7_000)
    clock.pass_seconds(7)
    assert pace.available() > 0
    clock.pass_seconds(PACE_RECOVERY_SECONDS)
    assert sum(calls_in(pace, clock, 5)) >= 500


def test_pauses_are_random_and_grow() -> None:
    """Without a word from Stripe the pause is anything up to a ceiling that doubles until something gets through."""
    clock, pauses = StillClock(AT), []
    pace = Pace(clock, EvenEntropy(0x7F), 100, 25)
    for strikes in range(1, 10):
        pace.slow(0)
        pauses.append(pace.wait_ms())
        assert pauses[-1] <= min(1 << strikes, PACE_PAUSE_SECONDS_MAX) * 1000
        clock.pass_seconds(61)
    assert max(pauses) > 2_000
    pace.ease()
    pace.slow(0)
    assert pace.wait_ms() <= 2_000


@pytest.mark.parametrize(
    ("buyers", "rates"),
    [
        (5_000, Rates(20, 5)),
        (600, Rates(20, 0)),
        (600, Rates(100, 0)),  # far above what Stripe allows: it is found out from its refusals
    ],
)
def test_many_due_at_once(buyers: int, rates: Rates) -> None:
    """Customers due at once are drained under Stripe's limits in at most twice the theoretical time (F10, I5)."""
    town = Town(rates=rates)
    town.settle_in(buyers)
    town.use_all(buyers, 3)
    town.sealer.step(hard=True)
    town.wire.sandbox.limits.set({"mode": "test"})
    passed_ms = town.drain()
    assert passed_ms <= 2 * buyers * 1000 // 25
    town.wire.sandbox.limits.set({"mode": "off"})
    assert (town.wire.total, set(town.states)) == (town.used, {ReportState.DELIVERED})
    throttled = town.reporter.counts.outcomes[OutcomeKind.THROTTLED]
    assert (throttled == 0) is (rates.events_per_second == 20)
    town.close()


def test_a_locked_customer_slows_nobody_else(town_of_two: Town) -> None:
    """A lock on one customer and meter makes that one wait, and nobody else (L8)."""
    town = town_of_two
    town.seal(10)
    town.use(20, buyer=2)
    town.sealer.step(hard=True)
    assert (town.step("409"), sorted(town.states)) == (1, [ReportState.DELIVERED, ReportState.PENDING])
    assert town.reporter.pace.slowdowns == 0


@pytest.fixture
def town_of_two() -> Town:
    made = Town()
    made.add_buyer(1)
    made.add_buyer(2)
    return made
