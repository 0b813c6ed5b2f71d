"""What can be sold together: prices that are active, of one currency and interval, each once."""

from typing import Any, Final

from farebox.sandbox.core import Context
from farebox.sandbox.errors import invalid, not_modelled
from farebox.sandbox.state import StripeObject

__all__ = ["ITEMS_MAX", "check_prices", "check_together"]

ITEMS_MAX: Final = 20


def check_prices(ctx: Context, items: list[dict[str, Any]], param: str) -> list[StripeObject]:
    """The prices of items that can be one subscription: active, of one currency and interval, each once."""
    if not items or len(items) > ITEMS_MAX:
        raise invalid(f"A subscription has from 1 to {ITEMS_MAX} items.", param=param)
    prices = []
    for i, entry in enumerate(items):
        where = f"{param}[{i}]"
        price = ctx.state.get("price", entry["price"], param=f"{where}[price]", status=400)
        if price["recurring"] is None or not price["active"]:
            raise invalid("The price must be active and recurring.", param=f"{where}[price]")
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
