"""A ledger with buyers, a sealer and a reporter, and a local Stripe behind a wire on which anything may go wrong."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn
from urllib.parse import parse_qs, urlsplit

import httpx
import stripe
from tests.shop import StillClock

from farebox.domain.accounts import Account
from farebox.domain.catalog import Catalog, Meter
from farebox.domain.keys import Secret
from farebox.domain.reports import MeterEvent, Outcome, OutcomeKind, ReportState
from farebox.domain.usage import Batch, Increment, bucket_start
from farebox.metering.pace import Rates
from farebox.metering.reporter import Reporter
from farebox.metering.sealer import Sealer
from farebox.provider.stripe import StripeProvider
from farebox.sandbox import Sandbox
from farebox.store.sql import MEMORY_URL, SqlStore
from farebox.system import SystemEntropy

__all__ = ["AT", "CALLS", "EVENTS_PATH", "HOUR", "STREAM_PATH", "Died", "EvenEntropy", "Scripted", "Town", "Wire"]

AT: Final = 1_800_000_000  # on a whole hour
HOUR: Final = 3600
KEY: Final = "sk_test_of_the_town"
CALLS: Final = Meter("calls", "API calls", "farebox_calls")
EVENTS_PATH: Final = "/v1/billing/meter_events"
STREAM_PATH: Final = "/v2/billing/meter_event_stream"


class Died(Exception):
    """The process was killed after Stripe had the event and before the ledger heard of it."""


class EvenEntropy(SystemEntropy):
    """Pauses of known length: every random byte is the same."""

    def __init__(self, byte: int = 0) -> None:
        self._byte = byte

    def token_bytes(self, size: int) -> bytes:
        return bytes([self._byte]) * size


class Wire:
    """The way to a local Stripe that keeps its word of 24 hours and no more. `faults` meet the next meter events:

    "refused" no connection, "before" and "after" an answer lost before or after the effect, "died" a crash after it,
    "500 after" an effect whose answer is a saved 500, a number that error instead of an effect.
    """

    def __init__(self, clock: StillClock) -> None:
        self.clock = clock
        self.sandbox = Sandbox(clock.manual)
        self.faults: list[str] = []
        self.stream_faults: list[str] = []  # "before", "after", or a number, met by the next requests of the stream
        self.asked: Counter[str] = Counter()  # by "METHOD /path"
        self.meanwhile: Callable[[], object] = lambda: None
        self.sent: list[tuple[str, str]] = []  # identifier and idempotency key of each attempt
        self.counted: Counter[str] = Counter()  # by identifier, how often Stripe took it
        self._known: dict[tuple[str, str], int] = {}

    @property
    def total(self) -> int:
        self.sandbox.tick()
        books = [book for state in self.sandbox.accounts.values() for book in state.usage.values()]
        return sum(int(value) for book in books for _, value, _ in book)

    def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[bytes, int, Mapping[str, str]]:
        parts = urlsplit(url)
        path = parts.path
        self.asked[f"{method} {path}"] += 1
        if path == STREAM_PATH:
            return self._stream(headers, body)
        if path != EVENTS_PATH:
            return self._ask(method, f"{path}?{parts.query}" if parts.query else path, headers, body)
        identifier, key = parse_qs(body.decode())["identifier"][0], headers["Idempotency-Key"]
        self._forget()
        self.sent.append((identifier, key))
        self.meanwhile()
        fault = self.faults.pop(0) if self.faults else ""
        if fault in ("refused", "before"):
            _lose(httpx.ConnectError if fault == "refused" else httpx.ReadTimeout)
        if fault.isdigit():
            self.sandbox.faults.add({"path": EVENTS_PATH, "status": int(fault)})
        before = self.total
        answer = self._ask(method, path, headers, body)
        if self.total != before:
            self.counted[identifier] += 1
        self._known |= {("identifier", identifier): self.clock.now_at(), ("key", key): self.clock.now_at()}
        if fault == "died":
            raise Died
        if fault == "after":
            _lose(httpx.ReadError)
        if fault == "500 after":
            (state,) = self.sandbox.accounts.values()
            words = json.dumps({"error": {"type": "api_error", "message": "after all"}}).encode()
            state.saved_answers[key] = (state.saved_answers[key][0], 500, words)
            return words, 500, answer[2]
        return answer

    def _stream(self, headers: Mapping[str, str], body: bytes) -> tuple[bytes, int, Mapping[str, str]]:
        fault = self.stream_faults.pop(0) if self.stream_faults else ""
        if fault == "before":
            _lose(httpx.ReadTimeout)
        if fault.isdigit():
            self.sandbox.faults.add({"path": STREAM_PATH, "status": int(fault)})
        answer = self._ask("POST", STREAM_PATH, headers, body)
        if fault == "after":
            _lose(httpx.ReadTimeout)
        return answer

    def _ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[bytes, int, Mapping[str, str]]:
        answer = self.sandbox.request(method, path, headers, body)
        return answer.body, answer.status, httpx.Headers(answer.headers)

    def _forget(self) -> None:
        """Identifiers and idempotency keys are promised to be known for 24 hours, so nobody may build on more."""
        for (kind, name), at in list(self._known.items()):
            if self.clock.now_at() - at > 24 * HOUR:
                del self._known[kind, name]
                for state in self.sandbox.accounts.values():
                    state.saved_answers.pop(name, None)
                    for names in state.identifiers.values():
                        names.pop(name, None)


def _lose(how: type[httpx.TransportError]) -> NoReturn:
    raise stripe.APIConnectionError("lost", should_retry=True) from how("lost")  # type: ignore[no-untyped-call]


class Town:
    """A ledger with two buyers, a sealer and a reporter, and the local Stripe to which they report."""

    def __init__(
        self,
        url: str = MEMORY_URL,
        *,
        wire: Wire | None = None,
        provider: StripeProvider | None = None,
        rates: Rates | None = None,
    ):
        self.rates = rates
        self.wire = wire or Wire(StillClock(AT))
        self.clock = self.wire.clock
        self.store = SqlStore(url, self.clock, SystemEntropy())
        self.store.open()
        self.provider = provider or StripeProvider(Secret(KEY), (), transport=self.wire.send)
        if provider is None and not self.provider.meters():
            self.provider.create_meter(CALLS)
        self.sealer = Sealer(self.store, self.clock, Catalog(meters={"calls": CALLS}))
        self.reporter = self.new_reporter()
        self.used = 0

    def new_reporter(self, byte: int = 0) -> Reporter:
        return Reporter(self.store, self.provider, self.clock, EvenEntropy(byte), self.rates)

    def add_buyer(self, n: int, customer_id: str = "") -> None:
        account = Account(f"acc_{n}", AT, customer_id=customer_id or None)
        self.store.add_account(account)
        if not customer_id:
            self.store.set_customer(account.id, self.provider.create_customer(account))

    def settle_in(self, buyers: int) -> None:
        """Many buyers at once, past the SDK."""
        for n in range(buyers):
            answer = self.wire.sandbox.request("POST", "/v1/customers", {"Authorization": f"Bearer {KEY}"}, b"")
            self.store.add_account(Account(f"acc_{n}", AT, customer_id=json.loads(answer.body)["id"]))

    def use_all(self, buyers: int, quantity: int = 1) -> None:
        now = self.clock.now_at()
        start = bucket_start(now, ())
        increments = [Increment(f"acc_{n}", "calls", "key", "GET /", start, quantity, 1, now) for n in range(buyers)]
        self.store.commit_batch(Batch(SystemEntropy().token(), 1, "n", tuple(increments)))
        self.used += quantity * buyers

    def drain(self, limit: int = 64, *, seconds_max: int = 3_600) -> int:
        """Step as a loop would, on virtual time, until nothing is open. How many milliseconds passed."""
        began_ms = self.clock.monotonic_ms()
        while self.store.report_backlog().oldest_open_at is not None:
            worked = self.reporter.step(limit) or self.reporter.behind
            self.clock.manual.pass_ms(min(max(self.reporter.pause_ms(), 1), 1_000) if worked else 1_000)
            assert self.clock.monotonic_ms() - began_ms <= seconds_max * 1000, "it does not drain"
        return self.clock.monotonic_ms() - began_ms

    def use(self, quantity: int, buyer: int = 1) -> None:
        now = self.clock.now_at()
        increment = Increment(f"acc_{buyer}", "calls", "key", "GET /", bucket_start(now, ()), quantity, 1, now)
        self.store.commit_batch(Batch(SystemEntropy().token(), 1, "n", (increment,)))
        self.used += quantity

    def seal(self, *quantities: int) -> None:
        for quantity in quantities:
            self.use(quantity)
            self.sealer.step(hard=True)

    def step(self, *faults: str) -> int:
        self.wire.faults = list(faults)
        return self.reporter.step(10)

    @property
    def events(self) -> list[MeterEvent]:
        """The oldest first."""
        return sorted(self.store.meter_events(limit=10_000), key=lambda e: (e.account_id, e.bucket_start, e.sequence))

    @property
    def states(self) -> list[ReportState]:
        return [event.state for event in self.events]

    def close(self) -> None:
        self.store.close()
        self.provider.close()


class Scripted(StripeProvider):
    """A provider whose answers are told beforehand; Delivered when nothing was told."""

    def __init__(self) -> None:
        super().__init__(Secret("sk_test_scripted_answers"), (), transport=_unreachable)
        self.script: list[Outcome] = []
        self.sent: list[MeterEvent] = []

    def send_meter_event(self, event: MeterEvent) -> Outcome:
        self.sent.append(event)
        return self.script.pop(0) if self.script else Outcome(OutcomeKind.DELIVERED)


def _unreachable(*_: Any) -> NoReturn:
    raise AssertionError("nothing is sent over the wire here")
