"""Bounds of what strangers may send: bodies read piece by piece, and so many requests a minute from one address."""

from typing import Final

from starlette.requests import ClientDisconnect, Request

from farebox.errors import BodyTooLarge, InputInvalid, TooManyRequests
from farebox.ports import Clock

__all__ = [
    "ADDRESSES_MAX",
    "BODY_BYTES_MAX",
    "BURST_REQUESTS_MAX",
    "REFILL_MILLISECONDS",
    "WEBHOOK_BODY_BYTES_MAX",
    "RateLimit",
    "bounded_body",
]

BODY_BYTES_MAX: Final = 65_536
WEBHOOK_BODY_BYTES_MAX: Final = 1_048_576
ADDRESSES_MAX: Final = 10_000
BURST_REQUESTS_MAX: Final = 30
REFILL_MILLISECONDS: Final = 2_000  # one more request every so often


async def bounded_body(request: Request, bytes_max: int) -> bytes:
    """The raw body, read no further than the bound. BodyTooLarge beyond it."""
    declared = request.headers.get("content-length", "0")
    if declared.isascii() and declared.isdecimal() and int(declared[:20]) > bytes_max:
        raise BodyTooLarge(f"The body may have at most {bytes_max} bytes.")
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > bytes_max:
                raise BodyTooLarge(f"The body may have at most {bytes_max} bytes.")
    except ClientDisconnect:
        raise InputInvalid("The body ended early.") from None
    return bytes(body)


class RateLimit:
    """A bucket of requests for each address that refills with time. Holds at most ADDRESSES_MAX addresses."""

    def __init__(self, clock: Clock, *, burst: int = BURST_REQUESTS_MAX, refill_ms: int = REFILL_MILLISECONDS) -> None:
        self._clock = clock
        self._burst = burst
        self._refill_ms = refill_ms
        self._full_at_ms: dict[str, int] = {}  # when the address's bucket will be full again

    def take(self, address: str) -> None:
        """Count one request. TooManyRequests says when to come again."""
        now = self._clock.monotonic_ms()
        full_at = max(self._full_at_ms.pop(address, now), now)
        if full_at - now > (self._burst - 1) * self._refill_ms:
            self._full_at_ms[address] = full_at
            wait_ms = full_at - now - (self._burst - 1) * self._refill_ms
            raise TooManyRequests("Too many requests. Wait a little.", retry_after_seconds=-(-wait_ms // 1000))
        if len(self._full_at_ms) >= ADDRESSES_MAX:
            del self._full_at_ms[next(iter(self._full_at_ms))]
        self._full_at_ms[address] = full_at + self._refill_ms
