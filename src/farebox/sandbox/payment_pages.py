"""The hosted page's own API, with which the official CLI pays a Checkout session. Stripe documents none of it."""

from typing import Final

from farebox.sandbox import checkout
from farebox.sandbox.core import Context, Route
from farebox.sandbox.errors import invalid
from farebox.sandbox.params import integer, required, text
from farebox.sandbox.state import StripeObject

__all__ = ["ROUTES"]


def _page(ctx: Context) -> StripeObject:
    return _shown(ctx.state.get("checkout.session", ctx.path["id"]))


def _shown(session: StripeObject) -> StripeObject:
    return {
        "id": session["id"].replace("cs_test_", "ppage_"),
        "object": "payment_page",
        "currency": session["currency"],
        "livemode": False,
        "mode": session["mode"],
        "session_id": session["id"],
        "status": session["status"],
        "total": session["amount_total"],
    }


def _confirm(ctx: Context) -> StripeObject:
    """What the page's button does, with a card that is there already."""
    p = ctx.params
    session = ctx.state.get("checkout.session", ctx.path["id"])
    method = ctx.state.get("payment_method", p["payment_method"], param="payment_method", status=400)
    if p.get("expected_amount", session["amount_total"]) != session["amount_total"]:
        raise invalid(
            f"The amount to pay is {session['amount_total']}, not {p['expected_amount']}.", param="expected_amount"
        )
    card = method["card"]
    checkout.pay(
        ctx,
        session,
        email=method["billing_details"]["email"] or "",
        number=method["_digits"],
        expiry=f"{card['exp_month']}/{card['exp_year']}",
        cvc="123",
    )
    return _shown(session)


ROUTES: Final = [
    Route("GET", "/v1/payment_pages/{id}", _page),
    Route(
        "POST",
        "/v1/payment_pages/{id}/confirm",
        _confirm,
        {"payment_method": required(text()), "expected_amount": integer()},
    ),
]
