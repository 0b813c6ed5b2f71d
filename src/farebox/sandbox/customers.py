"""Customers, the cards they have given, and the account itself."""

import copy
from dataclasses import dataclass
from typing import Any, Final

from farebox.sandbox.catalog import merged_metadata
from farebox.sandbox.core import Context, Route, page
from farebox.sandbox.errors import StripeError, missing_object
from farebox.sandbox.params import email, integer, metadata, obj, text, unsettable
from farebox.sandbox.periods import year_and_month
from farebox.sandbox.state import StripeObject
from farebox.sandbox.status import ENDED, end_subscription
from farebox.sandbox.timelines import joined_clock

__all__ = [
    "CARD_DIGITS_MAX",
    "ROUTES",
    "Card",
    "Charged",
    "asked_method",
    "attach_card",
    "authentication_required",
    "card_of",
    "charge",
    "check_card",
    "create_customer",
    "delete_customer",
    "live_customer",
    "new_card",
    "own_method",
    "ready_card",
]

CARD_DIGITS_MAX: Final = 19
_SUCCEEDS: Final = frozenset({"4242424242424242", "5555555555554444", "4000056655665556", "4000000000000259"})
_DISPUTES: Final = "4000000000000259"
_FAILS_LATER: Final = "4000000000000341"
_AUTHENTICATES: Final = "4000002760003184"  # 3-D Secure, each time
_ADDRESS_PARTS: Final = ("city", "country", "line1", "line2", "postal_code", "state")
_DECLINES: Final = {
    "4000000000000002": ("generic_decline", "Your card was declined."),
    "4000000000009995": ("insufficient_funds", "Your card has insufficient funds."),
    "4000000000000069": ("expired_card", "Your card has expired."),
    "4000000000000127": ("incorrect_cvc", "Your card's security code is incorrect."),
}
_NAMED: Final = {  # what Stripe's own test tokens and payment methods are called: tok_visa, pm_card_visa
    "visa": "4242424242424242",
    "visa_debit": "4000056655665556",
    "mastercard": "5555555555554444",
    "chargeCustomerFail": _FAILS_LATER,
    "authenticationRequired": _AUTHENTICATES,
    "createDispute": _DISPUTES,
}


@dataclass(frozen=True, slots=True)
class Card:
    """A test card that would be accepted."""

    digits: str
    month: int
    year: int

    @property
    def authenticates(self) -> bool:
        """Whether its bank asks the buyer, each time that it is charged."""
        return self.digits == _AUTHENTICATES

    @property
    def fails_later(self) -> bool:
        """Whether it is accepted, and declined when it is charged."""
        return self.digits == _FAILS_LATER


@dataclass(frozen=True, slots=True)
class Charged:
    """How a charge went: succeeded, declined or requires_action; the payment intent it was, and the card."""

    outcome: str
    intent: str
    method: StripeObject | None


def create_customer(ctx: Context, p: dict[str, Any]) -> StripeObject:
    """A new customer from checked parameters."""
    for param, id in _cards_asked(p):
        _check_free(ctx, id, None, param)
    clock = joined_clock(ctx.state, p["test_clock"]) if "test_clock" in p else None
    customer: StripeObject = {
        "id": ctx.new_id("cus_"),
        "object": "customer",
        "address": _address(p.get("address")),
        "balance": p.get("balance", 0),
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
        "test_clock": clock["id"] if clock is not None else None,
    }
    ctx.state.add(customer)
    _take_cards(ctx, customer, p)
    ctx.emit("customer.created", customer)
    return customer


def _address(asked: dict[str, str] | None) -> dict[str, str | None] | None:
    return {name: asked.get(name) for name in _ADDRESS_PARTS} if asked else None


def _cards_asked(p: dict[str, Any]) -> list[tuple[str, str]]:
    """The parameters that name a card, and what they name."""
    default = p.get("invoice_settings", {}).get("default_payment_method")
    asked = {"payment_method": p.get("payment_method"), "invoice_settings[default_payment_method]": default}
    return [(param, id) for param, id in asked.items() if id is not None]


def _take_cards(ctx: Context, customer: StripeObject, p: dict[str, Any]) -> None:
    """The cards that a new customer comes with, by their ids or by the names of Stripe's test cards."""
    taken: dict[str, StripeObject] = {}
    for param, id in _cards_asked(p):
        taken[id] = taken.get(id) or asked_method(ctx, id, customer, param)
        if param != "payment_method":
            customer["invoice_settings"]["default_payment_method"] = taken[id]["id"]


def asked_method(ctx: Context, id: str, customer: StripeObject, param: str) -> StripeObject:
    """The card of this id, which is the customer's; one that is nobody's, or a test card's name, becomes theirs."""
    _check_free(ctx, id, customer["id"], param)
    card = ready_card(ctx, id, "pm_card_")
    method = new_card(ctx, card) if card is not None else ctx.state.get("payment_method", id)
    if method["customer"] is None:
        method["customer"] = customer["id"]
        ctx.emit("payment_method.attached", method)
    return method


def own_method(ctx: Context, id: str, customer: StripeObject, param: str) -> StripeObject:
    """The payment method of this id, which must be attached to the customer."""
    method = ctx.state.get("payment_method", id, param=param, status=400)
    if method["customer"] != customer["id"]:
        message = (
            f"The customer does not have a payment method with the ID {id}. The payment method must be attached to the "
            "customer."
        )
        raise StripeError(400, "invalid_request_error", message, code="resource_missing", param=param)
    return method


def _check_free(ctx: Context, id: str, customer_id: str | None, param: str) -> None:
    if ready_card(ctx, id, "pm_card_") is not None:
        return
    if ctx.state.get("payment_method", id, param=param, status=400)["customer"] not in (None, customer_id):
        message = f"The customer does not have a payment method with the ID {id}. It belongs to another customer."
        raise StripeError(400, "invalid_request_error", message, code="resource_missing", param=param)


def ready_card(ctx: Context, name: str, prefix: str) -> Card | None:
    """The test card of this name after the prefix, good for years yet; None where it is no such name."""
    digits = _NAMED.get(name.removeprefix(prefix)) if name.startswith(prefix) else None
    return Card(digits, 12, year_and_month(ctx.now_at)[0] + 4) if digits is not None else None


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
        chosen = asked_method(ctx, method, customer, "invoice_settings[default_payment_method]")
        ctx.params["invoice_settings"]["default_payment_method"] = chosen["id"]
    previous = {name: copy.deepcopy(customer[name]) for name in ctx.params}
    for name, value in ctx.params.items():
        if name == "address":
            customer["address"] = _address(value)
        elif name == "metadata":
            customer["metadata"] = merged_metadata(customer["metadata"], value)
        elif name == "invoice_settings":
            customer["invoice_settings"].update(value)
        else:
            customer[name] = value
    ctx.emit("customer.updated", customer, previous)
    return customer


def _delete(ctx: Context) -> StripeObject:
    return delete_customer(ctx, _asked_for(ctx))


def delete_customer(ctx: Context, customer: StripeObject) -> StripeObject:
    """Delete the customer; their subscriptions are canceled at once."""
    for subscription in ctx.state.of_customer("subscription", customer["id"]):
        if subscription["status"] not in ENDED:
            end_subscription(ctx, subscription, None)
    ctx.emit("customer.deleted", customer)  # the event shows it as it was
    customer["deleted"] = True
    return {"id": customer["id"], "object": "customer", "deleted": True}


def _list(ctx: Context) -> StripeObject:
    email = ctx.params.get("email")
    clock = ctx.params.get("test_clock")  # without it, Stripe lists nobody who lives by one
    found = [
        c
        for c in ctx.state.all("customer")
        if not c.get("deleted") and email in (None, c["email"]) and c["test_clock"] == clock
    ]
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
    if digits not in _SUCCEEDS and digits not in (_FAILS_LATER, _AUTHENTICATES):
        raise _card_error("card_declined", "This is a local stand-in: only Stripe's test cards work here.", "number")
    return Card(digits, month, year)


def attach_card(ctx: Context, customer: StripeObject, card: Card) -> StripeObject:
    """Attach a card to the customer. It becomes nobody's default by this."""
    method = new_card(ctx, card, customer)
    ctx.emit("payment_method.attached", method)
    return method


def new_card(ctx: Context, card: Card, customer: StripeObject | None = None) -> StripeObject:
    """A payment method of this card: the customer's, or nobody's yet."""
    email = customer["email"] if customer is not None else None
    method = {
        "id": ctx.new_id("pm_"),
        "object": "payment_method",
        "allow_redisplay": "limited",
        "billing_details": {"address": None, "email": email, "name": None, "phone": None, "tax_id": None},
        "card": {
            "brand": "mastercard" if card.digits[0] == "5" else "visa",
            "country": "US",
            "exp_month": card.month,
            "exp_year": card.year,
            "funding": "credit",
            "last4": card.digits[-4:],
        },
        "created": ctx.now_at,
        "customer": customer["id"] if customer is not None else None,
        "livemode": False,
        "metadata": {},
        "type": "card",
        "_fails": card.digits == _FAILS_LATER or card.authenticates,  # nobody is there to be asked at a renewal
        "_authenticates": card.authenticates,
        "_disputes": card.digits == _DISPUTES,
        "_digits": card.digits,
    }
    return ctx.state.add(method)


def card_of(
    ctx: Context, subscription: StripeObject | None, customer: StripeObject, invoice: StripeObject | None = None
) -> StripeObject | None:
    """The payment method to charge: the invoice's own, else the subscription's, else the customer's default."""
    chosen = invoice["default_payment_method"] if invoice is not None else None
    chosen = chosen or (subscription["default_payment_method"] if subscription is not None else None)
    chosen = chosen or customer["invoice_settings"]["default_payment_method"]
    found: StripeObject | None = ctx.state.objects["payment_method"].get(chosen) if chosen is not None else None
    return found


def charge(ctx: Context, method: StripeObject | None) -> Charged:
    """What charging this payment method comes to; None is declined. `_present`: the buyer has been asked."""
    outcome = "declined"
    if method is not None and (not method["_fails"] or (method.get("_present") and method["_authenticates"])):
        outcome = "succeeded"
    elif method is not None and method.get("_authenticates"):
        outcome = "requires_action"
    return Charged(outcome, ctx.new_id("pi_"), method)


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


def authentication_required() -> StripeError:
    """The buyer has to be asked by their bank first: 3-D Secure."""
    message = "Your card was declined. This transaction requires authentication: let the buyer complete 3-D Secure."
    return _card_error("authentication_required", message, None)


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
    "address": unsettable(obj({name: text() for name in _ADDRESS_PARTS}), {}),
    "email": email(),
    "name": text(256, empty=True),
    "description": text(empty=True),
    "phone": text(20),
    "metadata": metadata(),
    "balance": integer(-99_999_999, 99_999_999),
}
_CHANGE: Final = {**_CUSTOMER, "invoice_settings": obj({"default_payment_method": text()})}
_CREATE: Final = {**_CHANGE, "payment_method": text(), "test_clock": text()}


def _methods(ctx: Context) -> StripeObject:
    customer = _asked_for(ctx)
    found = ctx.state.of_customer("payment_method", customer["id"])
    return page(ctx, found, f"/v1/customers/{customer['id']}/payment_methods")


ROUTES: Final = [
    Route("GET", "/v1/account", _account),
    Route("POST", "/v1/customers", lambda ctx: create_customer(ctx, ctx.params), _CREATE),
    Route("GET", "/v1/customers", _list, {"email": text(512), "test_clock": text()}, paged=True),
    Route("GET", "/v1/customers/{id}", _retrieve),
    Route("POST", "/v1/customers/{id}", _update, _CHANGE),
    Route("DELETE", "/v1/customers/{id}", _delete),
    Route("GET", "/v1/customers/{id}/payment_methods", _methods, {"type": text()}, paged=True),
    Route("GET", "/v1/payment_methods/{id}", lambda ctx: ctx.state.get("payment_method", ctx.path["id"])),
]
