"""What can be sold: active prices of products that are not archived; together, of one currency and interval."""

from typing import Any, Final

from farebox.sandbox.core import Context
from farebox.sandbox.errors import invalid, not_modelled
from farebox.sandbox.state import StripeObject

__all__ = ["ITEMS_MAX", "check_prices", "check_product", "check_together", "sellable_price"]

ITEMS_MAX: Final = 20
_INACTIVE: Final = "The price specified is inactive. This field only accepts active prices."


def check_product(ctx: Context, price: StripeObject, param: str, what: str = "subscriptions") -> None:
    """Refuse anything new at a price of an archived product. What runs already goes on."""
    product = ctx.state.objects["product"][price["product"]]
    if not product["active"]:
        raise invalid(
            f"The product {product['id']} is marked as inactive, and thus no new {what} can be created to any of its "
            f"prices. You provided the price {price['id']}.",
            param=param,
        )


def sellable_price(ctx: Context, id: str, param: str) -> StripeObject:
    """The active recurring price of this id, of a product that is not archived."""
    price = ctx.state.get("price", id, param=param, status=400)
    if price["recurring"] is None:
        raise invalid("The price specified is set to `type=one_time`, and must be recurring.", param=param)
    if not price["active"]:
        raise invalid(_INACTIVE, param=param)
    check_product(ctx, price, param)
    return price


def check_prices(ctx: Context, items: list[dict[str, Any]], param: str) -> list[StripeObject]:
    """The prices of items that can be one subscription: active, of one currency and interval, each once."""
    if not items or len(items) > ITEMS_MAX:
        raise invalid(f"A subscription has from 1 to {ITEMS_MAX} items.", param=param)
    prices = []
    for i, entry in enumerate(items):
        where = f"{param}[{i}]"
        price = sellable_price(ctx, entry["price"], f"{where}[price]")
        if "quantity" in entry and price["recurring"]["usage_type"] == "metered":
            raise invalid(
                "Quantity cannot be set for a metered price; report usage to its meter.", param=f"{where}[quantity]"
            )
        prices.append(price)
    check_together(prices, param)
    return prices


def check_together(prices: list[StripeObject], param: str) -> None:
    """Refuse prices that cannot be one subscription together."""
    if not prices or len(prices) > ITEMS_MAX:
        raise invalid(f"A subscription has from 1 to {ITEMS_MAX} items.", param=param)
    if len({price["id"] for price in prices}) < len(prices):
        raise invalid("A subscription cannot have the same price twice. Use its quantity.", param=param)
    if len({(p["currency"], p["recurring"]["interval"], p["recurring"]["interval_count"]) for p in prices}) > 1:
        raise not_modelled("subscriptions whose items differ in currency or interval yet")
