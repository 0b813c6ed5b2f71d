"""Which invoice closes a billing period, which keeps it open, and what both make of it (L10, I15)."""

from dataclasses import replace
from decimal import Decimal
from typing import Final

import pytest

from farebox.domain.accounts import Subscription, SubscriptionItem
from farebox.domain.catalog import Price
from farebox.domain.invoices import BilledInvoice, BilledLine, MeterBill, PeriodBill, bill_of, draft_of
from farebox.domain.periods import FINAL_AFTER_SECONDS, BillingPeriod
from farebox.domain.usage import Period

AT: Final = 1_800_000_000
DAY: Final = 86_400
END: Final = AT + 30 * DAY
ITEM: Final = SubscriptionItem("si_1", "price_1", Price("calls", Decimal(100)), "usd", Period(AT, END))
LIVES: Final = Subscription("sub_1", "cus_1", "payg", "active", AT, (ITEM,))
ENDED: Final = replace(LIVES, status="canceled", ended_at=END, status_since_at=END + 3)
PERIOD: Final = BillingPeriod("acc_1", "sub_1", AT, END, (ITEM,))
LINE: Final = BilledLine("si_1", 7, 700, AT, END)
RENEWAL: Final = BilledInvoice("in_1", "paid", "sub_1", END, END + 3_600, (LINE,))
SOON: Final = END + 60
LATER: Final = END + FINAL_AFTER_SECONDS


def draft(invoice: BilledInvoice) -> BilledInvoice:
    return replace(invoice, id="in_draft", status="draft", finalized_at=None)


def bill(*invoices: BilledInvoice, subscription: Subscription | None = LIVES, now: int = LATER) -> PeriodBill | None:
    return bill_of(PERIOD, invoices, subscription=subscription, now=now)


def test_the_invoice_that_reaches_the_end_closes() -> None:
    """L10: the renewal's invoice says what was billed, to the unit; another subscription's says nothing."""
    assert bill(RENEWAL) == PeriodBill("in_1", END + 3_600, {"calls": MeterBill(7, 700, 700)})
    assert bill(replace(RENEWAL, subscription_id="sub_2")) is None
    assert bill(replace(RENEWAL, lines=())) == PeriodBill("in_1", END + 3_600, {"calls": MeterBill(0, 0, 0)})


@pytest.mark.parametrize("subscription", [LIVES, ENDED, None])
def test_a_draft_keeps_it_open(subscription: Subscription | None) -> None:
    """I15: whatever else is final, and however long ago the period ended."""
    early = replace(
        RENEWAL, id="in_0", period_end=AT + DAY, finalized_at=AT + DAY, lines=(replace(LINE, end=AT + DAY),)
    )
    for other in (draft(RENEWAL), draft(replace(RENEWAL, lines=())), draft(replace(RENEWAL, period_end=0))):
        assert bill(RENEWAL, early, other, subscription=subscription, now=LATER + 90 * DAY) is None
        assert draft_of(PERIOD, [other]) == other
    next_one = draft(replace(RENEWAL, period_end=END + 30 * DAY, lines=(replace(LINE, start=END, end=END + 30 * DAY),)))
    by_hand = draft(replace(RENEWAL, period_end=AT + DAY, lines=(replace(LINE, item_id=None),)))
    for other in (next_one, by_hand, draft(replace(RENEWAL, subscription_id="sub_2"))):
        assert bill(RENEWAL, other, subscription=subscription) is not None


def test_an_invoice_from_before_the_end_closes_nothing() -> None:
    """I15: a threshold's invoice and a first one with a line for all of the period are no last word of a living one."""
    first = replace(RENEWAL, period_end=AT, finalized_at=AT + 1, lines=(replace(LINE, quantity=0, amount=0),))
    assert bill(first) is None
    assert bill(first, subscription=ENDED, now=SOON) is None


def test_without_an_invoice_an_ended_one_closes_after_two_hours() -> None:
    """I15: none will come; what earlier ones billed is counted. While the subscription lives one may come."""
    for subscription in (ENDED, None):
        assert bill(subscription=subscription, now=LATER - 1) is None
        assert bill(subscription=subscription) == PeriodBill(None, LATER, {"calls": MeterBill(0, 0, 0)})
    interim = replace(RENEWAL, period_end=AT + DAY, finalized_at=AT + DAY, lines=(replace(LINE, end=AT + DAY),))
    assert bill(interim, subscription=ENDED) == PeriodBill("in_1", LATER, {"calls": MeterBill(7, 700, 700)})
    assert bill(subscription=LIVES, now=LATER + 90 * DAY) is None


def test_a_cancellation_with_its_invoice_closes_at_once() -> None:
    """L12: cancelled now with a last invoice, the period ends at Stripe's second, though we learned of it later."""
    cut = replace(PERIOD, end=AT + DAY + 5)
    over = replace(ENDED, ended_at=AT + DAY)
    last = replace(RENEWAL, period_end=AT + DAY, finalized_at=AT + DAY, lines=(replace(LINE, end=AT + DAY),))
    found = bill_of(cut, [last], subscription=over, now=AT + DAY + 6)
    assert found == PeriodBill("in_1", AT + DAY, {"calls": MeterBill(7, 700, 700)})
