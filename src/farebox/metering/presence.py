"""Who serves, and how far each has come: what a settlement waits for, and how a dead process is found (L1, L12).

A process is dead when it has not beaten for a stated time of the one that watches; clocks are not compared.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from farebox.errors import StoreError
from farebox.ports import Clock, Entropy, ProcessRow, Store

__all__ = [
    "BEAT_MILLISECONDS",
    "PRESENCE_SECONDS_MAX",
    "WATCH_GAP_SECONDS_MAX",
    "Admission",
    "Admissions",
    "Presence",
    "Watch",
]

BEAT_MILLISECONDS: Final = 1_000
PRESENCE_SECONDS_MAX: Final = 20
WATCH_GAP_SECONDS_MAX: Final = 5

_log = structlog.get_logger("farebox.presence")


class Admissions:
    """Calls under way, by what their process knew of the change feed when it let them in.

    Calls enter and leave on the event loop alone; everything else may be asked from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest = _Era(0)
        self._eras = deque([self._newest])

    def enter(self) -> "Admission":
        """Before anything is asked about a call."""
        era = self._newest
        era.calls += 1
        return Admission(era)

    def advance(self, position: int) -> None:
        """From now on calls are let in knowing the feed up to `position`: what it changed is no longer remembered."""
        with self._lock:
            if position != self._newest.position:
                # A call that is just about to enter the old era asks after this, and so knows the position as well.
                self._newest = _Era(position)
                self._eras.append(self._newest)

    def acknowledged(self) -> int:
        """The position that every call knew which is under way, or any later one."""
        with self._lock:
            while len(self._eras) > 1 and not self._eras[0].calls:
                self._eras.popleft()
            return self._eras[0].position


class _Era:
    """The calls that were let in knowing the feed up to one position."""

    __slots__ = ("calls", "position")

    def __init__(self, position: int) -> None:
        self.position = position
        self.calls = 0


class Admission:
    """One call under way, from before it was let in."""

    __slots__ = ("_era",)

    def __init__(self, era: _Era | None) -> None:
        self._era = era

    def leave(self) -> None:
        """The call is refused, or all that it will ever cost is committed. Again: nothing."""
        era = self._era
        if era is not None:
            self._era = None
            era.calls -= 1

    def hand_over(self) -> "Admission":
        """The same call under a name of its own: this one has nothing to leave any more."""
        other, self._era = Admission(self._era), None
        return other


class Watch:
    """Tells dead processes from living ones by looking at them again and again."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: dict[str, tuple[int, int]] = {}
        self._looked_ms: int | None = None

    def dead(self, processes: Iterable[ProcessRow]) -> list[ProcessRow]:
        """Those that have not beaten for PRESENCE_SECONDS_MAX of this watch. When it could not look itself for a while,
        it begins anew: while the ledger is away nobody can beat."""
        now_ms = self._clock.monotonic_ms()
        if self._looked_ms is None or now_ms - self._looked_ms > WATCH_GAP_SECONDS_MAX * 1000:
            self._seen.clear()
        self._looked_ms = now_ms
        rows = list(processes)
        seen = {
            row.id: self._seen[row.id] if self._seen.get(row.id, (-1, 0))[0] == row.beats else (row.beats, now_ms)
            for row in rows
        }
        self._seen = seen
        return [row for row in rows if now_ms - seen[row.id][1] > PRESENCE_SECONDS_MAX * 1000]


class Presence:
    """This process among those that serve the ledger. Its writers bear its id, so that they can be closed with it."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        entropy: Entropy,
        acknowledged: Callable[[], int],
        *,
        host: str,
        unsettled: Callable[[], bool] = lambda: False,
    ) -> None:
        """`acknowledged`: a position of the feed that all calls under way knew. `unsettled`: whether usage of calls
        that are over may still come into the ledger, out of this process's spool or by a commit in doubt.
        """
        self._unsettled = unsettled
        self._committed = 0
        self._store = store
        self._clock = clock
        self._entropy = entropy
        self._acknowledged = acknowledged
        self._host = host
        self._watch = Watch(clock)
        self._process = 0
        self._id = ""
        self._started_at = 0

    @property
    def id(self) -> str:
        """Made in the process itself: after a fork the child is another one."""
        if self._process != os.getpid():
            self._id, self._process, self._started_at = self._entropy.token(), os.getpid(), self._clock.now_at()
        return self._id

    def step(self) -> bool:
        """Say that this process lives and how far it has come, and remove those that are dead. StoreError."""
        if not self._store.beat(self._row()):
            _log.info("process_registered", process=self.id)
        for row in self._watch.dead(self._store.processes()):
            if row.id == self.id:
                continue
            try:
                removed = self._store.remove_process(row)
            except StoreError as error:  # a commit of its own may still hold its writers: the others go all the same
                _log.warning("process_not_removed", process=row.id, reason=str(error))
                continue
            if removed:
                _log.warning("process_dead", process=row.id, host=row.host, pid=row.pid, seen_at=row.seen_at)
        return False

    def leave(self) -> None:
        """On the way out: nobody need wait for this process any more. StoreError."""
        for row in self._store.processes():
            if row.id == self.id:
                self._store.remove_process(row)

    def _row(self) -> ProcessRow:
        return ProcessRow(self.id, self._host, os.getpid(), self._started_at, self._clock.now_at(), self._position())

    def _position(self) -> int:
        """What this process acknowledges (L12): nothing new while usage of calls that are over may still come."""
        position = self._acknowledged()
        if not self._unsettled():
            self._committed = position
        return self._committed
