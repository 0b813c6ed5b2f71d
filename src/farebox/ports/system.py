"""Time and chance, as ports: nothing else in the product knows either. Times are Unix seconds, UTC."""

from typing import Protocol

__all__ = ["Clock", "Entropy"]


class Clock(Protocol):
    """`now_at` is the product's time: calls, buckets, periods, access. It follows a local Stripe's moved time."""

    def now_at(self) -> int: ...
    def system_at(self) -> int:
        """The machine's own time: webhook signatures only."""
        ...

    def monotonic_ms(self) -> int:
        """For deadlines and intervals; counts suspension where the system can."""
        ...


class Entropy(Protocol):
    def token_bytes(self, size: int) -> bytes: ...

    def token(self) -> str:
        """A fresh identifier of 24 lower-case hexadecimal symbols."""
        ...
