"""Previews: the next invoice of a subscription, as it stands or as a change would make it, and of one to be made."""

import copy
from typing import Any, Final

from farebox.sandbox.core import Context, Route
from farebox.sandbox.customers import live_customer
from farebox.sandbox.discounts import DISCOUNTS, asked_discounts, discounts_of, new_discounts
from farebox.sandbox.drafts import new_invoice
from farebox.sandbox.errors import invalid, not_modelled
from farebox.sandbox.invoiceitems import new_item, waiting_items
from farebox.sandbox.lifecycle import closing_plan, first_plan, next_periods
from farebox.sandbox.lines import Plan, licensed_entries, single_entry, trial_entries
from farebox.sandbox.params import array, boolean, enum, integer, metadata, obj, required, text
from farebox.sandbox.prorations import unused_time
from farebox.sandbox.state import StripeObject
from farebox.sandbox.status import ENDED, period_end
from farebox.sandbox.subscriptions import BILLING_MODE, CHANGED_ITEMS, build_subscription, planned_items
from farebox.sandbox.trials import TRIAL_END, begin_trial

__all__ = ["ROUTES"]

_ITEMS_MAX: Final = 250


def _preview(ctx: Context) -> StripeObject:
    p = ctx.params
    if "schedule" in p:
        raise not_modelled("subscription schedules")
    details = p.get("subscription_details", {})
    customer = live_customer(ctx, p["customer"]) if "customer" in p else None
    found = _subscription(ctx, customer)
    if found is None and customer is not None:
        plan, subscription, period = _of_a_new_one(ctx, customer, details)
    elif found is not None:
        plan, subscription, period = _of_an_old_one(ctx, found, details)
    plan += [_single(ctx, subscription, entry) for entry in p.get("invoice_items", [])]
    discounts = discounts_of(ctx, subscription)
    if "discounts" in p:
        owner = ctx.state.objects["customer"][subscription["customer"]]
        asked = asked_discounts(ctx, p["discounts"], customer=owner, currency=subscription["currency"])
        discounts = new_discounts(ctx, asked, subscription, keep=False)
    id = "upcoming_" + ctx.new_id("in_")
    return new_invoice(ctx, subscription, plan, reason="upcoming", period=period, id=id, discounts=discounts)


def _subscription(ctx: Context, customer: StripeObject | None) -> StripeObject | None:
    """The subscription that is asked about: by name, or the customer's that is billed next. None for a new one."""
    p = ctx.params
    if "subscription" in p:
        subscription = ctx.state.get("subscription", p["subscription"], param="subscription", status=400)
        if customer is not None and customer["id"] != subscription["customer"]:
            raise invalid("The subscription belongs to another customer.", param="customer")
        if subscription["status"] in ENDED:
            raise invalid("The subscription is canceled and has no upcoming invoice.", code="invoice_upcoming_none")
        return subscription
    if customer is None:
        raise invalid("Pass the subscription or the customer whose next invoice you want to see.", param="subscription")
    if "items" in p.get("subscription_details", {}):
        return None
    live = [s for s in ctx.state.of_customer("subscription", customer["id"]) if s["status"] not in ENDED]
    if not live:
        raise invalid(f"No upcoming invoices for customer: '{customer['id']}'", code="invoice_upcoming_none")
    return min(live, key=period_end)


def _of_a_new_one(
    ctx: Context, customer: StripeObject, details: dict[str, Any]
) -> tuple[list[Plan], StripeObject, tuple[int, int]]:
    items = []
    for i, entry in enumerate(details["items"]):
        if "price" not in entry:
            message = f"Missing required param: subscription_details[items][{i}][price]."
            raise invalid(message, param=f"subscription_details[items][{i}][price]", code="parameter_missing")
        items.append({name: entry[name] for name in ("price", "quantity", "metadata") if name in entry})
    subscription = build_subscription(ctx, customer, items, details)
    plan = first_plan(ctx, subscription)
    plan += [single_entry(item) for item in waiting_items(ctx, subscription)]
    return plan, subscription, (ctx.now_at, ctx.now_at)


def _of_an_old_one(
    ctx: Context, found: StripeObject, details: dict[str, Any]
) -> tuple[list[Plan], StripeObject, tuple[int, int]]:
    subscription = {**found, "items": {**found["items"], "data": copy.deepcopy(found["items"]["data"])}}
    waiting = waiting_items(ctx, found)
    subscription["cancel_at_period_end"] = details.get("cancel_at_period_end", found["cancel_at_period_end"])
    if "trial_end" in details:
        if details["trial_end"] == "now":
            subscription.update(status="active", billing_cycle_anchor=ctx.now_at)
            return _begun(ctx, subscription, waiting)
        begin_trial(ctx, subscription, details["trial_end"])
    behavior = details.get("proration_behavior", "create_prorations")
    if details.get("cancel_now"):
        credits = unused_time(ctx, subscription, ctx.now_at) if details.get("proration_behavior") != "none" else []
        plan = [*closing_plan(subscription, ctx.now_at), *map(single_entry, credits)]
        return plan + [single_entry(item) for item in waiting], subscription, (_start(subscription), ctx.now_at)
    change = planned_items(ctx, subscription, details)
    if change is not None:
        subscription["items"]["data"] = change.items
        subscription["_leftovers"] = [*subscription.get("_leftovers", []), *change.leftovers]
        prorations = change.prorations if behavior != "none" else []
        if behavior == "always_invoice" and prorations:
            plan = [single_entry(item) for item in (*waiting, *prorations)]
            return plan, subscription, (_start(subscription), ctx.now_at)
        waiting = [*waiting, *prorations]
    plan = _next_plan(subscription) + [single_entry(item) for item in waiting]
    return plan, subscription, (_start(subscription), period_end(subscription))


def _begun(
    ctx: Context, subscription: StripeObject, waiting: list[StripeObject]
) -> tuple[list[Plan], StripeObject, tuple[int, int]]:
    """The invoice that ending a trial now would make."""
    plan = trial_entries(subscription, metered=True)
    plan += licensed_entries(subscription, next_periods(subscription, ctx.now_at))
    return plan + [single_entry(item) for item in waiting], subscription, (_start(subscription), ctx.now_at)


def _next_plan(subscription: StripeObject) -> list[Plan]:
    """What the end of the running period would bill."""
    end = period_end(subscription)
    if subscription["status"] == "trialing":
        plan = trial_entries(subscription, metered=True)
    else:
        plan = closing_plan(subscription, end)
    if not subscription["cancel_at_period_end"]:
        plan += licensed_entries(subscription, next_periods(subscription, end))
    return plan


def _start(subscription: StripeObject) -> int:
    return int(min(item["current_period_start"] for item in subscription["items"]["data"]))


def _single(ctx: Context, subscription: StripeObject, entry: dict[str, Any]) -> Plan:
    amount = entry.get("amount")
    if amount is None:
        raise invalid("Missing required param: invoice_items[amount].", param="invoice_items", code="parameter_missing")
    return single_entry(
        new_item(
            ctx,
            subscription["customer"],
            amount=amount,
            currency=subscription["currency"],
            description=entry.get("description"),
            discountable=entry.get("discountable", True),
        )
    )


_DETAILS: Final = obj(
    {
        "billing_mode": BILLING_MODE,
        "cancel_at_period_end": boolean(),
        "cancel_now": boolean(),
        "items": CHANGED_ITEMS,
        "proration_behavior": enum("always_invoice", "create_prorations", "none"),
        "proration_date": integer(),
        "trial_end": TRIAL_END,
    }
)
_PREVIEW: Final = {
    "customer": text(),
    "subscription": text(),
    "schedule": text(),
    "discounts": DISCOUNTS,
    "invoice_items": array(
        obj(
            {
                "amount": required(integer(-99_999_999, 99_999_999)),
                "currency": text(3),
                "description": text(),
                "discountable": boolean(),
                "metadata": metadata(),
            }
        ),
        _ITEMS_MAX,
    ),
    "preview_mode": enum("next"),
    "subscription_details": _DETAILS,
}

ROUTES: Final = [Route("POST", "/v1/invoices/create_preview", _preview, _PREVIEW)]
