"""Stripe's answers as ours: every error of the SDK becomes one ProviderError, a meter event's answer one Outcome."""

from typing import Any, Final

import httpx
import stripe

from farebox.domain.reports import Outcome, OutcomeKind
from farebox.errors import (
    ProviderError,
    ProviderFailed,
    ProviderForbidden,
    ProviderRejected,
    ProviderThrottled,
    ProviderUnavailable,
)

__all__ = ["RETRY_AFTER_SECONDS_MAX", "outcome_of", "provider_error"]

RETRY_AFTER_SECONDS_MAX: Final = 3_600
_DUPLICATE_TEXT: Final = "already exists with identifier"
_DUPLICATE_CODE: Final = "duplicate_meter_event"
_MAY_PASS: Final = ("no active meter", "in the future")
_ONLY_THIS: Final = "resource-specific"  # Stripe's word for a limit on one customer and meter
_LOCKED: Final = "lock_timeout"
_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


def outcome_of(error: stripe.StripeError) -> Outcome:
    """What a failed meter event means (ledger.md L8). A duplicate identifier is a 400 without a code, and means
    delivered.

    Without a connection nothing was sent, so a network that is down for days leaves nothing in doubt.
    """
    status = error.http_status
    message = _message(error)
    if isinstance(error.__cause__, _NOT_SENT):
        return Outcome(OutcomeKind.THROTTLED, message, everyone=True)
    if status is None:
        return Outcome(OutcomeKind.UNKNOWN, message)
    if status in (401, 403):
        return Outcome(OutcomeKind.FORBIDDEN, message)
    if status in (409, 429):
        locked = _code(error) == _LOCKED or _header(error, "stripe-rate-limited-reason") == _ONLY_THIS
        everyone = status == 429 and not locked
        return Outcome(OutcomeKind.THROTTLED, message, retry_after_seconds=_retry_after(error), everyone=everyone)
    if status >= 500:
        return Outcome(OutcomeKind.UNKNOWN, message, stored_failure=True)
    if error.error is None:  # not Stripe's words: a proxy's page, or an answer cut short
        return Outcome(OutcomeKind.UNKNOWN, message)
    if isinstance(error, stripe.IdempotencyError):
        return Outcome(OutcomeKind.CONFLICT, message)
    if _code(error) == _DUPLICATE_CODE or _DUPLICATE_TEXT in message:
        return Outcome(OutcomeKind.DUPLICATE, message)
    return Outcome(OutcomeKind.REJECTED, message, may_pass=any(words in message.lower() for words in _MAY_PASS))


def provider_error(error: stripe.StripeError) -> ProviderError:
    """The same for every other call. Stripe's own words are for the operator."""
    status, words = error.http_status, _message(error)
    if status is None:
        return ProviderUnavailable(internal=words)
    if status >= 500 or isinstance(error, stripe.IdempotencyError):
        return ProviderFailed(internal=words)
    if status in (401, 403):
        return ProviderForbidden(internal=words)
    if status in (409, 429):
        return ProviderThrottled(internal=words)
    if error.error is None:
        return ProviderUnavailable(internal=words)
    return ProviderRejected(internal=words)


def _message(error: stripe.StripeError) -> str:
    return str(error.user_message or error)[:500]


def _code(error: stripe.StripeError) -> str | None:
    return getattr(error.error, "code", None)


def _header(error: stripe.StripeError, name: str) -> str:
    headers: dict[str, Any] = {given.lower(): value for given, value in (error.headers or {}).items()}
    return str(headers.get(name, ""))


def _retry_after(error: stripe.StripeError) -> int:
    value = _header(error, "retry-after")
    return min(int(value), RETRY_AFTER_SECONDS_MAX) if value.isascii() and value.isdecimal() and len(value) < 12 else 0
