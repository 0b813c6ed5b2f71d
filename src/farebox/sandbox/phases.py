"""What a subscription schedule does to its subscription when a phase begins: items, metadata and settings, or nothing.

A phase says all of its settings: what it leaves out is unset on the subscription.
"""

from typing import Any

from farebox.sandbox.additions import added_items
from farebox.sandbox.catalog import merged_metadata
from farebox.sandbox.core import Context
from farebox.sandbox.discounts import Asked, replace_discounts
from farebox.sandbox.prorations import Change, keep_items, make_item, plan_change
from farebox.sandbox.state import StripeObject
from farebox.sandbox.taxes import subscription_tax
from farebox.sandbox.thresholds import set_thresholds

__all__ = [
    "apply_settings",
    "boundary_of",
    "change_of",
    "due_phase",
    "enter_phase",
    "keeps_rhythm",
    "note_phase",
    "release_schedule",
    "schedule_of",
]


def schedule_of(ctx: Context, subscription: StripeObject) -> StripeObject | None:
    """The schedule that manages the subscription."""
    id = subscription["schedule"]
    return ctx.state.objects["subscription_schedule"][id] if id is not None else None


def boundary_of(ctx: Context, subscription: StripeObject) -> int | None:
    """When the running phase of the subscription's schedule ends."""
    schedule = schedule_of(ctx, subscription)
    return int(schedule["current_phase"]["end_date"]) if schedule is not None else None


def due_phase(ctx: Context, subscription: StripeObject) -> StripeObject | None:
    """The phase that has begun by now and was not entered yet."""
    schedule = schedule_of(ctx, subscription)
    if schedule is None:
        return None
    running = schedule["current_phase"]["start_date"]
    begun = [phase for phase in schedule["phases"] if running < phase["start_date"] <= ctx.now_at < phase["end_date"]]
    return begun[-1] if begun else None


def enter_phase(ctx: Context, subscription: StripeObject) -> None:
    """Between two periods: give the subscription what the phase says that has begun. After the last one it is free."""
    coming = due_phase(ctx, subscription)
    if coming is None:
        boundary = boundary_of(ctx, subscription)
        if boundary is not None and ctx.now_at >= boundary:
            release_schedule(ctx, subscription)
        return
    before = {item["price"]["id"]: item for item in subscription["items"]["data"]}
    same = keeps_rhythm(ctx, subscription, coming)
    items = []
    for entry in coming["items"]:
        price = ctx.state.objects["price"][entry["price"]]
        kept = before.get(price["id"])
        items.append(kept if kept is not None else make_item(ctx, subscription["id"], _asked(entry), price))
    if not same:
        subscription["billing_cycle_anchor"] = ctx.now_at
    subscription["items"]["data"] = items
    note_phase(ctx, subscription, coming)


def note_phase(ctx: Context, subscription: StripeObject, phase: StripeObject) -> None:
    """The phase runs from now on, with its metadata and settings. What it adds is on the next invoice."""
    keep_items(ctx, added_items(ctx, subscription, phase))
    schedule = ctx.state.objects["subscription_schedule"][subscription["schedule"]]
    subscription["metadata"] = merged_metadata(subscription["metadata"], phase["metadata"] or None)
    apply_settings(ctx, subscription, phase)
    schedule["current_phase"] = {"start_date": phase["start_date"], "end_date": phase["end_date"]}
    ctx.emit("subscription_schedule.updated", schedule, {"current_phase": None})


def apply_settings(ctx: Context, subscription: StripeObject, phase: StripeObject) -> None:
    """Give the subscription the settings of a phase. What the phase leaves out is unset."""
    customer = ctx.state.objects["customer"][subscription["customer"]]
    subscription["default_payment_method"] = phase["default_payment_method"]
    subscription["description"] = phase["description"]
    subscription["automatic_tax"] = subscription_tax(phase["automatic_tax"])
    set_thresholds(customer, subscription, phase["billing_thresholds"])
    replace_discounts(ctx, subscription, [_discount(ctx, entry) for entry in phase["discounts"]])


def _discount(ctx: Context, entry: StripeObject) -> Asked:
    objects = ctx.state.objects
    if entry["discount"] is not None:
        kept = objects["discount"][entry["discount"]]
        return Asked(kept["_coupon"], kept=kept)
    if entry["promotion_code"] is not None:
        code = objects["promotion_code"][entry["promotion_code"]]
        return Asked(objects["coupon"][code["promotion"]["coupon"]], code)
    return Asked(objects["coupon"][entry["coupon"]])


def keeps_rhythm(ctx: Context, subscription: StripeObject, phase: StripeObject) -> bool:
    """Whether the phase's items are billed as often as the subscription's are now."""
    now = {_rhythm(item["price"]) for item in subscription["items"]["data"]}
    return now == {_rhythm(ctx.state.objects["price"][entry["price"]]) for entry in phase["items"]}


def change_of(ctx: Context, subscription: StripeObject, phase: StripeObject) -> Change:
    """What a phase's items come to that begins within a period. Nothing of it has happened yet."""
    asked: list[dict[str, Any]] = []
    prices: list[StripeObject | None] = []
    wanted = {entry["price"]: entry for entry in phase["items"]}
    for item in subscription["items"]["data"]:
        entry = wanted.pop(item["price"]["id"], None)
        asked.append({"id": item["id"], **(_asked(entry) if entry is not None else {"deleted": True})})
        prices.append(None)
    for id, entry in wanted.items():
        asked.append({"price": id, **_asked(entry)})
        prices.append(ctx.state.objects["price"][id])
    return plan_change(ctx, subscription, asked, prices, ctx.now_at)


def release_schedule(ctx: Context, subscription: StripeObject) -> None:
    """Let the subscription go on as it is, by itself."""
    schedule = schedule_of(ctx, subscription)
    if schedule is None:
        return
    subscription["schedule"] = None
    ctx.state.touch(subscription)
    schedule.update(
        status="released", released_at=ctx.now_at, released_subscription=subscription["id"], subscription=None
    )
    schedule["current_phase"] = None
    ctx.emit("subscription_schedule.released", schedule)


def _rhythm(price: StripeObject) -> tuple[str, int]:
    return price["recurring"]["interval"], price["recurring"]["interval_count"]


def _asked(entry: StripeObject) -> StripeObject:
    return {name: entry[name] for name in ("quantity", "metadata") if entry.get(name)}
