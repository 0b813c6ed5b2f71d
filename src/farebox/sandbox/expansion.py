"""`expand`: ids replaced by their objects, and what is only shown when asked for."""

from typing import Any, Final

from farebox.sandbox.errors import StripeError
from farebox.sandbox.state import State, StripeObject, visible

__all__ = ["LEVELS_MAX", "expanded"]

LEVELS_MAX: Final = 4


def expanded(state: State, result: StripeObject, paths: list[str]) -> Any:
    document = visible(result)
    for path in paths:
        if path.count(".") >= LEVELS_MAX:
            said = f"You cannot expand more than {LEVELS_MAX} levels of a property. Property: {path}"
            raise StripeError(400, "invalid_request_error", said, param="expand")
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
    there = isinstance(source, dict) and f"_{name}" in source
    hidden = source[f"_{name}"] if there else None
    if name not in document and not there:
        raise StripeError(400, "invalid_request_error", f"This property cannot be expanded ({path}).", param="expand")
    if there and hidden is None:
        return  # it could be shown, and this one has none
    if there:
        document[name] = visible(hidden)
    value = document[name]
    if isinstance(value, str):
        found = state.find(value)
        document[name] = visible(found) if found is not None else value
    if rest and document[name] is not None:
        inner = source.get(name) if isinstance(source, dict) else None
        _expand(state, document[name], inner if isinstance(inner, (dict, list)) else document[name], rest)
