"""One writer of the ledger, fenced by its numbers (L1), and the spool that takes over when the ledger is lost (L16).

Works on a thread and may hang there. Then it is given up: it begins nothing more, and the next writer goes on with
what is in doubt.
"""

import os
import threading
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import structlog

from farebox.domain.usage import Batch, Increment
from farebox.errors import StoreUnavailable, WriterFenced
from farebox.metering.spool import Spooler, outcome_of
from farebox.ports import Entropy, Store

__all__ = ["RESOLVE_ATTEMPTS_MAX", "GivenUp", "InDoubt", "Writer"]

RESOLVE_ATTEMPTS_MAX: Final = 3
_MAY_HAVE_HAPPENED: Final = "Usage could not be recorded. The call may have done its work."

_log = structlog.get_logger("farebox.recorder")
_Increments = tuple[Increment, ...]


class InDoubt(StoreUnavailable):
    """A commit whose outcome is not known yet. When it is `over`, `landed` says it; None: nobody will ever know."""

    landed: bool | None = None
    over = False

    def resolve(self, landed: bool | None) -> None:
        """Say how it ended. The first answer stays."""
        if not self.over:
            self.landed, self.over = landed, True


class GivenUp(NamedTuple):
    """What became of a writer that hung: who goes on, and how it stands with the increments that it was given.

    `doubt` is None when they were not tried, or when they are `durable` after all.
    """

    successor: "Writer"
    doubt: InDoubt | None
    durable: bool = False


class Writer:
    """For one thread at a time; `give_up` may be called from another. `process_id` begins its name."""

    def __init__(
        self,
        store: Store,
        entropy: Entropy,
        spool: Spooler | None = None,
        process_id: Callable[[], str] | None = None,
    ) -> None:
        """`spool` takes over when the ledger is lost; None: nothing does."""
        self._store = store
        self._entropy = entropy
        self._spool = spool
        self._process_id = process_id
        self._lock = threading.Lock()
        self._given_up = False
        self._number = 0
        self._unproven: Batch | None = None  # sent, and its outcome is not known yet
        self._doubt: InDoubt | None = None  # of that batch
        self._spooling: InDoubt | None = None  # of what is being written to the spool
        self._durable: _Increments | None = None  # what the last commit made durable
        self.process = os.getpid()
        self.name = ""

    @property
    def settled(self) -> bool:
        """Whether it has a name in this process and nothing in doubt, so that it may be closed."""
        return self.name != "" and self._unproven is None and self.process == os.getpid()

    @property
    def in_doubt(self) -> bool:
        """Whether the outcome of a batch is still to be found out."""
        return self._unproven is not None

    def commit(self, increments: _Increments) -> None:
        """Into the ledger; when that is lost, and for as long as it is, into the spool. No increments: an attempt.

        StoreError: nothing of it happened. InDoubt: it may still turn out that it did.
        """
        self._durable = None
        if self._spool is not None and self._spool.active:
            self._append(increments)
            return
        try:
            self._commit_to_ledger(increments)
        except StoreUnavailable as error:
            if self._spool is None or not increments or not self.name or self._given_up:
                raise  # without a name it was fenced off: what became of the batch is known
            self.spill(increments, error)

    def spill(self, increments: _Increments, error: StoreUnavailable) -> None:
        """Into the spool, since the ledger is lost by `error`. Raises it when the spool refuses what is in doubt."""
        lost = self._unproven_of(increments)
        try:
            self._append(increments, lost)
        except StoreUnavailable as refused:
            if lost is None:
                raise
            # The doubt remains: what the spool did not take may be in the ledger.
            error.internal = f"{error.internal}; {refused.internal or refused.detail}"
            raise error from refused

    def give_up(self, increments: _Increments) -> GivenUp:
        """Begin nothing more here, and say how it stands with the increments."""
        successor = Writer(self._store, self._entropy, self._spool, self._process_id)
        with self._lock:
            self._given_up = True
            tried = self._unproven_of(increments) is not None
            if self._spooling is None or not tried:  # a batch that the spool may name is the spool's to settle
                successor.name, successor._number, successor.process = self.name, self._number, self.process
                successor._unproven, successor._doubt = self._unproven, self._doubt
            if self._spooling is not None:
                return GivenUp(successor, self._spooling)
            if not tried:
                return GivenUp(successor, None, durable=self._durable is increments)
            doubt = self._doubt or InDoubt(_MAY_HAVE_HAPPENED, internal="the ledger does not answer")
            self._doubt = successor._doubt = doubt
            return GivenUp(successor, doubt)

    def _append(self, increments: _Increments, lost: Batch | None = None) -> None:
        """Usage from outside a request is refused: whether its id is new is known to the ledger alone.

        The batch whose answer was lost goes along by name: only the replay will know whether it landed.
        """
        if self._spool is None or _has_ids(increments):
            raise StoreUnavailable(_MAY_HAVE_HAPPENED)
        doubt = InDoubt(_MAY_HAVE_HAPPENED, internal="the outage spool does not answer")
        with self._lock:
            self._refuse_given_up()
            self._spooling = doubt
        try:
            self._spool.append(increments, lost)
        except BaseException:
            with self._lock:
                self._spooling = None
            doubt.resolve(False if lost is None else None)
            raise
        with self._lock:
            self._spooling, self._durable = None, increments
            if lost is not None:
                self.name, self._unproven, self._doubt = "", None, None
        doubt.resolve(True)

    def _unproven_of(self, increments: _Increments) -> Batch | None:
        """The batch of these increments, when it was sent and its outcome is not known."""
        unproven = self._unproven
        return unproven if unproven is not None and unproven.increments is increments else None

    def _commit_to_ledger(self, increments: _Increments) -> None:
        """Settle what is unproven, then commit, and find out what became of it."""
        self._ensure_name()
        if self._unproven is not None:
            try:
                self._landed(self._unproven)
            except InDoubt as doubt:  # of the batch before: this one has not been tried
                raise StoreUnavailable(_MAY_HAVE_HAPPENED, internal=doubt.internal) from doubt
        try:
            self._commit_once(increments)
        except WriterFenced:
            # The transaction was rolled back, so nothing landed; the same increments may go under a new name.
            _log.warning("writer_fenced", writer=self.name)
            self.name = ""
            self._commit_once(increments)

    def _commit_once(self, increments: _Increments) -> None:
        self._ensure_name()
        batch = Batch(self.name, self._number + 1, self._entropy.token(), increments)
        with self._lock:
            self._refuse_given_up()
            self._unproven, self._doubt = batch, None
        try:
            self._store.commit_batch(batch)
        except StoreUnavailable as unknown:
            if not self._landed(batch):
                raise StoreUnavailable(_MAY_HAVE_HAPPENED) from unknown
        except BaseException:
            with self._lock:
                self._unproven = None
            raise
        else:
            self._prove(batch, landed=True)

    def _landed(self, batch: Batch) -> bool:
        """Ask a few times whether the batch landed; what stays unknown is settled before anything else is committed.

        With a spool to go on with, once is enough: the call waits meanwhile.
        """
        attempts = 1 if self._spool is not None else RESOLVE_ATTEMPTS_MAX
        with self._lock:
            doubt = self._doubt = self._doubt or InDoubt(_MAY_HAVE_HAPPENED)
        for attempt in range(attempts):
            if self._given_up:
                raise doubt
            try:
                outcome = outcome_of(self._store, batch)
            except StoreUnavailable as unknown:
                if attempt + 1 == attempts:
                    doubt.internal = unknown.internal
                    raise doubt from unknown
            else:
                self._prove(batch, landed=outcome.landed)
                if not outcome.live:
                    self.name = ""
                return outcome.landed
        raise AssertionError("unreachable")

    def _prove(self, batch: Batch, *, landed: bool) -> None:
        with self._lock:
            doubt, self._doubt = self._doubt, None
            self._unproven, self._number = None, batch.number
            self._durable = batch.increments if landed else None
        if doubt is not None:
            doubt.resolve(landed)

    def _ensure_name(self) -> None:
        if not self.name:
            token = self._entropy.token()
            self.name = f"{self._process_id()}-{token}" if self._process_id is not None else token
            self._number = 0

    def _refuse_given_up(self) -> None:
        if self._given_up:
            raise StoreUnavailable(_MAY_HAVE_HAPPENED, internal="given up: another writer goes on")


def _has_ids(increments: Sequence[Increment]) -> bool:
    return any(i.record_id is not None for i in increments)
