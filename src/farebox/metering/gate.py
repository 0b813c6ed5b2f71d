"""Who may call: facts of keys, cached in the process and kept true by the change feed (L13, L14).

A cached fact is dropped when the feed names its account; when the feed has not been read for too long, nobody passes.
Keys are remembered by a hash that needs one of the server's secrets, never in clear.
"""

import threading
from collections.abc import Callable, Sequence
from hashlib import sha256
from itertools import islice
from typing import Any, Final

from farebox.domain.access import Facts, Grant, Refusal, Standing, decide_standing, identify
from farebox.domain.keys import Pepper, digest, is_well_formed
from farebox.errors import FactsStale, KeyInvalid, StoreError, StoreUnavailable
from farebox.metering.presence import Admissions
from farebox.ports import Clock, Store

__all__ = [
    "CLOCK_SAMPLE_MILLISECONDS_MAX",
    "FACTS_CACHED_MAX",
    "FEED_POLL_MILLISECONDS",
    "FILL_SECONDS_MAX",
    "STALENESS_MILLISECONDS",
    "UNKNOWN_CACHED_MAX",
    "Gate",
]

FACTS_CACHED_MAX: Final = 1_000_000
UNKNOWN_CACHED_MAX: Final = 20_000
FEED_POLL_MILLISECONDS: Final = 250
STALENESS_MILLISECONDS: Final = 2_000
FILL_SECONDS_MAX: Final = 10
CLOCK_SAMPLE_MILLISECONDS_MAX: Final = 500


class _Holder:
    """An account whose facts are cached, with the last grant that was given by them."""

    __slots__ = ("grant", "number", "standing")

    def __init__(self, standing: Standing, number: int) -> None:
        self.standing = standing
        self.number = number
        self.grant: Grant | None = None


# A key as memory has it: its id, its account, the number of the holder that it was read with, when it expires, and when
# it was revoked. A tuple of texts and numbers is small, and the garbage collector does not look at it.
_Known = tuple[str, str, int, int | None, int | None]


class Gate:
    """Answers from memory with `known`; `fill` and `poll` read the store and belong on a thread."""

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
        self._time_was_told = False
        self._store = store
        self._clock = clock
        self._peppers = tuple(peppers)
        self._grace_seconds = grace_seconds
        self._lock = threading.Lock()
        self._salt = peppers[0].secret if peppers else b""
        self._keys: dict[bytes, _Known] = {}  # by a hash of the key in clear; out of date without its holder
        self._holders: dict[str, _Holder] = {}  # by account
        self._numbers = 0
        self._unknown: set[bytes] = set()
        self._epoch = ""
        self._head = 0
        self._generation = 0
        self._read_at_ms: int | None = None
        self._trusted_until_ms = -1
        self._cut_off_ms: int | None = None  # since when the feed has been asked without an answer
        self._spool_ms = spool_seconds * 1000
        self._polling = threading.Lock()
        self.admissions = Admissions()

    def admit(self, text: str) -> tuple[str, Grant] | None:
        """The id of a key and the grant of its account, where memory has both and needs no second look; else None."""
        known = self._keys.get(sha256(self._salt + text.encode()).digest())
        if known is None:
            return None
        key_id, account_id, number, expires_at, revoked_at = known
        holder = self._holders.get(account_id)
        if holder is None or holder.number != number or expires_at is not None or revoked_at is not None:
            return None
        grant = holder.grant
        if grant is None or self._clock.now_at() >= grant.until_at:
            return None
        return (key_id, grant) if self._clock.monotonic_ms() <= self._trusted_until_ms else None

    def known(self, text: str) -> Facts | None:
        """Facts from memory by the key in clear; None when the store must be asked.

        FactsStale when the feed is too old to trust memory; KeyInvalid when the key's form or checksum is wrong, or
        when it is known that there is no such key.
        """
        self._refuse_stale()
        name = sha256(self._salt + text.encode()).digest()
        known = self._keys.get(name)
        if known is not None:
            key_id, account_id, number, expires_at, revoked_at = known
            holder = self._holders.get(account_id)
            if holder is None or holder.number != number:
                return None
            return Facts(key_id, holder.standing, expires_at, revoked_at)
        if name in self._unknown:
            raise KeyInvalid("The API key is not known.")
        if not is_well_formed(text):
            raise KeyInvalid("The API key is not valid. Check that it was copied whole.")
        return None

    def fill(self, text: str) -> Facts:
        """Read facts from the store; keep them only if nothing changed since before the read.

        KeyInvalid if there is no such key, and before any look-up when its form or checksum is wrong.
        """
        if not is_well_formed(text):
            raise KeyInvalid("The API key is not valid. Check that it was copied whole.")
        with self._lock:
            generation = self._generation
        facts = self._store.find_facts([digest(text, pepper) for pepper in self._peppers])
        with self._lock:
            if generation == self._generation:
                self._install(sha256(self._salt + text.encode()).digest(), facts)
        if facts is None:
            raise KeyInvalid("The API key is not known.")
        return facts

    def decide(self, facts: Facts) -> Grant | Refusal:
        """Whether the facts allow a paid call now. Their account's grant is remembered for `admit` while it holds."""
        now = self._clock.now_at()
        refusal = identify(facts, now)
        if refusal is not None:
            return refusal
        decision = decide_standing(facts.standing, now, self._grace_seconds)
        holder = self._holders.get(facts.account.id)
        if isinstance(decision, Grant) and holder is not None and holder.standing is facts.standing:
            holder.grant = decision
        return decision

    def refusal_of_key(self, facts: Facts) -> Refusal | None:
        """Why the key itself is refused now, or None."""
        return identify(facts, self._clock.now_at())

    def poll(self) -> None:
        """Read the feed and drop what it names. Raises StoreError; staleness counts from the last success."""
        if not self._polling.acquire(timeout=STALENESS_MILLISECONDS / 1000):
            raise StoreUnavailable(internal="another thread waits for the change feed")
        try:
            self._read_feed()
        finally:
            self._polling.release()

    def _read_feed(self) -> None:
        began_at_ms = self._clock.monotonic_ms()
        if self._cut_off_ms is None:
            self._cut_off_ms = began_at_ms
        changes = self._store.changes(self._epoch, self._head)
        if changes.at_ms is not None and self._told_time is not None:
            self._tell_time(changes.at_ms, began_at_ms, self._clock.monotonic_ms(), self._told_time)
        with self._lock:
            if not changes.complete or changes.epoch != self._epoch:
                self._drop_all()
            elif changes.account_ids:
                self._drop(changes.account_ids)
            self._epoch, self._head = changes.epoch, changes.head
            self._read_at_ms, self._cut_off_ms = began_at_ms, None
            self._trust()
            self.admissions.advance(changes.head)

    def _tell_time(self, at_ms: int, began_ms: int, ended_ms: int, told_time: Callable[[int, int], None]) -> None:
        """The store said its time somewhere between the two: a slow answer says too little, unless it is the first."""
        if ended_ms - began_ms <= CLOCK_SAMPLE_MILLISECONDS_MAX or not self._time_was_told:
            told_time(at_ms, (began_ms + ended_ms) // 2)
            self._time_was_told = True

    def ready(self) -> bool:
        """Whether the feed is fresh enough to let anyone pass."""
        try:
            self._refuse_stale()
        except StoreError:
            return False
        return True

    def _refuse_stale(self) -> None:
        if self._clock.monotonic_ms() > self._trusted_until_ms and self._clock.monotonic_ms() > self._trust():
            raise FactsStale("Access cannot be checked right now. Try again shortly.")

    def _trust(self) -> int:
        """Until when memory is trusted: longer only where the store itself is away (L14, L16)."""
        read_at_ms, cut_off_ms = self._read_at_ms, self._cut_off_ms
        if read_at_ms is None:
            return -1
        away = cut_off_ms is not None and self._spool_ms > 0
        self._trusted_until_ms = read_at_ms + max(STALENESS_MILLISECONDS, self._spool_ms if away else 0)
        return self._trusted_until_ms

    def _install(self, name: bytes, facts: Facts | None) -> None:
        """Keep what was read. Keys of one account share what is known about it."""
        if facts is None:
            if len(self._unknown) >= UNKNOWN_CACHED_MAX:
                self._unknown.clear()
            self._unknown.add(name)
            return
        for kept in (self._keys, self._holders):
            if len(kept) >= FACTS_CACHED_MAX:
                _forget_oldest(kept)
        standing = facts.standing
        holder = self._holders.get(standing.account.id)
        if holder is None or holder.standing != standing:
            self._numbers += 1
            holder = self._holders[standing.account.id] = _Holder(standing, self._numbers)
        self._keys[name] = facts.key_id, holder.standing.account.id, holder.number, facts.expires_at, facts.revoked_at

    def _drop(self, account_ids: Sequence[str]) -> None:
        self._generation += 1
        self._unknown.clear()
        for account_id in account_ids:
            self._holders.pop(account_id, None)

    def _drop_all(self) -> None:
        self._generation += 1
        self._unknown.clear()
        self._keys.clear()
        self._holders.clear()


def _forget_oldest(kept: dict[Any, Any]) -> None:
    """Many at once: to find the oldest one of a dict again and again, past all that were deleted, takes long."""
    for oldest in list(islice(kept, 1 + len(kept) // 16)):
        del kept[oldest]
