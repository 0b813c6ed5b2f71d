"""Proves that what was used is what is billed: per customer, meter and period, the ledger, its meter events, Stripe's
sums and the invoice, and says where they differ, since when and why. Changes no usage and no event.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from farebox.domain.accounts import Account, Subscription, double_subscriptions
from farebox.domain.balance import Balance, Reason, Verdict, judge
from farebox.domain.catalog import Catalog
from farebox.domain.invoices import MeterBill, bill_of, draft_of, has_ended
from farebox.domain.periods import BillingPeriod
from farebox.domain.reports import CELL_SECONDS
from farebox.errors import ProviderRejected
from farebox.metering.comparing import EventNames, MeterGroup, PeriodState
from farebox.ports import Clock, Provider, Store

__all__ = [
    "PAGE_ACCOUNTS_MAX",
    "READS_MAX",
    "RECONCILED_SECONDS",
    "RENEWAL_SECONDS",
    "UNBILLED_SECONDS",
    "Comparison",
    "Reconciler",
    "Reconciliation",
]

READS_MAX: Final = 2_000
PAGE_ACCOUNTS_MAX: Final = 100
RECONCILED_SECONDS: Final = 40 * 86_400
RENEWAL_SECONDS: Final = 86_400
UNBILLED_SECONDS: Final = 90 * 86_400

_log = structlog.get_logger("farebox.reconciler")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One meter of an account in one period. `period_start` is None for usage that no known period holds.

    `stripe` is what its meters show in [window_start, window_end), whole minutes, less `neighbours`: units of the
    periods before and after that share a minute with this one. None where it was not asked or does not tell.
    """

    account_id: str
    customer_id: str
    meter: str
    subscription_id: str | None
    period_start: int | None
    period_end: int | None
    balance: Balance
    verdict: Verdict
    reasons: tuple[Reason, ...]
    stripe: int | None = None
    window_start: int | None = None
    window_end: int | None = None
    neighbours: int = 0
    invoice_id: str | None = None
    bill: MeterBill | None = None
    since_at: int | None = None


@dataclass(slots=True)
class Reconciliation:
    """What a run found. `complete` is False when it stopped at its bound of reads; `last_account` was done last."""

    started_at: int
    comparisons: list[Comparison] = field(default_factory=list)
    accounts: int = 0
    reads: int = 0
    complete: bool = True
    last_account: str = ""

    @property
    def differing(self) -> list[Comparison]:
        return [c for c in self.comparisons if c.verdict is Verdict.DIFFERS]


class Reconciler:
    """Compares. `last_run_at` is when a run of this process ended (0: none has)."""

    def __init__(
        self, store: Store, provider: Provider, clock: Clock, catalog: Catalog, *, bills_late: bool = True
    ) -> None:
        self._store = store
        self._provider = provider
        self._clock = clock
        self._catalog = catalog
        self._bills_late = bills_late
        self.last_run_at = 0

    def run(
        self,
        *,
        account: Account | None = None,
        since: int | None = None,
        after: str = "",
        reads_max: int = READS_MAX,
        progress: Callable[[str], None] = lambda account_id: None,
    ) -> Reconciliation:
        """Compare all accounts after `after`, or one, in the periods that end after `since`. Raises a ProviderError
        when Stripe is away. `progress` is told each account that is done."""
        now = self._clock.now_at()
        found = Reconciliation(started_at=now)
        meters = {meter.event_name: meter.id for meter in self._provider.meters()}
        found.reads += 1
        from_at = now - RECONCILED_SECONDS if since is None else since
        for one in [account] if account is not None else self._accounts(after):
            if found.reads >= reads_max:
                found.complete = False
                break
            found.comparisons += self._account(one, from_at, meters, found)
            found.accounts += 1
            found.last_account = one.id
            progress(one.id)
        self.last_run_at = self._clock.now_at()
        return found

    def _accounts(self, after: str) -> Iterator[Account]:
        while page := self._store.accounts(limit=PAGE_ACCOUNTS_MAX, after=after):
            yield from page
            after = page[-1].id

    def _account(self, account: Account, since: int, meters: dict[str, str], run: Reconciliation) -> list[Comparison]:
        if account.customer_id is None:
            return []
        now = self._clock.now_at()
        subscriptions = self._store.subscriptions(account.id)
        names = EventNames(self._catalog, self._store, account.id)
        compared = []
        for period in self._store.periods(account.id, since=min(since, now - UNBILLED_SECONDS)):
            if period.end <= since and period.finalized_at is not None:
                continue  # older ones only while nothing has closed them
            over = self._state_of(period, subscriptions, now, run)
            for group in names.groups(period, self._store.balances(period, now=now)):
                compared.append(self._compare(account.customer_id, period, group, over, meters, run))
        compared += self._orphans(account, since)
        return self._noted(account.id, [_doubled(c, subscriptions, now) for c in compared], now)

    def _compare(
        self,
        customer_id: str,
        period: BillingPeriod,
        group: MeterGroup,
        over: PeriodState,
        meters: dict[str, str],
        run: Reconciliation,
    ) -> Comparison:
        meter, balance, bill = group.meter, group.balance, over.bill
        item = period.item_of(meter)
        if item is not None and period.start < item.period.start < period.end:
            period = replace(period, start=item.period.start)  # it came in mid-period
        start = period.start - period.start % CELL_SECONDS
        end = period.end + -period.end % CELL_SECONDS
        neighbours = sum(self._store.neighbours(period, name) for name in group.meters)
        stripe, reasons = self._summary(meters.get(group.event_name), customer_id, start, end, run)
        if stripe is not None:
            stripe -= neighbours
        of_meter = None
        if bill is not None:  # what has no price in the plan, or lies in a trial, is on no invoice and costs nothing
            nothing = MeterBill(balance.ledger - balance.late, 0, 0)
            of_meter = nothing if period.trial else bill.meters.get(meter, nothing)
        verdict, why = judge(
            balance,
            stripe=stripe,
            bill=of_meter,
            now=self._clock.now_at(),
            bills_late=self._bills_late,
            unbilled=over.unbilled(period, meter, balance.ledger),
        )
        return Comparison(
            account_id=period.account_id,
            customer_id=customer_id,
            meter=meter,
            subscription_id=period.subscription_id,
            period_start=over.period.start,
            period_end=period.end,
            balance=balance,
            verdict=Verdict.DIFFERS if reasons else verdict,
            reasons=reasons + why,
            stripe=stripe,
            window_start=start,
            window_end=end,
            neighbours=neighbours,
            invoice_id=bill.invoice_id if bill is not None else None,
            bill=of_meter,
        )

    def _summary(
        self, meter_id: str | None, customer_id: str, start: int, end: int, run: Reconciliation
    ) -> tuple[int | None, tuple[Reason, ...]]:
        """What Stripe counted, or why it cannot be told."""
        if meter_id is None:
            return None, ()
        run.reads += 1
        try:
            return self._provider.summary(meter_id, customer_id, start, end), ()
        except ProviderRejected as error:
            return None, (Reason("unreadable", 0, error.internal or error.detail),)

    def _state_of(
        self, period: BillingPeriod, subscriptions: tuple[Subscription, ...], now: int, run: Reconciliation
    ) -> PeriodState:
        """What final invoices bill, also where the ledger has not taken note of it yet, and what they may still."""
        bill = self._store.bill(period)
        if bill is not None or period.end > now:
            return PeriodState(period, bill, over=False)
        run.reads += 1
        try:
            invoices = self._provider.billed_invoices(period.subscription_id, since=period.start)
        except ProviderRejected as error:
            _log.warning("invoices_unreadable", account=period.account_id, reason=str(error))
            invoices = []
        subscription = next((s for s in subscriptions if s.id == period.subscription_id), None)
        bill = bill_of(period, invoices, subscription=subscription, now=now)
        if bill is not None and bill.invoice_id is None:
            bill = None  # nothing bills it, and the ledger has not taken note of that yet
        return PeriodState(period, bill, True, has_ended(subscription), draft_of(period, invoices))

    def _orphans(self, account: Account, since: int) -> list[Comparison]:
        """Usage in no known period: of no subscription, or after a period's end whose renewal is not known yet."""
        found = []
        now = self._clock.now_at()
        newest = max((p.end for p in self._store.periods(account.id)), default=0)
        renewing = now - RENEWAL_SECONDS < newest <= now
        for meter, quantity in self._store.orphans(account.id, since=since).items():
            reason = Reason("no_period", quantity, "used when no known billing period ran, so no price is known")
            found.append(
                Comparison(
                    account_id=account.id,
                    customer_id=str(account.customer_id),
                    meter=meter,
                    subscription_id=None,
                    period_start=None,
                    period_end=None,
                    balance=Balance(used=quantity),
                    verdict=Verdict.WAITING if renewing else Verdict.DIFFERS,
                    reasons=(reason,),
                )
            )
        return found

    def _noted(self, account_id: str, compared: list[Comparison], now: int) -> list[Comparison]:
        """Remember what differs, and since when."""

        def key(one: Comparison) -> tuple[str, int]:
            return one.meter, one.period_start or 0

        differing = {
            key(c): ", ".join(f"{r.code}: {r.quantity}" for r in c.reasons)
            for c in compared
            if c.verdict is Verdict.DIFFERS
        }
        agreed = {key(c) for c in compared} - differing.keys() | {(meter, 0) for meter, start in map(key, compared)}
        agreed -= differing.keys()
        since = self._store.note_differences(account_id, differing, agreed=agreed, at=now)
        noted = []
        for one in compared:
            if one.verdict is Verdict.DIFFERS:
                _log.warning(
                    "ledger_differs",
                    account=account_id,
                    meter=one.meter,
                    period_start=one.period_start,
                    reasons=differing[key(one)],
                )
            noted.append(_with_since(one, since.get(key(one))))
        return noted


def _doubled(one: Comparison, subscriptions: tuple[Subscription, ...], now: int) -> Comparison:
    """With the reason why each unit of the running period is billed more than once, where it is."""
    ids = double_subscriptions(subscriptions).get(one.meter, ())
    if one.subscription_id not in ids or one.period_end is None or one.period_end <= now:
        return one
    text = f"subscriptions bill this meter at once, each call on each of them: {', '.join(ids)}"
    reason = Reason("double_subscription", len(ids), text)
    return replace(one, verdict=Verdict.DIFFERS, reasons=(*one.reasons, reason))


def _with_since(one: Comparison, since_at: int | None) -> Comparison:
    return replace(one, since_at=since_at) if one.verdict is Verdict.DIFFERS else one
