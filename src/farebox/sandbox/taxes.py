"""Automatic tax of an account that is registered nowhere: it is computed, and comes to nothing."""

from typing import Any, Final

from farebox.sandbox.errors import StripeError, invalid
from farebox.sandbox.params import boolean, enum, obj, required
from farebox.sandbox.state import StripeObject

__all__ = [
    "AUTOMATIC_TAX",
    "automatic_tax",
    "check_location",
    "check_tax",
    "disable_tax",
    "invoice_tax",
    "subscription_tax",
    "unknown_location",
]

AUTOMATIC_TAX: Final = obj({"enabled": required(boolean()), "liability": obj({"type": required(enum("self"))})})
_LOCATION: Final = "requires_location_inputs"


def check_tax(p: dict[str, Any], customer: StripeObject | None) -> None:
    """Stripe must learn where a known customer lives."""
    known = customer is None or customer.get("address") or "auto" in (p.get("customer_update") or {}).values()
    if (p.get("automatic_tax") or {}).get("enabled") and not known:
        raise invalid(
            "Automatic tax calculation in Checkout requires a valid address on the Customer. Add a valid address to "
            "the Customer or set either `customer_update[address]` to 'auto' or `customer_update[shipping]` to 'auto' "
            "to save the address entered in Checkout to the Customer.",
            param="automatic_tax",
        )


def automatic_tax(p: dict[str, Any]) -> StripeObject:
    """As a checkout session shows it."""
    on = (p.get("automatic_tax") or {}).get("enabled", False)
    return {
        "enabled": on,
        "liability": {"type": "self"} if on else None,
        "provider": "stripe" if on else None,
        "status": "complete" if on else None,
    }


def subscription_tax(asked: dict[str, Any] | None) -> StripeObject:
    """As a subscription and a schedule's phase show it."""
    on = (asked or {}).get("enabled", False)
    return {"enabled": on, "liability": {"type": "self"} if on else None, "disabled_reason": None}


def invoice_tax(asked: dict[str, Any] | None, customer: StripeObject) -> StripeObject:
    """As an invoice shows it: what was asked of it or of its subscription, by what is known of the customer."""
    on = (asked or {}).get("enabled", False)
    status = "complete" if customer.get("address") else _LOCATION
    return {
        "enabled": on,
        "liability": {"type": "self"} if on else None,
        "status": status if on else None,
        "disabled_reason": None,
        "provider": "stripe" if on else None,
    }


def check_location(asked: dict[str, Any] | None, customer: StripeObject) -> None:
    """Refuse a subscription with automatic tax of a customer whose address is not known."""
    if (asked or {}).get("enabled") and not customer.get("address"):
        raise unknown_location()


def unknown_location() -> StripeError:
    message = "The customer's location isn't recognized. Set a valid customer address to calculate tax automatically."
    return invalid(message, code="customer_tax_location_invalid")


def disable_tax(invoice: StripeObject) -> None:
    """An invoice that is finalized by itself goes out without tax where the customer's address is not known."""
    if invoice["automatic_tax"]["status"] == _LOCATION:
        off = {"enabled": False, "liability": None, "status": None, "provider": None}
        invoice["automatic_tax"].update(off, disabled_reason="finalization_requires_location_inputs")
