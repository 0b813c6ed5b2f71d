"""What a checkout session sells: its lines, its discounts, and what is due today."""

from decimal import Decimal
from typing import Any

from farebox.sandbox.core import Context
from farebox.sandbox.discounts import Asked, asked_discounts, discount_lines, promotion_code_named
from farebox.sandbox.errors import invalid
from farebox.sandbox.onetime import one_time_items
from farebox.sandbox.pricing import amount_of
from farebox.sandbox.sellable import check_prices
from farebox.sandbox.state import StripeObject
from farebox.sandbox.trials import asked_trial

__all__ = ["apply_promotion_code", "recurring_items", "session_discounts", "total_up"]


def session_discounts(ctx: Context, session: StripeObject, asked: list[dict[str, Any]]) -> list[Asked]:
    """What a session that is asked for these discounts has."""
    customer = ctx.state.objects["customer"].get(session["customer"] or "")
    return asked_discounts(ctx, asked, customer=customer, currency=session["currency"])


def total_up(ctx: Context, session: StripeObject, asked: list[Asked]) -> None:
    """What the buyer pays today: one-time prices, and licensed items in advance unless there is a trial; less the
    discounts."""
    free = asked_trial(ctx, session["_subscription_data"]) is not None
    lines = session["_line_items"]["data"]
    counted = []
    for line in lines:
        price, quantity = line["price"], Decimal(line["quantity"] or 0)
        later = price["recurring"] is not None and (free or line["quantity"] is None)
        line["amount_subtotal"] = 0 if later else amount_of(price, quantity)
        details = {"price_details": {"product": price["product"]}}
        amounts: StripeObject = {"discount_amounts": [], "pretax_credit_amounts": []}
        counted.append(
            {"id": line["id"], "amount": line["amount_subtotal"], "discountable": True, "pricing": details, **amounts}
        )
    discount_lines([{"id": str(i), "_coupon": coupon} for i, (coupon, *_) in enumerate(asked)], counted)
    for line, like in zip(lines, counted, strict=True):
        line["amount_discount"] = sum(entry["amount"] for entry in like["discount_amounts"])
        line["amount_total"] = line["amount_subtotal"] - line["amount_discount"]
    off = sum(line["amount_discount"] for line in lines)
    subtotal = sum(line["amount_subtotal"] for line in lines)
    session.update(
        amount_subtotal=subtotal,
        amount_total=subtotal - off,
        discounts=[
            {"coupon": coupon["id"], "promotion_code": code["id"] if code is not None else None}
            for coupon, code, _ in asked
        ],
    )
    session["total_details"]["amount_discount"] = off


def apply_promotion_code(ctx: Context, session: StripeObject, text: str) -> None:
    """The buyer typed a promotion code on the page: it takes the place of what was there. StripeError if it is bad."""
    if not session["allow_promotion_codes"]:
        raise invalid("This checkout takes no promotion codes.", param="promotion_code")
    code = promotion_code_named(ctx, text)
    asked = session_discounts(ctx, session, [{"promotion_code": code["id"]}])
    total_up(ctx, session, asked)
    least, currency = (code["restrictions"][name] for name in ("minimum_amount", "minimum_amount_currency"))
    if least is not None and (currency != session["currency"] or session["amount_subtotal"] < least):
        total_up(ctx, session, [])
        raise invalid("This promotion code needs a larger amount.", param="promotion_code")


def recurring_items(ctx: Context, asked: list[dict[str, Any]]) -> list[StripeObject]:
    """The lines of a session in subscription mode: the recurring prices first, then the one-time ones."""
    known = [ctx.state.objects["price"].get(entry["price"]) for entry in asked]
    once = [e for e, price in zip(asked, known, strict=True) if price is not None and price["recurring"] is None]
    asked = [entry for entry in asked if entry not in once]
    if not asked:
        raise invalid("`subscription` mode needs at least one recurring price.", param="line_items")
    items = []
    for entry, price in zip(asked, check_prices(ctx, asked, "line_items"), strict=True):
        licensed = price["recurring"]["usage_type"] == "licensed"
        if licensed and "quantity" not in entry:
            raise invalid("Quantity is required. Add `quantity` to each licensed item.", param="line_items")
        product = ctx.state.objects["product"][price["product"]]
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
                "description": product["name"],
                "metadata": {},
                "price": price,
                "quantity": entry["quantity"] if licensed else None,
            }
        )
    return [*items, *(one_time_items(ctx, once) if once else [])]
