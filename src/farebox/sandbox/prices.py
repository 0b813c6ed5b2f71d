"""Prices: per unit, in packages, graduated and by volume; one-time, licensed and metered. Amounts never change."""

from decimal import Decimal
from typing import Any, Final

from farebox.sandbox.catalog import create_product, merged_metadata, update
from farebox.sandbox.core import Context, Route, page
from farebox.sandbox.currencies import check_step
from farebox.sandbox.errors import invalid, wrong_state
from farebox.sandbox.params import Field, array, boolean, decimal, enum, integer, metadata, obj, required, text
from farebox.sandbox.state import StripeObject

__all__ = ["ROUTES", "TIERS_MAX"]

TIERS_MAX: Final = 100
_UP_TO_MAX: Final = 10**15
_DECIMALS: Final = 12

_RECURRING: Final = {
    "interval": required(enum("day", "week", "month", "year")),
    "interval_count": integer(1, 36),
    "usage_type": enum("licensed", "metered"),
    "meter": text(),
}
_TIER: Final = {
    "up_to": required(text(20)),
    "unit_amount": integer(0),
    "unit_amount_decimal": decimal(_DECIMALS),
    "flat_amount": integer(0),
    "flat_amount_decimal": decimal(_DECIMALS),
}
_PRICE: Final[dict[str, Field]] = {
    "currency": required(text(3)),
    "product": text(),
    "product_data": obj({"name": required(text(250)), "active": boolean(), "metadata": metadata()}),
    "unit_amount": integer(0),
    "unit_amount_decimal": decimal(_DECIMALS),
    "recurring": obj(_RECURRING),
    "lookup_key": text(200),
    "transfer_lookup_key": boolean(),
    "nickname": text(),
    "metadata": metadata(),
    "active": boolean(),
    "billing_scheme": enum("per_unit", "tiered"),
    "tax_behavior": enum("exclusive", "inclusive", "unspecified"),
    "tiers": array(obj(_TIER), TIERS_MAX),
    "tiers_mode": enum("graduated", "volume"),
    "transform_quantity": obj({"divide_by": required(integer(1)), "round": required(enum("up", "down"))}),
}


def _create_price(ctx: Context) -> StripeObject:
    p = ctx.params
    tiers = _tiers(p) if p.get("billing_scheme") == "tiered" else None
    amount = _amount(p) if tiers is None else None
    recurring = _recurring(ctx, p.get("recurring"))
    if recurring is None or recurring["usage_type"] == "licensed":  # usage is rounded on its invoice
        check_step(amount, p["currency"].lower(), "unit_amount" if "unit_amount" in p else "unit_amount_decimal")
    product = _product(ctx)
    key = p.get("lookup_key")
    if key is not None:
        _hand_over(ctx, key, transfer=p.get("transfer_lookup_key", False))
    price = {
        "id": ctx.new_id("price_"),
        "object": "price",
        "active": p.get("active", True),
        "billing_scheme": "per_unit" if tiers is None else "tiered",
        "created": ctx.now_at,
        "currency": p["currency"].lower(),
        "custom_unit_amount": None,
        "livemode": False,
        "lookup_key": key,
        "metadata": merged_metadata({}, p.get("metadata")),
        "nickname": p.get("nickname"),
        "product": product["id"],
        "recurring": recurring,
        "tax_behavior": p.get("tax_behavior", "unspecified"),
        "tiers_mode": p.get("tiers_mode"),
        "transform_quantity": p.get("transform_quantity"),
        "type": "recurring" if recurring is not None else "one_time",
        "unit_amount": _whole(amount),
        "unit_amount_decimal": amount,
    }
    price["_tiers"] = tiers  # shown when expanded
    ctx.state.add(price)
    ctx.emit("price.created", price)
    return price


def _product(ctx: Context) -> StripeObject:
    p = ctx.params
    if ("product" in p) == ("product_data" in p):
        raise invalid(
            "Specify exactly one of product and product_data.",
            param="product",
            code="parameter_missing" if "product" not in p else None,
        )
    if "product" in p:
        product = ctx.state.get("product", p["product"], param="product", status=400)
        if not product["active"]:
            message = (
                f"The product {product['id']} is marked as inactive, and thus no new prices can be created for it."
            )
            raise invalid(message, param="product")
        return product
    return create_product(ctx, p["product_data"])


def _amount(p: dict[str, Any]) -> Decimal:
    """The amount of a price without tiers."""
    for name in ("tiers", "tiers_mode"):
        if name in p:
            raise invalid(f"You may only use {name} with `billing_scheme=tiered`.", param=name)
    if ("unit_amount" in p) == ("unit_amount_decimal" in p):
        raise invalid("Provide exactly one of unit_amount and unit_amount_decimal.", param="unit_amount")
    amount = Decimal(p["unit_amount"]) if "unit_amount" in p else p["unit_amount_decimal"]
    if amount < 0:
        raise invalid("Invalid decimal: unit_amount_decimal must be zero or more", param="unit_amount_decimal")
    return Decimal(amount)


def _tiers(p: dict[str, Any]) -> list[StripeObject]:
    """Checked tiers in Stripe's shape: ascending, the last one open."""
    for name in ("unit_amount", "unit_amount_decimal", "transform_quantity"):
        if name in p:
            raise invalid(f"You may not use {name} with `billing_scheme=tiered`.", param=name)
    for name in ("tiers_mode", "tiers"):
        if not p.get(name):
            raise invalid(
                f"Missing required param: {name}. `billing_scheme=tiered` needs it.",
                param=name,
                code="parameter_missing",
            )
    found: list[StripeObject] = []
    below = 0
    for i, asked in enumerate(p["tiers"]):
        where, last = f"tiers[{i}]", i == len(p["tiers"]) - 1
        up_to = _up_to(asked["up_to"], f"{where}[up_to]")
        if (up_to is None) != last:
            raise invalid(
                "The last tier, and only the last tier, must have up_to=inf: every quantity needs a price.",
                param=f"{where}[up_to]",
            )
        if up_to is not None and up_to <= below:
            raise invalid("The up_to of each tier must be larger than the one before.", param=f"{where}[up_to]")
        below = up_to or below
        unit, flat = _tier_amount(asked, "unit_amount", where), _tier_amount(asked, "flat_amount", where)
        if unit is None and flat is None:
            raise invalid("Each tier must have a unit_amount or a flat_amount.", param=where)
        found.append(
            {
                "flat_amount": _whole(flat),
                "flat_amount_decimal": flat,
                "unit_amount": _whole(unit),
                "unit_amount_decimal": unit,
                "up_to": up_to,
            }
        )
    return found


def _up_to(text: str, param: str) -> int | None:
    if text == "inf":
        return None
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= _UP_TO_MAX:
        raise invalid(f"Invalid {param}: must be a positive integer or inf", param=param)
    return int(text)


def _tier_amount(asked: dict[str, Any], name: str, where: str) -> Decimal | None:
    exact = f"{name}_decimal"
    if name in asked and exact in asked:
        raise invalid(f"Only one of {name} and {exact} can be set.", param=f"{where}[{name}]")
    amount = Decimal(asked[name]) if name in asked else asked.get(exact)
    if amount is not None and amount < 0:
        raise invalid(f"Invalid decimal: {exact} must be zero or more", param=f"{where}[{exact}]")
    return amount


def _whole(amount: Decimal | None) -> int | None:
    return int(amount) if amount is not None and amount == amount.to_integral_value() else None


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
    return update(ctx, price, "price.updated")


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
        and ("recurring" not in p or _recurs(price, p["recurring"]))
    ]
    return page(ctx, found, "/v1/prices")


def _recurs(price: StripeObject, wanted: dict[str, Any]) -> bool:
    recurring = price["recurring"]
    return recurring is not None and all(recurring[name] == value for name, value in wanted.items())


_CHANGE: Final = {
    name: _PRICE[name] for name in ("active", "lookup_key", "metadata", "nickname", "transfer_lookup_key")
}
_FILTER: Final = {
    "lookup_keys": array(text(200), 10),
    "product": text(),
    "active": boolean(),
    "type": enum("one_time", "recurring"),
    "currency": text(3),
    "recurring": obj(
        {
            "interval": enum("day", "week", "month", "year"),
            "meter": text(),
            "usage_type": enum("licensed", "metered"),
        }
    ),
}

ROUTES: Final = [
    Route("POST", "/v1/prices", _create_price, _PRICE),
    Route("GET", "/v1/prices", _list_prices, _FILTER, paged=True),
    Route("GET", "/v1/prices/{id}", lambda ctx: ctx.state.get("price", ctx.path["id"])),
    Route("POST", "/v1/prices/{id}", _update_price, _CHANGE),
]
