"""Settle an account's usage to the last unit, then change something at Stripe: it bills only what was reported (L12).

Hold the account, let every process finish what it let in before, seal, deliver, see Stripe agree, change, release. A
missed deadline changes nothing; a crash leaves a hold that ends by itself.
"""

from collections.abc import Callable
from typing import Final, TypeVar

import structlog

from farebox.domain.accounts import TERMINAL_STATUSES, Account
from farebox.domain.reports import CELL_SECONDS, ReportState
from farebox.errors import ProviderThrottled, ProviderUnavailable, SettlementMissed, SettlementUnderWay
from farebox.metering.presence import Watch
from farebox.metering.reporter import Reporter
from farebox.metering.sealer import Sealer
from farebox.ports import Clock, Provider, Store

__all__ = ["FRESH_SECONDS", "HOLD_SECONDS", "SETTLEMENT_SECONDS_MAX", "SETTLE_POLL_MILLISECONDS", "Settlement"]

HOLD_SECONDS: Final = 300
FRESH_SECONDS: Final = 5  # Stripe's clock may be behind ours
SETTLEMENT_SECONDS_MAX: Final = 90
SETTLE_POLL_MILLISECONDS: Final = 250
_CHANGE_SECONDS: Final = 120  # what a change may take at most: so much of the hold must be left when it begins
_SEND_EVENTS: Final = 32

_T = TypeVar("_T")

_log = structlog.get_logger("farebox.settlement")


class Settlement:
    """Settles accounts, one after another. `pause` waits for so many milliseconds; `spooled` counts spool files."""

    def __init__(
        self,
        store: Store,
        provider: Provider,
        clock: Clock,
        sealer: Sealer,
        reporter: Reporter,
        pause: Callable[[int], None],
        spooled: Callable[[], int] = lambda: 0,
    ) -> None:
        self._store = store
        self._provider = provider
        self._clock = clock
        self._sealer = sealer
        self._reporter = reporter
        self._watch = Watch(clock)
        self._pause = pause
        self._spooled = spooled

    def run(self, account: Account, change: Callable[[], _T], *, seconds_max: int = SETTLEMENT_SECONDS_MAX) -> _T:
        """Do `change` when no call of the account is under way and Stripe's own sums have all that it has used.

        SettlementUnderWay, SettlementMissed, StoreError: nothing was changed. Also raises what `change` raises.
        """
        until = self._clock.now_at() + HOLD_SECONDS
        ends_ms = self._clock.monotonic_ms() + seconds_max * 1000
        position = self._store.hold_account(account.id, now=self._clock.now_at(), until=until)
        if position is None:
            raise SettlementUnderWay(
                f"{account.id} is being settled already. A settlement that was cut off ends within {HOLD_SECONDS} s."
            )
        try:
            self._until(lambda: self._missing_process(position), ends_ms)
            self._until(self._left_in_spools, ends_ms)
            self._until(lambda: self._unbilled(account), ends_ms)
            self._until(lambda: self._freshness(account), ends_ms)
            self._until(lambda: self._disagreement(account), ends_ms)
            if self._clock.now_at() > until - _CHANGE_SECONDS:
                raise SettlementMissed(f"Settling {account.id} took too long. Nothing was changed; try again.")
            return change()
        finally:
            self._store.release_account(account.id, until=until)

    def _until(self, obstacle: Callable[[], str], ends_ms: int) -> None:
        """Look again and again until nothing stands in the way."""
        while (found := obstacle()) != "":
            if self._clock.monotonic_ms() >= ends_ms:
                _log.warning("settlement_missed", obstacle=found)
                raise SettlementMissed(f"Nothing was changed, and calls go on: {found}. Try again.")
            self._pause(SETTLE_POLL_MILLISECONDS)

    def _missing_process(self, position: int) -> str:
        """A process that may still be at work on a call that it let in before the hold; dead ones are removed."""
        rows = self._store.processes()
        gone = {row.id for row in self._watch.dead(rows) if self._store.remove_process(row)}
        waiting = [row for row in rows if row.acknowledged < position and row.id not in gone]
        if not waiting:
            return ""
        return f"the process {waiting[0].pid} on {waiting[0].host} has calls of before under way, or does not answer"

    def _left_in_spools(self) -> str:
        """Usage that a dead process spooled here. A living one has brought its own in before it acknowledged."""
        files = self._spooled()
        return f"usage waits in {files} spool files, which a running Farebox brings in" if files else ""

    def _unbilled(self, account: Account) -> str:
        """Usage that is not at Stripe yet. Seals and sends, beside the processes that do so anyway."""
        self._sealer.step(hard=True, account_ids=(account.id,))
        self._reporter.step(_SEND_EVENTS)
        if self._reporter.halted is not None:  # until a person clears it: waiting helps nothing
            raise SettlementMissed(f"Nothing was changed, because reporting is halted. {self._reporter.halted}")
        for state in (ReportState.PENDING, ReportState.SENDING):
            if self._store.meter_events(account.id, state=state, limit=1):
                return f"meter events of {account.id} have not reached Stripe"
        since = self._since(account)
        for state in (ReportState.REJECTED, ReportState.DOUBTFUL):
            if any(event.timestamp >= since for event in self._store.meter_events(account.id, state=state)):
                return f"meter events are parked: `farebox usage {account.id} --events --state {state}` says why"
        return ""

    def _freshness(self, account: Account) -> str:
        """Usage of this moment: Stripe bills up to the second in which the change is made, without that second."""
        newest = max((event.timestamp for event in self._store.meter_events(account.id)), default=0)
        fresh = self._clock.now_at() < newest + FRESH_SECONDS
        return f"the last usage of {account.id} is younger than {FRESH_SECONDS} s" if fresh else ""

    def _disagreement(self, account: Account) -> str:
        """Where Stripe's sums, by the minute, are not what was delivered."""
        start = self._since(account) // CELL_SECONDS * CELL_SECONDS
        end = (self._clock.now_at() // CELL_SECONDS + 1) * CELL_SECONDS
        delivered = self._store.reported(account.id, start, end)
        try:
            meters = {m.event_name: m.id for m in self._provider.meters()} if delivered else {}
            for event_name, quantity in delivered.items():
                meter_id = meters.get(event_name)
                if meter_id is None:
                    return f"Stripe has no meter {event_name}"
                counted = self._provider.summary(meter_id, str(account.customer_id), start, end)
                if counted != quantity:
                    return f"Stripe has counted {counted} of {quantity} {event_name}"
        except (ProviderUnavailable, ProviderThrottled) as error:
            return f"{error.title} ({error.internal})"
        return ""

    def _since(self, account: Account) -> int:
        """Where the periods begin that are not billed yet."""
        running = [s for s in self._store.subscriptions(account.id) if s.status not in TERMINAL_STATUSES]
        starts = [i.period.start for s in running for i in s.items]
        return min(starts, default=0)
