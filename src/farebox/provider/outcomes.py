"""Stripe's answers as ours: every error of the SDK becomes one ProviderError, every meter event's answer one Outcome."""

from typing import Any

import stripe

from farebox.domain.reports import Outcome, OutcomeKind
from farebox.errors import ProviderError, ProviderForbidden, ProviderRejected, ProviderThrottled, ProviderUnavailable

__all__ = ["outcome_of", "provider_error"]

_DUPLICATE_TEXT = "already exists with identifier"
_DUPLICATE_CODE = "duplicate_meter_event"


def outcome_of(error: stripe.StripeError) -> Outcome:
    """What a failed meter event means (ledger.md L8). A duplicate identifier is a 400 without a code, and means delivered."""
    status = error.http_status
    message = _message(error)
    if status is None:
        return Outcome(OutcomeKind.UNKNOWN, message)
    if status in (401, 403):
        return Outcome(OutcomeKind.FORBIDDEN, message)
    if status in (409, 429):
        return Outcome(OutcomeKind.THROTTLED, message, retry_after_seconds=_retry_after(error))
    if status >= 500:
        return Outcome(OutcomeKind.UNKNOWN, message, stored_failure=True)
    if _code(error) == _DUPLICATE_CODE or _DUPLICATE_TEXT in message:
        return Outcome(OutcomeKind.DUPLICATE, message)
    return Outcome(OutcomeKind.REJECTED, message)


def provider_error(error: stripe.StripeError) -> ProviderError:
    """The same for every other call. Stripe's own words are for the operator."""
    status, words = error.http_status, _message(error)
    if status is None or status >= 500:
        return ProviderUnavailable(internal=words)
    if status in (401, 403):
        return ProviderForbidden(internal=words)
    if status in (409, 429):
        return ProviderThrottled(internal=words)
    return ProviderRejected(internal=words)


def _message(error: stripe.StripeError) -> str:
    return str(error.user_message or error)[:500]


def _code(error: stripe.StripeError) -> str | None:
    inner: Any = error.error
    return getattr(inner, "code", None) if inner is not None else error.code


def _retry_after(error: stripe.StripeError) -> int:
    value = (error.headers or {}).get("Retry-After") or (error.headers or {}).get("retry-after") or ""
    return int(value) if str(value).isascii() and str(value).isdecimal() and len(str(value)) < 6 else 0
