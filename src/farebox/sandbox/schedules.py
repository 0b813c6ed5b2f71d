"""Subscription schedules, as far as they change a subscription's items when its running period ends."""

from typing import Any, Final

from farebox.sandbox.catalog import merged_metadata
from farebox.sandbox.core import Context, Route, page
from farebox.sandbox.errors import invalid, not_modelled, wrong_state
from farebox.sandbox.params import array, enum, integer, metadata, obj, required, text
from farebox.sandbox.periods import period_around
from farebox.sandbox.phases import release_schedule
from farebox.sandbox.sellable import ITEMS_MAX, check_prices
from farebox.sandbox.state import StripeObject
from farebox.sandbox.status import ENDED, period_end

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
    items = [
        {"price": item["price"]["id"], **({"quantity": item["quantity"]} if "quantity" in item else {})}
        for item in subscription["items"]["data"]
    ]
    start = min(item["current_period_start"] for item in subscription["items"]["data"])
    phase = _phase(subscription, items, start, period_end(subscription), {})
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


def _phase(
    subscription: StripeObject, items: list[dict[str, Any]], start: int, end: int, of_phase: dict[str, str]
) -> StripeObject:
    return {
        "add_invoice_items": [],
        "application_fee_percent": None,
        "billing_cycle_anchor": None,
        "billing_thresholds": None,
        "collection_method": None,
        "currency": subscription["currency"],
        "default_payment_method": None,
        "default_tax_rates": [],
        "description": None,
        "discounts": [],
        "end_date": end,
        "invoice_settings": None,
        "items": [
            {"billing_thresholds": None, "discounts": [], "metadata": {}, "tax_rates": []} | entry for entry in items
        ],
        "metadata": of_phase,
        "on_behalf_of": None,
        "proration_behavior": "none",
        "start_date": start,
        "transfer_data": None,
        "trial_end": None,
    }


def _update(ctx: Context) -> StripeObject:
    schedule, p = ctx.state.get("subscription_schedule", ctx.path["id"]), ctx.params
    if schedule["status"] != "active":
        raise wrong_state(f"You cannot update a subscription schedule that is {schedule['status']}.")
    previous = {name: schedule[name] for name in p if name in schedule}
    if "phases" in p:
        schedule["phases"] = _phases(ctx, schedule, p["phases"])
    if "metadata" in p:
        schedule["metadata"] = merged_metadata(schedule["metadata"], p["metadata"])
    ctx.emit("subscription_schedule.updated", schedule, previous)
    return schedule


def _phases(ctx: Context, schedule: StripeObject, asked: list[dict[str, Any]]) -> list[StripeObject]:
    """The running phase as it is, and the one after it. Anything else is not modelled."""
    subscription = ctx.state.objects["subscription"][schedule["subscription"]]
    running = schedule["phases"][0]
    first, *later = asked
    if first.get("start_date") != running["start_date"]:
        raise invalid("The first phase must begin when the running one did.", param="phases[0][start_date]")
    mine = [item["price"]["id"] for item in subscription["items"]["data"]]
    if first.get("end_date") != running["end_date"] or [entry["price"] for entry in first["items"]] != mine:
        raise not_modelled("a change of a schedule's running phase")
    if not later:
        return [running]
    (coming,) = later
    if "duration" not in coming:
        raise invalid("The last phase needs a duration.", param="phases[1][duration]")
    prices = check_prices(ctx, coming["items"], "phases[1][items]")
    for i, (entry, price) in enumerate(zip(coming["items"], prices, strict=True)):
        if price["currency"] != subscription["currency"]:
            raise invalid("A subscription's currency cannot change.", param=f"phases[1][items][{i}][price]")
        if price["recurring"]["usage_type"] == "licensed":
            entry.setdefault("quantity", 1)
    start = running["end_date"]
    duration = coming["duration"]
    _, end = period_around(start, duration["interval"], duration.get("interval_count", 1), start)
    return [running, _phase(subscription, coming["items"], start, end, coming.get("metadata", {}))]


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


_ITEM: Final = {"price": required(text()), "quantity": integer()}
_PHASE: Final = {
    "items": required(array(obj(_ITEM), ITEMS_MAX)),
    "start_date": integer(),
    "end_date": integer(),
    "duration": obj({"interval": required(enum("day", "week", "month", "year")), "interval_count": integer(1)}),
    "metadata": metadata(),
    "proration_behavior": enum("none"),
}
_CHANGE: Final = {
    "end_behavior": enum("release"),
    "metadata": metadata(),
    "phases": array(obj(_PHASE), PHASES_MAX),
    "proration_behavior": enum("none"),
}

ROUTES: Final = [
    Route("POST", "/v1/subscription_schedules", _create, {"from_subscription": required(text())}),
    Route("GET", "/v1/subscription_schedules", _list, {"customer": text()}, paged=True),
    Route("GET", "/v1/subscription_schedules/{id}", lambda ctx: ctx.state.get("subscription_schedule", ctx.path["id"])),
    Route("POST", "/v1/subscription_schedules/{id}", _update, _CHANGE),
    Route("POST", "/v1/subscription_schedules/{id}/release", _release),
]
