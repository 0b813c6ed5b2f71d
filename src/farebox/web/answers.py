"""What each of Farebox's routes may answer, as its OpenAPI page says it: every refusal by its status, and no other.

The tests hold the routes to this page: an answer that is not on it is a fault.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from fastapi import FastAPI

from farebox.errors import (
    AccountSettling,
    AlreadySubscribed,
    BodyTooLarge,
    ChangeRefused,
    CheckoutUnderWay,
    ClaimExpired,
    ClaimTaken,
    ClaimUnknown,
    ClaimUnpaid,
    CredentialsConflict,
    CustomerMissing,
    FactsStale,
    FareboxError,
    InputInvalid,
    KeyExpired,
    KeyInvalid,
    KeyMissing,
    KeyRevoked,
    NotFound,
    OperatorOnly,
    PlanUnknown,
    ProviderForbidden,
    ProviderRejected,
    ProviderThrottled,
    ProviderUnavailable,
    SettlementMissed,
    SettlementUnderWay,
    SignatureInvalid,
    StoreUnavailable,
    SubscriptionInactive,
    SubscriptionMissing,
    TooManyRequests,
)

__all__ = ["REFUSALS", "describe_answers"]

_Errors = tuple[type[FareboxError], ...]
_BAD_KEY: Final[_Errors] = (KeyInvalid, KeyRevoked, KeyExpired, CredentialsConflict, FactsStale, StoreUnavailable)
_KEY: Final[_Errors] = (KeyMissing, *_BAD_KEY)
_STRIPE: Final[_Errors] = (ProviderForbidden, ProviderRejected, ProviderThrottled, ProviderUnavailable)
_BODY: Final[_Errors] = (BodyTooLarge, InputInvalid)
_CHANGE: Final[_Errors] = (SubscriptionMissing, ChangeRefused, TooManyRequests, *_STRIPE)

REFUSALS: Final[Mapping[tuple[str, str], _Errors]] = {
    ("post", "/checkout"): (
        *_BAD_KEY,
        *_BODY,
        PlanUnknown,
        AlreadySubscribed,
        CheckoutUnderWay,
        TooManyRequests,
        *_STRIPE,
    ),
    ("post", "/claim"): (
        *(ClaimUnknown, ClaimUnpaid, ClaimExpired, ClaimTaken),
        *(*_BODY, TooManyRequests, StoreUnavailable, *_STRIPE),
    ),
    ("post", "/webhook"): (SignatureInvalid, BodyTooLarge, StoreUnavailable),
    ("get", "/usage"): (*_KEY, SubscriptionMissing),
    ("get", "/invoices/upcoming"): (*_KEY, SubscriptionMissing, NotFound, TooManyRequests, *_STRIPE),
    ("get", "/subscription"): (*_KEY, SubscriptionMissing),
    ("post", "/subscription"): (*_KEY, *_BODY, *_CHANGE, PlanUnknown, SettlementMissed, SettlementUnderWay),
    ("delete", "/subscription/change"): (*_KEY, *_CHANGE),
    ("post", "/portal"): (*_KEY, CustomerMissing, TooManyRequests, *_STRIPE),
    ("post", "/events"): (
        *(*_KEY, *_BODY, SubscriptionMissing, SubscriptionInactive),
        *(OperatorOnly, AccountSettling, TooManyRequests),
    ),
    ("get", "/keys"): _KEY,
    ("post", "/keys"): (*_KEY, *_BODY),
    ("post", "/keys/{id}/rotate"): (*_KEY, *_BODY, NotFound),
    ("delete", "/keys/{id}"): (*_KEY, NotFound),
}
_HEADERS: Final = {
    401: ("WWW-Authenticate", "string", "How to send the key"),
    429: ("Retry-After", "integer", "Seconds to wait"),
    503: ("Retry-After", "integer", "Seconds to wait"),
}


def describe_answers(app: FastAPI) -> None:
    """Make `app.openapi()` say what is above. A route that is not named there is a KeyError, which a test sees."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        document = original()
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                _describe(operation, REFUSALS[method, path])
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _describe(operation: dict[str, Any], errors: Iterable[type[FareboxError]]) -> None:
    """Only once: FastAPI keeps the document that it made."""
    if operation["responses"].pop("default", None) is None:
        return
    titles: dict[int, dict[str, None]] = {}
    for error in errors:
        titles.setdefault(error.status, {})[error.title] = None
    for status, said in sorted(titles.items()):
        content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
        response: dict[str, Any] = {"description": "; ".join(said), "content": {**content, **_PAGE}}
        if status in _HEADERS:
            name, kind, text = _HEADERS[status]
            response["headers"] = {name: {"description": text, "schema": {"type": kind}}}
        operation["responses"][str(status)] = response


_PAGE: Final = {"text/html": {"schema": {"type": "string"}}}  # to who asks for HTML before JSON
