"""Changing a subscription's items in mid-period: what is credited, what is charged, and what usage is left to bill.

To the second and without discounts; Stripe's own prorations know more cases.
"""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from farebox.sandbox.catalog import merged_metadata
from farebox.sandbox.core import Context
from farebox.sandbox.errors import invalid
from farebox.sandbox.invoiceitems import new_item
from farebox.sandbox.lines import Plan, is_metered, metered_entries
from farebox.sandbox.periods import period_around, short_date
from farebox.sandbox.pricing import amount_of, share
from farebox.sandbox.state import StripeObject

__all__ = ["Change", "apply_change", "keep_items", "make_item", "plan_change", "unused_time"]


@dataclass(slots=True)
class Change:
    """What a change of items comes to. Nothing of it has happened yet."""

    items: list[StripeObject] = field(default_factory=list)
    leftovers: list[Plan] = field(default_factory=list)
    prorations: list[StripeObject] = field(default_factory=list)


def make_item(ctx: Context, subscription_id: str, entry: dict[str, Any], price: StripeObject) -> StripeObject:
    """A subscription item whose period begins now."""
    start, end = period_around(
        ctx.now_at, price["recurring"]["interval"], price["recurring"]["interval_count"], ctx.now_at
    )
    item = {
        "id": ctx.new_id("si_"),
        "object": "subscription_item",
        "billing_thresholds": None,
        "created": ctx.now_at,
        "current_period_end": end,
        "current_period_start": start,
        "discounts": [],
        "metadata": merged_metadata({}, entry.get("metadata")),
        "price": price,
        "quantity": entry.get("quantity", 1),
        "subscription": subscription_id,
        "tax_rates": [],
    }
    if price["recurring"]["usage_type"] == "metered":
        del item["quantity"]
    return item


def plan_change(
    ctx: Context, subscription: StripeObject, asked: list[dict[str, Any]], prices: list[StripeObject | None], at: int
) -> Change:
    """What the asked items make of the subscription at an instant of its period. StripeError for an unknown item."""
    change = Change()
    by_id = {entry["id"]: (entry, price) for entry, price in zip(asked, prices, strict=True) if "id" in entry}
    known = {item["id"] for item in subscription["items"]["data"]}
    for i, entry in enumerate(asked):
        if entry.get("id", next(iter(known))) not in known:
            raise invalid(
                f"No such subscription item: '{entry['id']}'", param=f"items[{i}][id]", code="resource_missing"
            )
    for old in subscription["items"]["data"]:
        entry, price = by_id.get(old["id"], ({}, None))
        _change_item(ctx, subscription, change, old, entry, price or old["price"], at)
    for entry, price in zip(asked, prices, strict=True):
        if "id" not in entry and price is not None:
            _add_item(ctx, subscription, change, entry, price, at)
    return change


def _change_item(
    ctx: Context,
    subscription: StripeObject,
    change: Change,
    old: StripeObject,
    entry: dict[str, Any],
    price: StripeObject,
    at: int,
) -> None:
    gone = entry.get("deleted", False)
    new = {**old, "price": price, "metadata": merged_metadata(old["metadata"], entry.get("metadata"))}
    if price["recurring"]["usage_type"] == "metered":
        new.pop("quantity", None)
    else:
        new["quantity"] = entry.get("quantity", old.get("quantity", 1))
    same = not gone and price["id"] == old["price"]["id"] and new.get("quantity") == old.get("quantity")
    if not gone:
        change.items.append(new)
    if same:
        return
    if is_metered(old) and (gone or price["id"] != old["price"]["id"]):
        if not entry.get("clear_usage", False):
            own = {**subscription, "items": {"data": [old]}}
            change.leftovers += metered_entries(own, at)
        new.pop("_billed", None)
        new["_since"] = at
    _prorate(ctx, subscription, change, old, at, credit=True)
    if not gone:
        _prorate(ctx, subscription, change, new, at, credit=False)


def _add_item(
    ctx: Context, subscription: StripeObject, change: Change, entry: dict[str, Any], price: StripeObject, at: int
) -> None:
    first = subscription["items"]["data"][0]
    item = make_item(ctx, subscription["id"], entry, price)
    item.update(current_period_start=first["current_period_start"], current_period_end=first["current_period_end"])
    if is_metered(item):
        item["_since"] = at
    change.items.append(item)
    _prorate(ctx, subscription, change, item, at, credit=False)


def _prorate(
    ctx: Context, subscription: StripeObject, change: Change, item: StripeObject, at: int, *, credit: bool
) -> None:
    """Credit or charge a licensed item for the rest of its period. A trial and an unpaid start cost nothing."""
    if is_metered(item) or subscription["status"] in ("trialing", "incomplete", "paused"):
        return
    made = _proration(ctx, subscription, item, at, credit=credit)
    if made is not None:
        change.prorations.append(made)


def _proration(
    ctx: Context, subscription: StripeObject, item: StripeObject, at: int, *, credit: bool, own: bool = True
) -> StripeObject | None:
    start, end = item["current_period_start"], item["current_period_end"]
    amount = share(amount_of(item["price"], Decimal(item["quantity"])), end - at, end - start)
    if not amount:
        return None
    product = ctx.state.objects["product"][item["price"]["product"]]
    what = "Unused" if credit else "Remaining"
    return new_item(
        ctx,
        subscription["customer"],
        amount=-amount if credit else amount,
        currency=subscription["currency"],
        description=f"{what} time on {item['quantity']} × {product['name']} after {short_date(at)}",
        quantity=item["quantity"],
        period=(at, end),
        price=item["price"],
        unit_amount=item["price"]["unit_amount_decimal"],
        subscription=subscription["id"] if own else None,
        item=item["id"],
        proration=True,
        discountable=False,
        metadata=subscription["metadata"],
    )


def unused_time(ctx: Context, subscription: StripeObject, at: int, *, own: bool = True) -> list[StripeObject]:
    """Credits for the rest of the period of all licensed items. Not `own`: for any invoice of the customer."""
    items = [item for item in subscription["items"]["data"] if not is_metered(item)]
    made = [_proration(ctx, subscription, item, at, credit=True, own=own) for item in items]
    return [item for item in made if item is not None]


def keep_items(ctx: Context, items: list[StripeObject]) -> None:
    """Let prorations wait for the next invoice."""
    for item in items:
        ctx.state.add(item)
        ctx.emit("invoiceitem.created", item)


def apply_change(ctx: Context, subscription: StripeObject, change: Change, *, prorate: bool) -> None:
    """Let a planned change happen."""
    subscription["items"]["data"] = change.items
    subscription["_leftovers"] = [*subscription.get("_leftovers", []), *change.leftovers]
    if prorate:
        keep_items(ctx, change.prorations)
