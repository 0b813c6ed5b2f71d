"""Phases of a subscription schedule. A phase says all of its settings: what it leaves out, Stripe unsets."""

from collections.abc import Container
from typing import Any, Final

__all__ = ["items_of", "running_phase", "settings_of"]

_PLAIN: Final = ("application_fee_percent", "collection_method", "description")
_IDS: Final = ("default_payment_method", "on_behalf_of")


def running_phase(phase: dict[str, Any], subscription: dict[str, Any]) -> dict[str, Any]:
    """The phase that Stripe made of a running subscription, as parameters that leave it as it is: its trial too."""
    running = {
        **settings_of(phase, subscription),
        "items": items_of(phase),
        "start_date": phase["start_date"],
        "end_date": phase["end_date"],
    }
    trial_end = phase.get("trial_end")
    if trial_end is None and subscription.get("status") == "trialing":
        trial_end = subscription.get("trial_end")
    if trial_end is not None:
        running["trial_end"] = trial_end
    if phase.get("metadata"):
        running["metadata"] = dict(phase["metadata"])
    return running


def settings_of(phase: dict[str, Any], subscription: dict[str, Any]) -> dict[str, Any]:
    """How a phase is billed and collected, as parameters: payment method, tax, discounts, thresholds and the like.

    What Stripe left out of the phase that it made is the subscription's.
    """
    settings: dict[str, Any] = {name: phase[name] for name in _PLAIN if phase.get(name) is not None}
    for name in _IDS:
        value = phase.get(name) or subscription.get(name)
        if value:
            settings[name] = _id(value)
    discounts = phase.get("discounts") or [{"discount": discount} for discount in subscription.get("discounts") or ()]
    if discounts:
        settings["discounts"] = [_discount(entry) for entry in discounts]
    tax = phase.get("automatic_tax") or {}
    tax = tax if tax.get("enabled") else subscription.get("automatic_tax") or {}
    if tax.get("enabled"):
        settings["automatic_tax"] = {"enabled": True, **_liability(tax)}
    for name in ("billing_thresholds", "transfer_data"):
        given = _given(phase.get(name) or subscription.get(name) or {})
        if given:
            settings[name] = given
    invoices = _given(phase.get("invoice_settings") or {})
    if invoices and invoices != {"issuer": {"type": "self"}}:  # that is what Stripe shows where nothing is set
        settings["invoice_settings"] = invoices
    rates = phase.get("default_tax_rates") or subscription.get("default_tax_rates") or ()
    if rates:
        settings["default_tax_rates"] = [_id(rate) for rate in rates]
    return settings


def items_of(phase: dict[str, Any], *, without: Container[str] = ()) -> list[dict[str, Any]]:
    """The items of a phase as parameters, but those of the prices `without`."""
    return [_item(item) for item in phase["items"] if _id(item["price"]) not in without]


def _item(item: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {"price": _id(item["price"])}
    if item.get("quantity") is not None:
        entry["quantity"] = item["quantity"]
    if item.get("metadata"):
        entry["metadata"] = dict(item["metadata"])
    if item.get("discounts"):
        entry["discounts"] = [_discount(discount) for discount in item["discounts"]]
    if item.get("tax_rates"):
        entry["tax_rates"] = [_id(rate) for rate in item["tax_rates"]]
    if item.get("billing_thresholds"):
        entry["billing_thresholds"] = _given(item["billing_thresholds"])
    return entry


def _discount(entry: dict[str, Any]) -> dict[str, Any]:
    """The very discount where there is one: a code may be redeemable no more."""
    name = next(name for name in ("discount", "promotion_code", "coupon") if entry.get(name))
    return {name: _id(entry[name])}


def _liability(tax: dict[str, Any]) -> dict[str, Any]:
    return {"liability": _given(tax["liability"])} if tax.get("liability") else {}


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """What is set, with ids in the place of objects."""
    cleaned: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            value = _id(value) if "id" in value else _given(value)
        elif isinstance(value, list):
            value = [_given(entry) if isinstance(entry, dict) else entry for entry in value]
        if value not in (None, {}, []):
            cleaned[name] = value
    return cleaned


def _id(value: Any) -> str:
    return str(value["id"]) if isinstance(value, dict) else str(value)
