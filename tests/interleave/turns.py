"""Two transactions on two connections, interleaved on purpose: the first is paused after a statement of its own, the
second then runs until it ends or waits for a lock of the first, and the first goes on.

The same pair and the same statement give the same history every time. A pause is worth a run only after a statement
that `meets` one of the other side: moving the other side past any other statement changes nothing.
"""

import re
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from sqlalchemy import event

from farebox.store.engine import Database
from farebox.store.tables import metadata

__all__ = ["WAITING", "Interleaver", "Run", "meets"]

WAITING: Final = "SELECT 1 FROM pg_locks WHERE NOT granted LIMIT 1"

TURN_SECONDS_MAX: Final = 20
POLL_SECONDS: Final = 0.002
SQLITE_WAIT_SECONDS: Final = 0.02  # a second writer that has not ended by then waits for the first


_WORD: Final = re.compile(r"\w+")
_TURN: Final = re.compile(r"pg_advisory_xact_lock")


@dataclass(frozen=True, slots=True)
class Run:
    """What came of one interleaving: what each side returned or raised, and the statements that it made.

    `paused_after` is None when the first side had ended before that statement, so that the second came after it.
    """

    first: Any
    second: Any
    paused_after: str | None
    second_waited: bool
    statements: list[str]
    others: list[str]

    def __str__(self) -> str:
        if self.paused_after is None:
            return "the second began when the first had ended"
        waited = "waited for the first" if self.second_waited else "ran whole"
        return f"the first was paused after: {self.paused_after}\nthe second {waited}"


def meets(statement: str, others: list[str]) -> bool:
    """Whether it reads what one of the others changes, changes what one of them reads, or takes a lock of theirs."""
    reads, writes = _tables(statement)
    for other in others:
        other_reads, other_writes = _tables(other)
        if writes & (other_reads | other_writes) or reads & other_writes:
            return True
    return False


@cache
def _tables(statement: str) -> tuple[frozenset[str], frozenset[str]]:
    """The tables that a statement reads, those that its foreign keys look at among them, and those that it changes or
    locks."""
    words = _WORD.findall(statement)
    named = frozenset(words) & metadata.tables.keys()
    if _TURN.search(statement):
        return frozenset(), frozenset({"turns"})
    if words[0] == "SELECT" or not named:  # as BEGIN is
        return (frozenset(), named) if "FOR UPDATE" in statement else (named, frozenset())
    if not named:  # the beginning of a transaction
        return frozenset(), frozenset()
    target = next(word for word in words if word in metadata.tables)
    parents = {key.column.table.name for key in metadata.tables[target].foreign_keys}
    return frozenset(named - {target} | (parents if words[0] == "INSERT" else set())), frozenset({target})


class Interleaver:
    """Runs pairs of calls. `first` is the database that is paused; `waits` says whether anybody waits for a lock, or
    is None where the database does not tell."""

    def __init__(self, first: Database, second: Database, waits: Callable[[], bool] | None) -> None:
        self._waits = waits
        self._statements: list[str] = []
        self._others: list[str] = []
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="interleave")
        self._news, self._go = threading.Event(), threading.Event()
        self._left, self._statement = 0, ""
        event.listen(first._own_engine(), "after_cursor_execute", self._after_statement)
        event.listen(second._own_engine(), "after_cursor_execute", self._after_other)

    def close(self) -> None:
        self._go.set()
        self._pool.shutdown()

    def run(self, first: Callable[[], Any], second: Callable[[], Any], *, pause_after: int) -> Run:
        """Let both run, the first paused after its statement of that number (1 is its first, 0 is none)."""
        self._statements, self._others = [], []
        self._news.clear()
        self._go.clear()
        self._left, self._statement = pause_after, ""
        ours = self._pool.submit(first)
        ours.add_done_callback(lambda _: self._news.set())
        assert self._news.wait(TURN_SECONDS_MAX), "the first side neither ended nor was paused"
        paused, self._left = self._statement or None, 0
        theirs = self._pool.submit(second)
        waited = paused is not None and not self._ends(theirs)
        self._go.set()
        return Run(_outcome(ours), _outcome(theirs), paused, waited, self._statements, self._others)

    def _after_statement(self, _connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        self._statements.append(" ".join(statement.split()))
        if self._left == 0:
            return
        self._left -= 1
        if self._left == 0:
            self._statement = self._statements[-1]
            self._news.set()
            self._go.wait(TURN_SECONDS_MAX)

    def _after_other(self, _connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        self._others.append(" ".join(statement.split()))

    def _ends(self, theirs: "Future[Any]") -> bool:
        """Whether the second side ended while the first was paused. False once it waits."""
        ended = threading.Event()
        theirs.add_done_callback(lambda _: ended.set())
        if self._waits is None:
            return ended.wait(SQLITE_WAIT_SECONDS)
        while not ended.wait(POLL_SECONDS):
            if self._waits():
                return False
        return True


def _outcome(future: "Future[Any]") -> Any:
    """What the call returned, or the exception that it raised."""
    error = future.exception(TURN_SECONDS_MAX)
    return error if error is not None else future.result()
