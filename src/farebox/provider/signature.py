"""The signature of a webhook, checked over its raw bytes before anything in it is looked at."""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

from farebox.domain.keys import Secret
from farebox.errors import SignatureInvalid

__all__ = ["SIGNATURES_MAX", "SIGNATURE_WINDOW_SECONDS", "check_signature"]

SIGNATURE_WINDOW_SECONDS: Final = 300
SIGNATURES_MAX: Final = 16


def check_signature(body: bytes, header: str, secrets: Sequence[Secret], now: int) -> None:
    """Any v1 of the header over "t.body", made with any of the secrets, not older nor further ahead than the window.

    Not the SDK's check, which takes times that lie ahead and one secret only.
    """
    pairs = [part.partition("=") for part in header.split(",")[: SIGNATURES_MAX + 1]]
    times = [value for name, _, value in pairs if name.strip() == "t"]
    given = [value.strip().encode("utf-8", "replace") for name, _, value in pairs if name.strip() == "v1"]
    if len(times) != 1 or not (times[0].isascii() and times[0].isdecimal() and len(times[0]) < 12) or not given:
        raise SignatureInvalid("The Stripe-Signature header is missing or malformed.")
    if abs(now - int(times[0])) > SIGNATURE_WINDOW_SECONDS:
        raise SignatureInvalid("The webhook's timestamp is too far from now. Check the clock of this machine.")
    signed = times[0].encode() + b"." + body
    expected = [hmac.new(s.reveal().encode(), signed, hashlib.sha256).hexdigest().encode() for s in secrets]
    matches = [hmac.compare_digest(ours, theirs) for ours in expected for theirs in given]
    if not any(matches):
        raise SignatureInvalid("No signature matches. Check that STRIPE_WEBHOOK_SECRET is this endpoint's secret.")
