"""The composition root: the one file that names concrete adapters, and that starts and stops the loops."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import httpx
import structlog
from fastapi import Request
from sqlalchemy.engine import make_url

from farebox.billing.inbox import InboxWorker, Receipt, receive, sweep
from farebox.config import Settings
from farebox.domain.access import Facts
from farebox.domain.accounts import boundaries_of
from farebox.domain.reports import SEAL_INTERVAL_SECONDS
from farebox.domain.usage import Increment, bucket_start, checked_quantity
from farebox.errors import AccountUnknown, InputInvalid, MeterUnknown, ProviderForbidden, StoreError, StoreUnusable
from farebox.loops import Loop
from farebox.metering.gate import FEED_POLL_MILLISECONDS, Gate
from farebox.metering.recorder import Recorder
from farebox.metering.reporter import Reporter
from farebox.metering.sealer import Sealer
from farebox.metrics import registry_of
from farebox.ports import Clock, Entropy, Provider, Store
from farebox.store.lock import ServingLock
from farebox.store.sql import SqlStore
from farebox.system import FollowingClock, SystemClock, SystemEntropy
from farebox.web.calls import RouteTable
from farebox.web.middleware import Edge
from farebox.web.operator import Operator
from farebox.web.routes import Billing, create_routes

__all__ = [
    "CLOCK_POLL_MILLISECONDS",
    "READER_THREADS_MAX",
    "RECORD_ID_CHARACTERS_MAX",
    "REPORT_BATCH_MAX",
    "REPORT_POLL_MILLISECONDS",
    "SENDER_THREADS_MAX",
    "SHUTDOWN_MILLISECONDS_MAX",
    "SWEEP_MILLISECONDS",
    "Adapters",
    "Runtime",
    "Transport",
    "open_provider",
    "open_store",
    "system_clock",
]

READER_THREADS_MAX: Final = 4
SENDER_THREADS_MAX: Final = 32
REPORT_BATCH_MAX: Final = 64
REPORT_POLL_MILLISECONDS: Final = 1_000
INBOX_POLL_MILLISECONDS: Final = 1_000
CLOCK_POLL_MILLISECONDS: Final = 200
SWEEP_MILLISECONDS: Final = 60_000
SHUTDOWN_MILLISECONDS_MAX: Final = 10_000
RECORD_ID_CHARACTERS_MAX: Final = 200
_OFFSET_SECONDS_MAX: Final = 2

_log = structlog.get_logger("farebox")

Transport = Callable[[str, str, Mapping[str, str], bytes], tuple[bytes, int, Mapping[str, str]]]


@dataclass(frozen=True, slots=True)
class Adapters:
    """What stands behind the ports. `alone` is held while serving, so that nobody else serves the same ledger."""

    store: Store
    provider: Provider
    clock: Clock
    entropy: Entropy
    alone: ServingLock | None = None

    @classmethod
    def of(cls, settings: Settings) -> "Adapters":
        """The real ones, as the settings say."""
        clock, entropy = system_clock(settings), SystemEntropy()
        store = open_store(settings, clock, entropy)
        path = store.database.path
        alone = ServingLock(path) if path is not None else None
        return cls(store, open_provider(settings), clock, entropy, alone)


def system_clock(settings: Settings) -> SystemClock:
    """The machine's clock, or one that follows the local Stripe's moved time."""
    if settings.stripe_api_base is None:
        return SystemClock()
    url = f"{settings.stripe_api_base}/_sandbox/clock"
    client = httpx.Client(timeout=_OFFSET_SECONDS_MAX, trust_env=False)

    def read_offset() -> int:
        answer = client.get(url)
        return int(answer.json()["offset_seconds"]) if answer.status_code in (200, 202) else 0

    clock = FollowingClock(read_offset)
    _follow(clock)
    return clock


def open_store(settings: Settings, clock: Clock, entropy: Entropy) -> SqlStore:
    """The ledger that the settings name, not opened yet."""
    return SqlStore(make_url(settings.database_url).render_as_string(hide_password=False), clock, entropy)


def open_provider(settings: Settings, transport: Transport | None = None) -> Provider:
    """Stripe, over the network or through `transport`. The SDK is loaded here and not before: that takes a second."""
    from farebox.provider.stripe import StripeProvider

    return StripeProvider(
        settings.require_stripe(),
        settings.stripe_webhook_secrets,
        api_base=settings.stripe_api_base,
        transport=transport,
    )


class Runtime:
    """A running Farebox: what the edge serves with, and the loops behind it. Started and stopped once."""

    def __init__(
        self, settings: Settings, adapters: Adapters, *, public_paths: Sequence[str] = (), background: bool = True
    ) -> None:
        self.settings = settings
        self.adapters = adapters
        self._background = background
        store, clock, entropy = adapters.store, adapters.clock, adapters.entropy
        self._writer_thread = ThreadPoolExecutor(1, thread_name_prefix="farebox-writer")
        self._readers = ThreadPoolExecutor(READER_THREADS_MAX, thread_name_prefix="farebox-reader")
        self._senders = ThreadPoolExecutor(SENDER_THREADS_MAX, thread_name_prefix="farebox-sender")
        self.gate = Gate(store, clock, settings.peppers, settings.past_due_grace_seconds)
        self.recorder = Recorder(store, clock, entropy, self._writer_thread)
        self.sealer = Sealer(store, clock, settings.catalog)
        self.reporter = Reporter(store, adapters.provider, clock, entropy)
        self.worker = InboxWorker(store, adapters.provider, clock, entropy)
        self._bound = False
        self._seal_hard = False
        self._sealed_at_ms = 0
        self._sweep_after = ""
        self._loops: list[Loop] = []
        self._inbox_loop = Loop("inbox", self._inbox_step, interval_ms=INBOX_POLL_MILLISECONDS)
        self._report_loop = Loop("reporter", self._report_step, interval_ms=REPORT_POLL_MILLISECONDS)
        public_url = str(settings.public_url)
        self.edge = Edge(
            gate=self.gate,
            recorder=self.recorder,
            table=RouteTable(settings.catalog.routes, public_paths),
            meters=settings.catalog.meters,
            credentials=settings.credentials,
            prefix=settings.prefix,
            pay_url=f"{public_url}{settings.prefix}/",
            billing=create_routes(self._billing(public_url)),
            readers=self._readers,
        )

    async def start(self, *, unpriced: Sequence[str] = ()) -> None:
        """Open the ledger, check that it is ours, read the feed, start the loops.

        A FareboxError is a refusal to start.
        """
        await asyncio.get_running_loop().run_in_executor(self._readers, self._open)
        for path in unpriced:
            _log.warning("route_without_price", route=path, meaning="needs a key and costs only what its code charges")
        if self._background:
            self._loops = [
                Loop("feed", self._feed_step, interval_ms=FEED_POLL_MILLISECONDS, backoff_seconds_max=1),
                self._inbox_loop,
                self._report_loop,
                Loop("sweep", self._sweep_step, interval_ms=SWEEP_MILLISECONDS),
            ]
            if isinstance(self.adapters.clock, FollowingClock):
                self._loops.append(Loop("clock", self._clock_step, interval_ms=CLOCK_POLL_MILLISECONDS))
        for loop in self._loops:
            loop.start()
        _log.info("started", ledger=self.adapters.store.ledger().id, mode="live" if self.settings.live else "test")

    async def stop(self) -> None:
        """Commit what waits, stop the loops, seal and report what is left within a bound, close the ledger."""
        await self.recorder.close()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._finish)
        for executor in (self._writer_thread, self._readers, self._senders):
            executor.shutdown(wait=True)

    async def record(self, account_id: str, meter: str, quantity: int, *, record_id: str) -> None:
        """Usage from outside a request, once for each id, durable on return."""
        if meter not in self.settings.catalog.meters:
            known = ", ".join(sorted(self.settings.catalog.meters)) or "none"
            raise MeterUnknown(f"There is no meter {meter!r} (known: {known}).")
        counted = checked_quantity(quantity, meter)
        if not record_id or len(record_id) > RECORD_ID_CHARACTERS_MAX:
            raise InputInvalid(f"A record's id has from 1 to {RECORD_ID_CHARACTERS_MAX} characters.")
        store = self.adapters.store
        loop = asyncio.get_running_loop()
        if await loop.run_in_executor(self._readers, store.account, account_id) is None:
            raise AccountUnknown(f"There is no account {account_id!r}.")
        subscriptions = await loop.run_in_executor(self._readers, store.subscriptions, account_id)
        at = self.recorder.now_at()
        start = bucket_start(at, boundaries_of(subscriptions))
        await self.recorder.record([Increment(account_id, meter, "", "record", start, counted, 1, at, record_id)])

    def flush(self) -> None:
        """Seal and report all that can be, now, on the calling thread. For tests and the way out."""
        self.sealer.step(hard=True)
        while self.reporter.step(REPORT_BATCH_MAX, self._side_by_side):
            pass

    def _open(self) -> None:
        adapters = self.adapters
        if adapters.alone is not None:
            adapters.alone.take()
        try:
            adapters.store.open()
            ledger = adapters.store.ledger()
            if ledger.livemode not in (None, self.settings.live):
                raise StoreUnusable(
                    f"This ledger was made in {'live' if ledger.livemode else 'test'} mode and the Stripe key is not. "
                    "Use the other key, or another FAREBOX_DATABASE_URL."
                )
            self._refuse_missing_peppers()
            self.gate.poll()
        except BaseException:
            adapters.store.close()
            if adapters.alone is not None:
                adapters.alone.release()
            raise

    def _refuse_missing_peppers(self) -> None:
        known = {pepper.id for pepper in self.settings.peppers}
        in_use = self.adapters.store.peppers_in_use(self.adapters.clock.now_at())
        missing = sum(count for pepper_id, count in in_use.items() if pepper_id not in known)
        if missing:
            raise StoreUnusable(
                f"{missing} live keys were made with a secret that is no longer in FAREBOX_SECRET and would stop "
                "working. Put it back behind the newer one, separated by a comma."
            )

    def _finish(self) -> None:
        for loop in self._loops:
            if not loop.stop(SHUTDOWN_MILLISECONDS_MAX // 1000):
                _log.warning("loop_did_not_end", loop=loop.name)
        if self._background:
            try:
                self._last_report()
            except StoreError as error:
                _log.warning("flush_incomplete", reason=str(error))
        self.adapters.store.close()
        if self.adapters.alone is not None:
            self.adapters.alone.release()

    def _last_report(self) -> None:
        """What is not reported in time stays in the ledger and goes out at the next start."""
        clock = self.adapters.clock
        until_ms = clock.monotonic_ms() + SHUTDOWN_MILLISECONDS_MAX
        self.sealer.step(hard=True)
        while self._bound and clock.monotonic_ms() < until_ms:
            if not self.reporter.step(SENDER_THREADS_MAX, self._side_by_side):
                break

    def _billing(self, public_url: str) -> Billing:
        settings, adapters = self.settings, self.adapters
        registry = registry_of(adapters.store, adapters.clock, self.recorder, self.reporter)

        async def identify(request: Request) -> Facts:
            return await self.edge.identify_holder(request.scope)

        return Billing(
            store=adapters.store,
            provider=adapters.provider,
            clock=adapters.clock,
            entropy=adapters.entropy,
            catalog=settings.catalog,
            peppers=settings.peppers,
            live=settings.live,
            prefix=settings.prefix,
            public_url=public_url,
            grace_seconds=settings.past_due_grace_seconds,
            identify=identify,
            receive=self.receive,
            operator=Operator(self._ready, registry, settings.admin_token),
        )

    def receive(self, body: bytes, signature: str) -> Receipt:
        """Take in a webhook: verify, store once, wake who works it off."""
        adapters = self.adapters
        receipt = receive(adapters.provider, adapters.store, adapters.clock, body, signature, live=self.settings.live)
        if receipt.period_ended:
            self._seal_hard = True
            self._report_loop.wake()
        if receipt.stored:
            self._inbox_loop.wake()
        return receipt

    def _ready(self) -> bool:
        return self.recorder.healthy and self.gate.ready()

    def _feed_step(self) -> bool:
        self.gate.poll()
        return False

    def _clock_step(self) -> bool:
        if isinstance(self.adapters.clock, FollowingClock):
            _follow(self.adapters.clock)
        return False

    def _inbox_step(self) -> bool:
        worked = self.worker.step()
        if worked:
            self.gate.poll()
        return worked

    def _report_step(self) -> bool:
        """Seal what is due and send what is sealed. Short seal intervals, ends of periods and wake-ups seal hard."""
        now_ms = self.adapters.clock.monotonic_ms()
        often = now_ms - self._sealed_at_ms >= self.settings.seal_seconds * 1000
        hard, self._seal_hard = self._seal_hard or (often and self.settings.seal_seconds < 60), False
        if often:
            self._sealed_at_ms = now_ms
        if hard or often or self.settings.seal_seconds <= SEAL_INTERVAL_SECONDS:
            self.sealer.step(hard=hard)
        if not self._bound:
            self._bind()
        return self._bound and self.reporter.step(REPORT_BATCH_MAX, self._side_by_side) > 0

    def _bind(self) -> None:
        """Bind the ledger to the Stripe account before the first report; report nothing to another account."""
        try:
            account = self.adapters.provider.account()
        except ProviderForbidden as error:
            self.reporter.halted = f"Stripe does not let the key read its own account ({error.internal})."
            _log.critical("reporter_halted", reason=self.reporter.halted)
            raise
        self.reporter.halted = None
        try:
            self.adapters.store.bind_ledger(account.id, self.settings.live)
        except StoreUnusable as error:
            self.reporter.halted = error.detail
            _log.critical("reporter_halted", reason=error.detail)
        self._bound = True

    def _sweep_step(self) -> bool:
        adapters = self.adapters
        self._sweep_after = sweep(adapters.store, adapters.provider, adapters.clock, self._sweep_after)
        return False

    def _side_by_side(self, jobs: Sequence[Callable[[], None]]) -> None:
        for future in [self._senders.submit(job) for job in jobs]:
            future.result()


def _follow(clock: FollowingClock) -> None:
    try:
        clock.refresh()
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        _log.debug("local_clock_away", reason=repr(error))
