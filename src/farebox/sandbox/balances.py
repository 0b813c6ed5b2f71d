"""The customer's balance: what it is owed or owes, told by transactions, and settled by the next invoice."""

from typing import Final

from farebox.sandbox.catalog import merged_metadata
from farebox.sandbox.core import Context, Route, page
from farebox.sandbox.customers import live_customer
from farebox.sandbox.params import integer, metadata, required, text
from farebox.sandbox.state import StripeObject

__all__ = ["ROUTES", "balance_of", "move_balance"]


def balance_of(customer: StripeObject, currency: str) -> int:
    """What the customer has in a currency: a debt, or a negative credit."""
    if customer["currency"] in (None, currency):
        return int(customer["balance"])
    return int(customer.get("_balances", {}).get(currency, 0))


def move_balance(
    ctx: Context,
    customer: StripeObject,
    amount: int,
    kind: str,
    *,
    currency: str,
    invoice: str | None = None,
    credit_note: str | None = None,
    description: str | None = None,
    metadata: dict[str, str] | None = None,
) -> StripeObject:
    """Add to the balance: a negative amount is the customer's credit."""
    before, after = customer["balance"], balance_of(customer, currency) + amount
    if customer["currency"] in (None, currency):
        customer.update(balance=after, currency=currency)
    else:
        customer.setdefault("_balances", {})[currency] = after
    transaction: StripeObject = {
        "id": ctx.new_id("cbtxn_"),
        "object": "customer_balance_transaction",
        "amount": amount,
        "checkout_session": None,
        "created": ctx.now_at,
        "credit_note": credit_note,
        "currency": currency,
        "customer": customer["id"],
        "description": description,
        "ending_balance": after,
        "invoice": invoice,
        "livemode": False,
        "metadata": merged_metadata({}, metadata),
        "type": kind,
    }
    ctx.state.add(transaction)
    if not customer.get("deleted"):  # a last invoice may still use up what was left
        ctx.emit("customer.updated", customer, {"balance": before})
    return transaction


def _create(ctx: Context) -> StripeObject:
    p = ctx.params
    customer = live_customer(ctx, ctx.path["id"], param="id", status=404)
    return move_balance(
        ctx,
        customer,
        p["amount"],
        "adjustment",
        currency=p["currency"].lower(),
        description=p.get("description"),
        metadata=p.get("metadata"),
    )


def _list(ctx: Context) -> StripeObject:
    customer = live_customer(ctx, ctx.path["id"], param="id", status=404)
    found = ctx.state.of_customer("customer_balance_transaction", customer["id"])
    return page(ctx, found, f"/v1/customers/{customer['id']}/balance_transactions")


def _read(ctx: Context) -> StripeObject:
    live_customer(ctx, ctx.path["id"], param="id", status=404)
    return ctx.state.get("customer_balance_transaction", ctx.path["transaction"])


_CREATE: Final = {
    "amount": required(integer(-99_999_999, 99_999_999)),
    "currency": required(text(3)),
    "description": text(350),
    "metadata": metadata(),
}

ROUTES: Final = [
    Route("POST", "/v1/customers/{id}/balance_transactions", _create, _CREATE),
    Route("GET", "/v1/customers/{id}/balance_transactions", _list, paged=True),
    Route("GET", "/v1/customers/{id}/balance_transactions/{transaction}", _read),
]
