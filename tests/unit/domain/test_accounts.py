"""What a subscription's state means for access, and where it splits the usage."""

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.domain.accounts import (
    TERMINAL_STATUSES,
    Subscription,
    SubscriptionItem,
    boundaries_of,
    current_subscription,
    is_entitled,
    with_status_times,
)
from farebox.domain.catalog import Price
from farebox.domain.usage import Period

NOW = 1_800_000_000
DAY = 86_400
GRACE = 3 * DAY
STATUSES = ["active", "trialing", "past_due", "unpaid", "canceled", "incomplete", "incomplete_expired", "paused"]


def item(start: int, end: int) -> SubscriptionItem:
    return SubscriptionItem(f"si_{start}", "price_1", Price("calls", Decimal(100)), "usd", Period(start, end))


def subscription(status: str = "active", *, id: str = "sub_1", since: int = NOW, created: int = NOW) -> Subscription:
    items = (item(NOW - 10 * DAY, NOW + 20 * DAY),)
    return Subscription(id, "cus_1", "payg", status, created, items, status_since_at=since)


@pytest.mark.parametrize("status", [*STATUSES, "", "ACTIVE", "something_new_at_stripe"])
def test_access_by_status(status: str) -> None:
    """Active and trialing give access, past due for its grace; every other word, known or not, refuses."""
    assert is_entitled(subscription(status), NOW, GRACE) == (status in ("active", "trialing", "past_due"))


def test_past_due_grace() -> None:
    """Past due gives access from when it was first seen until the grace ends, to the second; no grace, no access."""
    late = subscription("past_due")
    assert [is_entitled(late, NOW + s, GRACE) for s in (0, GRACE - 1, GRACE)] == [True, True, False]
    assert not is_entitled(late, NOW, 0)


def test_the_end_of_a_canceled_period() -> None:
    """Canceled at the period's end gives access until that end, to the second, also before the webhook of the end."""
    leaving = replace(subscription(), cancel_at_period_end=True)
    end = NOW + 20 * DAY
    assert [is_entitled(leaving, at, GRACE) for at in (NOW, end - 1, end)] == [True, True, False]
    assert is_entitled(subscription(), end, GRACE)  # one that goes on is renewed, and its buyer calls on


def test_a_period_without_items() -> None:
    """A subscription without items has no period, and does not break the decision."""
    empty = replace(subscription(), items=(), cancel_at_period_end=True)
    assert empty.period is None
    assert is_entitled(empty, NOW, GRACE)


def test_the_period_spans_its_items() -> None:
    """With items of different periods, the subscription's period is from the first start to the last end."""
    mixed = replace(subscription(), items=(item(100, 200), item(50, 150)))
    assert mixed.period == Period(50, 200)


def test_who_speaks_for_the_account() -> None:
    """An entitled subscription goes before a newer one that is not; a living one before an ended one; then the newest.

    L17: so a new subscription is never outvoted by an old one's end.
    """
    old, new = subscription(id="sub_old"), subscription("canceled", id="sub_new", created=NOW + 1)
    assert current_subscription([new, old], NOW, GRACE) is old
    unpaid = subscription("unpaid", id="sub_unpaid", created=NOW - 5)
    assert current_subscription([unpaid, new], NOW, GRACE) is unpaid
    newer = subscription(id="sub_newer", created=NOW + 9)
    assert current_subscription([newer, old], NOW, GRACE) is newer
    assert current_subscription([], NOW, GRACE) is None


@given(st.permutations([(s, i) for i, s in enumerate(STATUSES)]), st.integers(0, len(STATUSES)))
def test_the_choice_ignores_order(order: list[tuple[str, int]], many: int) -> None:
    """I10: whichever order they are in, the same subscription speaks, and access is given when any of them gives it."""
    some = [subscription(s, id=f"sub_{i}", created=NOW + i % 3) for s, i in order[:many]]
    chosen = current_subscription(some, NOW, GRACE)
    assert chosen == current_subscription(reversed(some), NOW, GRACE)
    if chosen is not None:
        assert is_entitled(chosen, NOW, GRACE) == any(is_entitled(s, NOW, GRACE) for s in some)


def test_boundaries() -> None:
    """L4: every known start and end, once each and in order, of ended subscriptions too."""
    ended = replace(subscription("canceled"), items=(item(10, 20), item(20, 30)))
    running = replace(subscription(), items=(item(20, 40),))
    assert boundaries_of([running, ended]) == (10, 20, 30, 40)
    assert boundaries_of([]) == ()


def test_since_when() -> None:
    """A status keeps the time when it was first seen for as long as it lasts, and each new one begins its own."""
    known = [subscription("past_due", since=100), subscription("active", id="sub_2", since=100)]
    fetched = [
        replace(subscription("active", id="sub_3"), status_since_at=0),
        replace(subscription("past_due", id="sub_2"), status_since_at=0),
        replace(subscription("past_due"), status_since_at=0),
    ]
    timed = with_status_times(known, fetched, 500)
    assert [(s.id, s.status_since_at) for s in timed] == [("sub_1", 100), ("sub_2", 500), ("sub_3", 500)]


def test_what_is_terminal() -> None:
    """Stripe never leaves these two states, so neither do we."""
    assert {"canceled", "incomplete_expired"} == TERMINAL_STATUSES
