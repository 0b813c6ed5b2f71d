"""What was asked and what was answered, kept for the viewer and for tests: the newest of each account."""

import json
from collections.abc import Mapping
from typing import Any, Final

from farebox.sandbox.errors import StripeError
from farebox.sandbox.forms import decode
from farebox.sandbox.state import State, StripeObject

__all__ = ["BODY_BYTES_KEPT", "REQUESTS_KEPT", "parameters", "remember", "with_bodies"]

REQUESTS_KEPT: Final = 500
BODY_BYTES_KEPT: Final = 131_072
_BROKEN: Final = {"message": "The connection was broken without an answer, because a fault asked for it."}


def remember(
    state: State,
    method: str,
    id: str,
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    at: int,
    answer: tuple[int, bytes] | None,
) -> None:
    """Keep a request. No answer: a fault broke its connection."""
    status, content = answer if answer is not None else (None, b"")
    error = json.loads(content).get("error") if status is not None and status >= 400 else None
    path, _, query = url.partition("?")
    state.requests.append(
        {
            "id": id,
            "method": method,
            "path": path,
            "status": status,
            "error": error if answer is not None else _BROKEN,
            "at": at,
            "_query": query,
            "_body": body[:BODY_BYTES_KEPT],
            "_answer": content[:BODY_BYTES_KEPT],
            "_key": headers.get("idempotency-key"),
            "_client": headers.get("user-agent", ""),
        }
    )
    del state.requests[:-REQUESTS_KEPT]


def parameters(entry: StripeObject) -> dict[str, Any] | str:
    """What the request asked for, as it was understood; as it came when it was not."""
    raw = entry["_query"].encode() + (b"&" if entry["_query"] and entry["_body"] else b"") + entry["_body"]
    try:
        found: dict[str, Any] = json.loads(entry["_body"]) if entry["_body"].lstrip()[:1] == b"{" else decode(raw)
    except (StripeError, ValueError, RecursionError):
        return str(raw, "utf-8", "replace")
    return found


def with_bodies(entry: StripeObject) -> StripeObject:
    """A request of the log as the control API shows it on demand: with its query, body and answer as texts."""
    shown = {name: value for name, value in entry.items() if not name.startswith("_")}
    texts = {"query": entry["_query"], "idempotency_key": entry["_key"]}
    bodies = {name: entry[f"_{name}"].decode("utf-8", "replace") for name in ("body", "answer")}
    return {**shown, **texts, **bodies}
