"""The composition root: the one file that names concrete adapters, and that starts and stops the loops."""

import asyncio
import platform
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import httpx
import structlog
from fastapi import Request

from farebox.background import Background, follow
from farebox.billing.inbox import Receipt, receive
from farebox.config import Settings
from farebox.domain.access import Facts, Grant
from farebox.domain.advice import advice_on
from farebox.domain.usage import KeySender, UsageEvent
from farebox.errors import OperatorOnly, StoreError, StoreUnusable
from farebox.metering.gate import Gate
from farebox.metering.parking import Parking
from farebox.metering.presence import Presence
from farebox.metering.recorder import RECORDER_THREADS_MAX, Recorder
from farebox.metering.records import Records
from farebox.metering.reporter import Reporter
from farebox.metering.sealer import Sealer
from farebox.metering.settlement import Settlement
from farebox.metering.spool import Spooler
from farebox.metering.tails import Tails
from farebox.metrics import registry_of
from farebox.ports import Clock, Entropy, Provider, SpoolFolder, Store
from farebox.store.spool import FileSpoolFolder
from farebox.store.sql import SqlStore
from farebox.system import FollowingClock, SystemClock, SystemEntropy, calm_collector
from farebox.threads import DaemonThreads
from farebox.web.calls import RouteTable
from farebox.web.events import Events
from farebox.web.limits import RateLimit
from farebox.web.measured import Metering
from farebox.web.middleware import Edge
from farebox.web.operator import Operator, Readiness
from farebox.web.recording import Recordings
from farebox.web.routes import Billing, create_routes

__all__ = [
    "FINISH_SECONDS_MAX",
    "READER_THREADS_MAX",
    "Adapters",
    "Runtime",
    "Transport",
    "open_provider",
    "open_settlement",
    "open_spools",
    "open_store",
    "system_clock",
]

READER_THREADS_MAX: Final = 4
FINISH_SECONDS_MAX: Final = 45  # to end the loops, report what is left, and close the ledger
_OFFSET_SECONDS_MAX: Final = 2

_log = structlog.get_logger("farebox")

Transport = Callable[[str, str, Mapping[str, str], bytes], tuple[bytes, int, Mapping[str, str]]]


@dataclass(frozen=True, slots=True)
class Adapters:
    """What stands behind the ports.

    `spools` is where calls go while the ledger is away, or went when that was allowed; None: there is no place.
    """

    store: Store
    provider: Provider
    clock: Clock
    entropy: Entropy
    spools: SpoolFolder | None = None

    @classmethod
    def of(cls, settings: Settings) -> "Adapters":
        """The real ones, as the settings say."""
        clock, entropy = system_clock(settings), SystemEntropy()
        store = open_store(settings, clock, entropy)
        return cls(store, open_provider(settings), clock, entropy, open_spools(settings, store))


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
    follow(clock)
    return clock


def open_store(settings: Settings, clock: Clock, entropy: Entropy) -> SqlStore:
    """The ledger that the settings name, not opened yet."""
    return SqlStore(settings.database_url, clock, entropy, allow_weak_durability=settings.allow_weak_durability)


def open_spools(settings: Settings, store: SqlStore) -> FileSpoolFolder | None:
    """The folder of the outage spool: the one that the settings name, else the ledger's own."""
    path = store.database.path
    folder = settings.spool_path or (path.parent if path is not None else None)
    return FileSpoolFolder(folder) if folder is not None else None


def open_provider(settings: Settings, transport: Transport | None = None) -> Provider:
    """Stripe, over the network or through `transport`. The SDK is loaded here and not before: that takes a second."""
    from farebox.provider.stripe import StripeProvider

    return StripeProvider(
        settings.require_stripe(),
        settings.stripe_webhook_secrets,
        api_base=settings.stripe_api_base,
        transport=transport,
    )


def open_settlement(
    settings: Settings, store: SqlStore, provider: Provider, clock: Clock, entropy: Entropy
) -> Settlement:
    """What settles an account from outside the serving processes, on a ledger that is this Stripe account's own."""
    store.bind_ledger(provider.account().id, settings.live)
    return _settlement(settings, Adapters(store, provider, clock, entropy, open_spools(settings, store)))


def _settlement(settings: Settings, adapters: Adapters) -> Settlement:
    """With a sealer and a reporter of its own: what they do is fenced in the ledger."""
    store, provider, clock = adapters.store, adapters.provider, adapters.clock
    sealer, reporter = Sealer(store, clock, settings.catalog), Reporter(store, provider, clock, adapters.entropy)
    never = threading.Event()

    def pause(milliseconds: int) -> None:
        never.wait(milliseconds / 1000)

    def spooled() -> int:
        return adapters.spools.waiting(store.ledger().id).files if adapters.spools is not None else 0

    return Settlement(store, provider, clock, sealer, reporter, pause, spooled)


class Runtime:
    """A running Farebox: what the edge serves with, and the loops behind it. Started and stopped once."""

    def __init__(
        self, settings: Settings, adapters: Adapters, *, public_paths: Sequence[str] = (), background: bool = True
    ) -> None:
        self.settings = settings
        self.adapters = adapters
        self._in_background = background
        store, clock, entropy = adapters.store, adapters.clock, adapters.entropy
        self._writers = DaemonThreads(RECORDER_THREADS_MAX, name="farebox-writer")
        self._readers = DaemonThreads(READER_THREADS_MAX, name="farebox-reader")
        told_time = clock.follow_store if isinstance(clock, SystemClock) else None
        self.gate = Gate(
            store,
            clock,
            settings.peppers,
            settings.past_due_grace_seconds,
            spool_seconds=settings.spool_seconds,
            told_time=told_time,
        )
        self.spooler = self._spooler()
        acknowledged, host = self.gate.admissions.acknowledged, platform.node()
        self.presence = Presence(
            store, clock, entropy, acknowledged, host=host, unsettled=lambda: self.recorder.unsettled
        )
        self.recorder = Recorder(
            store, clock, entropy, self._writers, self.spooler, process_id=lambda: self.presence.id
        )
        parking = Parking()
        self.metering = Metering(self.recorder, Tails(self.recorder, parking), parking, clock)
        self.records = Records(
            store, self.recorder, clock, settings.catalog.meters, self.gate.admissions, self._readers, entropy
        )
        self.recordings = Recordings()
        self.background = Background(
            settings, store, adapters.provider, clock, entropy, self.gate, self.presence, self.spooler
        )
        self.reporter = self.background.reporter
        public_url = str(settings.public_url)
        self.edge = Edge(
            gate=self.gate,
            recorder=self.recorder,
            table=RouteTable(settings.catalog.routes, public_paths),
            metering=self.metering,
            meters=settings.catalog.meters,
            credentials=settings.credentials,
            prefix=settings.prefix,
            pay_url=f"{public_url}{settings.prefix}/",
            billing=create_routes(self._billing(public_url)),
            readers=self._readers,
            preflight_to_app=settings.preflight_to_app,
        )

    async def start(self, *, unpriced: Sequence[str] = ()) -> None:
        """Open the ledger, check that it is ours, read the feed, start the loops.

        A FareboxError is a refusal to start.
        """
        await asyncio.get_running_loop().run_in_executor(self._readers, self._open)
        self.recordings.open()
        for advice in advice_on(self.settings.catalog):
            _log.warning("plan_check_warning", setting=advice.path, reason=advice.message, hint=advice.hint)
        for path in unpriced:
            _log.warning("route_without_price", route=path, meaning="needs a key and costs only what its code charges")
        if self._in_background:
            self.background.start()
            calm_collector()
        _log.info("started", ledger=self.adapters.store.ledger().id, mode="live" if self.settings.live else "test")

    async def stop(self) -> None:
        """Settle and commit what waits, stop the loops, seal and report what is left, close all: each within a bound.

        What hangs is left behind, and ends with the process.
        """
        await asyncio.gather(self.recordings.close(), self.metering.tails.close())
        await self.recorder.close()
        finishing = DaemonThreads(1, name="farebox-finish")
        done = asyncio.wrap_future(finishing.submit(self._finish))
        await asyncio.wait({done}, timeout=FINISH_SECONDS_MAX)
        if not done.done():
            _log.error("stop_incomplete", meaning="what hangs ends with the process; the ledger is not closed")
        elif (error := done.exception()) is not None:
            raise error
        for threads in (finishing, self._writers, self._readers):
            threads.end(0)

    async def record(
        self, account_id: str, meter: str, quantity: int, *, record_id: str, at: int | None = None
    ) -> None:
        """Usage from outside a request, once for each id, durable on return."""
        await self.records.record(UsageEvent(account_id, meter, quantity, record_id, at))

    def _open(self) -> None:
        adapters = self.adapters
        try:
            adapters.store.open()
            ledger = adapters.store.ledger()
            if ledger.livemode not in (None, self.settings.live):
                raise StoreUnusable(
                    f"This ledger was made in {'live' if ledger.livemode else 'test'} mode and the Stripe key is not. "
                    "Use the other key, or another FAREBOX_DATABASE_URL."
                )
            self.gate.poll()  # before anything asks for the time: it is the store's
            self._refuse_missing_peppers()
            self._prepare_spool()
            self.presence.step()
        except BaseException:
            adapters.store.close()
            raise

    def _spooler(self) -> Spooler | None:
        adapters, settings = self.adapters, self.settings
        if adapters.spools is None:
            return None
        seconds_max = settings.spool_seconds or None
        return Spooler(adapters.store, adapters.spools, adapters.clock, adapters.entropy, seconds_max=seconds_max)

    def _prepare_spool(self) -> None:
        """Refuse to start with a spool that could not be written, rather than find out in an outage."""
        if self.spooler is not None:
            self.spooler.learn()
        if not self.settings.spool_seconds:
            return
        if self.spooler is None:
            raise StoreUnusable('With ledger.on_store_loss = "spool", name a folder in ledger.spool_path.')
        try:
            self.spooler.try_out()
        except StoreError as error:
            raise StoreUnusable(f"The folder of the outage spool cannot be written ({error.internal}).") from error

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
        self.background.stop()
        try:
            self.presence.leave()
        except StoreError as error:
            _log.info("process_not_unregistered", reason=str(error))
        self.adapters.store.close()

    def _billing(self, public_url: str) -> Billing:
        settings, adapters = self.settings, self.adapters
        registry = registry_of(
            adapters.store,
            adapters.clock,
            self.recorder,
            self.reporter,
            self.background.reconciler,
            self.metering.parking,
            self.spooler,
        )

        async def identify(request: Request) -> Facts:
            return await self.edge.identify_holder(request.scope)

        async def identify_key(text: str) -> Facts:
            return await self.edge.identify_key(text)

        async def entitle(request: Request) -> KeySender:
            facts = await identify(request)
            if "key" not in settings.events_from:
                raise OperatorOnly(
                    "Usage is recorded with `Authorization: Bearer` and the server's FAREBOX_ADMIN_TOKEN. "
                    'Buyers\' keys may record where farebox.toml says [events] from = ["operator", "key"].'
                )
            decision = self.gate.decide(facts)
            if isinstance(decision, Grant):
                return KeySender(facts.account.id, facts.key_id, decision.started_at)
            raise decision

        operator = Operator(self._ready, registry, settings.admin_token)

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
            identify_key=identify_key,
            receive=self.receive,
            settle=_settlement(settings, adapters).run,
            operator=operator,
            events=Events(entitle, operator, self.records.record_many, RateLimit(adapters.clock)),
        )

    def receive(self, body: bytes, signature: str) -> Receipt:
        """Take in a webhook: verify, store once, wake who works it off."""
        adapters = self.adapters
        receipt = receive(adapters.provider, adapters.store, adapters.clock, body, signature, live=self.settings.live)
        if receipt.ended_account is not None:
            self.background.report_period_end(receipt.ended_account)
        if receipt.stored:
            self.background.wake_inbox()
        return receipt

    def _ready(self) -> Readiness:
        if not self.recorder.healthy or not self.gate.ready():
            return "not ready"
        return "degraded" if self.recorder.spooling or self.reporter.halted is not None else "ready"
