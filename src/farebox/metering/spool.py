"""When the ledger cannot be reached (L16): batches go to a file on this machine, and from there into the ledger, once.

A spool is a writer of its own, so that its batches are numbered, fenced and counted like all others (L1). Never spools
what the ledger could take, and never drops what was spooled.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from typing import Final, NamedTuple

import structlog

from farebox.domain.usage import Batch, Increment
from farebox.errors import StoreError, StoreUnavailable, WriterFenced
from farebox.ports import Clock, Entropy, Spool, SpooledBatch, SpoolFolder, SpoolSummary, Store

__all__ = [
    "SPOOL_GENERATIONS_MAX",
    "SPOOL_ROUND_BATCHES_MAX",
    "SPOOL_TURN_SECONDS_MAX",
    "Outcome",
    "Spooler",
    "outcome_of",
    "replay",
]

SPOOL_ROUND_BATCHES_MAX: Final = 200
SPOOL_TURN_SECONDS_MAX: Final = 5
SPOOL_GENERATIONS_MAX: Final = 100
_TOO_LONG: Final = "Usage cannot be recorded right now: the ledger has been away for too long."

_log = structlog.get_logger("farebox.spool")


class Spooler:
    """This process's spool, when it has one, and those that dead processes left behind.

    Of `append`, `step`, `finish`, `adopt` and `close` each may run on a thread of its own.
    """

    def __init__(
        self, store: Store, folder: SpoolFolder, clock: Clock, entropy: Entropy, *, seconds_max: int | None
    ) -> None:
        self._store = store
        self._folder = folder
        self._clock = clock
        self._entropy = entropy
        self._seconds_max = seconds_max
        self._spool: Spool | None = None
        self._process = os.getpid()
        self._begun_ms = 0
        self._ledger_id: str | None = None
        self._merging = threading.Lock()
        self._appending = threading.Lock()
        self.spooled_batches = 0

    @property
    def allowed(self) -> bool:
        """Whether calls may go on while the ledger is away. What was spooled before is merged in any case."""
        return self._seconds_max is not None

    @property
    def active(self) -> bool:
        """Whether this process spools now. After a fork the child does not."""
        return self._spool is not None and self._process == os.getpid()

    @property
    def seconds(self) -> int:
        """How long this process has been spooling."""
        return (self._clock.monotonic_ms() - self._begun_ms) // 1000 if self.active else 0

    def learn(self) -> None:
        """Ask the ledger for its id while it can be reached: a spool belongs to one ledger. StoreError."""
        if self._ledger_id is None:
            self._ledger_id = self._store.ledger().id

    def try_out(self) -> None:
        """Make a spool and remove it. StoreUnavailable when that cannot be done here."""
        self.learn()
        self._folder.create(str(self._ledger_id), f"try_{self._entropy.token()}", self._clock.now_at()).remove()

    def append(self, increments: tuple[Increment, ...], origin: Batch | None = None) -> None:
        """Make a batch durable in the spool, which begins with the first. StoreUnavailable: it does not count."""
        if self._seconds_max is None or self._ledger_id is None:
            raise StoreUnavailable(internal="nothing may be spooled")
        self._be_born()
        with _turn(self._appending):
            if not self.active:
                writer = f"spool_{self._entropy.token()}"
                self._spool = self._folder.create(self._ledger_id, writer, self._clock.now_at())
                self._begun_ms = self._clock.monotonic_ms()
                _log.warning("spool_begun", writer=writer)
            if self.seconds > self._seconds_max:
                raise StoreUnavailable(_TOO_LONG)
            spool = self._require()
            spool.append(SpooledBatch(spool.batches + 1, self._entropy.token(), increments, origin))
            self.spooled_batches += 1

    def step(self) -> bool:
        """Bring some of this process's spool into the ledger. True when at most a round of it is left. StoreError."""
        with _turn(self._merging):
            spool = self._require()
            replay(self._store, spool, SPOOL_ROUND_BATCHES_MAX)
            return _waiting(self._store, spool) <= SPOOL_ROUND_BATCHES_MAX

    def finish(self) -> None:
        """Bring the rest into the ledger and end the spool. StoreError: some of it waits on, or its writer is open.

        On the writer thread, so that usually nothing comes in between; when something does, that is brought in first.
        """
        with _turn(self._merging):
            spool = self._require()
            while not self._let_go_if_done(spool):
                replay(self._store, spool, SPOOL_ROUND_BATCHES_MAX)
            seconds = (self._clock.monotonic_ms() - self._begun_ms) // 1000
            _log.warning("spool_merged", writer=spool.writer, batches=spool.batches, seconds=seconds)
            _end(self._store, spool)

    def _let_go_if_done(self, spool: Spool) -> bool:
        """Take nothing more into this spool, when the ledger has all that is in it. Whatever fails later, nobody
        writes to its file any more.
        """
        batches = spool.batches
        if _waiting(self._store, spool):
            return False
        with _turn(self._appending):
            if spool.batches != batches:
                return False
            self._spool = None
            return True

    def close(self) -> None:
        """Leave the spool to whoever comes next. StoreUnavailable: a thread hangs in it; it ends with the process."""
        self._be_born()
        with _turn(self._merging), _turn(self._appending):
            if self._spool is not None:
                self._spool.close()
            self._spool = None

    def adopt(self) -> bool:
        """Bring what dead processes left behind into the ledger, also under an id that it had before it was restored.
        True when there was something. StoreError.
        """
        self.learn()
        found = False
        with closing(self._folder.abandoned(str(self._ledger_id))) as spools:
            for spool in spools:
                found = True
                self._bring_in(spool)
        for former in self._store.former_ledgers():
            with closing(self._folder.abandoned(former)) as spools:
                for spool in spools:
                    if not _may_have_landed(spool):  # else Stripe's sums must be looked at: `reconcile --after-restore`
                        found = True
                        self._bring_in(spool)
        return found

    def waiting(self, ledger_ids: Sequence[str]) -> int:
        """Batches that wait in the folder for ledgers of these ids, also in files that a living process holds."""
        return sum(self._folder.waiting(ledger_id).batches for ledger_id in ledger_ids)

    def bring_in(self, ledger_ids: Sequence[str], *, tried: bool) -> int:
        """Bring in what was spooled for a lost ledger, by the ids that it has had. How many batches. StoreError.

        `tried`: only what may have been in the lost ledger, and so may be at Stripe. That belongs in before Stripe's
        sums are compared, so that they cover it; the rest never reached Stripe, and belongs in after.
        """
        count = 0
        for ledger_id in ledger_ids:
            with closing(self._folder.abandoned(ledger_id)) as spools:
                for spool in spools:
                    before = _waiting(self._store, spool)
                    if tried:
                        _replay_up_to(self._store, spool, _may_have_landed(spool))
                        count += before - _waiting(self._store, spool)
                    else:
                        self._bring_in(spool)
                        count += before
        return count

    def _bring_in(self, spool: Spool) -> None:
        while _waiting(self._store, spool):
            replay(self._store, spool, SPOOL_ROUND_BATCHES_MAX)
        _end(self._store, spool)
        _log.warning("spool_adopted", writer=spool.writer, batches=spool.batches)

    def of_others(self) -> dict[str, int]:
        """Spool files in the folder that bear the id of another ledger, by that id."""
        return self._folder.of_others(self._ledger_id) if self._ledger_id is not None else {}

    def summary(self) -> SpoolSummary:
        """What waits in the folder for this ledger, of whatever process."""
        return self._folder.waiting(self._ledger_id) if self._ledger_id is not None else SpoolSummary()

    def _require(self) -> Spool:
        spool = self._spool
        if spool is None or not self.active:
            raise StoreUnavailable(internal="this process has no spool")
        return spool

    def _be_born(self) -> None:
        """A forked child has no spool, and none of the locks that its parent's threads hold."""
        if self._process != os.getpid():
            self._spool, self._process = None, os.getpid()
            self._merging, self._appending = threading.Lock(), threading.Lock()


@contextmanager
def _turn(lock: threading.Lock) -> Iterator[None]:
    if not lock.acquire(timeout=SPOOL_TURN_SECONDS_MAX):
        raise StoreUnavailable(internal="another thread hangs in the outage spool")
    try:
        yield
    finally:
        lock.release()


def replay(store: Store, spool: Spool, limit: int) -> None:
    """Commit up to `limit` of the spool's waiting batches in order, each once, whoever else does so, and although a
    crash or a lost answer may have come between any two steps before. StoreError: some of them wait on.
    """
    writer, before, own = _standing(store, spool)
    spool.mark_tried(min(before + own + limit, spool.batches))
    for spooled in islice(spool.read(before + own), limit):
        missing = spooled.origin is None or not outcome_of(store, spooled.origin).landed
        increments = spooled.increments if missing else ()
        try:
            store.commit_batch(Batch(writer, spooled.number - before, spooled.nonce, increments))
        except WriterFenced:
            return  # somebody else was faster, or closed the writer: look again


def _standing(store: Store, spool: Spool) -> tuple[str, int, int]:
    """The writer that takes the next batch, how many landed under those before it, and how many under itself.

    A writer that was closed while the ledger was away takes nothing more, and what it has not taken never lands
    under it: that goes under the next one, whose name follows from the spool's, so that everybody finds it.
    """
    before = 0
    for generation in range(SPOOL_GENERATIONS_MAX):
        writer = f"{spool.writer}.{generation}" if generation else spool.writer
        state = store.writer_state(writer)
        if state is None:
            return writer, before, 0
        if state.live:
            return writer, before, state.number
        before += state.number
    raise StoreError(internal=f"the writers of spool {spool.writer} are closed again and again")


def _waiting(store: Store, spool: Spool) -> int:
    _, before, own = _standing(store, spool)
    return spool.batches - before - own


def _may_have_landed(spool: Spool) -> int:
    """Up to which number: what was brought in before, or is the batch whose answer was lost at the beginning."""
    first = next(iter(spool.read(0)), None)
    return max(spool.tried, 1 if first is not None and first.origin is not None else 0)


def _replay_up_to(store: Store, spool: Spool, number: int) -> None:
    while (rest := number - (spool.batches - _waiting(store, spool))) > 0:
        replay(store, spool, min(rest, SPOOL_ROUND_BATCHES_MAX))


class Outcome(NamedTuple):
    """What became of a batch whose answer was lost, and whether its writer may go on."""

    landed: bool
    live: bool


def outcome_of(store: Store, batch: Batch) -> Outcome:
    """Find out. The batch never lands after this, so the answer stays true. StoreUnavailable: ask again."""
    try:
        return Outcome(store.batch_landed(batch), live=True)
    except WriterFenced:
        state = store.writer_state(batch.writer)
        return Outcome(state is not None and (state.number, state.nonce) == (batch.number, batch.nonce), live=False)


def _end(store: Store, spool: Spool) -> None:
    """The file goes first: as long as it is there, the ledger must know how far its writer came."""
    try:
        spool.remove()
    finally:
        spool.close()
    writer, _, own = _standing(store, spool)
    if own:
        store.close_writer(writer)
