"""Farebox: charge for an HTTP API through Stripe metered billing, on your own machine."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from farebox.domain.accounts import Account
    from farebox.domain.usage import UsageEvent
    from farebox.errors import (
        AccountUnknown,
        ChargeOutsideCall,
        ChargeTooLate,
        ConfigError,
        FareboxError,
        MeterUnknown,
        NotStarted,
        QuantityInvalid,
        RecordConflict,
        StoreError,
        UsageError,
    )
    from farebox.protect import Farebox

__all__ = [
    "Account",
    "AccountUnknown",
    "ChargeOutsideCall",
    "ChargeTooLate",
    "ConfigError",
    "Farebox",
    "FareboxError",
    "MeterUnknown",
    "NotStarted",
    "QuantityInvalid",
    "RecordConflict",
    "StoreError",
    "UsageError",
    "UsageEvent",
]


def __getattr__(name: str) -> Any:
    """Load a name when it is first asked for: the local Stripe, which lives in here too, needs none of them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    homes = {
        "Account": "farebox.domain.accounts",
        "Farebox": "farebox.protect",
        "UsageEvent": "farebox.domain.usage",
    }
    home = homes.get(name, "farebox.errors")
    found = globals()[name] = getattr(import_module(home), name)
    return found
