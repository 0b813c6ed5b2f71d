"""Stripe through its official SDK. Imported late, since the SDK takes a second to load.

Retries reads and catalog calls itself; a meter event is tried once a call, because only the ledger may decide to try
again.
"""

import json
from collections.abc import Sequence
from typing import Any, Final, cast

import stripe

from farebox.domain.inbox import InboxEvent
from farebox.domain.keys import Secret
from farebox.errors import ConfigError, SignatureInvalid
from farebox.ports import ProviderAccount
from farebox.provider import translate
from farebox.provider.buyers import BuyerCalls
from farebox.provider.calls import asking
from farebox.provider.catalog import CatalogCalls
from farebox.provider.http import HttpClient, Transport, new_pool, transport_over
from farebox.provider.invoicing import InvoicingCalls
from farebox.provider.signature import check_signature
from farebox.provider.usage import UsageCalls

__all__ = ["READ_RETRIES_MAX", "StripeProvider"]

READ_RETRIES_MAX: Final = 2

stripe.enable_telemetry = False


class StripeProvider(CatalogCalls, BuyerCalls, UsageCalls, InvoicingCalls):
    """The Provider.

    `api_base` points at a local Stripe; `transport` (method, url, headers, body) replaces the network.
    """

    def __init__(
        self,
        secret_key: Secret,
        webhook_secrets: Sequence[Secret],
        *,
        api_base: str | None = None,
        transport: Transport | None = None,
    ) -> None:
        super().__init__()
        if not all(secret.reveal().strip() for secret in webhook_secrets):
            raise ConfigError("A webhook secret is empty: anybody could sign with it.")
        self._pool = new_pool(direct=api_base is not None) if transport is None else None
        way = transport_over(self._pool) if self._pool is not None else cast(Transport, transport)
        bases = {"api": api_base, "meter_events": api_base} if api_base is not None else None
        self._client = stripe.StripeClient(
            secret_key.reveal(),
            base_addresses=cast(Any, bases),
            max_network_retries=READ_RETRIES_MAX,
            http_client=HttpClient(way),
        )
        self._webhook_secrets = tuple(webhook_secrets)
        self._tiers = {}
        self._live = secret_key.reveal()[3:7] == "live"

    def close(self) -> None:
        """Give the connections back. Nothing may be asked afterwards."""
        if self._pool is not None:
            self._pool.close()

    def account(self) -> ProviderAccount:
        with asking("account"):
            return ProviderAccount(id=self._api.accounts.retrieve_current().id, livemode=self._live)

    def verify_webhook(self, body: bytes, signature: str, *, now: int) -> InboxEvent:
        check_signature(body, signature, self._webhook_secrets, now)
        try:
            return translate.event_of(json.loads(body))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise SignatureInvalid("The body is signed, but it is not an event.") from error
