"""Webhooks: verified and stored once at the door, then worked off by refetching what they name (L17).

The payload is a hint. Nothing in it is ever applied, so neither a copy nor another order can change anything.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import structlog

from farebox.billing.fetching import fetch_subscriptions
from farebox.billing.late import LateBiller
from farebox.billing.late_refusals import refuse_late
from farebox.domain.accounts import Account, Subscription
from farebox.domain.inbox import BILLED_EVENT_TYPES, HANDLED_EVENT_TYPES, METER_ERROR_TYPES, InboxEvent, InboxWork
from farebox.errors import FareboxError
from farebox.ports import Clock, Entropy, Provider, Store

__all__ = [
    "INBOX_BACKOFF_SECONDS_MAX",
    "INBOX_LEASE_SECONDS",
    "InboxWorker",
    "Receipt",
    "receive",
    "refresh_account",
    "refresh_checkout",
]

INBOX_LEASE_SECONDS: Final = 25
INBOX_BACKOFF_SECONDS_MAX: Final = 600
_PERIOD_ENDED: Final = "invoice.created"

_log = structlog.get_logger("farebox.inbox")


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a delivery. Usage of the account `ended_account`, if one is named, is to be reported at once: a
    period of it has ended."""

    stored: bool
    type: str
    ended_account: str | None = None


def receive(provider: Provider, store: Store, clock: Clock, body: bytes, signature: str, *, live: bool) -> Receipt:
    """Verify the raw body and store the event once. SignatureInvalid; StoreError asks Stripe to deliver again.

    Types that Farebox does not handle, and events of the other mode or of another account, are acknowledged and not
    stored.
    """
    event = provider.verify_webhook(body, signature, now=clock.system_at())
    if event.livemode != live or event.connected_account is not None:
        _log.warning("event_of_others", id=event.id, type=event.type, livemode=event.livemode)
        return Receipt(stored=False, type=event.type)
    if event.type not in HANDLED_EVENT_TYPES + METER_ERROR_TYPES:
        return Receipt(stored=False, type=event.type)
    stored = store.add_event(event, at=clock.now_at())
    ended = stored and event.type == _PERIOD_ENDED and event.customer_id is not None
    # A customer of something else that the seller sells has no account here.
    account = store.account_of_customer(str(event.customer_id)) if ended else None
    return Receipt(stored=stored, type=event.type, ended_account=account.id if account is not None else None)


class InboxWorker:
    """Works off the inbox, one customer at a step, under a lease and a fence. Facts come first; the money that they
    ask to be moved is work of its own, so that its failure holds up no facts and no other customer.

    `halt` is told of a meter event that shows this ledger to be a copy.
    """

    def __init__(
        self,
        store: Store,
        provider: Provider,
        clock: Clock,
        entropy: Entropy,
        late: LateBiller | None = None,
        halt: Callable[[str], None] = lambda identifier: None,
    ) -> None:
        self._store = store
        self._provider = provider
        self._clock = clock
        self._halt = halt
        self._holder = entropy.token()
        self._late = late

    def step(self) -> bool:
        """Do the next customer's work, facts before money. False when nothing was due."""
        return self.apply_step() or self.bill_step()

    def apply_step(self) -> bool:
        """Take the next customer's events and settle them. False when nothing was due."""
        return self._do(self._settle, billing=False)

    def bill_step(self) -> bool:
        """Close the next customer's periods that a final invoice ends, and bill what is late. False when nothing was
        due."""
        return self._do(self._bill, billing=True)

    def _do(self, settle: Callable[[InboxWork], bool], *, billing: bool) -> bool:
        """Take the next work of the kind. Whatever it meets, it backs off alone and the next one is free to go."""
        now = self._clock.now_at()
        work = self._store.take_inbox(self._holder, now=now, lease_seconds=INBOX_LEASE_SECONDS, billing=billing)
        if work is None:
            return False
        try:
            finished = settle(work)
        except FareboxError as error:
            self._postpone(work, str(error))
        except Exception as error:
            _log.exception("inbox_broken", work=work.name)
            self._postpone(work, repr(error))
        else:
            if not finished:
                self._store.postpone_inbox(work, until=self._clock.now_at(), reason="somebody else was faster")
        return True

    def _postpone(self, work: InboxWork, reason: str) -> None:
        pause = min(1 << min(work.attempts, 16), INBOX_BACKOFF_SECONDS_MAX)
        _log.warning("inbox_postponed", work=work.name, seconds=pause, reason=reason)
        self._store.postpone_inbox(work, until=self._clock.now_at() + pause, reason=reason)

    def _settle(self, work: InboxWork) -> bool:
        """Look up what the events name, each by itself, and apply the facts, whatever became of an event. Raises what
        an event met when all else is done: only that event stays."""
        failed: dict[str, Exception] = {}
        for event in work.events:
            try:
                self._look_up(event)
            except Exception as error:
                failed[event.id] = error
        rest = replace(work, events=tuple(event for event in work.events if event.id not in failed))
        finished = self._apply(rest)
        if finished and failed:
            raise next(iter(failed.values()))
        return finished

    def _look_up(self, event: InboxEvent) -> None:
        if event.type.startswith("checkout.session."):
            refresh_checkout(self._store, self._provider, event.object_id)
        elif event.type in METER_ERROR_TYPES:
            suspect = refuse_late(self._store, self._provider, self._clock, event.id)
            if suspect is not None:
                self._halt(suspect)

    def _apply(self, work: InboxWork) -> bool:
        account = self._store.account_of_customer(work.customer_id) if work.customer_id is not None else None
        if account is None:
            return self._store.finish_inbox(work, at=self._clock.now_at())
        if work.account_fence is None:
            return False  # the account came to be after the work was taken: take it again, with its fence
        fetched = fetch_subscriptions(self._store, self._provider, account)
        bills = self._late is not None and any(event.type in BILLED_EVENT_TYPES for event in work.events)
        return self._store.finish_inbox(
            work, at=self._clock.now_at(), account_id=account.id, subscriptions=fetched, bills=bills
        )

    def _bill(self, work: InboxWork) -> bool:
        account = self._store.account_of_customer(str(work.customer_id))
        if account is not None and self._late is not None:
            self._late.invoice_finalized(account)
            self._late.invoices_changed(account)
        return self._store.finish_inbox(work, at=self._clock.now_at())


def refresh_checkout(store: Store, provider: Provider, session_id: str) -> None:
    """Bring our row of a checkout to what the provider says of it. Nothing for a checkout that is not ours."""
    checkout = store.checkout(session_id)
    if checkout is None or checkout.status != "open":
        return
    session = provider.checkout(session_id)
    if session is not None and session.status != "open":
        store.set_checkout_status(session_id, session.status)


def refresh_account(store: Store, provider: Provider, clock: Clock, account: Account) -> tuple[Subscription, ...]:
    """Fetch the account's subscriptions outside the inbox and apply them."""
    if account.customer_id is None:
        return ()
    fence = store.take_fence(account.id)
    fetched = fetch_subscriptions(store, provider, account)
    if store.put_subscriptions(account.id, fetched, fence=fence, at=clock.now_at()):
        return fetched
    return store.subscriptions(account.id)  # somebody who asked later was faster, and knows more
