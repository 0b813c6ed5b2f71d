"""Whether a failed request to the provider is everybody's trouble, or that of one account."""

from farebox.errors import ProviderError, ProviderThrottled, ProviderUnavailable
from farebox.ports.provider import Provider

__all__ = ["is_away"]


def is_away(provider: Provider, error: Exception) -> bool:
    """Whether the provider answers nobody. One more request, which names no account, tells after an `error` that may
    be everybody's; a refusal of one account's objects never is.
    """
    if not isinstance(error, ProviderUnavailable | ProviderThrottled):
        return False
    try:
        provider.account()
    except (ProviderUnavailable, ProviderThrottled):
        return True
    except ProviderError:  # it answers, if only with a refusal
        return False
    return False
