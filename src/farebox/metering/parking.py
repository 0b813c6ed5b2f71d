"""Quantities that could not be believed: said in the log, counted by meter and reason. Never stops a call."""

import threading
from collections import Counter
from typing import Final

import structlog

from farebox.domain.measures import Fault, said

__all__ = ["Parking"]

_COUNTED: Final = (
    "it was counted as `counted` units; when more was used, record the difference alone "
    "(`farebox.record`, `farebox usage adjust`)"
)
_UNKNOWN: Final = "it may have been counted or not; compare the account's usage with what was used before you record it"

_log = structlog.get_logger("farebox.quantities")


class Parking:
    """Where faulty quantities are put, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()

    def counts(self) -> dict[tuple[str, str], int]:
        """How many since the start, by meter and reason."""
        with self._lock:
            return dict(self._counts)

    def park(
        self,
        account_id: str,
        route: str,
        meter: str,
        fault: Fault,
        found: object = None,
        source: str = "",
        *,
        counted: int | None,
    ) -> None:
        """Say that a call's quantity of this meter was not what it should be: what was found, cut short, and how many
        units were counted for it, None when nobody knows.
        """
        with self._lock:
            self._counts[meter, fault.value] += 1
        _log.error(
            "quantity_parked",
            account=account_id,
            route=route,
            meter=meter,
            reason=fault.value,
            source=source,
            found=said(found),
            counted=counted,
            meaning=_UNKNOWN if counted is None else _COUNTED,
        )
