"""Every error that Farebox raises, with a stable code, an HTTP status and a text that may be shown to anyone.

    FareboxError
    ├── ConfigError                     the configuration is wrong: refuse to start, say where and what to do
    ├── AccessRefused                   the gate's answers (values first, raised only at the edge)
    │   ├── KeyMissing · KeyInvalid · KeyRevoked · KeyExpired · CredentialsConflict
    │   ├── SubscriptionMissing · SubscriptionInactive · PlanRequired · AccountSettling
    ├── RequestRefused                  what a buyer or Stripe sent cannot be served
    │   ├── InputInvalid · PlanUnknown · NotFound · MethodNotAllowed · PathTooLong · BodyTooLarge · TooManyRequests
    │   ├── SignatureInvalid · OperatorOnly
    │   ├── AlreadySubscribed · CheckoutUnderWay · ChangeRefused · CustomerMissing
    │   └── ClaimRefused                ClaimUnknown · ClaimUnpaid · ClaimExpired · ClaimTaken
    ├── UsageError                      the seller's code asked for something impossible
    │   ├── MeterUnknown · QuantityInvalid · ChargeTooLate · ChargeOutsideCall · RecordConflict · AccountUnknown
    │   ├── AdjustmentRefused · UsageInLostTime
    ├── NotStarted                      a call came before the lifespan ran
    ├── SettlementRefused               an account's usage could not be settled before a change (L12)
    │   ├── SettlementMissed · SettlementUnderWay
    ├── SmokeFailed                     a step of the demo's journey did not hold
    ├── StoreError
    │   ├── StoreUnavailable            outcome unknown: the batch may or may not have landed (ledger.md L1)
    │   ├── StoreUnusable               foreign, corrupted, newer or unwritable: refuse to start
    │   ├── StoreBusy                   another demo runs in this folder
    │   ├── FactsStale                  the change feed has not been read for too long (L14)
    │   └── WriterFenced                this writer's number was taken or closed (L1)
    └── ProviderError
        ├── ProviderUnavailable         no answer or a 5xx: outcome unknown
        │   └── ProviderFailed          the same Idempotency-Key gets this failure again
        ├── ProviderThrottled           429, or 409 while another call runs
        ├── ProviderForbidden           401 or 403: the key is wrong or lacks a permission
        └── ProviderRejected            any other 4xx: the request itself is wrong

`detail` is public. What only the operator may read goes into `internal` and is never part of an answer.
"""

from typing import ClassVar

__all__ = [
    "AccessRefused",
    "AccountSettling",
    "AccountUnknown",
    "AdjustmentRefused",
    "AlreadySubscribed",
    "BodyTooLarge",
    "ChangeRefused",
    "ChargeOutsideCall",
    "ChargeTooLate",
    "CheckoutUnderWay",
    "ClaimExpired",
    "ClaimRefused",
    "ClaimTaken",
    "ClaimUnknown",
    "ClaimUnpaid",
    "ConfigError",
    "CredentialsConflict",
    "CustomerGone",
    "CustomerMissing",
    "FactsStale",
    "FareboxError",
    "InputInvalid",
    "KeyExpired",
    "KeyInvalid",
    "KeyMissing",
    "KeyRevoked",
    "MeterUnknown",
    "MethodNotAllowed",
    "NotFound",
    "NotStarted",
    "OperatorOnly",
    "PathTooLong",
    "PaymentRequired",
    "PlanRequired",
    "PlanUnknown",
    "ProviderError",
    "ProviderFailed",
    "ProviderForbidden",
    "ProviderRejected",
    "ProviderThrottled",
    "ProviderUnavailable",
    "QuantityInvalid",
    "RecordConflict",
    "RequestRefused",
    "SettlementMissed",
    "SettlementRefused",
    "SettlementUnderWay",
    "SignatureInvalid",
    "SmokeFailed",
    "StoreBusy",
    "StoreError",
    "StoreUnavailable",
    "StoreUnusable",
    "SubscriptionInactive",
    "SubscriptionMissing",
    "TooManyRequests",
    "UsageError",
    "UsageInLostTime",
    "WriterFenced",
]


class FareboxError(Exception):
    """Root of the tree.

    `code` is stable, `status` is HTTP, `title` is the same for every instance, `detail` is public.
    """

    code: ClassVar[str] = "farebox_error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Something went wrong on our side"

    def __init__(self, detail: str = "", *, internal: str = "", pay_at: str = "") -> None:
        """`pay_at` is where paying ends the refusal: an address, or a path below the prefix; "": the plans page."""
        self.detail = detail or self.title
        self.internal = internal
        self.pay_at = pay_at
        super().__init__(f"{self.detail} ({internal})" if internal else self.detail)


class ConfigError(FareboxError):
    code = "config_invalid"
    title = "The configuration is wrong"


class AccessRefused(FareboxError):
    code = "access_refused"
    status = 403
    title = "Access refused"


class KeyMissing(AccessRefused):
    code = "key_missing"
    status = 401
    title = "An API key is required"


class KeyInvalid(AccessRefused):
    code = "key_invalid"
    status = 401
    title = "The API key is not valid"


class KeyRevoked(AccessRefused):
    code = "key_revoked"
    status = 401
    title = "The API key has been revoked"


class KeyExpired(AccessRefused):
    code = "key_expired"
    status = 401
    title = "The API key has expired"


class CredentialsConflict(AccessRefused):
    code = "credentials_conflict"
    status = 401
    title = "The request carries several different API keys"


class SubscriptionMissing(AccessRefused):
    code = "subscription_missing"
    status = 402
    title = "A subscription is required"


class SubscriptionInactive(AccessRefused):
    code = "subscription_inactive"
    status = 402
    title = "The subscription is not active"


class PlanRequired(AccessRefused):
    code = "plan_required"
    status = 403
    title = "The plan does not include this"


class AccountSettling(AccessRefused):
    code = "account_settling"
    status = 503
    title = "The account is being settled"


class RequestRefused(FareboxError):
    code = "request_refused"
    status = 400
    title = "The request cannot be served"


class InputInvalid(RequestRefused):
    code = "input_invalid"
    status = 422
    title = "The request's input is not valid"


class PlanUnknown(RequestRefused):
    code = "plan_unknown"
    status = 422
    title = "There is no such plan"


class NotFound(RequestRefused):
    code = "not_found"
    status = 404
    title = "There is nothing here"


class MethodNotAllowed(RequestRefused):
    code = "method_not_allowed"
    status = 405
    title = "The method is not allowed here"


class PathTooLong(RequestRefused):
    code = "path_too_long"
    status = 414
    title = "The path is too long"


class BodyTooLarge(RequestRefused):
    code = "body_too_large"
    status = 413
    title = "The request body is too large"


class TooManyRequests(RequestRefused):
    code = "too_many_requests"
    status = 429
    title = "Too many requests"

    def __init__(self, detail: str = "", *, retry_after_seconds: int = 1, internal: str = "") -> None:
        super().__init__(detail, internal=internal)
        self.retry_after_seconds = retry_after_seconds


class SignatureInvalid(RequestRefused):
    code = "signature_invalid"
    title = "The webhook's signature is not valid"


class OperatorOnly(RequestRefused):
    code = "operator_only"
    status = 403
    title = "This page is for the operator"


class AlreadySubscribed(RequestRefused):
    code = "already_subscribed"
    status = 409
    title = "This account already has a subscription"


class CheckoutUnderWay(RequestRefused):
    code = "checkout_under_way"
    status = 409
    title = "Another purchase for this account is being started"


class ChangeRefused(RequestRefused):
    code = "change_refused"
    status = 409
    title = "The plan cannot be changed like this"


class PaymentRequired(RequestRefused):
    code = "payment_required"
    status = 402
    title = "This change has to be paid first"


class CustomerMissing(RequestRefused):
    code = "customer_missing"
    status = 409
    title = "This account has no billing customer yet"


class ClaimRefused(RequestRefused):
    code = "claim_refused"
    title = "This purchase cannot be claimed"


class ClaimUnknown(ClaimRefused):
    code = "claim_unknown"
    status = 404
    title = "We do not know this purchase"


class ClaimUnpaid(ClaimRefused):
    code = "claim_unpaid"
    status = 402
    title = "This purchase is not completed yet"


class ClaimExpired(ClaimRefused):
    code = "claim_expired"
    status = 410
    title = "This checkout has expired"


class ClaimTaken(ClaimRefused):
    code = "claim_taken"
    status = 409
    title = "This purchase has already been claimed"


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


class SettlementRefused(FareboxError):
    code = "settlement_refused"
    status = 409
    title = "The account's usage could not be settled"


class SettlementMissed(SettlementRefused):
    code = "settlement_missed"
    status = 503


class SettlementUnderWay(SettlementRefused):
    code = "settlement_under_way"
    title = "The account is being settled already"


class SmokeFailed(FareboxError):
    code = "smoke_failed"
    title = "The journey broke"


class StoreError(FareboxError):
    code = "store_error"
    status = 503
    title = "Usage cannot be recorded right now"


class StoreUnavailable(StoreError):
    code = "store_unavailable"


class StoreUnusable(StoreError):
    code = "store_unusable"
    title = "The database cannot be used"


class StoreBusy(StoreError):
    code = "store_busy"
    title = "Another process has this folder"


class FactsStale(StoreError):
    code = "facts_stale"
    title = "Access cannot be checked right now"


class WriterFenced(StoreError):
    code = "writer_fenced"


class ProviderError(FareboxError):
    code = "provider_error"
    status = 502
    title = "The payment provider could not serve this"


class ProviderUnavailable(ProviderError):
    code = "provider_unavailable"
    status = 503
    title = "The payment provider cannot be reached right now"


class ProviderFailed(ProviderUnavailable):
    """A 5xx that is replayed to the same Idempotency-Key, or a key that was used for something else: take a new key."""


class ProviderThrottled(ProviderError):
    code = "provider_throttled"
    status = 503
    title = "The payment provider is busy"


class ProviderForbidden(ProviderError):
    code = "provider_forbidden"
    title = "The payment provider refused our key"


class ProviderRejected(ProviderError):
    code = "provider_rejected"
    title = "The payment provider refused the request"


class CustomerGone(ProviderRejected):
    code = "customer_gone"
    title = "The payment provider does not know this customer any more"
