"""Stripe's objects as our values. Reads plain dicts, so that a missing field is a KeyError here and nowhere else."""

from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from farebox.domain.accounts import Subscription, SubscriptionItem
from farebox.domain.catalog import AnyPrice, Fee, FeeKind, PackagePrice, Price, Sold, Tier, TieredPrice
from farebox.domain.inbox import InboxEvent
from farebox.domain.reports import ErrorReport, ReportedError
from farebox.domain.usage import Period
from farebox.ports import CheckoutSession, Endpoint, Invoice, PortalState, StoredMeter, StoredPrice, StoredProduct

__all__ = [
    "ACCOUNT",
    "METER",
    "MINIMUM",
    "NEXT_PLAN",
    "OURS",
    "PLAN",
    "PORTAL",
    "checkout_of",
    "destination_of",
    "endpoint_of",
    "error_report_of",
    "event_of",
    "invoice_of",
    "meter_of",
    "metered_of",
    "minimum_of",
    "portal_of",
    "price_of",
    "product_of",
    "sold_of",
    "subscription_of",
]

# Names under which Farebox keeps its own in Stripe's metadata.
ACCOUNT: Final = "farebox_account"
PLAN: Final = "farebox_plan"
METER: Final = "farebox_meter"
PORTAL: Final = "farebox_portal"
MINIMUM: Final = "farebox_minimum"
NEXT_PLAN: Final = "farebox_next_plan"
OURS: Final = "farebox_"

_TEXT_CHARACTERS_MAX: Final = 128
_LATEST_AT: Final = 1 << 40  # no event is from later, and every database can hold it


def meter_of(found: dict[str, Any]) -> StoredMeter:
    """A billing meter. Raises KeyError when the answer is not one."""
    return StoredMeter(
        id=found["id"],
        event_name=found["event_name"],
        display_name=found["display_name"],
        formula=found["default_aggregation"]["formula"],
        active=found["status"] == "active",
        customer_key=found["customer_mapping"]["event_payload_key"],
        value_key=found["value_settings"]["event_payload_key"],
    )


def price_of(found: dict[str, Any]) -> StoredPrice:
    """A price with its product and its tiers expanded. One that bills otherwise than ours may not be sold."""
    recurring, ours = found.get("recurring") or {}, found["metadata"] or {}
    sold = sold_of(found)
    return StoredPrice(
        id=found["id"],
        lookup_key=found["lookup_key"],
        product=product_of(found["product"]),
        currency=found["currency"],
        interval=recurring.get("interval", ""),
        sold=sold,
        minimum=minimum_of(ours),
        taxed=found["tax_behavior"] == "exclusive",
        meter_id=recurring.get("meter"),
        active=found["active"] and sold is not None,
    )


def product_of(found: dict[str, Any]) -> StoredProduct:
    """A product, with what the seller wrote beside our own in its metadata."""
    metadata = {n: v for n, v in (found.get("metadata") or {}).items() if not n.startswith(OURS)}
    return StoredProduct(found["id"], found.get("name", ""), metadata)


def minimum_of(metadata: dict[str, str]) -> int:
    """The least that the plan of a price comes to in a period, in minor units; 0 when it says none."""
    text = metadata.get(MINIMUM, "")
    return int(text) if text.isascii() and text.isdecimal() else 0


def sold_of(found: dict[str, Any]) -> Sold | None:
    """What a price sells, or None when it is none of ours: another interval count, no meter, another way to bill."""
    recurring, meter = found.get("recurring"), (found["metadata"] or {}).get(METER, "")
    amount = Decimal(found["unit_amount_decimal"] or 0)
    plain = found["billing_scheme"] == "per_unit" and not found["transform_quantity"]
    if recurring is None or recurring["usage_type"] != "metered":
        kind = FeeKind.SETUP if recurring is None else FeeKind.BASE
        return Fee(kind, amount) if plain and (recurring or {}).get("interval_count", 1) == 1 else None
    if recurring["interval_count"] != 1 or not meter:
        return None
    return metered_of(found, meter, amount)


def metered_of(found: dict[str, Any], meter: str, amount: Decimal) -> AnyPrice:
    """What a metered price costs. KeyError when it has tiers that were not expanded."""
    if found["billing_scheme"] == "tiered":
        tiers = tuple(
            Tier(tier["up_to"], _amount(tier, "unit_amount") or Decimal(0), _amount(tier, "flat_amount"))
            for tier in found["tiers"]
        )
        return TieredPrice(meter, found["tiers_mode"] == "graduated", tiers)
    if found["transform_quantity"]:
        package = found["transform_quantity"]
        return PackagePrice(meter, package["divide_by"], amount, package["round"] == "up")
    return Price(meter, amount)


def _amount(tier: dict[str, Any], name: str) -> Decimal | None:
    exact = tier.get(f"{name}_decimal")
    return Decimal(exact) if exact is not None else None


def subscription_of(found: dict[str, Any]) -> Subscription | None:
    """A subscription with the items that Farebox sells; None when it has none of them."""
    entries = found["items"]["data"]
    items = tuple(_item(item) for item in entries if METER in (item["price"]["metadata"] or {}))
    if not items:
        return None
    metadata = found["metadata"] or {}
    period_end, cancel_at = max(item.period.end for item in items), found.get("cancel_at")
    plans = [(item["price"]["metadata"] or {}).get(PLAN, "") for item in entries]
    return Subscription(
        id=found["id"],
        customer_id=_id(found["customer"]) or "",
        plan=metadata.get(PLAN) or next(filter(None, plans), ""),
        status=found["status"],
        created_at=found["created"],
        items=items,
        # In flexible mode the portal may set the date alone.
        cancel_at_period_end=found["cancel_at_period_end"] or (cancel_at is not None and cancel_at <= period_end),
        collection_paused=found["pause_collection"] is not None,
        base=_base(entries),
        next_plan=metadata.get(NEXT_PLAN, "") if found.get("schedule") else "",
        ended_at=found.get("ended_at"),
        cancel_at=cancel_at,
        trial_end=found.get("trial_end"),
    )


def _item(found: dict[str, Any]) -> SubscriptionItem:
    price = found["price"]
    # An item that came in mid-period counts from then on, though Stripe shows the whole period.
    start = max(found["current_period_start"], found["created"])
    return SubscriptionItem(
        id=found["id"],
        price_id=price["id"],
        price=metered_of(price, price["metadata"][METER], Decimal(price["unit_amount_decimal"] or 0)),
        currency=price["currency"],
        period=Period(start, found["current_period_end"]),
        minimum=minimum_of(price["metadata"]),
        interval_start=found["current_period_start"],
    )


def _base(items: list[dict[str, Any]]) -> Decimal | None:
    """The base fee, of the item that Farebox made for it."""
    fees = [
        Decimal(item["price"]["unit_amount_decimal"] or 0) * (item.get("quantity") or 1)
        for item in items
        if PLAN in (item["price"]["metadata"] or {}) and METER not in item["price"]["metadata"]
    ]
    return sum(fees, Decimal(0)) if fees else None


def checkout_of(found: dict[str, Any]) -> CheckoutSession:
    return CheckoutSession(
        id=found["id"],
        url=found.get("url") or "",
        status=found["status"],
        payment_status=found["payment_status"],
        customer_id=_id(found.get("customer")),
    )


def invoice_of(found: dict[str, Any]) -> Invoice:
    """An invoice or a preview of one; amounts in minor units."""
    lines = found["lines"]["data"]
    return Invoice(
        id=found.get("id"),
        currency=found["currency"],
        status=found.get("status") or "draft",
        total=found["total"],
        amount_due=found["amount_due"],
        period_start=min((line["period"]["start"] for line in lines), default=found["period_start"]),
        period_end=max((line["period"]["end"] for line in lines), default=found["period_end"]),
        lines=tuple((line["description"] or "", line["quantity"] or 0, line["amount"]) for line in lines),
    )


def endpoint_of(found: dict[str, Any]) -> Endpoint:
    """A webhook endpoint, with its secret only in the answer that created it."""
    return Endpoint(
        id=found["id"],
        url=found["url"],
        enabled_events=tuple(found["enabled_events"]),
        active=found["status"] == "enabled",
        api_version=found.get("api_version") or "",
        secret=found.get("secret"),
    )


def portal_of(found: dict[str, Any]) -> PortalState:
    cancel, update = found["features"]["subscription_cancel"], found["features"]["subscription_update"]
    return PortalState(
        id=found["id"],
        cancel_mode=cancel["mode"] if cancel["enabled"] else None,
        price_switch=bool(update["enabled"] and "price" in (update.get("default_allowed_updates") or [])),
    )


def event_of(found: dict[str, Any]) -> InboxEvent:
    """A hint from a verified payload: which object, whose. KeyError, TypeError or ValueError when it is no event."""
    if found.get("object") == "v2.core.event":
        return _thin_event_of(found)
    thing = found["data"]["object"]
    object_id = _text(thing["id"]) if thing.get("id") else ""
    created_at = int(found["created"])
    if not 0 <= created_at < _LATEST_AT:
        raise ValueError("no time of an event")
    customer_id = object_id if thing.get("object") == "customer" else _id(thing.get("customer"))
    return InboxEvent(
        id=_text(found["id"]),
        type=_text(found["type"]),
        object_id=object_id,
        customer_id=customer_id,
        created_at=created_at,
        livemode=bool(found["livemode"]),
        connected_account=found.get("account"),
    )


def _thin_event_of(found: dict[str, Any]) -> InboxEvent:
    """An event that says no more than what happened to which object."""
    return InboxEvent(
        id=str(found["id"])[:128],
        type=str(found["type"])[:128],
        object_id=str((found.get("related_object") or {}).get("id") or "")[:128],
        customer_id=None,
        created_at=int(datetime.fromisoformat(found["created"]).timestamp()),
        livemode=bool(found["livemode"]),
        connected_account=found.get("context"),
    )


def error_report_of(found: dict[str, Any]) -> ErrorReport:
    """What is wrong with meter events that were taken, from a thin event that was fetched with its data."""
    reason = found["data"]["reason"]
    errors = tuple(
        ReportedError(
            code=kind["code"], message=str(sample["error_message"])[:500], name=str(sample["request"]["identifier"])
        )
        for kind in reason["error_types"]
        for sample in kind["sample_errors"]
    )
    return ErrorReport(errors, int(reason["error_count"]))


def destination_of(found: dict[str, Any]) -> Endpoint:
    """An event destination, with its secret only in the answer that created it."""
    address = found.get("webhook_endpoint") or {}
    return Endpoint(
        id=found["id"],
        url=address.get("url") or "",
        enabled_events=tuple(found["enabled_events"]),
        active=found["status"] == "enabled",
        api_version="",
        secret=address.get("signing_secret"),
    )


def _id(value: Any) -> str | None:
    """The id of something that may be expanded or not."""
    if isinstance(value, dict):
        value = value.get("id")
    return _text(value) if value else None


def _text(value: Any) -> str:
    """An id or a type as the ledger keeps it. TypeError for what no database takes: control characters, no end."""
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= _TEXT_CHARACTERS_MAX:
        raise TypeError("neither an id nor a type")
    return value
