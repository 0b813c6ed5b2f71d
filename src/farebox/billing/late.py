"""Periods are closed when their invoice is final, and what it lacks is billed as invoice items, each once (L10).

The ledger's row comes first, then the item at Stripe, found again by its name: no crash between them bills twice.
"""

from collections.abc import Callable, Collection
from typing import Final

import structlog

from farebox.domain.accounts import TERMINAL_STATUSES, Account
from farebox.domain.catalog import Catalog
from farebox.domain.corrections import NO_METER, LateItem, late_description, minimum_description
from farebox.domain.invoices import bill_of
from farebox.domain.periods import BillingPeriod
from farebox.domain.reports import MeterEvent, Unsealed, freeze
from farebox.errors import ProviderRejected
from farebox.ports import Clock, Provider, Store

__all__ = [
    "FINAL_AFTER_SECONDS",
    "LATE_ITEMS_MAX",
    "LOOK_AGAIN_SECONDS",
    "PERIODS_LOOKED_AT_MAX",
    "UNFINISHED_SECONDS_MAX",
    "LateBiller",
]

PERIODS_LOOKED_AT_MAX: Final = 20
LATE_ITEMS_MAX: Final = 20
FINAL_AFTER_SECONDS: Final = 2 * 3_600
LOOK_AGAIN_SECONDS: Final = 6 * 3_600
UNFINISHED_SECONDS_MAX: Final = 90 * 86_400

_log = structlog.get_logger("farebox.late")


class LateBiller:
    """Closes periods and bills what is late. `bills=False` only closes them and says what is late."""

    def __init__(self, store: Store, provider: Provider, clock: Clock, catalog: Catalog, *, bills: bool = True) -> None:
        self._store = store
        self._provider = provider
        self._clock = clock
        self._catalog = catalog
        self._bills = bills
        self._after = ""
        self._looked_at: dict[tuple[str, str, int], int] = {}

    def invoice_finalized(self, account: Account) -> None:
        """A webhook says so: close what the account's final invoices close, and bill at once what they lack."""
        now = self._clock.now_at()
        for period in self._store.periods(account.id):
            if period.finalized_at is None and period.end <= now:
                self._look(period)
        self.send()

    def step(self) -> int:
        """Look for final invoices that no webhook named, bill what came late, send what is not sent yet. Returns how
        many items were sent."""
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
        for period in self._store.closed_with_late_usage(limit=PERIODS_LOOKED_AT_MAX) if self._bills else ():
            self._note(self._store.bill_late(period, plan=self._plan(), now=self._clock.now_at()))
        return self.send()

    def bill_found(self, found: Collection[tuple[str, str | None, int | None]]) -> int:
        """Bill what a reconciliation found late, though no hint said so: of each account, subscription and start of a
        period. Returns how many items were sent."""
        if not self._bills or not found:
            return 0
        for account_id in sorted({account_id for account_id, _, _ in found}):
            for period in self._store.periods(account_id):
                if (account_id, period.subscription_id, period.start) in found:
                    self._note(self._store.bill_late(period, plan=self._plan(), now=self._clock.now_at()))
        return self.send()

    def send(self) -> int:
        """Have the items that the ledger made at Stripe. Returns how many were sent."""
        sent = 0
        for item in self._store.unsent_late_items(limit=LATE_ITEMS_MAX):
            try:
                self._send(item)
                sent += 1
            except ProviderRejected as error:
                _log.error("late_item_refused", id=item.id, account=item.account_id, reason=str(error))
        return sent

    def _look(self, period: BillingPeriod) -> None:
        """Close the period if a final invoice does, and bill what all of them lack, unless that is switched off."""
        invoices = self._provider.billed_invoices(period.subscription_id, since=period.start)
        statuses = {s.id: s.status for s in self._store.subscriptions(period.account_id)}
        ended = statuses.get(period.subscription_id, "") in TERMINAL_STATUSES
        bill = bill_of(period, invoices, ended=ended)
        if bill is not None:
            plan = self._plan() if self._bills else None
            self._note(self._store.close_period(period, bill, plan=plan, now=self._clock.now_at()))

    def _send(self, item: LateItem) -> None:
        account = self._store.account(item.account_id)
        if account is None or account.customer_id is None:
            return
        known = {late.id: late.invoice_item_id for late in self._provider.late_items(account.customer_id)}
        invoice_item_id = known.get(item.id)
        subscription_id = self._living_subscription(item)
        if invoice_item_id is None:
            invoice_item_id = self._provider.create_late_item(
                item,
                customer_id=account.customer_id,
                subscription_id=subscription_id,
                description=self._description(item),
            )
        if subscription_id is None:  # no invoice will come by itself
            self._invoice(account.customer_id, item, again=item.id in known)
        self._store.late_item_sent(item.id, invoice_item_id)
        _log.info("late_usage_billed", account=item.account_id, meter=item.meter, amount=item.amount)

    def _description(self, item: LateItem) -> str:
        if item.meter == NO_METER:
            return minimum_description(item.amount, item.period_start, item.period_end)
        meter = self._catalog.meters.get(item.meter)
        title = meter.title if meter is not None else item.meter
        return late_description(title, item.quantity, item.period_start, item.period_end)

    def _invoice(self, customer_id: str, item: LateItem, *, again: bool) -> None:
        try:
            self._provider.invoice_late_items(customer_id, currency=item.currency, key=item.id)
        except ProviderRejected:
            if not again:  # else it is on an invoice already, and nothing waits for another one
                raise

    def _living_subscription(self, item: LateItem) -> str | None:
        """The subscription whose next invoice takes the item along, in its currency."""
        for subscription in self._store.subscriptions(item.account_id):
            currencies = {one.currency for one in subscription.items}
            if subscription.status not in TERMINAL_STATUSES and item.currency in currencies:
                return subscription.id
        return None

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
