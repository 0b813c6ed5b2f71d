"""Farebox: charge for an HTTP API through Stripe metered billing, on your own machine."""

from farebox.domain.accounts import Account
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
]
