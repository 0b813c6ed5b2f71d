"""The part of the Store that takes usage to Stripe: sealed, leased, settled."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from farebox.domain.audit import AuditEntry
from farebox.domain.reports import MeterEvent, ReportedError, ReportState, Settlement, Unsealed

__all__ = ["ReportBacklog", "ReportStore", "ReportSummary"]


@dataclass(frozen=True, slots=True)
class ReportSummary:
    """The way to Stripe at a glance: quantities and counts of meter events by state, and what is not sealed yet."""

    unsealed_quantity: int
    quantities: dict[ReportState, int]
    counts: dict[ReportState, int]
    oldest_open_at: int | None


@dataclass(frozen=True, slots=True)
class ReportBacklog:
    """What is not at Stripe yet, read without looking at what is: for each state but delivered and withdrawn."""

    unsealed_quantity: int
    counts: dict[ReportState, int]
    quantities: dict[ReportState, int]
    oldest_open_at: int | None
    oldest_parked_at: int | None


class ReportStore(Protocol):
    """Meter events and their states. Raises StoreUnavailable when the outcome is unknown, else StoreError."""

    def seal(
        self,
        plan: Callable[[Unsealed], MeterEvent | None],
        *,
        now: int,
        before: int | None = None,
        hard: bool = False,
        account_ids: Collection[str] | None = None,
    ) -> list[MeterEvent]:
        """L5: read every unsealed bucket in one statement and insert what `plan` makes of each, in one transaction.
        Buckets starting at or after `before` wait; an account and meter sealed within the last minute waits unless
        `hard`. With `account_ids`: only of these accounts.
        """
        ...

    def take_meter_events(
        self,
        holder: str,
        *,
        now: int,
        lease_seconds: int,
        limit: int,
        stream_limit: int = 0,
        fresh_by_stream: bool = False,
    ) -> list[MeterEvent]:
        """Move due events to sending under a lease: at most one per customer and meter, and none for a customer and
        meter or a cell that has one in flight. An event whose lease ran out comes again, counted as an unknown
        attempt. At most `limit` that go one by one and `stream_limit` that go by the stream; those that have no way
        yet get one: the stream when STREAM_EVENTS_MIN or more of them are due and `fresh_by_stream` allows it. None
        while reporting is halted.
        """
        ...

    def settle_meter_events(self, holder: str, settlements: Sequence[Settlement], *, now: int) -> set[str]:
        """Write what came of attempts whose lease `holder` still has, and halt reporting when one of them says so. The
        identifiers that were settled; nothing is written for the others."""
        ...

    def meter_events(
        self, account_id: str | None = None, *, state: ReportState | None = None, limit: int = 100
    ) -> list[MeterEvent]:
        """The newest so many: of all accounts, and of what is open or parked, those made last first; else those of the
        account used last first."""
        ...

    def cell_book(self, event: MeterEvent) -> tuple[int, int]:
        """Of the other events in the event's customer, meter and minute: what of them was delivered, and how many may
        or may not have been (L7)."""
        ...

    def witnesses(self, event_name: str, *, after: int, limit: int) -> list[MeterEvent]:
        """Delivered events of the name that were made after a time, the oldest first."""
        ...

    def retry_meter_events(
        self, identifiers: Sequence[str], *, suffix: str, now: int, audit: AuditEntry | None = None
    ) -> list[MeterEvent]:
        """Take those that are parked up again, under their own identifiers and keys that end in `suffix`; those whose
        identifier Stripe may still know, when it has forgotten it. Returns them as they were."""
        ...

    def refuse_reported(self, error: ReportedError, *, others: bool, now: int) -> tuple[list[str], list[str]]:
        """Park as rejected what Stripe took and refused later. When all that is known is a request that many shared,
        or when `others` were refused that nobody names, those are to be sent again, each alone and as unknown since
        then. The identifiers of both; none for a name that stands for nothing delivered."""
        ...

    def find_reported(self, name: str) -> list[MeterEvent]:
        """The events that an identifier or an idempotency key stands for."""
        ...

    def report_backlog(self) -> ReportBacklog: ...
    def report_summary(self, account_id: str | None = None) -> ReportSummary: ...
