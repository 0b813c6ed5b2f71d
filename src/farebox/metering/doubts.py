"""What is to be believed of an event that Stripe may have counted more than 23 hours ago (L9).

Its identifier is no longer protected, so that only Stripe's own sum of the event's minute can say. Never guesses.
"""

import threading
from dataclasses import dataclass
from typing import Final

import structlog

from farebox.domain.reports import CELL_SECONDS, DOUBT_AFTER_SECONDS, MeterEvent, Outcome, OutcomeKind, ReportState
from farebox.errors import ProviderError
from farebox.ports import Clock, Provider, Store

__all__ = [
    "DOUBT_READS_PER_HOUR_MAX",
    "DOUBT_SECONDS_MAX",
    "WITNESSES_MAX",
    "ZERO_READINGS_APART_SECONDS",
    "Doubts",
    "Verdict",
    "in_doubt",
]

ZERO_READINGS_APART_SECONDS: Final = 3_600
DOUBT_SECONDS_MAX: Final = 3 * 86_400
DOUBT_READS_PER_HOUR_MAX: Final = 240
WITNESSES_MAX: Final = 2
_HOUR_MS: Final = 3_600_000

_log = structlog.get_logger("farebox.reporter")


class _BudgetSpent(Exception):
    """This hour's reads are used up."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with an event in doubt: `send` it now, or settle it in `state`, to come again at `next_attempt_at`."""

    send: bool
    outcome: Outcome
    state: ReportState = ReportState.PENDING
    next_attempt_at: int = 0
    zero_read_at: int | None = None


def in_doubt(event: MeterEvent, now: int) -> bool:
    """Whether an unknown attempt is so old that sending again could count twice."""
    return event.first_unknown_at is not None and now - event.first_unknown_at > DOUBT_AFTER_SECONDS


class Doubts:
    """Reads Stripe's sums within a budget, and decides by them."""

    def __init__(self, store: Store, provider: Provider, clock: Clock) -> None:
        self._store = store
        self._provider = provider
        self._clock = clock
        self._meters: dict[str, str] = {}
        self._seen_until: dict[str, int] = {}  # by event name: what was accepted by then shows
        self._hour_ms = clock.monotonic_ms()
        self._reads = 0
        self._lock = threading.Lock()

    def examine(self, event: MeterEvent) -> Verdict:
        """Two readings of zero an hour apart, and something accepted later that shows: send. Its value: delivered.

        Anything else waits, and is parked for a person when it cannot be resolved.
        """
        now = self._clock.now_at()
        if event.zero_read_at is not None and now < event.zero_read_at + ZERO_READINGS_APART_SECONDS:
            return self._wait(event, event.zero_read_at + ZERO_READINGS_APART_SECONDS, "waits for a second reading")
        delivered, unproven = self._store.cell_book(event)
        if unproven:
            return self._park(event, "another event of its minute is unproven as well, so their sum tells nothing")
        try:
            meter_id = self._meter_id(event.event_name)
            if meter_id is None:
                return self._wait(event, now + ZERO_READINGS_APART_SECONDS, "Stripe shows no meter of its name")
            witnessed = event.zero_read_at is not None and self._witnessed(event, meter_id, event.zero_read_at)
            shown = self._shown(event, meter_id) - delivered
        except _BudgetSpent:
            return self._wait(event, now + ZERO_READINGS_APART_SECONDS, "waits for its turn to be looked up at Stripe")
        except ProviderError as error:
            return self._wait(event, now + ZERO_READINGS_APART_SECONDS, f"Stripe's sum cannot be read: {error}")
        return self._judge(event, shown, witnessed=witnessed)

    def _judge(self, event: MeterEvent, shown: int, *, witnessed: bool) -> Verdict:
        now = self._clock.now_at()
        if shown == event.value:
            reason = "Stripe's sum of its minute shows it"
            return Verdict(send=False, outcome=Outcome(OutcomeKind.DUPLICATE, reason), state=ReportState.DELIVERED)
        if shown == 0:
            if event.zero_read_at is None:
                reason = "Stripe's sum of its minute does not show it"
                return self._wait(event, now + ZERO_READINGS_APART_SECONDS, reason, zero_read_at=now)
            if witnessed:
                _log.warning("meter_event_resent_after_doubt", identifier=event.identifier)
                return Verdict(send=True, outcome=Outcome(OutcomeKind.UNKNOWN))
            if now - event.zero_read_at <= DOUBT_SECONDS_MAX:
                reason = "Stripe's sum does not show it, but nothing that was accepted later either"
                return self._wait(event, now + ZERO_READINGS_APART_SECONDS, reason)
            return self._park(event, "Stripe's sum does not show it, but nothing that was accepted later either")
        words = f"Stripe's sum of its minute differs by {shown}, which is neither 0 nor its value"
        if shown < 0 and now - (event.first_unknown_at or 0) <= DOUBT_AFTER_SECONDS + DOUBT_SECONDS_MAX:
            return self._wait(event, now + ZERO_READINGS_APART_SECONDS, words)
        return self._park(event, words)

    def _witnessed(self, event: MeterEvent, meter_id: str, after: int) -> bool:
        """Whether something that was accepted after the first reading shows in its own minute."""
        if self._seen_until.get(event.event_name, 0) > after:
            return True
        for witness in self._store.witnesses(event.event_name, after=after, limit=WITNESSES_MAX):
            delivered, unproven = self._store.cell_book(witness)
            if not unproven and self._shown(witness, meter_id) == delivered + witness.value:
                self._seen_until[event.event_name] = witness.created_at
                return True
        return False

    def _shown(self, event: MeterEvent, meter_id: str) -> int:
        start = event.cell * CELL_SECONDS
        self._count_read()
        return self._provider.summary(meter_id, event.customer_id, start, start + CELL_SECONDS)

    def _meter_id(self, event_name: str) -> str | None:
        if event_name not in self._meters:
            self._count_read()
            found = sorted(self._provider.meters(), key=lambda meter: meter.active)
            self._meters = {meter.event_name: meter.id for meter in found}
        return self._meters.get(event_name)

    def _count_read(self) -> None:
        """Reads of Stripe are budgeted, because everything that reads there shares what it allows in a month."""
        with self._lock:
            now_ms = self._clock.monotonic_ms()
            if now_ms - self._hour_ms >= _HOUR_MS:
                self._hour_ms, self._reads = now_ms, 0
            if self._reads >= DOUBT_READS_PER_HOUR_MAX:
                raise _BudgetSpent
            self._reads += 1

    def _wait(self, event: MeterEvent, until: int, reason: str, zero_read_at: int | None = None) -> Verdict:
        read_at = event.zero_read_at if zero_read_at is None else zero_read_at
        outcome = Outcome(OutcomeKind.UNKNOWN, reason)
        return Verdict(send=False, outcome=outcome, next_attempt_at=until, zero_read_at=read_at)

    def _park(self, event: MeterEvent, reason: str) -> Verdict:
        _log.error("meter_event_doubtful", identifier=event.identifier, reason=reason)
        outcome = Outcome(OutcomeKind.UNKNOWN, reason)
        return Verdict(send=False, outcome=outcome, state=ReportState.DOUBTFUL, zero_read_at=event.zero_read_at)
