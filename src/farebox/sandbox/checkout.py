"""Checkout sessions in subscription mode, and what happens when the buyer pays on the hosted page."""

from typing import Any, Final

from farebox.sandbox.catalog import merged_metadata
from farebox.sandbox.core import Context, Route, page
from farebox.sandbox.customers import attach_card, check_card, create_customer, live_customer
from farebox.sandbox.errors import invalid, not_modelled, wrong_state
from farebox.sandbox.params import array, enum, integer, metadata, obj, required, text
from farebox.sandbox.state import StripeObject
from farebox.sandbox.subscriptions import BILLING_MODE, ITEMS_MAX, check_prices, create_subscription

__all__ = ["EXPIRY_SECONDS_MAX", "EXPIRY_SECONDS_MIN", "ROUTES", "expire", "pay", "success_url"]

EXPIRY_SECONDS_MIN: Final = 1_800
EXPIRY_SECONDS_MAX: Final = 86_400
_SESSION_ID: Final = "{CHECKOUT_SESSION_ID}"


def _create(ctx: Context) -> StripeObject:
    p = ctx.params
    if p["mode"] != "subscription":
        raise not_modelled(f"checkout in {p['mode']} mode")
    customer = live_customer(ctx, p["customer"]) if "customer" in p else None
    if customer is not None and "customer_email" in p:
        raise invalid("You may only specify one of these parameters: customer, customer_email.", param="customer_email")
    items = _line_items(ctx, p["line_items"])
    expires_at = p.get("expires_at", ctx.now_at + EXPIRY_SECONDS_MAX)
    if not ctx.now_at + EXPIRY_SECONDS_MIN <= expires_at <= ctx.now_at + EXPIRY_SECONDS_MAX:
        raise invalid("expires_at must lie from 30 minutes to 24 hours from now.", param="expires_at")
    id = ctx.new_id("cs_test_")
    session = {
        "id": id,
        "object": "checkout.session",
        "adaptive_pricing": None,
        "after_expiration": None,
        "allow_promotion_codes": None,
        "amount_subtotal": 0,
        "amount_total": 0,
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
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
        "customer_creation": None if customer is not None else "always",
        "customer_details": {"email": customer["email"]} if customer is not None else None,
        "customer_email": p.get("customer_email"),
        "discounts": [],
        "expires_at": expires_at,
        "invoice": None,
        "invoice_creation": None,
        "livemode": False,
        "locale": None,
        "metadata": merged_metadata({}, p.get("metadata")),
        "mode": "subscription",
        "payment_intent": None,
        "payment_link": None,
        "payment_method_collection": "always",
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
        "_subscription_data": p.get("subscription_data", {}),
    }
    return ctx.state.add(session)


def _line_items(ctx: Context, asked: list[dict[str, Any]]) -> list[StripeObject]:
    known = [ctx.state.objects["price"].get(entry["price"]) for entry in asked]
    if any(price is not None and price["recurring"] is None for price in known):
        raise not_modelled("one-time prices in checkout yet")
    items = []
    for price in check_prices(ctx, asked, "line_items"):
        product = ctx.state.objects["product"][price["product"]]
        items.append(
            {
                "id": ctx.new_id("li_"),
                "object": "item",
                "adjustable_quantity": None,
                "amount_discount": 0,
                "amount_subtotal": 0,
                "amount_tax": 0,
                "amount_total": 0,
                "currency": price["currency"],
                "description": product["name"],
                "metadata": {},
                "price": price,
                "quantity": None,
            }
        )
    return items


def pay(ctx: Context, session: StripeObject, *, email: str, number: str, expiry: str, cvc: str) -> StripeObject:
    """What the hosted page's button does: take the card, begin the subscription, complete the session."""
    if session["status"] != "open":
        raise wrong_state(f"This checkout session is {session['status']}.")
    card = check_card(ctx, number, expiry, cvc)
    items = [{"price": line["price"]["id"]} for line in session["_line_items"]["data"]]
    check_prices(ctx, items, "line_items")  # again: one may have been retired since
    customer = ctx.state.objects["customer"].get(session["customer"] or "")
    if customer is None:
        found = {"email": session["customer_email"] or email} if session["customer_email"] or email else {}
        customer = create_customer(ctx, found)
    method = attach_card(ctx, customer, card)
    options = session["_subscription_data"]
    subscription = create_subscription(ctx, customer, items, {**options, "default_payment_method": method["id"]})
    # Purely metered in flexible mode: there is no first invoice, so nothing is due today.
    session.update(
        status="complete",
        payment_status="no_payment_required",
        subscription=subscription["id"],
        customer=customer["id"],
        customer_details={"email": customer["email"]},
        url=None,
    )
    ctx.emit("checkout.session.completed", session)
    return session


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
        for s in ctx.state.all("checkout.session")
        if p.get("customer") in (None, s["customer"])
        and p.get("subscription") in (None, s["subscription"])
        and p.get("status") in (None, s["status"])
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
    "customer_email": text(512),
    "client_reference_id": text(200),
    "metadata": metadata(),
    "expires_at": integer(),
    "subscription_data": obj({"metadata": metadata(), "description": text(500), "billing_mode": BILLING_MODE}),
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
