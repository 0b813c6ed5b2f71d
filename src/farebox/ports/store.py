"""The ledger as a port: who it is, its change feed, and usage. Every method is synchronous, thread-safe and one
transaction; the edge and the loops put calls on threads."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from farebox.domain.audit import AuditEntry
from farebox.domain.usage import Batch, UsageLine
from farebox.ports.accounts import AccountStore
from farebox.ports.presence import PresenceStore
from farebox.ports.reconciling import ReconcilingStore
from farebox.ports.reports import ReportStore

__all__ = ["Changes", "Durability", "Ledger", "Store", "WriterState"]


@dataclass(frozen=True, slots=True)
class Ledger:
    """Who this database is.

    `provider_account` and `livemode` are bound at the first start and checked at each later one. `halted_reason` says
    why no process reports usage any more, since `halted_at`; None while usage is reported.
    """

    id: str
    created_at: int
    provider_account: str | None
    livemode: bool | None
    halted_reason: str | None = None
    halted_at: int | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """What the change feed says after a position (L13). Another `epoch` or `complete=False` drops every cached fact."""

    epoch: str
    head: int
    account_ids: tuple[str, ...]
    complete: bool
    at_ms: int | None = field(default=None, compare=False)  # the store's own time, where it has one (L4)


@dataclass(frozen=True, slots=True)
class Durability:
    """Which database it is and what it does with a commit, in words. `weaknesses`: what a crash could lose, and why."""

    database: str
    settings: str
    weaknesses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WriterState:
    """How far a writer has come: its last number and that one's nonce. A closed one (`live` false) comes no further."""

    number: int
    nonce: str
    live: bool


class Store(AccountStore, ReportStore, ReconcilingStore, PresenceStore, Protocol):
    """The ledger.

    Every method is one transaction. Raises StoreUnavailable when the outcome is unknown, else StoreError.
    """

    def open(self, *, migrate: bool = False) -> None:
        """Create the schema in an empty database, or check it; an older one is brought up to date only with `migrate`.

        StoreUnusable for a foreign, corrupted, older, newer or unwritable database, and for one that loses commits.
        """
        ...

    def close(self) -> None: ...
    def ping(self) -> None: ...
    def durability(self) -> Durability: ...
    def ledger(self) -> Ledger: ...
    def bind_ledger(self, provider_account: str, livemode: bool) -> Ledger:
        """Bind an unbound ledger; StoreUnusable when it is bound to another account or mode."""
        ...

    def halt_reporting(self, reason: str, *, now: int) -> bool:
        """Stop every process from reporting usage, across restarts, until a person resumes it. False when it was halted
        already: the first reason stays.
        """
        ...

    def resume_reporting(self, *, audit: AuditEntry) -> str | None:
        """End the halt, with an entry in the audit log. Returns the halt's reason, None when there was no halt."""
        ...

    def changes(self, epoch: str, after: int) -> Changes: ...
    def wait_for_change(self, timeout_ms: int) -> None:
        """Return when the feed may have moved, at the latest after `timeout_ms`. For one thread; only a closed store
        raises.
        """
        ...

    # roles
    def take_lease(self, name: str, holder: str, *, now: int, seconds: int) -> int | None:
        """Take the lease when it is free or has run out, or renew one's own: its fence, which no other holder ever had
        or will have. None while somebody else holds it.
        """
        ...

    def release_lease(self, name: str, holder: str) -> None:
        """Give one's own lease back; nothing when it is somebody else's."""
        ...

    def take_turn(self, name: str, *, now: int, seconds: int) -> str | None:
        """Begin the next turn of a round through the accounts, at most one in so many seconds: the account after which
        it goes on, "" at the beginning. None when the last turn is more recent.
        """
        ...

    def keep_place(self, name: str, after: str) -> None:
        """The round's next turn goes on after this account, whichever process takes it; "" begins anew."""
        ...

    # usage
    def commit_batch(self, batch: Batch) -> None:
        """L1 and L2. Number 1 registers the writer. WriterFenced when the number is not the writer's next, unless it
        landed already with this nonce (then it returns). RecordConflict when a record_id is known with another
        quantity; a record_id known with the same values adds nothing.
        """
        ...

    def batch_landed(self, batch: Batch) -> bool:
        """After an unknown outcome: commit an empty batch of the same number and nonce-less; True when the batch had
        landed, False when it had not and never can. WriterFenced for anything else. The number is used up either way,
        and the same may be asked again.
        """
        ...

    def close_writer(self, writer: str) -> None: ...
    def writer_state(self, writer: str) -> WriterState | None:
        """None for a writer that has never committed."""
        ...

    def recorded(self, account_id: str, record_ids: Sequence[str]) -> dict[str, tuple[str, int]]:
        """Meter and quantity of those ids that the account has used already."""
        ...

    def first_recorded(self, account_id: str, record_ids: Sequence[str], mark: str) -> set[str]:
        """Those ids that an increment with this mark was the first to record. It holds whatever became of the commit's
        answer, and whichever process asks."""
        ...

    def usage(self, account_id: str, start: int, end: int, *, by_operation: bool = False) -> list[UsageLine]:
        """Usage of the buckets in [start, end) summed by meter, or by meter, operation and key."""
        ...

    def key_used(self, account_id: str, key_id: str) -> bool: ...
