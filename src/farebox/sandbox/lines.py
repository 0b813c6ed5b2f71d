"""Invoice lines from what an invoice is planned to bill: usage of a past period, items of the next, single items.

A plan's entries keep what was true when they were planned: the price, the quantity, the period. Usage is counted anew
as long as the invoice is a draft.
"""

from decimal import Decimal
from typing import Any

from farebox.sandbox.core import Context
from farebox.sandbox.currencies import amount_text
from farebox.sandbox.decimals import plain
from farebox.sandbox.meters import aggregate
from farebox.sandbox.pricing import Charge, charges
from farebox.sandbox.state import StripeObject

__all__ = [
    "Plan",
    "is_metered",
    "licensed_entries",
    "lines_of",
    "metered_entries",
    "money",
    "single_entry",
    "trial_entries",
    "used_by",
]

Plan = dict[str, Any]


def is_metered(item: StripeObject) -> bool:
    return bool(item["price"]["recurring"]["usage_type"] == "metered")


def metered_entries(subscription: StripeObject, until: int) -> list[Plan]:
    """The usage of each metered item in its period, up to an instant."""
    return [
        _entry("metered", item, max(item["current_period_start"], item.get("_since", 0)), until)
        | {"billed": item.get("_billed")}
        for item in subscription["items"]["data"]
        if is_metered(item)
    ]


def licensed_entries(subscription: StripeObject, periods: dict[str, tuple[int, int]]) -> list[Plan]:
    """Each licensed item for the whole of the period to come, by the items' ids."""
    items = [item for item in subscription["items"]["data"] if not is_metered(item)]
    return [_entry("licensed", item, *periods[item["id"]]) for item in items]


def trial_entries(subscription: StripeObject, *, metered: bool) -> list[Plan]:
    """What a trial costs: nothing, and that is said. Licensed items at its start, metered ones at its end."""
    items = [item for item in subscription["items"]["data"] if is_metered(item) == metered]
    return [_entry("trial", item, item["current_period_start"], item["current_period_end"]) for item in items]


def single_entry(item: StripeObject) -> Plan:
    """An invoice item."""
    return {"kind": "single", "invoice_item": item, "ids": []}


def _entry(kind: str, item: StripeObject, start: int, end: int) -> Plan:
    quantity = item.get("quantity")
    return {
        "kind": kind,
        "item": item["id"],
        "subscription": item["subscription"],
        "price": item["price"],
        "quantity": quantity,
        "start": start,
        "end": end,
        "billed": None,
        "ids": [],
    }


def used_by(ctx: Context, entry: Plan, customer_id: str) -> Decimal:
    """What the meter of a metered entry counts for it by now."""
    if entry.get("fixed") is not None:  # of an item that was taken off: only what was there by then
        return Decimal(entry["fixed"])
    meter = ctx.state.objects["billing.meter"][entry["price"]["recurring"]["meter"]]
    seen_by = ctx.now_at - ctx.sandbox.aggregation_lag_seconds
    used = aggregate(ctx.state, meter, customer_id, entry["start"], entry["end"], seen_by=seen_by)
    return max(used, entry["billed"] or Decimal(0))


def lines_of(ctx: Context, invoice: StripeObject, entry: Plan) -> list[StripeObject]:
    """The lines of one entry, each time under the same ids."""
    if entry["kind"] == "single":
        return [_single_line(ctx, invoice, entry)]
    price = entry["price"]
    if entry["kind"] == "trial":
        found = [Charge(0, Decimal(entry["quantity"] or 0), Decimal(0))]
    elif entry["kind"] == "metered":
        found = charges(price, used_by(ctx, entry, invoice["customer"]), entry["billed"])
    else:
        found = charges(price, Decimal(entry["quantity"]))
    product = ctx.state.objects["product"][price["product"]]
    return [
        {
            **_line(ctx, invoice, entry, i),
            "amount": charge.amount,
            "description": _described(product, price, charge, trial=entry["kind"] == "trial"),
            "parent": _item_parent(entry["subscription"], entry["item"]),
            "period": {"start": entry["start"], "end": entry["end"]},
            "pricing": _pricing(price, charge.unit_amount),
            "quantity": int(charge.quantity),
            "quantity_decimal": charge.quantity,
            "subtotal": charge.amount,
            "_price": price["id"],
            "_metered": entry["kind"] == "metered",
        }
        for i, charge in enumerate(found)
    ]


def _line(ctx: Context, invoice: StripeObject, entry: Plan, number: int) -> StripeObject:
    while len(entry["ids"]) <= number:
        entry["ids"].append(ctx.new_id("il_"))
    details = (invoice["parent"] or {}).get("subscription_details", {})
    return {
        "id": entry["ids"][number],
        "object": "line_item",
        "amount": 0,
        "currency": invoice["currency"],
        "description": None,
        "discount_amounts": [],
        "discountable": True,
        "discounts": [],
        "invoice": invoice["id"],
        "livemode": False,
        "metadata": dict(details.get("metadata", {})),
        "parent": None,
        "period": None,
        "pretax_credit_amounts": [],
        "pricing": None,
        "quantity": None,
        "quantity_decimal": None,
        "subscription": details.get("subscription"),
        "subtotal": 0,
        "taxes": [],
    }


def _single_line(ctx: Context, invoice: StripeObject, entry: Plan) -> StripeObject:
    item = entry["invoice_item"]
    details = (item["parent"] or {}).get("subscription_details") or {}
    if details.get("subscription_item"):
        parent = _item_parent(details["subscription"], details["subscription_item"])
        parent["subscription_item_details"].update(invoice_item=item["id"], proration=item["proration"])
    else:
        parent = {
            "type": "invoice_item_details",
            "invoice_item_details": {
                "invoice_item": item["id"],
                "proration": item["proration"],
                "proration_details": {"credited_items": None},
                "subscription": details.get("subscription"),
            },
            "subscription_item_details": None,
        }
    return {
        **_line(ctx, invoice, entry, 0),
        "amount": item["amount"],
        "description": item["description"],
        "discountable": item["discountable"],
        "discounts": list(item["discounts"]),
        "metadata": dict(item["metadata"]),
        "parent": parent,
        "period": dict(item["period"]),
        "pricing": item["pricing"],
        "quantity": item["quantity"],
        "quantity_decimal": item["quantity_decimal"],
        "subtotal": item["amount"],
        "_price": ((item["pricing"] or {}).get("price_details") or {}).get("price"),
        "_metered": False,
        "_discounts": item.get("_discounts", []),
    }


def _item_parent(subscription_id: str, item_id: str) -> StripeObject:
    return {
        "type": "subscription_item_details",
        "invoice_item_details": None,
        "subscription_item_details": {
            "invoice_item": None,
            "proration": False,
            "proration_details": {"credited_items": None},
            "subscription": subscription_id,
            "subscription_item": item_id,
        },
    }


def _pricing(price: StripeObject, unit_amount: Decimal) -> StripeObject:
    return {
        "type": "price_details",
        "price_details": {"price": price["id"], "product": price["product"]},
        "unit_amount_decimal": unit_amount,
    }


def _described(product: StripeObject, price: StripeObject, charge: Charge, *, trial: bool) -> str:
    """As Stripe names lines: 31 call × API (Tier 2 at $0.036 / month)."""
    if trial:
        return f"Trial period for {product['name']}"
    recurring, package = price["recurring"], price["transform_quantity"]
    every = f"every {recurring['interval_count']} {recurring['interval']}s"
    rhythm = f"/ {recurring['interval']}" if recurring["interval_count"] == 1 else every
    units = f" per {package['divide_by']} units" if package is not None else ""
    tier = f"Tier {charge.tier} " if charge.tier is not None else ""
    unit = f" {product['unit_label']}" if product["unit_label"] else ""
    count = "" if charge.flat else f"{plain(charge.quantity)}{unit} × "
    return f"{count}{product['name']} ({tier}at {money(charge.unit_amount, price['currency'])}{units} {rhythm})"


def money(minor: Decimal, currency: str) -> str:
    """An amount for people: $0.036, 1.00 EUR, 500 JPY."""
    digits = amount_text(minor, currency)
    return f"${digits}" if currency == "usd" else f"{digits} {currency.upper()}"
