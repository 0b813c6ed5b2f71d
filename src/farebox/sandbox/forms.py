"""Stripe's form encoding: `a[b][0][c]=d` to nested dicts and lists. Anything malformed is a Stripe-shaped 400."""

import re
from typing import Final, Union
from urllib.parse import unquote_to_bytes

from farebox.sandbox.errors import StripeError, invalid

__all__ = ["BODY_BYTES_MAX", "DEPTH_MAX", "FIELDS_MAX", "Form", "decode"]

BODY_BYTES_MAX: Final = 1_048_576
FIELDS_MAX: Final = 2_000
DEPTH_MAX: Final = 8
_NAME: Final = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_INDEX: Final = re.compile(r"\[([^\[\]]*)\]")
_FREE: Final = ("metadata", "payload")  # objects whose keys are the sender's own: digits make no list of them

Form = Union[str, dict[str, "Form"], list["Form"]]  # noqa: UP007 -- a recursive alias


def decode(text: bytes) -> dict[str, Form]:
    """Decode a query or a form body. Lists come as `a[]=x`, `a[0]=x`; text must be UTF-8 without NUL."""
    if len(text) > BODY_BYTES_MAX:
        raise StripeError(413, "invalid_request_error", f"The request body is larger than {BODY_BYTES_MAX} bytes.")
    root: dict[str, Form] = {}
    if not text:
        return root
    pairs = text.split(b"&")
    if len(pairs) > FIELDS_MAX:
        raise invalid(f"The request has more than {FIELDS_MAX} parameters.")
    for pair in pairs:
        if not pair:
            continue
        name, _, value = pair.partition(b"=")
        _put(root, _text(name), _text(value))
    return {name: _listed(name, value) for name, value in root.items()}


def _text(raw: bytes) -> str:
    try:
        text = unquote_to_bytes(raw.replace(b"+", b" ")).decode("utf-8")
    except UnicodeDecodeError:
        raise invalid("Invalid UTF-8 in the request.") from None
    if "\0" in text:
        raise invalid("The request contains a NUL character.")
    return text


def _put(root: dict[str, Form], name: str, value: str) -> None:
    found = _NAME.fullmatch(name)
    if found is None:
        raise invalid(f"Invalid parameter name: {name[:80]!r}.")
    path = [found[1], *_INDEX.findall(found[2])]
    if len(path) > DEPTH_MAX:
        raise invalid(f"The parameter {name[:80]!r} is nested too deeply.")
    if path[-1] == "" and path[-2] in _FREE:
        raise invalid("Invalid object", param=path[0])
    here = root
    for i, step in enumerate(path[:-1]):
        if step == "":
            step = _element(here, path[i + 1 :])
        child = here.setdefault(step, {})
        if not isinstance(child, dict):
            raise invalid(f"Invalid parameter: {name[:80]} is both a value and an object.", param=path[0])
        here = child
    last = path[-1] or str(len(here))
    if isinstance(here.get(last), dict):
        raise invalid(f"Invalid parameter: {name[:80]} is both a value and an object.", param=path[0])
    here[last] = value


def _element(here: dict[str, Form], rest: list[str]) -> str:
    """Which element `a[][x]` means: the newest until a name repeats in it, as `a[][x]=1&a[][y]=2&a[][x]=3` does."""
    if here and rest[0]:
        newest = next(reversed(here))
        if isinstance(here[newest], dict) and not _holds(here[newest], rest):
            return newest
    return str(len(here))


def _holds(value: Form, path: list[str]) -> bool:
    """Whether something stands at this path already, or in its way."""
    for step in path:
        if not isinstance(value, dict):
            return True
        if step not in value:
            return False
        value = value[step]
    return True


def _listed(name: str, value: Form) -> Form:
    """Turn {"0": …, "1": …} into a list, inside out."""
    if not isinstance(value, dict):
        return value
    inner = {key: _listed(key, child) for key, child in value.items()}
    if inner and name not in _FREE and all(key.isascii() and key.isdecimal() and len(key) < 6 for key in inner):
        return [inner[key] for key in sorted(inner, key=int)]
    return inner
