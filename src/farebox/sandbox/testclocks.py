"""Test clocks: a time of their own for a few customers and all that is theirs, moved apart from everybody else's."""

from typing import Final

from farebox.sandbox.core import Context, Route, page
from farebox.sandbox.customers import delete_customer, live_customer
from farebox.sandbox.errors import invalid
from farebox.sandbox.params import integer, required, text
from farebox.sandbox.periods import period_around
from farebox.sandbox.state import State, StripeObject
from farebox.sandbox.timelines import CLOCK
from farebox.sandbox.webhooks import receivers_of

__all__ = [
    "ADVANCE_INTERVALS_MAX",
    "ADVANCE_YEARS_MAX",
    "CLOCK_LIFE_SECONDS",
    "ROUTES",
    "advancing",
    "arrive",
    "delete",
    "rests",
]

CLOCK_LIFE_SECONDS: Final = 30 * 86_400
ADVANCE_INTERVALS_MAX: Final = 2  # of the shortest subscription
ADVANCE_YEARS_MAX: Final = 2  # without a subscription
_NAME_CHARACTERS_MAX: Final = 300
_DRAFTED: Final = "invoice.created"


def _create(ctx: Context) -> StripeObject:
    p = ctx.params
    customer = live_customer(ctx, p["customer"]) if "customer" in p else None
    if customer is not None:
        _check_joins(ctx, customer, p["frozen_time"])
    clock = {
        "id": ctx.new_id("clock_"),
        "object": CLOCK,
        "created": ctx.now_at,
        "deletes_after": ctx.now_at + CLOCK_LIFE_SECONDS,
        "frozen_time": p["frozen_time"],
        "livemode": False,
        "name": p.get("name"),
        "status": "ready",
        "status_details": {},
        "_now_at": p["frozen_time"],
        "_rests": {},
    }
    ctx.state.add(clock)
    ctx.emit("test_helpers.test_clock.created", clock)
    if customer is not None:
        _join(ctx.state, customer, clock["id"])
    return clock


def _check_joins(ctx: Context, customer: StripeObject, frozen_time: int) -> None:
    if customer["test_clock"]:
        raise invalid("The customer lives by a test clock already, and cannot leave it.", param="customer")
    live = [s for s in ctx.state.of_customer("subscription", customer["id"]) if s["ended_at"] is None]
    if live and frozen_time < ctx.now_at:
        message = "The customer has subscriptions: the clock cannot begin before now."
        raise invalid(message, param="frozen_time")


def _join(state: State, customer: StripeObject, clock_id: str) -> None:
    """Let an existing customer, and all that is theirs, live by the clock."""
    customer["test_clock"] = clock_id
    for kind, things in state.objects.items():
        if kind == CLOCK:
            continue
        for thing in state.of_customer(kind, customer["id"]) if things else ():
            if "test_clock" in thing:
                thing["test_clock"] = clock_id
            state.due.touch(thing["id"])


def _advance(ctx: Context) -> StripeObject:
    clock = ctx.state.get(CLOCK, ctx.path["id"])
    target = ctx.params["frozen_time"]
    if target <= clock["frozen_time"]:
        raise invalid("frozen_time must be after the test clock's current frozen time.", param="frozen_time")
    furthest, why = _furthest(ctx.state, clock)
    if target > furthest:
        raise invalid(f"frozen_time cannot be more than {why} in the future.", param="frozen_time")
    clock.update(status="advancing", status_details={"advancing": {"target_frozen_time": target}})
    ctx.emit("test_helpers.test_clock.advancing", clock)
    return clock


def _furthest(state: State, clock: StripeObject) -> tuple[int, str]:
    now = clock["frozen_time"]
    prices = [
        item["price"]["recurring"]
        for customer in _customers(state, clock)
        for s in state.of_customer("subscription", customer["id"])
        if s["ended_at"] is None
        for item in s["items"]["data"]
    ]
    if not prices:
        return period_around(now, "year", ADVANCE_YEARS_MAX, now)[1], "two years"
    ends = [period_around(now, r["interval"], r["interval_count"] * ADVANCE_INTERVALS_MAX, now)[1] for r in prices]
    return min(ends), "two intervals of the shortest subscription"


def advancing(state: State) -> list[StripeObject]:
    return [clock for clock in state.objects[CLOCK].values() if clock["status"] == "advancing"]


def rests(ctx: Context, clock: StripeObject, *, system_ms: int, settle_seconds: int) -> bool:
    """Whether an advancing clock waits where it stands, because it has made a renewal's draft.

    It waits until each endpoint that hears of drafts was told once, and a moment more, so that late usage can come in.
    """
    if not receivers_of(ctx.state, _DRAFTED):
        return False
    drafts = [
        invoice["id"]
        for customer in _customers(ctx.state, clock)
        for invoice in ctx.state.of_customer("invoice", customer["id"])
        if invoice["status"] == "draft" and invoice["automatically_finalizes_at"] is not None
    ]
    untold = {id for id in drafts if _is_untold(ctx.state, id)}
    since_ms = clock["_rests"]
    clock["_rests"] = {id: system_ms if id in untold else since_ms.get(id, system_ms) for id in drafts}
    return any(system_ms < at + settle_seconds * 1000 for at in clock["_rests"].values()) or bool(untold)


def _is_untold(state: State, invoice_id: str) -> bool:
    """Whether some receiver is yet to be told of this draft for the first time."""
    return any(
        delivery["type"] == _DRAFTED and delivery["object"] == invoice_id and not delivery["attempts"]
        for delivery in state.pending.values()
    )


def arrive(ctx: Context, clock: StripeObject, target: int) -> None:
    """All is worked off: the clock stands at its new time."""
    clock.update(frozen_time=target, status="ready", status_details={}, _now_at=target)
    ctx.emit("test_helpers.test_clock.ready", clock)


def delete(ctx: Context, clock: StripeObject) -> StripeObject:
    """Delete the clock and its customers; their subscriptions are canceled."""
    with ctx.sandbox.standing_at(clock["_now_at"]):
        for customer in _customers(ctx.state, clock):
            delete_customer(ctx, customer)
    del ctx.state.objects[CLOCK][clock["id"]]
    ctx.state.due.schedule(None, clock["id"])
    ctx.state.due.forget(clock["id"])
    ctx.emit("test_helpers.test_clock.deleted", clock)
    return {"id": clock["id"], "object": CLOCK, "deleted": True}


def _customers(state: State, clock: StripeObject) -> list[StripeObject]:
    every = state.objects["customer"].values()
    return [c for c in every if c.get("test_clock") == clock["id"] and not c.get("deleted")]


_CLOCK: Final = {
    "frozen_time": required(integer()),
    "name": text(_NAME_CHARACTERS_MAX),
    "customer": text(),
}

ROUTES: Final = [
    Route("POST", "/v1/test_helpers/test_clocks", _create, _CLOCK),
    Route(
        "GET",
        "/v1/test_helpers/test_clocks",
        lambda ctx: page(ctx, ctx.state.all(CLOCK), "/v1/test_helpers/test_clocks"),
        paged=True,
    ),
    Route("GET", "/v1/test_helpers/test_clocks/{id}", lambda ctx: ctx.state.get(CLOCK, ctx.path["id"])),
    Route(
        "DELETE",
        "/v1/test_helpers/test_clocks/{id}",
        lambda ctx: delete(ctx, ctx.state.get(CLOCK, ctx.path["id"])),
    ),
    Route("POST", "/v1/test_helpers/test_clocks/{id}/advance", _advance, {"frozen_time": required(integer())}),
]
