"""What coupons and promotion codes take off: discounts on subscriptions, and their shares of invoice lines."""

from decimal import Decimal
from typing import Any, Final, NamedTuple

from farebox.sandbox.core import Context
from farebox.sandbox.decimals import EXACT
from farebox.sandbox.errors import invalid, missing_object
from farebox.sandbox.params import array, obj, text, unsettable
from farebox.sandbox.periods import months_after
from farebox.sandbox.pricing import rounded
from farebox.sandbox.state import StripeObject

__all__ = [
    "DISCOUNTS",
    "DISCOUNTS_MAX",
    "Asked",
    "asked_discounts",
    "discount_lines",
    "discounts_of",
    "end_discounts",
    "new_discounts",
    "promotion_code_named",
    "replace_discounts",
    "spend_once",
]

DISCOUNTS_MAX: Final = 20
DISCOUNTS: Final = unsettable(
    array(obj({"coupon": text(), "discount": text(), "promotion_code": text()}), DISCOUNTS_MAX)
)


class Asked(NamedTuple):
    """A coupon, the promotion code by which it came, and the existing discount that is to go on."""

    coupon: StripeObject
    code: StripeObject | None = None
    kept: StripeObject | None = None


def asked_discounts(
    ctx: Context, asked: list[dict[str, Any]], *, customer: StripeObject | None, currency: str, param: str = "discounts"
) -> list[Asked]:
    """The coupons that a request names, each redeemable now by this customer. StripeError otherwise."""
    found: list[Asked] = []
    for i, entry in enumerate(asked):
        where = f"{param}[{i}]"
        if len(entry) != 1:
            raise invalid("Pass exactly one of coupon, discount and promotion_code.", param=where)
        code = None
        if "discount" in entry:
            kept = ctx.state.get("discount", entry["discount"], param=f"{where}[discount]", status=400)
            if customer is None or kept["customer"] != customer["id"]:
                raise missing_object("discount", kept["id"], f"{where}[discount]", status=400)
            found.append(Asked(kept["_coupon"], kept=kept))
            continue
        if "coupon" in entry:
            coupon = ctx.state.get("coupon", entry["coupon"], param=f"{where}[coupon]", status=400)
        else:
            code = ctx.state.get(
                "promotion_code", entry["promotion_code"], param=f"{where}[promotion_code]", status=400
            )
            _check_code(ctx, code, customer, f"{where}[promotion_code]")
            coupon = ctx.state.objects["coupon"][code["promotion"]["coupon"]]
        _check_coupon(ctx, coupon, currency, where)
        found.append(Asked(coupon, code))
    return found


def _check_coupon(ctx: Context, coupon: StripeObject, currency: str, param: str) -> None:
    if coupon.get("deleted"):
        raise missing_object("coupon", coupon["id"], f"{param}[coupon]", status=400)
    full = coupon["max_redemptions"] is not None and coupon["times_redeemed"] >= coupon["max_redemptions"]
    late = coupon["redeem_by"] is not None and coupon["redeem_by"] <= ctx.now_at
    if full or late:
        raise invalid(f"Coupon {coupon['id']} is expired and cannot be redeemed.", param=param, code="coupon_expired")
    if coupon["amount_off"] is not None and coupon["currency"] != currency:
        raise invalid(f"The coupon is in {coupon['currency']}, and this is billed in {currency}.", param=param)


def _check_code(ctx: Context, code: StripeObject, customer: StripeObject | None, param: str) -> None:
    full = code["max_redemptions"] is not None and code["times_redeemed"] >= code["max_redemptions"]
    late = code["expires_at"] is not None and code["expires_at"] <= ctx.now_at
    if not code["active"] or full or late:
        raise invalid("This promotion code is inactive or has expired.", param=param)
    id = customer["id"] if customer is not None else None
    if code["customer"] not in (None, id):
        raise invalid("This promotion code is for another customer.", param=param)
    if code["restrictions"]["first_time_transaction"] and id is not None and _has_paid(ctx, id):
        raise invalid("This promotion code is for a customer's first purchase only.", param=param)


def _has_paid(ctx: Context, customer_id: str) -> bool:
    return any(invoice["amount_paid"] for invoice in ctx.state.of_customer("invoice", customer_id))


def promotion_code_named(ctx: Context, text: str) -> StripeObject:
    """The active promotion code that a buyer typed, whatever its case."""
    for code in ctx.state.all("promotion_code"):
        if code["code"].casefold() == text.strip().casefold() and code["active"]:
            return code
    raise invalid("This promotion code is not valid.", param="promotion_code")


def new_discounts(
    ctx: Context,
    asked: list[Asked],
    subscription: StripeObject,
    *,
    session: str | None = None,
    keep: bool = True,
    on: StripeObject | None = None,
) -> list[StripeObject]:
    """Discounts of a subscription, beginning now, or those that go on. With `keep` they are redeemed; without,
    only what they would be. `on` names the invoice or invoice item that has them instead."""
    found = []
    for coupon, code, kept in asked:
        if kept is not None:
            found.append(kept)
            continue
        months = coupon["duration_in_months"]
        discount: StripeObject = {
            "id": ctx.new_id("di_"),
            "object": "discount",
            "checkout_session": session,
            "customer": subscription["customer"],
            "end": months_after(ctx.now_at, months) if months is not None else None,
            "invoice": None,
            "invoice_item": None,
            "promotion_code": code["id"] if code is not None else None,
            "source": {"coupon": coupon["id"], "type": "coupon"},
            "start": ctx.now_at,
            "subscription": subscription["id"],
            "subscription_item": None,
            "_coupon": dict(coupon),
            **(on or {}),
        }
        found.append(discount)
        if keep:
            ctx.state.add(discount)
            for redeemed in (coupon, code) if code is not None else (coupon,):
                redeemed["times_redeemed"] += 1
            ctx.emit("customer.discount.created", discount)
    return found


def replace_discounts(ctx: Context, subscription: StripeObject, asked: list[Asked]) -> None:
    """Give the subscription these discounts and no others. Those that go on are not ended."""
    going_on = [each.kept["id"] for each in asked if each.kept is not None]
    end_discounts(ctx, subscription, [d for d in subscription["_discounts"] if d["id"] not in going_on])
    subscription["_discounts"] = new_discounts(ctx, asked, subscription)
    subscription["discounts"] = [discount["id"] for discount in subscription["_discounts"]]


def discounts_of(ctx: Context, subscription: StripeObject) -> list[StripeObject]:
    """The discounts that an invoice of this subscription made now would have."""
    kept = subscription.get("_discounts", [])
    return [d for d in kept if d["end"] is None or ctx.now_at < d["end"]]


def spend_once(ctx: Context, subscription: StripeObject) -> None:
    """After an invoice was drafted: what was good for one is used up, and what has ended is taken away."""
    live = {d["id"] for d in discounts_of(ctx, subscription)}
    end_discounts(
        ctx,
        subscription,
        [d for d in subscription.get("_discounts", []) if d["id"] not in live or d["_coupon"]["duration"] == "once"],
    )


def end_discounts(ctx: Context, subscription: StripeObject, gone: list[StripeObject]) -> None:
    """Take discounts off a subscription. Invoices that have them keep them."""
    for discount in gone:
        subscription["_discounts"] = [d for d in subscription["_discounts"] if d["id"] != discount["id"]]
        ctx.emit("customer.discount.deleted", discount)
    subscription["discounts"] = [d["id"] for d in subscription.get("_discounts", [])]


def discount_lines(discounts: list[StripeObject], lines: list[StripeObject]) -> list[StripeObject]:
    """Write each discount's share into the lines, one discount after the other, of what earlier ones left. Returns the
    totals."""
    left = {line["id"]: line["amount"] - sum(entry["amount"] for entry in line["discount_amounts"]) for line in lines}
    totals = []
    for discount in discounts:
        coupon = discount["_coupon"]
        hit = [line for line in lines if line["discountable"] and _applies(coupon, line)]
        base = max(sum(left[line["id"]] for line in hit), 0)
        off = min(coupon["amount_off"], base) if coupon["amount_off"] is not None else _percent(base, coupon)
        for line, amount in zip(hit, _split(off, [max(left[line["id"]], 0) for line in hit]), strict=True):
            left[line["id"]] -= amount
            entry = {"amount": amount, "discount": discount["id"]}
            line["discount_amounts"].append(entry)
            line["pretax_credit_amounts"].append({"type": "discount", **entry})
        totals.append({"amount": off, "discount": discount["id"]})
    return totals


def _applies(coupon: StripeObject, line: StripeObject) -> bool:
    products = (coupon.get("_applies_to") or {}).get("products")
    details = (line["pricing"] or {}).get("price_details")
    return products is None or (details is not None and details["product"] in products)


def _percent(base: int, coupon: StripeObject) -> int:
    return rounded(EXACT.scaleb(EXACT.multiply(Decimal(base), coupon["_percent_off"]), -2))


def _split(amount: int, weights: list[int]) -> list[int]:
    """Divide an amount by weights: whole units, adding up exactly, the last weighty one taking the rest."""
    shares, left, rest = [], amount, sum(weights)
    for weight in weights:
        part = left if weight == rest else left * weight // rest if rest else 0
        shares.append(part)
        left, rest = left - part, rest - weight
    return shares
