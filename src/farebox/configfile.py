"""The form of farebox.toml: what may stand in it, and how what is wrong is said, by its dotted path."""

import re
from typing import Annotated, Any, Final, Literal

from pydantic import Field, WithJsonSchema, field_validator

from farebox.configplans import AmountsTable, PlanTable, key_faults, plan_of
from farebox.configroutes import RouteTable, route_faults, route_of
from farebox.configtable import Table, Whole, near, unknown_meter
from farebox.domain.catalog import (
    Catalog,
    Meter,
)
from farebox.domain.changes import ChangeRules

__all__ = [
    "GRACE_DAYS_MAX",
    "METER_EVENTS_PER_SECOND_MAX",
    "RECONCILE_READS_MAX",
    "ROUTES_MAX",
    "SEAL_SECONDS_MAX",
    "SPOOL_SECONDS_MAX",
    "STREAM_REQUESTS_PER_SECOND_MAX",
    "FileModel",
    "read_catalog",
]

GRACE_DAYS_MAX: Final = 90
RECONCILE_READS_MAX: Final = 10_000
SEAL_SECONDS_MAX: Final = 3_600
SPOOL_SECONDS_MAX: Final = 86_400
ROUTES_MAX: Final = 1_000
METER_EVENTS_PER_SECOND_MAX: Final = 10_000
STREAM_REQUESTS_PER_SECOND_MAX: Final = 1_000
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
_PREFIX: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+")
_CREDENTIAL: Final = re.compile(r"bearer|x-api-key|query:[A-Za-z0-9_-]{1,40}")


_NAMES: Final[dict[str, Any]] = {"propertyNames": {"pattern": f"^{_NAME.pattern}$"}}
_Credential = Annotated[str, WithJsonSchema({"type": "string", "pattern": f"^({_CREDENTIAL.pattern})$"})]


_Sender = Literal["operator", "key"]


def _operator_alone() -> list[_Sender]:
    return ["operator"]


class _Http(Table):
    prefix: str = Field(default="/billing", json_schema_extra={"pattern": f"^{_PREFIX.pattern}$"})
    preflight: Literal["farebox", "app"] = "farebox"
    credentials: list[_Credential] = Field(default_factory=lambda: ["bearer", "x-api-key"], min_length=1, max_length=8)

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


class _Stripe(Table):
    mode: Literal["test", "live"] | None = None
    meter_events_per_second: Whole | None = Field(default=None, ge=1, le=METER_EVENTS_PER_SECOND_MAX)
    stream_requests_per_second: Whole | None = Field(default=None, ge=0, le=STREAM_REQUESTS_PER_SECOND_MAX)


class _Access(Table):
    past_due_grace_days: Whole = Field(default=3, ge=0, le=GRACE_DAYS_MAX)


class _Reporting(Table):
    seal_seconds: Whole = Field(default=300, ge=1, le=SEAL_SECONDS_MAX)
    late_usage: Literal["bill", "report"] = "bill"
    reconcile_reads_per_hour: Whole = Field(default=10, ge=0, le=RECONCILE_READS_MAX)


class _Events(Table):
    senders: list[_Sender] = Field(default_factory=_operator_alone, alias="from", min_length=1, max_length=2)

    @field_validator("senders")
    @classmethod
    def _check_senders(cls, value: list[_Sender]) -> list[_Sender]:
        if "operator" not in value:
            raise ValueError('"operator" must be among them: the operator may always record')
        return value


class _Ledger(Table):
    allow_weak_durability: bool = False
    on_store_loss: Literal["refuse", "spool"] = "refuse"
    spool_seconds_max: Whole = Field(default=900, ge=1, le=SPOOL_SECONDS_MAX)
    spool_path: str | None = Field(default=None, min_length=1)


class _Meter(Table):
    title: str = Field(min_length=1, max_length=250)
    event_name: str | None = Field(default=None, min_length=1, max_length=100)
    unpriced: Literal["refuse", "free"] = "refuse"


class _Changes(Table):
    upgrade: Literal["now", "period_end", "operator"] = "now"
    downgrade: Literal["now", "period_end", "operator"] = "period_end"
    order: list[str] = Field(default_factory=list, max_length=100)


class FileModel(Table):
    """farebox.toml, whole."""

    http: _Http = _Http()
    stripe: _Stripe = _Stripe()
    access: _Access = _Access()
    reporting: _Reporting = _Reporting()
    ledger: _Ledger = _Ledger()
    events: _Events = _Events()
    meters: dict[str, _Meter] = Field(default_factory=dict, max_length=100, json_schema_extra=_NAMES)
    plans: dict[str, PlanTable] = Field(default_factory=dict, max_length=100, json_schema_extra=_NAMES)
    changes: _Changes = _Changes()
    routes: list[RouteTable] = Field(default_factory=list, max_length=ROUTES_MAX)


def read_catalog(model: FileModel) -> tuple[Catalog, list[str]]:
    """The catalog, and each thing that does not fit together as "dotted.path: what is wrong; what to write". With such
    a fault the catalog has something harmless in its place, and must not be used."""
    faults = [*_name_faults(model), *_meter_faults(model), *_change_faults(model)]
    plans = {name: plan_of(name, plan, faults) for name, plan in model.plans.items()}
    faults += key_faults(plans)
    meters = {n: Meter(n, m.title, m.event_name or n, m.unpriced == "free") for n, m in model.meters.items()}
    routes = tuple(route_of(route) for route in model.routes)
    changes = ChangeRules(model.changes.upgrade, model.changes.downgrade, tuple(model.changes.order))
    return Catalog(meters=meters, plans=plans, routes=routes, changes=changes), faults


def _priced(model: FileModel) -> list[tuple[str, AmountsTable]]:
    """Each plan in each of its currencies, with the path at which it stands."""
    return [
        (path, amounts)
        for name, plan in model.plans.items()
        for path, amounts in [
            (f"plans.{name}", plan),
            *((f"plans.{name}.currencies.{code}", one) for code, one in plan.currencies.items()),
        ]
    ]


def _name_faults(model: FileModel) -> list[str]:
    names = [("meters", name) for name in model.meters] + [("plans", name) for name in model.plans]
    return [
        f"{table}.{name}: a name is lower-case letters, digits and _, begins with a letter, and has at most 40"
        for table, name in names
        if not _NAME.fullmatch(name)
    ]


def _change_faults(model: FileModel) -> list[str]:
    faults, order = [], model.changes.order
    for i, name in enumerate(order):
        if name not in model.plans:
            known = ", ".join(sorted(model.plans)) or "none"
            faults.append(f"changes.order[{i}]: there is no plan {name!r} (known: {known}){near(name, model.plans)}")
        elif name in order[:i]:
            faults.append(f"changes.order[{i}]: {name!r} stands in the order already; name each plan once")
    return faults


def _meter_faults(model: FileModel) -> list[str]:
    faults = []
    events: dict[str, str] = {}
    for name, meter in model.meters.items():
        event = meter.event_name or name
        if event in events:
            faults.append(f"meters.{name}.event_name: {event!r} is already used by meters.{events[event]}")
        events[event] = name
    for path, amounts in _priced(model):
        seen: set[str] = set()
        for i, price in enumerate(amounts.prices):
            where = f"{path}.prices[{i}].meter"
            if price.meter not in model.meters:
                faults.append(f"{where}: {unknown_meter(price.meter, model.meters)}")
            elif price.meter in seen:
                faults.append(f"{where}: the plan already has a price for {price.meter!r}")
            seen.add(price.meter)
    for i, route in enumerate(model.routes):
        faults += route_faults(route, f"routes[{i}]", model.meters)
    return faults
