"""Errors as answers: RFC 9457 problem documents, and nothing in them that is not public."""

from typing import Any, Final

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from farebox.errors import (
    AccountSettling,
    FareboxError,
    ProviderThrottled,
    ProviderUnavailable,
    StoreError,
    TooManyRequests,
)

__all__ = ["RETRY_AFTER_SECONDS", "problem_document", "problem_headers", "problem_response", "refuse"]

RETRY_AFTER_SECONDS: Final = 2


def problem_document(error: FareboxError, *, pay_url: str | None = None) -> dict[str, Any]:
    """The document. `pay_url` is the plans page; the answer names where to pay only where paying helps."""
    document: dict[str, Any] = {
        "type": f"urn:farebox:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
    }
    if error.status == 402 and pay_url is not None:
        document["pay_url"] = error.pay_at if error.pay_at.startswith("http") else pay_url + error.pay_at
    return document


def problem_headers(error: FareboxError) -> dict[str, str]:
    """Headers that belong to the error: how to authenticate, when to try again."""
    headers = {"Cache-Control": "no-store"}
    if error.status == 401:
        reason = ' error="invalid_token",' if error.code != "key_missing" else ""
        headers["WWW-Authenticate"] = f'Bearer realm="farebox",{reason} charset="UTF-8"'
    if isinstance(error, TooManyRequests):
        headers["Retry-After"] = str(error.retry_after_seconds)
    elif isinstance(error, (AccountSettling, StoreError, ProviderUnavailable, ProviderThrottled)):
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return headers


def problem_response(error: FareboxError, *, pay_url: str | None = None) -> Response:
    """The error as an ASGI answer."""
    return JSONResponse(
        problem_document(error, pay_url=pay_url),
        error.status,
        problem_headers(error),
        media_type="application/problem+json",
    )


async def refuse(error: FareboxError, scope: Scope, receive: Receive, send: Send, *, pay_url: str | None) -> None:
    """Answer with a problem document; a websocket whose server cannot send one is closed unaccepted."""
    if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": error.code})
        return
    await problem_response(error, pay_url=pay_url)(scope, receive, send)
