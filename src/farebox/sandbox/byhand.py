"""Invoices made by hand: what waits for a customer, billed without a subscription's period."""

from typing import Any, Final

from farebox.sandbox.catalog import merged_metadata
from farebox.sandbox.core import Context, Route
from farebox.sandbox.customers import live_customer, own_method
from farebox.sandbox.discounts import DISCOUNTS, asked_discounts, new_discounts
from farebox.sandbox.drafts import new_invoice, schedule_finalization
from farebox.sandbox.errors import invalid
from farebox.sandbox.invoiceitems import claim_items
from farebox.sandbox.params import boolean, enum, metadata, required, text
from farebox.sandbox.state import StripeObject
from farebox.sandbox.status import ENDED
from farebox.sandbox.taxes import AUTOMATIC_TAX

__all__ = ["ROUTES"]


def _create(ctx: Context) -> StripeObject:
    """A draft with the items that wait for the customer and no subscription, or for the subscription that is named."""
    p, customer = ctx.params, live_customer(ctx, ctx.params["customer"])
    owner = _owner(ctx, customer)
    if "default_payment_method" in p:
        own_method(ctx, p["default_payment_method"], customer, "default_payment_method")
    asked = asked_discounts(ctx, p.get("discounts", []), customer=customer, currency=owner["currency"])
    id, now = ctx.new_id("in_"), ctx.now_of(customer)
    including = p.get("pending_invoice_items_behavior", "include" if "subscription" in p else "exclude")
    plan = claim_items(ctx, owner, id, own_only="subscription" in p) if including == "include" else []
    if "subscription" in p and including == "include" and not plan:
        message = f"Nothing to invoice for subscription {owner['id']}"
        raise invalid(message, param="subscription", code="invoice_no_subscription_line_items")
    discounts = new_discounts(ctx, asked, owner, on={"subscription": None, "invoice": id})
    invoice = new_invoice(ctx, owner, plan, reason="manual", period=(now, now), id=id, discounts=discounts)
    invoice.update(
        auto_advance=p.get("auto_advance", False),
        default_payment_method=p.get("default_payment_method"),
        description=p.get("description"),
        metadata=merged_metadata({}, p.get("metadata")),
    )
    schedule_finalization(ctx, invoice)
    ctx.state.add(invoice)
    ctx.emit("invoice.created", invoice)
    ctx.sandbox.reschedule()
    return invoice


def _owner(ctx: Context, customer: StripeObject) -> dict[str, Any]:
    """What stands for the subscription of an invoice that may have none."""
    p = ctx.params
    if "subscription" not in p:
        currency = str(p.get("currency") or customer["currency"] or "usd").lower()
        tax = p.get("automatic_tax")
        return {"id": None, "customer": customer["id"], "currency": currency, "metadata": {}, "automatic_tax": tax}
    subscription = ctx.state.get("subscription", p["subscription"], param="subscription", status=400)
    if subscription["customer"] != customer["id"]:
        raise invalid("The subscription is another customer's.", param="subscription")
    if subscription["status"] in ENDED:
        message = f"The subscription {subscription['id']} has ended: it cannot be invoiced any more."
        raise invalid(message, param="subscription")
    if str(p.get("currency", subscription["currency"])).lower() != subscription["currency"]:
        raise invalid("The currency is the subscription's.", param="currency")
    return {**subscription, "automatic_tax": p.get("automatic_tax", subscription["automatic_tax"])}


_CREATE: Final = {
    "customer": required(text()),
    "automatic_tax": AUTOMATIC_TAX,
    "auto_advance": boolean(),
    "collection_method": enum("charge_automatically"),
    "currency": text(3),
    "default_payment_method": text(),
    "description": text(1_500, empty=True),
    "discounts": DISCOUNTS,
    "metadata": metadata(),
    "pending_invoice_items_behavior": enum("exclude", "include"),
    "subscription": text(),
}

ROUTES: Final = [Route("POST", "/v1/invoices", _create, _CREATE)]
