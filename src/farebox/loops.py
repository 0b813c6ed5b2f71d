"""A loop on a thread of its own that runs a step again and again, can be woken, and never dies of an error."""

import threading
from collections.abc import Callable
from typing import Final

import structlog

from farebox.errors import FareboxError

__all__ = ["BACKOFF_SECONDS_MAX", "Loop"]

BACKOFF_SECONDS_MAX: Final = 30

_log = structlog.get_logger("farebox.loop")


class Loop:
    """Runs `step` every `interval_ms`, at once after `wake`, and again without a pause while it returns True.

    An error is logged and tried again with a growing pause: a FareboxError in words, anything else with its trace.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], bool],
        *,
        interval_ms: int,
        backoff_seconds_max: int = BACKOFF_SECONDS_MAX,
    ) -> None:
        self.name = name
        self._step = step
        self._interval_ms = interval_ms
        self._pause_ms_max = max(backoff_seconds_max * 1000, interval_ms)
        self._wake = threading.Event()
        self._stopping = False
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name=f"farebox-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._wake.set()

    def stop(self, timeout_seconds: float) -> bool:
        """Ask the loop to end and wait for the step under way. False when it did not end in time."""
        self._stopping = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping:
            again = False
            try:
                again = self._step()
                self._failures = 0
            except FareboxError as error:
                self._failures += 1
                _log.warning("step_failed", loop=self.name, code=error.code, reason=str(error))
            except Exception:
                self._failures += 1
                _log.exception("step_broken", loop=self.name)
            if not again and not self._stopping:
                self._wake.wait(self._pause_ms() / 1000)
                self._wake.clear()

    def _pause_ms(self) -> int:
        return min(self._interval_ms << min(self._failures, 10), self._pause_ms_max)
