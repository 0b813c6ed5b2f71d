"""When a buyer may change plans, as the seller decides it: upgrades and downgrades each have their own rule (I17)."""

from dataclasses import dataclass
from decimal import Decimal

__all__ = ["ChangeRules", "RankedPlan", "is_upgrade", "refusal_of"]


@dataclass(frozen=True, slots=True)
class ChangeRules:
    """The earliest time at which a buyer may make a change: "now", "period_end", or "operator" for never.

    `order` names plans, cheapest first, and ranks those whose base fees do not tell.
    """

    upgrade: str = "now"
    downgrade: str = "period_end"
    order: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RankedPlan:
    """What a plan is ranked by: its name, and its base fee for each interval, exact, in minor units."""

    name: str
    base: Decimal | None
    interval: str


def is_upgrade(rules: ChangeRules, current: RankedPlan, target: RankedPlan) -> bool:
    """Whether the target ranks higher than what the subscription has. Both are in one currency.

    Equal ranks, and ranks that cannot be compared, are no upgrade.
    """
    if current.name == target.name:
        return False
    if current.name in rules.order and target.name in rules.order:
        return rules.order.index(target.name) > rules.order.index(current.name)
    return current.interval == target.interval and (target.base or Decimal(0)) > (current.base or Decimal(0))


def refusal_of(rules: ChangeRules, plan: str, when: str, *, upgrade: bool) -> str:
    """Why a buyer may not make the change at that time, and what is possible; "" when it is allowed."""
    allowed = rules.upgrade if upgrade else rules.downgrade
    if allowed == "operator":
        return f"Only the seller of this API changes a subscription to plan {plan}. Ask them."
    if allowed == "period_end" and when == "now":
        return (
            f'A change to plan {plan} takes effect when the running period ends. Ask for it with "when": "period_end".'
        )
    return ""
