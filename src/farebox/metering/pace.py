"""How fast Stripe is asked: below the account's limit, slower when it says so, and back to full speed by and by.

Counts on monotonic time and never sleeps: who wants to send asks how much may be sent now.
"""

import threading
from dataclasses import dataclass
from typing import Final

from farebox.ports import Clock, Entropy

__all__ = ["PACE_PAUSE_SECONDS_MAX", "PACE_RECOVERY_SECONDS", "PACE_STRIKE_MILLISECONDS", "Pace", "Rates"]

PACE_RECOVERY_SECONDS: Final = 60
PACE_PAUSE_SECONDS_MAX: Final = 60
PACE_STRIKE_MILLISECONDS: Final = 1_000
_CALL: Final = 1_000_000  # what a call costs, so that thousandths of a call a second fill by whole numbers each ms
_SLOWEST: Final = 1_000  # thousandths of a call a second


@dataclass(frozen=True, slots=True)
class Rates:
    """Meter events a second one by one, and requests a second of the stream, each of up to a hundred events.

    A rate of 0 for the stream leaves it unused.
    """

    events_per_second: int = 800
    stream_requests_per_second: int = 40


class Pace:
    """A bucket of calls: fills with `per_second`, holds at most `burst`. Halved and paused when refused."""

    def __init__(self, clock: Clock, entropy: Entropy, per_second: int, burst: int) -> None:
        self._clock = clock
        self._entropy = entropy
        self._full = per_second * 1000
        self._rate = self._full
        self._burst = max(burst, 1) * _CALL
        self._held = self._burst
        self._filled_ms = clock.monotonic_ms()
        self._paused_until_ms = 0
        self._struck_ms: int | None = None
        self._strikes = 0
        self._lock = threading.Lock()
        self.slowdowns = 0

    def available(self) -> int:
        """How many calls may be made now."""
        with self._lock:
            now_ms = self._fill()
            return max(self._held // _CALL, 0) if now_ms >= self._paused_until_ms else 0

    def spend(self, calls: int) -> None:
        """Count calls that are being made. More than were available delay those to come."""
        with self._lock:
            self._fill()
            self._held -= calls * _CALL

    def wait_ms(self) -> int:
        """How long until half of the burst may be made, so that calls come in fair groups; 0 when it may be now."""
        with self._lock:
            now_ms = self._fill()
            missing = max(max(self._burst >> 1, _CALL) - self._held, 0)
            filled_ms = -(-missing // max(self._rate, _SLOWEST))
            return max(filled_ms, self._paused_until_ms - now_ms, 0)

    def slow(self, retry_after_seconds: int) -> None:
        """Stripe refused or did not answer: half the speed, and a pause of random length or the one that it asked for.
        Refusals within a second of each other count as one."""
        with self._lock:
            now_ms = self._fill()
            pause_ms = retry_after_seconds * 1000
            if self._struck_ms is None or now_ms - self._struck_ms >= PACE_STRIKE_MILLISECONDS:
                self._struck_ms = now_ms
                self._strikes = min(self._strikes + 1, 16)
                self.slowdowns += 1
                self._rate = max(self._rate // 2, _SLOWEST)
                self._held = min(self._held, _CALL)
                ceiling_ms = min(1 << self._strikes, PACE_PAUSE_SECONDS_MAX) * 1000
                pause_ms = max(pause_ms, int.from_bytes(self._entropy.token_bytes(4), "big") % ceiling_ms)
            self._paused_until_ms = max(self._paused_until_ms, now_ms + pause_ms)

    def ease(self) -> None:
        """Stripe took something: the next pause is short again."""
        with self._lock:
            if self._struck_ms is None or self._clock.monotonic_ms() - self._struck_ms >= PACE_STRIKE_MILLISECONDS:
                self._strikes = 0

    def _fill(self) -> int:
        now_ms = self._clock.monotonic_ms()
        passed_ms = max(now_ms - self._filled_ms, 0)
        self._filled_ms = now_ms
        self._held = min(self._held + passed_ms * self._rate, self._burst)
        self._rate = min(self._rate + passed_ms * self._full // (PACE_RECOVERY_SECONDS * 1000), self._full)
        return now_ms
