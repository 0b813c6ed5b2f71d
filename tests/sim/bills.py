"""Who has been billed for what, by Stripe's own objects and the ledger's rows: what the oracle needs for I15."""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tests.sim import ledger
from tests.sim.shop import HubClock
from tests.told import Sealed, Units

from farebox.domain.balance import Verdict
from farebox.metering.reconciler import Reconciler
from farebox.provider.stripe import StripeProvider

if TYPE_CHECKING:
    from tests.sim.world import World

__all__ = ["billed", "due", "named"]

ENDED = ("canceled", "incomplete_expired")
LATE_QUANTITY, METER = "farebox_quantity", "farebox_meter"


def due(world: "World") -> Units:
    """Units by account and meter that no invoice still to come will have: of periods that are over at Stripe."""
    running: dict[str, int] = {}
    for buyer in world.buyers:
        starts = [s["items"]["data"][0]["current_period_start"] for s in _subscriptions(world, buyer.customer)]
        if starts:
            running[buyer.account] = min(starts)
    units: Counter[tuple[str, str]] = Counter()
    with world.store.database.read() as connection:
        for (account, meter, bucket), quantity in ledger.buckets(connection).items():
            if bucket < running.get(account, bucket + 1):
                units[account, meter] += quantity
    return units


def billed(world: "World") -> Units:
    """Units on final invoices, as usage of a period or as a late item; and late items that a running subscription's
    next invoice, or a draft, will take along."""
    stripe = world.stripe
    meters = {price["id"]: price["metadata"][METER] for price in stripe.all("price")}
    invoices = {invoice["id"]: invoice for invoice in stripe.all("invoice")}
    units: Counter[tuple[str, str]] = Counter()
    for invoice in invoices.values():
        for line in invoice["lines"]["data"] if invoice["status"] not in ("draft", "void") else ():
            if line["parent"]["type"] == "subscription_item_details":
                meter = meters[line["pricing"]["price_details"]["price"]]
                units[world.account_of[invoice["customer"]], meter] += line["quantity"]
    living = {s["id"] for buyer in world.buyers for s in _subscriptions(world, buyer.customer)}
    for item in stripe.all("invoiceitem"):
        if LATE_QUANTITY not in item["metadata"]:
            continue
        taken = invoices.get(item["invoice"])
        comes = _subscription_of(item) in living if taken is None else taken["status"] != "void"
        if comes:
            whose = world.account_of[item["customer"]], item["metadata"].get(METER, "")
            units[whose] += int(item["metadata"][LATE_QUANTITY])
    return units


def named(world: "World", sent: Iterable[Sealed]) -> Units:
    """Units that something names as not billed: a parked event with its reason, or a difference that reconcile says."""
    units: Counter[tuple[str, str]] = Counter()
    for event in sent:
        if event.state in ("rejected", "doubtful") and event.reason:
            units[event.account, event.meter] += event.value
    provider = StripeProvider(world.settings.require_stripe(), world.secrets, transport=world.wire.straight)
    reconciler = Reconciler(world.store, provider, HubClock(world.hub), world.settings.catalog)
    for one in reconciler.run(since=0, reads_max=1_000_000).comparisons:
        if one.verdict is Verdict.DIFFERS:
            units[one.account_id, one.meter] += sum(abs(r.quantity) for r in one.reasons if r.code != "amount")
    return units


def _subscriptions(world: "World", customer: str) -> list[Any]:
    return [s for s in world.stripe.of_customer("subscription", customer) if s["status"] not in ENDED]


def _subscription_of(item: Any) -> str | None:
    details = (item.get("parent") or {}).get("subscription_details") or {}
    return details.get("subscription")
