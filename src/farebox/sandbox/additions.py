"""One-time amounts that an update or a phase of a schedule adds to the subscription's next invoice."""

from decimal import Decimal
from typing import Any, Final

from farebox.sandbox.core import Context
from farebox.sandbox.errors import invalid
from farebox.sandbox.invoiceitems import new_item
from farebox.sandbox.params import array, integer, obj, required, text
from farebox.sandbox.pricing import amount_of
from farebox.sandbox.sellable import check_product
from farebox.sandbox.state import StripeObject

__all__ = ["ADDED_ITEMS", "added_items"]

_ADDED_MAX: Final = 20
_AMOUNT_MAX: Final = 99_999_999
ADDED_ITEMS: Final = array(
    obj(
        {
            "price": text(),
            "price_data": obj(
                {
                    "currency": required(text(3)),
                    "product": required(text()),
                    "unit_amount": required(integer(-_AMOUNT_MAX, _AMOUNT_MAX)),
                }
            ),
            "quantity": integer(1),
        }
    ),
    _ADDED_MAX,
)


def added_items(ctx: Context, subscription: StripeObject, asked: dict[str, Any], where: str = "") -> list[StripeObject]:
    """The invoice items that were asked for, checked but not kept. `where` stands before the parameter's name."""
    name = f"{where}[add_invoice_items]" if where else "add_invoice_items"
    return [
        _added(ctx, subscription, entry, f"{name}[{i}]") for i, entry in enumerate(asked.get("add_invoice_items", []))
    ]


def _added(ctx: Context, subscription: StripeObject, entry: dict[str, Any], where: str) -> StripeObject:
    if ("price" in entry) == ("price_data" in entry):
        raise invalid("Pass exactly one of price and price_data.", param=where)
    quantity, price = entry.get("quantity", 1), None
    if "price" in entry:
        price = ctx.state.get("price", entry["price"], param=f"{where}[price]", status=400)
        if price["recurring"] is not None or not price["active"]:
            raise invalid("The price must be active and one-time.", param=f"{where}[price]")
        check_product(ctx, price, f"{where}[price]", "invoice items")
        product, currency, amount = price["product"], price["currency"], amount_of(price, Decimal(quantity))
    else:
        data = entry["price_data"]
        product = ctx.state.get("product", data["product"], param=f"{where}[price_data][product]", status=400)["id"]
        currency, amount = data["currency"].lower(), data["unit_amount"] * quantity
    if currency != subscription["currency"]:
        raise invalid(f"The subscription is in {subscription['currency']}, and the item in {currency}.", param=where)
    return new_item(
        ctx,
        subscription["customer"],
        amount=amount,
        currency=currency,
        description=ctx.state.objects["product"][product]["name"],
        quantity=quantity,
        price=price,
        unit_amount=price["unit_amount_decimal"] if price is not None else None,
        subscription=subscription["id"],
        discountable=amount >= 0,
    )
