"""The part of the Store that knows whether the money is right: billing periods, corrections, and who did what."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from farebox.domain.audit import AuditEntry
from farebox.domain.balance import Balance
from farebox.domain.corrections import Adjustment, LateItem, LateItemGroup
from farebox.domain.invoices import PeriodBill
from farebox.domain.periods import BillingPeriod
from farebox.domain.reports import MeterEvent, Unsealed
from farebox.domain.restoring import Share
from farebox.domain.simulation import UsedPeriod
from farebox.domain.usage import Period

__all__ = ["ReconcilingStore"]


class ReconcilingStore(Protocol):
    """Raises StoreUnavailable when the outcome is unknown, else StoreError."""

    def periods(self, account_id: str, *, since: int = 0) -> list[BillingPeriod]:
        """The account's periods that end after `since`, in order of time."""
        ...

    def accounts_with_period_end(self, after: int, until: int) -> list[str]:
        """Accounts that have a known period which ends in (after, until]."""
        ...

    def used_periods(
        self,
        *,
        meters: Sequence[str],
        since: int,
        until: int,
        account_id: str | None = None,
        after: str = "",
        accounts: int,
    ) -> list[UsedPeriod]:
        """The periods that begin in [since, until), with their usage of these meters, of the first so many accounts
        after `after`, or of one account; in the order of accounts and time. Empty: there are no more."""
        ...

    def periods_to_look_at(self, *, now: int, limit: int) -> list[BillingPeriod]:
        """Periods whose invoices are due to be looked for, the longest due first. One is first due two hours after its
        end, unless it was closed by then."""
        ...

    def take_look(self, period: BillingPeriod, *, now: int, until: int | None) -> bool:
        """Put the look that is due off until then (None: for ever). False when somebody else has taken it."""
        ...

    def look_again(self, period: BillingPeriod, at: int | None) -> None:
        """Look for the period's invoices then; None: never again. Nothing when it was closed since it was read."""
        ...

    def update_bill(self, period: BillingPeriod, bill: PeriodBill) -> bool:
        """Keep what the final invoices bill of a closed period by now. False when it is what was known."""
        ...

    def balances(self, period: BillingPeriod, *, now: int) -> dict[str, Balance]:
        """What the ledger has of the period, by meter."""
        ...

    def neighbours(self, period: BillingPeriod, meter: str) -> int:
        """Delivered units of other periods in the minutes that hold this period's start and end: Stripe's sums are by
        the minute, and cannot tell them apart."""
        ...

    def orphans(self, account_id: str, *, since: int) -> dict[str, int]:
        """Usage by meter since then that no known period holds."""
        ...

    def event_names(self, account_id: str) -> dict[str, str]:
        """By meter the name under which its meter events were sealed, of those that have any."""
        ...

    def note_differences(
        self, account_id: str, found: Mapping[tuple[str, int], str], *, agreed: set[tuple[str, int]], at: int
    ) -> dict[tuple[str, int], int]:
        """Keep what differs, by meter and period start, and forget what agrees. Since when each differs."""
        ...

    def difference_count(self) -> int: ...

    # late usage
    def bill(self, period: BillingPeriod) -> PeriodBill | None:
        """What the final invoice billed; None while the period is not closed."""
        ...

    def close_period(
        self,
        period: BillingPeriod,
        bill: PeriodBill,
        *,
        plan: Callable[[Unsealed, int], MeterEvent] | None,
        now: int,
    ) -> list[LateItem]:
        """L10: its invoice is final; from now on nothing is sealed in it. With a `plan`, also what `bill_late` does,
        in the same transaction."""
        ...

    def bill_late(
        self, period: BillingPeriod, *, plan: Callable[[Unsealed, int], MeterEvent], now: int
    ) -> list[LateItem]:
        """Withdraw all that is not delivered in a closed period, `plan` naming what was not sealed, and make an item of
        what neither the invoice nor an earlier item has, in one transaction. The items made, not at Stripe yet."""
        ...

    def closed_with_late_usage(self, *, limit: int) -> list[BillingPeriod]:
        """Closed periods in which usage was recorded since."""
        ...

    def late_items(self, account_id: str) -> list[LateItem]: ...
    def accounts_with_late_items(self, *, now: int, limit: int) -> list[str]:
        """Accounts with late items that are due and that no process works on, the longest due first."""
        ...

    def take_late_items(
        self, account_id: str, *, now: int, lease_end: int, limit: int, ahead_of_time: bool = False
    ) -> list[LateItem]:
        """Take the account's due items until `lease_end`, in the order in which they were made. `ahead_of_time`: those
        that Stripe has and that are not paid, due or not."""
        ...

    def save_late_item(self, before: LateItem, after: LateItem) -> bool:
        """Write what changed, unless another process has taken the item since `before`; whether it was written."""
        ...

    def retry_late_items(
        self, ids: Sequence[str], account_id: str | None, *, limit: int, now: int, audit: AuditEntry | None = None
    ) -> list[LateItem]:
        """Make refused and deleted items due now: these, or all (of the account) without ids. As they were before."""
        ...

    def late_item_summary(self, *, settled_since: int = 0) -> list[LateItemGroup]:
        """All late items that are neither paid nor free, by state; those that are uncollectible, void or deleted only
        when they became so since then."""
        ...

    def adopt_late_item(self, item: LateItem) -> bool:
        """Keep an item that Stripe has and this ledger does not know; False when it does."""
        ...

    # a restored ledger (L6)
    def delivered_sum(self, account_id: str, meter: str, start: int, end: int) -> int:
        """Units in delivered meter events whose time lies in [start, end)."""
        ...

    def delivered_by_hour(self, account_id: str, meter: str, since: int) -> dict[int, int]: ...
    def waiting_events(self, account_id: str, meter: str, start: int, end: int) -> list[MeterEvent]:
        """Meter events that are not known to be delivered, in the order of bucket and number."""
        ...

    def refused_hours(self, account_id: str, meter: str) -> set[int]:
        """Hours with events whose name Stripe knew although they were never sent from here."""
        ...

    def unsealed_in(self, account_id: str, meter: str, bucket_start: int) -> int: ...
    def meters_of(self, account_id: str) -> list[str]: ...
    def import_share(self, account_id: str, meter: str, event_name: str, found: Share, *, now: int) -> None:
        """Take note in one transaction of what Stripe has: events delivered, and one event that was never sent from
        here over what was not sealed and what is lost, the latter also as usage."""
        ...

    def renew_ledger(self, ledger_id: str, epoch: str, *, audit: AuditEntry) -> None:
        """A new name and a new feed; every writer is closed. Later meter events meet no earlier one's name."""
        ...

    # corrections and the audit log
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
