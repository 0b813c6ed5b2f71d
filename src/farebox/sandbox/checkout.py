"""Checkout sessions in subscription mode, and what happens when the buyer pays on the hosted page."""

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, Final

from farebox.sandbox.cart import apply_promotion_code, recurring_items, session_discounts, total_up
from farebox.sandbox.catalog import merged_metadata
from farebox.sandbox.core import Context, Route, page
from farebox.sandbox.currencies import chargeable
from farebox.sandbox.customers import (
    Card,
    attach_card,
    authentication_required,
    check_card,
    create_customer,
    live_customer,
)
from farebox.sandbox.discounts import Asked, new_discounts
from farebox.sandbox.errors import StripeError, invalid, not_modelled, wrong_state
from farebox.sandbox.invoiceitems import new_item
from farebox.sandbox.lifecycle import begin
from farebox.sandbox.onetime import (
    CUSTOMER_CREATION,
    PAYMENT_INTENT_DATA,
    check_mode,
    complete_payment,
    one_time_items,
)
from farebox.sandbox.params import array, boolean, email, enum, integer, metadata, obj, required, text
from farebox.sandbox.pricing import amount_of
from farebox.sandbox.sellable import ITEMS_MAX, check_prices
from farebox.sandbox.state import StripeObject
from farebox.sandbox.subscriptions import BILLING_MODE, build_subscription
from farebox.sandbox.taxes import AUTOMATIC_TAX, automatic_tax, check_tax
from farebox.sandbox.trials import TRIAL_SETTINGS

__all__ = ["EXPIRY_SECONDS_MAX", "EXPIRY_SECONDS_MIN", "ROUTES", "expire", "pay", "success_url"]

EXPIRY_SECONDS_MIN: Final = 1_800
EXPIRY_SECONDS_MAX: Final = 86_400
# What the page would have asked for where tax has to be computed.
_ADDRESS: Final = {
    "city": "San Francisco",
    "country": "US",
    "line1": "354 Oyster Point Blvd",
    "line2": None,
    "postal_code": "94080",
    "state": "CA",
}
_SESSION_ID: Final = "{CHECKOUT_SESSION_ID}"


def _create(ctx: Context) -> StripeObject:
    p = ctx.params
    if p["mode"] == "setup":
        raise not_modelled("checkout in setup mode")
    check_mode(p)
    customer = live_customer(ctx, p["customer"]) if "customer" in p else None
    if customer is not None and "customer_email" in p:
        raise invalid("You may only specify one of these parameters: customer, customer_email.", param="customer_email")
    if "customer_update" in p and customer is None:
        raise invalid("`customer_update` can only be used with `customer`.", param="customer_update")
    check_tax(p, customer)
    if "allow_promotion_codes" in p and "discounts" in p:
        raise invalid(
            "You may only specify one of these parameters: allow_promotion_codes, discounts.", param="discounts"
        )
    items = one_time_items(ctx, p["line_items"]) if p["mode"] == "payment" else recurring_items(ctx, p["line_items"])
    expires_at = p.get("expires_at", ctx.now_at + EXPIRY_SECONDS_MAX)
    if not ctx.now_at + EXPIRY_SECONDS_MIN <= expires_at <= ctx.now_at + EXPIRY_SECONDS_MAX:
        raise invalid("expires_at must lie from 30 minutes to 24 hours from now.", param="expires_at")
    id = ctx.new_id("cs_test_")
    session = {
        "id": id,
        "object": "checkout.session",
        "adaptive_pricing": None,
        "after_expiration": None,
        "allow_promotion_codes": p.get("allow_promotion_codes"),
        "amount_subtotal": 0,
        "amount_total": 0,
        "automatic_tax": automatic_tax(p),
        "billing_address_collection": None,
        "cancel_url": p.get("cancel_url"),
        "client_reference_id": p.get("client_reference_id"),
        "client_secret": None,
        "consent": None,
        "consent_collection": None,
        "created": ctx.now_at,
        "currency": items[0]["price"]["currency"],
        "custom_fields": [],
        "custom_text": {
            "after_submit": None,
            "shipping_address": None,
            "submit": None,
            "terms_of_service_acceptance": None,
        },
        "customer": p.get("customer"),
        "customer_creation": None if customer is not None else CUSTOMER_CREATION[p["mode"]],
        "customer_details": {"email": customer["email"]} if customer is not None else None,
        "customer_email": p.get("customer_email"),
        "discounts": [],
        "expires_at": expires_at,
        "invoice": None,
        "invoice_creation": None,
        "livemode": False,
        "locale": None,
        "metadata": merged_metadata({}, p.get("metadata")),
        "mode": p["mode"],
        "payment_intent": None,
        "payment_link": None,
        "payment_method_collection": p.get("payment_method_collection", "always"),
        "payment_method_configuration_details": None,
        "payment_method_options": {},
        "payment_method_types": ["card"],
        "payment_status": "unpaid",
        "permissions": None,
        "phone_number_collection": {"enabled": False},
        "recovered_from": None,
        "saved_payment_method_options": None,
        "setup_intent": None,
        "shipping_address_collection": None,
        "shipping_cost": None,
        "shipping_options": [],
        "status": "open",
        "submit_type": None,
        "subscription": None,
        "success_url": p["success_url"],
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        "ui_mode": "hosted_page",
        "url": f"{ctx.sandbox.base_url}/pay/{id}",
        "wallet_options": None,
        "_line_items": {
            "object": "list",
            "data": items,
            "has_more": False,
            "url": f"/v1/checkout/sessions/{id}/line_items",
        },
        "_saves_address": (p.get("customer_update") or {}).get("address") == "auto",
        "_subscription_data": p.get("subscription_data", {}),
    }
    total_up(ctx, session, session_discounts(ctx, session, p.get("discounts", [])))
    if (
        p["mode"] == "payment"
        and session["amount_total"]
        and not chargeable(session["amount_total"], session["currency"])
    ):
        message = "The Checkout Session's total amount due is less than the least amount that can be charged."
        raise invalid(message, code="amount_too_small")
    return ctx.state.add(session)


def pay(
    ctx: Context,
    session: StripeObject,
    *,
    email: str,
    number: str,
    expiry: str,
    cvc: str,
    authenticated: bool = False,
    promotion_code: str = "",
) -> StripeObject:
    """What the hosted page's button does: take the card, begin the subscription, complete the session.

    A card of 3-D Secure is refused with `authentication_required` until its buyer has been `authenticated`.
    """
    if session["status"] != "open":
        raise wrong_state(f"This checkout session is {session['status']}.")
    if promotion_code:
        apply_promotion_code(ctx, session, promotion_code)
    card = None
    if number or session["payment_method_collection"] == "always" or session["amount_total"]:
        card = check_card(ctx, number, expiry, cvc)
        _check_charge(session, card, authenticated=authenticated)
    if session["mode"] == "payment":
        return complete_payment(ctx, session, email)
    items = [
        {"price": line["price"]["id"], **({"quantity": line["quantity"]} if line["quantity"] is not None else {})}
        for line in session["_line_items"]["data"]
        if line["price"]["recurring"] is not None
    ]
    check_prices(ctx, items, "line_items")  # again: one may have been retired since
    asked = session_discounts(ctx, session, [{k: d[k] for k in _named(d)} for d in session["discounts"]])
    customer = _buyer(ctx, session, email)
    method = attach_card(ctx, customer, card) if card is not None else None
    subscription = _subscribe(ctx, session, customer, items, asked, method)
    session.update(  # purely metered in flexible mode: no first invoice, so nothing is due today
        status="complete",
        payment_status="paid" if session["amount_total"] else "no_payment_required",
        subscription=subscription["id"],
        invoice=subscription["latest_invoice"],
        customer=customer["id"],
        customer_details={"email": customer["email"]},
        url=None,
    )
    ctx.emit("checkout.session.completed", session)
    return session


def _buyer(ctx: Context, session: StripeObject, email: str) -> StripeObject:
    """The session's customer, or a new one. With tax the page asks for an address, and keeps it where it may."""
    customer = ctx.state.objects["customer"].get(session["customer"] or "")
    if customer is None:
        found = {"email": session["customer_email"] or email} if session["customer_email"] or email else {}
        customer = create_customer(ctx, found)
    if session["automatic_tax"]["enabled"] and (session["_saves_address"] or session["customer"] is None):
        customer["address"] = dict(_ADDRESS)
    return customer


def _subscribe(
    ctx: Context,
    session: StripeObject,
    customer: StripeObject,
    items: list[dict[str, Any]],
    asked: list[Asked],
    method: StripeObject | None,
) -> StripeObject:
    chosen = {"default_payment_method": method["id"]} if method is not None else {}
    options = {**session["_subscription_data"], "automatic_tax": session["automatic_tax"], **chosen}
    subscription = build_subscription(ctx, customer, items, options)
    subscription["_discounts"] = new_discounts(ctx, asked, subscription, session=session["id"])
    subscription["discounts"] = [discount["id"] for discount in subscription["_discounts"]]
    once = [
        _once(ctx, subscription, line) for line in session["_line_items"]["data"] if line["price"]["recurring"] is None
    ]
    with _present(method):
        begin(ctx, subscription, once=once)
    return subscription


def _once(ctx: Context, subscription: StripeObject, line: StripeObject) -> StripeObject:
    """A one-time line as an item of the first invoice."""
    price, quantity = line["price"], line["quantity"]
    return new_item(
        ctx,
        subscription["customer"],
        amount=amount_of(price, Decimal(quantity)),
        currency=price["currency"],
        description=line["description"],
        quantity=quantity,
        price=price,
        unit_amount=price["unit_amount_decimal"],
        subscription=subscription["id"],
    )


def _check_charge(session: StripeObject, card: Card, *, authenticated: bool) -> None:
    """Whether what is due today can be charged to this card."""
    if card.authenticates and not authenticated:
        raise authentication_required()
    if card.fails_later and session["amount_total"]:
        raise StripeError(402, "card_error", "Your card was declined.", code="card_declined")


def _named(discount: StripeObject) -> list[str]:
    return ["promotion_code"] if discount["promotion_code"] is not None else ["coupon"]


@contextmanager
def _present(method: StripeObject | None) -> Iterator[None]:
    """While the buyer is there, the card is charged as the buyer has let it."""
    if method is not None:
        method["_present"] = True
    yield
    if method is not None:
        method["_present"] = False


def expire(ctx: Context, session: StripeObject) -> StripeObject:
    """Close an open session without a purchase."""
    if session["status"] != "open":
        raise wrong_state(
            f'Only Checkout Sessions with a status in ["open"] can be expired. This one is {session["status"]}.'
        )
    session.update(status="expired", url=None)
    ctx.emit("checkout.session.expired", session)
    return session


def success_url(session: StripeObject) -> str:
    """Where the buyer goes after paying, with the session's id in it."""
    return str(session["success_url"]).replace(_SESSION_ID, session["id"])


def _list(ctx: Context) -> StripeObject:
    p = ctx.params
    found = [
        s
        for s in ctx.state.all("checkout.session", p.get("customer"))
        if p.get("subscription") in (None, s["subscription"]) and p.get("status") in (None, s["status"])
    ]
    return page(ctx, found, "/v1/checkout/sessions")


def _line_item_list(ctx: Context) -> StripeObject:
    session = ctx.state.get("checkout.session", ctx.path["id"])
    return page(ctx, session["_line_items"]["data"], f"/v1/checkout/sessions/{session['id']}/line_items")


_CREATE: Final = {
    "mode": required(enum("payment", "setup", "subscription")),
    "line_items": required(array(obj({"price": required(text()), "quantity": integer(1)}), ITEMS_MAX)),
    "success_url": required(text()),
    "cancel_url": text(),
    "customer": text(),
    "customer_email": email(),
    "automatic_tax": AUTOMATIC_TAX,
    "customer_update": obj({name: enum("auto", "never") for name in ("address", "name", "shipping")}),
    "client_reference_id": text(200),
    "metadata": metadata(),
    "expires_at": integer(),
    "allow_promotion_codes": boolean(),
    "discounts": array(obj({"coupon": text(), "promotion_code": text()}), 1),
    "payment_intent_data": PAYMENT_INTENT_DATA,
    "payment_method_collection": enum("always", "if_required"),
    "subscription_data": obj(
        {
            "billing_mode": BILLING_MODE,
            "description": text(500),
            "metadata": metadata(),
            "trial_end": integer(),
            "trial_period_days": integer(1, 730),
            "trial_settings": TRIAL_SETTINGS,
        }
    ),
}
_FILTER: Final = {"customer": text(), "subscription": text(), "status": enum("complete", "expired", "open")}

ROUTES: Final = [
    Route("POST", "/v1/checkout/sessions", _create, _CREATE),
    Route("GET", "/v1/checkout/sessions", _list, _FILTER, paged=True),
    Route("GET", "/v1/checkout/sessions/{id}", lambda ctx: ctx.state.get("checkout.session", ctx.path["id"])),
    Route(
        "POST",
        "/v1/checkout/sessions/{id}/expire",
        lambda ctx: expire(ctx, ctx.state.get("checkout.session", ctx.path["id"])),
    ),
    Route("GET", "/v1/checkout/sessions/{id}/line_items", _line_item_list, paged=True),
]
