"""A subscription's life: how it begins, what each period's end brings, trials, thresholds, and how it ends."""

from collections.abc import Callable, Sequence
from typing import Final

from farebox.sandbox.core import Context
from farebox.sandbox.customers import card_of
from farebox.sandbox.discounts import spend_once
from farebox.sandbox.drafts import new_draft, new_invoice
from farebox.sandbox.errors import missing_object, wrong_state
from farebox.sandbox.invoiceitems import drop_prorations, waiting_items
from farebox.sandbox.invoices import finalize, void_invoice
from farebox.sandbox.lines import Plan, licensed_entries, metered_entries, trial_entries, used_by
from farebox.sandbox.periods import period_around
from farebox.sandbox.phases import (
    boundary_of,
    change_of,
    due_phase,
    enter_phase,
    keeps_rhythm,
    note_phase,
    release_schedule,
)
from farebox.sandbox.prorations import apply_change, keep_items, note_billed, unused_time
from farebox.sandbox.state import StripeObject
from farebox.sandbox.status import ENDED, end_subscription, period_end, set_status

__all__ = [
    "INCOMPLETE_SECONDS",
    "TRIAL_NOTICE_SECONDS",
    "begin",
    "bill_now",
    "cancel_now",
    "closing_plan",
    "due_today",
    "end_trial",
    "first_plan",
    "happenings_of",
    "next_periods",
    "restart_cycle",
    "resume",
]

INCOMPLETE_SECONDS: Final = 23 * 3_600
TRIAL_NOTICE_SECONDS: Final = 3 * 86_400
Happening = tuple[int, Callable[[], object]]


def happenings_of(ctx: Context, subscription: StripeObject) -> list[Happening]:
    """What will happen to it by itself, and when."""
    s = subscription
    if s["status"] in (*ENDED, "paused"):
        return []
    if s["status"] == "incomplete":
        return [(s["created"] + INCOMPLETE_SECONDS, lambda: _expire(ctx, s))]
    due: list[Happening] = [(period_end(s), lambda: _renew(ctx, s))]
    resumes_at = (s["pause_collection"] or {}).get("resumes_at")
    if resumes_at is not None:
        due.append((resumes_at, lambda: _resume_collection(ctx, s)))
    if s["status"] == "trialing" and not s.get("_told"):
        due.append((s["trial_end"] - TRIAL_NOTICE_SECONDS, lambda: _tell_of_trial(ctx, s)))
    boundary = boundary_of(ctx, s)
    if boundary is not None and boundary < period_end(s):
        due.append((boundary, lambda: _enter_within(ctx, s)))
    if s.get("_check_at") is not None:
        due.append((s["_check_at"], lambda: _check_thresholds(ctx, s)))
    return due


def begin(
    ctx: Context,
    subscription: StripeObject,
    *,
    behavior: str = "allow_incomplete",
    once: Sequence[StripeObject] = (),
) -> None:
    """Keep a new subscription, and bill what is due in advance, with the invoice items that are charged `once`.

    Purely metered ones have no first invoice.
    """
    plan = first_plan(ctx, subscription)
    keep_items(ctx, list(once))
    bills = bool(plan or once)
    if bills and subscription["status"] == "active":
        subscription["status"] = "incomplete"  # until the first invoice is paid
    ctx.state.add(subscription)
    ctx.emit("customer.subscription.created", subscription)
    if subscription["status"] == "trialing" and subscription["trial_end"] - ctx.now_at <= TRIAL_NOTICE_SECONDS:
        _tell_of_trial(ctx, subscription)
    if bills:
        invoice = _draft(ctx, subscription, plan, reason="subscription_create", period=(ctx.now_at,) * 2, grace=False)
        finalize(ctx, invoice, collect=behavior != "default_incomplete")


def first_plan(ctx: Context, subscription: StripeObject) -> list[Plan]:
    """What the first invoice bills: licensed items in advance, or that their trial is free."""
    if subscription["status"] == "trialing":
        return trial_entries(subscription, metered=False)
    items = subscription["items"]["data"]
    periods = {item["id"]: (item["current_period_start"], item["current_period_end"]) for item in items}
    return licensed_entries(subscription, periods)


def due_today(ctx: Context, subscription: StripeObject, discounts: list[StripeObject]) -> StripeObject:
    """The first invoice as it would be, not kept."""
    plan, period = first_plan(ctx, subscription), (ctx.now_at, ctx.now_at)
    id = "upcoming_" + ctx.new_id("in_")
    return new_invoice(ctx, subscription, plan, reason="upcoming", period=period, id=id, discounts=discounts)


def _draft(
    ctx: Context, subscription: StripeObject, plan: list[Plan], *, reason: str, period: tuple[int, int], grace: bool
) -> StripeObject:
    """Draft an invoice, with an hour's grace or to be finalized by the caller at once."""
    invoice = new_draft(ctx, subscription, plan, reason=reason, period=period)
    note_billed(subscription, invoice)
    if not grace:
        invoice["automatically_finalizes_at"] = None
    if subscription["status"] != "trialing":
        spend_once(ctx, subscription)
    ctx.emit("invoice.created", invoice)
    return invoice


def bill_now(ctx: Context, subscription: StripeObject, plan: list[Plan], *, reason: str) -> StripeObject | None:
    """Bill a plan and what waits, at once. None when there is nothing to bill."""
    if not plan and not waiting_items(ctx, subscription):
        return None
    start = min(item["current_period_start"] for item in subscription["items"]["data"])
    invoice = _draft(ctx, subscription, plan, reason=reason, period=(start, ctx.now_at), grace=False)
    if invoice["auto_advance"]:
        finalize(ctx, invoice)
    return invoice


def closing_plan(subscription: StripeObject, at: int) -> list[Plan]:
    """The usage that is not billed yet: of items that were taken off, and of the running period."""
    return [*subscription.get("_leftovers", []), *metered_entries(subscription, at)]


def next_periods(subscription: StripeObject, at: int) -> dict[str, tuple[int, int]]:
    """Each item's period that begins at `at`, by the items' ids."""
    found = {}
    for item in subscription["items"]["data"]:
        rhythm = item["price"]["recurring"]
        anchor = subscription["billing_cycle_anchor"]
        found[item["id"]] = period_around(anchor, rhythm["interval"], rhythm["interval_count"], at)
    return found


def _enter(subscription: StripeObject, periods: dict[str, tuple[int, int]]) -> None:
    subscription["_leftovers"] = []
    for item in subscription["items"]["data"]:
        item["current_period_start"], item["current_period_end"] = periods[item["id"]]
        item.pop("_billed", None)
        item.pop("_since", None)


def _renew(ctx: Context, subscription: StripeObject) -> None:
    """The period's end: bill the usage of the old one and the licensed items of the new one, or end."""
    at = period_end(subscription)
    if subscription["status"] == "trialing":
        end_trial(ctx, subscription)
        return
    start = min(item["current_period_start"] for item in subscription["items"]["data"])
    plan = closing_plan(subscription, at)
    if subscription["cancel_at_period_end"]:
        if plan or waiting_items(ctx, subscription):
            _draft(ctx, subscription, plan, reason="subscription_cycle", period=(start, at), grace=True)
        end_subscription(ctx, subscription, None, asked=True)
        return
    previous = {"latest_invoice": subscription["latest_invoice"]}
    enter_phase(ctx, subscription)
    _turn_over(ctx, subscription, plan, period=(start, at), at=at, reason="subscription_cycle", grace=True)
    ctx.emit("customer.subscription.updated", subscription, previous)


def _turn_over(
    ctx: Context,
    subscription: StripeObject,
    plan: list[Plan],
    *,
    period: tuple[int, int],
    at: int,
    reason: str,
    grace: bool,
) -> StripeObject:
    """Enter the period that begins at `at`, and draft what the old one leaves to bill and the new one costs ahead."""
    periods = next_periods(subscription, at)
    plan = plan + licensed_entries(subscription, periods)
    _enter(subscription, periods)
    return _draft(ctx, subscription, plan, reason=reason, period=period, grace=grace)


def restart_cycle(ctx: Context, subscription: StripeObject, closing: list[Plan]) -> None:
    """Let a whole new period begin now. Its invoice, final at once, bills what the old one leaves, too."""
    start = min(item["current_period_start"] for item in subscription["items"]["data"])
    subscription["billing_cycle_anchor"] = ctx.now_at
    invoice = _turn_over(
        ctx,
        subscription,
        closing,
        period=(start, ctx.now_at),
        at=ctx.now_at,
        reason="subscription_update",
        grace=False,
    )
    if invoice["auto_advance"]:
        finalize(ctx, invoice)


def _enter_within(ctx: Context, subscription: StripeObject) -> None:
    """A schedule's phase ends within a period: the next one begins there, prorated as it says, or the schedule ends."""
    coming, at = due_phase(ctx, subscription), ctx.now_at
    previous: StripeObject = {"items": {**subscription["items"], "data": list(subscription["items"]["data"])}}
    if coming is None:
        release_schedule(ctx, subscription)
        previous = {"schedule": None}
    elif keeps_rhythm(ctx, subscription, coming):
        change = change_of(ctx, subscription, coming)
        apply_change(ctx, subscription, change, prorate=coming["proration_behavior"] != "none")
        note_phase(ctx, subscription, coming)
        if coming["proration_behavior"] == "always_invoice" and change.prorations:
            bill_now(ctx, subscription, [], reason="subscription_update")
    else:
        if coming["proration_behavior"] != "none":
            keep_items(ctx, unused_time(ctx, subscription, at))
        start = min(item["current_period_start"] for item in subscription["items"]["data"])
        plan = closing_plan(subscription, at)
        enter_phase(ctx, subscription)
        reason, period = "subscription_update", (start, at)
        invoice = _turn_over(ctx, subscription, plan, period=period, at=at, reason=reason, grace=False)
        if invoice["auto_advance"]:
            finalize(ctx, invoice)
    ctx.emit("customer.subscription.updated", subscription, previous)


def _tell_of_trial(ctx: Context, subscription: StripeObject) -> None:
    subscription["_told"] = True
    ctx.emit("customer.subscription.trial_will_end", subscription)


def end_trial(ctx: Context, subscription: StripeObject, *, grace: bool = True) -> None:
    """The trial is over: what it used is free, and paying begins now, or not at all without a payment method.

    Without grace its invoice is final at once.
    """
    customer = ctx.state.objects["customer"][subscription["customer"]]
    missing = card_of(ctx, subscription, customer) is None
    behavior = subscription["trial_settings"]["end_behavior"]["missing_payment_method"]
    if subscription["cancel_at_period_end"]:
        end_subscription(ctx, subscription, None, asked=True)
    elif missing and behavior == "cancel":
        end_subscription(ctx, subscription, None)
    elif missing and behavior == "pause":
        set_status(ctx, subscription, "paused", "customer.subscription.paused")
    else:
        start = min(item["current_period_start"] for item in subscription["items"]["data"])
        plan = trial_entries(subscription, metered=True)
        previous = {"status": "trialing", "latest_invoice": subscription["latest_invoice"]}
        subscription.update(status="active", billing_cycle_anchor=ctx.now_at, trial_end=ctx.now_at)
        enter_phase(ctx, subscription)
        period = (start, ctx.now_at)
        reason, at = "subscription_cycle", ctx.now_at
        invoice = _turn_over(ctx, subscription, plan, period=period, at=at, reason=reason, grace=grace)
        if not grace and invoice["auto_advance"]:
            finalize(ctx, invoice)
        ctx.emit("customer.subscription.updated", subscription, previous)


def resume(ctx: Context, subscription: StripeObject, *, anchor: str) -> StripeObject:
    """Bring a paused subscription back: it bills from now on, once the invoice that this makes is paid."""
    if subscription["status"] != "paused":
        raise wrong_state("Only a paused subscription can be resumed.")
    if anchor == "now" or period_end(subscription) <= ctx.now_at:
        subscription["billing_cycle_anchor"] = ctx.now_at
    enter_phase(ctx, subscription)
    periods = next_periods(subscription, ctx.now_at)
    plan = licensed_entries(subscription, periods)
    _enter(subscription, periods)
    if not plan and not waiting_items(ctx, subscription):
        set_status(ctx, subscription, "active", "customer.subscription.resumed")
        return subscription
    invoice = _draft(
        ctx, subscription, plan, reason="subscription_update", period=(ctx.now_at, ctx.now_at), grace=False
    )
    invoice["_resumes"] = True
    finalize(ctx, invoice)
    return subscription


def _resume_collection(ctx: Context, subscription: StripeObject) -> None:
    """End a pause of collection when its time has come. Invoices drafted meanwhile stay as they are."""
    previous = {"pause_collection": subscription["pause_collection"]}
    subscription["pause_collection"] = None
    ctx.emit("customer.subscription.updated", subscription, previous)


def _expire(ctx: Context, subscription: StripeObject) -> None:
    """The first invoice was not paid within its day."""
    subscription["ended_at"] = ctx.now_at
    set_status(ctx, subscription, "incomplete_expired")
    invoice = ctx.state.objects["invoice"].get(subscription["latest_invoice"])
    if invoice is not None and invoice["status"] == "open":
        void_invoice(ctx, invoice)


def _check_thresholds(ctx: Context, subscription: StripeObject) -> None:
    subscription["_check_at"] = None
    ctx.state.touch(subscription)
    thresholds = subscription["billing_thresholds"] or {}
    if subscription["status"] not in ("active", "past_due") or thresholds.get("amount_gte") is None:
        return
    plan = closing_plan(subscription, ctx.now_at)
    probe = new_invoice(ctx, subscription, plan, reason="upcoming", period=(ctx.now_at,) * 2, id="probe", discounts=[])
    if probe["subtotal"] < thresholds["amount_gte"]:
        return
    start = min(item["current_period_start"] for item in subscription["items"]["data"])
    reached = {"amount_gte": thresholds["amount_gte"], "item_reasons": []}
    if thresholds["reset_billing_cycle_anchor"]:
        keep_items(ctx, unused_time(ctx, subscription, ctx.now_at))
        subscription["billing_cycle_anchor"] = ctx.now_at
        invoice = _turn_over(
            ctx,
            subscription,
            plan,
            period=(start, ctx.now_at),
            at=ctx.now_at,
            reason="subscription_threshold",
            grace=False,
        )
    else:
        used = {entry["item"]: used_by(ctx, entry, subscription["customer"]) for entry in plan}
        subscription["_leftovers"] = []
        invoice = _draft(
            ctx, subscription, plan, reason="subscription_threshold", period=(start, ctx.now_at), grace=False
        )
        for item in subscription["items"]["data"]:
            if item["id"] in used:
                item["_billed"] = used[item["id"]]
    invoice["threshold_reason"] = reached
    if invoice["auto_advance"]:
        finalize(ctx, invoice)
    ctx.emit("customer.subscription.updated", subscription, {"latest_invoice": None})


def cancel_now(ctx: Context, subscription: StripeObject, *, invoice_now: bool, prorate: bool = False) -> StripeObject:
    """End it at once. Usage that was not invoiced yet is dropped, unless `invoice_now` bills it."""
    if subscription["status"] in ENDED:
        raise missing_object("subscription", subscription["id"])
    if not invoice_now and not prorate:
        drop_prorations(ctx, subscription)
    paying = subscription["status"] not in ("trialing", "incomplete", "paused")
    if prorate and paying:
        keep_items(ctx, unused_time(ctx, subscription, ctx.now_at, own=invoice_now))
    if invoice_now and paying:
        bill_now(ctx, subscription, closing_plan(subscription, ctx.now_at), reason="subscription_update")
    subscription["cancel_at_period_end"] = False
    end_subscription(ctx, subscription, "cancellation_requested")
    return subscription
