"""Invoice items: single amounts that wait for the customer's next invoice, prorations among them."""

from decimal import Decimal
from typing import Any, Final

from farebox.sandbox.catalog import merged_metadata
from farebox.sandbox.core import Context, Route, page
from farebox.sandbox.customers import live_customer
from farebox.sandbox.discounts import DISCOUNTS, Asked, asked_discounts, new_discounts
from farebox.sandbox.errors import invalid, wrong_state
from farebox.sandbox.lines import Plan, single_entry
from farebox.sandbox.params import boolean, decimal, enum, integer, metadata, obj, required, text
from farebox.sandbox.pricing import amount_of, rounded
from farebox.sandbox.sellable import check_product
from farebox.sandbox.state import StripeObject

__all__ = ["ITEMS_MAX", "ROUTES", "claim_items", "drop_prorations", "new_item", "waiting_items"]

ITEMS_MAX: Final = 250  # of an invoice


def new_item(
    ctx: Context,
    customer_id: str,
    *,
    amount: int,
    currency: str,
    description: str | None,
    quantity: int = 1,
    period: tuple[int, int] | None = None,
    price: StripeObject | None = None,
    unit_amount: Decimal | None = None,
    subscription: str | None = None,
    item: str | None = None,
    proration: bool = False,
    discountable: bool = True,
    metadata: dict[str, str] | None = None,
) -> StripeObject:
    """An invoice item that is not kept yet."""
    start, end = period or (ctx.now_at, ctx.now_at)
    details = {"subscription": subscription, **({"subscription_item": item} if item is not None else {})}
    return {
        "id": ctx.new_id("ii_"),
        "object": "invoiceitem",
        "amount": amount,
        "currency": currency,
        "customer": customer_id,
        "date": ctx.now_at,
        "description": description,
        "discountable": discountable,
        "discounts": [],
        "invoice": None,
        "livemode": False,
        "metadata": merged_metadata({}, metadata),
        "parent": {"type": "subscription_details", "subscription_details": details} if subscription else None,
        "period": {"start": start, "end": end},
        "pricing": {
            "type": "price_details",
            "price_details": {"price": price["id"], "product": price["product"]},
            "unit_amount_decimal": unit_amount,
        }
        if price is not None
        else None,
        "proration": proration,
        "proration_details": {"discount_amounts": []},
        "quantity": quantity,
        "quantity_decimal": Decimal(quantity),
        "tax_rates": [],
        "test_clock": ctx.state.objects["customer"][customer_id]["test_clock"],
    }


def waiting_items(ctx: Context, subscription: StripeObject) -> list[StripeObject]:
    """What the next invoice of this subscription would take along."""
    return [
        item
        for item in ctx.state.of_customer("invoiceitem", subscription["customer"])
        if item["invoice"] is None
        and item["currency"] == subscription["currency"]
        and _subscription_of(item) in (None, subscription["id"])
    ]


def claim_items(ctx: Context, subscription: StripeObject, invoice_id: str, *, own_only: bool = False) -> list[Plan]:
    """Put what waits onto this invoice; with `own_only` what names this subscription alone."""
    items = waiting_items(ctx, subscription)
    if own_only:
        items = [item for item in items if _subscription_of(item) == subscription["id"]]
    for item in items:
        item["invoice"] = invoice_id
    return [single_entry(item) for item in items]


def drop_prorations(ctx: Context, subscription: StripeObject) -> None:
    """A subscription that ends at once takes its prorations along that were not billed yet."""
    for item in waiting_items(ctx, subscription):
        if item["proration"] and _subscription_of(item) == subscription["id"]:
            _forget(ctx, item)


def _subscription_of(item: StripeObject) -> str | None:
    found: str | None = ((item["parent"] or {}).get("subscription_details") or {}).get("subscription")
    return found


def _create(ctx: Context) -> StripeObject:
    p = ctx.params
    customer = live_customer(ctx, p["customer"])
    if "subscription" in p:
        subscription = ctx.state.get("subscription", p["subscription"], param="subscription", status=400)
        if subscription["customer"] != customer["id"] or subscription["ended_at"] is not None:
            raise invalid("The subscription has ended or is another customer's.", param="subscription")
    amount, currency, price = _amount(ctx, p)
    invoice = _draft_of(ctx, p["invoice"], customer, currency) if "invoice" in p else None
    asked = asked_discounts(ctx, p.get("discounts", []), customer=customer, currency=currency)
    quantity = p.get("quantity", 1)
    made = new_item(
        ctx,
        customer["id"],
        amount=amount,
        currency=currency,
        description=p.get("description") or _named(ctx, price),
        quantity=quantity,
        period=_period(p.get("period")),
        price=price,
        unit_amount=price["unit_amount_decimal"] if price is not None else None,
        subscription=p.get("subscription"),
        discountable=p.get("discountable", amount >= 0),
        metadata=p.get("metadata"),
    )
    _discount(ctx, made, asked)
    ctx.state.add(made)
    if invoice is not None:
        made["invoice"] = invoice["id"]
        invoice["_plan"].append(single_entry(made))
    ctx.emit("invoiceitem.created", made)
    return made


def _draft_of(ctx: Context, id: str, customer: StripeObject, currency: str) -> StripeObject:
    """The draft that a new item is put on at once."""
    invoice = ctx.state.get("invoice", id, param="invoice", status=400)
    if invoice["customer"] != customer["id"]:
        raise invalid("The invoice is another customer's.", param="invoice")
    if invoice["status"] != "draft":
        raise invalid("The invoice is no longer editable.", param="invoice", code="invoice_not_editable")
    if invoice["currency"] != currency:
        raise invalid(f"The invoice is in {invoice['currency']}, and the item in {currency}.", param="currency")
    if len(invoice["_plan"]) >= ITEMS_MAX:
        raise invalid(f"An invoice has at most {ITEMS_MAX} items.", param="invoice")
    return invoice


def _discount(ctx: Context, item: StripeObject, asked: list[Asked]) -> None:
    on = {"subscription": None, "invoice_item": item["id"]}
    item["_discounts"] = new_discounts(ctx, asked, {"id": None, "customer": item["customer"]}, on=on)
    item["discounts"] = [discount["id"] for discount in item["_discounts"]]


def _amount(ctx: Context, p: dict[str, Any]) -> tuple[int, str, StripeObject | None]:
    given = [name for name in ("amount", "pricing", "unit_amount_decimal") if name in p]
    if len(given) != 1:
        raise invalid("Pass exactly one of amount, pricing and unit_amount_decimal.", param="amount")
    quantity = p.get("quantity", 1)
    if "pricing" in p:
        price = ctx.state.get("price", p["pricing"]["price"], param="pricing[price]", status=400)
        if price["recurring"] is not None or not price["active"]:
            raise invalid("The price must be active and one-time.", param="pricing[price]")
        check_product(ctx, price, "pricing[price]", "invoice items")
        if "currency" in p and p["currency"].lower() != price["currency"]:
            raise invalid("The currency is the price's.", param="currency")
        return amount_of(price, Decimal(quantity)), price["currency"], price
    if "currency" not in p:
        raise invalid("Missing required param: currency.", param="currency", code="parameter_missing")
    if "amount" in p and "quantity" in p:
        raise invalid("quantity goes with unit_amount_decimal or pricing, not with amount.", param="quantity")
    amount = p["amount"] if "amount" in p else rounded(p["unit_amount_decimal"] * quantity)
    return amount, p["currency"].lower(), None


def _named(ctx: Context, price: StripeObject | None) -> str | None:
    return ctx.state.objects["product"][price["product"]]["name"] if price is not None else None


def _period(asked: dict[str, int] | None) -> tuple[int, int] | None:
    if asked is None:
        return None
    if asked["end"] < asked["start"]:
        raise invalid("The period must not end before it starts.", param="period[end]")
    return asked["start"], asked["end"]


def _update(ctx: Context) -> StripeObject:
    item, p = _editable(ctx), dict(ctx.params)
    if "amount" in p and item["pricing"] is not None:
        raise invalid("The amount of an item with a price cannot be changed.", param="amount")
    if "discounts" in p:
        customer = ctx.state.objects["customer"][item["customer"]]
        _discount(ctx, item, asked_discounts(ctx, p.pop("discounts"), customer=customer, currency=item["currency"]))
    _period(p.get("period"))
    for name, value in p.items():
        item[name] = merged_metadata(item["metadata"], value) if name == "metadata" else value
    return item


def _editable(ctx: Context) -> StripeObject:
    """The item, which waits for an invoice or is on a draft."""
    item = ctx.state.get("invoiceitem", ctx.path["id"])
    if item["invoice"] is not None and ctx.state.objects["invoice"][item["invoice"]]["status"] != "draft":
        raise wrong_state("The invoice item is on a finalized invoice and can no longer be changed.")
    return item


def _delete(ctx: Context) -> StripeObject:
    item = _editable(ctx)
    if item["invoice"] is not None:
        invoice = ctx.state.objects["invoice"][item["invoice"]]
        invoice["_plan"] = [entry for entry in invoice["_plan"] if entry.get("invoice_item") is not item]
    _forget(ctx, item)
    return {"id": item["id"], "object": "invoiceitem", "deleted": True}


def _forget(ctx: Context, item: StripeObject) -> None:
    ctx.emit("invoiceitem.deleted", item)
    del ctx.state.objects["invoiceitem"][item["id"]]


def _list(ctx: Context) -> StripeObject:
    p = ctx.params
    found = [
        item
        for item in ctx.state.all("invoiceitem", p.get("customer"))
        if p.get("invoice") in (None, item["invoice"]) and p.get("pending") in (None, item["invoice"] is None)
    ]
    return page(ctx, found, "/v1/invoiceitems")


_CREATE: Final = {
    "customer": required(text()),
    "amount": integer(-99_999_999, 99_999_999),
    "currency": text(3),
    "description": text(),
    "discountable": boolean(),
    "discounts": DISCOUNTS,
    "invoice": text(),
    "metadata": metadata(),
    "period": obj({"start": required(integer()), "end": required(integer())}),
    "pricing": obj({"price": required(text())}),
    "quantity": integer(0),
    "subscription": text(),
    "tax_behavior": enum("exclusive", "inclusive", "unspecified"),
    "unit_amount_decimal": decimal(12),
}
_CHANGE: Final = {
    "amount": integer(-99_999_999, 99_999_999),
    "description": text(),
    "discountable": boolean(),
    "discounts": DISCOUNTS,
    "metadata": metadata(),
    "period": obj({"start": required(integer()), "end": required(integer())}),
}

ROUTES: Final = [
    Route("POST", "/v1/invoiceitems", _create, _CREATE),
    Route("GET", "/v1/invoiceitems", _list, {"customer": text(), "invoice": text(), "pending": boolean()}, paged=True),
    Route("GET", "/v1/invoiceitems/{id}", lambda ctx: ctx.state.get("invoiceitem", ctx.path["id"])),
    Route("POST", "/v1/invoiceitems/{id}", _update, _CHANGE),
    Route("DELETE", "/v1/invoiceitems/{id}", _delete),
]
