"""Billing periods are closed when their invoice is final, or none will come (L10, I15): which to look at, and when."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

import structlog

from farebox.domain.accounts import Account, Subscription
from farebox.domain.invoices import BilledInvoice, PeriodBill, bill_of, has_ended
from farebox.domain.periods import FINAL_AFTER_SECONDS, BillingPeriod
from farebox.errors import ProviderError, ProviderRejected
from farebox.ports import Clock, Provider, Store

__all__ = [
    "CLOSED_SECONDS",
    "LOOK_AGAIN_SECONDS",
    "LOOK_AGAIN_SECONDS_MAX",
    "PERIODS_LOOKED_AT_MAX",
    "SECOND_LOOK_SECONDS",
    "UNFINISHED_SECONDS_MAX",
    "UNREAD_MAX",
    "Closer",
]

PERIODS_LOOKED_AT_MAX: Final = 20
LOOK_AGAIN_SECONDS: Final = 3_600
LOOK_AGAIN_SECONDS_MAX: Final = 7 * 86_400
SECOND_LOOK_SECONDS: Final = 4 * 86_400
CLOSED_SECONDS: Final = 40 * 86_400
UNFINISHED_SECONDS_MAX: Final = 90 * 86_400
UNREAD_MAX: Final = 3

_log = structlog.get_logger("farebox.late")


class Closer:
    """Looks for the invoices of periods that are over. `close` is told what they billed of one that they close."""

    def __init__(
        self, store: Store, provider: Provider, clock: Clock, close: Callable[[BillingPeriod, PeriodBill], None]
    ) -> None:
        self._store = store
        self._provider = provider
        self._clock = clock
        self._close = close

    def invoice_finalized(self, account: Account) -> None:
        """A webhook says so: close what the account's invoices close, and see what they bill of closed periods. What
        cannot be read now is due again at once."""
        now = self._clock.now_at()
        over = [p for p in self._store.periods(account.id, since=now - CLOSED_SECONDS) if p.end <= now]
        for subscription_id in dict.fromkeys(p.subscription_id for p in over):
            ours = [p for p in over if p.subscription_id == subscription_id]
            if self._look(ours) is not None:
                for period in ours:
                    if period.finalized_at is None:
                        self._store.look_again(period, now)

    def step(self) -> None:
        """Look for the invoices of periods that are due, whether or not a webhook named any. One that cannot be looked
        at delays no other."""
        unread = 0
        for period in self._store.periods_to_look_at(now=self._clock.now_at(), limit=PERIODS_LOOKED_AT_MAX):
            # First, so that no fault and no other process has it looked at again at once.
            if not self._store.take_look(period, now=self._clock.now_at(), until=self._next_look_at(period)):
                continue
            before = self._store.periods(period.account_id, since=period.start - 1)
            error = self._look([*(p for p in before if _precedes(p, period)), period])
            if error is not None and not isinstance(error, ProviderRejected):
                unread += 1
                if unread == UNREAD_MAX:
                    return  # Stripe is away: the rest is looked at by the next step
            if error is None and period.finalized_at is not None:
                self._store.look_again(period, None)

    def _next_look_at(self, period: BillingPeriod) -> int | None:
        """The longer a period is over, the longer the pause. None: never again."""
        now = self._clock.now_at()
        age = now - period.end
        if age > UNFINISHED_SECONDS_MAX:
            return None
        return now + min(max(age // 2, LOOK_AGAIN_SECONDS), LOOK_AGAIN_SECONDS_MAX)

    def _look(self, periods: list[BillingPeriod]) -> ProviderError | None:
        """Take note of what the invoices of one subscription bill of its periods, or say why they cannot be read."""
        subscriptions = {s.id: s for s in self._store.subscriptions(periods[0].account_id)}
        subscription = subscriptions.get(periods[0].subscription_id)
        priced = [period for period in periods if not period.trial]
        invoices: Iterable[BilledInvoice] = ()
        if priced:
            try:
                since = min(period.start for period in priced)
                invoices = self._provider.billed_invoices(periods[0].subscription_id, since=since)
            except ProviderError as error:
                _log.warning("invoices_unreadable", account=periods[0].account_id, reason=str(error))
                return error
        for period in periods:
            self._settle(period, invoices, subscription)
        return None

    def _settle(
        self, period: BillingPeriod, invoices: Iterable[BilledInvoice], subscription: Subscription | None
    ) -> None:
        now = self._clock.now_at()
        if period.trial:
            if period.finalized_at is None and now >= period.end + FINAL_AFTER_SECONDS:
                self._close(period, PeriodBill(None, now))  # free: no invoice matters
            return
        bill = bill_of(period, invoices, subscription=subscription, now=now)
        if bill is None:
            return
        if period.finalized_at is None:
            again = now + SECOND_LOOK_SECONDS if has_ended(subscription) else None
            self._close(period, replace(bill, next_look_at=again))
            return
        known = self._store.bill(period)
        if known is not None and _bills_more(bill, known) and self._store.update_bill(period, bill):
            _log.error("invoice_after_close", account=period.account_id, invoice=bill.invoice_id, start=period.start)


def _bills_more(bill: PeriodBill, known: PeriodBill) -> bool:
    """Whether another invoice has come. One that is missing in a list takes nothing back: it was billed."""
    quantities = [(b.quantity, known.meters[m].quantity) for m, b in bill.meters.items() if m in known.meters]
    return all(now >= before for now, before in quantities) and any(now > before for now, before in quantities)


def _precedes(before: BillingPeriod, period: BillingPeriod) -> bool:
    """Whether it is the closed period just before that one, whose later invoices are seen by the same look."""
    same = before.subscription_id == period.subscription_id and before.finalized_at is not None
    return same and before.end == period.start
