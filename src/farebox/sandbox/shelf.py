"""A dict that notes what was looked at: whoever looks may change what is found, so it is what must be kept anew."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

__all__ = ["Shelf", "Watch"]

K = TypeVar("K")
V = TypeVar("V")


class Watch:
    """Whether looking counts. It does not while a request only reads."""

    def __init__(self) -> None:
        self.on = True

    @contextmanager
    def off(self) -> Iterator[None]:
        before, self.on = self.on, False
        try:
            yield
        finally:
            self.on = before


class Shelf(dict[K, V]):
    """`seen` are the names whose things may differ from what was kept of them; some of them may be gone."""

    def __init__(self, things: dict[K, V], watch: Watch, keeper: object) -> None:
        super().__init__(things)
        self.watch = watch
        self.keeper = keeper  # who asks what was seen
        self.seen: dict[K, None] = dict.fromkeys(things)  # in the order in which they were seen first

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[K, V]:
        return copy.deepcopy(dict(self), memo)

    def take_seen(self) -> dict[K, None]:
        seen, self.seen = self.seen, {}
        return seen

    def __getitem__(self, name: K) -> V:
        if self.watch.on:
            self.seen[name] = None
        return super().__getitem__(name)

    def get(self, name: K, default: Any = None) -> Any:
        if self.watch.on and name in self:
            self.seen[name] = None
        return super().get(name, default)

    def setdefault(self, name: K, default: Any = None) -> Any:
        self.seen[name] = None
        return super().setdefault(name, default)

    def __setitem__(self, name: K, thing: V) -> None:
        self.seen[name] = None
        super().__setitem__(name, thing)

    def __delitem__(self, name: K) -> None:
        self.seen[name] = None
        super().__delitem__(name)

    def pop(self, name: K, *default: Any) -> Any:
        self.seen[name] = None
        return super().pop(name, *default)

    def clear(self) -> None:
        self.seen.update(dict.fromkeys(self))
        super().clear()

    def update(self, *things: Any, **more: Any) -> None:
        for name, thing in dict(*things, **more).items():
            self[name] = thing

    def values(self) -> Any:
        if self.watch.on:
            self.seen.update(dict.fromkeys(self))
        return super().values()

    def items(self) -> Any:
        if self.watch.on:
            self.seen.update(dict.fromkeys(self))
        return super().items()
