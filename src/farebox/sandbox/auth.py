"""Whose request it is: the test key of its header. Live keys are refused."""

import base64
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from farebox.sandbox.errors import StripeError
from farebox.sandbox.state import API_VERSION, State

__all__ = ["SESSION_SECONDS", "STREAM", "account_of_session", "checked_key", "key_of"]

SESSION_SECONDS: Final = 900
STREAM: Final = "/v2/billing/meter_event_stream"

_OLDEST_VERSION: Final = "2025-03-31"
_LIVE: Final = ("sk_live_", "rk_live_")
_OTHERS: Final = ("stripe-account", "stripe-context")  # a request on behalf of a connected account: there is none
_TEST: Final = ("sk_test_", "rk_test_")


def checked_key(sent: Mapping[str, str]) -> str:
    """The test key that a request bears, by its headers in small letters. A 401 or 400 says what is wrong with it."""
    key = key_of(sent)
    if not key:
        raise _refused(
            "You did not provide an API key. Send `Authorization: Bearer sk_test_…`; any test key works here."
        )
    if key.startswith(_LIVE):
        raise _refused("This is a local stand-in for Stripe. It refuses live keys; use a test key.")
    if not key.startswith(_TEST) or len(key) < 12:
        raise _refused(f"Invalid API Key provided: {key[:8]}***")
    version = sent.get("stripe-version", API_VERSION)
    if version[:10] < _OLDEST_VERSION:
        message = f"The local Stripe speaks {API_VERSION}; {version[:30]} has no billing meters."
        raise StripeError(400, "invalid_request_error", message)
    for name in _OTHERS:
        if sent.get(name):
            raise StripeError(403, "invalid_request_error", _no_access(key, sent[name]), code="account_invalid")
    return key


def _no_access(key: str, account: str) -> str:
    return (
        f"The provided key '{key[:8]}***' does not have access to account '{account[:60]}' (or that account does not "
        "exist). Application access may have been revoked."
    )


def account_of_session(sent: Mapping[str, str], accounts: Mapping[str, State], now_at: int) -> State:
    """The account whose meter event session's token a request bears. An API key opens no stream."""
    token = key_of(sent)
    id, _, _ = token.partition(".")
    for state in list(accounts.values()):
        session = state.objects["v2.billing.meter_event_session"].get(id)
        if session is not None and session["authentication_token"] == token:
            if session["_ends_at"] <= now_at:
                message = "The temporary session token has expired. Create a new meter event session."
                code = "billing_meter_event_session_expired"
                raise StripeError(401, "temporary_session_expired", message, code=code)
            return state
    raise _refused("The meter event stream takes the token of a meter event session, and no other key.")


def key_of(sent: Mapping[str, str]) -> str:
    """The key of a Bearer header, or the user name of a Basic one, as `curl -u sk_test_…:` sends it."""
    scheme, _, text = sent.get("authorization", "").partition(" ")
    match scheme.lower():
        case "bearer":
            return text.strip()
        case "basic":
            with suppress(ValueError):
                return base64.b64decode(text.strip(), validate=True).decode("ascii").partition(":")[0]
    return ""


def _refused(message: str) -> StripeError:
    return StripeError(401, "invalid_request_error", message)
