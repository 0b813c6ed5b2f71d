"""What Stripe may have counted more than 23 hours ago is settled by Stripe's own sums, and never counted twice (L9)."""

import random
from collections.abc import Iterator

import pytest
from tests.reporting import AT, HOUR, Town

from farebox.domain.reports import MeterEvent, ReportState
from farebox.metering.doubts import DOUBT_READS_PER_HOUR_MAX, DOUBT_SECONDS_MAX

State = ReportState
DAY = 24 * HOUR
SUMMARIES = "event_summaries"


@pytest.fixture
def town() -> Iterator[Town]:
    made = Town()
    made.add_buyer(1)
    made.add_buyer(2)
    yield made
    made.close()


def doubt(town: Town, fault: str) -> MeterEvent:
    """Usage of the first buyer whose one attempt met a fault more than 23 hours ago."""
    town.seal(10)
    town.step(fault)
    town.clock.pass_seconds(23 * HOUR + 1)
    return town.events[0]


def reads(town: Town) -> int:
    return sum(count for asked, count in town.wire.asked.items() if asked.endswith(SUMMARIES))


def test_two_zeros_and_a_witness(town: Town) -> None:
    """It is sent again only after two readings of zero an hour apart, while something accepted later shows (L9, I4)."""
    event = doubt(town, "before")
    assert (town.step(), town.states, len(town.wire.sent), reads(town)) == (0, [State.PENDING], 1, 1)
    assert town.events[0].zero_read_at == town.clock.now_at()
    town.clock.pass_seconds(HOUR // 2)
    town.use(5, buyer=2)
    town.sealer.step(hard=True)
    assert (town.step(), len(town.wire.sent), reads(town)) == (1, 2, 1)
    town.clock.pass_seconds(HOUR // 2 - 1)
    assert (town.step(), len(town.wire.sent)) == (0, 2)
    town.clock.pass_seconds(1)
    assert (town.step(), town.states) == (1, [State.DELIVERED, State.DELIVERED])
    assert (town.wire.sent[-1][0], town.wire.total, reads(town)) == (event.identifier, 15, 3)
    assert town.events[0].zero_read_at is None


def test_it_shows_late(town: Town) -> None:
    """A sum that lags is not believed at once: what shows at the second reading is delivered, and not sent (L9)."""
    town.wire.sandbox.aggregation_lag_seconds = 24 * HOUR
    doubt(town, "after")
    assert (town.step(), town.states) == (0, [State.PENDING])
    town.clock.pass_seconds(HOUR)
    assert (town.step(), town.states, len(town.wire.sent), town.wire.total) == (1, [State.DELIVERED], 1, 10)


def test_nothing_accepted_later_shows(town: Town) -> None:
    """While Stripe's sums stand still, zero says nothing: it waits, and is parked after days with its reason (L9)."""
    town.wire.sandbox.aggregation_lag_seconds = 30 * DAY
    doubt(town, "after")
    for _ in range(DOUBT_SECONDS_MAX // HOUR + 2):
        town.use(1, buyer=2)
        town.sealer.step(hard=True)
        town.step()
        town.clock.pass_seconds(HOUR)
    event = town.events[0]
    assert (event.state, town.wire.counted[event.identifier]) == (State.DOUBTFUL, 1)
    assert "nothing that was accepted later" in event.reason


def test_a_sum_that_fits_nothing(town: Town) -> None:
    """A minute that shows neither zero nor the value is for a person (L9)."""
    event = doubt(town, "before")
    payload = f"payload[stripe_customer_id]={event.customer_id}&payload[value]=3"
    body = f"event_name={event.event_name}&identifier=strange&timestamp={event.timestamp}&{payload}"
    headers = {"Authorization": "Bearer sk_test_of_the_town"}
    assert town.wire.sandbox.request("POST", "/v1/billing/meter_events", headers, body.encode()).status == 200
    assert (town.step(), town.states, len(town.wire.sent)) == (1, [State.DOUBTFUL], 1)
    assert "neither 0 nor its value" in town.events[0].reason


def test_usage_goes_on_beside_a_doubt(town: Town) -> None:
    """An event in doubt keeps nobody waiting, its own customer neither (I5)."""
    doubt(town, "before")
    town.step()
    town.clock.pass_seconds(61)
    town.use(4)
    town.sealer.step()
    assert (town.step(), town.wire.total) == (1, 4)


def test_the_sums_cannot_be_read(town: Town) -> None:
    """When Stripe does not tell its sums, nothing is sent and nothing parked; it is asked again later (L9)."""
    doubt(town, "after")
    town.wire.sandbox.faults.add({"path": "/v1/billing/meters*", "status": 400, "count": 9})
    assert (town.step(), town.states, len(town.wire.sent)) == (0, [State.PENDING], 1)
    town.wire.sandbox.faults.clear()
    town.clock.pass_seconds(HOUR)
    assert (town.step(), town.states, len(town.wire.sent)) == (1, [State.DELIVERED], 1)


def test_reads_are_budgeted(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more sums are read in an hour than planned; the rest waits for the next (L9)."""
    assert DOUBT_READS_PER_HOUR_MAX * 24 * 30 > 10_000
    monkeypatch.setattr("farebox.metering.doubts.DOUBT_READS_PER_HOUR_MAX", 2)  # the meters, and one sum
    town.seal(10)
    town.use(5, buyer=2)
    town.sealer.step(hard=True)
    town.step("after", "after")
    town.clock.pass_seconds(23 * HOUR + 1)
    assert (town.step(), reads(town), sorted(town.states)) == (1, 1, [State.DELIVERED, State.PENDING])
    town.clock.pass_seconds(HOUR)
    assert (town.step(), reads(town), town.states, town.wire.total) == (1, 2, [State.DELIVERED] * 2, 15)


@pytest.mark.parametrize("seed", range(3))
def test_stripe_is_gone_for_a_week(seed: int) -> None:
    """Seven days in which half of the calls are silently committed and no answer comes: nothing double, nothing lost,
    at most something visibly doubtful (F08, I4, I5)."""
    town, chance, buyers = Town(), random.Random(seed), 8
    for n in range(1, buyers + 1):
        town.add_buyer(n)

    def live(hours: int, *, outage: bool) -> None:
        for _ in range(hours):
            town.use(chance.randint(1, 9), buyer=chance.randint(1, buyers))
            town.sealer.step(hard=chance.random() < 0.1)
            for _ in range(3):
                town.step(*(chance.choice(["before", "after", "500", "refused"]) for _ in range(20 * outage)))
                town.clock.pass_seconds(HOUR // 3)

    live(6, outage=False)
    live(7 * 24, outage=True)
    assert town.clock.now_at() - AT >= 7 * DAY
    live(3 * 24, outage=False)
    town.sealer.step(hard=True)
    town.step()
    events = town.events
    lost = sum(e.value for e in events if not town.wire.counted[e.identifier])
    assert set(town.wire.counted.values()) == {1}
    assert town.wire.total == sum(e.value for e in events) - lost
    assert {e.state for e in events} <= {State.DELIVERED, State.DOUBTFUL}
    assert all(town.wire.counted[e.identifier] for e in events if e.state is State.DELIVERED)
    assert (lost, sum(e.value for e in events)) == (0, town.used)
    assert all(e.reason for e in events if e.state is State.DOUBTFUL)
    town.close()
