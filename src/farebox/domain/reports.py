"""Meter events: frozen when sealed (L5), named for ever (L6), placed in a minute of their own (L7), and their life at
Stripe (L8).
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

__all__ = [
    "CELL_SECONDS",
    "DOUBT_AFTER_SECONDS",
    "IDENTIFIER_KEPT_SECONDS",
    "IDENTIFIER_LENGTH_MAX",
    "REFUSED_LATE",
    "SEAL_INTERVAL_SECONDS",
    "STREAM_EVENTS_MAX",
    "STREAM_EVENTS_MIN",
    "ErrorReport",
    "MeterEvent",
    "Outcome",
    "OutcomeKind",
    "ReportState",
    "ReportedError",
    "Settlement",
    "Transport",
    "Unsealed",
    "freeze",
    "identifier_of",
    "seal",
]

CELL_SECONDS: Final = 60
IDENTIFIER_LENGTH_MAX: Final = 100
IDENTIFIER_KEPT_SECONDS: Final = 86_400 + 3_600  # Stripe remembers an identifier for a day, and has a clock of its own
REFUSED_LATE: Final = "Stripe refused it after it had taken it: "
SEAL_INTERVAL_SECONDS: Final = 60
# Stripe promises 24 hours in which an identifier counts once.
DOUBT_AFTER_SECONDS: Final = 23 * 3600
STREAM_EVENTS_MIN: Final = 200  # with so many due at once they go by the stream
STREAM_EVENTS_MAX: Final = 100  # in one request of the stream


class ReportState(StrEnum):
    """pending → sending → delivered | rejected | doubtful; sending → pending when it is to be tried again.

    Only Stripe's own late report takes a delivered event further: to rejected, or back to pending, as unknown, when
    the report names no more than the request that many events shared. Only a person takes rejected or doubtful back.
    Any but delivered → withdrawn: never sent again, because an invoice item bills it or the invoice has it (L10).
    """

    PENDING = "pending"
    SENDING = "sending"
    DELIVERED = "delivered"
    REJECTED = "rejected"
    DOUBTFUL = "doubtful"
    WITHDRAWN = "withdrawn"


class Transport(StrEnum):
    """The way to Stripe, kept once a send by it may have got through (L8). UNCHOSEN before it."""

    UNCHOSEN = ""
    EVENT = "event"
    STREAM = "stream"


class OutcomeKind(StrEnum):
    """What Stripe's answer to a meter event means. FORBIDDEN halts everything and parks nothing.

    CONFLICT: Stripe has seen our Idempotency-Key with other contents, which no frozen row can cause (L6).
    """

    DELIVERED = "delivered"
    DUPLICATE = "duplicate"
    REJECTED = "rejected"
    THROTTLED = "throttled"
    UNKNOWN = "unknown"
    FORBIDDEN = "forbidden"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Outcome:
    """`stored_failure` says that Stripe saved a 5xx under the Idempotency-Key, so that a new one is needed.

    `may_pass` marks a rejection whose cause can be mended: a meter that is not active, a clock that is ahead.
    `everyone` marks a refusal that is about all that we send, not about this customer and meter. `unsent` says that
    not even an attempt was made, because the way itself did not open.
    """

    kind: OutcomeKind
    reason: str = ""
    stored_failure: bool = False
    retry_after_seconds: int = 0
    may_pass: bool = False
    everyone: bool = False
    unsent: bool = False


@dataclass(frozen=True, slots=True)
class MeterEvent:
    """A frozen amount of usage on its way to Stripe. Identifier, value, timestamp and event name never change.

    `kind`: usage; adjustment, a correction that may be negative (L11); restored, known to be at Stripe already, and
    void, whose name Stripe knew from another life of this ledger: its usage is sealed anew (L6).
    """

    identifier: str
    account_id: str
    customer_id: str
    meter: str
    event_name: str
    bucket_start: int
    sequence: int
    value: int
    timestamp: int
    idempotency_key: str
    created_at: int
    state: ReportState = ReportState.PENDING
    attempts: int = 0
    first_unknown_at: int | None = None
    next_attempt_at: int = 0
    settled_at: int | None = None
    reason: str = ""
    kind: str = "usage"
    transport: Transport = Transport.UNCHOSEN
    zero_read_at: int | None = None

    @property
    def cell(self) -> int:
        """The minute, since the epoch, in which Stripe's summaries show this event."""
        return self.timestamp // CELL_SECONDS


@dataclass(frozen=True, slots=True)
class ReportedError:
    """A meter event that Stripe took and refused later. `name` is its identifier, or its request's idempotency key."""

    code: str
    message: str
    name: str


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """Stripe's report of meter events that it refused late: some of them as samples, of `count` in all."""

    errors: tuple[ReportedError, ...]
    count: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """What came of an attempt. An empty `idempotency_key` keeps the event's; `zero_read_at` is written as it stands.

    `transport` is the event's own, or UNCHOSEN when no send of it can have got through. A reason in `halts` halts all
    reporting in the same transaction, unless the attempt is no longer the holder's (L6).
    """

    event: MeterEvent
    outcome: Outcome
    state: ReportState
    transport: Transport
    next_attempt_at: int = 0
    idempotency_key: str = ""
    zero_read_at: int | None = None
    halts: str = ""


@dataclass(frozen=True, slots=True)
class Unsealed:
    """A bucket with usage that no meter event holds yet, as one statement read it. `cells` are minutes already used."""

    account_id: str
    customer_id: str
    meter: str
    bucket_start: int
    total: int
    sealed: int
    next_sequence: int
    last_used_at: int
    cells: frozenset[int] = frozenset()


def identifier_of(ledger_id: str, account_id: str, meter: str, bucket_start: int, sequence: int) -> str:
    """The event's name at Stripe: the same for the same ledger row for ever, readable, at most 100 characters."""
    row = f"{ledger_id}/{account_id}/{meter}/{bucket_start}/{sequence}"
    return f"fb_{bucket_start}_{sequence}_{hashlib.sha256(row.encode()).hexdigest()[:40]}"


def seal(ledger_id: str, unsealed: Unsealed, event_name: str, now: int) -> MeterEvent | None:
    """Freeze the bucket's difference into a meter event, or None when there is nothing positive to report."""
    value = unsealed.total - unsealed.sealed
    return freeze(ledger_id, unsealed, event_name, now, value) if value > 0 else None


def freeze(
    ledger_id: str, unsealed: Unsealed, event_name: str, now: int, value: int, *, kind: str = "usage"
) -> MeterEvent:
    """The next meter event of a bucket, over `value` units, in a minute of its own where there is one (L7)."""
    identifier = identifier_of(
        ledger_id, unsealed.account_id, unsealed.meter, unsealed.bucket_start, unsealed.next_sequence
    )
    return MeterEvent(
        identifier=identifier,
        account_id=unsealed.account_id,
        customer_id=unsealed.customer_id,
        meter=unsealed.meter,
        event_name=event_name,
        bucket_start=unsealed.bucket_start,
        sequence=unsealed.next_sequence,
        value=value,
        timestamp=_timestamp(unsealed.bucket_start, unsealed.last_used_at, unsealed.cells),
        idempotency_key=identifier,
        created_at=now,
        kind=kind,
    )


def _timestamp(bucket_start: int, last_used_at: int, cells: Iterable[int]) -> int:
    """The latest free minute not after the last use and still in the bucket; its own when none is free."""
    used = frozenset(cells)
    first, last = bucket_start // CELL_SECONDS, last_used_at // CELL_SECONDS
    cell = next((c for c in range(last, first - 1, -1) if c not in used), last)
    return max(cell * CELL_SECONDS, bucket_start)
