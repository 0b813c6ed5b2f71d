"""The invoice as an object: what it is planned to bill, counted into lines, discounts, credits and totals."""

from farebox.sandbox.balances import balance_of
from farebox.sandbox.core import Context
from farebox.sandbox.credits import Applied, applicable_credits
from farebox.sandbox.currencies import chargeable
from farebox.sandbox.discounts import discount_lines, discounts_of
from farebox.sandbox.invoiceitems import claim_items
from farebox.sandbox.lines import Plan, lines_of
from farebox.sandbox.state import StripeObject
from farebox.sandbox.taxes import invoice_tax

__all__ = ["count", "new_draft", "new_invoice", "schedule_finalization", "show_balance", "subscription_of"]


def new_draft(
    ctx: Context,
    subscription: StripeObject,
    plan: list[Plan],
    *,
    reason: str,
    period: tuple[int, int],
) -> StripeObject:
    """Keep a new draft as the subscription's latest invoice, with the invoice items that waited for one."""
    id = ctx.new_id("in_")
    plan = plan + claim_items(ctx, subscription, id)
    discounts = discounts_of(ctx, subscription)
    invoice = new_invoice(ctx, subscription, plan, reason=reason, period=period, id=id, discounts=discounts)
    ctx.state.add(invoice)
    subscription["latest_invoice"] = id
    paused = (subscription["pause_collection"] or {}).get("behavior")
    held = paused == "keep_as_draft" or subscription["status"] == "unpaid"
    invoice.update(_paused=paused, auto_advance=not held)
    schedule_finalization(ctx, invoice)
    return invoice


def schedule_finalization(ctx: Context, invoice: StripeObject) -> None:
    """A draft that advances by itself is finalized after the account's grace; one that does not, never by itself."""
    at = ctx.now_at + ctx.sandbox.grace_seconds if invoice["auto_advance"] else None
    invoice["automatically_finalizes_at"] = at


def new_invoice(
    ctx: Context,
    subscription: StripeObject,
    plan: list[Plan],
    *,
    reason: str,
    period: tuple[int, int],
    id: str,
    discounts: list[StripeObject],
) -> StripeObject:
    """An invoice that is counted but not kept: a draft to be, or a preview."""
    customer = ctx.state.objects["customer"][subscription["customer"]]
    start, end = period
    invoice: StripeObject = {
        "id": id,
        "object": "invoice",
        "account_country": "US",
        "account_name": "Local stand-in",
        "amount_overpaid": 0,
        "amount_paid": 0,
        "amount_paid_off_stripe": 0,
        "amount_shipping": 0,
        "attempt_count": 0,
        "attempted": False,
        "auto_advance": True,
        "automatic_tax": invoice_tax(subscription.get("automatic_tax"), customer),
        "automatically_finalizes_at": None,
        "billing_reason": reason,
        "collection_method": "charge_automatically",
        "created": ctx.now_at,
        "currency": subscription["currency"],
        "custom_fields": None,
        "customer": subscription["customer"],
        "customer_email": customer["email"],
        "customer_name": customer["name"],
        "default_payment_method": None,
        "default_source": None,
        "default_tax_rates": [],
        "description": None,
        "discounts": [discount["id"] for discount in discounts],
        "due_date": None,
        "effective_at": None,
        "ending_balance": None,
        "footer": None,
        "hosted_invoice_url": None,
        "invoice_pdf": None,
        "issuer": {"type": "self"},
        "livemode": False,
        "metadata": {},
        "next_payment_attempt": None,
        "number": None,
        "parent": {
            "type": "subscription_details",
            "quote_details": None,
            "subscription_details": {"metadata": dict(subscription["metadata"]), "subscription": subscription["id"]},
        }
        if subscription["id"] is not None
        else None,
        "payment_settings": {"default_mandate": None, "payment_method_options": None, "payment_method_types": None},
        "payments": {"object": "list", "data": [], "has_more": False, "url": "/v1/invoice_payments"},
        "period_end": end,
        "period_start": start,
        "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0,
        "starting_balance": 0,
        "statement_descriptor": None,
        "status": "draft",
        "status_transitions": {
            "finalized_at": None,
            "marked_uncollectible_at": None,
            "paid_at": None,
            "voided_at": None,
        },
        "test_clock": customer["test_clock"],
        "_plan": plan,
        "_discounts": discounts,
        "_paused": None,
    }
    count(ctx, invoice)
    return invoice


def count(ctx: Context, invoice: StripeObject) -> list[Applied]:
    """Put what is there by now into a draft or a preview. Returns the credits that finalizing it now would use."""
    lines = [line for entry in invoice["_plan"] for line in lines_of(ctx, invoice, entry)]
    invoice["lines"] = {
        "object": "list",
        "data": lines,
        "has_more": False,
        "url": f"/v1/invoices/{invoice['id']}/lines",
    }
    subtotal = sum(line["amount"] for line in lines)
    discounted = _discounted(invoice, lines)
    applied = applicable_credits(ctx, invoice["customer"], invoice["currency"], lines)
    credited = sum(a.amount for a in applied)
    total = subtotal - sum(entry["amount"] for entry in discounted) - credited
    invoice.update(
        subtotal=subtotal,
        subtotal_excluding_tax=subtotal,
        total=total,
        total_excluding_tax=total,
        total_discount_amounts=discounted,
        total_pretax_credit_amounts=[{"type": "discount", **entry} for entry in discounted],
        total_taxes=[],
    )
    show_balance(ctx, invoice)
    return applied


def _discounted(invoice: StripeObject, lines: list[StripeObject]) -> list[StripeObject]:
    """Take off the discounts: of each invoice item its own first, then those of the invoice. Returns the totals."""
    totals: dict[str, int] = {}
    own = [entry for line in lines for entry in discount_lines(line.get("_discounts", []), [line])]
    for entry in [*own, *discount_lines(invoice["_discounts"], lines)]:
        totals[entry["discount"]] = totals.get(entry["discount"], 0) + entry["amount"]
    return [{"amount": amount, "discount": id} for id, amount in totals.items()]


def show_balance(ctx: Context, invoice: StripeObject) -> int:
    """What the customer's balance leaves due, as far as it can be charged. Returns the balance that it would leave."""
    currency = invoice["currency"]
    balance = balance_of(ctx.state.objects["customer"][invoice["customer"]], currency)
    rest = int(invoice["total"]) + balance
    due = chargeable(max(rest, 0), currency)
    invoice.update(starting_balance=balance, amount_due=due, amount_remaining=due)
    return rest - due


def subscription_of(ctx: Context, invoice: StripeObject) -> StripeObject | None:
    """None for an invoice made by hand."""
    if invoice["parent"] is None:
        return None
    found: StripeObject = ctx.state.objects["subscription"][invoice["parent"]["subscription_details"]["subscription"]]
    return found
