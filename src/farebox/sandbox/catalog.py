"""Products and billing meters."""

from typing import Any, Final

from farebox.sandbox.core import Context, Route, page
from farebox.sandbox.errors import invalid, wrong_state
from farebox.sandbox.params import array, boolean, enum, metadata, obj, required, text
from farebox.sandbox.state import StripeObject

__all__ = ["ROUTES", "create_product", "merged_metadata", "update"]


def merged_metadata(old: dict[str, str], new: dict[str, str] | None) -> dict[str, str]:
    """Metadata after an update: an empty value removes its key, an empty set removes all."""
    if new is None:
        return old
    if not new:
        return {}
    return {key: value for key, value in {**old, **new}.items() if value}


def create_product(ctx: Context, p: dict[str, Any]) -> StripeObject:
    """A new product from checked parameters."""
    product = {
        "id": ctx.new_id("prod_"),
        "object": "product",
        "active": p.get("active", True),
        "created": ctx.now_at,
        "default_price": None,
        "description": p.get("description"),
        "images": [],
        "livemode": False,
        "marketing_features": [],
        "metadata": merged_metadata({}, p.get("metadata")),
        "name": p["name"],
        "package_dimensions": None,
        "shippable": None,
        "statement_descriptor": None,
        "tax_code": None,
        "type": "service",
        "unit_label": p.get("unit_label"),
        "updated": ctx.now_at,
        "url": None,
    }
    ctx.state.add(product)
    ctx.emit("product.created", product)
    return product


def update(ctx: Context, thing: StripeObject, event: str) -> StripeObject:
    """Change what the parameters name, and tell what was there before."""
    previous = {name: thing.get(name) for name in ctx.params if name in thing}
    for name, value in ctx.params.items():
        thing[name] = merged_metadata(thing["metadata"], value) if name == "metadata" else value
    thing.update({"updated": ctx.now_at} if "updated" in thing else {})
    ctx.emit(event, thing, previous)
    return thing


def _list_products(ctx: Context) -> StripeObject:
    active = ctx.params.get("active")
    ids = ctx.params.get("ids")
    found = [
        product
        for product in ctx.state.all("product")
        if (active is None or product["active"] == active) and (ids is None or product["id"] in ids)
    ]
    return page(ctx, found, "/v1/products")


_METER: Final = {
    "display_name": required(text(250)),
    "event_name": required(text(100)),
    "default_aggregation": required(obj({"formula": required(enum("count", "last", "sum"))})),
    "customer_mapping": obj({"event_payload_key": required(text(100)), "type": required(enum("by_id"))}),
    "value_settings": obj({"event_payload_key": required(text(100))}),
    "event_time_window": enum("day", "hour"),
}


def _create_meter(ctx: Context) -> StripeObject:
    p = ctx.params
    if p["event_name"] in ctx.state.meter_names:
        raise invalid(f"An active meter already exists with event_name: {p['event_name']}.", param="event_name")
    meter = {
        "id": ctx.new_id("mtr_test_"),
        "object": "billing.meter",
        "created": ctx.now_at,
        "customer_mapping": p.get("customer_mapping", {"event_payload_key": "stripe_customer_id", "type": "by_id"}),
        "default_aggregation": p["default_aggregation"],
        "display_name": p["display_name"],
        "event_name": p["event_name"],
        "event_time_window": p.get("event_time_window"),
        "livemode": False,
        "status": "active",
        "status_transitions": {"deactivated_at": None},
        "updated": ctx.now_at,
        "value_settings": p.get("value_settings", {"event_payload_key": "value"}),
    }
    ctx.state.add(meter)
    ctx.state.meter_names[meter["event_name"]] = meter["id"]
    ctx.emit("billing.meter.created", meter)
    return meter


def _deactivate(ctx: Context) -> StripeObject:
    meter = ctx.state.get("billing.meter", ctx.path["id"])
    if meter["status"] == "inactive":
        raise wrong_state("The meter is already inactive.")
    meter["status"], meter["status_transitions"] = "inactive", {"deactivated_at": ctx.now_at}
    del ctx.state.meter_names[meter["event_name"]]
    ctx.emit("billing.meter.deactivated", meter)
    return meter


def _reactivate(ctx: Context) -> StripeObject:
    meter = ctx.state.get("billing.meter", ctx.path["id"])
    if meter["status"] == "active":
        raise wrong_state("The meter is already active.")
    if meter["event_name"] in ctx.state.meter_names:
        raise wrong_state(f"An active meter already exists with event_name: {meter['event_name']}.")
    meter["status"], meter["status_transitions"] = "active", {"deactivated_at": None}
    ctx.state.meter_names[meter["event_name"]] = meter["id"]
    ctx.emit("billing.meter.reactivated", meter)
    return meter


def _list_meters(ctx: Context) -> StripeObject:
    status = ctx.params.get("status")
    found = [meter for meter in ctx.state.all("billing.meter") if status in (None, meter["status"])]
    return page(ctx, found, "/v1/billing/meters")


_PRODUCT: Final = {
    "name": required(text(250)),
    "description": text(),
    "active": boolean(),
    "metadata": metadata(),
    "unit_label": text(12),
}
_PRODUCT_CHANGE: Final = {**_PRODUCT, "name": text(250)}

ROUTES: Final = [
    Route("POST", "/v1/products", lambda ctx: create_product(ctx, ctx.params), _PRODUCT),
    Route("GET", "/v1/products", _list_products, {"active": boolean(), "ids": array(text())}, paged=True),
    Route("GET", "/v1/products/{id}", lambda ctx: ctx.state.get("product", ctx.path["id"])),
    Route(
        "POST",
        "/v1/products/{id}",
        lambda ctx: update(ctx, ctx.state.get("product", ctx.path["id"]), "product.updated"),
        _PRODUCT_CHANGE,
    ),
    Route("POST", "/v1/billing/meters", _create_meter, _METER),
    Route("GET", "/v1/billing/meters", _list_meters, {"status": enum("active", "inactive")}, paged=True),
    Route("GET", "/v1/billing/meters/{id}", lambda ctx: ctx.state.get("billing.meter", ctx.path["id"])),
    Route(
        "POST",
        "/v1/billing/meters/{id}",
        lambda ctx: update(ctx, ctx.state.get("billing.meter", ctx.path["id"]), "billing.meter.updated"),
        {"display_name": text(250)},
    ),
    Route("POST", "/v1/billing/meters/{id}/deactivate", _deactivate),
    Route("POST", "/v1/billing/meters/{id}/reactivate", _reactivate),
]
