"""What a running Farebox does at its own pace: reading the feed, working off webhooks, sealing and reporting.

Each loop runs on a thread of its own. Nothing here answers a call.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from typing import Final

import httpx
import structlog

from farebox.billing.inbox import InboxWorker
from farebox.billing.late import LateBiller
from farebox.billing.sweep import sweep
from farebox.config import Settings
from farebox.domain.reports import SEAL_INTERVAL_SECONDS
from farebox.errors import FareboxError, ProviderForbidden, StoreError, StoreUnusable
from farebox.loops import Loop
from farebox.metering.gate import FEED_POLL_MILLISECONDS, Gate
from farebox.metering.pace import Rates
from farebox.metering.presence import BEAT_MILLISECONDS, Presence
from farebox.metering.reconciler import Reconciler
from farebox.metering.reporter import Reporter
from farebox.metering.sealer import Sealer
from farebox.metering.spool import Spooler
from farebox.ports import Clock, Entropy, Provider, Store
from farebox.roles import REPORTING, ROLE_RENEWAL_MILLISECONDS, Roles
from farebox.system import FollowingClock
from farebox.threads import DaemonThreads

__all__ = [
    "CLOCK_POLL_MILLISECONDS",
    "INBOX_POLL_MILLISECONDS",
    "LATE_MILLISECONDS",
    "RECONCILE_BACK_SECONDS",
    "RECONCILE_SECONDS",
    "REPORT_BATCH_MAX",
    "REPORT_POLL_MILLISECONDS",
    "SENDER_THREADS_MAX",
    "SENDING_SECONDS_MAX",
    "SHUTDOWN_MILLISECONDS_MAX",
    "SPOOL_POLL_MILLISECONDS",
    "SWEEP_MILLISECONDS",
    "Background",
    "follow",
]

SENDER_THREADS_MAX: Final = 32
SENDING_SECONDS_MAX: Final = 60  # of events that are sent side by side, their outcomes written down included
REPORT_BATCH_MAX: Final = 64
REPORT_POLL_MILLISECONDS: Final = 1_000
INBOX_POLL_MILLISECONDS: Final = 1_000
CLOCK_POLL_MILLISECONDS: Final = 200
SWEEP_MILLISECONDS: Final = 60_000
SPOOL_POLL_MILLISECONDS: Final = 5_000
LATE_MILLISECONDS: Final = 60_000
RECONCILE_SECONDS: Final = 3_600
RECONCILE_BACK_SECONDS: Final = 3 * 86_400
SHUTDOWN_MILLISECONDS_MAX: Final = 10_000

_RECONCILE: Final = "reconcile"  # the name under which the ledger keeps how far the comparison has come
_log = structlog.get_logger("farebox")


class Background:
    """The loops of one process, and the rooms that they run. Started and stopped once."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        provider: Provider,
        clock: Clock,
        entropy: Entropy,
        gate: Gate,
        presence: Presence,
        spooler: Spooler | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._provider = provider
        self._clock = clock
        self._gate = gate
        self._presence = presence
        self._spooler = spooler
        self._senders = DaemonThreads(SENDER_THREADS_MAX, name="farebox-sender")
        self.sealer = Sealer(store, clock, settings.catalog)
        rates = Rates(settings.meter_events_per_second, settings.stream_requests_per_second)
        self.reporter = Reporter(store, provider, clock, entropy, rates)
        bills_late = settings.bills_late_usage
        self.late = LateBiller(store, provider, clock, settings.catalog, bills=bills_late)
        self.reconciler = Reconciler(store, provider, clock, settings.catalog, bills_late=bills_late)
        self.worker = InboxWorker(store, provider, clock, entropy, self.late, self.reporter.halt)
        self._bound = False
        self._stopping = threading.Event()
        self._ended: deque[str] = deque()  # accounts of which a webhook says that a period has ended
        self._sealed_at_ms = 0
        self._inbox_loop = Loop("inbox", self._inbox_step, interval_ms=INBOX_POLL_MILLISECONDS)
        self._billing_loop = Loop("billing", self.worker.bill_step, interval_ms=INBOX_POLL_MILLISECONDS)
        self._report_loop = Loop("reporter", self._report_step, interval_ms=REPORT_POLL_MILLISECONDS)
        self._sweep_loop = Loop("sweep", self._sweep_step, interval_ms=SWEEP_MILLISECONDS)
        self._reconcile_loop = Loop("reconciler", self._reconcile_step, interval_ms=LATE_MILLISECONDS)
        self._loops: list[Loop] = []
        self._roles = Roles(store, clock, entropy.token())
        self._reporting = self._roles.add(REPORTING, self._report_loop.wake)
        self._sweeping = self._roles.add("sweep", self._sweep_loop.wake)

    def start(self) -> None:
        """Start the loops."""
        self._loops = [
            Loop("feed", self._feed_step, interval_ms=FEED_POLL_MILLISECONDS, backoff_seconds_max=1),
            self._inbox_loop,
            self._billing_loop,
            self._report_loop,
            Loop("presence", self._presence.step, interval_ms=BEAT_MILLISECONDS, backoff_seconds_max=1),
            self._reconcile_loop,
            self._sweep_loop,
            Loop("roles", self._roles.renew, interval_ms=ROLE_RENEWAL_MILLISECONDS, backoff_seconds_max=3),
        ]
        if self._spooler is not None:
            self._loops.append(Loop("spool", self._spooler.adopt, interval_ms=SPOOL_POLL_MILLISECONDS))
        if isinstance(self._clock, FollowingClock):
            self._loops.append(Loop("clock", self._clock_step, interval_ms=CLOCK_POLL_MILLISECONDS))
        for loop in self._loops:
            loop.start()

    def stop(self) -> None:
        """End the loops; where they ran, seal and report what is left, within a bound."""
        self._stopping.set()
        ends_ms = self._clock.monotonic_ms() + SHUTDOWN_MILLISECONDS_MAX
        for loop in self._loops:
            loop.stop(0)  # all of them are told before any is waited for
        for loop in self._loops:
            if not loop.stop(max(ends_ms - self._clock.monotonic_ms(), 0) / 1000):
                _log.warning("loop_did_not_end", loop=loop.name)
        if self._loops:
            self._apart("last_report", self._last_report)
            self._apart("roles", self._roles.release)
        self._senders.shutdown(wait=False)

    def flush(self) -> None:
        """Seal and report all that can be, now, on the calling thread. For tests and the way out."""
        self._apart("seal", lambda: self.sealer.step(hard=True))
        while self._send_some() or (self.reporter.behind and self._rest()):
            pass

    def wake_inbox(self) -> None:
        self._inbox_loop.wake()

    def report_period_end(self, account_id: str) -> None:
        """Seal and report this account's usage at once: a period of it has ended, and its invoice will not wait."""
        self._ended.append(account_id)
        self._report_loop.wake()

    def _last_report(self) -> None:
        """What is not reported in time stays in the ledger and goes out by another process, or at the next start.

        Whoever has the role: its process may be going as well, or be dead. Rows have leases of their own.
        """
        clock = self._clock
        until_ms = clock.monotonic_ms() + SHUTDOWN_MILLISECONDS_MAX
        self._apart("seal", lambda: self.sealer.step(hard=True))
        if not self._bound:
            self._bind()
        while self._bound and clock.monotonic_ms() < until_ms:
            if not self._send_some() and not (self.reporter.behind and self._rest()):
                break

    def _rest(self) -> bool:
        """Wait until Stripe's limits allow more. False when time does not pass: then they never will."""
        began_ms = self._clock.monotonic_ms()
        threading.Event().wait(min(max(self.reporter.pause_ms(), 1), REPORT_POLL_MILLISECONDS) / 1000)
        return self._clock.monotonic_ms() > began_ms

    def _feed_step(self) -> bool:
        """Look, then wait for news: at once again when somebody says that there are some."""
        self._gate.poll()
        self._store.wait_for_change(FEED_POLL_MILLISECONDS)
        return True

    def _clock_step(self) -> bool:
        if isinstance(self._clock, FollowingClock):
            follow(self._clock)
        return False

    def _inbox_step(self) -> bool:
        worked = self.worker.apply_step()
        if worked:
            self._gate.poll()
        return worked

    def _report_step(self) -> bool:
        """Seal what is due and send what is sealed. Short seal intervals and ends of periods seal hard.

        One process does it for all; what a period's end asks of another one is sealed there, and sent by the one.
        """
        if not self._reporting.held:
            self.reporter.look()  # readiness and metrics of each process say when reporting is halted
            self._seal_ended()
            return False
        for seal in (self.sealer.edge, self._seal_ended, self._seal_due):
            try:
                seal()
            except StoreError as error:  # what is sealed already is sent all the same
                _log.error("seal_failed", code=error.code, reason=str(error))
        if not self._bound:
            self._bind()
        if not self._bound:
            return False
        again = self._send_some() > 0 or self.reporter.behind or self.sealer.edge_left
        if again:  # as fast as Stripe's limits let us
            self._stopping.wait(min(self.reporter.pause_ms(), REPORT_POLL_MILLISECONDS) / 1000)
        return again

    def _seal_due(self) -> None:
        now_ms = self._clock.monotonic_ms()
        often = now_ms - self._sealed_at_ms >= self._settings.seal_seconds * 1000
        if often:
            self._sealed_at_ms = now_ms
        if often or self._settings.seal_seconds <= SEAL_INTERVAL_SECONDS:
            self.sealer.step(hard=often and self._settings.seal_seconds < SEAL_INTERVAL_SECONDS)

    def _seal_ended(self) -> None:
        """Seal hard what those accounts used whose period a webhook called ended. What fails is tried again."""
        if not self._ended:
            return
        accounts = [self._ended.popleft() for _ in range(len(self._ended))]
        try:
            self.sealer.step(hard=True, account_ids=set(accounts))
        except StoreError:
            self._ended.extend(accounts)
            raise

    def _send_some(self) -> int:
        return self.reporter.step(REPORT_BATCH_MAX, self._side_by_side)

    def _bind(self) -> None:
        """Bind the ledger to the Stripe account before the first report; report nothing to another account."""
        try:
            account = self._provider.account()
        except ProviderForbidden as error:
            self.reporter.barred = f"Stripe does not let the key read its own account ({error.internal})."
            _log.critical("reporter_halted", reason=self.reporter.barred)
            raise
        self.reporter.barred = None
        try:
            self._store.bind_ledger(account.id, self._settings.live)
        except StoreUnusable as error:
            self.reporter.barred = error.detail
            _log.critical("reporter_halted", reason=error.detail)
        self._bound = True

    def _sweep_step(self) -> bool:
        if self._sweeping.held:
            sweep(self._store, self._provider, self._clock)
        return False

    def _reconcile_step(self) -> bool:
        """Bill what came late, and compare: whatever one of them meets, the other goes on."""
        if self._bound and self._reporting.held:
            self._apart("late", self.late.step)
            self._apart("reconcile", self._compare)
        return False

    def _compare(self) -> None:
        """Once an hour compare as many accounts as the budget of reads allows, in turn. The ledger keeps the place."""
        reads, now = self._settings.reconcile_reads_per_hour, self._clock.now_at()
        after = self._store.take_turn(_RECONCILE, now=now, seconds=RECONCILE_SECONDS) if reads else None
        if after is None:
            return
        run = self.reconciler.run(after=after, since=now - RECONCILE_BACK_SECONDS, reads_max=reads)
        self._store.keep_place(_RECONCILE, "" if run.complete else run.last_account)
        late = [c for c in run.differing if any(reason.code == "late" for reason in c.reasons)]
        self.late.bill_found({(c.account_id, c.subscription_id, c.period_start) for c in late})
        _log.info("reconciled", accounts=run.accounts, reads=run.reads, differing=len(run.differing))

    @staticmethod
    def _apart(part: str, work: Callable[[], object]) -> None:
        """Do a part of something whose other parts must not end with it."""
        try:
            work()
        except FareboxError as error:
            _log.warning("part_failed", part=part, code=error.code, reason=str(error))
        except Exception:
            _log.exception("part_broken", part=part)

    def _side_by_side(self, jobs: Sequence[Callable[[], None]]) -> None:
        sent = [self._senders.submit(job) for job in jobs]
        # What one of them meets must not leave the others' outcomes behind.
        overdue = wait(sent, SENDING_SECONDS_MAX).not_done
        for future in overdue:
            future.cancel()
        if overdue:
            _log.error("sends_overdue", sends=len(overdue), seconds=SENDING_SECONDS_MAX)
        for future in sent:
            if future not in overdue:
                future.result()


def follow(clock: FollowingClock) -> None:
    """Bring the clock to the local Stripe's time; when that is away, the clock stays as it is."""
    try:
        clock.refresh()
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        _log.debug("local_clock_away", reason=repr(error))
