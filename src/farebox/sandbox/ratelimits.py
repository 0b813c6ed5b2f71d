"""Stripe's own limits at their real values, for those who switch them on: so many requests a second of each kind.

A bucket for each account and kind holds one second's worth, and fills as real time passes.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from farebox.sandbox.errors import StripeError

__all__ = [
    "IN_FLIGHT_MILLISECONDS_MAX",
    "LIVE_METER_EVENTS_PER_SECOND_MAX",
    "LIVE_REQUESTS_PER_SECOND_MAX",
    "MODES",
    "PER_SECOND_MAX",
    "RATE_LIMIT_REASONS",
    "TEST_REQUESTS_PER_SECOND_MAX",
    "Limits",
    "refused_for",
]

LIVE_REQUESTS_PER_SECOND_MAX: Final = 100  # to read, and as many to write
LIVE_METER_EVENTS_PER_SECOND_MAX: Final = 1_000
TEST_REQUESTS_PER_SECOND_MAX: Final = 25  # to read, to write, and of meter events
PER_SECOND_MAX: Final = 1_000_000
RATE_LIMIT_REASONS: Final = (
    "endpoint-concurrency",
    "endpoint-rate",
    "global-concurrency",
    "global-rate",
    "resource-specific",
)
IN_FLIGHT_MILLISECONDS_MAX: Final = 60_000
_READ, _WRITE, _USAGE, _IN_FLIGHT = (
    "read_per_second",
    "write_per_second",
    "meter_events_per_second",
    "in_flight_milliseconds",
)
_LIVE: Final = LIVE_REQUESTS_PER_SECOND_MAX
_TEST: Final = TEST_REQUESTS_PER_SECOND_MAX
MODES: Final[dict[str, dict[str, int | None]]] = {
    "off": {_READ: None, _WRITE: None, _USAGE: None, _IN_FLIGHT: 0},
    "live": {_READ: _LIVE, _WRITE: _LIVE, _USAGE: LIVE_METER_EVENTS_PER_SECOND_MAX, _IN_FLIGHT: 0},
    "test": {_READ: _TEST, _WRITE: _TEST, _USAGE: _TEST, _IN_FLIGHT: 0},
}
_METER_EVENTS: Final = ("/v1/billing/meter_events", "/v2/billing/meter_events")
_COST: Final = 1_000  # of a request, in thousandths, so that a bucket fills by its rate each millisecond


class Limits:
    """How many requests a second each account may make. Off until set."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._values = dict(MODES["off"])
        self._buckets: dict[tuple[str, str], tuple[int, int]] = {}  # what is in it, and since when
        self._lock = threading.Lock()
        self.refused = 0

    @property
    def in_flight_ms(self) -> int:
        """How long a meter event occupies its customer and meter beside the work itself."""
        return self._values[_IN_FLIGHT] or 0

    def asked(self) -> dict[str, int | None]:
        return dict(self._values)

    def set(self, asked: Mapping[str, Any]) -> None:
        """Set {"mode": "off" | "live" | "test"}, single values, or both. ValueError says what is wrong."""
        mode = asked.get("mode")
        if "mode" in asked and (not isinstance(mode, str) or mode not in MODES):
            raise ValueError(f"mode is one of {', '.join(MODES)}")
        values = {name: value for name, value in asked.items() if name != "mode"}
        unknown = values.keys() - self._values.keys()
        if unknown:
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}; known: mode, {', '.join(self._values)}")
        for name, value in values.items():
            low, high = (0, IN_FLIGHT_MILLISECONDS_MAX) if name == _IN_FLIGHT else (1, PER_SECOND_MAX)
            if value is None and name != _IN_FLIGHT:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise ValueError(f"{name} is a whole number from {low} to {high}, or null for no limit")
        with self._lock:
            self._values = {**(MODES[mode] if mode is not None else self._values), **values}
            self._buckets.clear()

    def check(self, account_id: str, method: str, path: str) -> None:
        """Take the request's place in its second. A 429 when there is none left."""
        kind = _USAGE if path in _METER_EVENTS else _READ if method == "GET" else _WRITE
        rate = self._values[kind]
        if rate is None:
            return
        with self._lock:
            now_ms = self._now_ms()
            held, since_ms = self._buckets.get((account_id, kind), (rate * _COST, now_ms))
            held = min(held + max(now_ms - since_ms, 0) * rate, rate * _COST)
            enough = held >= _COST
            self._buckets[account_id, kind] = (held - _COST if enough else held, now_ms)
            self.refused += not enough
        if not enough:
            fewer = "Send fewer at once, and try again with growing pauses."
            raise refused_for(f"Request rate limit exceeded: {rate} a second. {fewer}", path)


def refused_for(message: str, path: str, reason: str | None = None) -> StripeError:
    """The 429 of a limit, with the header that names the limit: by itself the one that this path meets first."""
    code = "lock_timeout" if reason == "resource-specific" else "rate_limit"
    error = StripeError(429, "invalid_request_error", message, code=code)
    by_path = "endpoint-rate" if path in _METER_EVENTS else "global-rate"
    error.headers["Stripe-Rate-Limited-Reason"] = reason or by_path
    return error
