"""The SDK's way out to the network: one pool of connections, or a function in its place."""

import logging
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import stripe

__all__ = [
    "CONNECT_SECONDS_MAX",
    "METER_EVENT_CONNECT_SECONDS_MAX",
    "METER_EVENT_READ_SECONDS_MAX",
    "READ_SECONDS_MAX",
    "HttpClient",
    "Transport",
    "new_pool",
    "transport_over",
]

CONNECT_SECONDS_MAX: Final = 5
READ_SECONDS_MAX: Final = 20
# Together below the margin that a lease leaves for a send. A meter event is one small write, so that what comes after
# its answer has begun changes nothing at Stripe any more.
METER_EVENT_CONNECT_SECONDS_MAX: Final = 3
METER_EVENT_READ_SECONDS_MAX: Final = 8
_METER_EVENTS: Final = ("/v1/billing/meter_events", "/v2/billing/meter_event_stream")
_METER_EVENT_TIMEOUT: Final = httpx.Timeout(METER_EVENT_CONNECT_SECONDS_MAX, read=METER_EVENT_READ_SECONDS_MAX, pool=1)

Transport = Callable[[str, str, Mapping[str, str], bytes], tuple[bytes, int, Mapping[str, str]]]


def _tells_no_bodies(record: logging.LogRecord) -> bool:
    """At debug level the SDK logs what it sends and gets: buyers' e-mails, claimable sessions, webhook secrets."""
    return record.levelno > logging.DEBUG


logging.getLogger("stripe").addFilter(_tells_no_bodies)


class HttpClient(stripe.HTTPClient):
    """The SDK's way out: hands each request to a function."""

    name = "farebox"

    def __init__(self, transport: Transport) -> None:
        super().__init__()
        self._transport = transport

    def request(  # type: ignore[override]
        self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        body = post_data.encode() if isinstance(post_data, str) else (post_data or b"")
        return self._transport(method.upper(), url, headers or {}, body)

    def close(self) -> None:
        pass


def new_pool(*, direct: bool) -> httpx.Client:
    """One pool of connections for all threads.

    `direct` ignores the environment's proxies, which cannot see loopback.
    """
    return httpx.Client(
        timeout=httpx.Timeout(READ_SECONDS_MAX, connect=CONNECT_SECONDS_MAX),
        trust_env=not direct,
        verify=ssl.create_default_context(cafile=stripe.ca_bundle_path),
    )


def transport_over(pool: httpx.Client) -> Transport:
    """Requests over the pool. No answer is an APIConnectionError: nobody knows what became of it."""

    def send(method: str, url: str, headers: Mapping[str, str], body: bytes) -> tuple[bytes, int, Mapping[str, str]]:
        usual = urlsplit(url).path not in _METER_EVENTS
        timeout = httpx.USE_CLIENT_DEFAULT if usual else _METER_EVENT_TIMEOUT
        try:
            answer = pool.request(method, url, headers=headers, content=body, timeout=timeout)
        except httpx.HTTPError as error:
            words = f"{urlsplit(url).netloc} did not answer ({type(error).__name__}: {error})"
            raise stripe.APIConnectionError(words, should_retry=True) from error  # type: ignore[no-untyped-call]
        return answer.content, answer.status_code, answer.headers

    return send
