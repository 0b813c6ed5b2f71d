"""Billing thresholds: usage that came in is looked at once it is counted, and may bring an invoice in mid-period."""

from typing import Any, Final

from farebox.sandbox.core import Context
from farebox.sandbox.params import boolean, integer, obj
from farebox.sandbox.state import StripeObject

__all__ = ["AMOUNT_MIN", "THRESHOLDS", "set_thresholds", "shown_thresholds", "usage_came"]

AMOUNT_MIN: Final = 50
THRESHOLDS: Final = obj({"amount_gte": integer(AMOUNT_MIN), "reset_billing_cycle_anchor": boolean()}, unset=True)


def set_thresholds(customer: StripeObject, subscription: StripeObject, asked: dict[str, Any] | None) -> None:
    """Give the subscription these thresholds, or none."""
    subscription["billing_thresholds"] = shown_thresholds(asked)
    if asked:
        customer["_watched"] = True


def shown_thresholds(asked: dict[str, Any] | None) -> StripeObject | None:
    """As a subscription and a schedule's phase show them."""
    return {"amount_gte": None, "reset_billing_cycle_anchor": False, **asked} if asked else None


def usage_came(ctx: Context, customer_id: str) -> None:
    """Look at this customer's thresholds a second after the usage that came in is counted."""
    if not ctx.state.objects["customer"][customer_id].get("_watched"):
        return
    for subscription in ctx.state.of_customer("subscription", customer_id):
        if subscription["billing_thresholds"] is not None and subscription.get("_check_at") is None:
            subscription["_check_at"] = ctx.now_at + ctx.sandbox.aggregation_lag_seconds + 1
            ctx.state.touch(subscription)
            ctx.sandbox.reschedule()
