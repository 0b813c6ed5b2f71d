"""What an answer itself tells about what a call used: where a quantity stands, and whether it can be believed.

Pure. A quantity that cannot be believed is a fault with a name, never a guess; zero is a quantity like any other.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from farebox.domain.usage import QUANTITY_MAX, whole_number

__all__ = [
    "FOUND_CHARACTERS_MAX",
    "SUCCESS",
    "Fault",
    "Measure",
    "Source",
    "Terms",
    "at_path",
    "judged",
    "of_header",
    "said",
]

FOUND_CHARACTERS_MAX: Final = 40
SUCCESS: Final = frozenset(range(200, 300))
_WHOLE: Final = re.compile(rb"-?[0-9]{1,40}")
_DIGITS_MAX: Final = 10**30


class Source(StrEnum):
    """Where a quantity stands. What Farebox measures itself (bytes, time) cannot be wrong."""

    HEADER = "header"
    JSON = "json"
    BYTES = "bytes"
    SECONDS = "seconds"
    MILLISECONDS = "milliseconds"

    @property
    def is_measured(self) -> bool:
        return self in (Source.BYTES, Source.SECONDS, Source.MILLISECONDS)


class Fault(StrEnum):
    """Why a quantity could not be believed. What was counted instead stands in the log beside the fault."""

    MISSING = "missing"
    NEGATIVE = "negative"
    NOT_WHOLE = "not_whole"
    TOO_LARGE = "too_large"
    REPEATED = "repeated"
    UNREADABLE = "unreadable"
    COMPRESSED = "compressed"
    BODY_TOO_LARGE = "body_too_large"
    ENDED_EARLY = "ended_early"
    UNRECORDED = "unrecorded"


@dataclass(frozen=True, slots=True)
class Measure:
    """A meter's quantity as the answer tells it. `where`: the header's name in small letters, or the JSON path.

    `minimum` is counted before the answer begins, whatever it tells. More than `maximum` is not believed; of what
    Farebox measures itself, no more is counted. `strips`: the header is for Farebox alone and leaves the answer.
    """

    meter: str
    source: Source
    where: tuple[str, ...] = ()
    minimum: int = 0
    maximum: int = QUANTITY_MAX
    strips: bool = False

    @property
    def text(self) -> str:
        """As it stands in farebox.toml."""
        return f"{self.source}:{'.'.join(self.where)}" if self.where else str(self.source)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a route's calls cost beyond one fixed quantity, and which statuses are billed."""

    fixed: tuple[tuple[str, int], ...] = ()
    measures: tuple[Measure, ...] = ()
    billed: frozenset[int] = SUCCESS


def judged(found: object, maximum: int = QUANTITY_MAX) -> int | Fault:
    """The quantity that was found, or what is wrong with it. A whole number is an int, or stands for one by
    `__index__`; a bool, 5.0 and a text are none."""
    if isinstance(found, Fault):
        return found
    if found is None:
        return Fault.MISSING
    whole = whole_number(found)
    if whole is None:
        return Fault.NOT_WHOLE
    if whole < 0:
        return Fault.NEGATIVE
    return whole if whole <= maximum else Fault.TOO_LARGE


def of_header(values: Sequence[bytes]) -> object:
    """What a header with these values says: a whole number, its text when it is none, a fault, or None without it."""
    if len(values) != 1:
        return Fault.REPEATED if values else None
    value = values[0].strip(b" \t")
    return int(value) if _WHOLE.fullmatch(value) else value.decode("latin-1")


def at_path(document: Any, path: Sequence[str]) -> object:
    """What stands there, name by name; in a list a name is a position from 0. None when there is nothing, or null."""
    found = document
    for name in path:
        if isinstance(found, dict):
            found = found.get(name)
        elif isinstance(found, list) and name.isascii() and name.isdecimal() and len(name) <= 9:
            found = found[int(name)] if int(name) < len(found) else None
        else:
            return None
    return found


def said(found: object) -> str:
    """What was found, short enough for a log whatever it was."""
    if isinstance(found, Fault):
        return ""
    whole = whole_number(found)
    if whole is not None:
        return str(whole) if abs(whole) < _DIGITS_MAX else f"a number of {whole.bit_length()} bits"
    if isinstance(found, (str, bool)) or found is None:
        return repr(found if not isinstance(found, str) else found[:FOUND_CHARACTERS_MAX])
    return type(found).__name__[:FOUND_CHARACTERS_MAX]
