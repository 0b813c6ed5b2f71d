"""Many due events go by Stripe's stream of meter events, under the same rules: counted once, whatever is answered."""

from collections.abc import Iterator, Sequence

import pytest
from tests.reporting import HOUR, STREAM_PATH, Scripted, Town

from farebox.domain.reports import STREAM_EVENTS_MIN, MeterEvent, Outcome, OutcomeKind, ReportState, Transport
from farebox.metering.pace import Rates
from farebox.metering.reporter import STREAM_PAUSE_SECONDS, STREAM_RETRY_SECONDS

BUYERS = 250
STREAM = f"POST {STREAM_PATH}"
SESSION = "POST /v2/billing/meter_event_session"
State = ReportState


@pytest.fixture
def town() -> Iterator[Town]:
    """Everybody's first event is due, and Stripe has taken one of somebody else's already."""
    made = Town(rates=Rates(20, 40))
    made.settle_in(BUYERS)
    made.add_buyer(BUYERS)
    made.use(7, buyer=BUYERS)
    made.sealer.step(hard=True)
    made.step()
    made.clock.pass_seconds(HOUR)
    made.use_all(BUYERS, 3)
    made.sealer.step(hard=True)
    yield made
    made.close()


def streamed(town: Town) -> list[MeterEvent]:
    return [event for event in town.events if event.transport is Transport.STREAM]


def test_many_due(town: Town) -> None:
    """A hundred share a request, one session opens the stream, and each is counted once (L8, I4)."""
    assert (town.step(), town.wire.total) == (BUYERS, town.used)
    assert (town.wire.asked[STREAM], town.wire.asked[SESSION], len(town.wire.sent)) == (3, 1, 1)
    assert (len(streamed(town)), set(town.states)) == (BUYERS, {State.DELIVERED})
    assert len({event.idempotency_key for event in streamed(town)}) == 3


def test_few_due(town: Town) -> None:
    """Fewer go one by one, because Stripe looks at those at once."""
    town.step()
    town.clock.pass_seconds(HOUR)
    town.use_all(STREAM_EVENTS_MIN - 1)
    town.sealer.step(hard=True)
    before = town.wire.asked[STREAM]
    town.drain()
    assert (town.wire.asked[STREAM], town.wire.total) == (before, town.used)


def test_the_first_goes_where_it_is_looked_at() -> None:
    """A process sends nothing by the stream before Stripe has taken one event at once: a ledger that was restored
    would not be told that it repeats itself (L6, F27)."""
    town = Town(rates=Rates(20, 40))
    town.settle_in(BUYERS)
    town.use_all(BUYERS)
    town.sealer.step(hard=True)
    assert town.step() == 5
    assert (town.wire.asked[STREAM], town.wire.total) == (0, 5)
    assert (town.step(), town.wire.total) == (BUYERS - 5, BUYERS)
    town.close()


def test_the_session_ends(town: Town) -> None:
    """A session lasts a quarter of an hour; then another one is opened, and nothing is unknown (L8)."""
    town.step()
    town.clock.pass_seconds(HOUR)
    town.use_all(BUYERS)
    town.sealer.step(hard=True)
    town.drain()
    assert (town.wire.asked[SESSION], town.wire.total) == (2, town.used)
    assert all(event.first_unknown_at is None for event in town.events)


@pytest.mark.parametrize("fault", ["before", "after", "500", "503"])
def test_an_unknown_request(town: Town, fault: str) -> None:
    """A request without an answer leaves all its events unknown; they go again by the stream, under their identifiers
    and a new key, and are counted once (L8, I4, F07)."""
    town.wire.stream_faults = [fault] * 3
    assert (town.step(), {e.state for e in streamed(town)}) == (0, {State.PENDING})
    keys = {event.idempotency_key for event in streamed(town)}
    assert all(event.first_unknown_at is not None for event in streamed(town))
    town.drain()
    assert (town.wire.total, {e.state for e in streamed(town)}) == (town.used, {State.DELIVERED})
    assert len(streamed(town)) == BUYERS
    assert not keys & {event.idempotency_key for event in streamed(town)}


def test_an_unknown_request_of_the_day_before(town: Town) -> None:
    """More than 23 hours later Stripe's sums decide for the stream's events as for all others (L9)."""
    town.wire.stream_faults = ["after", "before", "after"]
    town.step()
    town.clock.pass_seconds(24 * HOUR)
    for _ in range(12):
        town.use(1, buyer=BUYERS)
        town.sealer.step(hard=True)
        town.step()
        town.clock.pass_seconds(HOUR)
    assert (town.wire.total, set(town.states)) == (town.used, {State.DELIVERED})


@pytest.mark.parametrize("status", [401, 403])
def test_no_session(town: Town, status: int) -> None:
    """A key that may not open the stream still reports: one by one, for an hour (I5)."""
    town.wire.sandbox.faults.add({"path": "/v2/billing/meter_event_session", "status": status, "count": 1})
    assert (town.step(), town.reporter.halted) == (0, None)
    assert {event.transport for event in town.events if event.state is State.PENDING} == {Transport.UNCHOSEN}
    town.clock.pass_seconds(1)
    assert (town.step(), town.wire.asked[STREAM]) == (5, 0)
    town.clock.pass_seconds(STREAM_PAUSE_SECONDS)
    town.drain()
    assert (town.wire.total, town.wire.asked[STREAM] > 0) == (town.used, True)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_sessions_fail(town: Town, status: int) -> None:
    """While only the sessions fail, usage goes one by one, and the stream is tried again after a minute (I5)."""
    town.wire.sandbox.faults.add({"path": "/v2/billing/meter_event_session", "status": status, "count": 10**6})
    for _ in range(STREAM_RETRY_SECONDS - 1):
        town.step()
        town.clock.pass_seconds(1)
    assert (town.wire.asked[SESSION], town.wire.asked[STREAM]) == (1, 0)
    town.drain()
    assert (town.wire.total, {e.transport for e in town.events}) == (town.used, {Transport.EVENT})
    town.wire.sandbox.faults.clear()
    town.clock.pass_seconds(HOUR)
    town.use_all(BUYERS)
    town.sealer.step(hard=True)
    town.drain()
    assert (town.wire.total, town.wire.asked[STREAM] > 0) == (town.used, True)


class Fleeting(Scripted):
    """Gives sessions that are over when they are used."""

    def open_stream(self) -> Outcome | None:
        return None

    def send_meter_events(self, events: Sequence[MeterEvent], *, idempotency_key: str) -> Outcome:
        return Outcome(OutcomeKind.THROTTLED, "expired", unsent=True)


def test_sessions_that_end_at_once() -> None:
    """Sessions that end again and again do not keep usage: it goes one by one (I5)."""
    provider = Fleeting()
    town = Town(provider=provider, rates=Rates(20, 40))
    for n in range(BUYERS):
        town.add_buyer(n, f"cus_{n}")
    town.use_all(BUYERS)
    town.sealer.step(hard=True)
    town.drain()
    assert len(provider.sent) == BUYERS
    town.close()


def test_being_taken_binds_nothing(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was taken for the stream again and again, and never sent, goes one by one when the key may not open it."""
    with monkeypatch.context() as patch:
        patch.setattr(town.reporter, "_may_send", lambda lease: False)
        for _ in range(3):
            town.step()
            town.clock.pass_seconds(2)
    town.wire.sandbox.faults.add({"path": "/v2/billing/meter_event_session", "status": 403, "count": 10**6})
    town.drain()
    assert (town.wire.total, town.wire.asked[STREAM]) == (town.used, 0)


def test_what_was_refused_goes_one_by_one(town: Town) -> None:
    """A refused request of the stream leaves nothing at Stripe: when the stream does not open any more, its events go
    one by one, each under a key of its own, and nothing halts (L6, L8)."""
    town.wire.stream_faults = ["429"] * 3
    town.step()
    town.wire.sandbox.faults.add({"path": "/v2/billing/meter_event_session", "status": 403, "count": 10**6})
    town.clock.pass_seconds(1_000)  # the session is over as well
    town.drain()
    assert (town.wire.total, town.reporter.halted) == (town.used, None)
    assert all(key.startswith(identifier) for identifier, key in town.wire.sent)


def test_in_doubt_without_a_stream(town: Town) -> None:
    """What the stream left in doubt, and Stripe's sums do not show, is sent one by one when the stream stays closed."""
    town.wire.stream_faults = ["before"] * 3
    town.step()
    town.wire.sandbox.faults.add({"path": "/v2/billing/meter_event_session", "status": 403, "count": 10**6})
    town.clock.pass_seconds(24 * HOUR)
    for _ in range(12):
        town.use(1, buyer=BUYERS)
        town.sealer.step(hard=True)
        town.step()
        town.clock.pass_seconds(HOUR)
    assert (town.wire.total, set(town.states), town.reporter.halted) == (town.used, {State.DELIVERED}, None)


def test_throttled(town: Town) -> None:
    """A refused request slows the stream down; nothing is unknown (L8)."""
    town.wire.stream_faults = ["429"]
    assert town.step() == BUYERS - 100
    assert town.reporter.stream_pace.slowdowns == 1
    town.drain()
    assert town.wire.total == town.used
    assert all(event.first_unknown_at is None for event in town.events)


class Picky(Scripted):
    """Takes no request of the stream that has one of these customers in it."""

    bad: frozenset[str] = frozenset()

    def open_stream(self) -> Outcome | None:
        return None

    def send_meter_events(self, events: Sequence[MeterEvent], *, idempotency_key: str) -> Outcome:
        if self.bad & {event.customer_id for event in events}:
            return Outcome(OutcomeKind.REJECTED, "one of them is no good")
        self.sent += events
        return Outcome(OutcomeKind.DELIVERED)


def test_a_bad_one_among_many() -> None:
    """A request that is refused for one event's sake is halved until only that one is rejected (L8, I5)."""
    provider = Picky()
    town = Town(provider=provider, rates=Rates(20, 40))
    for n in range(BUYERS):
        town.add_buyer(n, f"cus_{n}")
    town.use_all(BUYERS)
    provider.bad = frozenset({"cus_17", "cus_170"})
    town.sealer.step(hard=True)
    town.step()
    town.drain()
    rejected = {event.customer_id for event in town.events if event.state is State.REJECTED}
    assert rejected <= provider.bad
    assert len(provider.sent) == len({event.identifier for event in provider.sent}) == BUYERS - len(rejected)
    assert rejected == provider.bad - {event.customer_id for event in provider.sent}
    town.close()


def test_one_in_flight(town: Town) -> None:
    """Nobody has two events in requests at the same time, by whatever way (L8)."""
    town.use_all(BUYERS)
    town.clock.pass_seconds(HOUR)
    town.use_all(BUYERS)
    town.sealer.step(hard=True)
    taken = town.store.take_meter_events(
        "h", now=town.clock.now_at(), lease_seconds=28, limit=100, stream_limit=2_000, fresh_by_stream=True
    )
    assert len({event.customer_id for event in taken}) == len(taken) == BUYERS
    assert town.step() == 0
