"""One meter event settled at a time, for tests that look at what became of it."""

from farebox.domain.reports import MeterEvent, Outcome, ReportState, Settlement
from farebox.ports import Store

__all__ = ["settle"]


def settle(
    store: Store,
    holder: str,
    event: MeterEvent,
    outcome: Outcome,
    *,
    state: ReportState,
    now: int,
    next_attempt_at: int = 0,
    idempotency_key: str = "",
) -> bool:
    """Whether the holder still had the event's lease, so that this was written."""
    settlement = Settlement(event, outcome, state, event.transport, next_attempt_at, idempotency_key)
    return store.settle_meter_events(holder, [settlement], now=now) == {event.identifier}
