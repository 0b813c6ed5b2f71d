"""What is sold, at Stripe: meters, products, prices, the webhook endpoint and the portal."""

from collections.abc import Sequence
from typing import Any

import stripe

from farebox.domain.catalog import Fee, FeeKind, Meter, PackagePrice, Plan, Sold, Tier, TieredPrice
from farebox.domain.inbox import HANDLED_EVENT_TYPES, METER_ERROR_TYPES
from farebox.ports import Endpoint, PortalState, StoredMeter, StoredPrice, StoredProduct
from farebox.provider import translate
from farebox.provider.calls import StripeCalls, all_of, asking

__all__ = ["CatalogCalls"]


class CatalogCalls(StripeCalls):
    """The part of the Provider that `farebox push` speaks to."""

    def meters(self) -> list[StoredMeter]:
        with asking("meters"):
            return [translate.meter_of(m) for m in all_of(self._api.billing.meters.list(params={"limit": 100}))]

    def create_meter(self, meter: Meter) -> StoredMeter:
        params = {
            "display_name": meter.title,
            "event_name": meter.event_name,
            "default_aggregation": {"formula": "sum"},
            "customer_mapping": {"event_payload_key": "stripe_customer_id", "type": "by_id"},
            "value_settings": {"event_payload_key": "value"},
        }
        with asking("create_meter"):
            return translate.meter_of(self._api.billing.meters.create(params=params).to_dict())

    def rename_meter(self, meter_id: str, title: str) -> None:
        with asking("rename_meter"):
            self._api.billing.meters.update(meter_id, params={"display_name": title})

    def reactivate_meter(self, meter_id: str) -> None:
        with asking("reactivate_meter"):
            self._api.billing.meters.reactivate(meter_id)

    def prices(self, lookup_keys: Sequence[str]) -> list[StoredPrice]:
        found: list[StoredPrice] = []
        with asking("prices"):
            for start in range(0, len(lookup_keys), 10):  # Stripe takes ten lookup keys at once
                params = {
                    "lookup_keys": list(lookup_keys[start : start + 10]),
                    "limit": 100,
                    "expand": ["data.product", "data.tiers"],
                }
                found += [translate.price_of(p) for p in all_of(self._api.prices.list(params=params))]
        return found

    def products(self) -> dict[tuple[str, str], StoredProduct]:
        products: dict[tuple[str, str], StoredProduct] = {}
        with asking("products"):
            for product in all_of(self._api.products.list(params={"limit": 100, "active": True})):
                plan = (product["metadata"] or {}).get(translate.PLAN)
                if plan:
                    stored = translate.product_of(product)
                    products.setdefault((plan, stored.meter), stored)
        return products

    def create_product(self, plan: Plan, title: str, *, meter: str = "") -> str:
        with asking("create_product"):
            return str(self._api.products.create(params=_product(plan, title, meter)).id)

    def update_product(self, product_id: str, plan: Plan, title: str, *, meter: str = "", stale: Sequence[str]) -> None:
        params: dict[str, Any] = {**_product(plan, title, meter), "active": True}
        params["metadata"] |= dict.fromkeys(stale, "")
        with asking("update_product"):
            self._api.products.update(product_id, params=params)

    def create_price(self, sold: Sold, plan: Plan, *, product_id: str, meter_id: str | None) -> StoredPrice:
        ours = {translate.PLAN: plan.name}
        params: dict[str, Any] = {
            "currency": plan.currency,
            "product": product_id,
            "lookup_key": plan.lookup_key(sold),
            "transfer_lookup_key": True,
            "expand": ["product", "tiers"],
            **_amounts(sold),
        }
        if plan.tax:
            params["tax_behavior"] = "exclusive"
        if not isinstance(sold, Fee):
            params["recurring"] = {"interval": plan.interval, "usage_type": "metered", "meter": meter_id}
            ours[translate.METER] = sold.meter
            if plan.minimum:
                ours[translate.MINIMUM] = str(plan.minimum)
        elif sold.kind is FeeKind.BASE:
            params["recurring"] = {"interval": plan.interval, "usage_type": "licensed"}
        else:  # a product of its own: its name is all that an invoice says of what is charged once
            del params["product"]
            params["product_data"] = {"name": f"{plan.title}, set-up"}
        with asking("create_price"):
            return translate.price_of(self._api.prices.create(params={**params, "metadata": ours}).to_dict())

    def endpoints(self) -> list[Endpoint]:
        with asking("endpoints"):
            return [translate.endpoint_of(e) for e in all_of(self._api.webhook_endpoints.list(params={"limit": 100}))]

    def create_endpoint(self, url: str) -> Endpoint:
        params = {
            "url": url,
            "enabled_events": list(HANDLED_EVENT_TYPES),
            "api_version": stripe.api_version,
            "description": "Farebox",
        }
        with asking("create_endpoint"):
            return translate.endpoint_of(self._api.webhook_endpoints.create(params=params).to_dict())

    def error_destinations(self) -> list[Endpoint]:
        params: Any = {"include": ["webhook_endpoint.url"]}
        with asking("error_destinations"):
            found = list(all_of(self._client.v2.core.event_destinations.list(params)))
        return [translate.destination_of(d) for d in found if d["event_payload"] == "thin"]

    def create_error_destination(self, url: str) -> Endpoint:
        params: Any = {
            "name": "Farebox: late refusals of usage",
            "type": "webhook_endpoint",
            "event_payload": "thin",
            "enabled_events": list(METER_ERROR_TYPES),
            "webhook_endpoint": {"url": url},
            "include": ["webhook_endpoint.signing_secret", "webhook_endpoint.url"],
        }
        with asking("create_error_destination"):
            return translate.destination_of(self._client.v2.core.event_destinations.create(params).to_dict())

    def portal(self) -> PortalState | None:
        with asking("portal"):
            listed = self._api.billing_portal.configurations.list(params={"limit": 100, "active": True})
            for found in all_of(listed):
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
        with asking("ensure_portal"):
            configurations = self._api.billing_portal.configurations
            made = configurations.update(before.id, params=params) if before else configurations.create(params=params)
            return translate.portal_of(made.to_dict())

    def create_portal_session(self, customer_id: str, *, return_url: str) -> str:
        configuration = self.ensure_portal().id
        params = {"customer": customer_id, "return_url": return_url, "configuration": configuration}
        with asking("create_portal_session"):
            return str(self._api.billing_portal.sessions.create(params=params).url)


def _product(plan: Plan, title: str, meter: str) -> dict[str, Any]:
    ours = {translate.PLAN: plan.name, **({translate.METER: meter} if meter else {})}
    return {"name": title, "metadata": {**plan.metadata, **ours}}


def _amounts(sold: Sold) -> dict[str, Any]:
    if isinstance(sold, Fee):
        return {"unit_amount_decimal": f"{sold.amount:f}"}
    if isinstance(sold, TieredPrice):
        return {
            "billing_scheme": "tiered",
            "tiers_mode": "graduated" if sold.graduated else "volume",
            "tiers": [_tier(tier) for tier in sold.tiers],
        }
    amounts: dict[str, Any] = {"unit_amount_decimal": f"{sold.unit_amount:f}"}
    if isinstance(sold, PackagePrice):
        rounds = "up" if sold.rounds_up else "down"
        amounts["transform_quantity"] = {"divide_by": sold.size, "round": rounds}
    return amounts


def _tier(tier: Tier) -> dict[str, Any]:
    asked: dict[str, Any] = {
        "up_to": "inf" if tier.up_to is None else tier.up_to,
        "unit_amount_decimal": f"{tier.unit_amount:f}",
    }
    if tier.flat_amount is not None:
        asked["flat_amount_decimal"] = f"{tier.flat_amount:f}"
    return asked
