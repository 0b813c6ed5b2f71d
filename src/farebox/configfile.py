"""The form of farebox.toml: what may stand in it, and how what is wrong is said, by its dotted path."""

import re
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from farebox.configroutes import RouteModel, route_faults, route_of
from farebox.domain.catalog import (
    CURRENCIES,
    AnyPrice,
    Catalog,
    Meter,
    PackagePrice,
    Plan,
    Price,
    Tier,
    TieredPrice,
    minor_units,
)
from farebox.errors import ConfigError

__all__ = [
    "GRACE_DAYS_MAX",
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
_ITEMS_MAX: Final = 20  # of a subscription at Stripe, the base fee among them
_TIERS_MAX: Final = 100
_UNITS_MAX: Final = 10**15  # of a tier or a package
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
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


def _units(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _UNITS_MAX:
        raise ValueError(f"must be a whole number of units, from 1 to {_UNITS_MAX}, not {value!r}")
    return value


def _up_to(value: object) -> object:
    """A number of units, or None for "inf"."""
    if isinstance(value, str):
        if value != "inf":
            raise ValueError(f'write a whole number without quotes, or "inf" in the last tier, not {value[:40]!r}')
        return None
    return _units(value)


_Amount = Annotated[str, BeforeValidator(_amount)]


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


class _Tier(_Table):
    up_to: Annotated[int | None, BeforeValidator(_up_to)]
    unit_amount: _Amount | None = None
    flat_amount: _Amount | None = None


class _Package(_Table):
    size: Annotated[int, BeforeValidator(_units)]
    unit_amount: _Amount
    round: Literal["up", "down"] = "up"


class _Price(_Table):
    meter: str
    unit_amount: _Amount | None = None
    mode: Literal["graduated", "volume"] | None = None
    tiers: list[_Tier] | None = Field(default=None, min_length=1, max_length=_TIERS_MAX)
    package: _Package | None = None


class _Plan(_Table):
    title: str = Field(min_length=1, max_length=250)
    currency: str = "usd"
    interval: Literal["day", "week", "month", "year"] = "month"
    base: _Amount | None = None
    prices: list[_Price] = Field(min_length=1, max_length=_ITEMS_MAX)

    @field_validator("currency")
    @classmethod
    def _check_currency(cls, value: str) -> str:
        if value not in CURRENCIES:
            known = value.strip().lower() in CURRENCIES
            advice = f'write "{value.strip().lower()}"' if known else 'write its code in small letters, like "usd"'
            raise ValueError(f"{value[:40]!r} is no currency that Farebox knows; {advice}")
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
    routes: list[RouteModel] = Field(default_factory=list, max_length=ROUTES_MAX)


def explain(error: ValidationError) -> list[str]:
    """Each fault of a validation as "dotted.path: what is wrong"."""
    return [f"{_dotted(fault['loc'])}: {_said(fault)}" for fault in error.errors()]


def catalog_of(model: FileModel, source: str) -> Catalog:
    """The catalog that the file describes. ConfigError names the dotted path of what does not fit together."""
    faults = [*_name_faults(model), *_meter_faults(model)]
    plans = {name: _plan(name, plan, faults) for name, plan in model.plans.items()}
    if faults:
        raise ConfigError("\n".join(f"{source}: {fault}" for fault in faults))
    meters = {n: Meter(name=n, title=m.title, event_name=m.event_name or n) for n, m in model.meters.items()}
    return Catalog(meters=meters, plans=plans, routes=tuple(route_of(route) for route in model.routes))


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
        faults += route_faults(route, f"routes[{i}]", model.meters)
    return faults


def _plan(name: str, plan: _Plan, faults: list[str]) -> Plan:
    """The plan. What is wrong with it is added to the faults, with something harmless in its place."""
    where = f"plans.{name}"
    if plan.base is not None and len(plan.prices) == _ITEMS_MAX:
        faults.append(f"{where}.prices: at most {_ITEMS_MAX - 1} beside a base fee: Stripe takes {_ITEMS_MAX} in all")
    return Plan(
        name=name,
        title=plan.title,
        currency=plan.currency,
        interval=plan.interval,
        base=_exact(plan.base, plan.currency, f"{where}.base", faults) if plan.base is not None else None,
        prices=tuple(_price(name, plan, i, faults) for i in range(len(plan.prices))),
    )


def _price(name: str, plan: _Plan, number: int, faults: list[str]) -> AnyPrice:
    price, currency, where = plan.prices[number], plan.currency, f"plans.{name}.prices[{number}]"
    given = [kind for kind in ("unit_amount", "tiers", "package") if getattr(price, kind) is not None]
    if len(given) > 1:
        faults.append(f"{where}: it has {' and '.join(given)}; keep one of them")
    if price.mode is not None and price.tiers is None:
        faults.append(f"{where}.tiers: is required with mode; a price without tiers has no mode")
    elif not given:
        faults.append(f"{where}.unit_amount: is required; or tiers with their mode, or a package")
    if price.tiers is not None:
        if price.mode is None:
            faults.append(f'{where}.mode: is required with tiers; write "graduated" or "volume"')
        faults += _tier_faults(price.tiers, where)
        tiers = tuple(_tier(tier, currency, f"{where}.tiers[{i}]", faults) for i, tier in enumerate(price.tiers))
        return TieredPrice(price.meter, price.mode == "graduated", tiers)
    if (package := price.package) is not None:
        amount = _exact(package.unit_amount, currency, f"{where}.package.unit_amount", faults)
        return PackagePrice(price.meter, package.size, amount, package.round == "up")
    amount = _exact("0" if price.unit_amount is None else price.unit_amount, currency, f"{where}.unit_amount", faults)
    return Price(plan=name, meter=price.meter, currency=currency, unit_amount=amount)


def _tier_faults(tiers: list[_Tier], where: str) -> list[str]:
    """Tiers that do not ascend from 1 to "inf" without a gap, or cost neither by the unit nor flat."""
    faults = []
    below = 0
    for i, tier in enumerate(tiers):
        at, last = f"{where}.tiers[{i}]", i == len(tiers) - 1
        if tier.unit_amount is None and tier.flat_amount is None:
            faults.append(f"{at}: needs a unit_amount, a flat_amount or both")
        if tier.up_to is None and not last:
            faults.append(f'{at}.up_to: only the last tier goes up to "inf"; those behind it would never be reached')
        elif tier.up_to is not None and tier.up_to <= below:
            faults.append(f"{at}.up_to: {tier.up_to} overlaps with a tier before, up to {below}; write a larger number")
        elif tier.up_to is not None and last:
            faults.append(f'{at}.up_to: more than {tier.up_to} units would have no price; end with up_to = "inf"')
        below = max(below, tier.up_to or 0)
    return faults


def _tier(tier: _Tier, currency: str, where: str, faults: list[str]) -> Tier:
    unit, flat = tier.unit_amount, tier.flat_amount
    return Tier(
        up_to=tier.up_to,
        unit_amount=_exact(unit if unit is not None else "0", currency, f"{where}.unit_amount", faults),
        flat_amount=_exact(flat, currency, f"{where}.flat_amount", faults) if flat is not None else None,
    )


def _exact(amount: str, currency: str, where: str, faults: list[str]) -> Decimal:
    try:
        return minor_units(amount, currency)
    except ValueError as error:
        faults.append(f"{where}: {error}")
        return Decimal(0)


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
