"""What is sold: meters, prices, plans, and which route costs what. Built once from farebox.toml, never changed."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from enum import StrEnum
from typing import Final

from farebox.domain.changes import ChangeRules
from farebox.domain.measures import Terms
from farebox.domain.money import money_context

__all__ = [
    "AMOUNT_CHARACTERS_MAX",
    "CURRENCIES",
    "UNIT_AMOUNT_DECIMALS_MAX",
    "UNIT_AMOUNT_MAX",
    "AnyPrice",
    "Catalog",
    "Fee",
    "FeeKind",
    "Meter",
    "PackagePrice",
    "Plan",
    "Price",
    "Route",
    "Sold",
    "Tier",
    "TieredPrice",
    "charge_step",
    "currency_decimals",
    "format_minor",
    "minor_units",
]

UNIT_AMOUNT_DECIMALS_MAX: Final = 12  # of a minor unit, as Stripe takes them
UNIT_AMOUNT_MAX: Final = 10**15  # minor units
AMOUNT_CHARACTERS_MAX: Final = 40
_AMOUNT: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,2})?")
_CODES: Final = (
    "aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bhd bif bmd bnd bob brl bsd btn bwp byn bzd cad "
    "cdf chf clp cny cop crc cuc cup cve czk djf dkk dop dzd egp ern etb eur fjd fkp gbp gel ghs gip gmd gnf "
    "gtq gyd hkd hnl hrk htg huf idr ils inr iqd irr isk jmd jod jpy kes kgs khr kmf kpw krw kwd kyd kzt lak "
    "lbp lkr lrd lsl lyd mad mdl mga mkd mmk mnt mop mru mur mvr mwk mxn myr mzn nad ngn nio nok npr nzd omr "
    "pab pen pgk php pkr pln pyg qar ron rsd rub rwf sar sbd scr sdg sek sgd shp sle sll sos srd ssp stn svc "
    "syp szl thb tjs tmt tnd top try ttd twd tzs uah ugx usd uyu uzs ved ves vnd vuv wst xaf xcd xcg xof xpf "
    "yer zar zmw zwl"
)
CURRENCIES: Final = frozenset(_CODES.split())
"""The currencies of ISO 4217, and a few that were among them not long ago. Which of them an account may bill in, only
Stripe knows."""
_ZERO_DECIMAL: Final = frozenset(
    ["bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"]
)
_THREE_DECIMAL: Final = frozenset(["bhd", "jod", "kwd", "omr", "tnd"])
_WHOLE_ONLY: Final = frozenset(["isk", "ugx"])  # two decimals at Stripe, which charges no fraction of the major unit


@dataclass(frozen=True, slots=True)
class Meter:
    """Something that is counted. `event_name` is its name at Stripe, unique for ever.

    `free_unpriced` serves calls that it counts to plans without a price for it; otherwise they are refused.
    """

    name: str
    title: str
    event_name: str
    free_unpriced: bool = False


@dataclass(frozen=True, slots=True)
class Price:
    """Per unit: what one unit of a meter costs. `unit_amount` is exact, in minor units (cents)."""

    meter: str
    unit_amount: Decimal


@dataclass(frozen=True, slots=True)
class PackagePrice:
    """Per package of `size` units. A begun package counts whole when rounding up, and not at all otherwise."""

    meter: str
    size: int
    unit_amount: Decimal
    rounds_up: bool


@dataclass(frozen=True, slots=True)
class Tier:
    """Units up to and including `up_to`, None: without end. Amounts are exact, in minor units."""

    up_to: int | None
    unit_amount: Decimal
    flat_amount: Decimal | None = None


@dataclass(frozen=True, slots=True)
class TieredPrice:
    """Graduated: each unit costs what its tier says. Otherwise by volume: all cost what the tier of the last one says.

    Tiers ascend, and the last one has no end.
    """

    meter: str
    graduated: bool
    tiers: tuple[Tier, ...]


AnyPrice = Price | PackagePrice | TieredPrice


class FeeKind(StrEnum):
    """BASE: for each interval, in advance. SETUP: once to each account that comes to the plan."""

    BASE = "base"
    SETUP = "setup"


@dataclass(frozen=True, slots=True)
class Fee:
    """A fixed amount of a plan, exact, in minor units."""

    kind: FeeKind
    amount: Decimal


Sold = AnyPrice | Fee


@dataclass(frozen=True, slots=True)
class Plan:
    """What a buyer subscribes to, in one currency; `others` are the same plan in other currencies.

    Amounts in minor units: `base` for each interval and `setup_fee` once, both exact; `minimum` is the least that base
    and usage of a whole period come to. `tax`: Stripe computes it. `card_required`: also where nothing is due today.
    """

    name: str
    title: str
    currency: str
    interval: str
    prices: tuple[AnyPrice, ...]
    base: Decimal | None = None
    setup_fee: Decimal | None = None
    minimum: int = 0
    trial_days: int = 0
    card_required: bool = True
    promotion_codes: bool = False
    tax: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    others: tuple["Plan", ...] = ()
    is_other: bool = False

    @property
    def offers(self) -> tuple["Plan", ...]:
        """The plan in each of its currencies, the main one first."""
        return (self, *self.others)

    def offer_in(self, currency: str) -> "Plan | None":
        return next((offer for offer in self.offers if offer.currency == currency), None)

    def lookup_key(self, sold: Sold) -> str:
        """The name under which Stripe finds the price, its newest version. A name of the file never holds a colon."""
        part = f":{sold.kind}" if isinstance(sold, Fee) else f"_{sold.meter}"
        return f"farebox_{self.name}{part}" + (f":{self.currency}" if self.is_other else "")

    def recurring(self) -> tuple[Sold, ...]:
        """What a subscription has as its items: the base fee, and a price for each meter."""
        base = () if self.base is None else (Fee(FeeKind.BASE, self.base),)
        return (*base, *self.prices)

    def sold(self) -> tuple[Sold, ...]:
        """Everything that needs a price at Stripe."""
        setup = () if self.setup_fee is None else (Fee(FeeKind.SETUP, self.setup_fee),)
        return (*setup, *self.recurring())


@dataclass(frozen=True, slots=True)
class Route:
    """A rule for calls: `method` may be "*", `path` may end in "/**" and hold "{name}" segments.

    Public, or priced by one meter and a fixed quantity, or by its terms as well.
    """

    method: str
    path: str
    public: bool
    meter: str | None = None
    quantity: int = 0
    terms: Terms | None = None

    @property
    def match(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def meters(self) -> tuple[str, ...]:
        """The meters that count its calls."""
        own = () if self.meter is None else (self.meter,)
        if self.terms is None:
            return own
        return (*own, *(meter for meter, _ in self.terms.fixed), *(one.meter for one in self.terms.measures))


@dataclass(frozen=True, slots=True)
class Catalog:
    """All of it."""

    meters: dict[str, Meter] = field(default_factory=dict)
    plans: dict[str, Plan] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    changes: ChangeRules = field(default_factory=ChangeRules)


def currency_decimals(currency: str) -> int:
    """How many decimals the currency's major unit has: 2 for most, 0 or 3 for some."""
    if currency in _ZERO_DECIMAL:
        return 0
    return 3 if currency in _THREE_DECIMAL else 2


def charge_step(currency: str) -> int:
    """Stripe charges only multiples of so many minor units: 1 for most, 10 with three decimals, 100 of ISK and UGX."""
    if currency in _WHOLE_ONLY:
        return 100
    return 10 if currency in _THREE_DECIMAL else 1


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
