"""What a buyer's or Stripe's request meets: the gate's refusals, requests that cannot be served, settlements."""

from farebox.errors.root import FareboxError

__all__ = [
    "AccessRefused",
    "AccountSettling",
    "AlreadySubscribed",
    "BodyTooLarge",
    "ChangeRefused",
    "CheckoutUnderWay",
    "ClaimExpired",
    "ClaimRefused",
    "ClaimTaken",
    "ClaimUnknown",
    "ClaimUnpaid",
    "CredentialsConflict",
    "CustomerMissing",
    "InputInvalid",
    "KeyExpired",
    "KeyInvalid",
    "KeyMissing",
    "KeyRevoked",
    "MethodNotAllowed",
    "NotFound",
    "OperatorOnly",
    "PathTooLong",
    "PaymentRequired",
    "PlanRequired",
    "PlanUnknown",
    "RequestRefused",
    "SettlementMissed",
    "SettlementRefused",
    "SettlementUnderWay",
    "SignatureInvalid",
    "SubscriptionInactive",
    "SubscriptionMissing",
    "TooManyRequests",
]


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
