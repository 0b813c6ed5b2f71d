"""The payment provider as a port, and the values that it speaks of. Amounts are in minor units."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from farebox.domain.accounts import Account, Subscription
from farebox.domain.catalog import Meter, Plan, Sold
from farebox.domain.corrections import LateItem
from farebox.domain.inbox import InboxEvent
from farebox.domain.invoices import BilledInvoice
from farebox.domain.reports import ErrorReport, MeterEvent, Outcome

__all__ = [
    "BillingTerms",
    "CheckoutSession",
    "Endpoint",
    "Invoice",
    "Offer",
    "PortalState",
    "Provider",
    "ProviderAccount",
    "StoredMeter",
    "StoredPrice",
    "StoredProduct",
]


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
class StoredProduct:
    """A product of a plan as the provider has it: that of the plan's fee, or of one meter in the plan.

    `meter` is "" for the plan's own. `metadata` without Farebox's own. An archived product is not `active`.
    """

    id: str
    title: str
    metadata: Mapping[str, str]
    meter: str = ""
    active: bool = True


@dataclass(frozen=True, slots=True)
class StoredPrice:
    """A price as the provider has it, found by lookup key.

    `sold` is None, and `active` False, for one that Farebox would not make. `minimum`, in minor units, is that of its
    plan. `interval` is empty for what is charged once.
    """

    id: str
    lookup_key: str
    product: StoredProduct
    currency: str
    interval: str
    sold: Sold | None
    minimum: int
    taxed: bool
    meter_id: str | None
    active: bool


@dataclass(frozen=True, slots=True)
class Offer:
    """What a buyer is sent to pay: an offer of a plan with the ids of its prices, and what this buyer gets of it."""

    plan: Plan
    recurring_ids: tuple[tuple[str, bool], ...]  # price, and whether a meter counts it
    setup_id: str | None = None
    trial_days: int = 0


@dataclass(frozen=True, slots=True)
class BillingTerms:
    """How a subscription's invoices are collected: its payment method, automatic tax, and its discounts' coupons."""

    payment_method_id: str | None = None
    has_automatic_tax: bool = False
    coupon_ids: tuple[str, ...] = ()


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
    """The payment provider. Raises a ProviderError; only what sends meter events turns every answer into an Outcome."""

    def account(self) -> ProviderAccount: ...

    # catalog
    def meters(self) -> list[StoredMeter]: ...
    def create_meter(self, meter: Meter) -> StoredMeter: ...
    def rename_meter(self, meter_id: str, title: str) -> None: ...
    def reactivate_meter(self, meter_id: str) -> None: ...
    def prices(self, lookup_keys: Sequence[str]) -> list[StoredPrice]: ...
    def products(self) -> dict[tuple[str, str], StoredProduct]:
        """The active products that Farebox made, by plan and meter; the meter of a plan's own product is ""."""
        ...

    def create_product(self, plan: Plan, title: str, *, meter: str = "") -> str:
        """Make the product that names a line of the plan: its id."""
        ...

    def update_product(self, product_id: str, plan: Plan, title: str, *, meter: str = "", stale: Sequence[str]) -> None:
        """Give it the title and the plan's metadata, without the `stale` names of metadata; an archived one is active
        again."""
        ...

    def create_price(self, sold: Sold, plan: Plan, *, product_id: str, meter_id: str | None) -> StoredPrice:
        """Create what an offer of a plan sells, and move its lookup key to it. A fee has no meter."""
        ...

    def endpoints(self) -> list[Endpoint]: ...
    def create_endpoint(self, url: str) -> Endpoint: ...
    def error_destinations(self) -> list[Endpoint]:
        """Where thin events go. Their endpoints have no API version."""
        ...

    def create_error_destination(self, url: str) -> Endpoint:
        """Have Stripe tell there of meter events that it refuses late (METER_ERROR_TYPES)."""
        ...

    def portal(self) -> PortalState | None: ...
    def ensure_portal(self) -> PortalState:
        """Have a portal configuration that cancels at the period's end only and switches no prices (L12)."""
        ...

    # buyers
    def create_customer(self, account: Account) -> str: ...
    def accounts_since(self, since: int) -> list[Account]:
        """Accounts of Farebox's customers that were created since then, as far as the provider knows them."""
        ...

    def create_checkout(
        self, account: Account, offer: Offer, *, success_url: str, cancel_url: str
    ) -> CheckoutSession: ...
    def checkout(self, session_id: str) -> CheckoutSession | None: ...
    def expire_checkout(self, session_id: str) -> None:
        """Close an open session; nothing when it is closed already."""
        ...

    def subscriptions(self, customer_id: str) -> tuple[Subscription, ...]:
        """All of the customer's subscriptions that Farebox sells, whatever their status. `status_since_at` is 0.
        CustomerGone when the customer was deleted."""
        ...

    def preview_invoice(self, subscription_id: str) -> Invoice:
        """NotFound when the subscription has ended and no invoice is to come."""
        ...

    def invoices(self, customer_id: str, *, limit: int) -> list[Invoice]: ...
    def create_portal_session(self, customer_id: str, *, return_url: str) -> str: ...
    def cancel_subscription(self, subscription_id: str, *, at_period_end: bool) -> None: ...
    def interval_of(self, price_id: str) -> str:
        """By what a price is billed: month, say. Empty for what is charged once."""
        ...

    def change_subscription(self, subscription_id: str, offer: Offer) -> None:
        """Change the plan now. What was reported by now is billed at the old prices, fees by the time they held."""
        ...

    def has_payment_method(self, subscription_id: str) -> bool:
        """Whether there is something to charge the subscription's invoices to."""
        ...

    def unused_base(self, subscription_id: str) -> int:
        """What a change now would give back of the base fee for unused time, in minor units."""
        ...

    def buy_subscription_change(self, subscription_id: str, offer: Offer, *, extra_amounts: Sequence[int]) -> None:
        """Change the plan now, with a whole new period that begins, if the invoice for it is paid at once: the usage of
        before at the old prices, less the unused time, the offer's base and set-up fees in full, and the extra amounts,
        in minor units. A trial ends with it. A planned change is given up, even if this one fails.

        PaymentRequired: nothing else has changed."""
        ...

    def plan_subscription_change(self, subscription_id: str, offer: Offer) -> None:
        """Have the provider change the plan when the running period ends, to the second."""
        ...

    def drop_subscription_change(self, subscription_id: str) -> None:
        """Give up a planned change. Nothing when there is none."""
        ...

    # usage
    def send_meter_event(self, event: MeterEvent) -> Outcome: ...
    def open_stream(self) -> Outcome | None:
        """Have a session for the stream of meter events; None when there is one. Nothing is sent either way."""
        ...

    def send_meter_events(self, events: Sequence[MeterEvent], *, idempotency_key: str) -> Outcome:
        """Send up to STREAM_EVENTS_MAX events by the stream, which looks at them later. One outcome for all; `unsent`
        when there is no session for it any more."""
        ...

    def summary(self, meter_id: str, customer_id: str, start: int, end: int) -> int:
        """What the provider counted in [start, end), both on whole minutes."""
        ...

    def hourly_summaries(self, meter_id: str, customer_id: str, start: int, end: int) -> dict[int, int]:
        """What the provider counted in each hour of [start, end), both on whole hours, that has any."""
        ...

    # what was billed
    def billed_invoices(self, subscription_id: str, *, since: int) -> list[BilledInvoice]:
        """The subscription's invoices made since then, with all their lines."""
        ...

    def late_items(self, customer_id: str) -> list[LateItem]:
        """The invoice items that Farebox made for late usage, PENDING or on an invoice (DRAFT, whatever its status)."""
        ...

    def create_late_item(
        self,
        item: LateItem,
        *,
        customer_id: str,
        subscription_id: str | None,
        description: str,
        has_automatic_tax: bool = False,
    ) -> str:
        """Have the item on the subscription's next invoice, or waiting for one of the customer's. Its id there. The
        item's key makes one."""
        ...

    def delete_late_item(self, invoice_item_id: str) -> None:
        """Delete an invoice item that no final invoice has. Nothing when it is gone."""
        ...

    def billing_terms(self, subscription_id: str) -> BillingTerms:
        """How the subscription's invoices are collected, or were when it ended."""
        ...

    def invoice_late_items(self, customer_id: str, *, currency: str, key: str, terms: BillingTerms) -> str:
        """A last invoice of what waits for the customer without a subscription, finalized and collected by Stripe
        itself. The same `key` makes one. Its id."""
        ...

    def invoice_status(self, invoice_id: str) -> str | None:
        """draft, open, paid, uncollectible or void; None when the invoice was deleted."""
        ...

    def error_report(self, event_id: str) -> ErrorReport:
        """Fetch what a thin event of METER_ERROR_TYPES tells of."""
        ...

    # webhooks
    def verify_webhook(self, body: bytes, signature: str, *, now: int) -> InboxEvent:
        """Check the signature over the raw body, both sides of the time window, any v1 and any configured secret.
        SignatureInvalid otherwise."""
        ...
