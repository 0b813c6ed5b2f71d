"""The part of the Store that knows which processes serve, and which accounts they hold back for a moment (L12)."""

from dataclasses import dataclass
from typing import Protocol

__all__ = ["PresenceStore", "ProcessRow"]


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """A serving process. `beats` moves as long as it lives, whatever its clock says.

    `acknowledged` is a position of the change feed: all calls that it let in without knowing that much are committed.
    """

    id: str
    host: str
    pid: int
    started_at: int
    seen_at: int
    acknowledged: int
    beats: int = 0


class PresenceStore(Protocol):
    """Raises StoreUnavailable when the outcome is unknown, else StoreError."""

    def beat(self, process: ProcessRow) -> bool:
        """Register the process, or say that it lives. False when it was not registered: it is now."""
        ...

    def processes(self) -> list[ProcessRow]: ...
    def remove_process(self, process: ProcessRow) -> bool:
        """Remove it if it has not beaten since it was read, and close its writers, in one transaction."""
        ...

    def hold_account(self, account_id: str, *, now: int, until: int) -> int | None:
        """Let no paid call of the account begin before `until`. The change's number in the feed; None while another
        hold lasts.
        """
        ...

    def release_account(self, account_id: str, *, until: int) -> None:
        """End the hold that was taken with this `until`, and say so in the feed. Nothing when it is another's."""
        ...

    def held_until(self, account_id: str) -> int | None: ...
    def reported(self, account_id: str, start: int, end: int) -> dict[str, int]:
        """Delivered units by event name, of meter events with a timestamp in [start, end)."""
        ...
