"""Every error that Farebox raises, with a stable code, an HTTP status and a text that may be shown to anyone.

    FareboxError
    ├── ConfigError                     the configuration is wrong: refuse to start, say where and what to do
    ├── AccessRefused                   the gate's answers (values first, raised only at the edge)
    │   ├── KeyMissing · KeyInvalid · KeyRevoked · KeyExpired · CredentialsConflict
    │   ├── SubscriptionMissing · SubscriptionInactive · PlanRequired · AccountSettling
    ├── RequestRefused                  what a buyer or Stripe sent cannot be served
    │   ├── InputInvalid · PlanUnknown · NotFound · MethodNotAllowed · PathTooLong · BodyTooLarge · TooManyRequests
    │   ├── SignatureInvalid · OperatorOnly
    │   ├── AlreadySubscribed · CheckoutUnderWay · ChangeRefused · PaymentRequired · CustomerMissing
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

from farebox.errors.buyer import (
    AccessRefused,
    AccountSettling,
    AlreadySubscribed,
    BodyTooLarge,
    ChangeRefused,
    CheckoutUnderWay,
    ClaimExpired,
    ClaimRefused,
    ClaimTaken,
    ClaimUnknown,
    ClaimUnpaid,
    CredentialsConflict,
    CustomerMissing,
    InputInvalid,
    KeyExpired,
    KeyInvalid,
    KeyMissing,
    KeyRevoked,
    MethodNotAllowed,
    NotFound,
    OperatorOnly,
    PathTooLong,
    PaymentRequired,
    PlanRequired,
    PlanUnknown,
    RequestRefused,
    SettlementMissed,
    SettlementRefused,
    SettlementUnderWay,
    SignatureInvalid,
    SubscriptionInactive,
    SubscriptionMissing,
    TooManyRequests,
)
from farebox.errors.provider import (
    CustomerGone,
    ProviderError,
    ProviderFailed,
    ProviderForbidden,
    ProviderRejected,
    ProviderThrottled,
    ProviderUnavailable,
)
from farebox.errors.root import (
    FareboxError,
)
from farebox.errors.seller import (
    AccountUnknown,
    AdjustmentRefused,
    ChargeOutsideCall,
    ChargeTooLate,
    ConfigError,
    MeterUnknown,
    NotStarted,
    QuantityInvalid,
    RecordConflict,
    SmokeFailed,
    UsageError,
    UsageInLostTime,
)
from farebox.errors.store import (
    FactsStale,
    StoreBusy,
    StoreError,
    StoreUnavailable,
    StoreUnusable,
    WriterFenced,
)

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
