"""The form of farebox.toml: what may stand in it, and how what is wrong is said, by its dotted path."""

import re
from dataclasses import replace
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from farebox.domain.catalog import (
    CURRENCIES,
    AnyPrice,
    Catalog,
    Meter,
    PackagePrice,
    Plan,
    Price,
    Route,
    Tier,
    TieredPrice,
    minor_units,
)
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
    "TRIAL_DAYS_MAX",
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
TRIAL_DAYS_MAX: Final = 730  # as Stripe takes them
MATCH_CHARACTERS_MAX: Final = 256  # the ledger keeps it with what was used
_ITEMS_MAX: Final = 20  # of a subscription at Stripe, the base fee among them
_TIERS_MAX: Final = 100
_UNITS_MAX: Final = 10**15  # of a tier or a package
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


def _currency(value: str) -> str:
    if value not in CURRENCIES:
        known = value.strip().lower() in CURRENCIES
        advice = f'write "{value.strip().lower()}"' if known else 'write its code in small letters, like "usd"'
        raise ValueError(f"{value[:40]!r} is no currency that Farebox knows; {advice}")
    return value


_Currency = Annotated[str, AfterValidator(_currency)]


class _Amounts(_Table):
    """What a plan costs in one currency."""

    base: _Amount | None = Field(default=None, description="The fee for each interval, in advance")
    setup_fee: _Amount | None = Field(default=None, description="Charged once, with an account's first subscription")
    minimum: _Amount | None = Field(default=None, description="The least that a whole interval comes to")
    prices: list[_Price] = Field(min_length=1, max_length=_ITEMS_MAX, description="One for each meter")


class _Plan(_Amounts):
    title: str = Field(min_length=1, max_length=250)
    currency: _Currency = "usd"
    interval: Literal["day", "week", "month", "year"] = "month"
    currencies: dict[_Currency, _Amounts] = Field(
        default_factory=dict, max_length=20, description="The same plan in other currencies"
    )
    trial_days: Annotated[int, BeforeValidator(_whole)] = Field(default=0, ge=0, le=TRIAL_DAYS_MAX)
    card_required: bool = Field(default=True, description="Ask for a card also where nothing is due today")
    promotion_codes: bool = Field(default=False, description="Let buyers enter promotion codes at checkout")
    tax: bool = Field(default=False, description="Have Stripe Tax compute taxes on top")
    metadata: dict[Annotated[str, Field(min_length=1, max_length=40)], Annotated[str, Field(max_length=500)]] = Field(
        default_factory=dict, max_length=40, description="Kept with the product and the subscriptions at Stripe"
    )

    @field_validator("metadata")
    @classmethod
    def _check_metadata(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if name.startswith("farebox_"):
                raise ValueError(f"{name!r}: names that begin with farebox_ are Farebox's own; choose another")
        return value


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
    plans = {name: _plan(name, plan, faults) for name, plan in model.plans.items()}
    faults += _key_faults(plans)
    if faults:
        raise ConfigError("\n".join(f"{source}: {fault}" for fault in faults))
    meters = {n: Meter(name=n, title=m.title, event_name=m.event_name or n) for n, m in model.meters.items()}
    return Catalog(meters=meters, plans=plans, routes=tuple(_route(route) for route in model.routes))


def _priced(model: FileModel) -> list[tuple[str, _Amounts]]:
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


def _meter_faults(model: FileModel) -> list[str]:
    known = ", ".join(sorted(model.meters)) or "none"
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


def _plan(name: str, plan: _Plan, faults: list[str]) -> Plan:
    """The plan in all its currencies. What is wrong with it is added to the faults, with something harmless in its
    place."""
    main = _offer(name, plan, plan, plan.currency, f"plans.{name}", faults)
    others = []
    for code, amounts in plan.currencies.items():
        where = f"plans.{name}.currencies.{code}"
        if code == plan.currency:
            faults.append(f"{where}: {code} is the plan's main currency; its amounts stand in plans.{name} itself")
        if {price.meter for price in amounts.prices} != {price.meter for price in plan.prices}:
            faults.append(f"{where}.prices: they must be for the same meters as those of plans.{name}")
        others.append(replace(_offer(name, plan, amounts, code, where, faults), is_other=True))
    return replace(main, others=tuple(others))


def _offer(name: str, plan: _Plan, amounts: _Amounts, currency: str, where: str, faults: list[str]) -> Plan:
    """The plan in one currency."""

    def exact(field: str) -> Decimal | None:
        amount: str | None = getattr(amounts, field)
        return _exact(amount, currency, f"{where}.{field}", faults) if amount is not None else None

    base, setup_fee, minimum = exact("base"), exact("setup_fee"), exact("minimum") or Decimal(0)
    if minimum != int(minimum):
        faults.append(f"{where}.minimum: {amounts.minimum!r} is no whole number of the currency's smallest unit")
    if amounts.base is not None and len(amounts.prices) == _ITEMS_MAX:
        faults.append(f"{where}.prices: at most {_ITEMS_MAX - 1} beside a base fee: Stripe takes {_ITEMS_MAX} in all")
    return Plan(
        name=name,
        title=plan.title,
        currency=currency,
        interval=plan.interval,
        prices=tuple(_price(price, currency, f"{where}.prices[{i}]", faults) for i, price in enumerate(amounts.prices)),
        base=base,
        setup_fee=setup_fee,
        minimum=int(minimum),
        trial_days=plan.trial_days,
        card_required=plan.card_required,
        promotion_codes=plan.promotion_codes,
        tax=plan.tax,
        metadata=plan.metadata,
    )


def _price(price: _Price, currency: str, where: str, faults: list[str]) -> AnyPrice:
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
    return Price(price.meter, amount)


def _key_faults(plans: dict[str, Plan]) -> list[str]:
    """Plans whose prices would have one name at Stripe: plan a_b with meter c, and plan a with meter b_c."""
    faults, taken = [], dict[str, str]()
    for name, plan in plans.items():
        for key in {offer.lookup_key(sold) for offer in plan.offers for sold in offer.sold()}:
            if taken.setdefault(key, name) != name:
                said = f"a price would be called {key} at Stripe, like one of plans.{taken[key]}; rename the plan"
                faults.append(f"plans.{name}: {said}")
    return faults


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
