"""What every call to Stripe shares: errors turned into ours, and lists read to their end."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import stripe
import structlog

from farebox.errors import ProviderError
from farebox.provider.outcomes import provider_error

__all__ = ["StripeCalls", "all_of", "asking"]

_log = structlog.get_logger("farebox.stripe")


class StripeCalls:
    """What a part of the Provider stands on: the SDK's client."""

    _client: stripe.StripeClient

    @property
    def _api(self) -> Any:
        return self._client.v1


@contextmanager
def asking(what: str) -> Iterator[None]:
    """Turn the SDK's errors into a ProviderError; `what` names the call in the log."""
    try:
        yield
    except stripe.StripeError as error:
        ours: ProviderError = provider_error(error)
        _log.debug("stripe_refused", call=what, status=error.http_status, code=ours.code)
        raise ours from error


def all_of(page: Any) -> Iterator[dict[str, Any]]:
    for thing in page.auto_paging_iter():
        yield thing.to_dict()
