"""The part of the Store that knows whether the money is right: billing periods, and what was closed with them."""

from typing import Protocol

from farebox.domain.periods import BillingPeriod

__all__ = ["ReconcilingStore"]


class ReconcilingStore(Protocol):
    """Periods. Raises StoreUnavailable when the outcome is unknown, else StoreError."""

    def periods(self, account_id: str, *, since: int = 0) -> list[BillingPeriod]:
        """The account's periods that end after `since`, in order of time."""
        ...

    def unfinished_periods(self, *, ended_by: int, limit: int, after: str = "") -> list[BillingPeriod]:
        """Periods over by then whose invoice is not known to be final, of accounts after `after`, in their order."""
        ...

    def close_period(self, period: BillingPeriod, *, invoice_id: str, finalized_at: int) -> None:
        """Its invoice is final: nothing is sealed in it any more (L10)."""
        ...
