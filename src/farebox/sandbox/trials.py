"""Trials: how long, what for, and what their end needs."""

from typing import Any, Final

from farebox.sandbox.core import Context
from farebox.sandbox.errors import invalid
from farebox.sandbox.forms import Form
from farebox.sandbox.params import Field, enum, integer, obj, required
from farebox.sandbox.state import StripeObject

__all__ = ["TRIAL_END", "TRIAL_SECONDS_MAX", "TRIAL_SETTINGS", "asked_trial", "begin_trial", "extend_trial"]

TRIAL_SECONDS_MAX: Final = 730 * 86_400


def _end() -> Field:
    def convert(value: Form, path: str) -> str | int:
        return "now" if value == "now" else int(integer().convert(value, path))

    return Field(convert)


TRIAL_END: Final = _end()
TRIAL_SETTINGS: Final = obj(
    {"end_behavior": required(obj({"missing_payment_method": required(enum("cancel", "create_invoice", "pause"))}))}
)


def asked_trial(ctx: Context, options: dict[str, Any]) -> int | None:
    """When the trial that is asked for ends; None without one."""
    if "trial_end" in options and "trial_period_days" in options:
        raise invalid("Pass only one of trial_end and trial_period_days.", param="trial_end")
    days = options.get("trial_period_days", 0)
    end = options.get("trial_end", ctx.now_at + days * 86_400 if days else "now")
    if end == "now":
        return None
    if not ctx.now_at < end <= ctx.now_at + TRIAL_SECONDS_MAX:
        raise invalid("trial_end must lie in the future, at most two years ahead.", param="trial_end")
    return int(end)


def begin_trial(ctx: Context, subscription: StripeObject, end: int) -> None:
    """Let a new subscription begin on trial: its first period is the trial."""
    subscription.update(status="trialing", trial_start=ctx.now_at, trial_end=end, billing_cycle_anchor=end)
    for item in subscription["items"]["data"]:
        item["current_period_end"] = end


def extend_trial(ctx: Context, subscription: StripeObject, end: int) -> None:
    """Move a running trial's end."""
    previous = {name: subscription[name] for name in ("trial_end", "billing_cycle_anchor")}
    subscription.update(trial_end=end, billing_cycle_anchor=end, _told=False)
    for item in subscription["items"]["data"]:
        item["current_period_end"] = end
    ctx.emit("customer.subscription.updated", subscription, previous)
