"""The real Clock and Entropy: the only place in the product that knows the time or draws randomness."""

import gc
import secrets
import threading
import time
from collections.abc import Callable
from typing import Final

__all__ = ["COLLECTOR_OBJECTS", "FollowingClock", "SystemClock", "SystemEntropy", "calm_collector"]

COLLECTOR_OBJECTS: Final = 20_000
_COLLECTOR_DEFAULTS: Final = (700, 2_000)  # of the Pythons there are


class SystemClock:
    """The machine's clock, or the store's where that has one of its own. `now_at` never goes back (L4).

    When the time that it follows was set back, it goes on at half speed until that has caught up.
    """

    def __init__(self) -> None:
        self._base_ms = 0  # what was told, and when
        self._base_at_ms = 0
        self._store: tuple[int, int] | None = None
        self._lock = threading.Lock()
        self._second = (0, 0)  # what was answered last, and until which monotonic millisecond it cannot be another

    def now_at(self) -> int:
        at, until_ms = self._second
        return at if self.monotonic_ms() < until_ms else self._look()

    def _look(self) -> int:
        with self._lock:
            at_ms = self.monotonic_ms()
            aim_ms = self._followed_ms(at_ms) + self._offset_seconds() * 1000
            slow_ms = self._base_ms + (at_ms - self._base_at_ms) // 2 if self._base_ms else aim_ms
            if aim_ms >= slow_ms:
                self._base_ms, self._base_at_ms = aim_ms, at_ms
            at, over_ms = divmod(max(aim_ms, slow_ms), 1000)
            self._second = (at, at_ms + 1000 - over_ms)
            return at

    def follow_store(self, store_ms: int, monotonic_ms: int) -> None:
        """The store's time at a moment of `monotonic_ms`. From then on the machine's own time does not matter.

        The first time it is told is at the start, before any call: what the machine said until then is forgotten.
        """
        with self._lock:
            if self._store is None:
                self._base_ms = self._base_at_ms = 0
            self._store = (store_ms, monotonic_ms)
            self._second = (0, 0)

    def system_at(self) -> int:
        return int(time.time())

    def monotonic_ms(self) -> int:
        return (
            time.clock_gettime_ns(_SUSPENSION_CLOCK) // 1_000_000
            if _SUSPENSION_CLOCK
            else time.monotonic_ns() // 1_000_000
        )

    def _followed_ms(self, at_ms: int) -> int:
        if self._store is None:
            return time.time_ns() // 1_000_000
        store_ms, then_ms = self._store
        return store_ms + at_ms - then_ms

    def _offset_seconds(self) -> int:
        return 0


class FollowingClock(SystemClock):
    """A clock that follows a local Stripe's moved time.

    `read_offset` asks it; when it is away the last offset stays.
    """

    def __init__(self, read_offset: Callable[[], int]) -> None:
        super().__init__()
        self._read_offset = read_offset
        self._offset = 0

    def refresh(self) -> None:
        """Ask once. Raises what `read_offset` raises."""
        offset = self._read_offset()
        with self._lock:
            self._offset = offset
            self._second = (0, 0)

    def _offset_seconds(self) -> int:
        return self._offset


class SystemEntropy:
    def token_bytes(self, size: int) -> bytes:
        return secrets.token_bytes(size)

    def token(self) -> str:
        return secrets.token_hex(12)


def calm_collector() -> None:
    """Spare the garbage collector what is there for good, and let it come less often.

    It comes when so many more objects were made than freed. Calls that wait for their commit keep theirs meanwhile, so
    that by Python's own number it would come many times a second, and find nothing. A number that somebody has chosen
    stays, and so does all when somebody has done the like before.
    """
    if gc.get_freeze_count():
        return
    gc.collect()
    gc.freeze()
    young, *older = gc.get_threshold()
    if young in _COLLECTOR_DEFAULTS:
        gc.set_threshold(COLLECTOR_OBJECTS, *older)


_SUSPENSION_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", None)
