"""Stripe through its official SDK. Imported late, since the SDK takes a second to load.

Retries reads and catalog calls itself; a meter event is tried once a call, because only the ledger may decide to try
again.
"""

import hashlib
import hmac
import json
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, cast
from urllib.parse import urlsplit

import httpx
import stripe
import structlog

from farebox.domain.accounts import Account, Subscription
from farebox.domain.catalog import Meter, Plan, Price
from farebox.domain.inbox import HANDLED_EVENT_TYPES, InboxEvent
from farebox.domain.keys import Secret
from farebox.domain.reports import MeterEvent, Outcome, OutcomeKind
from farebox.errors import ConfigError, NotFound, ProviderError, ProviderRejected, SignatureInvalid
from farebox.ports import (
    CheckoutSession,
    Endpoint,
    Invoice,
    PortalState,
    ProviderAccount,
    StoredMeter,
    StoredPrice,
)
from farebox.provider import translate
from farebox.provider.outcomes import outcome_of, provider_error

__all__ = [
    "CONNECT_SECONDS_MAX",
    "READ_RETRIES_MAX",
    "READ_SECONDS_MAX",
    "SIGNATURES_MAX",
    "SIGNATURE_WINDOW_SECONDS",
    "StripeProvider",
    "Transport",
]

CONNECT_SECONDS_MAX: Final = 5
READ_SECONDS_MAX: Final = 20
READ_RETRIES_MAX: Final = 2
SIGNATURE_WINDOW_SECONDS: Final = 300
SIGNATURES_MAX: Final = 16

Transport = Callable[[str, str, Mapping[str, str], bytes], tuple[bytes, int, Mapping[str, str]]]

stripe.enable_telemetry = False
_log = structlog.get_logger("farebox.stripe")


class StripeProvider:
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
        if not all(secret.reveal().strip() for secret in webhook_secrets):
            raise ConfigError("A webhook secret is empty: anybody could sign with it.")
        self._pool = _pool(direct=api_base is not None) if transport is None else None
        bases = {"api": api_base, "meter_events": api_base} if api_base is not None else None
        self._client = stripe.StripeClient(
            secret_key.reveal(),
            base_addresses=cast(Any, bases),
            max_network_retries=READ_RETRIES_MAX,
            http_client=_HttpClient(_over(self._pool) if self._pool is not None else cast(Transport, transport)),
        )
        self._webhook_secrets = tuple(webhook_secrets)
        self._live = secret_key.reveal()[3:7] == "live"

    def close(self) -> None:
        """Give the connections back. Nothing may be asked afterwards."""
        if self._pool is not None:
            self._pool.close()

    @property
    def _api(self) -> Any:
        return self._client.v1

    def account(self) -> ProviderAccount:
        with _asking("account"):
            return ProviderAccount(id=self._api.accounts.retrieve_current().id, livemode=self._live)

    # catalog

    def meters(self) -> list[StoredMeter]:
        with _asking("meters"):
            return [translate.meter_of(m) for m in _all(self._api.billing.meters.list(params={"limit": 100}))]

    def create_meter(self, meter: Meter) -> StoredMeter:
        params = {
            "display_name": meter.title,
            "event_name": meter.event_name,
            "default_aggregation": {"formula": "sum"},
            "customer_mapping": {"event_payload_key": "stripe_customer_id", "type": "by_id"},
            "value_settings": {"event_payload_key": "value"},
        }
        with _asking("create_meter"):
            return translate.meter_of(self._api.billing.meters.create(params=params).to_dict())

    def rename_meter(self, meter_id: str, title: str) -> None:
        with _asking("rename_meter"):
            self._api.billing.meters.update(meter_id, params={"display_name": title})

    def reactivate_meter(self, meter_id: str) -> None:
        with _asking("reactivate_meter"):
            self._api.billing.meters.reactivate(meter_id)

    def prices(self, lookup_keys: Sequence[str]) -> list[StoredPrice]:
        found: list[StoredPrice] = []
        with _asking("prices"):
            for start in range(0, len(lookup_keys), 10):  # Stripe takes ten lookup keys at once
                params = {
                    "lookup_keys": list(lookup_keys[start : start + 10]),
                    "limit": 100,
                    "expand": ["data.product"],
                }
                found += [translate.price_of(p) for p in _all(self._api.prices.list(params=params))]
        return found

    def product_of_plan(self, plan: str) -> tuple[str, str] | None:
        with _asking("products"):
            for product in _all(self._api.products.list(params={"limit": 100, "active": True})):
                if (product["metadata"] or {}).get(translate.PLAN) == plan:
                    return product["id"], product["name"]
        return None

    def create_product(self, plan: Plan) -> str:
        with _asking("create_product"):
            made = self._api.products.create(params={"name": plan.title, "metadata": {translate.PLAN: plan.name}})
            return str(made.id)

    def rename_product(self, product_id: str, title: str) -> None:
        with _asking("rename_product"):
            self._api.products.update(product_id, params={"name": title})

    def create_price(self, price: Price, plan: Plan, *, product_id: str, meter_id: str) -> StoredPrice:
        params = {
            "currency": price.currency,
            "product": product_id,
            "unit_amount_decimal": f"{price.unit_amount:f}",
            "recurring": {"interval": plan.interval, "usage_type": "metered", "meter": meter_id},
            "lookup_key": price.lookup_key,
            "transfer_lookup_key": True,
            "metadata": {translate.PLAN: plan.name, translate.METER: price.meter},
            "expand": ["product"],
        }
        with _asking("create_price"):
            return translate.price_of(self._api.prices.create(params=params).to_dict())

    def endpoints(self) -> list[Endpoint]:
        with _asking("endpoints"):
            return [translate.endpoint_of(e) for e in _all(self._api.webhook_endpoints.list(params={"limit": 100}))]

    def create_endpoint(self, url: str) -> Endpoint:
        params = {
            "url": url,
            "enabled_events": list(HANDLED_EVENT_TYPES),
            "api_version": stripe.api_version,
            "description": "Farebox",
        }
        with _asking("create_endpoint"):
            return translate.endpoint_of(self._api.webhook_endpoints.create(params=params).to_dict())

    def portal(self) -> PortalState | None:
        with _asking("portal"):
            listed = self._api.billing_portal.configurations.list(params={"limit": 100, "active": True})
            for found in _all(listed):
                if (found["metadata"] or {}).get(translate.PORTAL):
                    return translate.portal_of(found)
        return None

    def ensure_portal(self) -> PortalState:
        before = self.portal()
        if before is not None and before.cancel_mode == "at_period_end" and not before.price_switch:
            return before
        features = {
            "customer_update": {"enabled": True, "allowed_updates": ["email", "address", "tax_id"]},
            "invoice_history": {"enabled": True},
            "payment_method_update": {"enabled": True},
            "subscription_cancel": {"enabled": True, "mode": "at_period_end", "proration_behavior": "none"},
            "subscription_update": {"enabled": False},
        }
        params: dict[str, Any] = {"features": features, "metadata": {translate.PORTAL: "1"}}
        with _asking("ensure_portal"):
            configurations = self._api.billing_portal.configurations
            made = configurations.update(before.id, params=params) if before else configurations.create(params=params)
            return translate.portal_of(made.to_dict())

    # buyers

    def create_customer(self, account: Account) -> str:
        params: dict[str, Any] = {"metadata": {translate.ACCOUNT: account.id}}
        if account.email:
            params["email"] = account.email
        with _asking("create_customer"):
            options = {"idempotency_key": f"farebox-customer-{account.id}"}
            return str(self._api.customers.create(params=params, options=options).id)

    def create_checkout(
        self, account: Account, plan: Plan, price_ids: Sequence[str], *, success_url: str, cancel_url: str
    ) -> CheckoutSession:
        ours = {translate.ACCOUNT: account.id, translate.PLAN: plan.name}
        params = {
            "mode": "subscription",
            "customer": account.customer_id,
            "client_reference_id": account.id,
            "line_items": [{"price": price_id} for price_id in price_ids],
            "success_url": success_url,
            "cancel_url": cancel_url,
            "metadata": ours,
            "subscription_data": {"metadata": ours, "billing_mode": {"type": "flexible"}},
        }
        with _asking("create_checkout"):
            return translate.checkout_of(self._api.checkout.sessions.create(params=params).to_dict())

    def checkout(self, session_id: str) -> CheckoutSession | None:
        with _asking("checkout"):
            try:
                return translate.checkout_of(self._api.checkout.sessions.retrieve(session_id).to_dict())
            except stripe.InvalidRequestError as error:
                if error.http_status == 404:
                    return None
                raise

    def expire_checkout(self, session_id: str) -> None:
        try:
            with _asking("expire_checkout"):
                self._api.checkout.sessions.expire(session_id)
        except ProviderRejected:
            # Already complete or expired: what it is now decides, not what we wished.
            return

    def subscriptions(self, customer_id: str) -> tuple[Subscription, ...]:
        params = {"customer": customer_id, "status": "all", "limit": 100}
        with _asking("subscriptions"):
            found = list(_all(self._api.subscriptions.list(params=params)))
            for one in found:
                if one["items"].get("has_more"):  # Stripe shows the first few of a list within another
                    listed = self._api.subscription_items.list(params={"subscription": one["id"], "limit": 100})
                    one["items"]["data"] = list(_all(listed))
        ours = (translate.subscription_of(one) for one in found)
        return tuple(s for s in ours if s is not None)

    def preview_invoice(self, subscription_id: str) -> Invoice:
        with _asking("preview_invoice"):
            try:
                made = self._api.invoices.create_preview(params={"subscription": subscription_id})
            except stripe.InvalidRequestError as error:
                if error.code == "invoice_upcoming_none":
                    raise NotFound("There is no upcoming invoice: the subscription has ended.") from error
                raise
            return translate.invoice_of(made.to_dict())

    def invoices(self, customer_id: str, *, limit: int) -> list[Invoice]:
        with _asking("invoices"):
            page = self._api.invoices.list(params={"customer": customer_id, "limit": limit})
            return [translate.invoice_of(invoice.to_dict()) for invoice in page.data]

    def create_portal_session(self, customer_id: str, *, return_url: str) -> str:
        configuration = self.ensure_portal().id
        params = {"customer": customer_id, "return_url": return_url, "configuration": configuration}
        with _asking("create_portal_session"):
            return str(self._api.billing_portal.sessions.create(params=params).url)

    def cancel_subscription(self, subscription_id: str, *, at_period_end: bool) -> None:
        with _asking("cancel_subscription"):
            if at_period_end:
                self._api.subscriptions.update(subscription_id, params={"cancel_at_period_end": True})
            else:
                self._api.subscriptions.cancel(subscription_id, params={"invoice_now": True})

    # usage

    def send_meter_event(self, event: MeterEvent) -> Outcome:
        params = {
            "event_name": event.event_name,
            "payload": {"stripe_customer_id": event.customer_id, "value": str(event.value)},
            "identifier": event.identifier,
            "timestamp": event.timestamp,
        }
        options = {"idempotency_key": event.idempotency_key, "max_network_retries": 0}
        try:
            self._api.billing.meter_events.create(params=params, options=options)
        except stripe.StripeError as error:
            return outcome_of(error)
        return Outcome(OutcomeKind.DELIVERED)

    def summary(self, meter_id: str, customer_id: str, start: int, end: int) -> int:
        params = {"customer": customer_id, "start_time": start, "end_time": end, "limit": 100}
        with _asking("summary"):
            listed = self._api.billing.meters.event_summaries.list(meter_id, params=params)
            return sum(int(entry["aggregated_value"]) for entry in _all(listed))

    # webhooks

    def verify_webhook(self, body: bytes, signature: str, *, now: int) -> InboxEvent:
        _check_signature(body, signature, self._webhook_secrets, now)
        try:
            return translate.event_of(json.loads(body))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise SignatureInvalid("The body is signed, but it is not an event.") from error


class _HttpClient(stripe.HTTPClient):
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


def _pool(*, direct: bool) -> httpx.Client:
    """One pool of connections for all threads.

    `direct` ignores the environment's proxies, which cannot see loopback.
    """
    return httpx.Client(
        timeout=httpx.Timeout(READ_SECONDS_MAX, connect=CONNECT_SECONDS_MAX),
        trust_env=not direct,
        verify=ssl.create_default_context(cafile=stripe.ca_bundle_path),
    )


def _over(pool: httpx.Client) -> Transport:
    def send(method: str, url: str, headers: Mapping[str, str], body: bytes) -> tuple[bytes, int, Mapping[str, str]]:
        try:
            answer = pool.request(method, url, headers=headers, content=body)
        except httpx.HTTPError as error:
            words = f"{urlsplit(url).netloc} did not answer ({type(error).__name__}: {error})"
            raise stripe.APIConnectionError(words, should_retry=True) from error  # type: ignore[no-untyped-call]
        return answer.content, answer.status_code, answer.headers

    return send


@contextmanager
def _asking(what: str) -> Iterator[None]:
    try:
        yield
    except stripe.StripeError as error:
        ours: ProviderError = provider_error(error)
        _log.debug("stripe_refused", call=what, status=error.http_status, code=ours.code)
        raise ours from error


def _all(page: Any) -> Iterator[dict[str, Any]]:
    for thing in page.auto_paging_iter():
        yield thing.to_dict()


def _check_signature(body: bytes, header: str, secrets: Sequence[Secret], now: int) -> None:
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
