"""Changing a subscription's items in mid-period: what is credited, what is charged, and what usage is left to bill.

To the second, as Stripe's flexible billing mode does it: a credit is of what the item was last billed, after its
discounts, whatever it costs now; a charge is of what it costs now, after the discounts that hold now.
"""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from farebox.sandbox.catalog import merged_metadata
from farebox.sandbox.core import Context
from farebox.sandbox.discounts import discount_lines, discounts_of
from farebox.sandbox.errors import invalid
from farebox.sandbox.invoiceitems import new_item
from farebox.sandbox.lines import Plan, is_metered, metered_entries, used_by
from farebox.sandbox.periods import period_around, short_date
from farebox.sandbox.pricing import amount_of, share
from farebox.sandbox.state import StripeObject

__all__ = ["Change", "apply_change", "keep_items", "make_item", "note_billed", "plan_change", "unused_time"]


@dataclass(slots=True)
class Change:
    """What a change of items comes to. Nothing of it has happened yet."""

    items: list[StripeObject] = field(default_factory=list)
    leftovers: list[Plan] = field(default_factory=list)
    prorations: list[StripeObject] = field(default_factory=list)
    billed: dict[str, StripeObject] = field(default_factory=dict)  # by the items' ids: what the charges would be of


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
    _charge_changed(ctx, subscription, change, at)
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
            for left in metered_entries(own, at):
                change.leftovers.append({**left, "fixed": used_by(ctx, left, subscription["customer"])})
        new.pop("_billed", None)
        new["_since"] = at
    if _is_paid_ahead(subscription, old):
        change.prorations += _credits(ctx, subscription, [old], at)
    if not gone:
        change.billed[new["id"]] = {}


def _add_item(
    ctx: Context, subscription: StripeObject, change: Change, entry: dict[str, Any], price: StripeObject, at: int
) -> None:
    first = subscription["items"]["data"][0]
    item = make_item(ctx, subscription["id"], entry, price)
    item.update(current_period_start=first["current_period_start"], current_period_end=first["current_period_end"])
    if is_metered(item):
        item["_since"] = at
    change.items.append(item)
    change.billed[item["id"]] = {}


def _is_paid_ahead(subscription: StripeObject, item: StripeObject) -> bool:
    """A trial and an unpaid start cost nothing, and usage is billed when it is over."""
    return not is_metered(item) and subscription["status"] not in ("trialing", "incomplete", "paused")


def _charge_changed(ctx: Context, subscription: StripeObject, change: Change, at: int) -> None:
    """Charge each changed or added item for the rest of the period, less its part of the discounts."""
    net = _net_amounts(ctx, subscription, change.items)
    for item in change.items:
        if item["id"] not in change.billed:
            continue
        del change.billed[item["id"]]
        if _is_paid_ahead(subscription, item):
            billed = {"amount": net[item["id"]], "price": item["price"]["id"], "quantity": item["quantity"]}
            change.billed[item["id"]] = billed
            made = _proration(ctx, subscription, item, billed, at, credit=False)
            change.prorations += [made] if made is not None else []
    # In Stripe's order: item by item, its credit before its charge.
    places = {item["id"]: i for i, item in enumerate([*subscription["items"]["data"], *change.items])}
    change.prorations.sort(key=lambda p: places[p["parent"]["subscription_details"]["subscription_item"]])


def _net_amounts(ctx: Context, subscription: StripeObject, items: list[StripeObject]) -> dict[str, int]:
    """What a whole period of each licensed item costs after the discounts that hold now, by the items' ids."""
    lines = [
        {
            "id": item["id"],
            "amount": amount_of(item["price"], Decimal(item["quantity"])),
            "discountable": True,
            "discount_amounts": [],
            "pretax_credit_amounts": [],
            "pricing": {"price_details": {"product": item["price"]["product"]}},
        }
        for item in items
        if not is_metered(item)
    ]
    discount_lines(discounts_of(ctx, subscription), lines)
    return {line["id"]: _net(line) for line in lines}


def _net(line: StripeObject) -> int:
    return int(line["amount"] - sum(entry["amount"] for entry in line["discount_amounts"]))


def note_billed(subscription: StripeObject, invoice: StripeObject) -> None:
    """Remember what each licensed item was billed ahead on an invoice: that much of it can be credited."""
    lines = {line["id"]: line for line in invoice["lines"]["data"]}
    items = {item["id"]: item for item in subscription["items"]["data"]}
    for entry in invoice["_plan"]:
        if entry["kind"] == "licensed" and entry["item"] in items:
            amount = sum(_net(lines[id]) for id in entry["ids"])
            billed = {"amount": amount, "price": entry["price"]["id"], "quantity": entry["quantity"]}
            items[entry["item"]]["_last_billed"] = billed


def _proration(
    ctx: Context,
    subscription: StripeObject,
    item: StripeObject,
    billed: StripeObject,
    at: int,
    *,
    credit: bool,
    own: bool = True,
) -> StripeObject | None:
    """The share of what an item was billed for the rest of its period, given back or asked for. None for nothing."""
    start, end = item["current_period_start"], item["current_period_end"]
    amount = share(billed["amount"], end - at, end - start)
    if not amount:
        return None
    price = ctx.state.objects["price"][billed["price"]]
    product = ctx.state.objects["product"][price["product"]]
    what = "Unused" if credit else "Remaining"
    return new_item(
        ctx,
        subscription["customer"],
        amount=-amount if credit else amount,
        currency=subscription["currency"],
        description=f"{what} time on {billed['quantity']} × {product['name']} after {short_date(at)}",
        quantity=billed["quantity"],
        period=(at, end),
        price=price,
        unit_amount=price["unit_amount_decimal"],
        subscription=subscription["id"] if own else None,
        item=item["id"],
        proration=True,
        discountable=False,
        metadata=subscription["metadata"],
    )


def unused_time(ctx: Context, subscription: StripeObject, at: int, *, own: bool = True) -> list[StripeObject]:
    """Credits for the rest of the period of all licensed items. Not `own`: for any invoice of the customer."""
    items = [item for item in subscription["items"]["data"] if not is_metered(item)]
    return _credits(ctx, subscription, items, at, own=own)


def _credits(
    ctx: Context, subscription: StripeObject, items: list[StripeObject], at: int, *, own: bool = True
) -> list[StripeObject]:
    """What each item was last billed for the rest of its period; nothing for one that was not billed yet."""
    billed = [(item, item["_last_billed"]) for item in items if "_last_billed" in item]
    made = [_proration(ctx, subscription, item, last, at, credit=True, own=own) for item, last in billed]
    return [item for item in made if item is not None]


def keep_items(ctx: Context, items: list[StripeObject]) -> None:
    """Let prorations wait for the next invoice."""
    for item in items:
        ctx.state.add(item)
        ctx.emit("invoiceitem.created", item)


def apply_change(ctx: Context, subscription: StripeObject, change: Change, *, prorate: bool) -> None:
    """Let a planned change happen. What is not prorated was not billed: the credit of a later change knows that."""
    subscription["items"]["data"] = change.items
    for item in change.items if prorate else ():
        if item["id"] in change.billed:
            item["_last_billed"] = change.billed[item["id"]]
    subscription["_leftovers"] = [*subscription.get("_leftovers", []), *change.leftovers]
    if prorate:
        keep_items(ctx, change.prorations)
