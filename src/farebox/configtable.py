"""What all tables of farebox.toml have: nothing but what is named, whole numbers, and a hint at a name that is near."""

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import Annotated, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict

__all__ = ["Table", "Whole", "near", "unknown_meter"]

_NEAR_CHARACTERS: Final = 60  # of a name that is compared with those that are known


def _whole(value: object) -> object:
    if isinstance(value, float):
        raise ValueError(f"must be a whole number, not {value}")
    return value


Whole = Annotated[int, BeforeValidator(_whole)]


class Table(BaseModel):
    """A table: strictly read."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def near(name: str, known: Iterable[str]) -> str:
    """A hint at the known name that may have been meant; "" when none is like it."""
    found = get_close_matches(name[:_NEAR_CHARACTERS], known, n=1)
    return f'; did you mean "{found[0]}"?' if found else ""


def unknown_meter(meter: str, meters: Collection[str]) -> str:
    """That there is no such meter, with those there are."""
    known = ", ".join(sorted(meters)) or "none"
    return f"there is no meter {meter!r} (known: {known}){near(meter, meters)}"
