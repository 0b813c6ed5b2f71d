"""Meter events: frozen, named for ever, each in a minute of its own, and what becomes of them whatever Stripe says."""

import string
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.settling import settle
from tests.shop import StillClock

from farebox.domain.accounts import Account
from farebox.domain.catalog import Catalog, Meter
from farebox.domain.reports import (
    DOUBT_AFTER_SECONDS,
    IDENTIFIER_LENGTH_MAX,
    MeterEvent,
    Outcome,
    OutcomeKind,
    ReportState,
    Unsealed,
    identifier_of,
    seal,
)
from farebox.domain.usage import Batch, Increment
from farebox.metering.reporter import EVENT_AGE_SECONDS_MAX, LEASE_SECONDS, Reporter
from farebox.metering.sealer import Sealer
from farebox.ports import Provider, StoredMeter
from farebox.store.sql import MEMORY_URL, SqlStore
from farebox.system import SystemEntropy

HOUR = 1_800_000_000
names = st.text(string.ascii_lowercase + string.digits + "_-", min_size=1, max_size=128)
numbers = st.integers(0, 2**63 - 1)


def unsealed(**changes: int | frozenset[int]) -> Unsealed:
    begun = Unsealed("acct_1", "cus_1", "calls", HOUR, 10, 0, 0, HOUR + 600)
    return replace(begun, **changes)  # type: ignore[arg-type]


def sealed(**changes: int | frozenset[int]) -> MeterEvent:
    event = seal("ledger", unsealed(**changes), "api_calls", HOUR + 700)
    assert event is not None
    return event


def test_the_identifier_stands_still() -> None:
    """L6: the name of a ledger row at Stripe is this for ever: another one would be counted again."""
    named = identifier_of("ledger", "acct_1", "calls", HOUR, 3)
    assert named == "fb_1800000000_3_35cd6824ea46888edf2e8aef9377633606edcbbf"


@given(names, names, names, numbers, numbers)
def test_identifiers_fit(ledger: str, account: str, meter: str, start: int, sequence: int) -> None:
    """L6: at most 100 characters that Stripe takes, whatever the row."""
    made = identifier_of(ledger, account, meter, start, sequence)
    assert len(made) <= IDENTIFIER_LENGTH_MAX == 100
    assert set(made) <= set(string.ascii_lowercase + string.digits + "_")
    assert made == identifier_of(ledger, account, meter, start, sequence)


_ROW = st.tuples(names, names, names, st.integers(0, 99), st.integers(0, 99))


@given(_ROW, _ROW)
def test_identifiers_differ(one: tuple[str, str, str, int, int], other: tuple[str, str, str, int, int]) -> None:
    """I4: different rows have different names, also of another ledger, and where parts run into each other."""
    assert (identifier_of(*one) == identifier_of(*other)) == (one == other)
    ledger, account, meter, start, sequence = one
    assert identifier_of(ledger, account + meter, "x", start, sequence) != identifier_of(
        ledger, account, meter + "x", start, sequence
    )


@pytest.mark.parametrize(("total", "before", "value"), [(10, 0, 10), (10, 7, 3), (10, 10, None), (10, 12, None)])
def test_what_is_sealed(total: int, before: int, value: int | None) -> None:
    """L5: the difference to what was sealed already, and nothing where there is none or less."""
    event = seal("ledger", unsealed(total=total, sealed=before), "api_calls", HOUR + 700)
    assert (event.value if event is not None else None) == value


def test_a_new_event() -> None:
    """L6: a sealed event is pending, named by its row, with its name as the first idempotency key."""
    event = sealed(next_sequence=4)
    assert event.identifier == event.idempotency_key == identifier_of("ledger", "acct_1", "calls", HOUR, 4)
    assert (event.state, event.attempts, event.first_unknown_at) == (ReportState.PENDING, 0, None)
    assert (event.event_name, event.customer_id, event.created_at) == ("api_calls", "cus_1", HOUR + 700)


@pytest.mark.parametrize(
    ("start", "last", "used", "timestamp"),
    [
        (0, 600, [], 600),
        (0, 659, [], 600),
        (0, 600, [10], 540),
        (0, 600, [10, 9, 7], 480),
        (0, 600, [11, 12], 600),
        (0, 59, [], 0),
        (0, 120, [0, 1, 2], 120),  # none is free: the minute is shared
        (90, 200, [3], 120),
        (90, 200, [3, 2], 90),  # the bucket's first minute is a partial one
        (90, 110, [], 90),
        (90, 200, [3, 2, 1], 180),
    ],
)
def test_cells(start: int, last: int, used: list[int], timestamp: int) -> None:
    """L7: the latest minute up to the last use that no other event has, never before the bucket."""
    cells = frozenset(HOUR // 60 + cell for cell in used)
    event = sealed(bucket_start=HOUR + start, last_used_at=HOUR + last, cells=cells)
    assert event.timestamp == HOUR + timestamp


@given(st.integers(0, 3599), st.integers(0, 3599), st.frozensets(st.integers(0, 60), max_size=61))
def test_a_cell_is_in_its_bucket(start: int, length: int, used: frozenset[int]) -> None:
    """L7, I6: the timestamp lies in the bucket and not after the last use, in a free minute if any there is free."""
    last = min(start + length, 3599)
    cells = frozenset(HOUR // 60 + cell for cell in used)
    event = sealed(bucket_start=HOUR + start, last_used_at=HOUR + last, cells=cells)
    assert HOUR + start <= event.timestamp <= HOUR + last
    free = set(range((HOUR + start) // 60, (HOUR + last) // 60 + 1)) - cells
    assert event.cell == (max(free) if free else (HOUR + last) // 60)


# --- what becomes of an event (L8, L9), with the real reporter and ledger and a Stripe that answers as told


@dataclass
class ScriptedStripe:
    """Answers as told, and remembers what was sent."""

    answers: list[Outcome] = field(default_factory=list)
    sent: list[MeterEvent] = field(default_factory=list)
    read: bool = False

    def send_meter_event(self, event: MeterEvent) -> Outcome:
        self.sent.append(event)
        return self.answers.pop(0)

    def meters(self) -> list[StoredMeter]:
        return [StoredMeter("mtr_1", "api_calls", "API calls", "sum", active=True)]

    def summary(self, meter_id: str, customer_id: str, start: int, end: int) -> int:
        """Nothing, in the one minute that is asked for."""
        assert (meter_id, customer_id, end - start) == ("mtr_1", "cus_1", 60)
        self.read = True
        return 0


@dataclass
class Way:
    """One sealed meter event on its way."""

    store: SqlStore
    clock: StillClock
    stripe: ScriptedStripe
    reporter: Reporter

    def attempt(self, *outcomes: Outcome) -> MeterEvent:
        """Let Stripe answer so, one attempt after the other, with as much time between as each asks for."""
        for outcome in outcomes:
            before = self.event()
            wait = max(before.next_attempt_at - self.clock.now_at(), 61)  # also longer than a pause after a 403
            self.clock.pass_seconds(wait)
            self.stripe.answers.append(outcome)
            self.reporter.step(10)
        return self.event()

    def event(self) -> MeterEvent:
        (event,) = self.store.meter_events()
        return event


@pytest.fixture
def way() -> Iterator[Way]:
    clock, entropy, stripe = StillClock(HOUR), SystemEntropy(), ScriptedStripe()
    store = SqlStore(MEMORY_URL, clock, entropy)
    store.open()
    store.add_account(Account("acct_1", HOUR, customer_id="cus_1"))
    increment = Increment("acct_1", "calls", "key_1", "GET /api", HOUR, 7, 7, HOUR)
    store.commit_batch(Batch("writer", 1, "nonce", (increment,)))
    assert Sealer(store, clock, Catalog({"calls": Meter("calls", "API calls", "api_calls")})).step() == 1
    yield Way(store, clock, stripe, Reporter(store, cast(Provider, stripe), clock, entropy))
    store.close()


def answered(kind: OutcomeKind, **more: int | bool) -> Outcome:
    return Outcome(kind, kind.value, **more)  # type: ignore[arg-type]


OK, DUPLICATE, REJECTED = (
    answered(kind) for kind in (OutcomeKind.DELIVERED, OutcomeKind.DUPLICATE, OutcomeKind.REJECTED)
)
THROTTLED, UNKNOWN, FORBIDDEN = (
    answered(kind) for kind in (OutcomeKind.THROTTLED, OutcomeKind.UNKNOWN, OutcomeKind.FORBIDDEN)
)
REPLAYED = answered(OutcomeKind.UNKNOWN, stored_failure=True)


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        ((OK,), ReportState.DELIVERED),
        ((REJECTED,), ReportState.REJECTED),
        ((THROTTLED,), ReportState.PENDING),
        ((UNKNOWN,), ReportState.PENDING),
        ((FORBIDDEN,), ReportState.PENDING),
        ((UNKNOWN, DUPLICATE), ReportState.DELIVERED),
        ((UNKNOWN, OK), ReportState.DELIVERED),
        ((REPLAYED, REPLAYED, OK), ReportState.DELIVERED),
        ((THROTTLED, UNKNOWN, FORBIDDEN, DUPLICATE), ReportState.DELIVERED),
        ((FORBIDDEN, THROTTLED, REJECTED), ReportState.REJECTED),
    ],
)
def test_outcomes(way: Way, outcomes: tuple[Outcome, ...], state: ReportState) -> None:
    """L8: each answer leads where it must, and what is settled is never sent again. I4: always the same event."""
    settled = way.attempt(*outcomes)
    assert (settled.state, settled.attempts) == (state, len(outcomes))
    frozen = {(e.identifier, e.value, e.timestamp, e.event_name, e.customer_id) for e in way.stripe.sent}
    assert frozen == {(settled.identifier, 7, HOUR, "api_calls", "cus_1")}
    if state is not ReportState.PENDING:
        assert settled.settled_at == way.clock.now_at()
        way.clock.pass_seconds(40 * 86_400)
        assert way.reporter.step(10) == 0
        assert len(way.stripe.sent) == len(outcomes)


def test_idempotency_keys(way: Way) -> None:
    """L8: the key stays while Stripe may still answer, and is another one, stored, after each 5xx that it replays."""
    way.attempt(UNKNOWN, THROTTLED, REPLAYED, REPLAYED, OK)
    keys = [event.idempotency_key for event in way.stripe.sent]
    assert keys[:3] == [way.event().identifier] * 3
    assert len(set(keys)) == 3
    assert all(key.startswith(way.event().identifier) and len(key) <= 255 for key in keys)


@pytest.mark.parametrize("before", [(), (THROTTLED,), (FORBIDDEN, THROTTLED)])
def test_a_copied_ledger(way: Way, before: tuple[Outcome, ...]) -> None:
    """L6: Stripe knows an event that this ledger cannot have sent it: nothing more is reported, and it says why."""
    parked = way.attempt(*before, DUPLICATE)
    assert parked.state is ReportState.DOUBTFUL
    assert "restored or copied" in str(way.reporter.halted)


@pytest.mark.parametrize(("seconds", "state"), [(0, ReportState.DELIVERED), (1, ReportState.PENDING)])
def test_doubt(way: Way, seconds: int, state: ReportState) -> None:
    """L9: past the time for which Stripe surely knows the identifier, an unknown attempt is not blindly repeated."""
    way.attempt(UNKNOWN)
    first = way.event().first_unknown_at
    assert first == way.clock.now_at()
    way.clock.pass_seconds(DOUBT_AFTER_SECONDS + seconds)
    way.stripe.answers.append(OK)
    way.reporter.step(10)
    assert way.event().state is state
    assert len(way.stripe.sent) == (2 if state is ReportState.DELIVERED else 1)
    assert way.stripe.read == (state is not ReportState.DELIVERED)


def test_doubt_counts_from_the_first(way: Way) -> None:
    """L9: a later unknown attempt does not begin the time anew."""
    way.attempt(UNKNOWN)
    first = way.event().first_unknown_at
    assert way.attempt(UNKNOWN, THROTTLED, UNKNOWN).first_unknown_at == first


def test_throttled_for_days(way: Way) -> None:
    """L8: what was surely not taken stays sendable however long that lasts; it is never doubtful."""
    way.attempt(THROTTLED)
    way.clock.pass_seconds(10 * 86_400)
    assert way.attempt(OK).state is ReportState.DELIVERED


@pytest.mark.parametrize(("seconds", "sent"), [(0, 1), (1, 0)])
def test_too_old(way: Way, seconds: int, sent: int) -> None:
    """L10: usage older than Stripe takes is parked with what to do with it, and not sent."""
    way.clock.pass_seconds(EVENT_AGE_SECONDS_MAX + seconds)
    way.stripe.answers.append(OK)
    way.reporter.step(10)
    assert len(way.stripe.sent) == sent
    assert way.event().state is (ReportState.DELIVERED if sent else ReportState.REJECTED)
    assert ("invoice item" in way.event().reason) == (not sent)


def test_a_forbidden_key_pauses_all(way: Way) -> None:
    """L8: a refused key parks nothing and asks again only after a minute."""
    way.attempt(FORBIDDEN)
    way.clock.pass_seconds(59)
    assert way.reporter.step(10) == 0
    assert len(way.stripe.sent) == 1
    assert way.attempt(OK).state is ReportState.DELIVERED


def test_stripe_says_when(way: Way) -> None:
    """A Retry-After is kept to."""
    event = way.attempt(answered(OutcomeKind.THROTTLED, retry_after_seconds=900))
    assert event.next_attempt_at == way.clock.now_at() + 900


def test_a_dead_reporter(way: Way) -> None:
    """F01, L9: an event whose sender died comes again after its lease, as one whose outcome nobody knows."""
    (taken,) = way.store.take_meter_events("dead", now=way.clock.now_at(), lease_seconds=LEASE_SECONDS, limit=9)
    way.clock.pass_seconds(LEASE_SECONDS - 1)
    assert way.reporter.step(10) == 0
    way.clock.pass_seconds(1)
    way.stripe.answers.append(DUPLICATE)
    assert way.reporter.step(10) == 1
    assert way.event().state is ReportState.DELIVERED
    late = settle(way.store, "dead", taken, REJECTED, state=ReportState.REJECTED, now=way.clock.now_at())
    assert (late, way.event().state) == (False, ReportState.DELIVERED)
