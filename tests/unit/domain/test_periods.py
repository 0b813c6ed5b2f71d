"""Billing periods: which second belongs to which, and at which price."""

from dataclasses import replace
from decimal import Decimal
from typing import Final

from farebox.domain.accounts import Subscription, SubscriptionItem
from farebox.domain.catalog import Price
from farebox.domain.periods import BillingPeriod, periods_of
from farebox.domain.usage import Period

AT: Final = 1_800_000_000
DAY: Final = 86_400
ITEM: Final = SubscriptionItem("si_1", "price_1", Price("calls", Decimal("1.5")), "usd", Period(AT, AT + 30 * DAY))
SUBSCRIPTION: Final = Subscription("sub_1", "cus_1", "payg", "active", AT, (ITEM,))


def spans(periods: list[BillingPeriod]) -> list[tuple[str, int, int]]:
    return [(p.subscription_id, (p.start - AT) // DAY, (p.end - AT) // DAY) for p in periods]


def test_a_renewal_adds_a_period_and_keeps_the_old_one_with_its_price() -> None:
    """I6: a price that changes at the renewal leaves the price of what was used before it alone."""
    first = periods_of("a", [SUBSCRIPTION], [])
    later = replace(ITEM, price=Price("calls", Decimal(9)), period=Period(AT + 30 * DAY, AT + 60 * DAY))
    both = periods_of("a", [replace(SUBSCRIPTION, items=(later,))], first)
    assert spans(both) == [("sub_1", 0, 30), ("sub_1", 30, 60)]
    assert [p.items[0].price for p in both] == [Price("calls", Decimal("1.5")), Price("calls", Decimal(9))]


def test_each_second_belongs_to_one_period() -> None:
    """I3: who cancels and subscribes anew within a month has two periods that do not overlap."""
    ended = replace(SUBSCRIPTION, status="canceled", status_since_at=AT + 10 * DAY)
    anew = replace(
        SUBSCRIPTION, id="sub_2", items=(replace(ITEM, period=Period(AT + 8 * DAY, AT + 38 * DAY)),), created_at=AT + 8
    )
    assert spans(periods_of("a", [ended], [])) == [("sub_1", 0, 10)]
    assert spans(periods_of("a", [ended, anew], [])) == [("sub_1", 0, 8), ("sub_2", 8, 38)]


def test_a_trial_costs_nothing() -> None:
    """I7: what is used in a trial is never billed late."""
    (trial,) = periods_of("a", [replace(SUBSCRIPTION, status="trialing")], [])
    assert trial.items[0].price == Price("calls", Decimal(0))


def test_a_purchase_that_was_never_completed_has_no_period() -> None:
    """An incomplete subscription cuts into no other's period."""
    unpaid = replace(
        SUBSCRIPTION, id="sub_2", status="incomplete", items=(replace(ITEM, period=Period(AT + 5, AT + 9)),)
    )
    assert spans(periods_of("a", [SUBSCRIPTION, unpaid], [])) == [("sub_1", 0, 30)]


def test_a_final_period_stays_as_it_was() -> None:
    """I7: what Stripe says after the invoice is final changes no price of it."""
    (known,) = periods_of("a", [SUBSCRIPTION], [])
    final = replace(known, finalized_at=AT + 31 * DAY, invoice_id="in_1")
    changed = replace(SUBSCRIPTION, items=(replace(ITEM, price=Price("calls", Decimal(7))),))
    assert periods_of("a", [changed], [final]) == [final]
