"""Coupons and promotion codes: what may be taken off, for how long, by whom."""

from typing import Any, Final

from farebox.sandbox.catalog import merged_metadata
from farebox.sandbox.core import Context, Route, page
from farebox.sandbox.currencies import check_step
from farebox.sandbox.customers import live_customer
from farebox.sandbox.decimals import plain
from farebox.sandbox.errors import invalid, missing_object
from farebox.sandbox.params import array, boolean, decimal, enum, integer, metadata, obj, required, text
from farebox.sandbox.state import StripeObject

__all__ = ["COUPON_MONTHS_MAX", "ROUTES"]

COUPON_MONTHS_MAX: Final = 1_200
_CODE_SYMBOLS: Final = 8


def _create_coupon(ctx: Context) -> StripeObject:
    p = ctx.params
    _check_coupon(ctx, p)
    duration = p.get("duration", "once")
    percent = p.get("percent_off")
    coupon: StripeObject = {
        "id": p.get("id") or ctx.new_id("")[:_CODE_SYMBOLS],
        "object": "coupon",
        "amount_off": p.get("amount_off"),
        "created": ctx.now_at,
        "currency": p["currency"].lower() if "amount_off" in p else None,
        "duration": duration,
        "duration_in_months": p.get("duration_in_months"),
        "livemode": False,
        "max_redemptions": p.get("max_redemptions"),
        "metadata": merged_metadata({}, p.get("metadata")),
        "name": p.get("name"),
        "percent_off": float(plain(percent)) if percent is not None else None,  # shown as a number; counted exactly
        "redeem_by": p.get("redeem_by"),
        "times_redeemed": 0,
        "valid": True,
        "_percent_off": percent,
    }
    if "applies_to" in p:
        coupon["_applies_to"] = p["applies_to"]  # shown when expanded
    ctx.state.add(coupon)
    ctx.emit("coupon.created", coupon)
    return coupon


def _check_coupon(ctx: Context, p: dict[str, Any]) -> None:
    if p.get("id") in ctx.state.objects["coupon"]:
        raise invalid("Coupon already exists.", param="id", code="resource_already_exists")
    if ("percent_off" in p) == ("amount_off" in p):
        raise invalid("Pass exactly one of percent_off and amount_off.", param="percent_off")
    if "percent_off" in p and not 0 < p["percent_off"] <= 100:
        raise invalid("percent_off must be more than 0 and at most 100.", param="percent_off")
    check_step(p.get("amount_off"), p.get("currency", "").lower(), "amount_off")
    if "amount_off" in p and "currency" not in p:
        raise invalid(
            "Missing required param: currency. amount_off needs it.", param="currency", code="parameter_missing"
        )
    if ("duration_in_months" in p) != (p.get("duration") == "repeating"):
        raise invalid("duration_in_months goes with duration=repeating, and only with it.", param="duration_in_months")
    for i, id in enumerate(p.get("applies_to", {}).get("products", [])):
        ctx.state.get("product", id, param=f"applies_to[products][{i}]", status=400)


def _fresh(ctx: Context, coupon: StripeObject) -> StripeObject:
    """With what it is worth now."""
    full = coupon["max_redemptions"] is not None and coupon["times_redeemed"] >= coupon["max_redemptions"]
    late = coupon["redeem_by"] is not None and coupon["redeem_by"] <= ctx.now_at
    coupon["valid"] = not full and not late
    return coupon


def _coupon(ctx: Context) -> StripeObject:
    coupon = ctx.state.get("coupon", ctx.path["id"])
    if coupon.get("deleted"):
        raise missing_object("coupon", coupon["id"])
    return _fresh(ctx, coupon)


def _update_coupon(ctx: Context) -> StripeObject:
    coupon, p = _coupon(ctx), ctx.params
    previous = {name: coupon[name] for name in p}
    coupon["metadata"] = merged_metadata(coupon["metadata"], p.get("metadata"))
    coupon["name"] = p.get("name", coupon["name"])
    ctx.emit("coupon.updated", coupon, previous)
    return coupon


def _delete_coupon(ctx: Context) -> StripeObject:
    """Who has the discount keeps it; nobody gets it anew."""
    coupon = _coupon(ctx)
    ctx.emit("coupon.deleted", coupon)
    coupon["deleted"] = True
    return {"id": coupon["id"], "object": "coupon", "deleted": True}


def _create_code(ctx: Context) -> StripeObject:
    p = ctx.params
    id = p["promotion"]["coupon"]
    coupon = ctx.state.get("coupon", id, param="promotion[coupon]", status=400)
    if coupon.get("deleted"):
        raise missing_object("coupon", id, "promotion[coupon]", status=400)
    if "customer" in p:
        live_customer(ctx, p["customer"])
    text = p.get("code") or ctx.new_id("")[:_CODE_SYMBOLS].upper()
    same = [c for c in ctx.state.all("promotion_code") if c["code"].casefold() == text.casefold() and c["active"]]
    if same:
        raise invalid("An active promotion code with `code: " + text + "` already exists.", param="code")
    restrictions = p.get("restrictions", {})
    if ("minimum_amount" in restrictions) != ("minimum_amount_currency" in restrictions):
        raise invalid("minimum_amount and minimum_amount_currency go together.", param="restrictions[minimum_amount]")
    code = {
        "id": ctx.new_id("promo_"),
        "object": "promotion_code",
        "active": p.get("active", True),
        "code": text,
        "created": ctx.now_at,
        "customer": p.get("customer"),
        "expires_at": p.get("expires_at"),
        "livemode": False,
        "max_redemptions": p.get("max_redemptions"),
        "metadata": merged_metadata({}, p.get("metadata")),
        "promotion": {"coupon": id, "type": "coupon"},
        "restrictions": {
            "first_time_transaction": restrictions.get("first_time_transaction", False),
            "minimum_amount": restrictions.get("minimum_amount"),
            "minimum_amount_currency": restrictions.get("minimum_amount_currency"),
        },
        "times_redeemed": 0,
    }
    ctx.state.add(code)
    ctx.emit("promotion_code.created", code)
    return code


def _update_code(ctx: Context) -> StripeObject:
    code, p = ctx.state.get("promotion_code", ctx.path["id"]), ctx.params
    previous = {name: code[name] for name in p}
    code["active"] = p.get("active", code["active"])
    code["metadata"] = merged_metadata(code["metadata"], p.get("metadata"))
    ctx.emit("promotion_code.updated", code, previous)
    return code


def _list_codes(ctx: Context) -> StripeObject:
    p = ctx.params
    found = [
        code
        for code in ctx.state.all("promotion_code")
        if p.get("active") in (None, code["active"])
        and p.get("coupon") in (None, code["promotion"]["coupon"])
        and p.get("customer") in (None, code["customer"])
        and ("code" not in p or p["code"].casefold() == code["code"].casefold())
    ]
    return page(ctx, found, "/v1/promotion_codes")


def _list_coupons(ctx: Context) -> StripeObject:
    found = [_fresh(ctx, coupon) for coupon in ctx.state.all("coupon") if not coupon.get("deleted")]
    return page(ctx, found, "/v1/coupons")


_COUPON: Final = {
    "id": text(),
    "amount_off": integer(1),
    "percent_off": decimal(2),
    "currency": text(3),
    "duration": enum("forever", "once", "repeating"),
    "duration_in_months": integer(1, COUPON_MONTHS_MAX),
    "max_redemptions": integer(1),
    "redeem_by": integer(),
    "name": text(40),
    "applies_to": obj({"products": array(text())}),
    "metadata": metadata(),
}
_RESTRICTIONS: Final = obj(
    {"first_time_transaction": boolean(), "minimum_amount": integer(1), "minimum_amount_currency": text(3)}
)
_CODE: Final = {
    "promotion": required(obj({"type": required(enum("coupon")), "coupon": required(text())})),
    "active": boolean(),
    "code": text(500),
    "customer": text(),
    "expires_at": integer(),
    "max_redemptions": integer(1),
    "restrictions": _RESTRICTIONS,
    "metadata": metadata(),
}

ROUTES: Final = [
    Route("POST", "/v1/coupons", _create_coupon, _COUPON),
    Route("GET", "/v1/coupons", _list_coupons, paged=True),
    Route("GET", "/v1/coupons/{id}", _coupon),
    Route("POST", "/v1/coupons/{id}", _update_coupon, {"name": text(40), "metadata": metadata()}),
    Route("DELETE", "/v1/coupons/{id}", _delete_coupon),
    Route("POST", "/v1/promotion_codes", _create_code, _CODE),
    Route(
        "GET",
        "/v1/promotion_codes",
        _list_codes,
        {"active": boolean(), "code": text(), "coupon": text(), "customer": text()},
        paged=True,
    ),
    Route("GET", "/v1/promotion_codes/{id}", lambda ctx: ctx.state.get("promotion_code", ctx.path["id"])),
    Route("POST", "/v1/promotion_codes/{id}", _update_code, {"active": boolean(), "metadata": metadata()}),
]
