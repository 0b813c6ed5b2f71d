"""Aggregation at work: what was taken is looked at when its time has come, counted or reported; cancellations apply.

Reports are thin events, as Stripe sends them: what is wrong, how often, and a few of the requests.
"""

from typing import Any, Final

from farebox.sandbox.core import Context
from farebox.sandbox.meters import BadUsage, Usage, checked, customer_problem, keep, meter_named
from farebox.sandbox.state import State, StripeObject
from farebox.sandbox.thin import emit_thin
from farebox.sandbox.v2 import moment_text

__all__ = ["SAMPLE_ERRORS_MAX", "due_at", "settle"]

SAMPLE_ERRORS_MAX: Final = 5
_Bad = tuple[BadUsage, StripeObject]


def due_at(ctx: Context) -> int | None:
    """When aggregation reaches the first of what waits for it."""
    waiting = ctx.state.unsettled
    return waiting[0]["received_at"] + ctx.sandbox.aggregation_lag_seconds if waiting else None


def settle(ctx: Context) -> None:
    """Look at all that aggregation has reached by now, and report what is wrong with it, for each meter at once."""
    state, reports = ctx.state, dict[str | None, list[_Bad]]()
    while (at := due_at(ctx)) is not None and at <= ctx.now_at:
        waiting = state.unsettled.popleft()
        try:
            _RULES[waiting["kind"]](ctx, waiting)
        except BadUsage as bad:
            reports.setdefault(bad.meter_id, []).append((bad, waiting))
    for meter_id, bads in reports.items():
        _report(ctx, meter_id, bads)


def _fresh(ctx: Context, waiting: StripeObject) -> None:
    """An event that nobody has looked at yet. A twin of one that is counted is dropped without a word."""
    customer = ctx.state.objects["customer"].get(_customer_id(ctx.state, waiting))
    own_clock = customer is not None and customer.get("test_clock")
    usage = checked(ctx.state, waiting, ctx.now_of(customer) if customer and own_clock else waiting["received_at"])
    problem = customer_problem(ctx.state, usage)
    if problem is not None:
        raise problem
    if ctx.state.add_identifier(usage.meter_id, waiting["identifier"], ctx.account_now_at, tuple(usage)):
        keep(ctx.state, usage)


def _customer_id(state: State, waiting: StripeObject) -> str:
    meter = meter_named(state, waiting["event_name"])
    return str(waiting["payload"].get(meter["customer_mapping"]["event_payload_key"]))


def _counted(ctx: Context, waiting: StripeObject) -> None:
    """An event that was right when it came: its meter or its customer may be gone since."""
    usage = Usage(*waiting["usage"])
    problem = customer_problem(ctx.state, usage)
    meter = ctx.state.objects["billing.meter"][usage.meter_id]
    if meter["status"] != "active":
        message = f"The meter of event name {meter['event_name']} was deactivated."
        problem = BadUsage("archived_meter", message, meter_id=usage.meter_id)
    if problem is not None:
        _uncount(ctx.state, usage)
        raise problem


def _cancel(ctx: Context, waiting: StripeObject) -> None:
    usage = ctx.state.identifiers.get(waiting["meter"], {}).get(waiting["identifier"])
    if isinstance(usage, tuple):
        _uncount(ctx.state, Usage(*usage))
        ctx.state.identifiers[waiting["meter"]][waiting["identifier"]] = "canceled"


def _uncount(state: State, usage: Usage) -> None:
    entries = state.usage.get((usage.meter_id, usage.customer_id), [])
    entry = (usage.timestamp, usage.value, usage.received_at)
    if entry in entries:
        entries.remove(entry)


def _report(ctx: Context, meter_id: str | None, bads: list[_Bad]) -> None:
    kinds: dict[str, list[_Bad]] = {}
    for bad in bads:
        kinds.setdefault(bad[0].code, []).append(bad)
    count = len(bads)
    data: dict[str, Any] = {
        "developer_message_summary": f"There {'is 1 invalid event' if count == 1 else f'are {count} invalid events'}",
        "reason": {
            "error_count": count,
            "error_types": [
                {
                    "code": code,
                    "error_count": len(some),
                    "sample_errors": [
                        {
                            "error_message": bad.message,
                            "request": {"identifier": waiting["key"] or waiting["identifier"]},
                        }
                        for bad, waiting in some[:SAMPLE_ERRORS_MAX]
                    ],
                }
                for code, some in kinds.items()
            ],
        },
        "validation_start": moment_text(min(waiting["received_at"] for _, waiting in bads)),
        "validation_end": moment_text(ctx.now_at),
    }
    if meter_id is None:
        emit_thin(ctx, "v1.billing.meter.no_meter_found", None, data)
    else:
        meter = ctx.state.objects["billing.meter"][meter_id]
        emit_thin(ctx, "v1.billing.meter.error_report_triggered", meter, data)


_RULES: Final = {"event": _fresh, "counted": _counted, "cancel": _cancel}
