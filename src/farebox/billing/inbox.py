"""Webhooks: verified and stored once at the door, then worked off by refetching what they name (L17).

The payload is a hint. Nothing in it is ever applied, so neither a copy nor another order can change anything.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from farebox.billing.fetching import fetch_subscriptions
from farebox.billing.late import LateBiller
from farebox.billing.late_refusals import refuse_late
from farebox.domain.accounts import Account, Subscription
from farebox.domain.inbox import HANDLED_EVENT_TYPES, METER_ERROR_TYPES, InboxWork
from farebox.errors import FareboxError, ProviderError, ProviderRejected
from farebox.ports import Clock, Entropy, Provider, Store

__all__ = [
    "INBOX_BACKOFF_SECONDS_MAX",
    "INBOX_LEASE_SECONDS",
    "SWEEP_ACCOUNTS_MAX",
    "InboxWorker",
    "Receipt",
    "receive",
    "refresh_account",
    "refresh_checkout",
    "sweep",
]

INBOX_LEASE_SECONDS: Final = 25
INBOX_BACKOFF_SECONDS_MAX: Final = 600
SWEEP_ACCOUNTS_MAX: Final = 20
_PERIOD_ENDED: Final = "invoice.created"
_FINALIZED: Final = "invoice.finalized"
_INVOICE_CHANGED: Final = frozenset(
    {_FINALIZED, "invoice.paid", "invoice.payment_failed", "invoice.voided", "invoice.marked_uncollectible"}
)

_log = structlog.get_logger("farebox.inbox")


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a delivery. `period_ended` asks for the closing period's usage to be reported at once."""

    stored: bool
    type: str
    period_ended: bool = False


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
    return Receipt(stored=stored, type=event.type, period_ended=stored and event.type == _PERIOD_ENDED)


class InboxWorker:
    """Works off the inbox, one customer at a step, under a lease and a fence.

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
        """Take the next customer's events and settle them. False when nothing was due."""
        now = self._clock.now_at()
        work = self._store.take_inbox(self._holder, now=now, lease_seconds=INBOX_LEASE_SECONDS)
        if work is None:
            return False
        try:
            finished = self._settle(work)
        except FareboxError as error:
            pause = min(1 << min(work.attempts, 16), INBOX_BACKOFF_SECONDS_MAX)
            _log.warning("inbox_postponed", work=work.name, seconds=pause, reason=str(error))
            self._store.postpone_inbox(work, until=self._clock.now_at() + pause, reason=str(error))
            return True
        if not finished:
            self._store.postpone_inbox(work, until=self._clock.now_at(), reason="somebody else was faster")
        return True

    def _settle(self, work: InboxWork) -> bool:
        for event in work.events:
            if event.type.startswith("checkout.session."):
                refresh_checkout(self._store, self._provider, event.object_id)
            elif event.type in METER_ERROR_TYPES:
                suspect = refuse_late(self._store, self._provider, self._clock, event.id)
                if suspect is not None:
                    self._halt(suspect)
        account = self._store.account_of_customer(work.customer_id) if work.customer_id is not None else None
        if account is None:
            return self._store.finish_inbox(work, at=self._clock.now_at())
        if work.account_fence is None:
            return False  # the account came to be after the work was taken: take it again, with its fence
        fetched = fetch_subscriptions(self._store, self._provider, account)
        now = self._clock.now_at()
        finished = self._store.finish_inbox(work, at=now, account_id=account.id, subscriptions=fetched)
        if finished:
            self._look_at_invoices(account, {event.type for event in work.events})
        return finished

    def _look_at_invoices(self, account: Account, types: set[str]) -> None:
        """Close periods and follow late items, once the facts are applied. What fails here is looked at hourly."""
        if self._late is None:
            return
        try:
            if _FINALIZED in types:
                self._late.invoice_finalized(account)
            elif types & _INVOICE_CHANGED:
                self._late.invoices_changed(account)
        except ProviderError as error:
            _log.warning("invoices_unreadable", account=account.id, reason=str(error))


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


def sweep(store: Store, provider: Provider, clock: Clock, after: str) -> str:
    """Refetch the next few accounts' subscriptions, for webhooks that never came.

    Returns where to go on ("" at the end).
    """
    accounts = store.accounts(limit=SWEEP_ACCOUNTS_MAX, after=after)
    for account in accounts:
        try:
            refresh_account(store, provider, clock, account)
        except ProviderRejected as error:  # this customer alone: the others must not wait for it
            _log.warning("sweep_refused", account=account.id, reason=str(error))
        except ProviderError as error:
            _log.warning("sweep_failed", account=account.id, reason=str(error))
            return after
    return accounts[-1].id if len(accounts) == SWEEP_ACCOUNTS_MAX else ""
