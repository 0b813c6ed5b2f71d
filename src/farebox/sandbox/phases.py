"""What a subscription schedule does to its subscription when the period ends: the next phase, or nothing more."""

from farebox.sandbox.catalog import merged_metadata
from farebox.sandbox.core import Context
from farebox.sandbox.prorations import make_item
from farebox.sandbox.state import StripeObject

__all__ = ["enter_phase", "release_schedule", "schedule_of"]


def schedule_of(ctx: Context, subscription: StripeObject) -> StripeObject | None:
    """The schedule that manages the subscription."""
    id = subscription["schedule"]
    return ctx.state.objects["subscription_schedule"][id] if id is not None else None


def enter_phase(ctx: Context, subscription: StripeObject) -> None:
    """Give the subscription the items and the metadata of the phase that begins now. After the last one it is free."""
    schedule = schedule_of(ctx, subscription)
    if schedule is None:
        return
    coming = next((phase for phase in schedule["phases"] if phase["start_date"] == ctx.now_at), None)
    if coming is None:
        if ctx.now_at >= schedule["phases"][-1]["end_date"]:
            release_schedule(ctx, subscription)
        return
    before = {item["price"]["id"]: item for item in subscription["items"]["data"]}
    items = []
    for entry in coming["items"]:
        price = ctx.state.objects["price"][entry["price"]]
        kept = before.get(price["id"])
        items.append(kept if kept is not None else make_item(ctx, subscription["id"], _asked(entry), price))
    rhythms = {(i["price"]["recurring"]["interval"], i["price"]["recurring"]["interval_count"]) for i in items}
    if rhythms != {(p["recurring"]["interval"], p["recurring"]["interval_count"]) for p in _prices(before)}:
        subscription["billing_cycle_anchor"] = ctx.now_at
    subscription["items"]["data"] = items
    subscription["metadata"] = merged_metadata(subscription["metadata"], coming["metadata"])
    schedule["current_phase"] = {"start_date": coming["start_date"], "end_date": coming["end_date"]}
    ctx.emit("subscription_schedule.updated", schedule, {"current_phase": None})


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


def _prices(items: dict[str, StripeObject]) -> list[StripeObject]:
    return [item["price"] for item in items.values()]


def _asked(entry: StripeObject) -> StripeObject:
    return {name: entry[name] for name in ("quantity", "metadata") if entry.get(name) is not None}
