"""Billing periods are closed when their invoice is final (L10): which to look at, what their invoices say, and when."""

from collections.abc import Callable
from typing import Final

import structlog

from farebox.domain.accounts import TERMINAL_STATUSES, Account
from farebox.domain.invoices import PeriodBill, bill_of
from farebox.domain.periods import BillingPeriod
from farebox.errors import ProviderRejected
from farebox.ports import Clock, Provider, Store

__all__ = [
    "FINAL_AFTER_SECONDS",
    "LOOK_AGAIN_SECONDS",
    "PERIODS_LOOKED_AT_MAX",
    "UNFINISHED_SECONDS_MAX",
    "Closer",
]

PERIODS_LOOKED_AT_MAX: Final = 20
FINAL_AFTER_SECONDS: Final = 2 * 3_600
LOOK_AGAIN_SECONDS: Final = 6 * 3_600
UNFINISHED_SECONDS_MAX: Final = 90 * 86_400

_log = structlog.get_logger("farebox.late")


class Closer:
    """Looks for the final invoices of periods that are over. `close` is told what they billed of one."""

    def __init__(
        self, store: Store, provider: Provider, clock: Clock, close: Callable[[BillingPeriod, PeriodBill], None]
    ) -> None:
        self._store = store
        self._provider = provider
        self._clock = clock
        self._close = close
        self._after = ""
        self._looked_at: dict[tuple[str, str, int], int] = {}

    def invoice_finalized(self, account: Account) -> None:
        """A webhook says so: close what the account's final invoices close. Raises a ProviderError."""
        now = self._clock.now_at()
        for period in self._store.periods(account.id):
            if period.finalized_at is None and period.end <= now:
                self._look(period)

    def step(self) -> None:
        """Look for final invoices that no webhook named."""
        now = self._clock.now_at()
        ended_by = now - FINAL_AFTER_SECONDS
        periods = self._store.unfinished_periods(ended_by=ended_by, limit=PERIODS_LOOKED_AT_MAX, after=self._after)
        self._after = periods[-1].account_id if len(periods) == PERIODS_LOOKED_AT_MAX else ""
        for period in periods:
            key = (period.account_id, period.subscription_id, period.start)
            recent = self._looked_at.get(key, 0) > now - LOOK_AGAIN_SECONDS
            if not recent and period.end > now - UNFINISHED_SECONDS_MAX:
                self._looked_at[key] = now
                try:
                    self._look(period)
                except ProviderRejected as error:
                    _log.warning("invoices_unreadable", account=period.account_id, reason=str(error))

    def _look(self, period: BillingPeriod) -> None:
        invoices = self._provider.billed_invoices(period.subscription_id, since=period.start)
        statuses = {s.id: s.status for s in self._store.subscriptions(period.account_id)}
        ended = statuses.get(period.subscription_id, "") in TERMINAL_STATUSES
        bill = bill_of(period, invoices, ended=ended)
        if bill is not None:
            self._close(period, bill)
