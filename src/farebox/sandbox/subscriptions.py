"""Subscriptions in flexible billing mode: how they are made, changed, paused and ended over the API."""

from typing import Any, Final

from farebox.sandbox.additions import ADDED_ITEMS, added_items
from farebox.sandbox.catalog import merged_metadata
from farebox.sandbox.core import Context, Route, page
from farebox.sandbox.customers import asked_method, card_of, charge, live_customer
from farebox.sandbox.discounts import (
    DISCOUNTS,
    Asked,
    asked_discounts,
    end_discounts,
    new_discounts,
    replace_discounts,
)
from farebox.sandbox.errors import StripeError, invalid, not_modelled, wrong_state
from farebox.sandbox.lifecycle import begin, cancel_now, due_today, end_trial, resume
from farebox.sandbox.params import array, boolean, enum, integer, metadata, obj, required, text
from farebox.sandbox.prorations import Change, make_item, plan_change
from farebox.sandbox.purchases import ANCHOR, apply_billed, check_billing, check_paid_first
from farebox.sandbox.sellable import ITEMS_MAX, check_prices, check_together, sellable_price
from farebox.sandbox.state import StripeObject
from farebox.sandbox.status import ENDED, period_end
from farebox.sandbox.taxes import AUTOMATIC_TAX, check_location, subscription_tax
from farebox.sandbox.thresholds import THRESHOLDS, set_thresholds
from farebox.sandbox.timelines import check_room
from farebox.sandbox.trials import TRIAL_END, TRIAL_SETTINGS, asked_trial, begin_trial, extend_trial

__all__ = [
    "BILLING_MODE",
    "CHANGED_ITEMS",
    "ENDED",
    "ROUTES",
    "build_subscription",
    "cancel_now",
    "create_subscription",
    "planned_items",
    "set_cancel_at_period_end",
]

BILLING_MODE: Final = obj(
    {"type": required(enum("classic", "flexible")), "flexible": obj({"proration_discounts": text()})}
)


def build_subscription(
    ctx: Context, customer: StripeObject, items: list[dict[str, Any]], options: dict[str, Any]
) -> StripeObject:
    """A subscription that begins now, not kept yet. All its items share one interval and currency."""
    prices = check_prices(ctx, items, "items")
    check_room(ctx.state, customer)
    id = ctx.new_id("sub_")
    lines = [make_item(ctx, id, entry, price) for entry, price in zip(items, prices, strict=True)]
    mode = (options.get("billing_mode") or {}).get("type", "flexible")
    trial_end = asked_trial(ctx, options)
    subscription = {
        "id": id,
        "object": "subscription",
        "application": None,
        "application_fee_percent": None,
        "automatic_tax": subscription_tax(options.get("automatic_tax")),
        "billing_cycle_anchor": ctx.now_at,
        "billing_cycle_anchor_config": None,
        "billing_mode": {"type": mode, "flexible": None, "updated_at": ctx.now_at},
        "billing_schedules": [],
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
        "test_clock": customer["test_clock"],
        "transfer_data": None,
        "trial_end": None,
        "trial_settings": options.get("trial_settings")
        or {"end_behavior": {"missing_payment_method": "create_invoice"}},
        "trial_start": None,
        "_discounts": [],
        "_leftovers": [],
    }
    set_thresholds(customer, subscription, options.get("billing_thresholds"))
    if trial_end is not None:
        begin_trial(ctx, subscription, trial_end)
    return subscription


def create_subscription(
    ctx: Context, customer: StripeObject, items: list[dict[str, Any]], options: dict[str, Any]
) -> StripeObject:
    """Begin a subscription now."""
    subscription = build_subscription(ctx, customer, items, options)
    begin(ctx, subscription)
    return subscription


def _create(ctx: Context) -> StripeObject:
    p = ctx.params
    customer = live_customer(ctx, p["customer"])
    check_location(p.get("automatic_tax"), customer)
    _take_method(ctx, customer, p)
    subscription = build_subscription(ctx, customer, p["items"], p)
    asked = asked_discounts(ctx, p.get("discounts", []), customer=customer, currency=subscription["currency"])
    behavior = p.get("payment_behavior", "allow_incomplete")
    _check_payable(ctx, subscription, customer, asked, behavior)
    if p.get("cancel_at_period_end"):
        subscription.update(cancel_at_period_end=True, cancel_at=period_end(subscription), canceled_at=ctx.now_at)
    subscription["_discounts"] = new_discounts(ctx, asked, subscription)
    subscription["discounts"] = [discount["id"] for discount in subscription["_discounts"]]
    begin(ctx, subscription, behavior=behavior)
    return subscription


def _take_method(ctx: Context, customer: StripeObject, p: dict[str, Any]) -> None:
    """The card that is asked for has to be the customer's, or becomes theirs."""
    if "default_payment_method" in p:
        asked = asked_method(ctx, p["default_payment_method"], customer, "default_payment_method")
        p["default_payment_method"] = asked["id"]


def _check_payable(
    ctx: Context, subscription: StripeObject, customer: StripeObject, asked: list[Asked], behavior: str
) -> None:
    """Refuse before anything has happened what could not be paid today."""
    if behavior == "default_incomplete":
        return
    due = due_today(ctx, subscription, new_discounts(ctx, asked, subscription, keep=False))["amount_due"]
    if due and card_of(ctx, subscription, customer) is None:
        raise invalid(
            "This customer has no attached payment source or default payment method. Please consider adding a "
            "default payment method.",
            code="resource_missing",
        )
    if (
        due
        and behavior == "error_if_incomplete"
        and charge(ctx, card_of(ctx, subscription, customer)).outcome != "succeeded"
    ):
        raise StripeError(402, "card_error", "Your card was declined.", code="card_declined")


def _list(ctx: Context) -> StripeObject:
    p = ctx.params
    status = p.get("status")
    found = [
        s
        for s in ctx.state.listed("subscription", p)
        if ("price" not in p or any(item["price"]["id"] == p["price"] for item in s["items"]["data"]))
        and (
            status == "all"
            or s["status"] == status
            or (status is None and s["status"] != "canceled")
            or (status == "ended" and s["status"] in ENDED)
        )
    ]
    return page(ctx, found, "/v1/subscriptions")


def _update(ctx: Context) -> StripeObject:
    subscription, p = ctx.state.get("subscription", ctx.path["id"]), dict(ctx.params)
    _check_update(ctx, subscription, p)
    customer = ctx.state.objects["customer"][subscription["customer"]]
    asked, coming = None, {}
    if "discounts" in p:
        asked = asked_discounts(ctx, p["discounts"], customer=customer, currency=subscription["currency"])
        coming = {"_discounts": new_discounts(ctx, asked, subscription, keep=False)}
    change = planned_items(ctx, {**subscription, **coming}, p)  # prorated by the discounts that will hold
    added = added_items(ctx, subscription, p)
    check_paid_first(ctx, {**subscription, **coming}, change, added, p)
    if asked is not None:
        replace_discounts(ctx, subscription, asked)
    if "cancel_at_period_end" in p:
        set_cancel_at_period_end(ctx, subscription, on=p.pop("cancel_at_period_end"))
    previous = {name: subscription[name] for name in p if name in subscription}
    if change is not None:
        previous["items"] = {**subscription["items"], "data": list(subscription["items"]["data"])}
    _set_plain(customer, subscription, p)
    apply_billed(ctx, subscription, change, added, p)
    if previous:
        ctx.emit("customer.subscription.updated", subscription, previous)
    if "trial_end" in p and p["trial_end"] == "now":
        end_trial(ctx, subscription, grace=p.get("payment_behavior") != "error_if_incomplete")
    elif "trial_end" in p:
        extend_trial(ctx, subscription, int(p["trial_end"]))
    return subscription


def _check_update(ctx: Context, subscription: StripeObject, p: dict[str, Any]) -> None:
    check_billing(subscription, p)
    if subscription["status"] in ENDED and p.keys() != {"metadata"}:
        raise wrong_state("A canceled subscription can only update its cancellation_details and metadata.")
    _take_method(ctx, ctx.state.objects["customer"][subscription["customer"]], p)
    if subscription["schedule"] is not None and "cancel_at_period_end" in p:
        raise wrong_state(
            f"The subscription is managed by the subscription schedule `{subscription['schedule']}`, and updating any "
            "cancelation behavior directly is not allowed. Please update the schedule instead."
        )
    resumes_at = (p.get("pause_collection") or {}).get("resumes_at")
    if resumes_at is not None and resumes_at <= ctx.now_at:
        raise invalid("resumes_at must lie in the future.", param="pause_collection[resumes_at]")
    if "trial_end" in p and subscription["status"] != "trialing":
        raise not_modelled("a trial for a subscription that has begun already")
    if "trial_end" in p and p["trial_end"] != "now":
        asked_trial(ctx, p)


def _set_plain(customer: StripeObject, subscription: StripeObject, p: dict[str, Any]) -> None:
    for name in ("default_payment_method", "description", "trial_settings"):
        if name in p:
            subscription[name] = p[name]
    if "automatic_tax" in p:
        check_location(p["automatic_tax"], customer)
        subscription["automatic_tax"] = subscription_tax(p["automatic_tax"])
    if "metadata" in p:
        subscription["metadata"] = merged_metadata(subscription["metadata"], p["metadata"])
    if "billing_thresholds" in p:
        set_thresholds(customer, subscription, p["billing_thresholds"])
    if "pause_collection" in p:
        asked = p["pause_collection"]
        subscription["pause_collection"] = {"resumes_at": None, **asked} if asked is not None else None


def planned_items(ctx: Context, subscription: StripeObject, p: dict[str, Any]) -> Change | None:
    """What the items of an update come to, checked; None when it names none."""
    if "items" not in p:
        return None
    prices: list[StripeObject | None] = []
    for i, entry in enumerate(p["items"]):
        where = f"items[{i}]"
        if "price" not in entry and "id" not in entry:
            raise invalid("Pass the id of an item to change it, or a price to add one.", param=where)
        found = None
        if "price" in entry:
            held = next((i["price"] for i in subscription["items"]["data"] if i["id"] == entry.get("id")), None)
            same = held is not None and held["id"] == entry["price"]  # an item may keep a price that was archived since
            found = held if same else sellable_price(ctx, entry["price"], f"{where}[price]")
        prices.append(found)
    at = p.get("proration_date", ctx.now_at)
    first = subscription["items"]["data"][0]
    if not first["current_period_start"] <= at <= first["current_period_end"]:
        raise invalid("proration_date must lie in the current period.", param="proration_date")
    change = plan_change(ctx, subscription, p["items"], prices, at)
    for i, entry in enumerate(p["items"]):
        now = next((item for item in change.items if item["id"] == entry.get("id")), None)
        price = prices[i] or (now["price"] if now is not None else None)
        if "quantity" in entry and price is not None and price["recurring"]["usage_type"] == "metered":
            raise invalid("Quantity cannot be set for a metered price.", param=f"items[{i}][quantity]")
    check_together([item["price"] for item in change.items], "items")
    return change


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


def _cancel(ctx: Context) -> StripeObject:
    subscription, p = ctx.state.get("subscription", ctx.path["id"]), ctx.params
    return cancel_now(ctx, subscription, invoice_now=p.get("invoice_now", False), prorate=p.get("prorate", False))


def _resume(ctx: Context) -> StripeObject:
    anchor = ctx.params.get("billing_cycle_anchor", {}).get("type", "now")
    return resume(ctx, ctx.state.get("subscription", ctx.path["id"]), anchor=anchor)


def _delete_discount(ctx: Context) -> StripeObject:
    subscription = ctx.state.get("subscription", ctx.path["id"])
    if not subscription["_discounts"]:
        raise wrong_state("This subscription has no discount.")
    gone = subscription["_discounts"][-1]
    end_discounts(ctx, subscription, [gone])
    return {**{name: value for name, value in gone.items() if name != "end"}, "deleted": True}


_PRORATION: Final = enum("always_invoice", "create_prorations", "none")
_BEHAVIOR: Final = enum("allow_incomplete", "default_incomplete", "error_if_incomplete", "pending_if_incomplete")
_ITEM: Final = {"price": required(text()), "quantity": integer(), "metadata": metadata()}
_CREATE: Final = {
    "customer": required(text()),
    "items": required(array(obj(_ITEM), ITEMS_MAX)),
    "automatic_tax": AUTOMATIC_TAX,
    "billing_mode": BILLING_MODE,
    "billing_thresholds": THRESHOLDS,
    "cancel_at_period_end": boolean(),
    "default_payment_method": text(),
    "description": text(500),
    "discounts": DISCOUNTS,
    "metadata": metadata(),
    "off_session": boolean(),
    "payment_behavior": _BEHAVIOR,
    "proration_behavior": _PRORATION,
    "trial_end": TRIAL_END,
    "trial_period_days": integer(0, 730),
    "trial_settings": TRIAL_SETTINGS,
}
CHANGED_ITEMS: Final = array(
    obj(
        {
            "id": text(),
            "price": text(),
            "quantity": integer(),
            "deleted": boolean(),
            "clear_usage": boolean(),
            "metadata": metadata(),
        }
    ),
    2 * ITEMS_MAX,
)
_CHANGE: Final = {
    "add_invoice_items": ADDED_ITEMS,
    "automatic_tax": AUTOMATIC_TAX,
    "billing_cycle_anchor": ANCHOR,
    "billing_thresholds": THRESHOLDS,
    "cancel_at_period_end": boolean(),
    "default_payment_method": text(),
    "description": text(500, empty=True),
    "discounts": DISCOUNTS,
    "items": CHANGED_ITEMS,
    "metadata": metadata(),
    "off_session": boolean(),
    "pause_collection": obj(
        {"behavior": required(enum("keep_as_draft", "mark_uncollectible", "void")), "resumes_at": integer()}, unset=True
    ),
    "payment_behavior": _BEHAVIOR,
    "proration_behavior": _PRORATION,
    "proration_date": integer(),
    "trial_end": TRIAL_END,
    "trial_settings": TRIAL_SETTINGS,
}
_RESUME: Final = {
    "billing_cycle_anchor": obj({"type": required(enum("now", "unchanged"))}),
    "proration_behavior": _PRORATION,
}
_STATUSES: Final = enum(
    "active", "all", "canceled", "ended", "incomplete", "incomplete_expired", "past_due", "paused", "trialing", "unpaid"
)
_FILTER: Final = {"customer": text(), "status": _STATUSES, "price": text(), "test_clock": text()}

ROUTES: Final = [
    Route("POST", "/v1/subscriptions", _create, _CREATE),
    Route("GET", "/v1/subscriptions", _list, _FILTER, paged=True),
    Route("GET", "/v1/subscriptions/{id}", lambda ctx: ctx.state.get("subscription", ctx.path["id"])),
    Route("POST", "/v1/subscriptions/{id}", _update, _CHANGE),
    Route("DELETE", "/v1/subscriptions/{id}", _cancel, {"invoice_now": boolean(), "prorate": boolean()}),
    Route("POST", "/v1/subscriptions/{id}/resume", _resume, _RESUME),
    Route("DELETE", "/v1/subscriptions/{id}/discount", _delete_discount),
]
