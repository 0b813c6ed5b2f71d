"""What the seller's configuration or code did wrong, and what runs too early."""

from farebox.errors.root import FareboxError

__all__ = [
    "AccountUnknown",
    "AdjustmentRefused",
    "ChargeOutsideCall",
    "ChargeTooLate",
    "ConfigError",
    "MeterUnknown",
    "NotStarted",
    "QuantityInvalid",
    "RecordConflict",
    "SmokeFailed",
    "UsageError",
    "UsageInLostTime",
]


class ConfigError(FareboxError):
    code = "config_invalid"
    title = "The configuration is wrong"


class UsageError(FareboxError):
    code = "usage_error"
    title = "The API asked for a charge that is not possible"


class MeterUnknown(UsageError):
    code = "meter_unknown"
    title = "There is no such meter"


class QuantityInvalid(UsageError):
    code = "quantity_invalid"
    title = "A quantity must be a whole number, zero or more"


class ChargeTooLate(UsageError):
    code = "charge_too_late"
    title = "The answer of this call has already begun"


class ChargeOutsideCall(UsageError):
    code = "charge_outside_call"
    title = "There is no paid call to charge here"


class RecordConflict(UsageError):
    code = "record_conflict"
    title = "This id has already been recorded with other values"


class AccountUnknown(UsageError):
    code = "account_unknown"
    title = "There is no such account"


class AdjustmentRefused(UsageError):
    code = "adjustment_refused"
    title = "Usage cannot be corrected like this"


class UsageInLostTime(UsageError):
    code = "usage_in_lost_time"
    status = 409
    title = "This time was lost when the ledger was restored"


class NotStarted(FareboxError):
    code = "not_started"
    status = 503
    title = "Farebox has not been started"


class SmokeFailed(FareboxError):
    code = "smoke_failed"
    title = "The journey broke"
