"""The local Stripe's time: the wall clock plus an offset that only grows. The only place here that knows the time."""

import time

__all__ = ["ManualClock", "SandboxClock"]


class SandboxClock:
    """`now_at` is Stripe's time in Unix seconds; `system_*` is the machine's own, for signatures and retries."""

    def __init__(self) -> None:
        self.offset_seconds = 0

    def now_at(self) -> int:
        return self.system_at() + self.offset_seconds

    def system_at(self) -> int:
        return int(time.time())

    def system_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def move_to(self, at: int) -> None:
        """Move Stripe's time forward to `at`; never back."""
        self.offset_seconds = max(self.offset_seconds, at - self.system_at())

    def sleep_ms(self, milliseconds: int) -> None:
        time.sleep(milliseconds / 1000)


class ManualClock(SandboxClock):
    """A clock that stands still until it is moved: for tests without waiting."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self._system_ms = at * 1000

    def system_at(self) -> int:
        return self._system_ms // 1000

    def system_ms(self) -> int:
        return self._system_ms

    def pass_ms(self, milliseconds: int) -> None:
        self._system_ms += milliseconds

    def sleep_ms(self, milliseconds: int) -> None:
        self.pass_ms(milliseconds)
