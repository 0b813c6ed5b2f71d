"""What was used: increments, hourly buckets split at period boundaries (L4), and quantities that are whole and not
negative.
"""

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from farebox.errors import QuantityInvalid, RecordConflict

__all__ = [
    "BUCKET_SECONDS",
    "KEY_RECORDS",
    "QUANTITY_MAX",
    "Batch",
    "Increment",
    "KeySender",
    "Period",
    "Recorded",
    "RowName",
    "UsageEvent",
    "UsageLine",
    "bucket_start",
    "checked_quantity",
    "record_conflict",
    "whole_number",
]

BUCKET_SECONDS: Final = 3600
KEY_RECORDS: Final = "key:"  # begins the ids of what keys record, and no other id
QUANTITY_MAX: Final = 10**12  # of one charge; far below what a 64-bit sum holds

_KINDS: Final = {
    "bool": "true or false",
    "float": "a fraction",
    "str": "a text",
    "NoneType": "null",
    "list": "a list",
    "dict": "an object",
}


@dataclass(frozen=True, slots=True)
class Period:
    """A half-open billing period [start, end) in Unix seconds."""

    start: int
    end: int

    def contains(self, at: int) -> bool:
        return self.start <= at < self.end


RowName = tuple[str, str, str, str, int]  # the account, meter, key and operation of a usage row, and its bucket's start


class Increment(NamedTuple):
    """An addition to the usage row that its first five fields name.

    `record_id` makes it idempotent (usage from outside a request); `mark` is kept with it, so that each of those who
    record one id can be told whether it was the first.
    """

    account_id: str
    meter: str
    key_id: str
    operation: str
    bucket_start: int
    quantity: int
    calls: int
    used_at: int
    record_id: str | None = None
    mark: str = ""


@dataclass(frozen=True, slots=True)
class UsageEvent:
    """Usage from outside a call. `id` is the account's own name for it; `at` is Unix seconds, None: now."""

    account_id: str
    meter: str
    quantity: int
    id: str
    at: int | None = None


class KeySender(NamedTuple):
    """A key that records usage for its own account: its ids never meet those of the seller. `since_at` begins the
    account's current period, in Unix seconds."""

    account_id: str
    key_id: str
    since_at: int


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of a usage event. A duplicate was recorded before, with the same values; `code` is an error's."""

    id: str
    status: Literal["recorded", "duplicate", "rejected"]
    code: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """One fenced commit of a writer (L1). Numbers of a writer begin at 1 and have no gaps."""

    writer: str
    number: int
    nonce: str
    increments: tuple[Increment, ...]


@dataclass(frozen=True, slots=True)
class UsageLine:
    """Usage summed for reading: of one meter, and of one operation and key where asked for."""

    meter: str
    quantity: int
    calls: int
    last_used_at: int
    operation: str = ""
    key_id: str = ""


def bucket_start(at: int, boundaries: Iterable[int]) -> int:
    """Start of the bucket that holds `at`: the hour, or the latest known period boundary within it."""
    start = at - at % BUCKET_SECONDS
    for boundary in boundaries:
        if start < boundary <= at:
            start = boundary
    return start


def whole_number(value: object) -> int | None:
    """The value as an int when it is a whole number: an int, or what stands for one by `__index__`, such as numpy's.
    None for anything else. A bool is none, a library's own bool neither; nor is a float, a Decimal or a text.
    """
    if isinstance(value, int):
        # A subclass of int may compare and add in ways of its own.
        return None if isinstance(value, bool) else int(value)
    if "bool" in str(getattr(value, "dtype", "")):
        return None
    try:
        return int(operator.index(value))  # type: ignore[arg-type]  # refuses what has no __index__
    except (TypeError, ValueError, OverflowError):
        return None


def checked_quantity(quantity: object, meter: str) -> int:
    """The quantity as it may be counted. QuantityInvalid for anything but a whole number from 0 to QUANTITY_MAX."""
    whole = whole_number(quantity)
    if whole is None:
        raise QuantityInvalid(f"{meter}: a quantity must be a whole number, not {_kind(quantity)}")
    if not 0 <= whole <= QUANTITY_MAX:
        raise QuantityInvalid(f"{meter}: a quantity must lie between 0 and {QUANTITY_MAX}")
    return whole


def _kind(quantity: object) -> str:
    """Of what kind it is, in words that a buyer who sent it as JSON understands."""
    return _KINDS.get(type(quantity).__name__, type(quantity).__name__)


def record_conflict(id: str, meter: str, quantity: int) -> RecordConflict:
    """What is said when an id comes again with other values than these."""
    return RecordConflict(
        f"The id {id.removeprefix(KEY_RECORDS)!r} was recorded as {quantity} {meter} before. New usage needs a new id."
    )
