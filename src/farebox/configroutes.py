"""The form of a [[routes]] table of farebox.toml: which calls it is about, and what they cost."""

import re
from collections.abc import Collection, Iterator
from typing import Annotated, Final, Literal

from pydantic import Field, field_validator

from farebox.configtable import Table, Whole, near, unknown_meter
from farebox.domain.catalog import Route
from farebox.domain.measures import SUCCESS, Measure, Source, Terms
from farebox.domain.usage import QUANTITY_MAX

__all__ = [
    "CHARGES_MAX",
    "FROM_CHARACTERS_MAX",
    "MATCH_CHARACTERS_MAX",
    "METHODS",
    "RouteTable",
    "route_faults",
    "route_of",
]

MATCH_CHARACTERS_MAX: Final = 256  # the ledger keeps it with what was used
FROM_CHARACTERS_MAX: Final = 200
CHARGES_MAX: Final = 20
# Of HTTP and WebDAV: a word that is none of them would price nothing.
METHODS: Final = (
    "*",
    *("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY", "SEARCH", "REPORT", "PURGE"),
    *("PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK"),
)
_MATCH: Final = re.compile(r"(\*|[A-Z]{3,10}) (/\S*)")
_STATUS: Final = re.compile(r"[2-5]xx|[2-5][0-9][0-9]")
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_KINDS: Final = '"header:NAME", "json:PATH", "bytes", "seconds" or "milliseconds"'


_Quantity = Annotated[Whole, Field(ge=0, le=QUANTITY_MAX)]


class _Charge(Table):
    meter: str
    quantity: _Quantity | None = None
    source: str | None = Field(default=None, alias="from", max_length=FROM_CHARACTERS_MAX)
    minimum: _Quantity | None = None
    maximum: _Quantity | None = None
    strip: bool = False

    @field_validator("source")
    @classmethod
    def _check_source(cls, value: str) -> str:
        kind, colon, where = value.partition(":")
        if kind not in list(Source) or (kind in ("header", "json")) != bool(colon):
            raise ValueError(f"{value!r} is not one of {_KINDS}")
        if kind == "header" and not _HEADER.fullmatch(where):
            raise ValueError(f"{value!r}: {where!r} cannot be the name of a header")
        if kind == "json" and (where.startswith("$") or not all(where.split("."))):
            raise ValueError(
                f'{value!r}: write the path as names with dots between them, like "json:usage.total_tokens"'
            )
        return value


class RouteTable(Table):
    """One rule. The first whose `match` fits a call prices it."""

    match: str = Field(max_length=MATCH_CHARACTERS_MAX, json_schema_extra={"pattern": f"^{_MATCH.pattern}$"})
    access: Literal["key", "public"] = "key"
    meter: str | None = None
    quantity: _Quantity | None = None
    charges: list[_Charge] | None = Field(default=None, min_length=1, max_length=CHARGES_MAX)
    billed: list[str] | None = Field(default=None, min_length=1, max_length=CHARGES_MAX)

    @field_validator("match")
    @classmethod
    def _check_match(cls, value: str) -> str:
        found = _MATCH.fullmatch(value)
        if found is None:
            raise ValueError(f'{value!r} must be a method and a path, like "GET /api" or "* /files/**"')
        if found[1] == "HEAD":
            raise ValueError("HEAD follows GET's rule; write GET")
        if found[1] not in METHODS:
            hint = near(found[1], METHODS) or "; write * for every method"
            raise ValueError(f"{found[1]} is not an HTTP method{hint}")
        if re.search(r"\{[^{}/]*:path\}", found[2]):
            raise ValueError(f"{value!r}: a name stands for one segment of a path; write /** at the end instead")
        if re.search(r"[{}]", re.sub(r"\{[^{}/]+\}", "", found[2])):
            raise ValueError(f"{value!r}: a brace is not closed, not opened, or empty; write a name as {{name}}")
        if "?" in found[2] or "#" in found[2]:
            raise ValueError(f"{value!r}: a path is matched without its query; leave ? and # out")
        if "**" in found[2][:-3] or ("*" in found[2] and not found[2].endswith("/**")):
            raise ValueError(f"{value!r}: a star may stand only at the end of the path, as /**")
        return value

    @field_validator("billed")
    @classmethod
    def _check_billed(cls, value: list[str]) -> list[str]:
        for entry in value:
            if not _STATUS.fullmatch(entry):
                raise ValueError(f'{entry!r} is no status to bill; write a class like "2xx" or a status like "404"')
        return value


def route_faults(route: RouteTable, where: str, meters: Collection[str]) -> Iterator[str]:
    """What does not fit together in the rule, each with its place."""
    priced = route.meter is not None or route.charges is not None
    if route.access == "public" and (priced or route.quantity is not None):
        yield f"{where}: a public route cannot have a meter or a quantity"
    elif route.charges is not None and (route.meter is not None or route.quantity is not None):
        yield f"{where}: it has charges and a meter or quantity of its own; put that among the charges"
    elif route.quantity is not None and route.meter is None:
        yield f"{where}.quantity: it needs a meter beside it"
    elif route.meter is not None and route.meter not in meters:
        yield f"{where}.meter: {unknown_meter(route.meter, meters)}"
    if route.access == "public" and route.billed is not None:
        yield f"{where}.billed: a public route bills nothing"
    seen: set[str] = set()
    for i, charge in enumerate(route.charges or ()):
        at = f"{where}.charges[{i}]"
        if charge.meter not in meters:
            yield f"{at}.meter: {unknown_meter(charge.meter, meters)}"
        elif charge.meter in seen:
            yield f"{at}.meter: the route charges {charge.meter!r} already"
        seen.add(charge.meter)
        yield from _charge_faults(charge, at)


def _charge_faults(charge: _Charge, at: str) -> Iterator[str]:
    if charge.source is None:
        for name in ("minimum", "maximum"):
            if getattr(charge, name) is not None:
                yield f'{at}.{name}: a fixed quantity has none; it goes with a "from"'
    elif charge.quantity is not None:
        yield f'{at}.quantity: the quantity comes "from" the answer; write a minimum instead'
    if charge.strip and not (charge.source or "").startswith("header:"):
        yield f"{at}.strip: only a header can be taken out of the answer"
    if charge.maximum is not None and charge.maximum < (charge.minimum or 0):
        yield f"{at}.maximum: {charge.maximum} is less than the minimum"


def route_of(model: RouteTable) -> Route:
    """The rule as calls are priced by it."""
    method, path = model.match.split(" ", 1)
    quantity = (1 if model.quantity is None else model.quantity) if model.meter is not None else 0
    terms = None
    if model.charges is not None or model.billed is not None:
        charges = model.charges or []
        terms = Terms(
            fixed=tuple((c.meter, 1 if c.quantity is None else c.quantity) for c in charges if c.source is None),
            measures=tuple(_measure(c, c.source) for c in charges if c.source is not None),
            billed=_statuses(model.billed) if model.billed is not None else SUCCESS,
        )
    return Route(method, path, model.access == "public", model.meter, quantity, terms)


def _measure(charge: _Charge, source: str) -> Measure:
    kind, _, where = source.partition(":")
    names = (where.lower(),) if kind == "header" else tuple(where.split(".")) if where else ()
    return Measure(
        meter=charge.meter,
        source=Source(kind),
        where=names,
        minimum=charge.minimum or 0,
        maximum=QUANTITY_MAX if charge.maximum is None else charge.maximum,
        strips=charge.strip,
    )


def _statuses(billed: list[str]) -> frozenset[int]:
    found: set[int] = set()
    for entry in billed:
        first = int(entry[0]) * 100
        found |= set(range(first, first + 100)) if entry.endswith("xx") else {int(entry)}
    return frozenset(found)
