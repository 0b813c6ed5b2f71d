"""Updates of a subscription that are billed at once: a cycle that begins anew, items that are added, payment first."""

from typing import Any, Final

from farebox.sandbox.core import Context
from farebox.sandbox.customers import authentication_required, card_of, charge
from farebox.sandbox.discounts import discounts_of
from farebox.sandbox.drafts import new_invoice
from farebox.sandbox.errors import StripeError, invalid, not_modelled
from farebox.sandbox.invoiceitems import waiting_items
from farebox.sandbox.lifecycle import bill_now, closing_plan, next_periods, restart_cycle
from farebox.sandbox.lines import Plan, licensed_entries, single_entry, trial_entries
from farebox.sandbox.params import enum
from farebox.sandbox.prorations import Change, apply_change, keep_items, unused_time
from farebox.sandbox.state import StripeObject

__all__ = ["ANCHOR", "apply_billed", "check_billing", "check_paid_first"]

ANCHOR: Final = enum("now", "unchanged")


def check_billing(subscription: StripeObject, p: dict[str, Any]) -> None:
    """Refuse what is not modeled of an update that is billed at once."""
    behavior = p.get("payment_behavior", "allow_incomplete")
    if behavior not in ("allow_incomplete", "error_if_incomplete"):
        raise not_modelled(f"payment_behavior={behavior} on updates")
    if p.get("billing_cycle_anchor") != "now" or p.get("trial_end") == "now":
        return
    if subscription["status"] in ("trialing", "incomplete", "paused"):
        raise not_modelled(f"billing_cycle_anchor=now on a subscription that is {subscription['status']}")
    if "proration_date" in p:
        raise not_modelled("billing_cycle_anchor=now together with proration_date")


def check_paid_first(
    ctx: Context, subscription: StripeObject, change: Change | None, added: list[StripeObject], p: dict[str, Any]
) -> None:
    """With error_if_incomplete: refuse the update, before anything has happened, unless its invoice is paid at once."""
    if p.get("payment_behavior") != "error_if_incomplete" or subscription["pause_collection"] is not None:
        return
    plan = _billed_at_once(ctx, subscription, change, added, p)
    if not plan:
        return
    payer = {**subscription, **{n: p[n] for n in ("default_payment_method",) if n in p}}
    discounts, id = discounts_of(ctx, subscription), "upcoming_" + ctx.new_id("in_")
    period = (ctx.now_at, ctx.now_at)
    probe = new_invoice(ctx, payer, plan, reason="upcoming", period=period, id=id, discounts=discounts)
    if not probe["amount_due"]:
        return
    method = card_of(ctx, payer, ctx.state.objects["customer"][subscription["customer"]])
    if method is None:
        raise invalid(
            "This customer has no attached payment source or default payment method. Please consider adding a "
            "default payment method.",
            code="resource_missing",
        )
    outcome = charge(ctx, method).outcome
    if outcome == "requires_action":
        raise authentication_required()
    if outcome != "succeeded":
        raise StripeError(402, "card_error", "Your card was declined.", code="card_declined")


def _billed_at_once(
    ctx: Context, subscription: StripeObject, change: Change | None, added: list[StripeObject], p: dict[str, Any]
) -> list[Plan]:
    """What the update's own invoice would bill; nothing when it makes none."""
    single = [single_entry(item) for item in (*waiting_items(ctx, subscription), *added)]
    after = {**subscription, "billing_cycle_anchor": ctx.now_at}
    after["items"] = {"data": change.items if change is not None else subscription["items"]["data"]}
    ahead = licensed_entries(after, next_periods(after, ctx.now_at))
    if p.get("trial_end") == "now":
        return [*trial_entries(after, metered=True), *single, *ahead]
    if p.get("billing_cycle_anchor") == "now":
        credits = [single_entry(item) for item in _credits(ctx, subscription, p)]
        return [*_closing(ctx, subscription, p), *credits, *single, *ahead]
    prorations = change.prorations if change is not None else []
    if p.get("proration_behavior") == "always_invoice" and prorations:
        return [*single, *map(single_entry, prorations)]
    return []


def _credits(ctx: Context, subscription: StripeObject, p: dict[str, Any]) -> list[StripeObject]:
    """What comes back of a period that is cut."""
    return unused_time(ctx, subscription, ctx.now_at) if p.get("proration_behavior") != "none" else []


def _closing(ctx: Context, subscription: StripeObject, p: dict[str, Any]) -> list[Plan]:
    """The usage of a period that is cut, at the prices that it had."""
    cleared = {entry["id"] for entry in p.get("items", []) if "id" in entry and entry.get("clear_usage")}
    return [entry for entry in closing_plan(subscription, ctx.now_at) if entry["item"] not in cleared]


def apply_billed(
    ctx: Context, subscription: StripeObject, change: Change | None, added: list[StripeObject], p: dict[str, Any]
) -> None:
    """Let a planned change of items happen, with the invoice items that it adds; bill it at once where it says so."""
    keep_items(ctx, added)
    prorates = p.get("proration_behavior") != "none"
    if p.get("billing_cycle_anchor") == "now" and p.get("trial_end") != "now":
        closing, credits = _closing(ctx, subscription, p), _credits(ctx, subscription, p)
        if change is not None:
            apply_change(ctx, subscription, change, prorate=False)
        keep_items(ctx, credits)
        restart_cycle(ctx, subscription, closing)
    elif change is not None:
        apply_change(ctx, subscription, change, prorate=prorates)
        if change.prorations and p.get("proration_behavior") == "always_invoice":
            bill_now(ctx, subscription, [], reason="subscription_update")
