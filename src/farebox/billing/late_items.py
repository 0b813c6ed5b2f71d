"""Late items from their row in the ledger to a final, collected invoice, each once (L10).

The row comes first, then the item at Stripe, found again by its metadata: no crash between them bills twice. An item
waits for the next invoice of a living subscription, or gets a last invoice that it shares with those that wait with it.
It is looked at until that invoice is final and paid. What fails is retried by itself, and delays no other account.
"""

from collections import defaultdict
from dataclasses import replace
from typing import Final

import structlog

from farebox.domain.accounts import TERMINAL_STATUSES, Account, Subscription
from farebox.domain.balance import LATE_DRAFT_SECONDS_MAX
from farebox.domain.catalog import Catalog
from farebox.domain.corrections import (
    NEVER_AT,
    NO_METER,
    LateItem,
    LateItemState,
    late_description,
    minimum_description,
)
from farebox.domain.periods import FINAL_AFTER_SECONDS
from farebox.errors import ProviderError, ProviderFailed, ProviderRejected
from farebox.ports import BillingTerms, Clock, Provider, Store

__all__ = [
    "ERROR_CHARACTERS_MAX",
    "LATE_ACCOUNTS_MAX",
    "LATE_BACKOFF_SECONDS_MAX",
    "LATE_BACKOFF_SECONDS_MIN",
    "LATE_CALL_SECONDS_MAX",
    "LATE_ITEMS_MAX",
    "LATE_LEASE_SECONDS",
    "LATE_LOOK_SECONDS",
    "LATE_PENDING_SECONDS_MAX",
    "LateItems",
]

ERROR_CHARACTERS_MAX: Final = 500
LATE_ACCOUNTS_MAX: Final = 20
LATE_ITEMS_MAX: Final = 20
LATE_LEASE_SECONDS: Final = 900
LATE_CALL_SECONDS_MAX: Final = 240  # the calls for one item, each with the SDK's own retries
LATE_BACKOFF_SECONDS_MIN: Final = 60
LATE_BACKOFF_SECONDS_MAX: Final = 86_400
LATE_LOOK_SECONDS: Final = 6 * 3_600
LATE_PENDING_SECONDS_MAX: Final = 7 * 86_400

# Subscriptions whose next invoice comes by itself and is collected; the best first.
_LIVING: Final = ("active", "trialing", "past_due")
_SETTLED: Final = (LateItemState.PAID, LateItemState.UNCOLLECTIBLE, LateItemState.VOID, LateItemState.DELETED)
_OF_INVOICE: Final = {
    "draft": LateItemState.DRAFT,
    "open": LateItemState.OPEN,
    "paid": LateItemState.PAID,
    "uncollectible": LateItemState.UNCOLLECTIBLE,
    "void": LateItemState.VOID,
}

_log = structlog.get_logger("farebox.late")


class LateItems:
    """Brings late items to a final invoice. Any number of processes may: a lease in the row tells them apart."""

    def __init__(self, store: Store, provider: Provider, clock: Clock, catalog: Catalog) -> None:
        self._store = store
        self._provider = provider
        self._clock = clock
        self._catalog = catalog

    def step(self) -> int:
        """Bring the items that are due one step further, account by account. Returns how many came to be at Stripe."""
        now = self._clock.now_at()
        accounts = self._store.accounts_with_late_items(now=now, limit=LATE_ACCOUNTS_MAX)
        return sum(self.settle(account_id) for account_id in accounts)

    def settle(self, account_id: str, *, ahead_of_time: bool = False) -> int:
        """The same for one account. `ahead_of_time`: also look at what is not due, since an invoice has changed."""
        account = self._store.account(account_id)
        if account is None:
            return 0
        now = self._clock.now_at()
        lease_end = now + LATE_LEASE_SECONDS
        items = self._store.take_late_items(account_id, now=now, lease_end=lease_end, limit=LATE_ITEMS_MAX)
        if ahead_of_time:
            items += self._store.take_late_items(
                account_id, now=now, lease_end=lease_end, limit=LATE_ITEMS_MAX, ahead_of_time=True
            )
        return _Pass(self._store, self._provider, self._clock, self._catalog, account).run(items) if items else 0


class _Pass:
    """One pass over an account's items, under one lease. What was read of Stripe is read once."""

    def __init__(self, store: Store, provider: Provider, clock: Clock, catalog: Catalog, account: Account) -> None:
        self._store = store
        self._provider = provider
        self._clock = clock
        self._catalog = catalog
        self._account = account
        self._until = clock.now_at() + LATE_LEASE_SECONDS - LATE_CALL_SECONDS_MAX
        self._subscriptions = store.subscriptions(account.id)
        self._saved: dict[str, LateItem] = {}
        self._terms: dict[str, BillingTerms] = {}
        self._statuses: dict[str, str | None] = {}

    def run(self, items: list[LateItem]) -> int:
        """How many of the items came to be at Stripe."""
        try:
            at_stripe = {item.id: item for item in self._provider.late_items(self._customer_id)}
        except ProviderError as error:
            for item in items:
                self._failed(item, error)
            return 0
        came, waiting = 0, defaultdict[str, list[LateItem]](list)
        for item in items:
            try:
                moved = self._settle(item, at_stripe.get(item.id))
            except ProviderError as error:
                self._failed(self._saved.get(item.id, item), error)
                continue
            came += item.invoice_item_id is None and moved is not None and moved.invoice_item_id is not None
            if moved is not None and moved.waits_alone:
                waiting[moved.currency].append(moved)
        for currency, together in waiting.items():
            self._invoice(currency, together)
        return came

    def _settle(self, item: LateItem, known: LateItem | None) -> LateItem | None:
        """One item, one step further; it stays leased while it waits for its last invoice. None: not ours any more."""
        if known is None:
            if item.state is LateItemState.MOVING:
                return self._create(self._save(item, _as_new(item), release=False))
            if item.invoice_item_id is not None:
                return self._save(item, replace(item, state=LateItemState.DELETED, attached_id=None))
            return self._create(item)
        found = replace(item, invoice_item_id=known.invoice_item_id, attached_id=known.attached_id)
        if known.invoice_id is not None:
            return self._follow(item, replace(found, invoice_id=known.invoice_id))
        if known.attached_id is None:
            number = item.invoice_key_number + (item.invoice_id is not None)  # that invoice has it no more
            state = item.state if item.state is LateItemState.REFUSED else LateItemState.PENDING
            alone = replace(found, state=state, invoice_id=None, invoice_key_number=number)
            return self._save(item, alone, release=False)
        if self._has_ended(known.attached_id):
            return self._move(item, found)
        return self._save(item, replace(found, state=LateItemState.PENDING, invoice_id=None))

    def _create(self, item: LateItem | None) -> LateItem | None:
        """Make the item at Stripe: for the next invoice of a living subscription, or for a last one."""
        if item is None or not self._may_go_on():
            return None  # its lease ends by itself, and the next pass goes on from here
        subscription = self._living_subscription(item)
        attached_id = subscription.id if subscription is not None else None
        invoice_item_id = self._provider.create_late_item(
            item,
            customer_id=self._customer_id,
            subscription_id=attached_id,
            description=self._description(item),
            has_automatic_tax=self._terms_of(attached_id or self._source(item)).has_automatic_tax,
        )
        _log.info("late_item_created", account=item.account_id, meter=item.meter, amount=item.amount)
        made = replace(
            item, state=LateItemState.PENDING, invoice_item_id=invoice_item_id, attached_id=attached_id, invoice_id=None
        )
        return self._save(item, made, release=attached_id is not None)

    def _move(self, item: LateItem, found: LateItem) -> LateItem | None:
        """Its subscription ended without invoicing it: take it off there, and make it anew for a last invoice."""
        moving = replace(found, state=LateItemState.MOVING, item_key_number=item.item_key_number + 1)
        leaving = self._save(item, moving, release=False)
        if leaving is None or not self._may_go_on():
            return None
        self._provider.delete_late_item(str(found.invoice_item_id))
        _log.warning("late_item_moved", account=item.account_id, meter=item.meter, subscription=found.attached_id)
        return self._create(self._save(leaving, _as_new(leaving), release=False))

    def _follow(self, item: LateItem, found: LateItem) -> LateItem | None:
        """It is on an invoice: what has become of that?"""
        invoice_id = str(found.invoice_id)
        if invoice_id not in self._statuses:
            self._statuses[invoice_id] = self._provider.invoice_status(invoice_id)
        status = self._statuses[invoice_id]
        state = _OF_INVOICE.get(status, LateItemState.DRAFT) if status is not None else LateItemState.DELETED
        if state is not item.state and state in (LateItemState.OPEN, LateItemState.PAID):
            _log.info("late_usage_billed", account=item.account_id, meter=item.meter, invoice=invoice_id, state=status)
        return self._save(item, replace(found, state=state))

    def _invoice(self, currency: str, items: list[LateItem]) -> None:
        """One last invoice for all that wait in a currency. `include` takes along whatever waits, so none is left."""
        first = items[0]
        try:
            terms = self._terms_of(self._source(first))
            if not self._may_go_on():
                return  # the lease ends by itself, and the next one goes on from here
            invoice_id = self._provider.invoice_late_items(
                self._customer_id, currency=currency, key=first.invoice_key, terms=terms
            )
        except ProviderError as error:
            for item in items:
                self._failed(item, error)
            return
        _log.info("last_invoice_created", account=self._account.id, invoice=invoice_id, items=len(items))
        for item in items:
            self._save(item, replace(item, state=LateItemState.DRAFT, invoice_id=invoice_id))

    def _failed(self, item: LateItem, error: ProviderError) -> None:
        """Back off, for this item alone. After a failure that Stripe would replay, the next attempt has a new key."""
        refused = isinstance(error, ProviderRejected)
        replayed = refused or isinstance(error, ProviderFailed)
        pause = min(LATE_BACKOFF_SECONDS_MIN << min(item.failures, 16), LATE_BACKOFF_SECONDS_MAX)
        after = replace(
            item,
            state=LateItemState.REFUSED if refused else item.state,
            next_look_at=self._clock.now_at() + pause,
            failures=item.failures + 1,
            error=str(error)[:ERROR_CHARACTERS_MAX],
            item_key_number=item.item_key_number + (replayed and item.invoice_item_id is None),
            invoice_key_number=item.invoice_key_number + (replayed and item.waits_alone),
        )
        if not refused:
            _log.warning("late_item_postponed", id=item.id, account=item.account_id, seconds=pause, reason=str(error))
        elif item.state is not LateItemState.REFUSED:  # said once
            _log.error("late_item_refused", id=item.id, account=item.account_id, reason=str(error))
        self._write(item, replace(after, lease_end=0))

    def _save(self, before: LateItem, after: LateItem, *, release: bool = True) -> LateItem | None:
        """Write what became of it; without `release` the lease stays. None when another process has taken it."""
        if not release:
            return self._write(before, after)
        return self._write(before, replace(after, lease_end=0, failures=0, error=""), look=True)

    def _write(self, before: LateItem, after: LateItem, *, look: bool = False) -> LateItem | None:
        now = self._clock.now_at()
        if after.state is not before.state:
            after = replace(after, state_since_at=now)
        if look:
            after = replace(after, next_look_at=self._next_look_at(after, now))
        if not self._store.save_late_item(before, after):
            return None
        self._saved[after.id] = after
        return after

    def _next_look_at(self, item: LateItem, now: int) -> int:
        if item.state in _SETTLED:
            return NEVER_AT
        age = now - item.state_since_at
        if item.state is LateItemState.PENDING:
            ends = [s.period.end for s in self._subscriptions if s.id == item.attached_id and s.period is not None]
            coming = [end + FINAL_AFTER_SECONDS for end in ends if end > now]
            return min(min(coming, default=now + LATE_LOOK_SECONDS), now + LATE_PENDING_SECONDS_MAX)
        if item.state is LateItemState.DRAFT and age < FINAL_AFTER_SECONDS:
            return now + FINAL_AFTER_SECONDS
        return now + (LATE_LOOK_SECONDS if age < LATE_DRAFT_SECONDS_MAX else LATE_BACKOFF_SECONDS_MAX)

    @property
    def _customer_id(self) -> str:
        return str(self._account.customer_id)

    def _may_go_on(self) -> bool:
        return self._clock.now_at() < self._until

    def _living_subscription(self, item: LateItem) -> Subscription | None:
        """The subscription whose next invoice takes the item along, in its currency; its own before any other."""
        living = [
            s
            for s in self._subscriptions
            if s.status in _LIVING and item.currency in {entry.currency for entry in s.items}
        ]
        return min(living, key=lambda s: (s.id != item.subscription_id, _LIVING.index(s.status)), default=None)

    def _has_ended(self, subscription_id: str) -> bool:
        return any(s.id == subscription_id and s.status in TERMINAL_STATUSES for s in self._subscriptions)

    def _source(self, item: LateItem) -> str | None:
        """The subscription whose payment method, tax and discounts a last invoice has."""
        if item.subscription_id:
            return item.subscription_id
        same = [s for s in self._subscriptions if item.currency in {entry.currency for entry in s.items}]
        newest = max(same, key=lambda s: (s.created_at, s.id), default=None)
        return newest.id if newest is not None else None

    def _terms_of(self, subscription_id: str | None) -> BillingTerms:
        if subscription_id is None:
            return BillingTerms()
        if subscription_id not in self._terms:
            self._terms[subscription_id] = self._provider.billing_terms(subscription_id)
        return self._terms[subscription_id]

    def _description(self, item: LateItem) -> str:
        if item.meter == NO_METER:
            return minimum_description(item.amount, item.period_start, item.period_end)
        meter = self._catalog.meters.get(item.meter)
        title = meter.title if meter is not None else item.meter
        return late_description(title, item.quantity, item.period_start, item.period_end)


def _as_new(item: LateItem) -> LateItem:
    return replace(item, state=LateItemState.NEW, invoice_item_id=None, attached_id=None, invoice_id=None)
