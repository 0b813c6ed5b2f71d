"""What is sold: meters, prices, plans, and which route costs what. Built once from farebox.toml, never changed."""

import re
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from typing import Final

from farebox.domain.rating import money_context

__all__ = [
    "AMOUNT_CHARACTERS_MAX",
    "UNIT_AMOUNT_DECIMALS_MAX",
    "UNIT_AMOUNT_MAX",
    "Catalog",
    "Meter",
    "Plan",
    "Price",
    "Route",
    "currency_decimals",
    "format_minor",
    "minor_units",
]

UNIT_AMOUNT_DECIMALS_MAX: Final = 12  # of a minor unit, as Stripe takes them
UNIT_AMOUNT_MAX: Final = 10**15  # minor units
AMOUNT_CHARACTERS_MAX: Final = 40
_AMOUNT: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?")
_ZERO_DECIMAL: Final = frozenset(
    ["bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "ugx", "vnd", "vuv", "xaf", "xof", "xpf"]
)
_THREE_DECIMAL: Final = frozenset(["bhd", "jod", "kwd", "omr", "tnd"])


@dataclass(frozen=True, slots=True)
class Meter:
    """Something that is counted. `event_name` is its name at Stripe, unique for ever."""

    name: str
    title: str
    event_name: str


@dataclass(frozen=True, slots=True)
class Price:
    """What one unit of a meter costs in a plan. `unit_amount` is exact, in minor units (cents)."""

    plan: str
    meter: str
    currency: str
    unit_amount: Decimal

    @property
    def lookup_key(self) -> str:
        return f"farebox_{self.plan}_{self.meter}"


@dataclass(frozen=True, slots=True)
class Plan:
    name: str
    title: str
    currency: str
    interval: str
    prices: tuple[Price, ...]


@dataclass(frozen=True, slots=True)
class Route:
    """A rule for calls: `method` may be "*", `path` may end in "/**" and hold "{name}" segments.

    Public, or priced by meter.
    """

    method: str
    path: str
    public: bool
    meter: str | None = None
    quantity: int = 0

    @property
    def match(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True)
class Catalog:
    meters: dict[str, Meter] = field(default_factory=dict)
    plans: dict[str, Plan] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()


def currency_decimals(currency: str) -> int:
    """How many decimals the currency's major unit has: 2 for most, 0 or 3 for some."""
    if currency in _ZERO_DECIMAL:
        return 0
    return 3 if currency in _THREE_DECIMAL else 2


def minor_units(amount: str, currency: str) -> Decimal:
    """Turn a decimal string in major units ("1.00") into exact minor units.

    ValueError with a reason when it is not one.
    """
    if not _AMOUNT.fullmatch(amount) or len(amount) > AMOUNT_CHARACTERS_MAX:
        raise ValueError(f'{amount[:60]!r} is not a decimal number; write it like "1.00"')
    with localcontext(money_context()):
        minor = Decimal(amount).scaleb(currency_decimals(currency)).normalize()
    if minor.is_signed():
        raise ValueError(f"{amount!r} must be a finite amount, zero or more")
    if minor > UNIT_AMOUNT_MAX:
        raise ValueError(f"{amount!r} is more than {UNIT_AMOUNT_MAX} minor units")
    exponent = minor.as_tuple().exponent
    if isinstance(exponent, int) and -exponent > UNIT_AMOUNT_DECIMALS_MAX:
        raise ValueError(
            f"{amount!r} has more than {UNIT_AMOUNT_DECIMALS_MAX} decimals of a minor unit, which Stripe does not take"
        )
    return minor


def format_minor(amount: Decimal | int, currency: str) -> str:
    """Show minor units for people: 2500 usd → "25.00 USD"; keeps all decimals of an exact unit amount."""
    decimals = currency_decimals(currency)
    with localcontext(money_context()):
        value = Decimal(amount).scaleb(-decimals)
        exponent = value.normalize().as_tuple().exponent
    places = max(decimals, -exponent if isinstance(exponent, int) else 0)
    return f"{value:.{places}f} {currency.upper()}"
