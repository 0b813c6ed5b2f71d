"""Objects as people read them: JSON with its ids as links and its times told, money, and a line about each object."""

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, Final

from markupsafe import Markup, escape

from farebox.sandbox.currencies import amount_text
from farebox.sandbox.decimals import encode
from farebox.sandbox.periods import moment
from farebox.sandbox.state import StripeObject
from farebox.sandbox.v2 import moment_of

__all__ = ["amount", "counted", "gist", "heading", "json_markup", "lasting", "made_at", "money", "price_markup"]

_INDENT: Final = "  "
_TIMES: Final = ("created", "updated", "start", "end", "timestamp", "billing_cycle_anchor", "frozen_time", "due_date")
_TIME_ENDS: Final = ("_at", "_end", "_start", "_date", "_attempt", "_time")
_TIME_MIN: Final = 1_000_000_000
_TIME_MAX: Final = 100_000_000_000
_HEADINGS: Final = {
    "billing.meter": "Meters",
    "billing_portal.configuration": "Portal configurations",
    "billing_portal.session": "Portal sessions",
    "checkout.session": "Checkout sessions",
    "test_helpers.test_clock": "Test clocks",
    "v2.core.event": "Thin events",
    "v2.core.event_destination": "Event destinations",
    "v2.billing.meter_event_session": "Meter event sessions",
    "subscription_schedule": "Subscription schedules",
}

Link = Callable[[str], str | None]  # an id → where its page is


def heading(kind: str) -> str:
    """What a kind of objects is called, in the plural."""
    title = kind.rpartition(".")[2].replace("_", " ").capitalize()
    return _HEADINGS.get(kind, title + ("" if title.endswith("s") else "s"))


def counted(count: int, kind: str) -> str:
    """How many there are of a kind, in words."""
    many = heading(kind).lower()
    return f"{count:,} {many.removesuffix('s') if count == 1 else many}"


def lasting(seconds: int) -> str:
    """A span of time in its two largest units."""
    parts = []
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)):
        count, seconds = divmod(seconds, length)
        if count:
            parts.append(f"{count:,} {unit}{'s' if count > 1 else ''}")
    return " and ".join(parts[:2]) or "0 seconds"


def made_at(thing: StripeObject, by: str = "created") -> int:
    """When it was made, in Unix seconds: 0 if it does not say. What is of /v2 says it in words."""
    at = thing.get(by) or 0
    return moment_of(at) if isinstance(at, str) else int(at)


def amount(minor: int | Decimal, currency: str) -> str:
    """A number of minor units in major ones, without the currency."""
    return amount_text(minor, currency)


def money(minor: int | Decimal, currency: str) -> str:
    return f"{amount(minor, currency)} {currency.upper()}"


def price_markup(price: StripeObject) -> str:
    """What a price asks, in one line."""
    currency = price["currency"]
    recurring = price.get("recurring") or {}
    unit = "a unit" if recurring.get("usage_type") == "metered" else "each"
    package = price.get("transform_quantity")
    if price.get("billing_scheme") == "tiered" or price.get("unit_amount_decimal") is None:
        said = f"{price.get('tiers_mode') or 'tiered'} prices in {currency.upper()}"
    elif package:
        said = f"{money(price['unit_amount_decimal'], currency)} per {package['divide_by']} units"
    else:
        said = f"{money(price['unit_amount_decimal'], currency)} {unit}"
    count = recurring.get("interval_count", 1)
    every = recurring.get("interval")
    return said + (f", every {f'{count} {every}s' if count != 1 else every}" if every else "")


def gist(thing: StripeObject) -> str:
    """What tells an object from others of its kind, in a line."""
    kind = thing["object"]
    if thing.get("deleted"):
        return "deleted"
    if kind == "price":
        return price_markup(thing) + ("" if thing["active"] else " · retired")
    if kind == "invoice":
        return f"{thing['number'] or 'no number yet'} · {thing['status']} · {money(thing['total'], thing['currency'])}"
    if kind == "payment_method" and thing.get("card"):
        return f"{thing['card']['brand']} ending in {thing['card']['last4']}"
    if kind == "checkout.session":
        return f"{thing['status']} · {thing['payment_status']}"
    names = ("display_name", "name", "email", "code", "type", "url", "description", "event_name")
    named = next((str(thing[name]) for name in names if isinstance(thing.get(name), str) and thing[name]), "")
    status = thing.get("status")
    parts = [named, status if isinstance(status, str) else ""]
    if "amount" in thing and "currency" in thing and isinstance(thing["amount"], int):
        parts.append(money(thing["amount"], thing["currency"]))
    return " · ".join(part for part in parts if part)


def json_markup(value: Any, link: Link) -> Markup:
    """JSON to read: ids that are here lead to their pages, and Unix times say when they are."""
    return Markup().join(_parts(value, link, ""))


def _parts(value: Any, link: Link, indent: str) -> Iterator[Markup]:
    inner = indent + _INDENT
    if isinstance(value, dict) and value:
        yield escape("{\n")
        for i, (key, entry) in enumerate(value.items()):
            yield Markup('{}<span class="key">"{}"</span>: ').format(inner, key)
            yield from _parts(entry, link, inner)
            yield escape("," if i < len(value) - 1 else "")
            yield _note(str(key), entry)
            yield escape("\n")
        yield escape(indent + "}")
    elif isinstance(value, list) and value:
        yield escape("[\n")
        for i, entry in enumerate(value):
            yield escape(inner)
            yield from _parts(entry, link, inner)
            yield escape(",\n" if i < len(value) - 1 else "\n")
        yield escape(indent + "]")
    else:
        yield _leaf(value, link)


def _leaf(value: Any, link: Link) -> Markup:
    text = json.dumps(value, ensure_ascii=False, default=encode)
    target = link(value) if isinstance(value, str) else None
    if target is not None:
        return Markup('<a class="id" href="{}">{}</a>').format(target, text)
    kind = "text" if isinstance(value, str | Decimal) else "digits"
    if value is None or isinstance(value, bool):
        kind = "word"
    return Markup('<span class="{}">{}</span>').format(kind, text)


def _note(name: str, value: Any) -> Markup:
    """When a Unix time is."""
    if isinstance(value, bool) or not isinstance(value, int) or not _TIME_MIN <= value < _TIME_MAX:
        return Markup()
    if name not in _TIMES and not name.endswith(_TIME_ENDS):
        return Markup()
    return Markup(' <span class="note">{}</span>').format(moment(value))
