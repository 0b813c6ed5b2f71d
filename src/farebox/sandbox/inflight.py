"""One at a time: requests under one idempotency key, and meter events of one customer and meter."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from farebox.sandbox.errors import StripeError

__all__ = ["InFlight", "key_in_use", "lock_timeout"]


class InFlight:
    """What is being served now. Thread-safe."""

    def __init__(self) -> None:
        self._served: set[tuple[str, ...]] = set()
        self._lock = threading.Lock()

    @contextmanager
    def alone(self, one: tuple[str, ...] | None, refusal: Callable[[], StripeError]) -> Iterator[None]:
        """Refuse a second request for the same while the first is being served. None is shared by all."""
        if one is None:
            yield
            return
        with self._lock:
            if one in self._served:
                raise refusal()
            self._served.add(one)
        try:
            yield
        finally:
            with self._lock:
                self._served.discard(one)


def key_in_use() -> StripeError:
    message = "There is currently another in-progress request using this Idempotency-Key. Try again later."
    return StripeError(409, "idempotency_error", message, code="idempotency_key_in_use")


def lock_timeout() -> StripeError:
    error = StripeError(
        429,
        "invalid_request_error",
        "This object cannot be accessed right now because another API request is currently accessing it. "
        "Send meter events of one customer and meter one after another.",
        code="lock_timeout",
    )
    error.headers["Stripe-Rate-Limited-Reason"] = "resource-specific"
    return error
