"""Everybody who does something in a world: buyers who call and change things, Stripe's own time, and outages."""

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from tests.oracle import UNKNOWN
from tests.sim.hub import Killed
from tests.sim.wire import Broken

from farebox.billing.keys import create_key, revoke_key
from farebox.errors import FareboxError

if TYPE_CHECKING:
    from tests.sim.process import Process
    from tests.sim.shop import Buyer
    from tests.sim.world import World

__all__ = ["Actors"]


class Actors:
    """Begun on the first day; `end` lets them finish what they do and begin nothing new."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._ended = False

    def begin(self) -> None:
        world = self._world
        for buyer in world.buyers:
            world.hub.spawn(self._of(buyer, self._call))
            world.hub.spawn(self._of(buyer, self._change))
            world.hub.spawn(self._of(buyer, self._end))
        world.hub.spawn(self._pass_time_at_stripe)
        world.hub.spawn(self._outages_of_stripe)
        world.hub.spawn(self._outages_of_the_store)
        world.hub.spawn(self._trouble_with_one)
        world.hub.spawn(self._commits_that_hang)

    def end(self) -> None:
        self._ended = True

    @staticmethod
    def _of(buyer: "Buyer", act: Callable[["Buyer"], None]) -> Callable[[], None]:
        return lambda: act(buyer)

    def _wait(self, gap_ms: int) -> bool:
        """Wait for about so long. False when nothing more is to begin; a gap of 0 means never."""
        if gap_ms:
            self._world.hub.sleep(self._world.chance.randint(1, 2 * gap_ms))
        return gap_ms > 0 and not self._ended

    # buyers call

    def _call(self, buyer: "Buyer") -> None:
        world = self._world
        while self._wait(world.swarm.bursts_gap_ms):
            process = world.serving()
            if process is None or not buyer.keys:
                continue
            self._read_feed(process)
            world.hub.sleep(world.chance.randint(0, 250))  # the feed is read four times a second
            for _ in range(world.chance.randint(1, world.swarm.burst_calls)):
                self._call_once(buyer, process)

    def _read_feed(self, process: "Process") -> None:
        feed = next(loop for loop in process.loops if loop.name == "feed")
        self._world.hub.spawn(feed.once, process)

    def _call_once(self, buyer: "Buyer", process: "Process") -> None:
        world = self._world
        if process.dead:
            return
        world.calls += 1
        call, key = world.calls, world.chance.choice(list(buyer.keys))
        charges = {"calls": 1}
        if world.chance.random() < 0.4:
            charges["tokens"] = world.chance.randint(1, 1_000)
        world.oracle.began(call, buyer.account, key, process.name, world.hub.now_ms, charges)
        began_ms, stopped_ms = world.hub.now_ms, process.stopped_ms

        def ended(how: str) -> None:
            stopped = process.stopped_ms - stopped_ms
            world.oracle.ended(
                call, how, world.hub.now_ms - began_ms - stopped if how != UNKNOWN or not process.dead else 0
            )

        process.call(buyer.keys[key], charges.get("tokens", 0), ended)

    # buyers change their keys and their subscriptions

    def _change(self, buyer: "Buyer") -> None:
        world = self._world
        while self._wait(world.swarm.changes_gap_ms):
            process = world.serving()
            if process is None:
                continue
            what = world.chance.choice((self._revoke, self._revoke, self._cancel, self._cancel_now, self._subscribe))
            world.hub.spawn(lambda what=what, process=process: self._try(what, buyer, process), process)  # type: ignore[misc]

    @staticmethod
    def _try(what: Callable[["Buyer", "Process"], None], buyer: "Buyer", process: "Process") -> None:
        with suppress(FareboxError):  # which the buyer sees
            what(buyer, process)

    def _revoke(self, buyer: "Buyer", process: "Process") -> None:
        world = self._world
        secret, row = create_key(
            process.store,
            process.clock,
            world.entropy,
            world.settings.peppers,
            live=False,
            account_id=buyer.account,
        )
        buyer.keys[row.id] = secret.reveal()
        old = world.chance.choice(list(buyer.keys))
        revoke_key(process.store, process.clock, account_id=buyer.account, key_id=old)
        process.runtime.gate.poll()  # as the edge does before it answers
        world.oracle.revoked(old, process.name, world.hub.now_ms)
        if len(buyer.keys) > 3:
            buyer.keys.pop(old)  # else somebody goes on trying it

    def _subscriptions(self, buyer: "Buyer") -> list[str]:
        found = self._world.stripe.of_customer("subscription", buyer.customer)
        return [s["id"] for s in found if s["status"] not in ("canceled", "incomplete_expired")]

    def _cancel(self, buyer: "Buyer", process: "Process") -> None:
        for id in self._subscriptions(buyer):
            process.provider.cancel_subscription(id, at_period_end=True)

    def _cancel_now(self, buyer: "Buyer", _process: "Process") -> None:
        """In Stripe's dashboard: Farebox hears of it by a webhook, or finds out."""
        for id in self._subscriptions(buyer):
            self._world.shop.at_stripe("DELETE", f"subscriptions/{id}")

    def _subscribe(self, buyer: "Buyer", process: "Process") -> None:
        session = self._world.shop.checkout(process, self._world.store.account(buyer.account))
        self._world.shop.pay(session)

    # F29: subscriptions end by somebody else's hand

    def _end(self, buyer: "Buyer") -> None:
        world = self._world
        while self._wait(world.swarm.endings_gap_ms):
            how = world.chance.choice(
                ("", "", "invoice_now=true", "invoice_now=true&prorate=true", "cancel_at", "gone")
            )
            if how == "gone" and world.chance.random() < 0.3:
                world.shop.at_stripe("DELETE", f"customers/{buyer.customer}")
            for id in self._subscriptions(buyer) if how != "gone" else ():
                if how == "cancel_at":
                    at = world.hub.now_ms // 1000 + world.chance.randint(1, 20 * 86_400)
                    world.shop.at_stripe("POST", f"subscriptions/{id}", f"cancel_at={at}")
                else:
                    world.shop.at_stripe("DELETE", f"subscriptions/{id}", how)

    # F31: Stripe has trouble with one account's objects

    def break_one(self, *, first: bool = False) -> None:
        """Some of what one buyer has, or all that the `first` in every round through the accounts has."""
        world = self._world
        buyer = world.chance.choice(world.buyers)
        path = world.chance.choice(("/v1", "/v1/subscriptions", "/v1/invoice", "/v1/billing"))
        if first:
            buyer, path = min(world.buyers, key=lambda buyer: buyer.account), "/v1"
        subscriptions = [s["id"] for s in world.stripe.of_customer("subscription", buyer.customer)]
        world.broken = Broken(
            buyer.customer, subscriptions, path, world.chance.choice(("refuses", "throttles", "fails"))
        )

    def _trouble_with_one(self) -> None:
        world = self._world
        while self._wait(world.swarm.broken_gap_ms):
            self.break_one()
            mine, length_ms = world.broken, world.chance.randint(1, world.swarm.broken_ms)
            world.hub.sleep(length_ms)
            if world.broken is mine:
                world.broken = None

    # F30: the commits of a process do not answer, and its reads do

    def _commits_that_hang(self) -> None:
        world = self._world
        while self._wait(world.swarm.hangs_gap_ms):
            process = world.serving()
            if process is not None:
                process.commits_hang_until_ms = world.hub.now_ms + world.chance.randint(1, world.swarm.hang_ms)

    # Stripe

    def _pass_time_at_stripe(self) -> None:
        """Time passes by itself, and webhooks leave for whoever serves. Goes on for ever."""
        world = self._world
        while True:
            world.hub.sleep(world.chance.randint(1_000, max(1_000, 2 * world.swarm.webhook_gap_ms)))
            world.sandbox.tick()
            world.inline += 1
            world.sandbox.deliver_due(self._deliver)
            world.inline -= 1

    def _deliver(self, _url: str, headers: dict[str, str], body: bytes) -> int | None:
        process = self._world.serving()
        if process is None:
            return None
        try:
            process.runtime.receive(body, headers["Stripe-Signature"])
        except FareboxError as error:
            return error.status
        except Killed:
            return None
        return 200

    def _outages_of_stripe(self) -> None:
        world = self._world
        while self._wait(world.swarm.stripe_outages_gap_ms):
            length_ms = world.chance.randint(30_000, world.swarm.stripe_outage_ms)
            world.stripe_away_until_ms = world.hub.now_ms + length_ms
            world.hub.sleep(length_ms)

    def _outages_of_the_store(self) -> None:
        world = self._world
        while self._wait(world.swarm.store_outages_gap_ms):
            length_ms = world.chance.randint(1, world.swarm.store_outage_ms)
            world.store_away_until_ms = world.hub.now_ms + length_ms
            world.hub.sleep(length_ms)
