"""What if: the usage of real billing periods, rated under another catalog beside the current one.

Periods come account by account, so that of accounts only sums are kept, and those that would pay most more.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from heapq import heappush, heappushpop

from farebox.domain.catalog import Catalog, Plan
from farebox.domain.rating import lines_of, total_of
from farebox.errors import InputInvalid

__all__ = ["AccountChange", "Change", "Compared", "CurrencySum", "Left", "Simulation", "Tally", "UsedPeriod", "WhatIf"]


@dataclass(frozen=True, slots=True)
class UsedPeriod:
    """A billing period of a subscription to a plan, and what was used in it by meter, corrections included."""

    account_id: str
    subscription_id: str
    plan: str
    currency: str
    start: int
    end: int
    used: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Compared:
    """What a period comes to under either catalog, in minor units; None where the catalog has no such plan.

    `runs`: the period is not over, and so far only.
    """

    period: UsedPeriod
    plan_after: str
    currency: str
    before: int | None
    after: int | None
    runs: bool


class Change(IntEnum):
    """What an account would pay, beside what it pays now."""

    HALF = 0
    LESS = 1
    LITTLE_LESS = 2
    SAME = 3
    LITTLE_MORE = 4
    MORE = 5
    MUCH_MORE = 6

    @classmethod
    def of(cls, before: int, after: int) -> "Change":
        """LITTLE is up to 20 %, HALF 50 % or less of it, MUCH_MORE above 50 % more."""
        percent = abs(after - before) * 100
        if after < before:
            return cls.HALF if percent >= 50 * before else cls.LESS if percent > 20 * before else cls.LITTLE_LESS
        if after > before:
            return cls.MUCH_MORE if percent > 50 * before else cls.MORE if percent > 20 * before else cls.LITTLE_MORE
        return cls.SAME


@dataclass(frozen=True, slots=True, order=True)
class AccountChange:
    """What an account pays over all its periods, in minor units; ordered by how much more it would."""

    change: int
    account_id: str
    plan: str
    currency: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class CurrencySum:
    """All that is compared in one currency. `accounts`: how many would pay less, the same or more, by `Change`."""

    currency: str
    before: int
    after: int
    accounts: tuple[int, ...]
    most_more: tuple[AccountChange, ...]

    def count(self, first: Change, last: Change) -> int:
        return sum(self.accounts[first : last + 1])


@dataclass(frozen=True, slots=True)
class Left:
    """Periods that cannot be compared, because a catalog lacks their plan. `before` in minor units; None: unknown."""

    plan: str
    plan_after: str
    currency: str
    accounts: int
    periods: int
    before: int | None
    first_accounts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Simulation:
    """The whole. `running`: how many of the periods compared are not over."""

    sums: tuple[CurrencySum, ...]
    left: tuple[Left, ...]
    accounts: int
    periods: int
    running: int


@dataclass(frozen=True, slots=True)
class WhatIf:
    """Two catalogs, and plans that have another name in the later one."""

    before: Catalog
    after: Catalog
    renamed: Mapping[str, str] = field(default_factory=dict)

    def compare(self, period: UsedPeriod, now: int) -> Compared:
        """Rate the period twice. InputInvalid when the amounts could not be compared."""
        name = self.renamed.get(period.plan, period.plan)
        old, new = _in_currency(self.before, period.plan, period), _in_currency(self.after, name, period)
        for plan, catalog in ((old, "the current catalog"), (new, "the new one")):
            if plan is not None and plan.currency != (period.currency or plan.currency):
                raise InputInvalid(
                    f"{period.account_id} pays {period.plan} in {period.currency}, and plans.{plan.name} of {catalog} "
                    f"is in {plan.currency}. Amounts of two currencies cannot be compared: give it the same one."
                )
        if old is not None and new is not None and old.interval != new.interval:
            raise InputInvalid(
                f"plans.{old.name} bills each {old.interval} in the current catalog, and plans.{new.name} each "
                f"{new.interval} in the new one. A period is rated as it was: give both the same interval."
            )
        currency = period.currency or next((plan.currency for plan in (old, new) if plan is not None), "")
        return Compared(period, name, currency, _rated(old, period), _rated(new, period), period.end > now)


def _in_currency(catalog: Catalog, name: str, period: UsedPeriod) -> Plan | None:
    """The plan as the period's account has it; in its main currency where it is not sold in that one."""
    plan = catalog.plans.get(name)
    return plan if plan is None else plan.offer_in(period.currency) or plan


class Tally:
    """Adds up what is compared, an account's periods one after another. `most`: how many accounts to name."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._account = ""
        self._open: dict[str, list[int]] = {}  # of the account, by currency: before, after
        self._plan = ""
        self._sums: dict[str, _Sum] = {}
        self._left: dict[tuple[str, str, str], _Left] = {}
        self._accounts = self._periods = self._running = 0

    def add(self, one: Compared) -> None:
        if one.period.account_id != self._account:
            self._close()
            self._account = one.period.account_id
            self._accounts += 1
        self._periods += 1
        if one.before is None or one.after is None:
            key = (one.period.plan, one.plan_after, one.currency)
            self._left.setdefault(key, _Left(one.before is not None)).add(one, self._most)
            return
        self._running += one.runs
        self._plan = one.period.plan
        amounts = self._open.setdefault(one.currency, [0, 0])
        amounts[0] += one.before
        amounts[1] += one.after

    def result(self) -> Simulation:
        """What has been added so far."""
        self._close()
        left = [
            Left(*key, one.accounts, one.periods, one.before if one.known else None, tuple(one.first))
            for key, one in sorted(self._left.items())
        ]
        sums = [
            CurrencySum(
                currency, one.before, one.after, tuple(one.accounts), tuple(sorted(one.most_more, reverse=True))
            )
            for currency, one in sorted(self._sums.items())
        ]
        return Simulation(tuple(sums), tuple(left), self._accounts, self._periods, self._running)

    def _close(self) -> None:
        for currency, (before, after) in self._open.items():
            one = AccountChange(after - before, self._account, self._plan, currency, before, after)
            self._sums.setdefault(currency, _Sum()).add(one, self._most)
        self._open = {}


@dataclass(slots=True)
class _Sum:
    before: int = 0
    after: int = 0
    accounts: list[int] = field(default_factory=lambda: [0] * len(Change))
    most_more: list[AccountChange] = field(default_factory=list)  # a heap

    def add(self, one: AccountChange, most: int) -> None:
        self.before += one.before
        self.after += one.after
        self.accounts[Change.of(one.before, one.after)] += 1
        if one.change > 0:
            keep = heappush if len(self.most_more) < most else heappushpop
            keep(self.most_more, one)


@dataclass(slots=True)
class _Left:
    known: bool
    periods: int = 0
    before: int = 0
    accounts: int = 0
    first: list[str] = field(default_factory=list)
    last: str = ""

    def add(self, one: Compared, most: int) -> None:
        self.periods += 1
        self.before += one.before or 0
        if one.period.account_id != self.last:
            self.last = one.period.account_id
            self.accounts += 1
            if len(self.first) < most:
                self.first.append(self.last)


def _rated(plan: Plan | None, period: UsedPeriod) -> int | None:
    return None if plan is None else total_of(lines_of(plan, period.used))
