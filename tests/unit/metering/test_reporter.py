"""What is sealed reaches the local Stripe once, whatever is answered, lost or delayed on the way."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.reporting import AT, HOUR, Died, Scripted, Town

from farebox.domain.audit import AuditEntry
from farebox.domain.reports import Outcome, OutcomeKind, ReportState
from farebox.errors import StoreUnavailable
from farebox.metering.reporter import BACKOFF_SECONDS_MAX, EVENT_AGE_SECONDS_MAX

Kind = OutcomeKind
State = ReportState


@pytest.fixture
def town() -> Iterator[Town]:
    made = Town()
    made.add_buyer(1)
    yield made
    made.close()


@pytest.fixture
def told() -> Iterator[tuple[Town, Scripted]]:
    provider = Scripted()
    made = Town(provider=provider)
    made.add_buyer(1, "cus_1")
    yield made, provider
    made.close()


def test_delivered(town: Town) -> None:
    """What was sealed is at Stripe after one round, counted once, and never sent again (I3, I4)."""
    town.seal(10)
    assert (town.step(), town.step(), len(town.wire.sent)) == (1, 0, 1)
    assert (town.wire.total, town.states) == (10, [State.DELIVERED])
    assert (town.reporter.counts.delivered_quantity, town.reporter.counts.outcomes[Kind.DELIVERED]) == (10, 1)


@pytest.mark.parametrize(
    ("fault", "keys", "unknown"),
    [
        ("refused", 1, False),
        ("409", 1, False),
        ("429", 1, False),
        ("before", 1, True),
        ("after", 1, True),
        ("500", 2, True),
        ("503", 2, True),
        ("500 after", 2, True),
    ],
)
def test_one_bad_answer(town: Town, fault: str, keys: int, unknown: bool) -> None:
    """Sent again under its identifier, and after a 5xx under a new idempotency key: counted once (L8, F04-F07, F09)."""
    town.seal(10)
    assert (town.step(fault), town.states) == (0, [State.PENDING])
    assert town.step() == 0
    town.clock.pass_seconds(1)
    assert (town.step(), town.states, town.wire.total) == (1, [State.DELIVERED], 10)
    assert len({identifier for identifier, _ in town.wire.sent}) == 1
    assert (len(town.wire.sent), len({key for _, key in town.wire.sent})) == (2, keys)
    assert town.events[0].first_unknown_at == (AT if unknown else None)
    assert town.reporter.halted is None


def test_a_duplicate_at_first_sight_halts(told: tuple[Town, Scripted]) -> None:
    """Stripe knowing what was never sent means a restored or copied ledger: say so, park it, send nothing (L6, F27)."""
    town, provider = told
    town.add_buyer(2, "cus_2")
    town.seal(10, 20)
    town.use(30, buyer=2)
    town.sealer.step(hard=True)
    provider.script = [Outcome(Kind.DUPLICATE, "An event already exists with identifier x.")]
    assert town.reporter.step(10) == 1
    assert town.reporter.halted is not None
    assert town.events[0].identifier in town.reporter.halted
    assert "restored or copied" in town.reporter.halted
    town.clock.pass_seconds(HOUR)
    assert (town.reporter.step(10), len(provider.sent)) == (0, 1)
    assert town.states == [State.DOUBTFUL, State.PENDING, State.PENDING]
    entry = AuditEntry("audit_1", town.clock.now_at(), "ada", "usage.resume", "ledger")
    assert town.store.resume_reporting(audit=entry) == town.reporter.halted
    assert (town.reporter.step(10), town.reporter.step(10), len(provider.sent)) == (2, 0, 3)


def test_a_duplicate_that_comes_late(told: tuple[Town, Scripted], monkeypatch: pytest.MonkeyPatch) -> None:
    """L6: a send that comes back while the step's outcomes are being written is not forgotten: if Stripe already has
    its event, the next step halts."""
    town, provider = told
    town.add_buyer(2, "cus_2")
    town.use(10)
    town.use(20, buyer=2)
    town.sealer.step(hard=True)
    provider.script = [Outcome(Kind.DELIVERED), Outcome(Kind.DUPLICATE)]
    overdue: list[Callable[[], None]] = []
    write = town.store.settle_meter_events

    def run(jobs: Sequence[Callable[[], None]]) -> None:
        jobs[0]()
        overdue.extend(jobs[1:])

    def settle(*arguments: Any, **more: Any) -> set[str]:
        written = write(*arguments, **more)
        while overdue:
            overdue.pop()()
        return written

    monkeypatch.setattr(town.store, "settle_meter_events", settle)
    assert (town.reporter.step(10, run), town.reporter.halted) == (1, None)
    town.reporter.step(10)
    assert town.reporter.halted is not None


@pytest.mark.parametrize("before", [Kind.THROTTLED, Kind.FORBIDDEN])
def test_a_duplicate_after_mere_refusals_halts(told: tuple[Town, Scripted], before: OutcomeKind) -> None:
    """A refused attempt left nothing at Stripe, so a Duplicate after it is as suspicious as at first sight (L6)."""
    town, provider = told
    town.seal(10)
    provider.script = [Outcome(before), Outcome(Kind.DUPLICATE)]
    town.reporter.step(10)
    town.clock.pass_seconds(61)
    town.reporter.step(10)
    assert (len(provider.sent), town.states) == (2, [State.DOUBTFUL])
    assert town.reporter.halted is not None


@pytest.mark.parametrize("keys_known", [True, False])
def test_a_restored_ledger(tmp_path: Path, keys_known: bool) -> None:
    """A ledger restored from before its last seal halts and adds nothing at Stripe (L6, F27, I4).

    Also while Stripe still knows the idempotency key, and answers that it was used with other parameters.
    """
    live, backup = tmp_path / "live.db", tmp_path / "backup.db"
    town = Town(f"sqlite:///{live}")
    town.add_buyer(1)
    town.close()
    shutil.copy(live, backup)
    town = Town(f"sqlite:///{live}", wire=town.wire)
    town.seal(10)
    town.step()
    town.close()
    town.clock.pass_seconds(HOUR // 2)
    if not keys_known:
        for state in town.wire.sandbox.accounts.values():
            state.saved_answers.clear()
    restored = Town(f"sqlite:///{backup}", wire=town.wire)
    restored.seal(13)
    restored.step()
    assert (restored.wire.total, restored.states) == (10, [State.DOUBTFUL])
    assert restored.reporter.halted is not None
    restored.close()


def test_rejected_is_parked(town: Town) -> None:
    """What Stripe will never take is parked with Stripe's reason, once, and holds up nobody else (L8, I5)."""
    town.add_buyer(2, "cus_nobody")
    town.seal(10)
    town.use(20, buyer=2)
    town.sealer.step(hard=True)
    assert (town.step(), town.states) == (2, [State.DELIVERED, State.REJECTED])
    assert town.events[1].reason == "No such customer: 'cus_nobody'"
    town.seal(3)
    town.clock.pass_seconds(HOUR)
    assert (town.step(), town.step(), town.wire.total, len(town.wire.sent)) == (1, 0, 13, 3)


def test_a_refusal_after_an_unknown_attempt_is_doubtful(told: tuple[Town, Scripted]) -> None:
    """An attempt whose answer was lost may have been counted: Stripe's later refusal proves nothing, and the event is a
    question for a person, not free to be sent again (L8, I4)."""
    town, provider = told
    town.seal(10)
    provider.script = [Outcome(Kind.UNKNOWN), Outcome(Kind.REJECTED, "No such customer")]
    town.reporter.step(10)
    town.clock.pass_seconds(HOUR)
    town.reporter.step(10)
    assert (town.states, town.events[0].reason) == ([State.DOUBTFUL], "No such customer")


@pytest.mark.parametrize("status", ["401", "403"])
def test_forbidden(town: Town, status: str) -> None:
    """A key that Stripe refuses stops all sending for a minute and parks nothing; then all is delivered (L8)."""
    town.add_buyer(2)
    town.seal(10)
    town.use(20, buyer=2)
    town.sealer.step(hard=True)
    assert (town.step(status), town.states, len(town.wire.sent)) == (0, [State.PENDING] * 2, 1)
    town.clock.pass_seconds(59)
    assert (town.step(), len(town.wire.sent)) == (0, 1)
    town.clock.pass_seconds(1)
    assert (town.step(), town.states, town.wire.total) == (2, [State.DELIVERED] * 2, 30)


def test_throttled_waits_as_long_as_asked(told: tuple[Town, Scripted]) -> None:
    """Retry-After is obeyed when it is longer than our own pause (L8)."""
    town, provider = told
    town.seal(10)
    provider.script = [Outcome(Kind.THROTTLED, retry_after_seconds=50)]
    town.reporter.step(10)
    town.clock.pass_seconds(49)
    assert (town.reporter.step(10), len(provider.sent)) == (0, 1)
    town.clock.pass_seconds(1)
    assert town.reporter.step(10) == 1


def test_pauses_grow_and_are_bounded(told: tuple[Town, Scripted]) -> None:
    """Each further try waits up to twice as long, at most five minutes (L8, F10)."""
    town, provider = told
    town.reporter = town.new_reporter(0xFF)
    town.seal(10)
    provider.script = [Outcome(Kind.UNKNOWN)] * 10
    pauses = []
    for _ in range(10):
        town.reporter.step(10)
        pauses.append(town.events[0].next_attempt_at - town.clock.now_at())
        town.clock.pass_seconds(pauses[-1])
    assert pauses[:8] == [2, 4, 8, 16, 32, 64, 128, 256]
    assert max(pauses) <= BACKOFF_SECONDS_MAX
    assert town.reporter.step(10) == 1


@pytest.mark.parametrize(("seconds", "sent"), [(0, 2), (1, 1)])
def test_doubtful(town: Town, seconds: int, sent: int) -> None:
    """Up to 23 h after an unknown attempt it is sent again; after that its sum is read and it is not sent (L9)."""
    town.seal(10)
    town.step("after")
    town.clock.pass_seconds(23 * HOUR + seconds)
    assert (town.step(), len(town.wire.sent), town.states, town.wire.total) == (1, sent, [State.DELIVERED], 10)


def test_a_long_outage_without_connection_leaves_no_doubt(town: Town) -> None:
    """Without a connection nothing was sent, so after a week the event is simply delivered (L9, F08)."""
    town.seal(10)
    for _ in range(7):
        assert town.step("refused") == 0
        town.clock.pass_seconds(24 * HOUR)
    assert (town.step(), town.states, town.wire.total) == (1, [State.DELIVERED], 10)


@pytest.mark.parametrize("hours", [1, 30])
def test_a_crash_after_the_effect(town: Town, hours: int) -> None:
    """Killed between Stripe and the ledger, and back after hours: found delivered, counted once (I4, L9, F01)."""
    town.seal(10)
    with pytest.raises(Died):
        town.step("died")
    town.clock.pass_seconds(hours * HOUR)
    town.reporter = town.new_reporter()
    town.step()
    assert town.wire.total == 10
    assert (town.states, len(town.wire.sent)) == ([State.DELIVERED], 2 if hours == 1 else 1)


def test_too_old_for_stripe(told: tuple[Town, Scripted]) -> None:
    """Usage older than Stripe takes is parked with what to do about it, before Stripe is asked (L10, I5)."""
    town, provider = told
    town.seal(10)
    town.clock.pass_seconds(EVENT_AGE_SECONDS_MAX + 1)
    town.seal(3)
    town.reporter.step(10)
    town.reporter.step(10)
    assert town.states == [State.REJECTED, State.DELIVERED]
    assert "invoice item" in town.events[0].reason
    assert [event.value for event in provider.sent] == [3]


@pytest.mark.parametrize(("seconds", "sent"), [(12, 1), (13, 0)])
def test_a_send_is_not_begun_late_in_its_lease(told: tuple[Town, Scripted], seconds: int, sent: int) -> None:
    """When too little of the lease is left it is given back instead of sent, and comes again (L8, F15)."""
    town, provider = told
    town.seal(10)

    def late(jobs: Sequence[Callable[[], None]]) -> None:
        town.clock.pass_seconds(seconds)
        for job in jobs:
            job()

    assert (town.reporter.step(10, late), len(provider.sent)) == (sent, sent)
    town.clock.pass_seconds(1)
    town.reporter.step(10)
    assert (town.states, len(provider.sent)) == ([State.DELIVERED], 1)


def test_two_reporters(town: Town) -> None:
    """One that sleeps past its lease while another delivers changes nothing any more; Stripe counts once (F15, I4)."""
    town.seal(10)
    other = town.new_reporter()

    def sleep() -> None:
        town.wire.meanwhile = lambda: None
        assert other.step(10) == 0
        town.clock.pass_seconds(121)
        assert other.step(10) == 1

    town.wire.meanwhile = sleep
    assert town.step() == 0
    assert (len(town.wire.sent), town.wire.total, town.states) == (2, 10, [State.DELIVERED])
    assert (other.counts.delivered_quantity, town.reporter.counts.delivered_quantity) == (10, 0)


def test_the_ledger_is_lost_after_delivery(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the ledger cannot be told of a delivery the event comes again later and is still counted once (I4)."""
    town.seal(10)

    def away(*_: Any, **__: Any) -> NoReturn:
        raise StoreUnavailable

    monkeypatch.setattr(town.store, "settle_meter_events", away)
    with pytest.raises(StoreUnavailable):
        town.step()
    monkeypatch.undo()
    town.clock.pass_seconds(121)
    assert (town.step(), town.wire.total, town.states) == (1, 10, [State.DELIVERED])
    assert town.reporter.halted is None


_FAULT = st.sampled_from(["", "refused", "before", "after", "500", "500 after", "429", "409", "403", "died"])
_ROUNDS = st.lists(
    st.tuples(
        st.tuples(st.integers(0, 9), st.integers(0, 9)),  # used by each buyer
        st.sampled_from(["", "seal", "hard"]),
        st.none() | st.tuples(_FAULT, _FAULT),  # what the sends of a step meet, if there is one
        st.sampled_from([0, 1, 2, 61, 121, 301, HOUR, 10 * HOUR, 30 * HOUR]),  # then time passes
    ),
    max_size=10,
)


def _live_through(town: Town, used: Sequence[int], seal: str, faults: tuple[str, str] | None, seconds: int) -> None:
    for n, quantity in enumerate(used, 1):
        if quantity:
            town.use(quantity, buyer=n)
    if seal:
        town.sealer.step(hard=seal == "hard")
    if faults is not None:
        try:
            town.step(*faults)
        except Died:
            town.reporter = town.new_reporter()
    town.clock.pass_seconds(seconds)


def _heal(town: Town) -> None:
    """Nothing fails any more and time goes by, until nothing is open."""
    for _ in range(200):
        town.sealer.step(hard=True)
        town.step()
        summary = town.store.report_summary()
        if summary.unsealed_quantity == 0 and summary.oldest_open_at is None:
            return
        town.clock.pass_seconds(HOUR // 2)
    raise AssertionError("it does not drain")


@settings(max_examples=40, deadline=None)
@example([((5, 0), "hard", ("died", ""), 30 * HOUR)])
@example([((5, 0), "hard", ("after", ""), 30 * HOUR), ((1, 2), "hard", ("500 after", "before"), HOUR)])
@given(_ROUNDS)
def test_all_usage_is_counted_once(
    rounds: list[tuple[tuple[int, int], str, tuple[str, str] | None, int]],
) -> None:
    """Calls, seals, jumps of time, lost answers and crashes in any order: Σ usage = Σ events = Stripe's sum (I3, I4).

    Only what is doubtful may be missing at Stripe, and nothing is doubtful without a day's gap.
    """
    town = Town()
    for n in (1, 2):
        town.add_buyer(n)
    for one in rounds:
        _live_through(town, *one)
    _heal(town)
    events = town.events
    assert town.reporter.halted is None
    assert sum(event.value for event in events) == town.used
    assert set(town.wire.counted.values()) <= {1}
    assert town.wire.total == sum(event.value for event in events if town.wire.counted[event.identifier])
    assert {e.state for e in events} <= {State.DELIVERED, State.DOUBTFUL}
    assert all(town.wire.counted[e.identifier] for e in events if e.state is State.DELIVERED)
    if sum(seconds for *_, seconds in rounds) <= 20 * HOUR:
        assert town.wire.total == town.used
    town.close()
