"""`expand`: ids replaced by their objects, and what is only shown when asked for."""

from typing import Any

from farebox.sandbox.errors import StripeError
from farebox.sandbox.state import State, StripeObject, visible

__all__ = ["expanded"]


def expanded(state: State, result: StripeObject, paths: list[str]) -> Any:
    document = visible(result)
    for path in paths:
        _expand(state, document, result, path)
    return document


def _expand(state: State, document: Any, source: Any, path: str) -> None:
    """Replace the id at a dotted path by its object, or show what is only there when asked for."""
    name, _, rest = path.partition(".")
    if isinstance(document, list):
        for i, entry in enumerate(document):
            _expand(state, entry, source[i] if isinstance(source, list) else entry, path)
        return
    if not isinstance(document, dict):
        raise StripeError(400, "invalid_request_error", f"This property cannot be expanded ({path}).", param="expand")
    hidden = source.get(f"_{name}") if isinstance(source, dict) else None
    if name not in document and hidden is None:
        raise StripeError(400, "invalid_request_error", f"This property cannot be expanded ({path}).", param="expand")
    if hidden is not None:
        document[name] = visible(hidden)
    value = document[name]
    if isinstance(value, str):
        found = state.find(value)
        document[name] = visible(found) if found is not None else value
    if rest and document[name] is not None:
        inner = source.get(name) if isinstance(source, dict) else None
        _expand(state, document[name], inner if isinstance(inner, (dict, list)) else document[name], rest)
