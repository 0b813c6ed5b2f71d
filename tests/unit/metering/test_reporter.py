"""What is sealed reaches the local Stripe once, whatever is answered, lost or delayed on the way."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import stripe
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.shop import StillClock

from farebox.domain.accounts import Account
from farebox.domain.catalog import Catalog, Meter
from farebox.domain.keys import Secret
from farebox.domain.reports import MeterEvent, Outcome, OutcomeKind, ReportState
from farebox.domain.usage import Batch, Increment, bucket_start
from farebox.errors import StoreUnavailable
from farebox.metering.reporter import BACKOFF_SECONDS_MAX, EVENT_AGE_SECONDS_MAX, Reporter
from farebox.metering.sealer import Sealer
from farebox.provider.stripe import StripeProvider
from farebox.sandbox import Sandbox
from farebox.store.sql import MEMORY_URL, SqlStore
from farebox.system import SystemEntropy

AT: Final = 1_800_000_000  # on a whole hour
HOUR: Final = 3600
CALLS: Final = Meter("calls", "API calls", "farebox_calls")
EVENTS_PATH: Final = "/v1/billing/meter_events"
Kind = OutcomeKind
State = ReportState


class Died(Exception):
    """The process was killed after Stripe had the event and before the ledger heard of it."""


class EvenEntropy(SystemEntropy):
    """Pauses of known length: every random byte is the same."""

    def __init__(self, byte: int = 0) -> None:
        self._byte = byte

    def token_bytes(self, size: int) -> bytes:
        return bytes([self._byte]) * size


class Wire:
    """The way to a local Stripe that keeps its word of 24 hours and no more. `faults` meet the next meter events:

    "refused" no connection, "before" and "after" an answer lost before or after the effect, "died" a crash after it,
    "500 after" an effect whose answer is a saved 500, a number that error instead of an effect.
    """

    def __init__(self, clock: StillClock) -> None:
        self.clock = clock
        self.sandbox = Sandbox(clock.manual)
        self.faults: list[str] = []
        self.meanwhile: Callable[[], object] = lambda: None
        self.sent: list[tuple[str, str]] = []  # identifier and idempotency key of each attempt
        self.counted: Counter[str] = Counter()  # by identifier, how often Stripe took it
        self._known: dict[tuple[str, str], int] = {}

    @property
    def total(self) -> int:
        books = [book for state in self.sandbox.accounts.values() for book in state.usage.values()]
        return sum(int(value) for book in books for _, value, _ in book)

    def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[bytes, int, Mapping[str, str]]:
        path = urlsplit(url).path
        if path != EVENTS_PATH:
            return self._ask(method, path, headers, body)
        identifier, key = parse_qs(body.decode())["identifier"][0], headers["Idempotency-Key"]
        self._forget()
        self.sent.append((identifier, key))
        self.meanwhile()
        fault = self.faults.pop(0) if self.faults else ""
        if fault in ("refused", "before"):
            _lose(httpx.ConnectError if fault == "refused" else httpx.ReadTimeout)
        if fault.isdigit():
            self.sandbox.faults.add({"path": EVENTS_PATH, "status": int(fault)})
        before = self.total
        answer = self._ask(method, path, headers, body)
        if self.total != before:
            self.counted[identifier] += 1
        self._known |= {("identifier", identifier): self.clock.now_at(), ("key", key): self.clock.now_at()}
        if fault == "died":
            raise Died
        if fault == "after":
            _lose(httpx.ReadError)
        if fault == "500 after":
            (state,) = self.sandbox.accounts.values()
            words = json.dumps({"error": {"type": "api_error", "message": "after all"}}).encode()
            state.saved_answers[key] = (state.saved_answers[key][0], 500, words)
            return words, 500, answer[2]
        return answer

    def _ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[bytes, int, Mapping[str, str]]:
        answer = self.sandbox.request(method, path, headers, body)
        return answer.body, answer.status, httpx.Headers(answer.headers)

    def _forget(self) -> None:
        """Identifiers and idempotency keys are promised to be known for 24 hours, so nobody may build on more."""
        for (kind, name), at in list(self._known.items()):
            if self.clock.now_at() - at > 24 * HOUR:
                del self._known[kind, name]
                for state in self.sandbox.accounts.values():
                    state.saved_answers.pop(name, None)
                    for names in state.identifiers.values():
                        names.pop(name, None)


def _lose(how: type[httpx.TransportError]) -> NoReturn:
    raise stripe.APIConnectionError("lost", should_retry=True) from how("lost")  # type: ignore[no-untyped-call]


class Town:
    """A ledger with two buyers, a sealer and a reporter, and the local Stripe to which they report."""

    def __init__(self, url: str = MEMORY_URL, *, wire: Wire | None = None, provider: StripeProvider | None = None):
        self.wire = wire or Wire(StillClock(AT))
        self.clock = self.wire.clock
        self.store = SqlStore(url, self.clock, SystemEntropy())
        self.store.open()
        self.provider = provider or StripeProvider(Secret("sk_test_of_the_town"), (), transport=self.wire.send)
        if provider is None and not self.provider.meters():
            self.provider.create_meter(CALLS)
        self.sealer = Sealer(self.store, self.clock, Catalog(meters={"calls": CALLS}))
        self.reporter = self.new_reporter()
        self.used = 0

    def new_reporter(self, byte: int = 0) -> Reporter:
        return Reporter(self.store, self.provider, self.clock, EvenEntropy(byte))

    def add_buyer(self, n: int, customer_id: str = "") -> None:
        account = Account(f"acc_{n}", AT, customer_id=customer_id or None)
        self.store.add_account(account)
        if not customer_id:
            self.store.set_customer(account.id, self.provider.create_customer(account))

    def use(self, quantity: int, buyer: int = 1) -> None:
        now = self.clock.now_at()
        increment = Increment(f"acc_{buyer}", "calls", "key", "GET /", bucket_start(now, ()), quantity, 1, now)
        self.store.commit_batch(Batch(SystemEntropy().token(), 1, "n", (increment,)))
        self.used += quantity

    def seal(self, *quantities: int) -> None:
        for quantity in quantities:
            self.use(quantity)
            self.sealer.step(hard=True)

    def step(self, *faults: str) -> int:
        self.wire.faults = list(faults)
        return self.reporter.step(10)

    @property
    def events(self) -> list[MeterEvent]:
        """The oldest first."""
        return sorted(self.store.meter_events(limit=10_000), key=lambda e: (e.account_id, e.bucket_start, e.sequence))

    @property
    def states(self) -> list[ReportState]:
        return [event.state for event in self.events]

    def close(self) -> None:
        self.store.close()
        self.provider.close()


@pytest.fixture
def town() -> Iterator[Town]:
    made = Town()
    made.add_buyer(1)
    yield made
    made.close()


class Scripted(StripeProvider):
    """A provider whose answers are told beforehand; Delivered when nothing was told."""

    def __init__(self) -> None:
        super().__init__(Secret("sk_test_scripted_answers"), (), transport=_unreachable)
        self.script: list[Outcome] = []
        self.sent: list[MeterEvent] = []

    def send_meter_event(self, event: MeterEvent) -> Outcome:
        self.sent.append(event)
        return self.script.pop(0) if self.script else Outcome(Kind.DELIVERED)


def _unreachable(*_: Any) -> NoReturn:
    raise AssertionError("nothing is sent over the wire here")


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
    town.reporter.resume()
    assert (town.reporter.step(10), town.reporter.step(10), len(provider.sent)) == (2, 0, 3)


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


@pytest.mark.parametrize(("seconds", "sent", "state"), [(0, 2, State.DELIVERED), (1, 1, State.DOUBTFUL)])
def test_doubtful(town: Town, seconds: int, sent: int, state: ReportState) -> None:
    """Up to 23 h after an unknown attempt it is sent again; after that it is parked with a reason, not sent (L9)."""
    town.seal(10)
    town.step("after")
    town.clock.pass_seconds(23 * HOUR + seconds)
    assert (town.step(), len(town.wire.sent), town.states, town.wire.total) == (1, sent, [state], 10)
    assert bool(town.events[0].reason) is (state is State.DOUBTFUL)


def test_a_long_outage_without_connection_leaves_no_doubt(town: Town) -> None:
    """Without a connection nothing was sent, so after a week the event is simply delivered (L9, F08)."""
    town.seal(10)
    for _ in range(7):
        assert town.step("refused") == 0
        town.clock.pass_seconds(24 * HOUR)
    assert (town.step(), town.states, town.wire.total) == (1, [State.DELIVERED], 10)


@pytest.mark.parametrize("hours", [1, 30])
def test_a_crash_after_the_effect(town: Town, hours: int) -> None:
    """Killed between Stripe and the ledger, and back after hours: counted once, delivered or doubtful (I4, L9, F01)."""
    town.seal(10)
    with pytest.raises(Died):
        town.step("died")
    town.clock.pass_seconds(hours * HOUR)
    town.reporter = town.new_reporter()
    town.step()
    assert town.wire.total == 10
    assert town.states == [State.DELIVERED if hours == 1 else State.DOUBTFUL]


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


@pytest.mark.parametrize(("seconds", "sent"), [(75, 1), (76, 0)])
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
        town.clock.pass_seconds(61)
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
