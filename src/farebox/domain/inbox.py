"""Webhook events as facts to look up again: hints that name an object, never the truth about it (L17)."""

from dataclasses import dataclass

__all__ = ["InboxEvent", "InboxWork"]


@dataclass(frozen=True, slots=True)
class InboxEvent:
    """A verified event. `created_at` is Stripe's time; it has one-second resolution and cannot order events."""

    id: str
    type: str
    object_id: str
    customer_id: str | None
    created_at: int
    livemode: bool


@dataclass(frozen=True, slots=True)
class InboxWork:
    """All unprocessed events of one customer (or of none), stored before the work was taken. `fence` guards the apply."""

    customer_id: str | None
    fence: int
    events: tuple[InboxEvent, ...]
    attempts: int
