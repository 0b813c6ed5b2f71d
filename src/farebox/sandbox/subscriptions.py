"""Subscriptions in flexible billing mode: item periods, cancellation, and what their state is called."""

from typing import Any, Final

from farebox.sandbox.catalog import merged_metadata
from farebox.sandbox.core import Context, Route, page
from farebox.sandbox.customers import live_customer
from farebox.sandbox.errors import invalid, not_modelled, wrong_state
from farebox.sandbox.invoices import close_period
from farebox.sandbox.params import array, boolean, enum, integer, metadata, obj, required, text
from farebox.sandbox.periods import period_around
from farebox.sandbox.state import StripeObject

__all__ = [
    "BILLING_MODE",
    "ENDED",
    "ITEMS_MAX",
    "ROUTES",
    "cancel_now",
    "check_prices",
    "create_subscription",
    "resume_collection",
    "set_cancel_at_period_end",
]

ITEMS_MAX: Final = 20
ENDED: Final = ("canceled", "incomplete_expired")
BILLING_MODE: Final = obj(
    {"type": required(enum("classic", "flexible")), "flexible": obj({"proration_discounts": text()})}
)


def create_subscription(
    ctx: Context, customer: StripeObject, items: list[dict[str, Any]], options: dict[str, Any]
) -> StripeObject:
    """Begin a subscription now. All its items share one interval and currency, as every plan of one checkout does."""
    prices = check_prices(ctx, items, "items")
    id = ctx.new_id("sub_")
    lines = [_item(ctx, id, entry, price) for entry, price in zip(items, prices, strict=True)]
    mode = (options.get("billing_mode") or {}).get("type", "flexible")
    subscription = {
        "id": id,
        "object": "subscription",
        "application": None,
        "application_fee_percent": None,
        "automatic_tax": {"enabled": False, "liability": None, "disabled_reason": None},
        "billing_cycle_anchor": ctx.now_at,
        "billing_cycle_anchor_config": None,
        "billing_mode": {"type": mode, "flexible": None, "updated_at": ctx.now_at},
        "billing_thresholds": None,
        "cancel_at": None,
        "cancel_at_period_end": False,
        "canceled_at": None,
        "cancellation_details": {"comment": None, "feedback": None, "reason": None},
        "collection_method": "charge_automatically",
        "created": ctx.now_at,
        "currency": lines[0]["price"]["currency"],
        "customer": customer["id"],
        "days_until_due": None,
        "default_payment_method": options.get("default_payment_method"),
        "default_source": None,
        "default_tax_rates": [],
        "description": options.get("description"),
        "discounts": [],
        "ended_at": None,
        "invoice_settings": {"account_tax_ids": None, "issuer": {"type": "self"}},
        "items": {
            "object": "list",
            "data": lines,
            "has_more": False,
            "total_count": len(lines),
            "url": f"/v1/subscription_items?subscription={id}",
        },
        "latest_invoice": None,
        "livemode": False,
        "metadata": merged_metadata({}, options.get("metadata")),
        "next_pending_invoice_item_invoice": None,
        "on_behalf_of": None,
        "pause_collection": None,
        "payment_settings": {
            "payment_method_options": None,
            "payment_method_types": None,
            "save_default_payment_method": "off",
        },
        "pending_invoice_item_interval": None,
        "pending_setup_intent": None,
        "pending_update": None,
        "schedule": None,
        "start_date": ctx.now_at,
        "status": "active",
        "test_clock": None,
        "transfer_data": None,
        "trial_end": None,
        "trial_settings": {"end_behavior": {"missing_payment_method": "create_invoice"}},
        "trial_start": None,
    }
    ctx.state.add(subscription)
    ctx.emit("customer.subscription.created", subscription)
    return subscription


def check_prices(ctx: Context, items: list[dict[str, Any]], param: str) -> list[StripeObject]:
    """The prices of items that can be one subscription: active, metered, of one currency and interval."""
    if not items or len(items) > ITEMS_MAX:
        raise invalid(f"A subscription has from 1 to {ITEMS_MAX} items.", param=param)
    prices = []
    for i, entry in enumerate(items):
        where = f"{param}[{i}]"
        price = ctx.state.get("price", entry["price"], param=f"{where}[price]", status=400)
        if price["recurring"] is None or not price["active"]:
            raise invalid("The price must be active and recurring.", param=f"{where}[price]")
        if price["recurring"]["usage_type"] != "metered":
            raise not_modelled("licensed prices yet")
        if "quantity" in entry:
            raise invalid(
                "Quantity cannot be set for a metered price; report usage to its meter.", param=f"{where}[quantity]"
            )
        prices.append(price)
    if len({(p["currency"], p["recurring"]["interval"], p["recurring"]["interval_count"]) for p in prices}) > 1:
        raise not_modelled("subscriptions whose items differ in currency or interval yet")
    return prices


def _item(ctx: Context, subscription_id: str, entry: dict[str, Any], price: StripeObject) -> StripeObject:
    start, end = period_around(
        ctx.now_at, price["recurring"]["interval"], price["recurring"]["interval_count"], ctx.now_at
    )
    return {
        "id": ctx.new_id("si_"),
        "object": "subscription_item",
        "billing_thresholds": None,
        "created": ctx.now_at,
        "current_period_end": end,
        "current_period_start": start,
        "discounts": [],
        "metadata": merged_metadata({}, entry.get("metadata")),
        "price": price,
        "subscription": subscription_id,
        "tax_rates": [],
    }


def _create(ctx: Context) -> StripeObject:
    customer = live_customer(ctx, ctx.params["customer"])
    method = ctx.params.get("default_payment_method")
    if method is not None:
        ctx.state.get("payment_method", method, param="default_payment_method", status=400)
    return create_subscription(ctx, customer, ctx.params["items"], ctx.params)


def _list(ctx: Context) -> StripeObject:
    p = ctx.params
    status = p.get("status")
    found = [
        s
        for s in ctx.state.all("subscription")
        if ("customer" not in p or s["customer"] == p["customer"])
        and ("price" not in p or any(item["price"]["id"] == p["price"] for item in s["items"]["data"]))
        and (
            status == "all"
            or s["status"] == status
            or (status is None and s["status"] != "canceled")
            or (status == "ended" and s["status"] in ENDED)
        )
    ]
    return page(ctx, found, "/v1/subscriptions")


def _update(ctx: Context) -> StripeObject:
    subscription = ctx.state.get("subscription", ctx.path["id"])
    if subscription["status"] in ENDED:
        raise wrong_state("A canceled subscription can only update its cancellation_details and metadata.")
    p = ctx.params
    if "default_payment_method" in p:
        ctx.state.get("payment_method", p["default_payment_method"], param="default_payment_method", status=400)
    resumes_at = (p.get("pause_collection") or {}).get("resumes_at")
    if resumes_at is not None and resumes_at <= ctx.now_at:
        raise invalid("resumes_at must lie in the future.", param="pause_collection[resumes_at]")
    if "cancel_at_period_end" in p:
        set_cancel_at_period_end(ctx, subscription, on=p.pop("cancel_at_period_end"))
    previous = {name: subscription[name] for name in p if name in subscription}
    if not previous:
        return subscription
    if "metadata" in p:
        subscription["metadata"] = merged_metadata(subscription["metadata"], p["metadata"])
    if "default_payment_method" in p:
        subscription["default_payment_method"] = p["default_payment_method"]
    if "description" in p:
        subscription["description"] = p["description"]
    if "pause_collection" in p:
        asked = p["pause_collection"]
        subscription["pause_collection"] = {"resumes_at": None, **asked} if asked is not None else None
    ctx.emit("customer.subscription.updated", subscription, previous)
    return subscription


def set_cancel_at_period_end(ctx: Context, subscription: StripeObject, *, on: bool) -> None:
    """Let the subscription end with its period, or go on after all."""
    if subscription["cancel_at_period_end"] == on:
        return
    previous = {name: subscription[name] for name in ("cancel_at_period_end", "cancel_at", "canceled_at")}
    end = max(item["current_period_end"] for item in subscription["items"]["data"])
    subscription["cancel_at_period_end"] = on
    subscription["cancel_at"] = end if on else None
    subscription["canceled_at"] = ctx.now_at if on else None
    subscription["cancellation_details"]["reason"] = "cancellation_requested" if on else None
    ctx.emit("customer.subscription.updated", subscription, previous)


def resume_collection(ctx: Context, subscription: StripeObject) -> None:
    """End a pause of collection when its time has come. Invoices drafted meanwhile stay as they are."""
    previous = {"pause_collection": subscription["pause_collection"]}
    subscription["pause_collection"] = None
    ctx.emit("customer.subscription.updated", subscription, previous)


def cancel_now(ctx: Context, subscription: StripeObject, *, invoice_now: bool) -> StripeObject:
    """End it at once. Usage that was not invoiced yet is dropped, unless `invoice_now` bills it."""
    if subscription["status"] in ENDED:
        raise wrong_state(f"No such subscription: '{subscription['id']}'", code="resource_missing", param="id")
    if invoice_now:
        close_period(ctx, subscription, at=ctx.now_at, final=True)
    subscription.update(status="canceled", canceled_at=ctx.now_at, ended_at=ctx.now_at, cancel_at_period_end=False)
    subscription["cancellation_details"]["reason"] = "cancellation_requested"
    ctx.emit("customer.subscription.deleted", subscription)
    return subscription


def _cancel(ctx: Context) -> StripeObject:
    subscription = ctx.state.get("subscription", ctx.path["id"])
    return cancel_now(ctx, subscription, invoice_now=ctx.params.get("invoice_now", False))


_CREATE: Final = {
    "customer": required(text()),
    "items": required(
        array(obj({"price": required(text()), "quantity": integer(), "metadata": metadata()}), ITEMS_MAX)
    ),
    "default_payment_method": text(),
    "description": text(500),
    "metadata": metadata(),
    "billing_mode": BILLING_MODE,
    "off_session": boolean(),
    "payment_behavior": enum("allow_incomplete", "default_incomplete", "error_if_incomplete", "pending_if_incomplete"),
}
_CHANGE: Final = {
    "cancel_at_period_end": boolean(),
    "default_payment_method": text(),
    "description": text(500, empty=True),
    "metadata": metadata(),
    "pause_collection": obj(
        {"behavior": required(enum("keep_as_draft", "mark_uncollectible", "void")), "resumes_at": integer()}, unset=True
    ),
    "proration_behavior": enum("always_invoice", "create_prorations", "none"),
}
_STATUSES: Final = enum(
    "active", "all", "canceled", "ended", "incomplete", "incomplete_expired", "past_due", "paused", "trialing", "unpaid"
)

ROUTES: Final = [
    Route("POST", "/v1/subscriptions", _create, _CREATE),
    Route("GET", "/v1/subscriptions", _list, {"customer": text(), "status": _STATUSES, "price": text()}, paged=True),
    Route("GET", "/v1/subscriptions/{id}", lambda ctx: ctx.state.get("subscription", ctx.path["id"])),
    Route("POST", "/v1/subscriptions/{id}", _update, _CHANGE),
    Route("DELETE", "/v1/subscriptions/{id}", _cancel, {"invoice_now": boolean(), "prorate": boolean()}),
]
