"""The part of the Store that knows whether the money is right: billing periods, corrections, and who did what."""

from collections.abc import Callable
from typing import Protocol

from farebox.domain.audit import AuditEntry
from farebox.domain.corrections import Adjustment
from farebox.domain.periods import BillingPeriod
from farebox.domain.reports import MeterEvent, Unsealed
from farebox.domain.usage import Period

__all__ = ["ReconcilingStore"]


class ReconcilingStore(Protocol):
    """Raises StoreUnavailable when the outcome is unknown, else StoreError."""

    def periods(self, account_id: str, *, since: int = 0) -> list[BillingPeriod]:
        """The account's periods that end after `since`, in order of time."""
        ...

    def unfinished_periods(self, *, ended_by: int, limit: int, after: str = "") -> list[BillingPeriod]:
        """Periods over by then whose invoice is not known to be final, of accounts after `after`, in their order."""
        ...

    def close_period(self, period: BillingPeriod, *, invoice_id: str, finalized_at: int) -> None:
        """Its invoice is final: nothing is sealed in it any more (L10)."""
        ...

    def adjust(
        self,
        adjustment: Adjustment,
        plan: Callable[[Unsealed], MeterEvent],
        *,
        period: Period,
        bucket_start: int,
        audit: AuditEntry,
    ) -> Adjustment:
        """L11: keep the correction, the meter event that `plan` makes of it, and who did it, in one transaction.

        An id that is known with the same values changes nothing; with others: RecordConflict. AdjustmentRefused when
        the bucket's period is final, or its usage and corrections would come below zero.
        """
        ...

    def adjusted(self, account_id: str, start: int, end: int) -> dict[str, int]:
        """The sum of corrections by meter, of usage in [start, end)."""
        ...

    def adjustments(self, account_id: str, *, limit: int = 100) -> list[Adjustment]:
        """Newest first."""
        ...

    def add_audit(self, entry: AuditEntry) -> None:
        """For an act that has no transaction of its own in the ledger."""
        ...

    def audit(self, subject: str | None = None, *, limit: int = 100) -> list[AuditEntry]:
        """Who did what, to this account or at all; newest first."""
        ...
