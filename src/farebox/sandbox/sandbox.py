"""The local Stripe whole: every route, and what happens by itself when time passes, in order and to the second."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from farebox.sandbox import checkout, meters, testclocks, thin, webhooks
from farebox.sandbox.clock import SandboxClock
from farebox.sandbox.core import Context, SandboxCore
from farebox.sandbox.deliveries import Deliverer, Send, queue
from farebox.sandbox.delivery_faults import DeliveryFaults
from farebox.sandbox.errors import missing_object
from farebox.sandbox.happenings import happenings
from farebox.sandbox.ids import Ids
from farebox.sandbox.routes import ROUTES
from farebox.sandbox.schedule import ACCOUNT
from farebox.sandbox.state import State, StripeObject
from farebox.sandbox.timelines import time_of

__all__ = ["Sandbox"]

_LOOK_AGAIN_SECONDS: Final = 3_600


class Sandbox(SandboxCore):
    """Driven by `request`; time passes by `advance` or with the clock; webhooks leave by `deliver_due`."""

    def __init__(self, clock: SandboxClock | None = None, ids: Ids | None = None) -> None:
        super().__init__(ROUTES, clock or SandboxClock(), ids or Ids())
        self._worked_off_until = 0
        self.delivery_faults = DeliveryFaults(self.ids)
        self.deliverer = Deliverer(self.lock, now_ms=self.clock.system_ms, now_at=self.clock.system_at)
        self.settle_seconds = 3  # real time that an advancing test clock rests before it finalizes a draft

    def emit(
        self, state: State, type: str, thing: StripeObject, previous: StripeObject | None, cause: StripeObject
    ) -> None:
        id, now_ms = self.ids.new("evt_"), self.clock.system_ms()
        event = webhooks.queue_event(state, id, self.now_at, type, thing, previous, cause, now_ms, self.delivery_faults)
        self.listeners.tell(state, event, self.clock.system_at())
        mirror = thin.mirrored(type)
        if mirror is not None and (thin.wanted_by(state, mirror) or self.listeners.of(state, "v2_events")):
            thin.emit_thin(self.context(state), mirror, thing, snapshot=id, cause=cause)

    def publish(self, state: State, event: StripeObject) -> None:
        """Queue a thin event's deliveries."""
        receivers = self.receivers_of(state, event)
        queue(state, event, receivers, self.clock.system_ms(), self.delivery_faults)
        self.listeners.tell(state, event, self.clock.system_at())

    def receivers_of(self, state: State, event: StripeObject, id: str | None = None) -> list[StripeObject]:
        """Who asks for an event; or the one that this id names, if it takes events of this kind."""
        if id is None:
            snapshot = event["object"] == "event"
            return (webhooks.receivers_of if snapshot else thin.wanted_by)(state, event["type"])
        named = [state.objects[kind].get(id) for kind in ("webhook_endpoint", "v2.core.event_destination")]
        kind = "snapshot" if event["object"] == "event" else "thin"
        return [each for each in named if each is not None and each.get("event_payload", "snapshot") == kind]

    def context(self, state: State) -> Context:
        """A context for what nobody requested: time passing, and the hosted pages."""
        return Context(self, state, {}, {})

    def advance(self, to_at: int) -> None:
        """Move Stripe's time to `to_at`, never back, and work off all that falls due on the way."""
        with self.lock:
            self.clock.move_to(to_at)
            self.tick()

    def tick(self) -> None:
        """Work off what is due by now, the earliest first, each at its own instant."""
        with self.lock:
            target = self.clock.now_at()
            past, self._worked_off_until = self._worked_off_until, target
            if target < self._quiet_until:
                return
            states = list(self.accounts.values())
            self._quiet_until = target + _LOOK_AGAIN_SECONDS
            for state in states:
                self._work_off(state, target, past)
                for clock in testclocks.advancing(state):
                    self._go_on(state, clock)
                following = state.due.first()
                if testclocks.advancing(state):
                    self._quiet_until = 0
                elif following is not None:
                    self._quiet_until = min(self._quiet_until, following[0])

    def _go_on(self, state: State, clock: StripeObject) -> None:
        """Advance a test clock as far as it will go now: to its target, or to a draft that is yet to be heard of."""
        target = clock["status_details"]["advancing"]["target_frozen_time"]
        if self._work_off(state, target, clock["_now_at"], clock):
            testclocks.arrive(self.context(state), clock, target)

    def _work_off(self, state: State, target: int, past: int, clock: StripeObject | None = None) -> bool:
        """Let all happen that is due by `target` on one timeline. False if a test clock has to rest on the way."""
        ctx, timeline = self.context(state), clock["id"] if clock is not None else ACCOUNT
        while True:
            self._look_again(state)
            head = state.due.first(timeline)
            going_on = clock is not None and (head is None or head[0] > clock["_now_at"])
            if clock is not None and going_on and self._rests(ctx, clock):
                return False
            if head is None or head[0] > target:
                return True
            thing = state.find(head[1])
            at, happen = min(happenings(ctx, thing) if thing is not None else [], key=lambda h: h[0], default=(0, None))
            state.due.touch(head[1])
            if thing is None or happen is None or at != head[0]:
                state.due.schedule(None, head[1])  # it changed untouched: look again
                continue
            past = max(at, past)  # what was held until now happens now, not in the past
            if clock is not None:
                clock["_now_at"] = past
            with self.standing_at(past):
                happen()

    def _rests(self, ctx: Context, clock: StripeObject) -> bool:
        return testclocks.rests(ctx, clock, system_ms=self.clock.system_ms(), settle_seconds=self.settle_seconds)

    def _look_again(self, state: State) -> None:
        """Work out when the objects that were touched fall due next."""
        ctx = self.context(state)
        while state.due.changed:
            id = state.due.changed.pop()
            thing = state.find(id)
            due = happenings(ctx, thing) if thing is not None else []
            if thing is not None:
                state.due.schedule(min((h[0] for h in due), default=None), id, state.timeline(thing))
            else:
                state.due.schedule(None, id)

    @contextmanager
    def at_work(self, state: State, thing: StripeObject) -> Iterator[Context]:
        """Work on an object that no API request asked for: under the lock, in its own time."""
        with self.lock:
            self.tick()
            self.reschedule()
            with self.standing_at(time_of(state, thing)):
                yield self.context(state)
            state.due.touch(thing["id"])

    def pay(
        self, session_id: str, *, number: str, expiry: str, cvc: str, email: str = "", promotion_code: str = ""
    ) -> str:
        """What the hosted page's button does. Returns where the buyer goes next; StripeError for a refused card."""
        with self.lock:
            state = next((s for s in self.accounts.values() if session_id in s.objects["checkout.session"]), None)
            if state is None:
                raise missing_object("checkout.session", session_id)
            session = state.objects["checkout.session"][session_id]
            with self.at_work(state, session) as ctx:
                checkout.pay(
                    ctx,
                    session,
                    email=email,
                    number=number,
                    expiry=expiry,
                    cvc=cvc,
                    promotion_code=promotion_code,
                )
            return checkout.success_url(session)

    def next_draft_at(self, until: int) -> int | None:
        """When something next happens to a subscription by itself, before `until`: where a move of time may pause."""
        with self.lock:
            now, found = self.now_at, []
            for state in self.accounts.values():
                self._look_again(state)
                following = state.due.first(prefix="sub")
                if following is not None and now < following[0] <= until:
                    found.append(following[0])
        return min(found, default=None)

    def drafts_end_at(self) -> int | None:
        """When the last of the renewal invoices that are drafts now will be finalized by itself."""
        with self.lock:
            ends = [
                invoice["automatically_finalizes_at"]
                for state in self.accounts.values()
                for invoice in state.objects["invoice"].values()
                if invoice["status"] == "draft" and not invoice["test_clock"]
            ]
        return max((end for end in ends if end is not None), default=None)

    def set_aggregation(self, lag_seconds: int, *, late: bool) -> None:
        """How long aggregation takes to reach what is sent, and whether it alone looks at who an event is for."""
        with self.lock:
            self.aggregation_lag_seconds, self.late_validation = lag_seconds, late
            for state in self.accounts.values():
                state.due.touch(meters.QUEUE)
            self.reschedule()

    def deliver_due(self, send: Send) -> int:
        """Attempt the webhook deliveries that are due, one after another. Returns how many."""
        return self.deliverer.attempt_all(list(self.accounts.values()), send, self._released)

    def start_deliveries(self, send: Send) -> None:
        """Attempt the webhook deliveries that are due on threads, the receivers side by side."""
        self.deliverer.start(list(self.accounts.values()), send, self._released)

    def _released(self, state: State, object_id: str) -> None:
        """A webhook was attempted: an acknowledged invoice.created lets its invoice be finalized."""
        if object_id in state.due.held:
            state.due.held.discard(object_id)
            state.due.touch(object_id)
            self.reschedule()
