"""What the payment provider answered, or did not."""

from farebox.errors.root import FareboxError

__all__ = [
    "CustomerGone",
    "ProviderError",
    "ProviderFailed",
    "ProviderForbidden",
    "ProviderRejected",
    "ProviderThrottled",
    "ProviderUnavailable",
]


class ProviderError(FareboxError):
    code = "provider_error"
    status = 502
    title = "The payment provider could not serve this"


class ProviderUnavailable(ProviderError):
    code = "provider_unavailable"
    status = 503
    title = "The payment provider cannot be reached right now"


class ProviderFailed(ProviderUnavailable):
    """A 5xx that is replayed to the same Idempotency-Key, or a key that was used for something else: take a new key."""


class ProviderThrottled(ProviderError):
    code = "provider_throttled"
    status = 503
    title = "The payment provider is busy"


class ProviderForbidden(ProviderError):
    code = "provider_forbidden"
    title = "The payment provider refused our key"


class ProviderRejected(ProviderError):
    code = "provider_rejected"
    title = "The payment provider refused the request"


class CustomerGone(ProviderRejected):
    code = "customer_gone"
    title = "The payment provider does not know this customer any more"
