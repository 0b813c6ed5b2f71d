"""The form of a plan in farebox.toml, and the plan that it describes, in each of its currencies."""

from dataclasses import replace
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema, field_validator

from farebox.configtable import Table, Whole
from farebox.domain.catalog import (
    CURRENCIES,
    AnyPrice,
    PackagePrice,
    Plan,
    Price,
    Tier,
    TieredPrice,
    charge_step,
    format_minor,
    minor_units,
)

__all__ = ["TRIAL_DAYS_MAX", "AmountsTable", "PlanTable", "key_faults", "plan_of"]

TRIAL_DAYS_MAX: Final = 730  # as Stripe takes them
_ITEMS_MAX: Final = 20  # of a subscription at Stripe, the base fee among them
_TIERS_MAX: Final = 100
_UNITS_MAX: Final = 10**15  # of a tier or a package


def _amount(value: object) -> object:
    if isinstance(value, float):
        raise ValueError(f'write the amount as a string, "{value}": a float cannot hold money exactly')
    if isinstance(value, int):
        raise ValueError(f'write the amount as a string, "{value}.00"')
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


_NUMBER: Final = {"type": "integer", "minimum": 1, "maximum": _UNITS_MAX}
_DECIMAL: Final = {"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?([eE][+-]?[0-9]{1,2})?$"}
_Amount = Annotated[str, BeforeValidator(_amount), WithJsonSchema(_DECIMAL)]
_Units = Annotated[int, BeforeValidator(_units), WithJsonSchema(_NUMBER)]


_ANY_AMOUNT: Final[dict[str, Any]] = {"anyOf": [{"required": ["unit_amount"]}, {"required": ["flat_amount"]}]}


class _Tier(Table):
    model_config = ConfigDict(json_schema_extra=_ANY_AMOUNT)

    up_to: Annotated[int | None, BeforeValidator(_up_to), WithJsonSchema({"anyOf": [_NUMBER, {"const": "inf"}]})]
    unit_amount: _Amount | None = None
    flat_amount: _Amount | None = None


class _Package(Table):
    size: _Units
    unit_amount: _Amount
    round: Literal["up", "down"] = "up"


_ONE_KIND: Final[dict[str, Any]] = {
    "oneOf": [{"required": ["unit_amount"]}, {"required": ["tiers"]}, {"required": ["package"]}],
    "dependentRequired": {"tiers": ["mode"], "mode": ["tiers"]},
}


class _Price(Table):
    model_config = ConfigDict(json_schema_extra=_ONE_KIND)

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


_Currency = Annotated[str, AfterValidator(_currency), Field(json_schema_extra={"enum": [*sorted(CURRENCIES)]})]


class AmountsTable(Table):
    """What a plan costs in one currency."""

    base: _Amount | None = None
    setup_fee: _Amount | None = None
    minimum: _Amount | None = None
    prices: list[_Price] = Field(min_length=1, max_length=_ITEMS_MAX)


class PlanTable(AmountsTable):
    """What is sold, and to whom on which terms."""

    title: str = Field(min_length=1, max_length=250)
    currency: _Currency = "usd"
    interval: Literal["day", "week", "month", "year"] = "month"
    currencies: dict[_Currency, AmountsTable] = Field(default_factory=dict, max_length=20)
    trial_days: Whole = Field(default=0, ge=0, le=TRIAL_DAYS_MAX)
    card_required: bool = True
    promotion_codes: bool = False
    tax: bool = False
    metadata: dict[Annotated[str, Field(min_length=1, max_length=40)], Annotated[str, Field(max_length=500)]] = Field(
        default_factory=dict, max_length=40
    )

    @field_validator("metadata")
    @classmethod
    def _check_metadata(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if name.startswith("farebox_"):
                raise ValueError(f"{name!r}: names that begin with farebox_ are Farebox's own; choose another")
            if "[" in name or "]" in name:
                raise ValueError(f"{name!r}: Stripe takes no square brackets in a metadata name; leave them out")
            if not value[name].strip():
                raise ValueError(f"{name!r} is empty, and Stripe keeps no empty value; take it out")
            if not (name + value[name].replace("\n", "")).isprintable():
                raise ValueError(f"{name!r} holds control characters; write plain text")
        return value


def plan_of(name: str, plan: PlanTable, faults: list[str]) -> Plan:
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


def _offer(name: str, plan: PlanTable, amounts: AmountsTable, currency: str, where: str, faults: list[str]) -> Plan:
    """The plan in one currency."""

    def exact(field: str) -> Decimal | None:
        amount: str | None = getattr(amounts, field)
        return _exact(amount, currency, f"{where}.{field}", faults) if amount is not None else None

    base, setup_fee, minimum = exact("base"), exact("setup_fee"), exact("minimum") or Decimal(0)
    for field, amount in (("base", base), ("setup_fee", setup_fee), ("minimum", minimum)):
        if amount is not None:
            faults += _step_faults(amount, currency, f"{where}.{field}")
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


def key_faults(plans: dict[str, Plan]) -> list[str]:
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


def _step_faults(amount: Decimal, currency: str, where: str) -> list[str]:
    """A fixed amount that Stripe could not charge as it is: a fraction of a crown, or a third decimal."""
    step = charge_step(currency)
    if step == 1 or amount % step == 0:
        return []
    low = int(amount // step) * step
    near = " or ".join(format_minor(each, currency) for each in (low, low + step))
    return [f"{where}: {format_minor(amount, currency)} cannot be charged at Stripe; write {near}"]


def _exact(amount: str, currency: str, where: str, faults: list[str]) -> Decimal:
    try:
        return minor_units(amount, currency)
    except ValueError as error:
        faults.append(f"{where}: {error}")
        return Decimal(0)
