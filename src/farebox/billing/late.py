"""What the final invoice of a period lacks becomes late items in the ledger, and these go to Stripe (L10)."""

from collections.abc import Callable, Collection
from typing import Final

import structlog

from farebox.billing.closing import Closer
from farebox.billing.late_items import LateItems
from farebox.domain.accounts import Account
from farebox.domain.catalog import Catalog
from farebox.domain.corrections import NO_METER, LateItem
from farebox.domain.invoices import PeriodBill
from farebox.domain.periods import BillingPeriod
from farebox.domain.reports import MeterEvent, Unsealed, freeze
from farebox.ports import Clock, Provider, Store

__all__ = ["LATE_PERIODS_MAX", "LateBiller"]

LATE_PERIODS_MAX: Final = 20

_log = structlog.get_logger("farebox.late")


class LateBiller:
    """Closes periods and bills what is late. `bills=False` only closes them and says what is late."""

    def __init__(self, store: Store, provider: Provider, clock: Clock, catalog: Catalog, *, bills: bool = True) -> None:
        self._store = store
        self._provider = provider
        self._clock = clock
        self._catalog = catalog
        self._bills = bills
        self._items = LateItems(store, provider, clock, catalog)
        self._closer = Closer(store, provider, clock, self._close)

    def invoice_finalized(self, account: Account) -> None:
        """A webhook says so: close what the account's final invoices close, and bill at once what they lack."""
        self._closer.invoice_finalized(account)
        self.invoices_changed(account)

    def step(self) -> int:
        """Look for final invoices that no webhook named, bill what came late, bring late items to a final invoice.
        Returns how many items came to be at Stripe."""
        self._closer.step()
        for period in self._store.closed_with_late_usage(limit=LATE_PERIODS_MAX) if self._bills else ():
            self._note(self._store.bill_late(period, plan=self._plan(), now=self._clock.now_at()))
        return self._items.step()

    def invoices_changed(self, account: Account) -> None:
        """A webhook says so: see which invoices have the account's late items now. A ProviderError leaves them due."""
        self._items.settle(account.id, ahead_of_time=True)

    def bill_found(self, found: Collection[tuple[str, str | None, int | None]]) -> int:
        """Bill what a reconciliation found late, though no hint said so: of each account, subscription and start of a
        period. Returns how many items were sent."""
        if not self._bills or not found:
            return 0
        for account_id in sorted({account_id for account_id, _, _ in found}):
            for period in self._store.periods(account_id):
                if (account_id, period.subscription_id, period.start) in found:
                    self._note(self._store.bill_late(period, plan=self._plan(), now=self._clock.now_at()))
        return self._items.step()

    def _close(self, period: BillingPeriod, bill: PeriodBill) -> None:
        """Close the period, and bill what its final invoices lack, unless that is switched off."""
        plan = self._plan() if self._bills else None
        self._note(self._store.close_period(period, bill, plan=plan, now=self._clock.now_at()))

    def _plan(self) -> Callable[[Unsealed, int], MeterEvent]:
        """How to name usage that was not sealed and now never will be."""
        ledger_id, now = self._store.ledger().id, self._clock.now_at()

        def plan(bucket: Unsealed, quantity: int) -> MeterEvent:
            meter = self._catalog.meters.get(bucket.meter)
            return freeze(ledger_id, bucket, meter.event_name if meter is not None else bucket.meter, now, quantity)

        return plan

    def _note(self, items: list[LateItem]) -> None:
        for item in items:
            if item.meter == NO_METER:
                _log.info(
                    "minimum_charged", account=item.account_id, amount=item.amount, period_start=item.period_start
                )
                continue
            _log.warning(
                "usage_came_late",
                account=item.account_id,
                meter=item.meter,
                quantity=item.quantity,
                period_start=item.period_start,
            )
