"""Invoices made by hand: what waits for a customer, billed without a subscription."""

from typing import Final

from farebox.sandbox.catalog import merged_metadata
from farebox.sandbox.core import Context, Route
from farebox.sandbox.customers import live_customer
from farebox.sandbox.drafts import GRACE_SECONDS, new_invoice
from farebox.sandbox.invoiceitems import claim_items
from farebox.sandbox.params import boolean, enum, metadata, required, text
from farebox.sandbox.state import StripeObject

__all__ = ["ROUTES"]


def _create(ctx: Context) -> StripeObject:
    """A draft with the items that wait for the customer and no subscription; finalized in an hour if it advances."""
    p, customer = ctx.params, live_customer(ctx, ctx.params["customer"])
    currency = str(p.get("currency") or customer["currency"] or "usd").lower()
    owner = {"id": None, "customer": customer["id"], "currency": currency, "metadata": {}}
    id, now = ctx.new_id("in_"), ctx.now_of(customer)
    plan = claim_items(ctx, owner, id) if p.get("pending_invoice_items_behavior") == "include" else []
    invoice = new_invoice(ctx, owner, plan, reason="manual", period=(now, now), id=id, discounts=[])
    advances = p.get("auto_advance", False)
    invoice.update(
        auto_advance=advances,
        automatically_finalizes_at=now + GRACE_SECONDS if advances else None,
        description=p.get("description"),
        metadata=merged_metadata({}, p.get("metadata")),
    )
    ctx.state.add(invoice)
    ctx.emit("invoice.created", invoice)
    ctx.sandbox.reschedule()
    return invoice


_CREATE: Final = {
    "customer": required(text()),
    "currency": text(3),
    "auto_advance": boolean(),
    "description": text(1_500, empty=True),
    "metadata": metadata(),
    "pending_invoice_items_behavior": enum("exclude", "include"),
}

ROUTES: Final = [Route("POST", "/v1/invoices", _create, _CREATE)]
