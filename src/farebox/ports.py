"""The four ports of the house: Store, Provider, Clock, Entropy. Protocols and the few values that only they speak of.

All calls are synchronous and thread-safe; the edge and the loops put them on threads. Times are Unix seconds, UTC.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from farebox.domain.access import Facts
from farebox.domain.accounts import Account, Checkout, Subscription
from farebox.domain.catalog import Meter, Plan, Price
from farebox.domain.inbox import InboxEvent, InboxWork
from farebox.domain.keys import ApiKey
from farebox.domain.reports import MeterEvent, Outcome, ReportState, Unsealed
from farebox.domain.usage import Batch, UsageLine

__all__ = [
    "Changes",
    "CheckoutSession",
    "Clock",
    "Endpoint",
    "Entropy",
    "Invoice",
    "Ledger",
    "PortalState",
    "Provider",
    "ProviderAccount",
    "ReportSummary",
    "Store",
    "StoredMeter",
    "StoredPrice",
]


class Clock(Protocol):
    """`now_at` is the product's time: calls, buckets, periods, access. It follows a local Stripe's moved time."""

    def now_at(self) -> int: ...
    def system_at(self) -> int:
        """The machine's own time: webhook signatures only."""
        ...

    def monotonic_ms(self) -> int:
        """For deadlines and intervals; counts suspension where the system can."""
        ...


class Entropy(Protocol):
    def token_bytes(self, size: int) -> bytes: ...

    def token(self) -> str:
        """A fresh identifier of 24 lower-case hexadecimal symbols."""
        ...


@dataclass(frozen=True, slots=True)
class Ledger:
    """Who this database is.

    `provider_account` and `livemode` are bound at the first start and checked at each later one.
    """

    id: str
    created_at: int
    provider_account: str | None
    livemode: bool | None


@dataclass(frozen=True, slots=True)
class Changes:
    """What the change feed says after a position (L13). Another `epoch` or `complete=False` drops every cached fact."""

    epoch: str
    head: int
    account_ids: tuple[str, ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class ReportSummary:
    """The way to Stripe at a glance: quantities and counts of meter events by state, and what is not sealed yet."""

    unsealed_quantity: int
    quantities: dict[ReportState, int]
    counts: dict[ReportState, int]
    oldest_open_at: int | None


class Store(Protocol):
    """The ledger.

    Every method is one transaction. Raises StoreUnavailable when the outcome is unknown, else StoreError.
    """

    def open(self, *, migrate: bool = True) -> None:
        """Create or check the schema. StoreUnusable for a foreign, corrupted, newer or unwritable database."""
        ...

    def close(self) -> None: ...
    def ping(self) -> None: ...
    def ledger(self) -> Ledger: ...
    def bind_ledger(self, provider_account: str, livemode: bool) -> Ledger:
        """Bind an unbound ledger; StoreUnusable when it is bound to another account or mode."""
        ...

    def changes(self, epoch: str, after: int) -> Changes: ...

    # usage
    def commit_batch(self, batch: Batch) -> None:
        """L1 and L2. Number 1 registers the writer. WriterFenced when the number is not the writer's next, unless it
        landed already with this nonce (then it returns). RecordConflict when a record_id is known with another
        quantity; a record_id known with the same values adds nothing.
        """
        ...

    def batch_landed(self, batch: Batch) -> bool:
        """After an unknown outcome: commit an empty batch of the same number and nonce-less; True when the batch had
        landed, False when it had not and never can. WriterFenced for anything else. The number is used up either way.
        """
        ...

    def close_writer(self, writer: str) -> None: ...
    def usage(self, account_id: str, start: int, end: int, *, by_operation: bool = False) -> list[UsageLine]:
        """Usage of the buckets in [start, end) summed by meter, or by meter, operation and key."""
        ...

    def key_used(self, key_id: str) -> bool: ...

    # accounts and keys
    def add_account(self, account: Account) -> None: ...
    def set_customer(self, account_id: str, customer_id: str) -> None: ...
    def account(self, account_id: str) -> Account | None: ...
    def account_of_customer(self, customer_id: str) -> Account | None: ...
    def accounts(self, *, limit: int, after: str = "") -> list[Account]: ...
    def subscriptions(self, account_id: str) -> tuple[Subscription, ...]: ...
    def add_key(self, key: ApiKey) -> None: ...
    def keys(self, account_id: str) -> list[ApiKey]: ...
    def end_key(self, account_id: str, key_id: str, *, at: int, expires_at: int | None = None) -> bool:
        """Revoke now, or let expire at a time (never later than it already does). False when the account has no such
        live key. A revocation is sticky. The change is in the feed.
        """
        ...

    def rotate_key(self, old_key_id: str, new: ApiKey, *, expires_at: int) -> bool:
        """Add `new` and let the old key of the same account expire, in one transaction.

        False when there is none live.
        """
        ...

    def find_facts(self, digests: Sequence[str]) -> Facts | None:
        """The facts of the key with any of these digests, read at one instant."""
        ...

    def peppers_in_use(self, now: int) -> dict[str, int]:
        """Live keys by pepper id (L19)."""
        ...

    # checkouts and claims
    def add_checkout(self, checkout: Checkout) -> None: ...
    def checkout(self, session_id: str) -> Checkout | None: ...
    def open_checkouts(self, account_id: str) -> list[Checkout]: ...
    def set_checkout_status(self, session_id: str, status: str) -> None: ...
    def claim(self, session_id: str, key: ApiKey, *, at: int, replaceable_seconds: int) -> bool:
        """Take the purchase and add its key in one transaction. A claimed one is replaced (its old key revoked) within
        `replaceable_seconds` of the first claim as long as that key is live and has no usage; else False."""
        ...

    # webhooks
    def add_event(self, event: InboxEvent, *, at: int) -> bool:
        """Store an event once; False when it was there."""
        ...

    def take_inbox(self, holder: str, *, now: int, lease_seconds: int) -> InboxWork | None:
        """Lease the customer whose events are due and oldest, with all its unprocessed events and a new fence."""
        ...

    def finish_inbox(
        self,
        work: InboxWork,
        *,
        at: int,
        account_id: str | None = None,
        subscriptions: tuple[Subscription, ...] | None = None,
    ) -> bool:
        """Apply the fetched subscriptions (None: leave them), mark exactly the work's events done and drop the lease,
        in one transaction, if the work's fence still holds; False otherwise. What a fetch begun later brought is
        newer and stays. Writes the feed when anything changed.
        """
        ...

    def postpone_inbox(self, work: InboxWork, *, until: int, reason: str) -> None: ...
    def take_fence(self, account_id: str) -> int:
        """A fence for fetching the account's subscriptions outside the inbox: they count fetches as they begin."""
        ...

    def put_subscriptions(
        self, account_id: str, subscriptions: tuple[Subscription, ...], *, fence: int, at: int
    ) -> bool:
        """Apply what was fetched under `fence`; False when what a later fetch brought has been applied already.

        Writes the feed when anything changed.
        """
        ...

    def inbox_waiting(self) -> int: ...

    # reports
    def seal(
        self, plan: Callable[[Unsealed], MeterEvent | None], *, now: int, before: int | None = None, hard: bool = False
    ) -> list[MeterEvent]:
        """L5: read every unsealed bucket in one statement and insert what `plan` makes of each, in one transaction.
        Buckets starting at or after `before` wait; an account and meter sealed within the last minute waits unless
        `hard`.
        """
        ...

    def take_meter_events(self, holder: str, *, now: int, lease_seconds: int, limit: int) -> list[MeterEvent]:
        """Move due events to sending under a lease: at most one per customer and meter, and none for a customer and
        meter or a cell that has one in flight. An event whose lease ran out comes again, counted as an unknown
        attempt.
        """
        ...

    def settle_meter_event(
        self,
        holder: str,
        event: MeterEvent,
        outcome: Outcome,
        *,
        state: ReportState,
        now: int,
        next_attempt_at: int = 0,
        idempotency_key: str = "",
    ) -> bool:
        """Write what came of an attempt if `holder` still has the lease; False otherwise (nothing is written)."""
        ...

    def meter_events(
        self, account_id: str | None = None, *, state: ReportState | None = None, limit: int = 100
    ) -> list[MeterEvent]: ...
    def report_summary(self, account_id: str | None = None) -> ReportSummary: ...


@dataclass(frozen=True, slots=True)
class ProviderAccount:
    id: str
    livemode: bool


@dataclass(frozen=True, slots=True)
class StoredMeter:
    """A meter as the provider has it. The keys name where it looks in an event for the customer and the value."""

    id: str
    event_name: str
    display_name: str
    formula: str
    active: bool
    customer_key: str = "stripe_customer_id"
    value_key: str = "value"


@dataclass(frozen=True, slots=True)
class StoredPrice:
    """A price as the provider has it, found by lookup key. `unit_amount` in minor units."""

    id: str
    lookup_key: str
    product_id: str
    product_name: str
    currency: str
    interval: str
    unit_amount: Decimal
    meter_id: str | None
    active: bool


@dataclass(frozen=True, slots=True)
class CheckoutSession:
    """`status`: open, complete, expired. `payment_status`: paid, unpaid, no_payment_required."""

    id: str
    url: str
    status: str
    payment_status: str
    customer_id: str | None


@dataclass(frozen=True, slots=True)
class Invoice:
    """An invoice or its preview. Amounts in minor units."""

    id: str | None
    currency: str
    status: str
    total: int
    amount_due: int
    period_start: int
    period_end: int
    lines: tuple[tuple[str, int, int], ...]  # description, quantity, amount


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A webhook endpoint. `secret` is known only to the answer that created it."""

    id: str
    url: str
    enabled_events: tuple[str, ...]
    active: bool
    api_version: str
    secret: str | None = None


@dataclass(frozen=True, slots=True)
class PortalState:
    """The portal configuration that Farebox made, and what it allows."""

    id: str
    cancel_mode: str | None  # None: cancelling is off
    price_switch: bool


class Provider(Protocol):
    """The payment provider. Raises a ProviderError; only `send_meter_event` turns every answer into an Outcome."""

    def account(self) -> ProviderAccount: ...

    # catalog
    def meters(self) -> list[StoredMeter]: ...
    def create_meter(self, meter: Meter) -> StoredMeter: ...
    def rename_meter(self, meter_id: str, title: str) -> None: ...
    def reactivate_meter(self, meter_id: str) -> None: ...
    def prices(self, lookup_keys: Sequence[str]) -> list[StoredPrice]: ...
    def product_of_plan(self, plan: str) -> tuple[str, str] | None:
        """Id and name of the product that was made for the plan."""
        ...

    def create_product(self, plan: Plan) -> str: ...
    def rename_product(self, product_id: str, title: str) -> None: ...
    def create_price(self, price: Price, plan: Plan, *, product_id: str, meter_id: str) -> StoredPrice:
        """Create the price and move its lookup key to it."""
        ...

    def endpoints(self) -> list[Endpoint]: ...
    def create_endpoint(self, url: str) -> Endpoint: ...
    def portal(self) -> PortalState | None: ...
    def ensure_portal(self) -> PortalState:
        """Have a portal configuration that cancels at the period's end only and switches no prices (L12)."""
        ...

    # buyers
    def create_customer(self, account: Account) -> str: ...
    def create_checkout(
        self, account: Account, plan: Plan, price_ids: Sequence[str], *, success_url: str, cancel_url: str
    ) -> CheckoutSession: ...
    def checkout(self, session_id: str) -> CheckoutSession | None: ...
    def expire_checkout(self, session_id: str) -> None:
        """Close an open session; nothing when it is closed already."""
        ...

    def subscriptions(self, customer_id: str) -> tuple[Subscription, ...]:
        """All of the customer's subscriptions that Farebox sells, whatever their status. `status_since_at` is 0."""
        ...

    def preview_invoice(self, subscription_id: str) -> Invoice:
        """NotFound when the subscription has ended and no invoice is to come."""
        ...

    def invoices(self, customer_id: str, *, limit: int) -> list[Invoice]: ...
    def create_portal_session(self, customer_id: str, *, return_url: str) -> str: ...
    def cancel_subscription(self, subscription_id: str, *, at_period_end: bool) -> None: ...

    # usage
    def send_meter_event(self, event: MeterEvent) -> Outcome: ...
    def summary(self, meter_id: str, customer_id: str, start: int, end: int) -> int:
        """What the provider counted in [start, end), both on whole minutes."""
        ...

    # webhooks
    def verify_webhook(self, body: bytes, signature: str, *, now: int) -> InboxEvent:
        """Check the signature over the raw body, both sides of the time window, any v1 and any configured secret.
        SignatureInvalid otherwise."""
        ...
