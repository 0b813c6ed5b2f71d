"""Which change of plan is an upgrade, and when the seller lets buyers make it (I17)."""

from decimal import Decimal

import pytest

from farebox.domain.changes import ChangeRules, RankedPlan, is_upgrade, refusal_of


def plan(name: str, base: int | None = None, interval: str = "month") -> RankedPlan:
    return RankedPlan(name, None if base is None else Decimal(base), interval)


@pytest.mark.parametrize(
    ("current", "target", "order", "expected"),
    [
        (plan("free"), plan("pro", 1_900), (), True),
        (plan("pro", 1_900), plan("free"), (), False),
        (plan("payg"), plan("bulk"), (), False),
        (plan("payg"), plan("bulk"), ("payg", "bulk"), True),
        (plan("pro", 1_900), plan("payg"), ("pro", "payg"), True),
        (plan("pro", 1_900), plan("payg"), ("payg", "pro"), False),
        (plan("payg"), plan("pro", 1_900), ("payg",), True),
        (plan("pro", 1_900), plan("year", 19_000, "year"), (), False),
        (plan("pro", 1_900), plan("year", 19_000, "year"), ("pro", "year"), True),
        (plan("pro", 1_900), plan("pro", 2_900), (), False),
    ],
)
def test_what_is_an_upgrade(current: RankedPlan, target: RankedPlan, order: tuple[str, ...], expected: bool) -> None:
    """The seller's order decides, else base fees of one interval; whatever cannot be compared is a downgrade."""
    assert is_upgrade(ChangeRules(order=order), current, target) is expected


@pytest.mark.parametrize(
    ("allowed", "when", "refusal"),
    [
        ("now", "now", ""),
        ("now", "period_end", ""),
        ("period_end", "period_end", ""),
        (
            "period_end",
            "now",
            'A change to plan pro takes effect when the running period ends. Ask for it with "when": "period_end".',
        ),
        ("operator", "now", "Only the seller of this API changes a subscription to plan pro. Ask them."),
        ("operator", "period_end", "Only the seller of this API changes a subscription to plan pro. Ask them."),
    ],
)
def test_a_refusal_says_what_is_possible(allowed: str, when: str, refusal: str) -> None:
    """A setting allows its own time and any later one; what it refuses names the way that is left."""
    assert refusal_of(ChangeRules(upgrade=allowed), "pro", when, upgrade=True) == refusal
    assert refusal_of(ChangeRules(downgrade=allowed), "pro", when, upgrade=False) == refusal
