"""Billing credits: grants, what is left of them, and which of them pay which metered lines of an invoice."""

from dataclasses import dataclass
from typing import Any, Final

from farebox.sandbox.catalog import merged_metadata
from farebox.sandbox.core import Context, Route, page
from farebox.sandbox.customers import live_customer
from farebox.sandbox.errors import invalid, wrong_state
from farebox.sandbox.params import array, enum, integer, metadata, obj, required, text
from farebox.sandbox.state import StripeObject

__all__ = [
    "GRANTS_MAX",
    "ROUTES",
    "Applied",
    "applicable_credits",
    "reinstate_credits",
    "spend_credits",
]

GRANTS_MAX: Final = 100  # unused ones of a customer, as at Stripe
_PRIORITY: Final = 50
_NEVER: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Applied:
    """A part of a grant that pays a part of an invoice line."""

    grant: StripeObject
    line: StripeObject
    amount: int


def applicable_credits(ctx: Context, customer_id: str, currency: str, lines: list[StripeObject]) -> list[Applied]:
    """Which grants would pay which metered lines now, each line after its discounts. Writes nothing."""
    grants = [
        [grant, grant["_left"]]
        for grant in sorted(ctx.state.of_customer("billing.credit_grant", customer_id), key=_turn)
        if _usable(ctx, grant) and grant["amount"]["monetary"]["currency"] == currency
    ]
    if not grants:
        return []
    applied = []
    open_amounts = {
        line["id"]: line["amount"] - sum(d["amount"] for d in line["discount_amounts"])
        for line in lines
        if line["_metered"]
    }
    for entry in grants:
        for line in lines:
            part = min(entry[1], open_amounts.get(line["id"], 0))
            if part > 0 and _covers(entry[0], line["_price"]):
                applied.append(Applied(entry[0], line, part))
                entry[1] -= part
                open_amounts[line["id"]] -= part
    return applied


def spend_credits(ctx: Context, invoice: StripeObject, applied: list[Applied]) -> None:
    """Debit what an invoice that is being finalized uses, and show it on its lines."""
    for each in applied:
        debit = {
            "amount": _monetary(each.grant, each.amount),
            "credits_applied": {"invoice": invoice["id"], "invoice_line_item": each.line["id"]},
            "type": "credits_applied",
        }
        transaction = _transact(ctx, each.grant, -each.amount, debit=debit)
        entry = {
            "amount": each.amount,
            "credit_balance_transaction": transaction["id"],
            "type": "credit_balance_transaction",
        }
        each.line["pretax_credit_amounts"].append(entry)
        invoice["total_pretax_credit_amounts"].append(dict(entry))


def reinstate_credits(ctx: Context, invoice: StripeObject) -> None:
    """Give back what a voided invoice had used."""
    for old in ctx.state.all("billing.credit_balance_transaction"):
        used = (old["debit"] or {}).get("credits_applied")
        if used is not None and used["invoice"] == invoice["id"]:
            grant = ctx.state.objects["billing.credit_grant"][old["credit_grant"]]
            credit = {
                "amount": dict(old["debit"]["amount"]),
                "credits_application_invoice_voided": dict(used),
                "type": "credits_application_invoice_voided",
            }
            _transact(ctx, grant, old["debit"]["amount"]["monetary"]["value"], credit=credit)


def _turn(grant: StripeObject) -> tuple[Any, ...]:
    """Stripe's order: priority, the sooner to expire, promotional before paid, the earlier effective, the older."""
    paid = grant["category"] == "paid"
    return grant["priority"], grant["expires_at"] or _NEVER, paid, grant["effective_at"], grant["created"]


def _usable(ctx: Context, grant: StripeObject) -> bool:
    expired = grant["expires_at"] is not None and grant["expires_at"] <= ctx.now_at
    return grant["voided_at"] is None and not expired and grant["effective_at"] <= ctx.now_at


def _covers(grant: StripeObject, price_id: str) -> bool:
    scope = grant["applicability_config"]["scope"]
    return not scope.get("prices") or any(price["id"] == price_id for price in scope["prices"])


def _monetary(grant: StripeObject, value: int) -> StripeObject:
    return {"monetary": {"currency": grant["amount"]["monetary"]["currency"], "value": value}, "type": "monetary"}


def _transact(
    ctx: Context, grant: StripeObject, change: int, *, credit: StripeObject | None = None, debit: Any = None
) -> StripeObject:
    grant["_left"] += change
    transaction = {
        "id": ctx.new_id("cbtxn_test_"),
        "object": "billing.credit_balance_transaction",
        "created": ctx.now_at,
        "credit": {"credits_application_invoice_voided": None, **credit} if credit is not None else None,
        "credit_grant": grant["id"],
        "debit": {"credits_applied": None, **debit} if debit is not None else None,
        "effective_at": max(ctx.now_at, grant["effective_at"]),
        "livemode": False,
        "test_clock": grant["test_clock"],
        "type": "credit" if credit is not None else "debit",
        "_customer": grant["customer"],
    }
    ctx.state.add(transaction)
    ctx.emit("billing.credit_balance_transaction.created", transaction)
    return transaction


def _create(ctx: Context) -> StripeObject:
    p = ctx.params
    customer = live_customer(ctx, p["customer"])
    monetary = p["amount"]["monetary"]
    scope = _scope(ctx, p["applicability_config"]["scope"])
    effective_at = p.get("effective_at", ctx.now_at)
    if p.get("expires_at", effective_at + 1) <= effective_at:
        raise invalid("expires_at must lie after effective_at.", param="expires_at")
    unused = [g for g in ctx.state.of_customer("billing.credit_grant", customer["id"]) if g["_left"]]
    if len(unused) >= GRANTS_MAX:
        raise invalid(f"A customer can have at most {GRANTS_MAX} unused credit grants.", param="customer")
    grant = {
        "id": ctx.new_id("credgr_test_"),
        "object": "billing.credit_grant",
        "amount": {
            "monetary": {"currency": monetary["currency"].lower(), "value": monetary["value"]},
            "type": "monetary",
        },
        "applicability_config": {"scope": scope},
        "category": p.get("category", "paid"),
        "created": ctx.now_at,
        "customer": customer["id"],
        "effective_at": effective_at,
        "expires_at": p.get("expires_at"),
        "livemode": False,
        "metadata": merged_metadata({}, p.get("metadata")),
        "name": p.get("name"),
        "priority": p.get("priority", _PRIORITY),
        "test_clock": customer["test_clock"],
        "updated": ctx.now_at,
        "voided_at": None,
        "_left": 0,
    }
    ctx.state.add(grant)
    ctx.emit("billing.credit_grant.created", grant)
    _transact(
        ctx, grant, monetary["value"], credit={"amount": _monetary(grant, monetary["value"]), "type": "credits_granted"}
    )
    return grant


def _scope(ctx: Context, asked: dict[str, Any]) -> StripeObject:
    if ("price_type" in asked) == ("prices" in asked):
        raise invalid("Pass exactly one of price_type and prices.", param="applicability_config[scope]")
    for i, entry in enumerate(asked.get("prices", [])):
        where = f"applicability_config[scope][prices][{i}][id]"
        price = ctx.state.get("price", entry["id"], param=where, status=400)
        if (price["recurring"] or {}).get("meter") is None:
            raise invalid("Credits apply to prices with a billing meter only.", param=where)
    return dict(asked)


def _change(ctx: Context, grant: StripeObject, **changes: Any) -> StripeObject:
    previous = {name: grant[name] for name in (*changes, "updated")}
    grant.update(changes, updated=ctx.now_at)
    ctx.emit("billing.credit_grant.updated", grant, previous)
    return grant


def _live(ctx: Context) -> StripeObject:
    grant = ctx.state.get("billing.credit_grant", ctx.path["id"])
    if grant["voided_at"] is not None:
        raise wrong_state("This credit grant has been voided.")
    if grant["expires_at"] is not None and grant["expires_at"] <= ctx.now_at:
        raise wrong_state("This credit grant has expired.")
    return grant


def _update(ctx: Context) -> StripeObject:
    grant, p = _live(ctx), dict(ctx.params)
    if p.get("expires_at") is not None and p["expires_at"] <= max(ctx.now_at, grant["effective_at"]):
        raise invalid("expires_at must lie in the future, after effective_at.", param="expires_at")
    if "metadata" in p:
        p["metadata"] = merged_metadata(grant["metadata"], p["metadata"])
    return _change(ctx, grant, **p)


def _expire(ctx: Context) -> StripeObject:
    return _change(ctx, _live(ctx), expires_at=ctx.now_at)


def _void(ctx: Context) -> StripeObject:
    grant = _live(ctx)
    if grant["_left"] != grant["amount"]["monetary"]["value"]:
        raise wrong_state("A credit grant that has been used cannot be voided. Expire it instead.")
    debit = {"amount": _monetary(grant, grant["_left"]), "type": "credits_voided"}
    _transact(ctx, grant, -grant["_left"], debit=debit)
    return _change(ctx, grant, voided_at=ctx.now_at)


def _summary(ctx: Context) -> StripeObject:
    p = ctx.params
    customer, chosen = live_customer(ctx, p["customer"]), p["filter"]
    if chosen["type"] not in chosen:
        raise invalid(
            f"Missing required param: filter[{chosen['type']}].",
            param=f"filter[{chosen['type']}]",
            code="parameter_missing",
        )
    grants = ctx.state.of_customer("billing.credit_grant", customer["id"])
    if chosen["type"] == "credit_grant":
        ctx.state.get("billing.credit_grant", chosen["credit_grant"], param="filter[credit_grant]", status=400)
        grants = [grant for grant in grants if grant["id"] == chosen["credit_grant"]]
    else:
        wanted = [price["id"] for price in chosen["applicability_scope"].get("prices", [])]
        grants = [g for g in grants if all(_covers(g, id) for id in wanted)]
    balances = []
    for currency in sorted({g["amount"]["monetary"]["currency"] for g in grants}):
        own = [g for g in grants if g["amount"]["monetary"]["currency"] == currency]
        usable = sum(g["_left"] for g in own if _usable(ctx, g))
        known = sum(g["_left"] for g in own if _usable(ctx, g) or g["effective_at"] > ctx.now_at)
        balances.append(
            {
                "available_balance": {"monetary": {"currency": currency, "value": usable}, "type": "monetary"},
                "ledger_balance": {"monetary": {"currency": currency, "value": known}, "type": "monetary"},
            }
        )
    return {
        "object": "billing.credit_balance_summary",
        "balances": balances,
        "customer": customer["id"],
        "livemode": False,
    }


def _list(ctx: Context) -> StripeObject:
    found = ctx.state.all("billing.credit_grant", ctx.params.get("customer"))
    return page(ctx, found, "/v1/billing/credit_grants")


def _list_transactions(ctx: Context) -> StripeObject:
    customer, grant = live_customer(ctx, ctx.params["customer"])["id"], ctx.params.get("credit_grant")
    found = [
        t
        for t in ctx.state.all("billing.credit_balance_transaction")
        if t["_customer"] == customer and grant in (None, t["credit_grant"])
    ]
    return page(ctx, found, "/v1/billing/credit_balance_transactions")


_PRICES: Final = array(obj({"id": required(text())}))
_SCOPE: Final = {"price_type": enum("metered"), "prices": _PRICES}
_GRANT: Final = {
    "customer": required(text()),
    "amount": required(
        obj(
            {
                "type": required(enum("monetary")),
                "monetary": required(obj({"currency": required(text(3)), "value": required(integer(1))})),
            }
        )
    ),
    "applicability_config": required(obj({"scope": required(obj(_SCOPE))})),
    "category": enum("paid", "promotional"),
    "effective_at": integer(),
    "expires_at": integer(),
    "metadata": metadata(),
    "name": text(100),
    "priority": integer(0, 100),
}
_FILTER: Final = obj(
    {
        "type": required(enum("applicability_scope", "credit_grant")),
        "applicability_scope": obj(_SCOPE),
        "credit_grant": text(),
    }
)

ROUTES: Final = [
    Route("POST", "/v1/billing/credit_grants", _create, _GRANT),
    Route("GET", "/v1/billing/credit_grants", _list, {"customer": text()}, paged=True),
    Route("GET", "/v1/billing/credit_grants/{id}", lambda ctx: ctx.state.get("billing.credit_grant", ctx.path["id"])),
    Route("POST", "/v1/billing/credit_grants/{id}", _update, {"expires_at": integer(), "metadata": metadata()}),
    Route("POST", "/v1/billing/credit_grants/{id}/expire", _expire),
    Route("POST", "/v1/billing/credit_grants/{id}/void", _void),
    Route(
        "GET",
        "/v1/billing/credit_balance_summary",
        _summary,
        {"customer": required(text()), "filter": required(_FILTER)},
    ),
    Route(
        "GET",
        "/v1/billing/credit_balance_transactions",
        _list_transactions,
        {"customer": required(text()), "credit_grant": text()},
        paged=True,
    ),
    Route(
        "GET",
        "/v1/billing/credit_balance_transactions/{id}",
        lambda ctx: ctx.state.get("billing.credit_balance_transaction", ctx.path["id"]),
    ),
]
