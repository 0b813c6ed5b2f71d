"""Invoices: draft, grace, finalize, pay or fail, the retries, and what becomes of the subscription then."""

from typing import Any, Final

from farebox.sandbox.balances import move_balance
from farebox.sandbox.catalog import merged_metadata
from farebox.sandbox.core import Context, Route, page
from farebox.sandbox.credits import reinstate_credits, spend_credits
from farebox.sandbox.customers import Charged, charge
from farebox.sandbox.disputes import open_dispute
from farebox.sandbox.drafts import GRACE_SECONDS, count, show_balance, subscription_of
from farebox.sandbox.errors import StripeError, wrong_state
from farebox.sandbox.params import boolean, enum, metadata, text
from farebox.sandbox.state import StripeObject
from farebox.sandbox.status import ENDED, end_subscription, set_status

__all__ = [
    "GRACE_SECONDS",
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


def finalize(ctx: Context, invoice: StripeObject, *, collect: bool = True) -> None:
    """Count what is there now, for the last time, give the number, and collect unless that was paused."""
    spend_credits(ctx, invoice, count(ctx, invoice))
    customer = ctx.state.objects["customer"][invoice["customer"]]
    ending = show_balance(ctx, invoice)
    if ending != invoice["starting_balance"]:
        change = ending - invoice["starting_balance"]
        move_balance(ctx, customer, change, "applied_to_invoice", currency=invoice["currency"], invoice=invoice["id"])
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
    invoice.update(status=status, next_payment_attempt=None)
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


def attempt_payment(ctx: Context, invoice: StripeObject) -> bool:
    """Charge the card that stands for the subscription. After the last failed retry the account's setting decides."""
    subscription = subscription_of(ctx, invoice)
    customer = ctx.state.objects["customer"][invoice["customer"]]
    if not invoice["amount_remaining"]:
        settle_invoice(ctx, invoice, None)
        return True
    charged = charge(ctx, subscription, customer)
    if charged.outcome == "succeeded":
        settle_invoice(ctx, invoice, charged)
        return True
    invoice["attempted"] = True
    invoice["attempt_count"] += 1
    tried = invoice["attempt_count"]
    lives = subscription is None or subscription["status"] not in (*ENDED, "incomplete", "paused")
    due = invoice["status"] == "open" and lives
    again = due and tried <= len(RETRY_AFTER_DAYS)
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
    invoice.update(next_payment_attempt=None, attempted=True)
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
    if "auto_advance" in p and invoice["status"] == "draft":
        invoice["auto_advance"] = p["auto_advance"]
        invoice["automatically_finalizes_at"] = ctx.now_at + GRACE_SECONDS if p["auto_advance"] else None
    invoice["metadata"] = merged_metadata(invoice["metadata"], p.get("metadata"))
    invoice["description"] = p.get("description", invoice["description"])
    ctx.emit("invoice.updated", invoice, previous)
    return invoice


def _finalize(ctx: Context) -> StripeObject:
    invoice = ctx.state.get("invoice", ctx.path["id"])
    if invoice["status"] != "draft":
        raise wrong_state("This invoice is already finalized, you can't re-finalize a non-draft invoice.")
    finalize(ctx, invoice)
    return invoice


def _pay(ctx: Context) -> StripeObject:
    invoice = ctx.state.get("invoice", ctx.path["id"])
    if invoice["status"] == "paid":
        raise wrong_state("Invoice is already paid")
    if invoice["status"] == "void":
        raise wrong_state("A void invoice cannot be paid.")
    if ctx.params.get("paid_out_of_band") and invoice["status"] != "draft":
        settle_invoice(ctx, invoice, None)
        return invoice
    if invoice["status"] == "draft":
        invoice["_paused"] = None  # asked for by name, it is collected
        finalize(ctx, invoice)
    else:
        attempt_payment(ctx, invoice)
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
_CHANGE: Final = {"auto_advance": boolean(), "description": text(1_500, empty=True), "metadata": metadata()}

ROUTES: Final = [
    Route("GET", "/v1/invoices", _list, _FILTER, paged=True),
    Route("GET", "/v1/invoices/{id}", _found),
    Route("POST", "/v1/invoices/{id}", _update, _CHANGE),
    Route("GET", "/v1/invoices/{id}/lines", _lines, paged=True),
    Route("POST", "/v1/invoices/{id}/finalize", _finalize, {"auto_advance": boolean()}),
    Route("POST", "/v1/invoices/{id}/pay", _pay, {"paid_out_of_band": boolean(), "off_session": boolean()}),
    Route("POST", "/v1/invoices/{id}/void", _void),
    Route("POST", "/v1/invoices/{id}/mark_uncollectible", _mark_uncollectible),
]
