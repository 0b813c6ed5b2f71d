"""What is other in Stripe's /v2: bodies in JSON, times as text, pages by token, and errors that have a code."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from farebox.sandbox.errors import StripeError, invalid
from farebox.sandbox.forms import BODY_BYTES_MAX, DEPTH_MAX, Form
from farebox.sandbox.params import Field
from farebox.sandbox.state import StripeObject

__all__ = [
    "MOMENT_CHARACTERS_MAX",
    "body_of",
    "error_of",
    "is_v2",
    "moment",
    "moment_of",
    "moment_text",
    "page_v2",
    "refused",
    "strings",
    "whole",
]

MOMENT_CHARACTERS_MAX: Final = 40
_MOMENT: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)  # RFC 3339
_CODES: Final = {"lock_timeout": "too_many_concurrent_requests", "rate_limit": "too_many_requests"}
_BY_STATUS: Final = {401: "unauthenticated", 404: "not_found", 409: "conflict", 413: "request_too_large"}


def is_v2(path: str) -> bool:
    return path.startswith("/v2/")


def refused(code: str, message: str, *, status: int = 400, kind: str = "invalid_request_error") -> StripeError:
    return StripeError(status, kind, message, code=code)


def error_of(path: str, error: StripeError) -> dict[str, dict[str, str]]:
    """The error as this path's half of the API tells it: in /v2 it has a code always, and no `param`."""
    body = error.body()
    if not is_v2(path):
        return body
    inner = body["error"]
    code = _CODES.get(error.code or "", error.code) or (
        error.kind if error.kind == "idempotency_error" else _BY_STATUS.get(error.status, "invalid_parameter")
    )
    if error.status == 404 and code == "resource_missing":
        code = "not_found"
    if error.param is not None and error.param not in error.message:
        inner["message"] = f"{error.message} ({error.param})"
    inner.pop("param", None)
    return {"error": {**inner, "code": code}}


def body_of(raw: bytes) -> dict[str, Form]:
    """The object that a JSON body writes. A 400 for anything else, however it is malformed."""
    if len(raw) > BODY_BYTES_MAX:
        raise StripeError(413, "invalid_request_error", f"The request body is larger than {BODY_BYTES_MAX} bytes.")
    if not raw.strip():
        return {}
    try:
        found = json.loads(raw.decode("utf-8"), parse_constant=_no_number, object_pairs_hook=_without_twins)
        json.dumps(found, ensure_ascii=False).encode("utf-8")  # half a surrogate pair is no text
    except (ValueError, RecursionError):
        raise refused("invalid_json", "The body is not valid JSON in UTF-8.") from None
    if not isinstance(found, dict):
        raise refused("invalid_json", "The body must be a JSON object.")
    if _depth(found) > DEPTH_MAX or b"\\u0000" in raw:
        raise refused("invalid_json", "The body is nested too deeply, or contains a NUL character.")
    return found


def _no_number(name: str) -> None:
    raise ValueError(name)


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name stands twice")
    return made


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max((_depth(each) for each in inner), default=0)


def moment() -> Field:
    """A time as RFC 3339 writes it, converted to whole Unix seconds."""

    def convert(value: Form, path: str) -> int:
        found = _MOMENT.fullmatch(value) if isinstance(value, str) and len(value) <= MOMENT_CHARACTERS_MAX else None
        try:
            if found is None:
                raise ValueError(path)
            zone = "+00:00" if found[3] in "Zz" else found[3]
            return int(datetime.fromisoformat(f"{found[1]}T{found[2]}{zone}").timestamp())
        except (ValueError, OverflowError):
            message = f"Invalid timestamp: {path} must be written as 2026-10-28T12:00:00.000Z"
            raise invalid(message, param=path, code="invalid_timestamp") from None

    return Field(convert)


def moment_of(text: str) -> int:
    """The Unix seconds of what `moment_text` wrote."""
    return int(datetime.fromisoformat(text).timestamp())


def moment_text(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def whole(low: int, high: int) -> Field:
    """A whole number of a query, or of a body."""

    def convert(value: Any, path: str) -> int:
        if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 10:
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise invalid(f"Invalid integer: {path} must be from {low} to {high}", param=path)
        return value

    return Field(convert)


def strings(keys_max: int = 50, *, unset: bool = False) -> Field:
    """Texts by name. With `unset`, null removes a name."""

    def convert(value: Any, path: str) -> dict[str, str | None]:
        fits = isinstance(value, dict) and all(isinstance(v, str) or (unset and v is None) for v in value.values())
        if not fits or len(value) > keys_max:
            raise invalid(f"Invalid object: {path} must hold at most {keys_max} texts by name", param=path)
        return dict(value)

    return Field(convert)


def page_v2(params: Mapping[str, Any], things: list[StripeObject], url: str, limit: int = 20) -> StripeObject:
    """One page of a list, newest first. The token of a page is the id of the object before it."""
    things = list(reversed(things))
    limit = params.get("limit", limit)
    ids = [thing["id"] for thing in things]
    token = params.get("page")
    if token is not None and token not in ids:
        raise refused("invalid_page_token", f"No such page: {token[:60]}")
    start = ids.index(token) + 1 if token is not None else 0
    shown = things[start : start + limit]
    more = len(things) > start + limit
    before = max(start - limit, 0)
    back = f"{url}?limit={limit}" + (f"&page={ids[before - 1]}" if before else "")
    return {
        "data": shown,
        "next_page_url": f"{url}?limit={limit}&page={shown[-1]['id']}" if more else None,
        "previous_page_url": back if start else None,
    }
