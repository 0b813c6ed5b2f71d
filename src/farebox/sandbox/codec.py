"""State as JSON and back, exactly: decimals, tuples and bytes stay what they are, and shared objects stay shared."""

import base64
import json
from collections import deque
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from decimal import Decimal
from typing import Any, Final

__all__ = ["Codec"]

_TAG: Final = "$"  # {"$": [what, …]}: something that JSON has no word for
_PLAIN: Final = (str, int, bool, float, type(None))  # a float is read back as the same float

Home = Callable[[dict[str, Any]], "tuple[str, ...] | None"]
Found = Callable[[tuple[str, ...]], dict[str, Any]]


class Codec:
    """`home` names where a dict is kept that others only refer to; `found` gives it back."""

    def __init__(self, home: Home, found: Found, *classes: type) -> None:
        self._home = home
        self._found = found
        self._classes = {cls.__name__: cls for cls in classes}

    def text(self, value: Any, *, own: bool = False) -> str:
        """The value as JSON. `own`: it is the kept dict itself and no reference to it."""
        shown = self._mapping(value) if own else self._shown(value)
        return json.dumps(shown, separators=(",", ":"), ensure_ascii=False)

    def value(self, text: str) -> Any:
        return self.read(json.loads(text))

    def _shown(self, value: Any) -> Any:
        if value is None or type(value) in _PLAIN:
            return value
        if isinstance(value, dict):
            home = self._home(value)
            return {_TAG: ["ref", *home]} if home is not None else self._mapping(value)
        if isinstance(value, list):
            return [self._shown(entry) for entry in value]
        return {_TAG: self._tagged(value)}

    def _mapping(self, value: dict[Any, Any]) -> Any:
        if _TAG not in value and all(type(name) is str for name in value):
            return {name: self._shown(entry) for name, entry in value.items()}
        return {_TAG: ["dict", *([self._shown(name), self._shown(entry)] for name, entry in value.items())]}

    def _tagged(self, value: Any) -> list[Any]:
        match value:
            case Decimal():
                return ["decimal", str(value)]
            case bytes():
                return ["bytes", base64.b64encode(value).decode()]
            case tuple() | deque() | set() | frozenset():
                entries = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
                return [type(value).__name__, *(self._shown(entry) for entry in entries)]
        if is_dataclass(value) and type(value).__name__ in self._classes:
            return [type(value).__name__, *(self._shown(getattr(value, field.name)) for field in fields(value))]
        raise TypeError(f"The state holds a {type(value).__name__}, which cannot be kept.")

    def read(self, shown: Any) -> Any:
        if isinstance(shown, list):
            return [self.read(entry) for entry in shown]
        if not isinstance(shown, dict):
            return shown
        if _TAG not in shown:
            return {name: self.read(entry) for name, entry in shown.items()}
        what, *rest = shown[_TAG]
        if what == "ref":
            return self._found(tuple(rest))
        if what == "dict":
            return {self.read(name): self.read(entry) for name, entry in rest}
        if what in ("decimal", "bytes"):
            return Decimal(rest[0]) if what == "decimal" else base64.b64decode(rest[0], validate=True)
        return _MADE.get(what, tuple)(self.read(e) for e in rest) if what in _MADE else self._made(what, rest)

    def _made(self, what: str, rest: list[Any]) -> Any:
        cls = self._classes.get(what)
        if cls is None:
            raise ValueError(f"a {what!r} is not known here")
        return cls(*(self.read(entry) for entry in rest))


_MADE: Final[dict[str, Callable[..., Any]]] = {"tuple": tuple, "deque": deque, "set": set, "frozenset": frozenset}
