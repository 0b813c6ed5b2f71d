"""What a buyer owes, added up from its acts alone: an oracle for walks through a seller's plans (I17).

Knows nothing of Farebox or Stripe: a plan, when a period began and ended, what was used in it, and what has been
granted or paid before. Amounts in cents, times in seconds.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Final

__all__ = ["PLANS", "WEEK", "Account", "Terms", "catalog_text"]

WEEK: Final = 7 * 86_400


@dataclass(frozen=True)
class Terms:
    """A weekly plan with one meter: included units, then so many cents each."""

    base: int = 0
    included: int = 0
    unit: int = 0
    setup: int = 0
    minimum: int = 0
    trial_days: int = 0
    card: bool = True


PLANS: Final = {
    "free": Terms(included=5, unit=100, card=False),
    "payg": Terms(unit=100),
    "pro": Terms(base=700, included=20, unit=50, setup=300),
    "least": Terms(base=400, unit=100, minimum=1_500),
    "tried": Terms(base=900, included=10, unit=80, setup=200, trial_days=3),
    "scale": Terms(base=2_100, included=50, unit=20),
}
ORDER: Final = ("free", "payg")


def catalog_text() -> str:
    """The same plans as a seller writes them."""
    parts = ['[meters.calls]\ntitle = "API calls"\n[changes]\norder = ["free", "payg"]\n']
    for name, terms in PLANS.items():
        lines = [f"[plans.{name}]", f'title = "{name.title()}"', 'interval = "week"']
        lines += [
            f'{key} = "{amount // 100}.{amount % 100:02}"'
            for key, amount in (("base", terms.base), ("setup_fee", terms.setup), ("minimum", terms.minimum))
            if amount
        ]
        lines += [f"trial_days = {terms.trial_days}"] if terms.trial_days else []
        lines += [] if terms.card else ["card_required = false"]
        unit = f'"{terms.unit // 100}.{terms.unit % 100:02}"'
        lines += [f"[[plans.{name}.prices]]", 'meter = "calls"']
        if terms.included:
            tiers = f'{{ up_to = {terms.included}, unit_amount = "0" }}, {{ up_to = "inf", unit_amount = {unit} }}'
            lines += ['mode = "graduated"', f"tiers = [ {tiers} ]"]
        else:
            lines.append(f"unit_amount = {unit}")
        parts.append("\n".join(lines) + "\n")
    return "\n".join([*parts, '[[routes]]\nmatch = "GET /api"\nmeter = "calls"\nquantity = 1\n'])


@dataclass
class Account:
    """A buyer's state, and what all of it comes to so far. `cuts` counts roundings, each worth a cent at most."""

    plan: str = ""
    start: int = 0
    end: int = 0
    used: int = 0
    trial: bool = False
    ends: bool = False
    next_plan: str = ""
    had: set[str] = field(default_factory=set)
    owed: int = 0
    cuts: int = 0

    def subscribe(self, plan: str, at: int) -> None:
        terms = PLANS[plan]
        self.trial = bool(terms.trial_days) and plan not in self.had
        self.ends, self.next_plan = False, ""
        self._enter(plan, at, at + (terms.trial_days * 86_400 if self.trial else WEEK))

    def is_upgrade(self, plan: str) -> bool:
        if plan in ORDER and self.plan in ORDER:
            return ORDER.index(plan) > ORDER.index(self.plan)
        return PLANS[plan].base > PLANS[self.plan].base

    def change_now(self, plan: str, at: int) -> None:
        """The running period is cut: the larger part of time and of included units is owed, and a minimum whole."""
        terms = PLANS[self.plan]
        if not self.trial:
            left = Fraction(self.end - at, self.end - self.start)
            if terms.included:
                left = min(left, Fraction(max(terms.included - self.used, 0), terms.included))
            self.owed += max(terms.minimum, round(terms.base * (1 - left)) + self._usage())
            self.cuts += 1
        self.trial, self.next_plan = False, ""
        self._enter(plan, at, at + WEEK)

    def pass_end(self) -> None:
        """The running period ends by itself: it costs what the plan says, and the next one begins, or none."""
        terms = PLANS[self.plan]
        if not self.trial:
            self.owed += max(terms.minimum, terms.base + self._usage())
        self.trial = False
        if self.ends:
            self.plan = ""
            return
        plan, self.next_plan = self.next_plan or self.plan, ""
        self._enter(plan, self.end, self.end + WEEK)

    def _enter(self, plan: str, start: int, end: int) -> None:
        if plan not in self.had:
            self.owed += PLANS[plan].setup
            self.had.add(plan)
        self.plan, self.start, self.end, self.used = plan, start, end, 0

    def _usage(self) -> int:
        terms = PLANS[self.plan]
        return max(self.used - terms.included, 0) * terms.unit
