"""The billing portal: configurations, sessions, and what a buyer may do on its page."""

from typing import Any, Final

from farebox.sandbox.catalog import merged_metadata
from farebox.sandbox.core import Context, Route, page
from farebox.sandbox.customers import live_customer
from farebox.sandbox.errors import invalid
from farebox.sandbox.params import array, boolean, enum, metadata, obj, required, text
from farebox.sandbox.state import StripeObject

__all__ = ["ROUTES"]

_OFF: Final[StripeObject] = {"enabled": False}


def _features(asked: dict[str, Any], old: StripeObject | None = None) -> StripeObject:
    before = old or {}
    cancel = {
        "enabled": False,
        "mode": "at_period_end",
        "proration_behavior": "none",
        "cancellation_reason": {"enabled": False, "options": []},
        **before.get("subscription_cancel", {}),
        **asked.get("subscription_cancel", {}),
    }
    update = {
        "enabled": False,
        "default_allowed_updates": [],
        "products": None,
        "proration_behavior": "none",
        "schedule_at_period_end": {"conditions": []},
        "trial_update_behavior": "end_trial",
        **before.get("subscription_update", {}),
        **asked.get("subscription_update", {}),
    }
    customer = {
        "enabled": False,
        "allowed_updates": [],
        **before.get("customer_update", {}),
        **asked.get("customer_update", {}),
    }
    return {
        "customer_update": customer,
        "invoice_history": asked.get("invoice_history", before.get("invoice_history", _OFF)),
        "payment_method_update": asked.get("payment_method_update", before.get("payment_method_update", _OFF)),
        "subscription_cancel": cancel,
        "subscription_update": update,
    }


def _create_configuration(ctx: Context) -> StripeObject:
    p = ctx.params
    first = not ctx.state.objects["billing_portal.configuration"]
    return ctx.state.add(
        {
            "id": ctx.new_id("bpc_"),
            "object": "billing_portal.configuration",
            "active": True,
            "application": None,
            "business_profile": {
                "headline": None,
                "privacy_policy_url": None,
                "terms_of_service_url": None,
                **p.get("business_profile", {}),
            },
            "created": ctx.now_at,
            "default_return_url": p.get("default_return_url"),
            "features": _features(p["features"]),
            "is_default": first,
            "livemode": False,
            "login_page": {"enabled": False, "url": None},
            "metadata": merged_metadata({}, p.get("metadata")),
            "name": p.get("name"),
            "updated": ctx.now_at,
        }
    )


def _update_configuration(ctx: Context) -> StripeObject:
    p = ctx.params
    configuration = ctx.state.get("billing_portal.configuration", ctx.path["id"])
    if "features" in p:
        configuration["features"] = _features(p.pop("features"), configuration["features"])
    if "metadata" in p:
        configuration["metadata"] = merged_metadata(configuration["metadata"], p.pop("metadata"))
    if "business_profile" in p:
        configuration["business_profile"].update(p.pop("business_profile"))
    configuration.update(p, updated=ctx.now_at)
    return configuration


def _list_configurations(ctx: Context) -> StripeObject:
    p = ctx.params
    found = [
        c
        for c in ctx.state.all("billing_portal.configuration")
        if p.get("active") in (None, c["active"]) and p.get("is_default") in (None, c["is_default"])
    ]
    return page(ctx, found, "/v1/billing_portal/configurations")


def _create_session(ctx: Context) -> StripeObject:
    p = ctx.params
    live_customer(ctx, p["customer"])
    chosen = p.get("configuration")
    if chosen is not None:
        configuration = ctx.state.get("billing_portal.configuration", chosen, param="configuration", status=400)
    else:
        every = ctx.state.all("billing_portal.configuration")
        if not every:
            raise invalid(
                "You can't create a portal session in test mode until you save your customer portal settings: "
                "create a configuration first.",
                param="configuration",
            )
        configuration = next((c for c in every if c["is_default"]), every[0])
    id = ctx.new_id("bps_")
    return ctx.state.add(
        {
            "id": id,
            "object": "billing_portal.session",
            "configuration": configuration["id"],
            "created": ctx.now_at,
            "customer": p["customer"],
            "customer_account": None,
            "flow": None,
            "livemode": False,
            "locale": None,
            "on_behalf_of": None,
            "return_url": p.get("return_url"),
            "url": f"{ctx.sandbox.base_url}/portal/{id}",
        }
    )


_CANCEL: Final = obj(
    {
        "enabled": boolean(),
        "mode": enum("at_period_end", "immediately"),
        "proration_behavior": enum("always_invoice", "create_prorations", "none"),
    }
)
_FEATURES: Final = obj(
    {
        "customer_update": obj({"enabled": boolean(), "allowed_updates": array(text())}),
        "invoice_history": obj({"enabled": required(boolean())}),
        "payment_method_update": obj({"enabled": required(boolean())}),
        "subscription_cancel": _CANCEL,
        "subscription_update": obj({"enabled": boolean(), "default_allowed_updates": array(text())}),
    }
)
_CONFIGURATION: Final = {
    "features": required(_FEATURES),
    "business_profile": obj({"headline": text(60), "privacy_policy_url": text(), "terms_of_service_url": text()}),
    "default_return_url": text(),
    "metadata": metadata(),
    "name": text(),
}

ROUTES: Final = [
    Route("POST", "/v1/billing_portal/configurations", _create_configuration, _CONFIGURATION),
    Route(
        "GET",
        "/v1/billing_portal/configurations",
        _list_configurations,
        {"active": boolean(), "is_default": boolean()},
        paged=True,
    ),
    Route(
        "GET",
        "/v1/billing_portal/configurations/{id}",
        lambda ctx: ctx.state.get("billing_portal.configuration", ctx.path["id"]),
    ),
    Route(
        "POST",
        "/v1/billing_portal/configurations/{id}",
        _update_configuration,
        {**_CONFIGURATION, "features": _FEATURES, "active": boolean()},
    ),
    Route(
        "POST",
        "/v1/billing_portal/sessions",
        _create_session,
        {"customer": required(text()), "return_url": text(), "configuration": text()},
    ),
]
