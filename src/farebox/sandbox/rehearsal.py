"""An account to try things on: a copy made thing by thing as they are looked at, so that it costs what is looked at."""

import copy
from collections import deque
from dataclasses import fields
from typing import Any, Final, TypeVar

from farebox.sandbox.schedule import Schedule
from farebox.sandbox.state import State

__all__ = ["rehearsed"]

K = TypeVar("K")
V = TypeVar("V")
_NESTED: Final = ("objects", "identifiers")


def rehearsed(state: State) -> State:
    """The same account, of which everything can be changed and nothing will have been."""
    memo: dict[int, Any] = {}  # one for all, so that what is shared stays shared
    twin = copy.copy(state)
    for name in (field.name for field in fields(State)):
        value = getattr(state, name)
        if name in _NESTED:
            setattr(twin, name, {kind: _Copy(things, memo) for kind, things in value.items()})
        elif isinstance(value, dict):
            setattr(twin, name, _Copy(value, memo))
        elif isinstance(value, (list, deque)):
            setattr(twin, name, value.copy())
    twin.due = Schedule()
    return twin


class _Copy(dict[K, V]):
    """Begins with the things themselves, and takes a copy of each before it shows it."""

    def __init__(self, things: dict[K, V], memo: dict[int, Any]) -> None:
        super().__init__(things)
        self._memo = memo
        self._whole: set[K] = set()

    def __getitem__(self, name: K) -> V:
        if name not in self._whole:
            super().__setitem__(name, copy.deepcopy(super().__getitem__(name), self._memo))
            self._whole.add(name)
        return super().__getitem__(name)

    def __setitem__(self, name: K, thing: V) -> None:
        self._whole.add(name)
        super().__setitem__(name, thing)

    def get(self, name: K, default: Any = None) -> Any:
        if name not in self:
            return default
        return self[name]

    def setdefault(self, name: K, default: Any = None) -> Any:
        if name not in self:
            self[name] = default
        return self[name]

    def pop(self, name: K, *default: Any) -> Any:
        if name in self:
            self[name]  # its copy
        return super().pop(name, *default)

    def values(self) -> Any:
        for name in self:
            self[name]
        return super().values()

    def items(self) -> Any:
        for name in self:
            self[name]
        return super().items()
