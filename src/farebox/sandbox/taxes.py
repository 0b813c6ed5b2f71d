"""Automatic tax of an account that is registered nowhere: it is computed, and comes to nothing."""

from typing import Any, Final

from farebox.sandbox.errors import invalid
from farebox.sandbox.params import boolean, obj, required
from farebox.sandbox.state import StripeObject

__all__ = ["AUTOMATIC_TAX", "automatic_tax", "check_tax"]

AUTOMATIC_TAX: Final = obj({"enabled": required(boolean())})


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
