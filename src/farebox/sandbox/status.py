"""How a subscription's status changes, and the events that say so."""

from typing import Final

from farebox.sandbox.core import Context
from farebox.sandbox.state import StripeObject

__all__ = ["ENDED", "end_subscription", "period_end", "set_status"]

ENDED: Final = ("canceled", "incomplete_expired")


def set_status(ctx: Context, subscription: StripeObject, status: str, event: str | None = None) -> None:
    """Another status, told by the event of any update, and by one of its own if there is one."""
    if subscription["status"] == status:
        return
    previous = {"status": subscription["status"]}
    subscription["status"] = status
    if event is not None:
        ctx.emit(event, subscription)
    ctx.emit("customer.subscription.updated", subscription, previous)


def end_subscription(ctx: Context, subscription: StripeObject, reason: str | None, *, asked: bool = False) -> None:
    """Cancel it as of now. One that was asked to end keeps the instant at which that was asked."""
    subscription.update(status="canceled", ended_at=ctx.now_at)
    if not (asked and subscription["canceled_at"]):
        subscription["canceled_at"] = ctx.now_at
    if reason is not None:
        subscription["cancellation_details"]["reason"] = reason
    schedule = ctx.state.objects["subscription_schedule"].get(subscription["schedule"] or "")
    if schedule is not None and schedule["status"] == "active":
        schedule.update(status="canceled", canceled_at=ctx.now_at, current_phase=None)
        ctx.emit("subscription_schedule.canceled", schedule)
    _stop_collection(ctx, subscription["customer"])
    ctx.emit("customer.subscription.deleted", subscription)


def _stop_collection(ctx: Context, customer_id: str) -> None:
    """Stripe tries to collect no finalized invoice of the customer any more, so that nobody is charged unawares."""
    for invoice in ctx.state.of_customer("invoice", customer_id):
        if invoice["status"] == "open" and invoice["auto_advance"]:
            invoice.update(auto_advance=False, next_payment_attempt=None)
            ctx.emit("invoice.updated", invoice, {"auto_advance": True})


def period_end(subscription: StripeObject) -> int:
    return int(min(item["current_period_end"] for item in subscription["items"]["data"]))
