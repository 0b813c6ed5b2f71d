"""Customers, the cards they have given, and the account itself."""

import copy
from dataclasses import dataclass
from typing import Any, Final

from farebox.sandbox.catalog import merged_metadata
from farebox.sandbox.core import Context, Route, page
from farebox.sandbox.errors import StripeError, missing_object
from farebox.sandbox.params import metadata, obj, text
from farebox.sandbox.periods import year_and_month
from farebox.sandbox.state import StripeObject

__all__ = [
    "CARD_DIGITS_MAX",
    "ROUTES",
    "Card",
    "attach_card",
    "charge_succeeds",
    "check_card",
    "create_customer",
    "live_customer",
]

CARD_DIGITS_MAX: Final = 19
_SUCCEEDS: Final = frozenset({"4242424242424242", "5555555555554444", "4000056655665556"})
_FAILS_LATER: Final = "4000000000000341"
_DECLINES: Final = {
    "4000000000000002": ("generic_decline", "Your card was declined."),
    "4000000000009995": ("insufficient_funds", "Your card has insufficient funds."),
    "4000000000000069": ("expired_card", "Your card has expired."),
    "4000000000000127": ("incorrect_cvc", "Your card's security code is incorrect."),
}


@dataclass(frozen=True, slots=True)
class Card:
    """A test card that would be accepted."""

    digits: str
    month: int
    year: int


def create_customer(ctx: Context, p: dict[str, Any]) -> StripeObject:
    """A new customer from checked parameters."""
    customer: StripeObject = {
        "id": ctx.new_id("cus_"),
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": ctx.now_at,
        "currency": None,
        "default_source": None,
        "delinquent": False,
        "description": p.get("description"),
        "discount": None,
        "email": p.get("email"),
        "invoice_prefix": ctx.new_id("")[:8].upper(),
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "livemode": False,
        "metadata": merged_metadata({}, p.get("metadata")),
        "name": p.get("name"),
        "next_invoice_sequence": 1,
        "phone": p.get("phone"),
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": None,
    }
    ctx.state.add(customer)
    ctx.emit("customer.created", customer)
    return customer


def live_customer(ctx: Context, id: str, *, param: str = "customer", status: int = 400) -> StripeObject:
    """A customer that has not been deleted, as a parameter names it."""
    customer = ctx.state.get("customer", id, param=param, status=status)
    if customer.get("deleted"):
        raise missing_object("customer", id, param, status=status)
    return customer


def _asked_for(ctx: Context) -> StripeObject:
    return live_customer(ctx, ctx.path["id"], param="id", status=404)


def _retrieve(ctx: Context) -> StripeObject:
    customer = ctx.state.get("customer", ctx.path["id"])
    return {"id": customer["id"], "object": "customer", "deleted": True} if customer.get("deleted") else customer


def _update(ctx: Context) -> StripeObject:
    customer = _asked_for(ctx)
    method = ctx.params.get("invoice_settings", {}).get("default_payment_method")
    if method is not None:
        ctx.state.get("payment_method", method, param="invoice_settings[default_payment_method]", status=400)
    previous = {name: copy.deepcopy(customer[name]) for name in ctx.params}
    for name, value in ctx.params.items():
        if name == "metadata":
            customer["metadata"] = merged_metadata(customer["metadata"], value)
        elif name == "invoice_settings":
            customer["invoice_settings"].update(value)
        else:
            customer[name] = value
    ctx.emit("customer.updated", customer, previous)
    return customer


def _delete(ctx: Context) -> StripeObject:
    customer = _asked_for(ctx)
    for subscription in ctx.state.all("subscription"):
        if subscription["customer"] == customer["id"] and subscription["status"] not in (
            "canceled",
            "incomplete_expired",
        ):
            subscription.update(status="canceled", canceled_at=ctx.now_at, ended_at=ctx.now_at)
            ctx.emit("customer.subscription.deleted", subscription)
    customer["deleted"] = True
    ctx.emit("customer.deleted", customer)
    return {"id": customer["id"], "object": "customer", "deleted": True}


def _list(ctx: Context) -> StripeObject:
    email = ctx.params.get("email")
    found = [c for c in ctx.state.all("customer") if not c.get("deleted") and email in (None, c["email"])]
    return page(ctx, found, "/v1/customers")


def check_card(ctx: Context, number: str, expiry: str, cvc: str) -> Card:
    """The test card as a buyer typed it. A 402 card_error for a declined or malformed one."""
    digits = number.replace(" ", "").replace("-", "")
    if not (digits.isascii() and digits.isdecimal() and 12 <= len(digits) <= CARD_DIGITS_MAX and _luhn(digits)):
        raise _card_error("incorrect_number", "Your card number is incorrect.", "number")
    month, year = _expiry(ctx, expiry)
    if not (cvc.isascii() and cvc.isdecimal() and len(cvc) in (3, 4)):
        raise _card_error("invalid_cvc", "Your card's security code is incomplete.", "cvc")
    if digits in _DECLINES:
        raise _card_error("card_declined", _DECLINES[digits][1], None)
    if digits not in _SUCCEEDS and digits != _FAILS_LATER:
        raise _card_error("card_declined", "This is a local stand-in: only Stripe's test cards work here.", "number")
    return Card(digits, month, year)


def attach_card(ctx: Context, customer: StripeObject, card: Card) -> StripeObject:
    """Make a card the customer's default."""
    method = {
        "id": ctx.new_id("pm_"),
        "object": "payment_method",
        "allow_redisplay": "limited",
        "billing_details": {"address": None, "email": customer["email"], "name": None, "phone": None, "tax_id": None},
        "card": {
            "brand": "mastercard" if card.digits[0] == "5" else "visa",
            "country": "US",
            "exp_month": card.month,
            "exp_year": card.year,
            "funding": "credit",
            "last4": card.digits[-4:],
        },
        "created": ctx.now_at,
        "customer": customer["id"],
        "livemode": False,
        "metadata": {},
        "type": "card",
        "_fails": card.digits == _FAILS_LATER,
    }
    ctx.state.add(method)
    customer["invoice_settings"]["default_payment_method"] = method["id"]
    ctx.emit("payment_method.attached", method)
    return method


def charge_succeeds(ctx: Context, subscription: StripeObject | None, customer: StripeObject) -> bool:
    """Whether a charge to the card that stands for this subscription would go through."""
    chosen = subscription["default_payment_method"] if subscription is not None else None
    chosen = chosen or customer["invoice_settings"]["default_payment_method"]
    method = ctx.state.objects["payment_method"].get(chosen) if chosen is not None else None
    return method is not None and not method["_fails"]


def _expiry(ctx: Context, text: str) -> tuple[int, int]:
    month, _, year = text.replace(" ", "").partition("/")
    if not (
        month.isdecimal() and year.isdecimal() and 1 <= int(month) <= 12 and len(year) in (2, 4) and year.isascii()
    ):
        raise _card_error(
            "invalid_expiry_year", "Your card's expiration date is not valid. Write it as 12/34.", "exp_year"
        )
    full = int(year) + (2000 if len(year) == 2 else 0)
    now_year, now_month = year_and_month(ctx.now_at)
    if (full, int(month)) < (now_year, now_month):
        raise _card_error("invalid_expiry_year", "Your card's expiration date is in the past.", "exp_year")
    return int(month), full


def _card_error(code: str, message: str, param: str | None) -> StripeError:
    return StripeError(402, "card_error", message, code=code, param=param)


def _luhn(digits: str) -> bool:
    total = 0
    for i, digit in enumerate(reversed(digits)):
        number = int(digit) * (1 + i % 2)
        total += number - 9 if number > 9 else number
    return total % 10 == 0


def _account(ctx: Context) -> StripeObject:
    return {
        "id": ctx.state.account_id,
        "object": "account",
        "charges_enabled": True,
        "country": "US",
        "default_currency": "usd",
        "details_submitted": True,
        "email": None,
        "payouts_enabled": False,
        "type": "standard",
        "metadata": {},
    }


_CUSTOMER: Final = {
    "email": text(512),
    "name": text(256, empty=True),
    "description": text(empty=True),
    "phone": text(20),
    "metadata": metadata(),
}
_CHANGE: Final = {**_CUSTOMER, "invoice_settings": obj({"default_payment_method": text()})}


def _methods(ctx: Context) -> StripeObject:
    customer = _asked_for(ctx)
    found = [m for m in ctx.state.all("payment_method") if m["customer"] == customer["id"]]
    return page(ctx, found, f"/v1/customers/{customer['id']}/payment_methods")


ROUTES: Final = [
    Route("GET", "/v1/account", _account),
    Route("POST", "/v1/customers", lambda ctx: create_customer(ctx, ctx.params), _CUSTOMER),
    Route("GET", "/v1/customers", _list, {"email": text(512)}, paged=True),
    Route("GET", "/v1/customers/{id}", _retrieve),
    Route("POST", "/v1/customers/{id}", _update, _CHANGE),
    Route("DELETE", "/v1/customers/{id}", _delete),
    Route("GET", "/v1/customers/{id}/payment_methods", _methods, {"type": text()}, paged=True),
    Route("GET", "/v1/payment_methods/{id}", lambda ctx: ctx.state.get("payment_method", ctx.path["id"])),
]
