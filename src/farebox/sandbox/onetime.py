"""Checkout in payment mode: one-time prices, paid at once. The payment itself is an id and no object."""

from typing import Any, Final

from farebox.sandbox.core import Context
from farebox.sandbox.errors import invalid
from farebox.sandbox.params import enum, metadata, obj, required, text
from farebox.sandbox.sellable import check_product
from farebox.sandbox.state import StripeObject

__all__ = [
    "CUSTOMER_CREATION",
    "PAYMENT_INTENT_DATA",
    "check_mode",
    "complete_payment",
    "one_time_items",
]

CUSTOMER_CREATION: Final = {"payment": "if_required", "subscription": "always"}
_ADDRESS: Final = obj({name: text() for name in ("city", "country", "line1", "line2", "postal_code", "state")})
PAYMENT_INTENT_DATA: Final = obj(
    {
        "description": text(),
        "metadata": metadata(),
        "receipt_email": text(512),
        "setup_future_usage": enum("off_session", "on_session"),
        "shipping": obj({"name": required(text()), "address": required(_ADDRESS), "phone": text()}),
    }
)


def check_mode(p: dict[str, Any]) -> None:
    """Refuse what belongs to the other mode."""
    other = "subscription_data" if p["mode"] == "payment" else "payment_intent_data"
    if other in p:
        raise invalid(f"You can not pass `{other}` in `{p['mode']}` mode.", param=other)


def one_time_items(ctx: Context, asked: list[dict[str, Any]]) -> list[StripeObject]:
    """The lines of one-time prices, in one currency, each with its quantity."""
    items: list[StripeObject] = []
    for i, entry in enumerate(asked):
        where = f"line_items[{i}]"
        price = ctx.state.get("price", entry["price"], param=f"{where}[price]", status=400)
        if not price["active"]:
            raise invalid("The price specified is inactive. This field only accepts active prices.", param=where)
        check_product(ctx, price, f"{where}[price]", "payments")
        if price["recurring"] is not None:
            raise invalid(
                "You specified `payment` mode but passed a recurring price. Either switch to `subscription` mode or "
                "use only one-time prices.",
                param=f"{where}[price]",
            )
        if "quantity" not in entry:
            raise invalid("Quantity is required. Add `quantity` to each line item.", param=f"{where}[quantity]")
        items.append(
            {
                "id": ctx.new_id("li_"),
                "object": "item",
                "adjustable_quantity": None,
                "amount_discount": 0,
                "amount_subtotal": 0,
                "amount_tax": 0,
                "amount_total": 0,
                "currency": price["currency"],
                "description": ctx.state.objects["product"][price["product"]]["name"],
                "metadata": {},
                "price": price,
                "quantity": entry["quantity"],
            }
        )
    if len({item["currency"] for item in items}) != 1:
        raise invalid("Line items must be there, and all of one currency.", param="line_items")
    return items


def complete_payment(ctx: Context, session: StripeObject, email: str) -> StripeObject:
    """The card was accepted: the session is complete, and paid unless there was nothing to pay."""
    customer = ctx.state.objects["customer"].get(session["customer"] or "")
    known = customer["email"] if customer is not None else session["customer_email"] or email or None
    session.update(
        status="complete",
        payment_status="paid" if session["amount_total"] else "no_payment_required",
        payment_intent=ctx.new_id("pi_") if session["amount_total"] else None,
        customer_details={"email": known},
        url=None,
    )
    ctx.emit("checkout.session.completed", session)
    return session
