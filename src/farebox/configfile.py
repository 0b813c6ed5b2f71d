"""The form of farebox.toml: what may stand in it, and how what is wrong is said, by its dotted path."""

import re
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from farebox.domain.catalog import Catalog, Meter, Plan, Price, Route, minor_units
from farebox.domain.usage import QUANTITY_MAX
from farebox.errors import ConfigError

__all__ = [
    "GRACE_DAYS_MAX",
    "MATCH_CHARACTERS_MAX",
    "METER_EVENTS_PER_SECOND_MAX",
    "RECONCILE_READS_MAX",
    "ROUTES_MAX",
    "SEAL_SECONDS_MAX",
    "SPOOL_SECONDS_MAX",
    "STREAM_REQUESTS_PER_SECOND_MAX",
    "FileModel",
    "catalog_of",
    "explain",
]

GRACE_DAYS_MAX: Final = 90
RECONCILE_READS_MAX: Final = 10_000
SEAL_SECONDS_MAX: Final = 3_600
SPOOL_SECONDS_MAX: Final = 86_400
ROUTES_MAX: Final = 1_000
METER_EVENTS_PER_SECOND_MAX: Final = 10_000
STREAM_REQUESTS_PER_SECOND_MAX: Final = 1_000
MATCH_CHARACTERS_MAX: Final = 256  # the ledger keeps it with what was used
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
_MATCH: Final = re.compile(r"(\*|[A-Z]{3,10}) (/\S*)")
_PREFIX: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_CREDENTIAL: Final = re.compile(r"bearer|x-api-key|query:[A-Za-z0-9_-]{1,40}")


def _amount(value: object) -> object:
    if isinstance(value, float):
        raise ValueError(f'write the amount as a string, "{value}": a float cannot hold money exactly')
    if isinstance(value, int):
        raise ValueError(f'write the amount as a string, "{value}.00"')
    return value


def _whole(value: object) -> object:
    if isinstance(value, float):
        raise ValueError(f"must be a whole number, not {value}")
    return value


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Http(_Table):
    prefix: str = "/billing"
    credentials: list[str] = Field(default_factory=lambda: ["bearer", "x-api-key"], min_length=1, max_length=8)

    @field_validator("prefix")
    @classmethod
    def _check_prefix(cls, value: str) -> str:
        if not _PREFIX.fullmatch(value):
            raise ValueError('must look like "/billing": begin with a slash and not end with one')
        return value

    @field_validator("credentials")
    @classmethod
    def _check_credentials(cls, value: list[str]) -> list[str]:
        for entry in value:
            if not _CREDENTIAL.fullmatch(entry):
                raise ValueError(f'{entry!r} is not one of "bearer", "x-api-key", "query:NAME"')
        return value


class _Stripe(_Table):
    mode: Literal["test", "live"] | None = None
    meter_events_per_second: Annotated[int, BeforeValidator(_whole)] | None = Field(
        default=None, ge=1, le=METER_EVENTS_PER_SECOND_MAX
    )
    stream_requests_per_second: Annotated[int, BeforeValidator(_whole)] | None = Field(
        default=None, ge=0, le=STREAM_REQUESTS_PER_SECOND_MAX
    )


class _Access(_Table):
    past_due_grace_days: Annotated[int, BeforeValidator(_whole)] = Field(default=3, ge=0, le=GRACE_DAYS_MAX)


class _Reporting(_Table):
    seal_seconds: Annotated[int, BeforeValidator(_whole)] = Field(default=300, ge=1, le=SEAL_SECONDS_MAX)
    late_usage: Literal["bill", "report"] = "bill"
    reconcile_reads_per_hour: Annotated[int, BeforeValidator(_whole)] = Field(default=10, ge=0, le=RECONCILE_READS_MAX)


class _Ledger(_Table):
    allow_weak_durability: bool = False
    on_store_loss: Literal["refuse", "spool"] = "refuse"
    spool_seconds_max: Annotated[int, BeforeValidator(_whole)] = Field(default=900, ge=1, le=SPOOL_SECONDS_MAX)
    spool_path: str | None = Field(default=None, min_length=1)


class _Meter(_Table):
    title: str = Field(min_length=1, max_length=250)
    event_name: str | None = Field(default=None, min_length=1, max_length=100)


class _Price(_Table):
    meter: str
    unit_amount: Annotated[str, BeforeValidator(_amount)]


class _Plan(_Table):
    title: str = Field(min_length=1, max_length=250)
    currency: str = Field(default="usd", pattern=r"^[a-z]{3}$")
    interval: Literal["day", "week", "month", "year"] = "month"
    prices: list[_Price] = Field(min_length=1, max_length=20)


class _Route(_Table):
    match: str = Field(max_length=MATCH_CHARACTERS_MAX)
    access: Literal["key", "public"] = "key"
    meter: str | None = None
    quantity: Annotated[int, BeforeValidator(_whole)] | None = Field(default=None, ge=0, le=QUANTITY_MAX)

    @field_validator("match")
    @classmethod
    def _check_match(cls, value: str) -> str:
        found = _MATCH.fullmatch(value)
        if found is None:
            raise ValueError(f'{value!r} must be a method and a path, like "GET /api" or "* /files/**"')
        if found[1] == "HEAD":
            raise ValueError("HEAD follows GET's rule; write GET")
        if "?" in found[2] or "#" in found[2]:
            raise ValueError(f"{value!r}: a path is matched without its query; leave ? and # out")
        if "**" in found[2][:-3] or ("*" in found[2] and not found[2].endswith("/**")):
            raise ValueError(f"{value!r}: a star may stand only at the end of the path, as /**")
        return value


class FileModel(_Table):
    """farebox.toml, whole."""

    http: _Http = _Http()
    stripe: _Stripe = _Stripe()
    access: _Access = _Access()
    reporting: _Reporting = _Reporting()
    ledger: _Ledger = _Ledger()
    meters: dict[str, _Meter] = Field(default_factory=dict, max_length=100)
    plans: dict[str, _Plan] = Field(default_factory=dict, max_length=100)
    routes: list[_Route] = Field(default_factory=list, max_length=ROUTES_MAX)


def explain(error: ValidationError) -> list[str]:
    """Each fault of a validation as "dotted.path: what is wrong"."""
    return [f"{_dotted(fault['loc'])}: {_said(fault)}" for fault in error.errors()]


def catalog_of(model: FileModel, source: str) -> Catalog:
    """The catalog that the file describes. ConfigError names the dotted path of what does not fit together."""
    faults = [*_name_faults(model), *_meter_faults(model)]
    if faults:
        raise ConfigError("\n".join(f"{source}: {fault}" for fault in faults))
    meters = {n: Meter(name=n, title=m.title, event_name=m.event_name or n) for n, m in model.meters.items()}
    plans = {name: _plan(name, plan, source) for name, plan in model.plans.items()}
    return Catalog(meters=meters, plans=plans, routes=tuple(_route(route) for route in model.routes))


def _name_faults(model: FileModel) -> list[str]:
    names = [("meters", name) for name in model.meters] + [("plans", name) for name in model.plans]
    return [
        f"{table}.{name}: a name is lower-case letters, digits and _, begins with a letter, and has at most 40"
        for table, name in names
        if not _NAME.fullmatch(name)
    ]


def _meter_faults(model: FileModel) -> list[str]:
    known = ", ".join(sorted(model.meters)) or "none"
    faults = []
    events: dict[str, str] = {}
    for name, meter in model.meters.items():
        event = meter.event_name or name
        if event in events:
            faults.append(f"meters.{name}.event_name: {event!r} is already used by meters.{events[event]}")
        events[event] = name
    for plan_name, plan in model.plans.items():
        seen: set[str] = set()
        for i, price in enumerate(plan.prices):
            where = f"plans.{plan_name}.prices[{i}].meter"
            if price.meter not in model.meters:
                faults.append(f"{where}: there is no meter {price.meter!r} (known: {known})")
            elif price.meter in seen:
                faults.append(f"{where}: the plan already has a price for {price.meter!r}")
            seen.add(price.meter)
    for i, route in enumerate(model.routes):
        where = f"routes[{i}]"
        if route.access == "public" and (route.meter is not None or route.quantity is not None):
            faults.append(f"{where}: a public route cannot have a meter or a quantity")
        elif route.quantity is not None and route.meter is None:
            faults.append(f"{where}.quantity: it needs a meter beside it")
        elif route.meter is not None and route.meter not in model.meters:
            faults.append(f"{where}.meter: there is no meter {route.meter!r} (known: {known})")
    return faults


def _plan(name: str, plan: _Plan, source: str) -> Plan:
    prices = []
    for i, price in enumerate(plan.prices):
        try:
            amount = minor_units(price.unit_amount, plan.currency)
        except ValueError as error:
            raise ConfigError(f"{source}: plans.{name}.prices[{i}].unit_amount: {error}") from error
        prices.append(Price(plan=name, meter=price.meter, currency=plan.currency, unit_amount=amount))
    return Plan(name=name, title=plan.title, currency=plan.currency, interval=plan.interval, prices=tuple(prices))


def _route(route: _Route) -> Route:
    method, path = route.match.split(" ", 1)
    quantity = (1 if route.quantity is None else route.quantity) if route.meter is not None else 0
    return Route(method=method, path=path, public=route.access == "public", meter=route.meter, quantity=quantity)


def _dotted(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".") or "the file"


def _said(fault: Any) -> str:
    if fault["type"] == "extra_forbidden":
        return "Farebox knows no such setting"
    if fault["type"] == "missing":
        return "is required"
    message: str = fault["msg"]
    return message.removeprefix("Value error, ")
