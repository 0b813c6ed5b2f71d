"""Subscription schedules, as far as they change a subscription's items when its running period ends."""

from typing import Any, Final

from farebox.sandbox.additions import ADDED_ITEMS, added_items
from farebox.sandbox.catalog import merged_metadata
from farebox.sandbox.core import Context, Route, page
from farebox.sandbox.customers import own_method
from farebox.sandbox.discounts import DISCOUNTS, asked_discounts
from farebox.sandbox.errors import invalid, not_modelled, wrong_state
from farebox.sandbox.lifecycle import end_trial
from farebox.sandbox.params import array, boolean, enum, integer, metadata, obj, required, text
from farebox.sandbox.periods import period_around
from farebox.sandbox.phases import apply_settings, release_schedule
from farebox.sandbox.sellable import ITEMS_MAX, check_prices
from farebox.sandbox.state import StripeObject
from farebox.sandbox.status import ENDED, period_end
from farebox.sandbox.taxes import AUTOMATIC_TAX, check_location, subscription_tax
from farebox.sandbox.thresholds import THRESHOLDS, shown_thresholds
from farebox.sandbox.trials import TRIAL_END, extend_trial

__all__ = ["PHASES_MAX", "ROUTES"]

PHASES_MAX: Final = 2  # the running one, and what comes after it


def _create(ctx: Context) -> StripeObject:
    subscription = ctx.state.get("subscription", ctx.params["from_subscription"], param="from_subscription", status=400)
    if subscription["status"] in ENDED:
        raise invalid("You cannot migrate a subscription that has ended.", param="from_subscription")
    if subscription["schedule"] is not None:
        raise invalid(
            "You cannot migrate a subscription that is already attached to a schedule: "
            f"`{subscription['id']}` is already attached to schedule `{subscription['schedule']}`.",
            param="from_subscription",
        )
    start = min(item["current_period_start"] for item in subscription["items"]["data"])
    phase = _phase(subscription, _as_it_is(subscription), start, period_end(subscription))
    schedule = {
        "id": ctx.new_id("sub_sched_"),
        "object": "subscription_schedule",
        "application": None,
        "billing_mode": dict(subscription["billing_mode"]),
        "canceled_at": None,
        "completed_at": None,
        "created": ctx.now_at,
        "current_phase": {"start_date": phase["start_date"], "end_date": phase["end_date"]},
        "customer": subscription["customer"],
        "default_settings": {
            "application_fee_percent": None,
            "automatic_tax": {"enabled": False, "liability": None, "disabled_reason": None},
            "billing_cycle_anchor": "automatic",
            "billing_thresholds": None,
            "collection_method": "charge_automatically",
            "default_payment_method": None,
            "description": None,
            "invoice_settings": {
                "account_tax_ids": None,
                "days_until_due": None,
                "issuer": {"type": "self"},
            },
            "on_behalf_of": None,
            "transfer_data": None,
        },
        "end_behavior": "release",
        "livemode": False,
        "metadata": {},
        "phases": [phase],
        "released_at": None,
        "released_subscription": None,
        "status": "active",
        "subscription": subscription["id"],
        "test_clock": subscription["test_clock"],
    }
    previous = {"schedule": None}
    subscription["schedule"] = schedule["id"]
    ctx.state.add(schedule)
    ctx.emit("subscription_schedule.created", schedule)
    ctx.emit("customer.subscription.updated", subscription, previous)
    return schedule


def _phase(subscription: StripeObject, asked: dict[str, Any], start: int, end: int) -> StripeObject:
    """A phase with what was asked for. What was left out is unset."""
    return {
        "add_invoice_items": [_shown_addition(entry) for entry in asked.get("add_invoice_items", [])],
        "application_fee_percent": None,
        "automatic_tax": subscription_tax(asked.get("automatic_tax")),
        "billing_cycle_anchor": None,
        "billing_thresholds": shown_thresholds(asked.get("billing_thresholds")),
        "collection_method": asked.get("collection_method"),
        "currency": subscription["currency"],
        "default_payment_method": asked.get("default_payment_method"),
        "default_tax_rates": [],
        "description": asked.get("description") or None,
        "discounts": [
            {name: entry.get(name) for name in ("coupon", "discount", "promotion_code")}
            for entry in asked.get("discounts", [])
        ],
        "end_date": end,
        "invoice_settings": None,
        "items": [
            {"billing_thresholds": None, "discounts": [], "metadata": {}, "tax_rates": []} | entry
            for entry in asked["items"]
        ],
        "metadata": asked.get("metadata", {}),
        "on_behalf_of": None,
        "proration_behavior": asked.get("proration_behavior", "create_prorations"),
        "start_date": start,
        "transfer_data": None,
        "trial_end": asked.get("trial_end"),
    }


def _shown_addition(entry: dict[str, Any]) -> StripeObject:
    period = {"start": {"type": "max_item_period_start"}, "end": {"type": "min_item_period_end"}}
    return {"discounts": [], "metadata": {}, "period": period, "quantity": 1, "tax_rates": []} | entry


def _as_it_is(subscription: StripeObject) -> dict[str, Any]:
    """The subscription as a phase would ask for it."""
    return {
        "automatic_tax": subscription["automatic_tax"],
        "billing_thresholds": subscription["billing_thresholds"],
        "collection_method": subscription["collection_method"],
        "default_payment_method": subscription["default_payment_method"],
        "description": subscription["description"],
        "discounts": [{"discount": id} for id in subscription["discounts"]],
        "items": [
            {"price": item["price"]["id"], **({"quantity": item["quantity"]} if "quantity" in item else {})}
            for item in subscription["items"]["data"]
        ],
        "trial_end": subscription["trial_end"] if subscription["status"] == "trialing" else None,
    }


def _update(ctx: Context) -> StripeObject:
    schedule, p = ctx.state.get("subscription_schedule", ctx.path["id"]), ctx.params
    if schedule["status"] != "active":
        raise wrong_state(f"You cannot update a subscription schedule that is {schedule['status']}.")
    previous = {name: schedule[name] for name in p if name in schedule}
    if "metadata" in p:
        schedule["metadata"] = merged_metadata(schedule["metadata"], p["metadata"])
    subscription = ctx.state.objects["subscription"][schedule["subscription"]]
    if "phases" in p:
        schedule["phases"] = _phases(ctx, schedule, subscription, p["phases"])
    ctx.emit("subscription_schedule.updated", schedule, previous)
    if "phases" in p:
        _apply_now(ctx, subscription, schedule["phases"][0])
    return schedule


def _apply_now(ctx: Context, subscription: StripeObject, running: StripeObject) -> None:
    """What was changed of the running phase holds at once. A trial that it no longer names ends."""
    names = ("default_payment_method", "description", "automatic_tax", "billing_thresholds", "discounts", "metadata")
    before = {name: subscription[name] for name in names}
    subscription["metadata"] = merged_metadata(subscription["metadata"], running["metadata"] or None)
    apply_settings(ctx, subscription, running)
    previous = {name: value for name, value in before.items() if subscription[name] != value}
    if previous:
        ctx.emit("customer.subscription.updated", subscription, previous)
    if subscription["status"] == "trialing" and running["trial_end"] is None:
        end_trial(ctx, subscription)
    elif subscription["status"] == "trialing" and running["trial_end"] != subscription["trial_end"]:
        extend_trial(ctx, subscription, running["trial_end"])


def _phases(
    ctx: Context, schedule: StripeObject, subscription: StripeObject, asked: list[dict[str, Any]]
) -> list[StripeObject]:
    """The running phase with the same items and dates, and the one after it. Anything else is not modelled."""
    running = next(p for p in schedule["phases"] if p["start_date"] == schedule["current_phase"]["start_date"])
    first, *later = asked
    if first.get("start_date") != running["start_date"]:
        raise invalid("The first phase must begin when the running one did.", param="phases[0][start_date]")
    mine = [item["price"]["id"] for item in subscription["items"]["data"]]
    if first.get("end_date") != running["end_date"] or [entry["price"] for entry in first["items"]] != mine:
        raise not_modelled("a change of a schedule's running phase")
    if first.get("add_invoice_items"):
        raise not_modelled("invoice items of a schedule's running phase")
    _check_settings(ctx, subscription, first, "phases[0]")
    first["trial_end"] = _trial_end(ctx, subscription, first)
    for entry, item in zip(first["items"], subscription["items"]["data"], strict=True):
        if "quantity" in item:
            entry.setdefault("quantity", item["quantity"])
    phases = [_phase(subscription, first, running["start_date"], running["end_date"])]
    for coming in later:
        if "duration" not in coming:
            raise invalid("The last phase needs a duration.", param="phases[1][duration]")
        if coming.get("trial") or "trial_end" in coming:
            raise not_modelled("a trial that a later phase begins")
        _check_settings(ctx, subscription, coming, "phases[1]")
        if any("price_data" in entry for entry in coming.get("add_invoice_items", [])):
            raise not_modelled("price_data in a phase's invoice items")
        added_items(ctx, subscription, coming, "phases[1]")
        prices = check_prices(ctx, coming["items"], "phases[1][items]")
        for i, (entry, price) in enumerate(zip(coming["items"], prices, strict=True)):
            if price["currency"] != subscription["currency"]:
                raise invalid("A subscription's currency cannot change.", param=f"phases[1][items][{i}][price]")
            if price["recurring"]["usage_type"] == "licensed":
                entry.setdefault("quantity", 1)
        start, duration = running["end_date"], coming["duration"]
        _, end = period_around(start, duration["interval"], duration.get("interval_count", 1), start)
        phases.append(_phase(subscription, coming, start, end))
    return phases


def _check_settings(ctx: Context, subscription: StripeObject, asked: dict[str, Any], where: str) -> None:
    """The payment method and the discounts of a phase must be the customer's to use, the address known for tax."""
    customer = ctx.state.objects["customer"][subscription["customer"]]
    if "default_payment_method" in asked:
        own_method(ctx, asked["default_payment_method"], customer, f"{where}[default_payment_method]")
    discounts, currency = asked.get("discounts", []), subscription["currency"]
    asked_discounts(ctx, discounts, customer=customer, currency=currency, param=f"{where}[discounts]")
    check_location(asked.get("automatic_tax"), customer)


def _trial_end(ctx: Context, subscription: StripeObject, asked: dict[str, Any]) -> int | None:
    """When the running phase's trial ends; None for one without a trial, and for one whose trial ends now."""
    end = asked.get("trial_end", asked["end_date"] if asked.get("trial") else "now")
    if end == "now":
        return None
    if asked.get("trial") and end != asked["end_date"]:
        raise invalid("With trial=true trial_end must be the phase's end_date.", param="phases[0][trial_end]")
    if not ctx.now_at < end <= asked["end_date"]:
        raise invalid("trial_end must lie within the phase, in the future.", param="phases[0][trial_end]")
    if subscription["status"] != "trialing":
        raise not_modelled("a trial for a subscription that has begun already")
    return int(end)


def _release(ctx: Context) -> StripeObject:
    schedule = ctx.state.get("subscription_schedule", ctx.path["id"])
    if schedule["status"] != "active":
        raise wrong_state(f"You cannot release a subscription schedule that is {schedule['status']}.")
    subscription = ctx.state.objects["subscription"][schedule["subscription"]]
    release_schedule(ctx, subscription)
    ctx.emit("customer.subscription.updated", subscription, {"schedule": schedule["id"]})
    return schedule


def _list(ctx: Context) -> StripeObject:
    found = ctx.state.all("subscription_schedule", ctx.params.get("customer"))
    return page(ctx, found, "/v1/subscription_schedules")


_ITEM: Final = {"price": required(text()), "quantity": integer(), "metadata": metadata()}
_PRORATION: Final = enum("always_invoice", "create_prorations", "none")
_PHASE: Final = {
    "items": required(array(obj(_ITEM), ITEMS_MAX)),
    "add_invoice_items": ADDED_ITEMS,
    "start_date": integer(),
    "end_date": integer(),
    "duration": obj({"interval": required(enum("day", "week", "month", "year")), "interval_count": integer(1)}),
    "automatic_tax": AUTOMATIC_TAX,
    "billing_thresholds": THRESHOLDS,
    "collection_method": enum("charge_automatically"),
    "default_payment_method": text(),
    "description": text(500, empty=True),
    "discounts": DISCOUNTS,
    "metadata": metadata(),
    "proration_behavior": _PRORATION,
    "trial": boolean(),
    "trial_end": TRIAL_END,
}
_CHANGE: Final = {
    "end_behavior": enum("release"),
    "metadata": metadata(),
    "phases": array(obj(_PHASE), PHASES_MAX),
    "proration_behavior": _PRORATION,
}

ROUTES: Final = [
    Route("POST", "/v1/subscription_schedules", _create, {"from_subscription": required(text())}),
    Route("GET", "/v1/subscription_schedules", _list, {"customer": text()}, paged=True),
    Route("GET", "/v1/subscription_schedules/{id}", lambda ctx: ctx.state.get("subscription_schedule", ctx.path["id"])),
    Route("POST", "/v1/subscription_schedules/{id}", _update, _CHANGE),
    Route("POST", "/v1/subscription_schedules/{id}/release", _release),
]
