"""Disputes: what a charge to the card that disputes brings, to be looked at and given up."""

from typing import Final

from farebox.sandbox.core import Context, Route, page
from farebox.sandbox.errors import wrong_state
from farebox.sandbox.params import text
from farebox.sandbox.state import StripeObject

__all__ = ["RESPONSE_SECONDS", "ROUTES", "open_dispute"]

RESPONSE_SECONDS: Final = 7 * 86_400


def open_dispute(
    ctx: Context, *, charge: str, intent: str, amount: int, currency: str, method: StripeObject
) -> StripeObject:
    """The cardholder disputes a charge that went through."""
    dispute: StripeObject = {
        "id": ctx.new_id("du_"),
        "object": "dispute",
        "amount": amount,
        "balance_transactions": [],
        "charge": charge,
        "created": ctx.now_at,
        "currency": currency,
        "enhanced_eligibility_types": [],
        "evidence": {"enhanced_evidence": {}},
        "evidence_details": {
            "due_by": ctx.now_at + RESPONSE_SECONDS,
            "enhanced_eligibility": {},
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
        },
        "is_charge_refundable": False,
        "livemode": False,
        "metadata": {},
        "payment_intent": intent,
        "payment_method_details": {
            "card": {"brand": method["card"]["brand"], "case_type": "chargeback", "network_reason_code": "10.4"},
            "type": "card",
        },
        "reason": "fraudulent",
        "status": "needs_response",
        "_customer": method["customer"],
    }
    ctx.state.add(dispute)
    ctx.emit("charge.dispute.created", dispute)
    return dispute


def _close(ctx: Context) -> StripeObject:
    dispute = ctx.state.get("dispute", ctx.path["id"])
    if dispute["status"] == "lost":
        raise wrong_state("This dispute is already closed.")
    dispute["status"] = "lost"
    ctx.emit("charge.dispute.closed", dispute)
    return dispute


def _list(ctx: Context) -> StripeObject:
    p = ctx.params
    found = [
        d
        for d in ctx.state.all("dispute")
        if p.get("charge") in (None, d["charge"]) and p.get("payment_intent") in (None, d["payment_intent"])
    ]
    return page(ctx, found, "/v1/disputes")


ROUTES: Final = [
    Route("GET", "/v1/disputes", _list, {"charge": text(), "payment_intent": text()}, paged=True),
    Route("GET", "/v1/disputes/{id}", lambda ctx: ctx.state.get("dispute", ctx.path["id"])),
    Route("POST", "/v1/disputes/{id}/close", _close),
]
