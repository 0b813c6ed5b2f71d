"""Webhook events as facts to look up again: hints that name an object, never the truth about it (L17)."""

from dataclasses import dataclass
from typing import Final

__all__ = [
    "BILLED_EVENT_TYPES",
    "BILLING_WORK",
    "HANDLED_EVENT_TYPES",
    "METER_ERROR_TYPES",
    "InboxEvent",
    "InboxWork",
]

BILLING_WORK: Final = "billing:"  # begins the name of work that moves a customer's money
# Facts of the customer first, then billing work: periods are closed, and late items followed to their invoices.
BILLED_EVENT_TYPES: Final = frozenset(
    {
        "invoice.finalized",
        "invoice.paid",
        "invoice.payment_failed",
        "invoice.voided",
        "invoice.marked_uncollectible",
    }
)

HANDLED_EVENT_TYPES: Final = (
    "checkout.session.completed",
    "checkout.session.async_payment_succeeded",
    "checkout.session.async_payment_failed",
    "checkout.session.expired",
    "customer.subscription.created",
    "customer.subscription.updated",
    "customer.subscription.deleted",
    "customer.subscription.paused",
    "customer.subscription.resumed",
    "customer.subscription.trial_will_end",
    "customer.deleted",
    "invoice.created",
    "invoice.finalized",
    "invoice.finalization_failed",
    "invoice.paid",
    "invoice.payment_failed",
    "invoice.payment_action_required",
    "invoice.voided",
    "invoice.marked_uncollectible",
)

# Thin events, which tell of meter events that Stripe took and refused later. They need an event destination.
METER_ERROR_TYPES: Final = ("v1.billing.meter.error_report_triggered", "v1.billing.meter.no_meter_found")


@dataclass(frozen=True, slots=True)
class InboxEvent:
    """A verified event. `created_at` is Stripe's time; it has one-second resolution and cannot order events.

    `connected_account` names another Stripe account on whose behalf the event was sent; None for our own.
    """

    id: str
    type: str
    object_id: str
    customer_id: str | None
    created_at: int
    livemode: bool
    connected_account: str | None = None


@dataclass(frozen=True, slots=True)
class InboxWork:
    """All events of one customer that were stored before the work was taken, or one event that names no customer.

    Or, named by BILLING_WORK, what a final invoice asks for: it has no events, and it waits and fails by itself.
    `fence` guards the work itself, `account_fence` the customer's account (None when the customer is not ours).
    """

    name: str
    customer_id: str | None
    fence: int
    account_fence: int | None
    events: tuple[InboxEvent, ...]
    attempts: int
