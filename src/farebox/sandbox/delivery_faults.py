"""Deliveries troubled on demand: lost, doubled, out of order, or late; by count or at a rate, per type of event."""

import fnmatch
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from farebox.sandbox.ids import Ids

__all__ = ["DELAY_MILLISECONDS_MAX", "DeliveryFault", "DeliveryFaults"]

DELAY_MILLISECONDS_MAX: Final = 86_400_000
_KINDS: Final = ("drop", "duplicate", "reorder", "delay")
_MILLION: Final = 1_000_000


@dataclass(slots=True)
class DeliveryFault:
    """`type` and `endpoint` may hold stars. `count` None lasts until cleared."""

    kind: str
    type: str = "*"
    endpoint: str = "*"
    delay_ms: int = 0
    count: int | None = 1
    rate_millionths: int = _MILLION


class DeliveryFaults:
    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._faults: list[DeliveryFault] = []
        self._lock = threading.Lock()

    def add(self, asked: Mapping[str, Any]) -> DeliveryFault:
        """Add a fault described in JSON. ValueError says what is wrong with the description."""
        known = DeliveryFault.__dataclass_fields__
        unknown = asked.keys() - known.keys()
        if unknown:
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
        if asked.get("kind") not in _KINDS:
            raise ValueError(f"kind is one of {', '.join(_KINDS)}")
        fault = DeliveryFault(**asked)
        count = 1 if fault.count is None else fault.count
        if not all(_whole(number) for number in (fault.delay_ms, fault.rate_millionths, count)):
            raise ValueError("delay_ms, count, rate_millionths are whole numbers")
        if not 0 <= fault.delay_ms <= DELAY_MILLISECONDS_MAX or not 0 <= fault.rate_millionths <= _MILLION:
            raise ValueError(f"delay_ms is at most {DELAY_MILLISECONDS_MAX}, rate_millionths at most {_MILLION}")
        if (fault.kind == "delay") != (fault.delay_ms > 0):
            raise ValueError('a "delay" has a delay_ms, and nothing else has')
        if count < 1:
            raise ValueError("count is at least 1 or null")
        if not isinstance(fault.type, str) or not isinstance(fault.endpoint, str):
            raise ValueError("type and endpoint are strings")
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def listed(self) -> list[dict[str, Any]]:
        with self._lock:
            return [asdict(fault) for fault in self._faults]

    def next(self, type: str, endpoint: str) -> DeliveryFault | None:
        """The fault that hits this delivery, if any; a counted one is used up by it."""
        with self._lock:
            for fault in self._faults:
                if not fnmatch.fnmatchcase(type, fault.type) or not fnmatch.fnmatchcase(endpoint, fault.endpoint):
                    continue
                if fault.rate_millionths < _MILLION and self._ids.fraction() >= fault.rate_millionths:
                    continue
                if fault.count is not None:
                    fault.count -= 1
                    if fault.count <= 0:
                        self._faults.remove(fault)
                return fault
        return None


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
