"""The real Clock and Entropy: the only place in the product that knows the time or draws randomness."""

import secrets
import threading
import time
from collections.abc import Callable

__all__ = ["FollowingClock", "SystemClock", "SystemEntropy"]


class SystemClock:
    """The machine's clock. `now_at` never goes back (L4)."""

    def __init__(self) -> None:
        self._latest = 0
        self._lock = threading.Lock()

    def now_at(self) -> int:
        with self._lock:
            self._latest = max(self._latest, int(time.time()) + self._offset_seconds())
            return self._latest

    def system_at(self) -> int:
        return int(time.time())

    def monotonic_ms(self) -> int:
        return (
            time.clock_gettime_ns(_SUSPENSION_CLOCK) // 1_000_000
            if _SUSPENSION_CLOCK
            else time.monotonic_ns() // 1_000_000
        )

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
        self._offset = self._read_offset()

    def _offset_seconds(self) -> int:
        return self._offset


class SystemEntropy:
    def token_bytes(self, size: int) -> bytes:
        return secrets.token_bytes(size)

    def token(self) -> str:
        return secrets.token_hex(12)


_SUSPENSION_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", None)
