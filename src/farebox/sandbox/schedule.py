"""What falls due by itself and when: an index, so that passing time costs what happens, not what there is.

Whoever changes when an object falls due touches it: `State.add` and `Context.emit` do so by themselves.
"""

import heapq
from typing import Final

__all__ = ["ACCOUNT", "Schedule"]

ACCOUNT: Final = ""  # the timeline of all that belongs to no test clock


class Schedule:
    """The next instant of each object, by timeline: the account's own time, or a test clock's id."""

    __slots__ = ("_due", "_heaps", "changed", "held")

    def __init__(self) -> None:
        self._heaps: dict[tuple[str, str], list[tuple[int, str]]] = {}  # by timeline and the prefix of the ids
        self._due: dict[str, tuple[int, str]] = {}  # by id: what of the heaps is true
        self.changed: set[str] = set()  # to be looked at again: their instants may have moved
        self.held: set[str] = set()  # wait for something that no time brings; touched when it may have come

    def touch(self, *ids: str) -> None:
        """These objects have changed: when they fall due is worked out again before time passes."""
        self.changed.update(ids)

    def schedule(self, at: int | None, id: str, timeline: str = ACCOUNT) -> None:
        """The object falls due at this instant of its timeline; None: not by itself."""
        if at is None:
            self._due.pop(id, None)
            return
        if self._due.get(id) != (at, timeline):
            self._due[id] = (at, timeline)
            heapq.heappush(self._heaps.setdefault((timeline, _prefix(id)), []), (at, id))

    def first(self, timeline: str = ACCOUNT, prefix: str | None = None) -> tuple[int, str] | None:
        """The instant and id of what falls due next, the earlier id first: of all, or of the ids with this prefix."""
        heads = [
            head
            for (own, kind), heap in list(self._heaps.items())
            if own == timeline and prefix in (None, kind) and (head := self._head(timeline, heap)) is not None
        ]
        return min(heads, default=None)

    def forget(self, timeline: str) -> None:
        """A test clock is gone, and its time with it."""
        for key in [key for key in self._heaps if key[0] == timeline]:
            for _, id in self._heaps.pop(key):
                if self._due.get(id, (0, ACCOUNT))[1] == timeline:
                    del self._due[id]

    def _head(self, timeline: str, heap: list[tuple[int, str]]) -> tuple[int, str] | None:
        while heap and self._due.get(heap[0][1]) != (heap[0][0], timeline):
            heapq.heappop(heap)  # it has moved since, or is done
        return heap[0] if heap else None


def _prefix(id: str) -> str:
    return id.partition("_")[0]
