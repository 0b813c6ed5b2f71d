"""Updates of a subscription that are billed at once: a cycle that begins anew, items that are added, payment first."""

from decimal import Decimal
from typing import Any, Final

from farebox.sandbox.core import Context
from farebox.sandbox.customers import authentication_required, card_of, charge
from farebox.sandbox.discounts import discounts_of
from farebox.sandbox.drafts import new_invoice
from farebox.sandbox.errors import StripeError, invalid, not_modelled
from farebox.sandbox.invoiceitems import new_item, waiting_items
from farebox.sandbox.lifecycle import bill_now, closing_plan, next_periods, restart_cycle
from farebox.sandbox.lines import Plan, licensed_entries, single_entry, trial_entries
from farebox.sandbox.params import array, enum, integer, obj, required, text
from farebox.sandbox.pricing import amount_of
from farebox.sandbox.prorations import Change, apply_change, keep_items, unused_time
from farebox.sandbox.sellable import check_product
from farebox.sandbox.state import StripeObject

__all__ = ["ADDED_ITEMS", "ANCHOR", "added_items", "apply_billed", "check_billing", "check_paid_first"]

_ADDED_MAX: Final = 20
_AMOUNT_MAX: Final = 99_999_999
ANCHOR: Final = enum("now", "unchanged")
ADDED_ITEMS: Final = array(
    obj(
        {
            "price": text(),
            "price_data": obj(
                {
                    "currency": required(text(3)),
                    "product": required(text()),
                    "unit_amount": required(integer(-_AMOUNT_MAX, _AMOUNT_MAX)),
                }
            ),
            "quantity": integer(1),
        }
    ),
    _ADDED_MAX,
)


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


def added_items(ctx: Context, subscription: StripeObject, p: dict[str, Any]) -> list[StripeObject]:
    """The invoice items that an update adds to the next invoice, not kept yet."""
    return [
        _added(ctx, subscription, entry, f"add_invoice_items[{i}]")
        for i, entry in enumerate(p.get("add_invoice_items", []))
    ]


def _added(ctx: Context, subscription: StripeObject, entry: dict[str, Any], where: str) -> StripeObject:
    if ("price" in entry) == ("price_data" in entry):
        raise invalid("Pass exactly one of price and price_data.", param=where)
    quantity, price = entry.get("quantity", 1), None
    if "price" in entry:
        price = ctx.state.get("price", entry["price"], param=f"{where}[price]", status=400)
        if price["recurring"] is not None or not price["active"]:
            raise invalid("The price must be active and one-time.", param=f"{where}[price]")
        check_product(ctx, price, f"{where}[price]", "invoice items")
        product, currency, amount = price["product"], price["currency"], amount_of(price, Decimal(quantity))
    else:
        data = entry["price_data"]
        product = ctx.state.get("product", data["product"], param=f"{where}[price_data][product]", status=400)["id"]
        currency, amount = data["currency"].lower(), data["unit_amount"] * quantity
    if currency != subscription["currency"]:
        raise invalid(f"The subscription is in {subscription['currency']}, and the item in {currency}.", param=where)
    return new_item(
        ctx,
        subscription["customer"],
        amount=amount,
        currency=currency,
        description=ctx.state.objects["product"][product]["name"],
        quantity=quantity,
        price=price,
        unit_amount=price["unit_amount_decimal"] if price is not None else None,
        subscription=subscription["id"],
        discountable=amount >= 0,
    )


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
