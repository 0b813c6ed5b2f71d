"""The local Stripe whole: every route, and what happens by itself when time passes, in order and to the second."""

from collections.abc import Callable
from typing import Final

from farebox.sandbox import catalog, checkout, customers, invoices, meters, portal, subscriptions, webhooks
from farebox.sandbox.clock import SandboxClock
from farebox.sandbox.core import Context, SandboxCore
from farebox.sandbox.errors import missing_object
from farebox.sandbox.ids import Ids
from farebox.sandbox.invoices import HOLD_SECONDS_MAX
from farebox.sandbox.state import State, StripeObject
from farebox.sandbox.webhooks import Send

__all__ = ["Sandbox"]

_LOOK_AGAIN_SECONDS: Final = 3_600
_Happening = tuple[int, str, Callable[[], object]]


class Sandbox(SandboxCore):
    """Driven by `request`; time passes by `advance` or with the clock; webhooks leave by `deliver_due`."""

    def __init__(self, clock: SandboxClock | None = None, ids: Ids | None = None) -> None:
        modules = (catalog, meters, customers, checkout, subscriptions, invoices, portal, webhooks)
        routes = [route for module in modules for route in module.ROUTES]
        super().__init__(routes, clock or SandboxClock(), ids or Ids())
        self._worked_off_until = 0

    def emit(
        self, state: State, type: str, thing: StripeObject, previous: StripeObject | None, cause: StripeObject
    ) -> None:
        id = self.ids.new("evt_")
        webhooks.queue_event(state, id, self.now_at, type, thing, previous, cause, self.clock.system_ms())

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
            for state in list(self.accounts.values()):
                while (happening := self._next(state)) is not None and happening[0] <= target:
                    self._instant = max(happening[0], past)  # what was held until now happens now, not in the past
                    try:
                        happening[2]()
                    finally:
                        self._instant = None
            following = [self._next(state) for state in self.accounts.values()]
            self._quiet_until = min((h[0] for h in following if h is not None), default=target + _LOOK_AGAIN_SECONDS)

    def pay(self, session_id: str, *, number: str, expiry: str, cvc: str, email: str = "") -> str:
        """What the hosted page's button does. Returns where the buyer goes next; StripeError for a refused card."""
        with self.lock:
            self.tick()
            self.reschedule()
            state = next((s for s in self.accounts.values() if session_id in s.objects["checkout.session"]), None)
            if state is None:
                raise missing_object("checkout.session", session_id)
            session = state.objects["checkout.session"][session_id]
            checkout.pay(self.context(state), session, email=email, number=number, expiry=expiry, cvc=cvc)
            return checkout.success_url(session)

    def next_draft_at(self, until: int) -> int | None:
        """When the next billing period ends before `until`: where a move of time may pause."""
        with self.lock:
            ends = [
                item["current_period_end"]
                for state in self.accounts.values()
                for s in state.all("subscription")
                if s["status"] not in subscriptions.ENDED
                for item in s["items"]["data"]
            ]
        return min((end for end in ends if self.now_at < end <= until), default=None)

    def drafts_end_at(self) -> int | None:
        """When the last of the renewal invoices that are drafts now will be finalized by itself."""
        with self.lock:
            drafts = [i for state in self.accounts.values() for i in state.all("invoice") if i["status"] == "draft"]
            ends = [i["automatically_finalizes_at"] for i in drafts if i["automatically_finalizes_at"] is not None]
        return max(ends, default=None)

    def deliver_due(self, send: Send) -> int:
        """Attempt the webhook deliveries that are due. Returns how many."""
        attempted = sum(
            webhooks.deliver_due(
                state, send, now_ms=self.clock.system_ms(), now_at=self.clock.system_at(), lock=self.lock
            )
            for state in list(self.accounts.values())
        )
        if attempted:
            self.reschedule()  # an acknowledged invoice.created lets its invoice be finalized
        return attempted

    def _next(self, state: State) -> _Happening | None:
        ctx = self.context(state)
        due = [*self._sessions(ctx), *self._subscriptions(ctx), *self._invoices(ctx)]
        return min(due, key=lambda h: (h[0], h[1]), default=None)

    def _sessions(self, ctx: Context) -> list[_Happening]:
        return [
            (s["expires_at"], s["id"], lambda s=s: checkout.expire(ctx, s))  # type: ignore[misc]
            for s in ctx.state.all("checkout.session")
            if s["status"] == "open"
        ]

    def _subscriptions(self, ctx: Context) -> list[_Happening]:
        due: list[_Happening] = []
        for s in ctx.state.all("subscription"):
            if s["status"] in subscriptions.ENDED:
                continue
            end = min(item["current_period_end"] for item in s["items"]["data"])
            due.append((end, s["id"], lambda s=s: self._renew(ctx, s)))  # type: ignore[misc]
            resumes_at = (s["pause_collection"] or {}).get("resumes_at")
            if resumes_at is not None:
                due.append((resumes_at, s["id"], lambda s=s: subscriptions.resume_collection(ctx, s)))  # type: ignore[misc]
        return due

    def _invoices(self, ctx: Context) -> list[_Happening]:
        due: list[_Happening] = []
        for invoice in ctx.state.all("invoice"):
            if invoice["status"] == "draft" and invoice["automatically_finalizes_at"] is not None:
                at = invoice["automatically_finalizes_at"]
                if webhooks.pending_of(ctx.state, "invoice.created", invoice["id"]):
                    # Stripe holds finalization until the webhook is acknowledged, for three days at the most.
                    at = invoice["created"] + HOLD_SECONDS_MAX
                due.append((at, invoice["id"], lambda i=invoice: invoices.finalize(ctx, i)))  # type: ignore[misc]
            elif invoice["status"] == "open" and invoice["next_payment_attempt"] is not None:
                at = invoice["next_payment_attempt"]
                due.append((at, invoice["id"], lambda i=invoice: invoices.attempt_payment(ctx, i)))  # type: ignore[misc]
        return due

    def _renew(self, ctx: Context, subscription: StripeObject) -> None:
        end = min(item["current_period_end"] for item in subscription["items"]["data"])
        if not subscription["cancel_at_period_end"]:
            previous = {"latest_invoice": subscription["latest_invoice"]}
            invoices.close_period(ctx, subscription, at=end)
            ctx.emit("customer.subscription.updated", subscription, previous)
            return
        periods = [dict(item) for item in subscription["items"]["data"]]
        invoices.close_period(ctx, subscription, at=end)
        for item, before in zip(subscription["items"]["data"], periods, strict=True):
            item["current_period_start"] = before["current_period_start"]
            item["current_period_end"] = before["current_period_end"]
        subscription.update(status="canceled", ended_at=end)
        ctx.emit("customer.subscription.deleted", subscription)
