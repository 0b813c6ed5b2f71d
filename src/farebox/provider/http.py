"""The SDK's way out to the network: one pool of connections, or a function in its place."""

import logging
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import stripe

__all__ = ["CONNECT_SECONDS_MAX", "READ_SECONDS_MAX", "HttpClient", "Transport", "new_pool", "transport_over"]

CONNECT_SECONDS_MAX: Final = 5
READ_SECONDS_MAX: Final = 20

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
        try:
            answer = pool.request(method, url, headers=headers, content=body)
        except httpx.HTTPError as error:
            words = f"{urlsplit(url).netloc} did not answer ({type(error).__name__}: {error})"
            raise stripe.APIConnectionError(words, should_retry=True) from error  # type: ignore[no-untyped-call]
        return answer.content, answer.status_code, answer.headers

    return send
