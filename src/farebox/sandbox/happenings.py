"""What happens to an object by itself, and when: one rule for each kind of object that time can change."""

from collections.abc import Callable
from typing import Final

from farebox.sandbox import checkout, invoices, testclocks
from farebox.sandbox.core import Context
from farebox.sandbox.deliveries import pending_of
from farebox.sandbox.lifecycle import happenings_of
from farebox.sandbox.settling import due_at, settle
from farebox.sandbox.state import StripeObject

__all__ = ["Happening", "happenings"]

Happening = tuple[int, Callable[[], object]]  # the instant, in the time that the object lives by, and the deed


def happenings(ctx: Context, thing: StripeObject) -> list[Happening]:
    """All that will happen to this object unless something else comes first. Touch it when the answer changes."""
    rule = _RULES.get(thing["object"])
    return rule(ctx, thing) if rule is not None else []


def _session(ctx: Context, session: StripeObject) -> list[Happening]:
    if session["status"] != "open":
        return []
    return [(session["expires_at"], lambda: checkout.expire(ctx, session))]


def _invoice(ctx: Context, invoice: StripeObject) -> list[Happening]:
    if invoice["status"] == "draft" and invoice["automatically_finalizes_at"] is not None:
        at = invoice["automatically_finalizes_at"]
        if pending_of(ctx.state, "invoice.created", invoice["id"]):
            # Stripe holds finalization until the webhook is acknowledged, for three days at the most.
            at = max(at, invoice["created"] + invoices.HOLD_SECONDS_MAX)
            ctx.state.due.held.add(invoice["id"])
        return [(at, lambda: invoices.finalize(ctx, invoice))]
    if invoice["status"] == "open" and invoice["next_payment_attempt"] is not None:
        return [(invoice["next_payment_attempt"], lambda: invoices.attempt_payment(ctx, invoice))]
    return []


def _clock(ctx: Context, clock: StripeObject) -> list[Happening]:
    return [(clock["deletes_after"], lambda: testclocks.delete(ctx, clock))]


def _usage(ctx: Context, _queue: StripeObject) -> list[Happening]:
    at = due_at(ctx)
    return [(at, lambda: settle(ctx))] if at is not None else []


_RULES: Final[dict[str, Callable[[Context, StripeObject], list[Happening]]]] = {
    "checkout.session": _session,
    "subscription": happenings_of,
    "invoice": _invoice,
    "test_helpers.test_clock": _clock,
    "usage_queue": _usage,
}
