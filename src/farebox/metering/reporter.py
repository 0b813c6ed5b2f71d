"""Takes meter events to Stripe, each counted there at most once, whatever Stripe answers (L8, L9).

The same identifier is sent until Stripe is known to have it; what cannot be known is parked for a person, never
resent blindly.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from farebox.domain.reports import DOUBT_AFTER_SECONDS, MeterEvent, Outcome, OutcomeKind, ReportState, Settlement
from farebox.ports import Clock, Entropy, Provider, Store

__all__ = [
    "BACKOFF_SECONDS_MAX",
    "EVENT_AGE_SECONDS_MAX",
    "FORBIDDEN_PAUSE_SECONDS",
    "LEASE_SECONDS",
    "SEND_MARGIN_SECONDS",
    "Reporter",
    "ReporterCounts",
]

LEASE_SECONDS: Final = 120
SEND_MARGIN_SECONDS: Final = 45  # a send is not begun when less than this is left of its lease
EVENT_AGE_SECONDS_MAX: Final = 34 * 86_400
BACKOFF_SECONDS_MAX: Final = 300
FORBIDDEN_PAUSE_SECONDS: Final = 60

_log = structlog.get_logger("farebox.reporter")

_Run = Callable[[Sequence[Callable[[], None]]], None]


@dataclass(slots=True)
class ReporterCounts:
    """What has become of attempts since the start, by outcome."""

    outcomes: dict[OutcomeKind, int] = field(default_factory=lambda: dict.fromkeys(OutcomeKind, 0))
    delivered_quantity: int = 0


class Reporter:
    """One reporter under one name (`holder`). `halted` says why it sends nothing at all, when it must not."""

    def __init__(self, store: Store, provider: Provider, clock: Clock, entropy: Entropy) -> None:
        self._store = store
        self._provider = provider
        self._clock = clock
        self._entropy = entropy
        self._holder = entropy.token()
        self._paused_until_ms = 0
        self.halted: str | None = None
        self.counts = ReporterCounts()

    def step(self, limit: int, run: _Run | None = None) -> int:
        """Send up to `limit` due events, each at most once, at most one for each customer and meter. Returns how many
        were settled for good. `run` may do the sends side by side."""
        if self.halted is not None or self._clock.monotonic_ms() < self._paused_until_ms:
            return 0
        taken_ms = self._clock.monotonic_ms()
        events = self._store.take_meter_events(
            self._holder, now=self._clock.now_at(), lease_seconds=LEASE_SECONDS, limit=limit
        )
        settled: list[MeterEvent] = []

        def job(event: MeterEvent) -> Callable[[], None]:
            def send() -> None:
                if self._report(event, taken_ms):
                    settled.append(event)

            return send

        (run or _serially)([job(event) for event in events])
        return len(settled)

    def resume(self) -> None:
        """Let a halted reporter go on, after a person has found out why it stopped."""
        self.halted = None
        self._paused_until_ms = 0

    def _report(self, event: MeterEvent, taken_ms: int) -> bool:
        now = self._clock.now_at()
        if event.first_unknown_at is not None and now - event.first_unknown_at > DOUBT_AFTER_SECONDS:
            reason = "Stripe may have counted it, and its identifier is no longer protected against a second count"
            return self._settle(event, Outcome(OutcomeKind.UNKNOWN, reason), ReportState.DOUBTFUL)
        if event.timestamp <= self._oldest_at():
            reason = "older than Stripe accepts; bill it as an invoice item"
            return self._settle(event, Outcome(OutcomeKind.REJECTED, reason), ReportState.REJECTED)
        held_ms = self._clock.monotonic_ms() - taken_ms
        if self.halted is not None or held_ms > (LEASE_SECONDS - SEND_MARGIN_SECONDS) * 1000:
            return self._release(event)
        if self._clock.monotonic_ms() < self._paused_until_ms:
            return self._release(event)
        outcome = self._provider.send_meter_event(event)
        self.counts.outcomes[outcome.kind] += 1
        return self._conclude(event, outcome)

    def _conclude(self, event: MeterEvent, outcome: Outcome) -> bool:
        match outcome.kind:
            case OutcomeKind.DELIVERED:
                return self._settle(event, outcome, ReportState.DELIVERED)
            case OutcomeKind.CONFLICT:
                return self._halt(event, outcome)
            case OutcomeKind.DUPLICATE if event.first_unknown_at is None:
                return self._halt(event, outcome)
            case OutcomeKind.DUPLICATE:
                return self._settle(event, outcome, ReportState.DELIVERED)
            case OutcomeKind.REJECTED if outcome.may_pass and event.timestamp > self._oldest_at():
                _log.error("meter_event_refused_for_now", identifier=event.identifier, reason=outcome.reason)
                return self._retry(event, outcome, BACKOFF_SECONDS_MAX)
            case OutcomeKind.REJECTED:
                _log.error("meter_event_rejected", identifier=event.identifier, reason=outcome.reason)
                return self._settle(event, outcome, ReportState.REJECTED)
            case OutcomeKind.FORBIDDEN:
                self._paused_until_ms = self._clock.monotonic_ms() + FORBIDDEN_PAUSE_SECONDS * 1000
                _log.error("reporter_forbidden", reason=outcome.reason)
                return self._retry(event, outcome, FORBIDDEN_PAUSE_SECONDS)
            case OutcomeKind.THROTTLED | OutcomeKind.UNKNOWN:
                pause = max(outcome.retry_after_seconds, self._backoff_seconds(event.attempts))
                return self._retry(event, outcome, pause)

    def _halt(self, event: MeterEvent, outcome: Outcome) -> bool:
        """No attempt of ours can have got through, so Stripe knows the event from another life of this ledger (L6)."""
        self.halted = (
            f"Stripe already has {event.identifier}, which this ledger never sent: it was restored or copied. "
            "Nothing more is reported until that is settled."
        )
        _log.critical("reporter_halted", identifier=event.identifier, reason=self.halted)
        return self._settle(event, outcome, ReportState.DOUBTFUL)

    def _settle(self, event: MeterEvent, outcome: Outcome, state: ReportState) -> bool:
        settlement = Settlement(event, outcome, state, event.transport)
        settled = bool(self._store.settle_meter_events(self._holder, [settlement], now=self._clock.now_at()))
        if settled and state is ReportState.DELIVERED:
            self.counts.delivered_quantity += event.value
        return settled

    def _retry(self, event: MeterEvent, outcome: Outcome, pause_seconds: int) -> bool:
        """Due again after a pause, under the same identifier; with a new key where Stripe saved its failure (L8)."""
        now = self._clock.now_at()
        key = f"{event.identifier}_{self._entropy.token()}" if outcome.stored_failure or outcome.may_pass else ""
        settlement = Settlement(event, outcome, ReportState.PENDING, event.transport, now + pause_seconds, key)
        self._store.settle_meter_events(self._holder, [settlement], now=now)
        return False

    def _release(self, event: MeterEvent) -> bool:
        """Not sent after all, and due again at once."""
        return self._retry(event, Outcome(OutcomeKind.THROTTLED, event.reason), 1)

    def _oldest_at(self) -> int:
        """What was used before this is older than Stripe accepts."""
        return self._clock.now_at() - EVENT_AGE_SECONDS_MAX - 1

    def _backoff_seconds(self, attempts: int) -> int:
        ceiling = min(1 << min(attempts, 9), BACKOFF_SECONDS_MAX)
        return 1 + int.from_bytes(self._entropy.token_bytes(4), "big") % ceiling


def _serially(jobs: Sequence[Callable[[], None]]) -> None:
    for job in jobs:
        job()
