"""Who may call: facts of keys, cached in the process and kept true by the change feed (L13, L14).

A cached fact is dropped when the feed names its account; when the feed has not been read for too long, nobody passes.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Final

from farebox.domain.access import Facts, Grant, Refusal, decide, identify
from farebox.domain.keys import Pepper, digest, is_well_formed
from farebox.errors import FactsStale, KeyInvalid, StoreError
from farebox.metering.presence import Admissions
from farebox.ports import Clock, Store

__all__ = ["FACTS_CACHED_MAX", "FEED_POLL_MILLISECONDS", "STALENESS_MILLISECONDS", "UNKNOWN_CACHED_MAX", "Gate"]

FACTS_CACHED_MAX: Final = 200_000
UNKNOWN_CACHED_MAX: Final = 20_000
FEED_POLL_MILLISECONDS: Final = 250
STALENESS_MILLISECONDS: Final = 2_000


class Gate:
    """Answers from memory with `cached`; `fill` and `poll` read the store and belong on a thread."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        peppers: Sequence[Pepper],
        grace_seconds: int,
        *,
        spool_seconds: int = 0,
        told_time: Callable[[int, int], None] | None = None,
    ) -> None:
        """`spool_seconds`: how long facts are trusted while the store cannot be reached (L16); 0: not at all.
        `told_time` hears the store's time with each poll: milliseconds, and the monotonic ones of that moment.
        """
        self._told_time = told_time
        self._store = store
        self._clock = clock
        self._peppers = tuple(peppers)
        self._grace_seconds = grace_seconds
        self._lock = threading.Lock()
        self._facts: dict[str, Facts] = {}
        self._unknown: set[str] = set()
        self._digests: dict[str, set[str]] = {}
        self._epoch = ""
        self._head = 0
        self._generation = 0
        self._read_at_ms: int | None = None
        self._cut_off_ms: int | None = None  # since when the feed has been asked without an answer
        self._spool_ms = spool_seconds * 1000
        self._polling = threading.Lock()
        self.admissions = Admissions()

    def digests(self, text: str) -> tuple[str, ...]:
        """The key's digests, newest pepper first. KeyInvalid before any look-up when its form or checksum is wrong."""
        if not is_well_formed(text):
            raise KeyInvalid("The API key is not valid. Check that it was copied whole.")
        return tuple(digest(text, pepper) for pepper in self._peppers)

    def cached(self, digests: Sequence[str]) -> Facts | None:
        """Facts from memory; None when the store must be asked. FactsStale when the feed is too old to trust memory."""
        if self._stale():
            raise FactsStale("Access cannot be checked right now. Try again shortly.")
        for name in digests:
            facts = self._facts.get(name)
            if facts is not None:
                return facts
        if digests and all(name in self._unknown for name in digests):
            raise KeyInvalid("The API key is not known.")
        return None

    def fill(self, digests: Sequence[str]) -> Facts:
        """Read facts from the store; keep them only if nothing changed since before the read. KeyInvalid if unknown."""
        with self._lock:
            generation = self._generation
        facts = self._store.find_facts(digests)
        with self._lock:
            if generation == self._generation:
                self._install(digests, facts)
        if facts is None:
            raise KeyInvalid("The API key is not known.")
        return facts

    def decide(self, facts: Facts) -> Grant | Refusal:
        """Whether the facts allow a paid call now."""
        return decide(facts, self._clock.now_at(), self._grace_seconds)

    def refusal_of_key(self, facts: Facts) -> Refusal | None:
        """Why the key itself is refused now, or None."""
        return identify(facts, self._clock.now_at())

    def poll(self) -> None:
        """Read the feed and drop what it names. Raises StoreError; staleness counts from the last success."""
        with self._polling:
            began_at_ms = self._clock.monotonic_ms()
            if self._cut_off_ms is None:
                self._cut_off_ms = began_at_ms
            changes = self._store.changes(self._epoch, self._head)
            if changes.at_ms is not None and self._told_time is not None:
                self._told_time(changes.at_ms, (began_at_ms + self._clock.monotonic_ms()) // 2)
            with self._lock:
                if not changes.complete or changes.epoch != self._epoch:
                    self._drop_all()
                elif changes.account_ids:
                    self._drop(changes.account_ids)
                self._epoch, self._head = changes.epoch, changes.head
                self._read_at_ms, self._cut_off_ms = began_at_ms, None
                self.admissions.advance(changes.head)

    def ready(self) -> bool:
        """Whether the feed is fresh enough to let anyone pass."""
        try:
            self.cached(())
        except StoreError:
            return False
        return True

    def _stale(self) -> bool:
        """Whether the feed has not been read for too long: longer only where the store itself is away (L14, L16)."""
        now_ms, read_at_ms, cut_off_ms = self._clock.monotonic_ms(), self._read_at_ms, self._cut_off_ms
        if read_at_ms is None:
            return True
        away = cut_off_ms is not None and self._spool_ms > 0
        return now_ms - read_at_ms > max(STALENESS_MILLISECONDS, self._spool_ms if away else 0)

    def _install(self, digests: Sequence[str], facts: Facts | None) -> None:
        if facts is None:
            if len(self._unknown) >= UNKNOWN_CACHED_MAX:
                self._unknown.clear()
            self._unknown.update(digests)
            return
        if len(self._facts) >= FACTS_CACHED_MAX:
            self._forget(next(iter(self._facts)))
        self._facts[facts.key.digest] = facts
        self._digests.setdefault(facts.account.id, set()).add(facts.key.digest)

    def _forget(self, name: str) -> None:
        facts = self._facts.pop(name)
        of_account = self._digests[facts.account.id]
        of_account.discard(name)
        if not of_account:
            del self._digests[facts.account.id]

    def _drop(self, account_ids: Sequence[str]) -> None:
        self._generation += 1
        self._unknown.clear()
        for account_id in account_ids:
            for name in self._digests.pop(account_id, ()):
                self._facts.pop(name, None)

    def _drop_all(self) -> None:
        self._generation += 1
        self._unknown.clear()
        self._facts.clear()
        self._digests.clear()
