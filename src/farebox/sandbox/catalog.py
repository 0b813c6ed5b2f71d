"""Products, prices and billing meters."""

from decimal import Decimal
from typing import Any, Final

from farebox.sandbox.core import Context, Route, page
from farebox.sandbox.errors import invalid, not_modelled, wrong_state
from farebox.sandbox.params import array, boolean, decimal, enum, integer, metadata, obj, required, text
from farebox.sandbox.state import StripeObject

__all__ = ["ROUTES", "merged_metadata"]

_INTERVALS: Final = ("day", "week", "month", "year")


def merged_metadata(old: dict[str, str], new: dict[str, str] | None) -> dict[str, str]:
    """Metadata after an update: an empty value removes its key, an empty set removes all."""
    if new is None:
        return old
    if not new:
        return {}
    return {key: value for key, value in {**old, **new}.items() if value}


def _create_product(ctx: Context) -> StripeObject:
    p = ctx.params
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


def _update(ctx: Context, thing: StripeObject, event: str) -> StripeObject:
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


_RECURRING: Final = {
    "interval": required(enum(*_INTERVALS)),
    "interval_count": integer(1, 36),
    "usage_type": enum("licensed", "metered"),
    "meter": text(),
}
_PRICE: Final = {
    "currency": required(text(3)),
    "product": required(text()),
    "unit_amount": integer(0),
    "unit_amount_decimal": decimal(12),
    "recurring": obj(_RECURRING),
    "lookup_key": text(200),
    "transfer_lookup_key": boolean(),
    "nickname": text(),
    "metadata": metadata(),
    "active": boolean(),
    "billing_scheme": enum("per_unit", "tiered"),
    "tax_behavior": enum("exclusive", "inclusive", "unspecified"),
    "tiers": array(
        obj(
            {
                "up_to": text(),
                "unit_amount": text(),
                "unit_amount_decimal": text(),
                "flat_amount": text(),
                "flat_amount_decimal": text(),
            }
        )
    ),
    "tiers_mode": enum("graduated", "volume"),
    "transform_quantity": obj({"divide_by": integer(1), "round": enum("up", "down")}),
}


def _create_price(ctx: Context) -> StripeObject:
    p = ctx.params
    ctx.state.get("product", p["product"], param="product", status=400)
    if {"tiers", "tiers_mode", "transform_quantity"} & p.keys() or p.get("billing_scheme") == "tiered":
        raise not_modelled("tiered and package prices yet")
    if ("unit_amount" in p) == ("unit_amount_decimal" in p):
        raise invalid("Provide exactly one of unit_amount and unit_amount_decimal.", param="unit_amount")
    amount = Decimal(p["unit_amount"]) if "unit_amount" in p else p["unit_amount_decimal"]
    if amount < 0:
        raise invalid("Invalid decimal: unit_amount_decimal must be zero or more", param="unit_amount_decimal")
    recurring = _recurring(ctx, p.get("recurring"))
    key = p.get("lookup_key")
    if key is not None:
        _hand_over(ctx, key, transfer=p.get("transfer_lookup_key", False))
    price = {
        "id": ctx.new_id("price_"),
        "object": "price",
        "active": p.get("active", True),
        "billing_scheme": "per_unit",
        "created": ctx.now_at,
        "currency": p["currency"].lower(),
        "custom_unit_amount": None,
        "livemode": False,
        "lookup_key": key,
        "metadata": merged_metadata({}, p.get("metadata")),
        "nickname": p.get("nickname"),
        "product": p["product"],
        "recurring": recurring,
        "tax_behavior": p.get("tax_behavior", "unspecified"),
        "tiers_mode": None,
        "transform_quantity": None,
        "type": "recurring" if recurring is not None else "one_time",
        "unit_amount": int(amount) if amount == amount.to_integral_value() else None,
        "unit_amount_decimal": amount,
    }
    ctx.state.add(price)
    ctx.emit("price.created", price)
    return price


def _recurring(ctx: Context, asked: dict[str, Any] | None) -> StripeObject | None:
    if asked is None:
        return None
    usage_type = asked.get("usage_type", "licensed")
    meter_id = asked.get("meter")
    if usage_type == "metered" and meter_id is None:
        raise invalid(
            "Metered prices must be backed by a billing meter. Create one with /v1/billing/meters and pass its id.",
            param="recurring[meter]",
            code="parameter_missing",
        )
    if usage_type == "licensed" and meter_id is not None:
        raise invalid("Only metered prices take a meter.", param="recurring[meter]")
    if meter_id is not None:
        meter = ctx.state.get("billing.meter", meter_id, param="recurring[meter]", status=400)
        if meter["status"] != "active":
            raise wrong_state("The meter is inactive. Reactivate it first.", param="recurring[meter]")
    return {
        "interval": asked["interval"],
        "interval_count": asked.get("interval_count", 1),
        "meter": meter_id,
        "trial_period_days": None,
        "usage_type": usage_type,
    }


def _hand_over(ctx: Context, key: str, *, transfer: bool) -> None:
    holder = next((price for price in ctx.state.all("price") if price["lookup_key"] == key), None)
    if holder is None:
        return
    if not transfer:
        raise invalid(
            f"A price (`{holder['id']}`) already uses that lookup key. Pass transfer_lookup_key=true to move it.",
            param="lookup_key",
        )
    holder["lookup_key"] = None


def _update_price(ctx: Context) -> StripeObject:
    price = ctx.state.get("price", ctx.path["id"])
    transfer = ctx.params.pop("transfer_lookup_key", False)
    key = ctx.params.get("lookup_key")
    if key is not None and key != price["lookup_key"]:
        _hand_over(ctx, key, transfer=transfer)
    return _update(ctx, price, "price.updated")


def _list_prices(ctx: Context) -> StripeObject:
    p = ctx.params
    found = [
        price
        for price in ctx.state.all("price")
        if ("lookup_keys" not in p or price["lookup_key"] in p["lookup_keys"])
        and ("product" not in p or price["product"] == p["product"])
        and ("active" not in p or price["active"] == p["active"])
        and ("type" not in p or price["type"] == p["type"])
        and ("currency" not in p or price["currency"] == p["currency"])
    ]
    return page(ctx, found, "/v1/prices")


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
_PRICE_CHANGE: Final = {
    name: _PRICE[name] for name in ("active", "lookup_key", "metadata", "nickname", "transfer_lookup_key")
}
_PRICE_FILTER: Final = {
    "lookup_keys": array(text(200), 10),
    "product": text(),
    "active": boolean(),
    "type": enum("one_time", "recurring"),
    "currency": text(3),
}

ROUTES: Final = [
    Route("POST", "/v1/products", _create_product, _PRODUCT),
    Route("GET", "/v1/products", _list_products, {"active": boolean(), "ids": array(text())}, paged=True),
    Route("GET", "/v1/products/{id}", lambda ctx: ctx.state.get("product", ctx.path["id"])),
    Route(
        "POST",
        "/v1/products/{id}",
        lambda ctx: _update(ctx, ctx.state.get("product", ctx.path["id"]), "product.updated"),
        _PRODUCT_CHANGE,
    ),
    Route("POST", "/v1/prices", _create_price, _PRICE),
    Route("GET", "/v1/prices", _list_prices, _PRICE_FILTER, paged=True),
    Route("GET", "/v1/prices/{id}", lambda ctx: ctx.state.get("price", ctx.path["id"])),
    Route("POST", "/v1/prices/{id}", _update_price, _PRICE_CHANGE),
    Route("POST", "/v1/billing/meters", _create_meter, _METER),
    Route("GET", "/v1/billing/meters", _list_meters, {"status": enum("active", "inactive")}, paged=True),
    Route("GET", "/v1/billing/meters/{id}", lambda ctx: ctx.state.get("billing.meter", ctx.path["id"])),
    Route(
        "POST",
        "/v1/billing/meters/{id}",
        lambda ctx: _update(ctx, ctx.state.get("billing.meter", ctx.path["id"]), "billing.meter.updated"),
        {"display_name": text(250)},
    ),
    Route("POST", "/v1/billing/meters/{id}/deactivate", _deactivate),
    Route("POST", "/v1/billing/meters/{id}/reactivate", _reactivate),
]
