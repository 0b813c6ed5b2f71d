"""Invoices: draft, grace, finalize, pay or fail, the retries, and what becomes of the subscription then."""

from typing import Any, Final

from farebox.sandbox.balances import move_balance
from farebox.sandbox.catalog import merged_metadata
from farebox.sandbox.core import Context, Route, page
from farebox.sandbox.credits import reinstate_credits, spend_credits
from farebox.sandbox.customers import Charged, card_of, charge, own_method
from farebox.sandbox.discounts import DISCOUNTS, asked_discounts, new_discounts
from farebox.sandbox.disputes import open_dispute
from farebox.sandbox.drafts import count, schedule_finalization, show_balance, subscription_of
from farebox.sandbox.errors import StripeError, invalid, wrong_state
from farebox.sandbox.params import boolean, enum, metadata, text
from farebox.sandbox.state import StripeObject
from farebox.sandbox.status import ENDED, end_subscription, set_status
from farebox.sandbox.taxes import AUTOMATIC_TAX, disable_tax, invoice_tax, unknown_location

__all__ = [
    "COLLECTED_AFTER_SECONDS",
    "HOLD_SECONDS_MAX",
    "RETRY_AFTER_DAYS",
    "ROUTES",
    "attempt_payment",
    "finalize",
    "settle_invoice",
    "void_invoice",
]

HOLD_SECONDS_MAX: Final = 72 * 3_600
RETRY_AFTER_DAYS: Final = (3, 5, 7)
COLLECTED_AFTER_SECONDS: Final = 3_600  # what was finalized by a request, and advances by itself


def finalize(ctx: Context, invoice: StripeObject, *, collect: bool = True) -> None:
    """Count what is there now, for the last time, and give the number. What asks for nothing is paid by that; else
    `collect` tries to collect at once, unless that was paused."""
    disable_tax(invoice)
    spend_credits(ctx, invoice, count(ctx, invoice))
    customer = ctx.state.objects["customer"][invoice["customer"]]
    ending = show_balance(ctx, invoice)
    if ending != invoice["starting_balance"]:
        change = ending - invoice["starting_balance"]
        kind = "invoice_too_small" if ending > 0 else "applied_to_invoice"
        move_balance(ctx, customer, change, kind, currency=invoice["currency"], invoice=invoice["id"])
    ctx.state.invoice_number += 1
    invoice.update(status="open", number=f"LOCAL-{ctx.state.invoice_number:04}", effective_at=ctx.now_at)
    invoice.update(automatically_finalizes_at=None, ending_balance=ending)
    invoice["hosted_invoice_url"] = f"{ctx.sandbox.base_url}/invoice/{invoice['id']}"
    invoice["status_transitions"]["finalized_at"] = ctx.now_at
    ctx.emit("invoice.finalized", invoice)
    if invoice["_paused"] == "void":
        void_invoice(ctx, invoice)
    elif invoice["_paused"] == "mark_uncollectible":
        _close(ctx, invoice, "uncollectible", "marked_uncollectible")
    elif collect or not invoice["amount_due"]:
        attempt_payment(ctx, invoice)


def _close(ctx: Context, invoice: StripeObject, status: str, event: str) -> None:
    invoice.update(status=status, auto_advance=False, next_payment_attempt=None)
    invoice["status_transitions"][f"{event}_at"] = ctx.now_at
    ctx.emit(f"invoice.{event}", invoice)


def void_invoice(ctx: Context, invoice: StripeObject) -> None:
    """As if it had never been: the credits and the balance that it used are given back."""
    _close(ctx, invoice, "void", "voided")
    reinstate_credits(ctx, invoice)
    change = invoice["starting_balance"] - invoice["ending_balance"]
    if change:
        customer = ctx.state.objects["customer"][invoice["customer"]]
        currency, id = invoice["currency"], invoice["id"]
        move_balance(ctx, customer, change, "unapplied_from_invoice", currency=currency, invoice=id)


def attempt_payment(ctx: Context, invoice: StripeObject, method: StripeObject | None = None) -> bool:
    """Charge this payment method, or the one that stands for the invoice. After the last failed retry of a
    subscription's invoice the account's setting decides."""
    subscription = subscription_of(ctx, invoice)
    if not invoice["amount_remaining"]:
        settle_invoice(ctx, invoice, None)
        return True
    charged = charge(ctx, method or _payment_method_of(ctx, invoice))
    if charged.outcome == "succeeded":
        settle_invoice(ctx, invoice, charged)
        return True
    invoice["attempted"] = True
    invoice["attempt_count"] += 1
    tried = invoice["attempt_count"]
    lives = subscription is None or subscription["status"] not in (*ENDED, "incomplete", "paused")
    due = invoice["status"] == "open" and lives
    again = due and invoice["auto_advance"] and tried <= len(RETRY_AFTER_DAYS)
    invoice["next_payment_attempt"] = ctx.now_at + RETRY_AFTER_DAYS[tried - 1] * 86_400 if again else None
    if charged.outcome == "requires_action":
        ctx.emit("invoice.payment_action_required", invoice)
    ctx.emit("invoice.payment_failed", invoice)
    if subscription is None:
        return False
    if again:
        if subscription["status"] != "unpaid":
            set_status(ctx, subscription, "past_due")
    elif due and tried == len(RETRY_AFTER_DAYS) + 1:
        _give_up(ctx, subscription)
    return False


def _payment_method_of(ctx: Context, invoice: StripeObject) -> StripeObject | None:
    """What an invoice is charged to: its own method, else its subscription's, else the customer's default."""
    customer = ctx.state.objects["customer"][invoice["customer"]]
    return card_of(ctx, subscription_of(ctx, invoice), customer, invoice)


def _give_up(ctx: Context, subscription: StripeObject) -> None:
    after = ctx.sandbox.after_retries
    if after == "canceled":
        end_subscription(ctx, subscription, "payment_failed")
    else:
        set_status(ctx, subscription, after)


def settle_invoice(ctx: Context, invoice: StripeObject, charged: Charged | None) -> None:
    """It is paid: by a charge, or because nothing is left to pay."""
    amount = invoice["amount_remaining"]
    invoice.update(status="paid", amount_paid=invoice["amount_paid"] + amount, amount_remaining=0)
    invoice.update(auto_advance=False, next_payment_attempt=None, attempted=True)
    invoice["status_transitions"]["paid_at"] = ctx.now_at
    intent = charged.intent if charged is not None else None
    if charged is not None and amount:
        invoice["attempt_count"] += 1
        invoice["payments"]["data"].append(_payment(ctx, invoice, amount, charged.intent))
    ctx.emit("invoice.paid", invoice)
    ctx.emit("invoice.payment_succeeded", invoice)
    subscription = subscription_of(ctx, invoice)
    if subscription is None:
        pass
    elif subscription["status"] in ("past_due", "unpaid", "incomplete"):
        set_status(ctx, subscription, "active")
    elif subscription["status"] == "paused" and invoice.get("_resumes"):
        set_status(ctx, subscription, "active", "customer.subscription.resumed")
    if charged is not None and charged.method is not None and charged.method.get("_disputes") and intent is not None:
        open_dispute(
            ctx,
            charge=ctx.new_id("ch_"),
            intent=intent,
            amount=amount,
            currency=invoice["currency"],
            method=charged.method,
        )


def _payment(ctx: Context, invoice: StripeObject, amount: int, intent: str) -> StripeObject:
    return {
        "id": ctx.new_id("inpay_"),
        "object": "invoice_payment",
        "amount_paid": amount,
        "amount_requested": amount,
        "created": ctx.now_at,
        "currency": invoice["currency"],
        "invoice": invoice["id"],
        "is_default": True,
        "livemode": False,
        "payment": {"type": "payment_intent", "payment_intent": intent},
        "status": "paid",
        "status_transitions": {"canceled_at": None, "paid_at": ctx.now_at},
    }


def _fresh(ctx: Context, invoice: StripeObject) -> StripeObject:
    if invoice["status"] == "draft":
        count(ctx, invoice)
    return invoice


def _found(ctx: Context) -> StripeObject:
    return _fresh(ctx, ctx.state.get("invoice", ctx.path["id"]))


def _list(ctx: Context) -> StripeObject:
    p = ctx.params
    found = [
        invoice
        for invoice in ctx.state.listed("invoice", p)
        if p.get("status") in (None, invoice["status"])
        and p.get("subscription") in (None, (subscription_of(ctx, invoice) or {}).get("id"))
    ]
    listed = page(ctx, found, "/v1/invoices")
    for invoice in listed["data"]:
        _fresh(ctx, invoice)
    return listed


def _lines(ctx: Context) -> StripeObject:
    invoice = _found(ctx)
    return page(ctx, list(reversed(invoice["lines"]["data"])), invoice["lines"]["url"])


def _update(ctx: Context) -> StripeObject:
    invoice, p = _found(ctx), ctx.params
    previous = {name: invoice[name] for name in p}
    customer = ctx.state.objects["customer"][invoice["customer"]]
    fixed = [name for name in ("automatic_tax", "discounts") if name in p and invoice["status"] != "draft"]
    if fixed:
        message = "Finalized invoices can't be updated in this way."
        raise invalid(message, param=fixed[0], code="invoice_not_editable")
    if "default_payment_method" in p:
        own = own_method(ctx, p["default_payment_method"], customer, "default_payment_method")
        invoice["default_payment_method"] = own["id"]
    if "automatic_tax" in p:
        invoice["automatic_tax"] = invoice_tax(p["automatic_tax"], customer)
    if "discounts" in p:
        asked = asked_discounts(ctx, p["discounts"], customer=customer, currency=invoice["currency"])
        on = {"subscription": None, "invoice": invoice["id"]}
        invoice["_discounts"] = new_discounts(ctx, asked, {**invoice, "id": None}, on=on)
        invoice["discounts"] = [discount["id"] for discount in invoice["_discounts"]]
        count(ctx, invoice)
    if "auto_advance" in p:
        _let_advance(ctx, invoice, on=p["auto_advance"])
    invoice["metadata"] = merged_metadata(invoice["metadata"], p.get("metadata"))
    invoice["description"] = p.get("description", invoice["description"])
    ctx.emit("invoice.updated", invoice, previous)
    return invoice


def _let_advance(ctx: Context, invoice: StripeObject, *, on: bool) -> None:
    """Let a draft or an open invoice advance by itself, or stop it. The other ones never do."""
    if invoice["status"] == "draft":
        invoice["auto_advance"] = on
        schedule_finalization(ctx, invoice)
    elif invoice["status"] == "open" and invoice["auto_advance"] != on:
        invoice["auto_advance"] = on
        invoice["next_payment_attempt"] = ctx.now_at + COLLECTED_AFTER_SECONDS if on else None


def _finalize(ctx: Context) -> StripeObject:
    """It stays open. With auto_advance Stripe tries to collect it later."""
    invoice = ctx.state.get("invoice", ctx.path["id"])
    if invoice["status"] != "draft":
        raise wrong_state("This invoice is already finalized, you can't re-finalize a non-draft invoice.")
    _check_location(invoice)
    invoice["auto_advance"] = ctx.params.get("auto_advance", invoice["auto_advance"])
    finalize(ctx, invoice, collect=False)
    if invoice["status"] == "open" and invoice["auto_advance"]:
        invoice["next_payment_attempt"] = ctx.now_at + COLLECTED_AFTER_SECONDS
    return invoice


def _check_location(invoice: StripeObject) -> None:
    if invoice["automatic_tax"]["status"] == "requires_location_inputs":
        raise unknown_location()


def _pay(ctx: Context) -> StripeObject:
    invoice = ctx.state.get("invoice", ctx.path["id"])
    if invoice["status"] == "paid":
        raise wrong_state("Invoice is already paid")
    if invoice["status"] == "void":
        raise wrong_state("A void invoice cannot be paid.")
    if ctx.params.get("paid_out_of_band") and invoice["status"] != "draft":
        settle_invoice(ctx, invoice, None)
        return invoice
    method = _payment_method_of(ctx, invoice)
    if "payment_method" in ctx.params:
        customer = ctx.state.objects["customer"][invoice["customer"]]
        method = own_method(ctx, ctx.params["payment_method"], customer, "payment_method")
    if invoice["status"] == "draft":
        _check_location(invoice)
        count(ctx, invoice)
    if method is None and invoice["amount_remaining"]:
        raise invalid(
            "There is no `default_payment_method` set on this Customer or Invoice. Please set either a "
            "`default_payment_method` for the Customer or Invoice."
        )
    if invoice["status"] == "draft":
        invoice["_paused"] = None  # asked for by name, it is collected
        finalize(ctx, invoice, collect=False)
    if invoice["status"] != "paid":
        attempt_payment(ctx, invoice, method)
    if invoice["status"] != "paid":
        raise StripeError(402, "card_error", "Your card was declined.", code="card_declined")
    return invoice


def _void(ctx: Context) -> StripeObject:
    invoice = ctx.state.get("invoice", ctx.path["id"])
    if invoice["status"] not in ("open", "uncollectible"):
        raise wrong_state("Only an open or uncollectible invoice can be voided.")
    void_invoice(ctx, invoice)
    return invoice


def _mark_uncollectible(ctx: Context) -> StripeObject:
    invoice = ctx.state.get("invoice", ctx.path["id"])
    if invoice["status"] != "open":
        raise wrong_state("Only an open invoice can be marked uncollectible.")
    _close(ctx, invoice, "uncollectible", "marked_uncollectible")
    return invoice


_FILTER: Final[dict[str, Any]] = {
    "customer": text(),
    "subscription": text(),
    "status": enum("draft", "open", "paid", "uncollectible", "void"),
}
_CHANGE: Final = {
    "auto_advance": boolean(),
    "automatic_tax": AUTOMATIC_TAX,
    "default_payment_method": text(),
    "description": text(1_500, empty=True),
    "discounts": DISCOUNTS,
    "metadata": metadata(),
}
_PAY: Final = {"paid_out_of_band": boolean(), "off_session": boolean(), "payment_method": text()}

ROUTES: Final = [
    Route("GET", "/v1/invoices", _list, _FILTER, paged=True),
    Route("GET", "/v1/invoices/{id}", _found),
    Route("POST", "/v1/invoices/{id}", _update, _CHANGE),
    Route("GET", "/v1/invoices/{id}/lines", _lines, paged=True),
    Route("POST", "/v1/invoices/{id}/finalize", _finalize, {"auto_advance": boolean()}),
    Route("POST", "/v1/invoices/{id}/pay", _pay, _PAY),
    Route("POST", "/v1/invoices/{id}/void", _void),
    Route("POST", "/v1/invoices/{id}/mark_uncollectible", _mark_uncollectible),
]
