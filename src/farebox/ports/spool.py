"""The outage spool as a port (L16): files beside the ledger that hold batches while the ledger cannot be reached."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Protocol

from farebox.domain.usage import Batch, Increment

__all__ = ["Spool", "SpoolFolder", "SpoolSummary", "SpooledBatch"]


@dataclass(frozen=True, slots=True)
class SpooledBatch:
    """A batch that waits for the ledger. Numbers of a spool begin at 1 and have no gaps.

    `origin` names the batch in which these increments were sent before, when nobody knows whether that landed.
    """

    number: int
    nonce: str
    increments: tuple[Increment, ...]
    origin: Batch | None = None


@dataclass(frozen=True, slots=True)
class SpoolSummary:
    """What waits in a folder for one ledger. `damaged` counts files, of any, with records that cannot be read."""

    files: int = 0
    batches: int = 0
    bytes: int = 0
    oldest_at: int | None = None
    damaged: int = 0


class Spool(Protocol):
    """One file, held by one process at a time. One thread appends, another may read meanwhile."""

    @property
    def writer(self) -> str:
        """The writer under which its batches go into the ledger: its own, used for nothing else."""
        ...

    @property
    def begun_at(self) -> int: ...
    @property
    def batches(self) -> int: ...
    @property
    def tried(self) -> int:
        """The number up to which its batches may have been in some ledger, also one that was lost since."""
        ...

    def mark_tried(self, number: int) -> None:
        """Write that down, if it can be: bringing usage in must not fail because a disk is full."""
        ...

    def append(self, batch: SpooledBatch) -> None:
        """Durable on return. StoreUnavailable when it could not be written: then it does not count."""
        ...

    def read(self, after: int) -> Iterator[SpooledBatch]:
        """The batches behind number `after`, in order."""
        ...

    def remove(self) -> None:
        """End it for good: everything in it is in the ledger. What was damaged is kept aside for a person."""
        ...

    def close(self) -> None:
        """Let go of it; whoever comes next may replay it."""
        ...


class SpoolFolder(Protocol):
    """Where spools live. Raises StoreUnavailable when the folder cannot be used."""

    def create(self, ledger_id: str, writer: str, at: int) -> Spool: ...
    def abandoned(self, ledger_id: str) -> Generator[Spool]:
        """Spools of the ledger that no living process holds, each held until it is removed or closed."""
        ...

    def waiting(self, ledger_id: str) -> SpoolSummary: ...
    def of_others(self, ledger_id: str) -> dict[str, int]:
        """Files in the folder that bear the id of another ledger: how many, by that id."""
        ...
