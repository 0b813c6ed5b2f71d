"""Billing periods: which second belongs to which, and at which price."""

from dataclasses import replace
from decimal import Decimal
from typing import Final

from farebox.domain.accounts import Subscription, SubscriptionItem
from farebox.domain.catalog import Price
from farebox.domain.periods import BillingPeriod, periods_of, with_known_starts
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


def applied(subscription: Subscription, known: list[BillingPeriod]) -> list[BillingPeriod]:
    """As it is applied: with its items from where they start in the ledger."""
    return periods_of("a", [with_known_starts(subscription, known)], known)


def test_a_period_holds_every_item_that_runs_in_it() -> None:
    """I6: a second item that Stripe makes in mid-period is priced from then on, and cuts nothing off the first."""
    known = applied(SUBSCRIPTION, [])
    second = replace(ITEM, id="si_2", price=Price("tokens", Decimal(1)), period=Period(AT + 10 * DAY, AT + 30 * DAY))
    (period,) = applied(replace(SUBSCRIPTION, items=(ITEM, second)), known)
    assert (period.start, period.end) == (AT, AT + 30 * DAY)
    assert [(item.meter, (item.period.start - AT) // DAY) for item in period.items] == [("calls", 0), ("tokens", 10)]
    (later,) = applied(replace(SUBSCRIPTION, items=(second,)), [period])
    assert (later.start, [item.meter for item in later.items]) == (AT, ["tokens"]), "the first was taken away"


def test_items_made_within_two_seconds_start_together() -> None:
    """I6: the items of one checkout have one period, though Stripe made them around a full second."""
    second = replace(ITEM, id="si_2", price=Price("tokens", Decimal(1)), period=Period(AT + 1, AT + 30 * DAY))
    (period,) = applied(replace(SUBSCRIPTION, items=(ITEM, second)), [])
    assert {item.period.start for item in period.items} == {AT}


def test_a_change_of_all_items_begins_another_period() -> None:
    """I6: after a change of plan in mid-period the earlier prices keep their part."""
    known = applied(SUBSCRIPTION, [])
    other = replace(ITEM, id="si_2", period=Period(AT + 10 * DAY, AT + 30 * DAY), interval_start=AT)
    both = applied(replace(SUBSCRIPTION, items=(other,)), known)
    assert [(p.items[0].id, (p.end - p.start) // DAY) for p in both] == [("si_1", 10), ("si_2", 20)]


def test_no_second_lies_between_a_period_and_the_next() -> None:
    """I6: Stripe enters a schedule's next phase some minutes late; what is used until then belongs to the new period,
    and its next fetch finds it there."""
    known = applied(SUBSCRIPTION, [])
    end = AT + 30 * DAY
    item = replace(ITEM, id="si_2", period=Period(end + 240, end + 30 * DAY), interval_start=end)
    phase = replace(SUBSCRIPTION, items=(item,))
    first, second = applied(phase, known)
    assert (first.end, second.start) == (end, end)
    assert with_known_starts(phase, [first, second]).items[0].period.start == end
    assert applied(phase, [first, second]) == [first, second]
    new = replace(phase, id="sub_2")
    assert [p.start - end for p in applied(new, known)][1:] == [240], "another subscription's gap is not its own"


def test_an_end_is_stripes_own() -> None:
    """I6, F23: an end with the period is the period's end whatever our clock showed; one before it never makes a
    whole period."""
    end = AT + 30 * DAY
    for ended_at, seen_at, expected in (
        (end, end - 5, end),
        (end + 3, end - 5, end),
        (end, end + 900, end),
        (AT + DAY, AT + DAY + 4, AT + DAY + 4),
        (AT + DAY, AT + DAY - 4, AT + DAY),
        (AT + DAY, end + 900, end - 1),
    ):
        over = replace(SUBSCRIPTION, status="canceled", ended_at=ended_at, status_since_at=seen_at)
        assert [p.end for p in periods_of("a", [over], [])] == [expected], (ended_at - AT, seen_at - AT)


def test_what_ended_before_it_began_is_no_period() -> None:
    """I3: Stripe may show the next interval of a subscription that ended with the last one."""
    known = applied(SUBSCRIPTION, [])
    end = AT + 30 * DAY
    rolled = replace(ITEM, period=Period(end, end + 30 * DAY), interval_start=end)
    over = replace(SUBSCRIPTION, status="canceled", ended_at=end, status_since_at=end + 5, items=(rolled,))
    assert spans(applied(over, known)) == [("sub_1", 0, 30)]


def test_a_trial_stays_one() -> None:
    """I7: a trial that is cancelled or paused keeps costing nothing, and what follows a trial costs its price."""
    trial = replace(SUBSCRIPTION, status="trialing", trial_end=AT + 30 * DAY, base=Decimal(900))
    (known,) = applied(trial, [])
    for status in ("canceled", "paused", "active"):
        over = replace(trial, status=status, ended_at=AT + 5 * DAY, status_since_at=AT + 5 * DAY)
        (period,) = applied(over, [known])
        assert (period.trial, period.items[0].price.unit_amount, period.base) == (True, Decimal(0), None)  # type: ignore[union-attr]
        untold = replace(over, trial_end=None)
        assert applied(untold, [known])[0].trial
    renewed = replace(ITEM, period=Period(AT + 30 * DAY, AT + 60 * DAY))
    paid = applied(replace(trial, status="active", items=(renewed,)), [known])[1]
    assert (paid.trial, paid.base) == (False, Decimal(900))
