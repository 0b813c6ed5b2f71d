"""A world of one seed: the clock, the ledger, Stripe, the processes, the oracle's verdict. `run` is its whole life."""

import logging
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import structlog
from tests.oracle import Oracle
from tests.sim import bills, ledger
from tests.sim.actors import Actors
from tests.sim.hub import Hub
from tests.sim.process import Process, staged
from tests.sim.shop import WEBHOOK_SECRET, Buyer, HubClock, SeededEntropy, SeededIds, Shop, settings_in
from tests.sim.swarm import DAY_MS, ON, Swarm
from tests.sim.wire import Broken, Wire

from farebox.domain.keys import Secret
from farebox.sandbox import Sandbox
from farebox.sandbox.state import State, StripeObject
from farebox.store.sql import MEMORY_URL, SqlStore

__all__ = ["World"]

START_AT: Final = 1_800_000_000
HOUR_MS: Final = 3_600_000
ISOLATED_HOURS_MAX: Final = 24
"""So long others may take to be done although one account is still broken (I16)."""
HEALING_HOURS_MAX: Final = 24 * 5
"""Longer than a doubt that nothing later can dispel is kept before it is parked (L9)."""


class World:
    """All of it. The same seed has the same history."""

    def __init__(self, seed: int, change: Callable[[Swarm], None] = lambda swarm: None) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.weather = Swarm.of(self.chance, random.Random(seed + 4))
        change(self.weather)
        self.swarm = Swarm.of(random.Random(0), random.Random(0))
        self.swarm.calm()  # a shop opens on a fine day
        self.oracle = Oracle()
        self.hub = Hub(random.Random(seed + 1), START_AT)
        self.entropy = SeededEntropy(random.Random(seed + 2))
        self.sandbox = Sandbox(HubClock(self.hub), SeededIds(random.Random(seed + 3)))
        self.wire = Wire(self)
        self.shop = Shop(self, lambda: self.happens(self.weather.failing_cards))
        self.secrets = [Secret(WEBHOOK_SECRET)]
        self.store_away_until_ms = 0
        self.stripe_away_until_ms = 0
        self.broken: Broken | None = None
        self.changed: set[str] = set()
        self.running: set[Any] = set()
        self.processes: list[Process] = []
        self.buyers: list[Buyer] = []
        self.account_of: dict[str, str] = {}
        self.meter_of: dict[str, str] = {}
        self.kills = 0
        self.states: Counter[str] = Counter()
        self.calls = 0
        self.inline = 0  # what runs must not wait: Stripe holds its lock
        self._lives = 0
        self.usage_writes = 0
        self.inbox_writes = 0
        self._looks = 0
        self._looked_at = 0
        self.everybody: list[Process] = []
        self._stack = ExitStack()

    @property
    def stripe(self) -> State:
        """The local Stripe's only account."""
        return next(iter(self.sandbox.accounts.values()))

    @property
    def written(self) -> int:
        """How many rows of the ledger have been written so far."""
        return int(self._raw.total_changes)

    @property
    def simulated_days(self) -> int:
        return (self.hub.now_ms - START_AT * 1000) // DAY_MS

    def told(self) -> str:
        """What has happened, in a line."""
        states = dict(sorted(self.states.items()))
        return f"{self.simulated_days} days, {self.calls} calls, {self.kills} kills, {self.hub.steps} steps, {states}"

    def run(self) -> None:
        """From the first day to the verdict. The oracle knows what went wrong."""
        with self._stack:
            self._open()
            actors = Actors(self)
            actors.begin()
            self.advance(self.weather.days * DAY_MS)
            actors.end()
            self._heal(actors)

    def happens(self, millionths: int) -> bool:
        return millionths > 0 and self.chance.random() * 1_000_000 < millionths

    def hub_task_may_wait(self) -> bool:
        return self.hub.running is not None and not self.inline

    def reporting_is_worth_it(self) -> bool:
        """Whether a reporter's step may do something; one in ten is done anyway."""
        return ledger.work_waits(self._raw, self.hub.now_ms // 1000) or self.happens(100_000)

    def advance(self, milliseconds: int) -> None:
        self.hub.run(self.hub.now_ms + milliseconds, self._after_step)

    def be_born(self) -> None:
        """A process starts, in the place of one that has died."""
        self._lives += 1
        process = Process(self, f"p{self._lives}")
        self.processes.append(process)
        process.start()

    def died(self, process: Process) -> None:
        """Somebody starts it again, sooner or later."""
        self.kills += 1
        if process in self.processes:
            self.processes.remove(process)
            delay_ms = self.chance.randint(1_000, 600_000)
            self.hub.spawn(self.be_born, delay_ms=delay_ms)

    def serving(self) -> Process | None:
        """One of those that serve now, or nobody does."""
        found = [process for process in self.processes if process.serving]
        return self.chance.choice(found) if found else None

    def _open(self) -> None:
        stack = self._stack
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        before, hooks = structlog.get_config(), sys.get_asyncgen_hooks()
        silent = structlog.make_filtering_bound_logger(logging.CRITICAL)
        structlog.configure(wrapper_class=silent, logger_factory=structlog.ReturnLoggerFactory())
        stack.callback(lambda: structlog.configure(**before))
        stack.callback(lambda: sys.set_asyncgen_hooks(*hooks))
        self.settings = settings_in(Path(folder))
        self.meter_of = {meter.event_name: name for name, meter in self.settings.catalog.meters.items()}
        self.stage = stack.enter_context(staged(self))
        self.store = SqlStore(MEMORY_URL, HubClock(self.hub), self.entropy)
        self.store.open()
        self._let_commits_hang()
        with self.store.database.read() as connection:
            self._raw: Any = connection.connection.driver_connection
        stack.callback(self.store.close)
        stack.callback(self._end)
        founder = Process(self, "founder")
        self.buyers = self.shop.found(founder, self.weather.accounts)
        self.account_of = {buyer.customer: buyer.account for buyer in self.buyers}
        founder.die()
        self.swarm = self.weather
        swarm = self.swarm
        rates = {
            "drop": swarm.dropped,
            "duplicate": swarm.duplicated,
            "reorder": swarm.reordered,
            "delay": swarm.delayed,
        }
        for kind, rate in rates.items():
            late = {"delay_ms": self.chance.randint(1_000, DAY_MS)} if kind == "delay" else {}
            if rate:
                self.sandbox.delivery_faults.add({"kind": kind, "count": None, "rate_millionths": rate, **late})
        for _ in range(self.swarm.processes):
            self.be_born()

    def _after_step(self) -> None:
        """What must hold at any moment, looked at whenever something has been written: all of it now and then, and
        otherwise what is not older than two days."""
        written = self.written
        if written == self._looked_at:
            return
        self._looked_at = written
        self._looks += 1
        since = 0 if self._looks % 100 == 0 else self.hub.now_ms // 1000 - 2 * 86_400
        with self.store.database.read() as connection:
            if self.changed & {"commit_batch", "batch_landed"}:
                self.oracle.look_at_usage(ledger.totals(connection))
            if any(name.startswith(("seal", "settle")) for name in self.changed):
                self.oracle.look_at_events(ledger.buckets(connection, since), ledger.events(connection, since))
        self.changed.clear()
        if self.oracle.violations:
            raise AssertionError(self.oracle.violations[0])

    def _let_commits_hang(self) -> None:
        """A write transaction of a process whose commits do not answer waits before it begins, so that it holds up
        nobody else in this ledger in memory."""
        database = self.store.database
        write = database.write

        @contextmanager
        def hanging() -> Iterator[Any]:
            owner = self.hub.running.owner if self.hub.running is not None else None
            if isinstance(owner, Process):
                owner.hang()
            with write() as connection:
                yield connection

        database.write = hanging  # type: ignore[method-assign]

    def _heal(self, actors: Actors) -> None:
        """All faults end; then everything must come right by itself: first for all but one, if one is broken still."""
        breaks = self.weather.broken_gap_ms > 0 and len(self.buyers) > 1
        self.swarm.calm()
        self.store_away_until_ms = self.stripe_away_until_ms = 0
        self.broken = None
        for process in self.processes:
            process.commits_hang_until_ms = 0
        self.sandbox.delivery_faults.clear()
        self.sandbox.faults.clear()
        waiting: dict[str, int] = {}
        if breaks:
            actors.break_one(first=True)
            for hour in range(ISOLATED_HOURS_MAX):
                self.advance(HOUR_MS)
                waiting = self._waiting_of_others()
                if hour > 13 and not any(waiting.values()):
                    break
            self.broken = None
            self.sandbox.faults.clear()
        for hour in range(HEALING_HOURS_MAX):
            self.advance(HOUR_MS)
            if hour > 13 and self._converged():  # by then the sweep has been round
                break
        self.oracle.look_at_the_rest(waiting, {process.name for process in self.processes})
        self._verdict()

    def _waiting_of_others(self) -> dict[str, int]:
        """I16: what waits of all but the account that is broken, by kind."""
        assert self.broken is not None
        customer = self.broken.customer
        with self.store.database.read() as connection:
            waiting = ledger.waiting(connection, self.account_of[customer], customer)
        facts = sum(
            self._facts(buyer)[0] != self._facts(buyer)[1] for buyer in self.buyers if buyer.customer != customer
        )
        return {**waiting, "accounts with old facts": facts}

    def _converged(self) -> bool:
        with self.store.database.read() as connection:
            used = sum(ledger.buckets(connection).values())
            sent, late = ledger.events(connection), ledger.late(connection)
        waiting = any(event.state in ("pending", "sending") for event in sent)
        sealed = sum(event.value for event in sent if not event.correction)
        return used <= sealed + late and not waiting and not ("F29" in ON and self._unbilled())

    def _unbilled(self) -> bool:
        """Whether anything is due that no final invoice has."""
        due, billed = bills.due(self), bills.billed(self)
        return any(units > billed.get(name, 0) for name, units in due.items())

    def _verdict(self) -> None:
        oracle, stripe = self.oracle, self.stripe
        with self.store.database.read() as connection:
            used, sent, late = ledger.buckets(connection), ledger.events(connection), ledger.late(connection)
        self.states = Counter(event.state for event in sent)
        oracle.look_at_events(used, sent)
        billed = sum(int(value) for entries in stripe.usage.values() for _, value, _ in entries)
        oracle.look_at_end(used, sent, billed, late, self._missed())
        for process in self.processes:
            if process.runtime.reporter.halted is not None:
                oracle.against("I5", f"a reporter halted: {process.runtime.reporter.halted}")
        if "F29" in ON:
            oracle.look_at_bills(bills.due(self), bills.billed(self), bills.named(self, sent))
        for buyer in self.buyers:
            ours, theirs = self._facts(buyer)
            if ours != theirs:
                oracle.against("I10", f"{buyer.account}: {ours} here, {theirs} at Stripe")

    def _facts(self, buyer: Buyer) -> tuple[dict[str, Any], dict[str, Any]]:
        """The buyer's subscriptions as the ledger has them, and as Stripe does."""
        ours = {
            s.id: (s.status, s.cancel_at_period_end, s.period.end if s.period else 0)
            for s in self.store.subscriptions(buyer.account)
        }
        theirs = {
            s["id"]: (
                s["status"],
                s["cancel_at_period_end"] or s["cancel_at"] is not None,
                s["items"]["data"][0]["current_period_end"],
            )
            for s in self.stripe.of_customer("subscription", buyer.customer)
        }
        return ours, theirs

    def _missed(self) -> int:
        """What Stripe has counted of periods whose invoice was final by then: no invoice has it but as late usage."""
        meters = {price["id"]: price["metadata"]["farebox_meter"] for price in self.stripe.all("price")}
        ended = {s["id"]: s for s in self.stripe.all("subscription") if s["ended_at"] is not None}
        missed = 0
        for invoice in self.stripe.all("invoice"):
            for line in invoice["lines"]["data"] if invoice["status"] not in ("draft", "void") else ():
                if line["parent"]["type"] == "subscription_item_details":
                    whose = self.account_of[invoice["customer"]], meters[line["pricing"]["price_details"]["price"]]
                    start, end = line["period"]["start"], line["period"]["end"]
                    subscription = ended.get(line["parent"]["subscription_item_details"]["subscription"])
                    if subscription is not None and end >= subscription["ended_at"]:
                        end = self._hour_of_end(subscription)
                    counted = [e for e in self.oracle.book.values() if (e.account, e.meter) == whose]
                    missed += sum(e.value for e in counted if start <= e.timestamp < end) - line["quantity"]
        return missed + self._never_invoiced()

    def _never_invoiced(self) -> int:
        """What Stripe has counted of the last period of a subscription that ended without an invoice of it."""
        lines = [
            (line["parent"]["subscription_item_details"]["subscription_item"], line["period"]["end"])
            for invoice in self.stripe.all("invoice")
            for line in (invoice["lines"]["data"] if invoice["status"] not in ("draft", "void") else ())
            if line["parent"]["type"] == "subscription_item_details"
        ]
        missed = 0
        for subscription in self.stripe.all("subscription"):
            ended_at, account = subscription["ended_at"], self.account_of[subscription["customer"]]
            for item in subscription["items"]["data"] if ended_at is not None else ():
                start, meter = item["current_period_start"], item["price"]["metadata"]["farebox_meter"]
                if not any(id == item["id"] and start < end for id, end in lines):
                    counted = [e for e in self.oracle.book.values() if (e.account, e.meter) == (account, meter)]
                    until = self._hour_of_end(subscription)
                    missed += sum(e.value for e in counted if start <= e.timestamp < until)
        return missed

    def _hour_of_end(self, subscription: StripeObject) -> int:
        """Where the ledger has the period end, which may be when it learned of it. A row of usage is an hour."""
        periods = self.store.periods(self.account_of[subscription["customer"]])
        ours = [p.end for p in periods if p.subscription_id == subscription["id"]]
        end = max(ours, default=int(subscription["ended_at"]))
        others = (int(s["created"]) for s in self.stripe.of_customer("subscription", subscription["customer"]))
        return min([end + -end % 3_600, *(created for created in others if created >= end)])

    def _end(self) -> None:
        for process in list(self.processes):
            process.dead = True
            self.hub.kill(process)
        self.hub.reap()
        for process in self.everybody:
            process.bury()
