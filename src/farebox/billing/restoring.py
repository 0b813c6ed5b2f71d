"""A ledger that was restored from a backup learns what Stripe has had since (L6), so that nothing is billed twice.

Nothing is sent. Run while no process serves the ledger; it may be broken off and run again.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import structlog

from farebox.billing.inbox import refresh_account
from farebox.domain.accounts import Account
from farebox.domain.audit import AuditEntry
from farebox.domain.catalog import Catalog
from farebox.domain.restoring import LostSpan, Share, Span, lost_since, share, spans_of
from farebox.domain.usage import BUCKET_SECONDS
from farebox.errors import ProviderRejected, ProviderUnavailable, StoreBusy
from farebox.ports import Clock, Entropy, Provider, Store

__all__ = ["RESTORED_SECONDS", "SETTLE_SECONDS", "LostSpools", "Restoration", "Restored", "Restorer"]

RESTORED_SECONDS: Final = 36 * 86_400
SETTLE_SECONDS: Final = 300
_PAGE: Final = 100

_log = structlog.get_logger("farebox.restore")


@dataclass(frozen=True, slots=True)
class Restored:
    """What Stripe has beyond the ledger in one bucket of an account and meter."""

    account_id: str
    meter: str
    event_name: str
    found: Share


@dataclass(slots=True)
class Restoration:
    """What a run found, and did unless it was a rehearsal. `adopted`: accounts and late items that were lost here.
    `lost`: the time whose record ids are not known any more."""

    buckets: list[Restored] = field(default_factory=list)
    adopted_accounts: list[str] = field(default_factory=list)
    adopted_items: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    spooled_batches: int = 0
    reads: int = 0
    lost: LostSpan | None = None
    ledger_id: str | None = None

    @property
    def delivered(self) -> int:
        """Units that were waiting here and are at Stripe."""
        return sum(event.value for r in self.buckets for event in r.found.delivered) + sum(
            r.found.covered for r in self.buckets
        )

    @property
    def imported(self) -> int:
        """Units that were lost here and are at Stripe."""
        return sum(r.found.imported for r in self.buckets)

    @property
    def unexplained(self) -> int:
        """Units that the ledger has delivered and Stripe does not show; none is touched."""
        return -sum(r.found.unexplained for r in self.buckets)


class LostSpools(Protocol):
    """Outage spools that were written for the lost ledger, by the ids that it has had."""

    def waiting(self, ledger_ids: Sequence[str]) -> int:
        """Batches that wait in files, also in those that a living process holds."""
        ...

    def bring_in(self, ledger_ids: Sequence[str], *, tried: bool) -> int:
        """How many batches came in. `tried`: only those which the lost ledger may have had. StoreError."""
        ...


class Restorer:
    """Finds and imports. `spools`: where usage of the outage may lie; None: nowhere."""

    def __init__(
        self,
        store: Store,
        provider: Provider,
        clock: Clock,
        entropy: Entropy,
        catalog: Catalog,
        spools: LostSpools | None = None,
    ) -> None:
        self._spools = spools
        self._store = store
        self._provider = provider
        self._clock = clock
        self._entropy = entropy
        self._catalog = catalog

    def rehearse(
        self,
        *,
        since: int | None = None,
        backup_at: int | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> Restoration:
        """What a run would do. Writes nothing. Accounts that are not known here are named, and not looked into."""
        run = Restoration()
        run.adopted_accounts = [account.id for account in self._lost_accounts(since)]
        run.spooled_batches = self._spools.waiting(self._ledger_ids()) if self._spools is not None else 0
        self._look(run, since, progress)
        run.lost = _lengthened(self._lost_span(backup_at), run)
        return run

    def run(
        self,
        *,
        audit: AuditEntry,
        since: int | None = None,
        backup_at: int | None = None,
        settle: Callable[[], None] = lambda: None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> Restoration:
        """Adopt lost accounts, import what Stripe has, and give the ledger a new name, so that no new meter event bears
        the name of a lost one. `settle` waits: ProviderUnavailable when Stripe's sums change meanwhile. Usage recorded
        with a time after `backup_at` (the newest that the ledger knows, when None) is refused from now on.
        """
        lost = self._lost_span(backup_at)
        self._store.keep_lost_span(lost)  # before anything is written whose time would be taken for the backup's
        adopted = [self._adopt(account) for account in self._lost_accounts(since)]
        for account in self._accounts():  # which periods there are decides what belongs where
            refresh_account(self._store, self._provider, self._clock, account)
        spooled = self._bring_in_spools(tried=True)  # Stripe may have it: its sums must find it here
        before = Restoration()
        self._look(before, since, lambda _: None)
        settle()
        run = Restoration(adopted_accounts=adopted)
        self._look(run, since, progress)
        run.lost = _lengthened(lost, run)
        if _figures(before) != _figures(run):
            raise ProviderUnavailable("Stripe is still summing up what came last. Run it again in some minutes.")
        self._store.keep_lost_span(run.lost)
        for one in run.buckets:
            self._store.import_share(one.account_id, one.meter, one.event_name, one.found, now=self._clock.now_at())
        for account in self._accounts():
            self._adopt_late_items(account, run)
        run.spooled_batches = spooled + self._bring_in_spools(tried=False)
        run.ledger_id, epoch = self._entropy.token(), self._entropy.token()
        entry = audit.with_detail(
            imported=run.imported,
            delivered=run.delivered,
            accounts=len(adopted),
            late_items=len(run.adopted_items),
            spooled_batches=run.spooled_batches,
        )
        self._store.renew_ledger(run.ledger_id, epoch, audit=entry)
        return run

    def _ledger_ids(self) -> list[str]:
        return [self._store.ledger().id, *self._store.former_ledgers()]

    def _bring_in_spools(self, *, tried: bool) -> int:
        """Before the ledger gets another id: after that nobody would look for them. StoreBusy when some must stay."""
        if self._spools is None:
            return 0
        ids = self._ledger_ids()
        count = self._spools.bring_in(ids, tried=tried)
        if not tried and self._spools.waiting(ids):
            raise StoreBusy("A process holds an outage spool of this ledger. Stop it, and run this again.")
        return count

    def _lost_span(self, backup_at: int | None) -> LostSpan:
        now = self._clock.now_at()
        return LostSpan(min(self._store.newest_at() if backup_at is None else backup_at, now), now, now)

    def _look(self, run: Restoration, since: int | None, progress: Callable[[str], None]) -> None:
        now = self._clock.now_at()
        start = now - RESTORED_SECONDS if since is None else since
        start, end = start - start % BUCKET_SECONDS, now - now % BUCKET_SECONDS + 2 * BUCKET_SECONDS
        names = {meter.event_name: meter.id for meter in self._provider.meters()}
        run.reads += 1
        for account in self._accounts():
            for meter in sorted({*self._catalog.meters, *self._store.meters_of(account.id)}):
                known = self._catalog.meters.get(meter)
                event_name = known.event_name if known is not None else meter
                if event_name in names:
                    try:
                        self._meter(account, meter, event_name, names[event_name], start, end, run)
                    except ProviderRejected as error:
                        _log.warning("sums_unreadable", account=account.id, meter=meter, reason=str(error))
                        run.unreadable.append(account.id)
            progress(account.id)

    def _meter(
        self, account: Account, meter: str, event_name: str, meter_id: str, start: int, end: int, run: Restoration
    ) -> None:
        customer_id = str(account.customer_id)
        at_stripe = self._provider.hourly_summaries(meter_id, customer_id, start, end)
        run.reads += 1
        here = self._store.delivered_by_hour(account.id, meter, start)
        boundaries = [edge for p in self._store.periods(account.id) for edge in (p.start, p.end)]
        refused = self._store.refused_hours(account.id, meter)
        for hour in sorted(at_stripe.keys() | here.keys() | refused):
            if at_stripe.get(hour, 0) == here.get(hour, 0) and hour not in refused:
                continue
            spans = spans_of(hour, boundaries)
            for span in spans:
                stripe = at_stripe.get(hour, 0)
                if len(spans) > 1:
                    stripe = self._sum(meter_id, customer_id, span.start, span.end, run)
                found = self._share(account, meter, meter_id, span, stripe, run)
                if not found.does_nothing or found.unexplained:
                    run.buckets.append(Restored(account.id, meter, event_name, found))

    def _share(self, account: Account, meter: str, meter_id: str, span: Span, stripe: int, run: Restoration) -> Share:
        store = self._store
        waiting = store.waiting_events(account.id, meter, span.start, span.end)
        cells = {}
        for cell in sorted({event.cell for event in waiting}):
            shown = self._sum(meter_id, str(account.customer_id), cell * 60, cell * 60 + 60, run)
            cells[cell] = shown - store.delivered_sum(account.id, meter, cell * 60, cell * 60 + 60)
        return share(
            span,
            stripe=stripe,
            delivered=store.delivered_sum(account.id, meter, span.start, span.end),
            waiting=waiting,
            cells=cells,
            unsealed=store.unsealed_in(account.id, meter, span.bucket_start),
        )

    def _sum(self, meter_id: str, customer_id: str, start: int, end: int, run: Restoration) -> int:
        run.reads += 1
        return self._provider.summary(meter_id, customer_id, start, end)

    def _lost_accounts(self, since: int | None) -> list[Account]:
        """Accounts that were made in the lost life: Stripe has their customers, and this ledger does not."""
        start = self._clock.now_at() - RESTORED_SECONDS if since is None else since
        found = self._provider.accounts_since(start)
        return [a for a in found if self._store.account_of_customer(str(a.customer_id)) is None]

    def _adopt(self, account: Account) -> str:
        if self._store.account(account.id) is None:
            self._store.add_account(account)
        else:  # it began its first checkout before the backup was made, and became a customer after
            self._store.set_customer(account.id, str(account.customer_id))
        return account.id

    def _adopt_late_items(self, account: Account, run: Restoration) -> None:
        for item in self._provider.late_items(str(account.customer_id)):
            if item.account_id == account.id and self._store.adopt_late_item(item):
                run.adopted_items.append(item.id)
        run.reads += 1

    def _accounts(self) -> Iterator[Account]:
        after = ""
        while page := self._store.accounts(limit=_PAGE, after=after):
            yield from (account for account in page if account.customer_id is not None)
            after = page[-1].id


def _lengthened(lost: LostSpan, run: Restoration) -> LostSpan:
    """The lost time with the earlier usage that Stripe has and the ledger lacks."""
    imported = [one.found.span for one in run.buckets if one.found.imported > 0]
    return replace(lost, start=lost_since(lost.start, imported))


def _figures(run: Restoration) -> list[tuple[str, str, Span, int, int, int, int]]:
    return [
        (
            r.account_id,
            r.meter,
            r.found.span,
            len(r.found.delivered) + len(r.found.void),
            r.found.covered,
            r.found.imported,
            r.found.unexplained,
        )
        for r in run.buckets
    ]
