"""Moving time: forward only, on a thread, pausing at each period's end so that webhooks and late usage can come in.

Stripe itself waits until `invoice.created` is acknowledged and an hour more; a moment of real time stands for both.
"""

import re
import threading
from collections.abc import Mapping
from typing import Any, Final, TypeGuard

from farebox.sandbox.periods import period_around
from farebox.sandbox.sandbox import Sandbox

__all__ = ["MOVE_SECONDS_MAX", "SETTLE_SECONDS", "Movement", "seconds_of"]

SETTLE_SECONDS: Final = 3
MOVE_SECONDS_MAX: Final = 5 * 366 * 86_400
_UNITS: Final = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400, "week": 604_800}
_SPAN: Final = re.compile(r"(\d{1,9}) ?(second|minute|hour|day|week|month|year)s?")


class Movement:
    """At most one move at a time."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()

    @property
    def moving(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def begin(self, asked: Mapping[str, Any]) -> None:
        """Begin to move: {"advance": "1 month" | seconds} or {"to_at": Unix seconds}, with "settle_seconds" and "wait".

        A span goes on for as long as drafts are kept when it ends while a renewal invoice is still a draft: who says a
        month wants to see the bill. `to_at` is exact.
        ValueError when it is not understood, would go back or too far, or another move is under way.
        """
        now = self._sandbox.clock.now_at()
        to_at = asked.get("to_at") if "to_at" in asked else now + seconds_of(asked.get("advance"), now)
        settle = asked.get("settle_seconds", SETTLE_SECONDS)
        if not _whole(to_at) or not _whole(settle) or settle < 0 or settle > 600:
            raise ValueError("to_at is in Unix seconds; settle_seconds is a whole number from 0 to 600.")
        if not now <= to_at <= now + MOVE_SECONDS_MAX:
            raise ValueError("Time moves forward only, and at most five years at once.")
        with self._lock:
            if self.moving:
                raise ValueError("Time is being moved already. Wait until it has arrived.")
            self._thread = threading.Thread(
                target=self._move,
                args=(to_at, settle, "to_at" not in asked),
                name="local-stripe-move",
                daemon=True,
            )
            self._thread.start()
        if asked.get("wait") is True:
            self._thread.join()

    def stop(self) -> None:
        self._stopping.set()

    def _move(self, to_at: int, settle_seconds: int, to_the_bill: bool) -> None:
        while (draft_at := self._sandbox.next_draft_at(to_at)) is not None and not self._stopping.is_set():
            self._sandbox.advance(draft_at)
            # One rest for all that are drafted within half their grace: none of them is finalized before it.
            until = min(draft_at + self._sandbox.grace_seconds // 2, to_at)
            while (another_at := self._sandbox.next_draft_at(until)) is not None and not self._stopping.is_set():
                self._sandbox.advance(another_at)
            if self._stopping.wait(settle_seconds):
                return
        self._sandbox.advance(to_at)
        billed_at = self._sandbox.drafts_end_at()
        if to_the_bill and billed_at is not None and billed_at <= to_at + self._sandbox.grace_seconds:
            self._sandbox.advance(billed_at)


def seconds_of(span: object, now: int) -> int:
    """Seconds of a span such as "45 days", "1 month" or a whole number. ValueError when it is none."""
    if _whole(span):
        return span
    found = _SPAN.fullmatch(span.strip()) if isinstance(span, str) else None
    if found is None:
        raise ValueError('advance is a span such as "1 month", "45 days" or a number of seconds.')
    count, unit = int(found[1]), found[2]
    if unit in _UNITS:
        return count * _UNITS[unit]
    if not 1 <= count <= 120:
        raise ValueError("That is too far.")
    return period_around(now, unit, count, now)[1] - now


def _whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
