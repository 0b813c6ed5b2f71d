"""Credit notes: what is taken off an invoice after it was finalized, off what is due or back to the customer."""

from typing import Any, Final

from farebox.sandbox.balances import move_balance
from farebox.sandbox.catalog import merged_metadata
from farebox.sandbox.core import Context, Route, page
from farebox.sandbox.errors import invalid, wrong_state
from farebox.sandbox.invoices import settle_invoice
from farebox.sandbox.params import enum, integer, metadata, required, text
from farebox.sandbox.state import StripeObject

__all__ = ["ROUTES"]


def _create(ctx: Context) -> StripeObject:
    p = ctx.params
    invoice = ctx.state.get("invoice", p["invoice"], param="invoice", status=400)
    if invoice["status"] not in ("open", "paid"):
        raise wrong_state("A credit note needs an open or paid invoice.", param="invoice")
    amount = p["amount"]
    credited = invoice["pre_payment_credit_notes_amount"] + invoice["post_payment_credit_notes_amount"]
    before_payment = invoice["status"] == "open"
    room = invoice["amount_remaining"] if before_payment else invoice["total"] - credited
    if amount > room:
        raise invalid(f"The credit note is larger than what is left of the invoice: {room}.", param="amount")
    to_balance = _check_split(p, before_payment=before_payment)
    note = _note(ctx, invoice, p, before_payment=before_payment)
    ctx.state.add(note)
    if to_balance:
        customer = ctx.state.objects["customer"][invoice["customer"]]
        moved = move_balance(
            ctx,
            customer,
            -to_balance,
            "credit_note",
            currency=invoice["currency"],
            invoice=invoice["id"],
            credit_note=note["id"],
        )
        note["customer_balance_transaction"] = moved["id"]
    ctx.emit("credit_note.created", note)
    _apply(ctx, invoice, amount, before_payment=before_payment)
    return note


def _check_split(p: dict[str, Any], *, before_payment: bool) -> int:
    """How much of it goes to the customer's balance. After payment, all of it must go somewhere."""
    parts = {name: p.get(name, 0) for name in ("credit_amount", "out_of_band_amount")}
    if before_payment:
        for name, value in parts.items():
            if value:
                raise invalid("An open invoice has nothing to give back: leave this out.", param=name)
        return 0
    if sum(parts.values()) != p["amount"]:
        raise invalid(
            "The invoice is paid: credit_amount and out_of_band_amount must add up to the amount.",
            param="credit_amount",
        )
    return int(parts["credit_amount"])


def _apply(ctx: Context, invoice: StripeObject, amount: int, *, before_payment: bool) -> None:
    if not before_payment:
        invoice["post_payment_credit_notes_amount"] += amount
        return
    invoice["pre_payment_credit_notes_amount"] += amount
    invoice["amount_due"] -= amount
    invoice["amount_remaining"] -= amount
    if not invoice["amount_remaining"]:
        settle_invoice(ctx, invoice, None)


def _note(ctx: Context, invoice: StripeObject, p: dict[str, Any], *, before_payment: bool) -> StripeObject:
    id, amount = ctx.new_id("cn_"), p["amount"]
    number = 1 + sum(note["invoice"] == invoice["id"] for note in ctx.state.all("credit_note"))
    line = _line(ctx, amount, p.get("memo"))
    return {
        "id": id,
        "object": "credit_note",
        "amount": amount,
        "amount_shipping": 0,
        "created": ctx.now_at,
        "currency": invoice["currency"],
        "customer": invoice["customer"],
        "customer_balance_transaction": None,
        "discount_amount": 0,
        "discount_amounts": [],
        "effective_at": ctx.now_at,
        "invoice": invoice["id"],
        "lines": {"object": "list", "data": [line], "has_more": False, "url": f"/v1/credit_notes/{id}/lines"},
        "livemode": False,
        "memo": p.get("memo"),
        "metadata": merged_metadata({}, p.get("metadata")),
        "number": f"{invoice['number']}-CN-{number:02}",
        "out_of_band_amount": p.get("out_of_band_amount"),
        "pdf": f"{ctx.sandbox.base_url}/",
        "post_payment_amount": 0 if before_payment else amount,
        "pre_payment_amount": amount if before_payment else 0,
        "pretax_credit_amounts": [],
        "reason": p.get("reason"),
        "refunds": [],
        "shipping_cost": None,
        "status": "issued",
        "subtotal": amount,
        "subtotal_excluding_tax": amount,
        "total": amount,
        "total_excluding_tax": amount,
        "total_taxes": [],
        "type": "pre_payment" if before_payment else "post_payment",
        "voided_at": None,
    }


def _line(ctx: Context, amount: int, memo: str | None) -> StripeObject:
    return {
        "id": ctx.new_id("cnli_"),
        "object": "credit_note_line_item",
        "amount": amount,
        "description": memo,
        "discount_amount": 0,
        "discount_amounts": [],
        "livemode": False,
        "pretax_credit_amounts": [],
        "quantity": 1,
        "tax_rates": [],
        "taxes": [],
        "type": "custom_line_item",
        "unit_amount": amount,
        "unit_amount_decimal": str(amount),
    }


def _void(ctx: Context) -> StripeObject:
    note = ctx.state.get("credit_note", ctx.path["id"])
    invoice = ctx.state.objects["invoice"][note["invoice"]]
    if note["status"] == "void":
        raise wrong_state("This credit note is void already.")
    if note["type"] != "pre_payment" or invoice["status"] != "open":
        raise wrong_state("Only a credit note on an open invoice can be voided.")
    note.update(status="void", voided_at=ctx.now_at)
    _apply(ctx, invoice, -note["amount"], before_payment=True)
    ctx.emit("credit_note.voided", note)
    return note


def _list(ctx: Context) -> StripeObject:
    p = ctx.params
    found = [
        note
        for note in ctx.state.all("credit_note")
        if p.get("customer") in (None, note["customer"]) and p.get("invoice") in (None, note["invoice"])
    ]
    return page(ctx, found, "/v1/credit_notes")


_CREATE: Final = {
    "invoice": required(text()),
    "amount": required(integer(1)),
    "credit_amount": integer(0),
    "out_of_band_amount": integer(0),
    "memo": text(),
    "metadata": metadata(),
    "reason": enum("duplicate", "fraudulent", "order_change", "product_unsatisfactory"),
}

ROUTES: Final = [
    Route("POST", "/v1/credit_notes", _create, _CREATE),
    Route("GET", "/v1/credit_notes", _list, {"customer": text(), "invoice": text()}, paged=True),
    Route("GET", "/v1/credit_notes/{id}", lambda ctx: ctx.state.get("credit_note", ctx.path["id"])),
    Route("POST", "/v1/credit_notes/{id}/void", _void),
]
