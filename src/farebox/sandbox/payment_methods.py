"""Payment methods over the API: cards made of Stripe's test tokens, attached to customers and detached.

A card's own number is refused, as Stripe refuses it.
"""

from typing import Any, Final

from farebox.sandbox.catalog import merged_metadata
from farebox.sandbox.core import Context, Route, page
from farebox.sandbox.customers import asked_method, live_customer, new_card, ready_card
from farebox.sandbox.errors import StripeError, invalid, missing_object, not_modelled, wrong_state
from farebox.sandbox.params import enum, integer, metadata, obj, required, text
from farebox.sandbox.state import StripeObject

__all__ = ["ROUTES"]


def _create(ctx: Context) -> StripeObject:
    p = ctx.params
    if p["type"] != "card":
        raise not_modelled(f"payment methods of type {p['type']}")
    asked = p.get("card", {})
    if asked.keys() - {"token"}:
        message = (
            "Sending credit card numbers directly to the Stripe API is generally unsafe. Use a test token such as "
            "tok_visa instead."
        )
        raise StripeError(402, "card_error", message, param="card[number]")
    if "token" not in asked:
        raise invalid("Missing required param: card.", param="card", code="parameter_missing")
    card = ready_card(ctx, asked["token"], "tok_")
    if card is None:
        raise missing_object("token", asked["token"], "card[token]", status=400)
    method = new_card(ctx, card)
    method["allow_redisplay"] = p.get("allow_redisplay", "unspecified")
    method["metadata"] = merged_metadata({}, p.get("metadata"))
    details = p.get("billing_details", {})
    method["billing_details"].update({name: value for name, value in details.items() if name != "address"})
    if "address" in details:
        names = ("city", "country", "line1", "line2", "postal_code", "state")
        method["billing_details"]["address"] = {name: details["address"].get(name) for name in names}
    return method


def _attach(ctx: Context) -> StripeObject:
    customer = live_customer(ctx, ctx.params["customer"])
    id = ctx.path["id"]
    if ready_card(ctx, id, "pm_card_") is None and ctx.state.get("payment_method", id)["customer"] is not None:
        raise wrong_state("The payment method you provided has already been attached to a customer.")
    return asked_method(ctx, id, customer, "id")


def _detach(ctx: Context) -> StripeObject:
    method = ctx.state.get("payment_method", ctx.path["id"])
    if method["customer"] is None:
        raise wrong_state("The payment method you provided is not attached to a customer so detachment is impossible.")
    customer = ctx.state.objects["customer"][method["customer"]]
    previous = {"customer": method["customer"]}
    method["customer"] = None
    if customer["invoice_settings"]["default_payment_method"] == method["id"]:
        customer["invoice_settings"]["default_payment_method"] = None
    for subscription in ctx.state.of_customer("subscription", customer["id"]):
        if subscription["default_payment_method"] == method["id"]:
            subscription["default_payment_method"] = None
    ctx.emit("payment_method.detached", method, previous)
    return method


def _list(ctx: Context) -> StripeObject:
    """Without a customer Stripe lists none of their cards, and none that is nobody's either."""
    customer = ctx.params.get("customer")
    if customer is None:
        return page(ctx, [], "/v1/payment_methods")
    live_customer(ctx, customer)
    return page(ctx, ctx.state.of_customer("payment_method", customer), "/v1/payment_methods")


_ADDRESS: Final = obj({name: text() for name in ("city", "country", "line1", "line2", "postal_code", "state")})
_TYPES: Final = enum("card", "sepa_debit", "us_bank_account", "link", "bacs_debit", "acss_debit", "cashapp", "paypal")
_CARD: Final = {
    "token": text(),
    "number": text(),
    "exp_month": integer(1, 12),
    "exp_year": integer(0, 9_999),
    "cvc": text(4),
}
_CREATE: Final[dict[str, Any]] = {
    "type": required(_TYPES),
    "card": obj(_CARD),
    "allow_redisplay": enum("always", "limited", "unspecified"),
    "billing_details": obj({"address": _ADDRESS, "email": text(512), "name": text(), "phone": text()}),
    "metadata": metadata(),
}

ROUTES: Final = [
    Route("POST", "/v1/payment_methods", _create, _CREATE),
    Route("GET", "/v1/payment_methods", _list, {"customer": text(), "type": _TYPES}, paged=True),
    Route("POST", "/v1/payment_methods/{id}/attach", _attach, {"customer": required(text())}),
    Route("POST", "/v1/payment_methods/{id}/detach", _detach),
]
