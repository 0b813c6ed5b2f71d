"""Invoices: preview, draft, grace, finalize, pay or fail, and the retries. Exact decimals, rounded per line."""

from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Final

from farebox.sandbox.core import Context, Route, page
from farebox.sandbox.customers import charge_succeeds
from farebox.sandbox.decimals import EXACT, plain
from farebox.sandbox.errors import StripeError, invalid, wrong_state
from farebox.sandbox.meters import aggregate
from farebox.sandbox.params import boolean, enum, text
from farebox.sandbox.periods import period_around
from farebox.sandbox.state import StripeObject

__all__ = [
    "GRACE_SECONDS",
    "HOLD_SECONDS_MAX",
    "RETRY_AFTER_DAYS",
    "ROUTES",
    "attempt_payment",
    "close_period",
    "finalize",
]

GRACE_SECONDS: Final = 3_600
HOLD_SECONDS_MAX: Final = 72 * 3_600
RETRY_AFTER_DAYS: Final = (3, 5, 7)


def _lines(ctx: Context, subscription: StripeObject, invoice: StripeObject) -> list[StripeObject]:
    seen_by = ctx.now_at - ctx.sandbox.aggregation_lag_seconds
    lines = []
    parts = zip(subscription["items"]["data"], invoice["_periods"], invoice["_line_ids"], strict=True)
    for item, (start, end), line_id in parts:
        price = item["price"]
        meter = ctx.state.objects["billing.meter"][price["recurring"]["meter"]]
        used = aggregate(ctx.state, meter, subscription["customer"], start, end, seen_by=seen_by)
        quantity = max(used, Decimal(0))
        exact = EXACT.multiply(quantity, price["unit_amount_decimal"])
        amount = int(exact.to_integral_value(ROUND_HALF_UP))
        product = ctx.state.objects["product"][price["product"]]
        whole = int(quantity) if quantity == quantity.to_integral_value() else None
        lines.append(
            {
                "id": line_id,
                "object": "line_item",
                "amount": amount,
                "currency": price["currency"],
                "description": f"{plain(quantity)} × {product['name']}",
                "discount_amounts": [],
                "discountable": True,
                "discounts": [],
                "invoice": invoice["id"],
                "livemode": False,
                "metadata": dict(subscription["metadata"]),
                "parent": {
                    "type": "subscription_item_details",
                    "invoice_item_details": None,
                    "subscription_item_details": {
                        "invoice_item": None,
                        "proration": False,
                        "proration_details": {"credited_items": None},
                        "subscription": subscription["id"],
                        "subscription_item": item["id"],
                    },
                },
                "period": {"start": start, "end": end},
                "pretax_credit_amounts": [],
                "pricing": {
                    "type": "price_details",
                    "price_details": {"price": price["id"], "product": price["product"]},
                    "unit_amount_decimal": price["unit_amount_decimal"],
                },
                "quantity": whole,
                "quantity_decimal": quantity,
                "subtotal": amount,
                "taxes": [],
            }
        )
    return lines


def _invoice(ctx: Context, subscription: StripeObject, periods: list[tuple[int, int]], id: str) -> StripeObject:
    customer = ctx.state.objects["customer"][subscription["customer"]]
    invoice: StripeObject = {
        "id": id,
        "object": "invoice",
        "account_country": "US",
        "account_name": "Local stand-in",
        "amount_overpaid": 0,
        "amount_paid": 0,
        "amount_shipping": 0,
        "attempt_count": 0,
        "attempted": False,
        "auto_advance": True,
        "automatic_tax": {
            "enabled": False,
            "liability": None,
            "status": None,
            "disabled_reason": None,
            "provider": None,
        },
        "automatically_finalizes_at": None,
        "billing_reason": "subscription_cycle",
        "collection_method": "charge_automatically",
        "created": ctx.now_at,
        "currency": subscription["currency"],
        "custom_fields": None,
        "customer": subscription["customer"],
        "customer_email": customer["email"],
        "customer_name": customer["name"],
        "default_payment_method": None,
        "description": None,
        "discounts": [],
        "due_date": None,
        "effective_at": None,
        "ending_balance": None,
        "footer": None,
        "hosted_invoice_url": None,
        "invoice_pdf": None,
        "livemode": False,
        "metadata": {},
        "next_payment_attempt": None,
        "number": None,
        "parent": {
            "type": "subscription_details",
            "quote_details": None,
            "subscription_details": {"metadata": dict(subscription["metadata"]), "subscription": subscription["id"]},
        },
        "payments": {"object": "list", "data": [], "has_more": False, "url": "/v1/invoice_payments"},
        "period_end": max(end for _, end in periods),
        "period_start": min(start for start, _ in periods),
        "starting_balance": 0,
        "statement_descriptor": None,
        "status": "draft",
        "status_transitions": {
            "finalized_at": None,
            "marked_uncollectible_at": None,
            "paid_at": None,
            "voided_at": None,
        },
        "test_clock": None,
        "_periods": periods,
        "_line_ids": [ctx.new_id("il_") for _ in periods],
        "_paused": None,
    }
    return _count(ctx, subscription, invoice)


def _count(ctx: Context, subscription: StripeObject, invoice: StripeObject) -> StripeObject:
    """Put the usage that is there by now into a draft or a preview."""
    lines = _lines(ctx, subscription, invoice)
    total = sum(line["amount"] for line in lines)
    invoice["lines"] = {
        "object": "list",
        "data": lines,
        "has_more": False,
        "total_count": len(lines),
        "url": f"/v1/invoices/{invoice['id']}/lines",
    }
    invoice.update(
        subtotal=total,
        subtotal_excluding_tax=total,
        total=total,
        total_excluding_tax=total,
        amount_due=total,
        amount_remaining=total,
        total_discount_amounts=[],
        total_taxes=[],
    )
    return invoice


def close_period(ctx: Context, subscription: StripeObject, *, at: int, final: bool = False) -> StripeObject:
    """Draft the invoice of the period that ends at `at`, and begin the next unless this one is the last."""
    items = subscription["items"]["data"]
    periods = [(item["current_period_start"], min(item["current_period_end"], at)) for item in items]
    invoice = ctx.state.add(_invoice(ctx, subscription, periods, ctx.new_id("in_")))
    subscription["latest_invoice"] = invoice["id"]
    paused = (subscription["pause_collection"] or {}).get("behavior")
    invoice.update(_paused=paused, auto_advance=paused != "keep_as_draft")
    if final:
        invoice["billing_reason"] = "subscription_update"
        ctx.emit("invoice.created", invoice)
        if invoice["auto_advance"]:
            finalize(ctx, invoice)
        return invoice
    invoice["automatically_finalizes_at"] = ctx.now_at + GRACE_SECONDS if invoice["auto_advance"] else None
    for item in items:
        recurring = item["price"]["recurring"]
        anchor = subscription["billing_cycle_anchor"]
        item["current_period_start"], item["current_period_end"] = period_around(
            anchor, recurring["interval"], recurring["interval_count"], at
        )
    ctx.emit("invoice.created", invoice)
    return invoice


def finalize(ctx: Context, invoice: StripeObject) -> None:
    """Count what is there now, for the last time, give the number, and collect unless that was paused."""
    subscription = _subscription_of(ctx, invoice)
    _count(ctx, subscription, invoice)
    ctx.state.invoice_number += 1
    invoice.update(status="open", number=f"LOCAL-{ctx.state.invoice_number:04}", effective_at=ctx.now_at)
    invoice.update(automatically_finalizes_at=None)
    invoice["status_transitions"]["finalized_at"] = ctx.now_at
    ctx.emit("invoice.finalized", invoice)
    if invoice["_paused"] == "void":
        _close(ctx, invoice, "void", "voided")
    elif invoice["_paused"] == "mark_uncollectible":
        _close(ctx, invoice, "uncollectible", "marked_uncollectible")
    else:
        attempt_payment(ctx, invoice)


def _close(ctx: Context, invoice: StripeObject, status: str, event: str) -> None:
    invoice.update(status=status, next_payment_attempt=None)
    invoice["status_transitions"][f"{event}_at"] = ctx.now_at
    ctx.emit(f"invoice.{event}", invoice)


def attempt_payment(ctx: Context, invoice: StripeObject) -> bool:
    """Charge the card that stands for the subscription. After the last failed retry the subscription is canceled."""
    subscription = _subscription_of(ctx, invoice)
    customer = ctx.state.objects["customer"][invoice["customer"]]
    if invoice["total"] == 0 or charge_succeeds(ctx, subscription, customer):
        _paid(ctx, invoice, subscription)
        return True
    invoice["attempted"] = True
    invoice["attempt_count"] += 1
    tried = invoice["attempt_count"]
    due = invoice["status"] == "open" and subscription["status"] != "canceled"
    again = due and tried <= len(RETRY_AFTER_DAYS)
    invoice["next_payment_attempt"] = ctx.now_at + RETRY_AFTER_DAYS[tried - 1] * 86_400 if again else None
    ctx.emit("invoice.payment_failed", invoice)
    if not due:
        return False
    if again:
        _set_status(ctx, subscription, "past_due")
    else:
        subscription.update(status="canceled", canceled_at=ctx.now_at, ended_at=ctx.now_at)
        subscription["cancellation_details"]["reason"] = "payment_failed"
        ctx.emit("customer.subscription.deleted", subscription)
    return False


def _paid(ctx: Context, invoice: StripeObject, subscription: StripeObject) -> None:
    total = invoice["total"]
    invoice.update(status="paid", amount_paid=total, amount_remaining=0, next_payment_attempt=None, attempted=True)
    invoice["attempt_count"] += 1 if total else 0
    invoice["status_transitions"]["paid_at"] = ctx.now_at
    if total:
        invoice["payments"]["data"].append(
            {
                "id": ctx.new_id("inpay_"),
                "object": "invoice_payment",
                "amount_paid": total,
                "amount_requested": total,
                "created": ctx.now_at,
                "currency": invoice["currency"],
                "invoice": invoice["id"],
                "is_default": True,
                "livemode": False,
                "payment": {"type": "payment_intent", "payment_intent": ctx.new_id("pi_")},
                "status": "paid",
                "status_transitions": {"canceled_at": None, "paid_at": ctx.now_at},
            }
        )
    ctx.emit("invoice.paid", invoice)
    ctx.emit("invoice.payment_succeeded", invoice)
    if subscription["status"] == "past_due":
        _set_status(ctx, subscription, "active")


def _set_status(ctx: Context, subscription: StripeObject, status: str) -> None:
    if subscription["status"] != status:
        previous = {"status": subscription["status"]}
        subscription["status"] = status
        ctx.emit("customer.subscription.updated", subscription, previous)


def _subscription_of(ctx: Context, invoice: StripeObject) -> StripeObject:
    found: StripeObject = ctx.state.objects["subscription"][invoice["parent"]["subscription_details"]["subscription"]]
    return found


def _preview(ctx: Context) -> StripeObject:
    p = ctx.params
    if "subscription" not in p:
        raise invalid("Pass the subscription whose next invoice you want to see.", param="subscription")
    subscription = ctx.state.get("subscription", p["subscription"], param="subscription", status=400)
    if p.get("customer", subscription["customer"]) != subscription["customer"]:
        raise invalid("The subscription belongs to another customer.", param="customer")
    if subscription["status"] in ("canceled", "incomplete_expired"):
        raise invalid("The subscription is canceled and has no upcoming invoice.", code="invoice_upcoming_none")
    items = subscription["items"]["data"]
    periods = [(item["current_period_start"], item["current_period_end"]) for item in items]
    preview = _invoice(ctx, subscription, periods, "upcoming_" + ctx.new_id("in_"))
    return {**preview, "created": ctx.now_at, "billing_reason": "upcoming"}


def _read(ctx: Context) -> StripeObject:
    return _fresh(ctx, ctx.state.get("invoice", ctx.path["id"]))


def _fresh(ctx: Context, invoice: StripeObject) -> StripeObject:
    return _count(ctx, _subscription_of(ctx, invoice), invoice) if invoice["status"] == "draft" else invoice


def _list(ctx: Context) -> StripeObject:
    p = ctx.params
    found = [
        _fresh(ctx, invoice)
        for invoice in ctx.state.all("invoice")
        if p.get("customer") in (None, invoice["customer"])
        and p.get("status") in (None, invoice["status"])
        and p.get("subscription") in (None, invoice["parent"]["subscription_details"]["subscription"])
    ]
    return page(ctx, found, "/v1/invoices")


def _finalize(ctx: Context) -> StripeObject:
    invoice = ctx.state.get("invoice", ctx.path["id"])
    if invoice["status"] != "draft":
        raise wrong_state("This invoice is already finalized, you can't re-finalize a non-draft invoice.")
    finalize(ctx, invoice)
    return invoice


def _pay(ctx: Context) -> StripeObject:
    invoice = ctx.state.get("invoice", ctx.path["id"])
    if invoice["status"] == "paid":
        raise wrong_state("Invoice is already paid", code="invoice_already_paid")
    if invoice["status"] == "void":
        raise wrong_state("A void invoice cannot be paid.")
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
    _close(ctx, invoice, "void", "voided")
    return invoice


_FILTER: Final[dict[str, Any]] = {
    "customer": text(),
    "subscription": text(),
    "status": enum("draft", "open", "paid", "uncollectible", "void"),
}

ROUTES: Final = [
    Route("POST", "/v1/invoices/create_preview", _preview, {"subscription": text(), "customer": text()}),
    Route("GET", "/v1/invoices", _list, _FILTER, paged=True),
    Route("GET", "/v1/invoices/{id}", _read),
    Route("POST", "/v1/invoices/{id}/finalize", _finalize, {"auto_advance": boolean()}),
    Route("POST", "/v1/invoices/{id}/pay", _pay),
    Route("POST", "/v1/invoices/{id}/void", _void),
]
