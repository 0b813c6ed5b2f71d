"""Where processes are killed: a ledger in a file, a Stripe that survives, a clock that both share, and forked lives.

The parent has everything loaded, holds Stripe, and knows what clients saw; a child is one life of a serving process.
"""

import os
import random
import select
import signal
import socket
import sqlite3
import struct
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from tests.crash.life import Life, Plan
from tests.crash.talk import Talk
from tests.oracle import ACCEPTED, UNKNOWN, Oracle
from tests.sim import ledger
from tests.sim.shop import WEBHOOK_SECRET, SeededIds, Shop, settings_in
from tests.sim.wire import EVENTS, entry_of

from farebox.domain.keys import Secret
from farebox.provider.stripe import StripeProvider
from farebox.sandbox import Sandbox
from farebox.sandbox.clock import ManualClock
from farebox.sandbox.state import State
from farebox.store.sql import SqlStore
from farebox.system import SystemEntropy

__all__ = ["Town", "TownClock"]

START_AT: Final = 1_800_000_000
SPEED: Final = 200  # leases run out before the next life begins
HEALING_SPEED: Final = 20  # a busy machine's life can hold a role, and send within its lease
HEALING_PAUSE_MS: Final = 1_500  # longer than a lease of the dead is left
LIFE_SECONDS_MAX: Final = 60
HEALING_LIVES_MAX: Final = 12


class TownClock(ManualClock):
    """The machine's monotonic clock, faster, and the same for all processes of the machine."""

    def __init__(self) -> None:
        super().__init__(START_AT)
        self._zero = time.monotonic_ns()
        self._zero_ms = START_AT * 1000
        self._speed = SPEED

    def go_on_at(self, speed: int) -> None:
        """Go on from now at another speed: in lives that begin after this."""
        self._zero_ms, self._zero, self._speed = self.monotonic_ms(), time.monotonic_ns(), speed

    def monotonic_ms(self) -> int:
        return self._zero_ms + (time.monotonic_ns() - self._zero) * self._speed // 1_000_000

    def system_ms(self) -> int:
        return self.monotonic_ms()

    def system_at(self) -> int:
        return self.monotonic_ms() // 1000

    def sleep_ms(self, milliseconds: int) -> None:
        pass


class Town:
    """One ledger and its many lives. `kills` counts the deaths, `oracle` what went wrong."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.oracle = Oracle()
        self.kills = 0
        self.calls = 0
        self.seen: list[str] = []
        self.settings = settings_in(folder)
        self.url = f"sqlite:///{folder / 'ledger.db'}"
        self.clock = TownClock()
        self.entropy = SystemEntropy()
        self.sandbox = Sandbox(self.clock, SeededIds(random.Random(seed)))
        self.provider = StripeProvider(
            self.settings.require_stripe(), [Secret(WEBHOOK_SECRET)], transport=self._transport
        )
        self.meter_of = {meter.event_name: name for name, meter in self.settings.catalog.meters.items()}
        self.store = SqlStore(self.url, self.clock, self.entropy)
        self.store.open(migrate=True)
        us: Any = self  # all that a world and its first process need to be for this
        self.buyer = Shop(us).found(us, 1)[0]
        self.store.close()
        self._lives: dict[int, tuple[Talk, set[int]]] = {}

    @property
    def stripe(self) -> State:
        """The local Stripe's only account."""
        return next(iter(self.sandbox.accounts.values()))

    def live(self, plan: Plan) -> int:
        """Fork a life. Returns its process id; `watch` must follow."""
        ours, theirs = socket.socketpair()
        process = os.fork()
        if process == 0:
            try:
                ours.close()
                for talk, _ in self._lives.values():
                    talk.close()
                Life(self.settings, self.url, self.clock, self.buyer, Talk(theirs), plan).run()
            finally:
                os._exit(1)
        theirs.close()
        self._lives[process] = (Talk(ours), set())
        return process

    def watch(self, *, until: float | None = None) -> None:
        """Serve the lives until one has ended, or until then."""
        deadline = time.monotonic() + LIFE_SECONDS_MAX
        while self._lives:
            left = min(until if until is not None else deadline, deadline) - time.monotonic()
            if left <= 0:
                if until is None:
                    raise AssertionError("a life did not end")
                return
            by_talk = {talk: process for process, (talk, _) in self._lives.items()}
            for talk in select.select(list(by_talk), [], [], left)[0]:
                process = by_talk[talk]
                try:
                    self._hear(process, talk, talk.hear())
                except (EOFError, ConnectionError, struct.error):
                    self._buried(process)
                    return

    def kill(self, process: int) -> None:
        """From outside, at any moment."""
        if process in self._lives:
            os.kill(process, signal.SIGKILL)
            self.watch()

    def living(self) -> list[int]:
        return list(self._lives)

    def heal(self) -> None:
        """Lives without harm until nothing waits; then the verdict."""
        while self._lives:
            self.watch()
        self.clock.go_on_at(HEALING_SPEED)
        for _ in range(HEALING_LIVES_MAX):
            self.live(Plan(calls=1, kill_at=None, after=False, pause_ms=HEALING_PAUSE_MS))
            self.watch()
            if self._quiet():
                break
        self._verdict()

    def _hear(self, process: int, talk: Talk, said: tuple[str, Any]) -> None:
        kind, what = said
        under_way = self._lives[process][1]
        if kind == "ask":
            talk.say("answer", self._ask(*what))
        elif kind == "began":
            self.calls += 1
            under_way.add(self.calls)
            self.oracle.began(self.calls, self.buyer.account, what[0], str(process), 0, what[1])
            talk.say("call", self.calls)
        elif kind == "ended":
            under_way.discard(what[0])
            self.oracle.ended(what[0], ACCEPTED if what[1] == 200 else UNKNOWN)
        elif kind == "calls" and what:
            self.seen = what
        elif kind == "broken":
            self.oracle.against("I14", what)

    def _buried(self, process: int) -> None:
        talk, under_way = self._lives.pop(process)
        talk.close()
        status = os.waitpid(process, 0)[1]
        if os.WIFSIGNALED(status):
            self.kills += 1
        elif os.waitstatus_to_exitcode(status):
            self.oracle.against("I14", f"a life ended with {os.waitstatus_to_exitcode(status)}")
        for call in under_way:
            self.oracle.ended(call, UNKNOWN)

    def _ask(self, method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[bytes, int, dict[str, str]]:
        answer = self.sandbox.request(method, target, headers, body)
        if target == EVENTS and answer.status == 200 and "Idempotent-Replayed" not in answer.headers:
            self.oracle.counted(entry_of(body, {self.buyer.customer: self.buyer.account}, self.meter_of))
        return answer.body, answer.status, answer.headers

    def _transport(self, method: str, url: str, headers: Any, body: bytes) -> tuple[bytes, int, httpx.Headers]:
        parts = urlsplit(url)
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        answer = self.sandbox.request(method, target, headers, body)
        return answer.body, answer.status, httpx.Headers(answer.headers)

    def _read(self) -> sqlite3.Connection:
        return sqlite3.connect(self.url.removeprefix("sqlite:///"))

    def _quiet(self) -> bool:
        with closing(self._read()) as raw:
            return ledger.is_quiet(raw)

    def _verdict(self) -> None:
        with closing(self._read()) as raw:
            used, sent = ledger.buckets(raw), ledger.events(raw)
            self.oracle.look_at_usage(ledger.totals(raw))
            self.oracle.look_at_events(used, sent)
            billed = sum(int(value) for entries in self.stripe.usage.values() for _, value, _ in entries)
            self.oracle.look_at_end(used, sent, billed, ledger.late(raw))
            if raw.execute("PRAGMA integrity_check").fetchone()[0] != "ok":
                self.oracle.against("I1", "the file is damaged")
