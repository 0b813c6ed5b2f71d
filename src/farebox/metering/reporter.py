"""Takes meter events to Stripe, each counted there at most once, whatever Stripe answers (L8, L9).

The same identifier is sent until Stripe is known to have it; what cannot be known is read back from Stripe's sums or
parked for a person, never resent blindly.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from farebox.domain.reports import (
    STREAM_EVENTS_MAX,
    MeterEvent,
    Outcome,
    OutcomeKind,
    ReportState,
    Settlement,
    Transport,
)
from farebox.errors import StoreError
from farebox.metering.doubts import Doubts, in_doubt
from farebox.metering.pace import PACE_STRIKE_MILLISECONDS, Pace, Rates
from farebox.ports import Clock, Entropy, Provider, Store

__all__ = [
    "BACKOFF_SECONDS_MAX",
    "EVENT_AGE_SECONDS_MAX",
    "FORBIDDEN_PAUSE_SECONDS",
    "HALT_LOOK_MILLISECONDS",
    "LEASE_SECONDS",
    "SEND_MARGIN_SECONDS",
    "STREAM_PAUSE_SECONDS",
    "STREAM_RETRY_SECONDS",
    "STREAM_TAKE_MAX",
    "Reporter",
    "ReporterCounts",
]

LEASE_SECONDS: Final = 28  # a dead reporter's events are taken over within half a minute
SEND_MARGIN_SECONDS: Final = 16  # a send is not begun when less than this is left of its lease: longer than it may take
EVENT_AGE_SECONDS_MAX: Final = 34 * 86_400
BACKOFF_SECONDS_MAX: Final = 300
FORBIDDEN_PAUSE_SECONDS: Final = 60
HALT_LOOK_MILLISECONDS: Final = 250  # a halt that another process wrote is known before a send by then
STREAM_PAUSE_SECONDS: Final = 3_600
STREAM_RETRY_SECONDS: Final = 60
STREAM_TAKE_MAX: Final = 2_000
_RETRY_SECONDS: Final = 1

_log = structlog.get_logger("farebox.reporter")

_Run = Callable[[Sequence[Callable[[], None]]], None]


@dataclass(slots=True)
class ReporterCounts:
    """What has become of attempts since the start, by outcome."""

    outcomes: dict[OutcomeKind, int] = field(default_factory=lambda: dict.fromkeys(OutcomeKind, 0))
    delivered_quantity: int = 0
    delivered_events: int = 0


@dataclass(frozen=True, slots=True)
class _Lease:
    """When events were taken, on both clocks: sends end before either says that the lease is over."""

    taken_ms: int
    taken_at: int


class Reporter:
    """One reporter under one name (`holder`), for any number of threads.

    `barred` says why this process alone must not send, when that is so.
    """

    def __init__(
        self, store: Store, provider: Provider, clock: Clock, entropy: Entropy, rates: Rates | None = None
    ) -> None:
        rates = rates if rates is not None else Rates()
        self._store = store
        self._provider = provider
        self._clock = clock
        self._entropy = entropy
        self._holder = entropy.token()
        self._paused_until_ms = 0
        self._stream_closed_until_ms = 0
        self._expired_at_ms: int | None = None
        self._doubts = Doubts(store, provider, clock)
        # The rate is below Stripe's, and with a burst of a quarter also within any second. The stream's rate is less
        # than half of what Stripe takes.
        self.pace = Pace(clock, entropy, rates.events_per_second, rates.events_per_second >> 2)
        streams = rates.stream_requests_per_second
        self.stream_pace = Pace(clock, entropy, max(streams, 1), streams)
        self._streams = streams > 0
        self.barred: str | None = None
        self._halted: str | None = None
        self._looked_at_ms: int | None = None
        self._short: list[Pace] = []
        self._suspects: dict[str, Settlement] = {}  # show this ledger to be a copy, and are not written down yet
        self.counts = ReporterCounts()

    def step(self, limit: int, run: _Run | None = None) -> int:
        """Send up to `limit` due events one by one, and more by the stream when many are due: each at most once, at
        most one for each customer and meter, no more than Stripe's limits allow by now. Returns how many were settled
        for good. `run` may do the sends side by side."""
        if self._suspects:  # another thread's, or the ledger was away when they were to be written
            return self._settle(list(self._suspects.values()))
        if self.look() is not None or self._clock.monotonic_ms() < self._paused_until_ms:
            self._short = []
            return 0
        single = min(limit, self.pace.available())
        stream = min(self.stream_pace.available() * STREAM_EVENTS_MAX, STREAM_TAKE_MAX)
        if not single and not stream:
            return 0
        lease = _Lease(self._clock.monotonic_ms(), self._clock.now_at())
        events = self._store.take_meter_events(
            self._holder,
            now=lease.taken_at,
            lease_seconds=LEASE_SECONDS,
            limit=single,
            stream_limit=stream,
            fresh_by_stream=self._may_stream(),
        )
        done: list[Settlement] = []
        jobs = self._jobs(events, lease, done)
        ones = sum(event.transport is not Transport.STREAM for event in events)
        self._short = [self.pace] if ones >= single else []
        self._short += [self.stream_pace] if len(events) - ones >= stream else []
        try:
            (run or _serially)(jobs)
        finally:
            settled = self._settle(list(done))  # a send that comes back later adds to it
        return settled

    @property
    def behind(self) -> bool:
        """Whether more may be due than could be sent by now."""
        return bool(self._short)

    def pause_ms(self) -> int:
        """How long until a fair part of what is left over may be sent; 0 when it may be now."""
        return min((pace.wait_ms() for pace in self._short), default=0)

    @property
    def halted(self) -> str | None:
        """Why nothing is sent at all, as far as this process knows; None while usage is reported."""
        return self.barred or self._halted

    def look(self) -> str | None:
        """Read from the ledger whether reporting is halted. Returns what `halted` says then. StoreError."""
        before, self._halted = self._halted, self._store.ledger().halted_reason
        self._looked_at_ms = self._clock.monotonic_ms()
        if self._halted is not None and before is None:
            _log.critical("reporter_halted", reason=self._halted)
        return self.halted

    def halt(self, identifier: str) -> None:
        """Halt every reporter of this ledger: no attempt of ours can have got through, so Stripe knows the event from
        another life of this ledger (L6). StoreError: nothing is halted."""
        self._store.halt_reporting(_copied(identifier), now=self._clock.now_at())
        self.look()

    def _may_stream(self) -> bool:
        """Whether new events may go by the stream: not before Stripe has taken one that it looked at at once, because
        the stream does not tell at once that a ledger was restored (L6)."""
        taken_before = self.counts.outcomes[OutcomeKind.DELIVERED] > 0
        return self._streams and taken_before and not self._stream_closed_ms()

    def _stream_closed_ms(self) -> int:
        """How long the stream stays closed after a session that failed; 0 when it may be opened."""
        return max(self._stream_closed_until_ms - self._clock.monotonic_ms(), 0)

    def _jobs(self, events: Sequence[MeterEvent], lease: _Lease, done: list[Settlement]) -> list[Callable[[], None]]:
        now = self._clock.now_at()
        together = [e for e in events if e.transport is Transport.STREAM and not _alone(e) and not in_doubt(e, now)]
        chosen = {event.identifier for event in together}
        alone = [event for event in events if event.identifier not in chosen]
        groups = [[event] for event in alone]
        groups += [together[i : i + STREAM_EVENTS_MAX] for i in range(0, len(together), STREAM_EVENTS_MAX)]

        def job(group: list[MeterEvent]) -> Callable[[], None]:
            return lambda: done.extend(self._report(group, lease))

        return [job(group) for group in groups]

    def _report(self, group: list[MeterEvent], lease: _Lease) -> list[Settlement]:
        """Send a group that has one way: an event alone, or some that share a request of the stream."""
        settled: list[Settlement] = []
        fit: list[MeterEvent] = []
        for event in group:
            before = self._unsendable(event)
            settled += [before] if before is not None else []
            fit += [event] if before is None else []
        if not fit:
            return settled
        if not self._may_send(lease):
            return settled + [self._released(event) for event in fit]
        # What was in doubt is not at Stripe, whose memory of its name is gone: it begins anew, one by one.
        if len(fit) > 1 or (fit[0].transport is Transport.STREAM and not in_doubt(fit[0], self._clock.now_at())):
            return settled + self._stream(fit, lease)
        self.pace.spend(1)
        event = _one_by_one(fit[0])
        outcome = self._provider.send_meter_event(event)
        self._heed(outcome, self.pace, 1)
        return [*settled, self._concluded(event, outcome)]

    def _stream(self, events: list[MeterEvent], lease: _Lease) -> list[Settlement]:
        """Send events in one request. One that Stripe refuses as a whole is halved until it names whom it means."""
        if self._stream_closed_ms():
            return [self._released(event) for event in events]
        closed = self._provider.open_stream()
        if closed is not None:
            return self._unopened(events, closed)
        if not self._may_send(lease):
            return [self._released(event) for event in events]
        self.stream_pace.spend(1)
        name = events[0].identifier if len(events) == 1 else "fb_stream"
        key = f"{name}_{self._entropy.token()}"
        outcome = self._provider.send_meter_events(events, idempotency_key=key)
        if outcome.unsent:
            return self._unopened(events, outcome, expired=outcome.kind is not OutcomeKind.FORBIDDEN)
        self._heed(outcome, self.stream_pace, len(events))
        if outcome.kind in (OutcomeKind.REJECTED, OutcomeKind.DUPLICATE) and len(events) > 1:
            half = len(events) >> 1
            return [*self._report(events[:half], lease), *self._report(events[half:], lease)]
        return [self._concluded(event, outcome, key) for event in events]

    def _unopened(self, events: list[MeterEvent], outcome: Outcome, *, expired: bool = False) -> list[Settlement]:
        """The stream gave no session, so it stays closed for a while. Meanwhile events go one by one.

        A session that has expired is opened anew, unless the one before it expired within STREAM_RETRY_SECONDS.
        """
        now_ms = self._clock.monotonic_ms()
        if expired:
            if self._expired_at_ms is None or now_ms - self._expired_at_ms >= STREAM_RETRY_SECONDS * 1000:
                self._expired_at_ms = now_ms
            if now_ms - self._expired_at_ms < PACE_STRIKE_MILLISECONDS:  # one session, which several requests meet
                return [self._released(event, outcome.reason) for event in events]
        if outcome.kind is OutcomeKind.FORBIDDEN:
            pause_seconds = STREAM_PAUSE_SECONDS
            _log.error("meter_event_stream_forbidden", reason=outcome.reason)
        else:
            pause_seconds = min(max(STREAM_RETRY_SECONDS, outcome.retry_after_seconds), STREAM_PAUSE_SECONDS)
            self.stream_pace.slow(outcome.retry_after_seconds)
            _log.warning("meter_event_stream_closed", seconds=pause_seconds, reason=outcome.reason)
        self._stream_closed_until_ms = now_ms + pause_seconds * 1000
        return [self._released(event, outcome.reason) for event in events]

    def _unsendable(self, event: MeterEvent) -> Settlement | None:
        """What is to be done with the event instead of sending it now."""
        if in_doubt(event, self._clock.now_at()):
            verdict = self._doubts.examine(event)
            if not verdict.send:
                return Settlement(
                    event,
                    verdict.outcome,
                    verdict.state,
                    event.transport,
                    verdict.next_attempt_at,
                    zero_read_at=verdict.zero_read_at,
                )
        if event.timestamp <= self._oldest_at():
            reason = "older than Stripe accepts; bill it as an invoice item"
            return self._refused(event, Outcome(OutcomeKind.REJECTED, reason))
        return None

    @staticmethod
    def _refused(event: MeterEvent, outcome: Outcome) -> Settlement:
        """Parked. Where an earlier attempt may have been counted, a refusal of a later one proves nothing."""
        state = ReportState.REJECTED if event.first_unknown_at is None else ReportState.DOUBTFUL
        _log.error("meter_event_parked", identifier=event.identifier, state=state.value, reason=outcome.reason)
        return Settlement(event, outcome, state, event.transport)

    def _may_send(self, lease: _Lease) -> bool:
        """Looked at immediately before each send: a process that was paused past its lease sends nothing (F15)."""
        now_ms, now = self._clock.monotonic_ms(), self._clock.now_at()
        usable = LEASE_SECONDS - SEND_MARGIN_SECONDS
        in_time = now_ms - lease.taken_ms <= usable * 1000 and lease.taken_at <= now <= lease.taken_at + usable
        return in_time and now_ms >= self._paused_until_ms and not self._suspects and self._is_let()

    def _is_let(self) -> bool:
        """Whether nothing is halted, by what the ledger says now or said a moment ago. Not when it does not say."""
        looked_at_ms = self._looked_at_ms
        if looked_at_ms is not None and self._clock.monotonic_ms() - looked_at_ms < HALT_LOOK_MILLISECONDS:
            return self.halted is None
        try:
            return self.look() is None
        except StoreError as error:
            _log.warning("halt_not_read", reason=str(error))
            return False

    def _heed(self, outcome: Outcome, pace: Pace, events: int) -> None:
        self.counts.outcomes[outcome.kind] += events
        if outcome.kind is OutcomeKind.UNKNOWN or (outcome.kind is OutcomeKind.THROTTLED and outcome.everyone):
            pace.slow(outcome.retry_after_seconds)
        elif outcome.kind in (OutcomeKind.DELIVERED, OutcomeKind.DUPLICATE):
            pace.ease()

    def _concluded(self, event: MeterEvent, outcome: Outcome, key: str = "") -> Settlement:
        match outcome.kind:
            case OutcomeKind.DELIVERED:
                return Settlement(event, outcome, ReportState.DELIVERED, event.transport, idempotency_key=key)
            case OutcomeKind.CONFLICT:
                return self._suspected(event, outcome)
            case OutcomeKind.DUPLICATE if event.first_unknown_at is None:
                return self._suspected(event, outcome)
            case OutcomeKind.DUPLICATE:
                return Settlement(event, outcome, ReportState.DELIVERED, event.transport)
            case OutcomeKind.REJECTED if outcome.may_pass and event.timestamp > self._oldest_at():
                _log.error("meter_event_refused_for_now", identifier=event.identifier, reason=outcome.reason)
                return self._again(event, outcome, BACKOFF_SECONDS_MAX, key)
            case OutcomeKind.REJECTED:
                return self._refused(event, outcome)
            case OutcomeKind.FORBIDDEN:
                self._paused_until_ms = self._clock.monotonic_ms() + FORBIDDEN_PAUSE_SECONDS * 1000
                _log.error("reporter_forbidden", reason=outcome.reason)
                return self._again(event, outcome, FORBIDDEN_PAUSE_SECONDS, key)
            case OutcomeKind.THROTTLED | OutcomeKind.UNKNOWN:
                pause = max(outcome.retry_after_seconds, self._backoff_seconds(event.attempts))
                return self._again(event, outcome, pause, key)

    def _suspected(self, event: MeterEvent, outcome: Outcome) -> Settlement:
        """Nothing more is sent until it is sure that no other reporter sent it while this one slept."""
        found = Settlement(event, outcome, ReportState.DOUBTFUL, event.transport, halts=_copied(event.identifier))
        self._suspects[event.identifier] = found
        return found

    def _again(self, event: MeterEvent, outcome: Outcome, pause_seconds: int, key: str = "") -> Settlement:
        """Due again after a pause, under the same identifier; with a new key where Stripe saved its failure (L8)."""
        if not key and (outcome.stored_failure or outcome.may_pass):
            key = f"{event.identifier}_{self._entropy.token()}"
        due_at = self._clock.now_at() + pause_seconds
        return Settlement(event, outcome, ReportState.PENDING, event.transport, due_at, key)

    def _released(self, event: MeterEvent, reason: str = "") -> Settlement:
        """Not sent after all, and due again soon. Only when an attempt before is unknown can one have got through: then
        the way stays (L8), and what is bound to the stream is due when the stream may be opened."""
        outcome = Outcome(OutcomeKind.THROTTLED, reason or event.reason)
        way = Transport.UNCHOSEN if event.first_unknown_at is None else event.transport
        closed_ms = self._stream_closed_ms() if way is Transport.STREAM else 0
        due_at = self._clock.now_at() + max(_RETRY_SECONDS, -(-closed_ms // 1000))
        return Settlement(event, outcome, ReportState.PENDING, way, due_at, zero_read_at=event.zero_read_at)

    def _settle(self, done: list[Settlement]) -> int:
        """Write what came of a step, all at once. How many of it were settled for good, by us.

        A suspect is forgotten when it is written down, with the halt, or when the attempt was no longer ours.
        """
        if not done:
            return 0
        written = self._store.settle_meter_events(self._holder, done, now=self._clock.now_at())
        ours = [settlement for settlement in done if settlement.event.identifier in written]
        delivered = [settlement.event for settlement in ours if settlement.state is ReportState.DELIVERED]
        self.counts.delivered_events += len(delivered)
        self.counts.delivered_quantity += sum(event.value for event in delivered)
        suspects = [settlement.event.identifier for settlement in done if settlement.halts]
        if suspects:
            self.look()
        for identifier in suspects:
            self._suspects.pop(identifier, None)
        return sum(settlement.state is not ReportState.PENDING for settlement in ours)

    def _oldest_at(self) -> int:
        """What was used before this is older than Stripe accepts."""
        return self._clock.now_at() - EVENT_AGE_SECONDS_MAX - 1

    def _backoff_seconds(self, attempts: int) -> int:
        """Full jitter: anything up to a ceiling that doubles."""
        ceiling = min(1 << min(attempts, 9), BACKOFF_SECONDS_MAX)
        return 1 + int.from_bytes(self._entropy.token_bytes(4), "big") % ceiling


def _copied(identifier: str) -> str:
    return (
        f"Stripe already has {identifier}, which this ledger never sent: it was restored or copied. "
        "Nothing more is reported until that is settled."
    )


def _one_by_one(event: MeterEvent) -> MeterEvent:
    """The event as it is sent alone: under a key of its own, where a request of the stream left it the request's."""
    own = event.idempotency_key.startswith(event.identifier)
    return replace(event, transport=Transport.EVENT, idempotency_key=event.idempotency_key if own else event.identifier)


def _alone(event: MeterEvent) -> bool:
    """Whether a late report of the stream could not be told from its request's others: then it is sent by itself."""
    return event.idempotency_key.startswith(f"{event.identifier}_")


def _serially(jobs: Sequence[Callable[[], None]]) -> None:
    for job in jobs:
        job()
