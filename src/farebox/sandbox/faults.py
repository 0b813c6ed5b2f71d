"""Faults on demand: for a route, so many times or at a rate, latency, an error answer, or a broken connection."""

import fnmatch
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from farebox.sandbox.ids import Ids
from farebox.sandbox.ratelimits import RATE_LIMIT_REASONS

__all__ = ["LATENCY_MILLISECONDS_MAX", "Fault", "Faults", "Reset"]

LATENCY_MILLISECONDS_MAX: Final = 120_000
_MILLION: Final = 1_000_000


class Reset(Exception):
    """The connection is to be broken without an answer."""


@dataclass(slots=True)
class Fault:
    """`path` may hold stars. `count` None lasts until cleared; `rate_millionths` is the share of requests it hits."""

    method: str = "*"
    path: str = "*"
    status: int | None = None
    latency_ms: int = 0
    reset: str | None = None  # "before" or "after" the effect
    count: int | None = 1
    rate_millionths: int = _MILLION
    reason: str | None = None  # of a 429, one of RATE_LIMIT_REASONS. None: what the path's own limit would say


class Faults:
    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, asked: Mapping[str, Any]) -> Fault:
        """Add a fault described in JSON. ValueError says what is wrong with the description."""
        unknown = asked.keys() - Fault.__dataclass_fields__.keys()
        if unknown:
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(Fault.__dataclass_fields__)}")
        fault = Fault(**asked)
        status = 500 if fault.status is None else fault.status
        count = 1 if fault.count is None else fault.count
        whole = (fault.latency_ms, fault.rate_millionths, status, count)
        if not all(isinstance(number, int) for number in whole) or fault.reset not in (None, "before", "after"):
            raise ValueError(
                'status, latency_ms, count, rate_millionths are whole numbers; reset is "before" or "after"'
            )
        if not 0 <= fault.latency_ms <= LATENCY_MILLISECONDS_MAX or not 0 <= fault.rate_millionths <= _MILLION:
            raise ValueError(f"latency_ms is at most {LATENCY_MILLISECONDS_MAX}, rate_millionths at most {_MILLION}")
        if not 400 <= status <= 599 or count < 1:
            raise ValueError("status is from 400 to 599, count at least 1 or null")
        if fault.reason is not None and (fault.status != 429 or fault.reason not in RATE_LIMIT_REASONS):
            raise ValueError(f"reason is that of a 429: {', '.join(RATE_LIMIT_REASONS)}")
        if not isinstance(fault.method, str) or not isinstance(fault.path, str):
            raise ValueError("method and path are strings")
        with self._lock:
            self._faults.append(fault)
        return fault

    @property
    def any(self) -> bool:
        return bool(self._faults)

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def listed(self) -> list[dict[str, Any]]:
        with self._lock:
            return [asdict(fault) for fault in self._faults]

    def next(self, method: str, path: str) -> Fault | None:
        """The fault that hits this request, if any; a counted one is used up by it."""
        with self._lock:
            for fault in self._faults:
                if fault.method not in ("*", method) or not fnmatch.fnmatchcase(path, fault.path):
                    continue
                if fault.rate_millionths < _MILLION and self._ids.fraction("requests") >= fault.rate_millionths:
                    continue
                if fault.count is not None:
                    fault.count -= 1
                    if fault.count <= 0:
                        self._faults.remove(fault)
                return fault
        return None
