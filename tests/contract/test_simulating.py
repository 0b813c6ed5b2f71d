"""What a Store gives a simulation: each period once, with what was used in it, on each kind of database."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from tests.contract.test_store import (
    AT,
    DAY,
    EVER,
    HOUR,
    ITEM,
    SUBSCRIPTION,
    adjusted,
    adjustment,
    batch,
    buyer,
    store,
    url,
    used,
)

from farebox.domain.simulation import UsedPeriod
from farebox.domain.usage import Period
from farebox.ports import Store

__all__ = ["store", "url"]

END: Final = ITEM.period.end
NEXT: Final = Period(END, END + 31 * DAY)


def subscribed(store: Store, n: int = 1, *periods: Period) -> None:
    """An account that has been in these periods, one after another."""
    account = buyer(store, n)
    for period in periods or (ITEM.period,):
        items = (replace(ITEM, period=period),)
        subscription = replace(SUBSCRIPTION, id=f"sub_{n}", customer_id=f"cus_{n}", items=items)
        store.put_subscriptions(account.id, (subscription,), fence=store.take_fence(account.id), at=AT)


def found(store: Store, meters: Sequence[str] = ("calls",), *, since: int = 0, until: int = EVER) -> list[UsedPeriod]:
    return store.used_periods(meters=meters, since=since, until=until, accounts=100)


def test_each_period_has_its_own_usage(store: Store) -> None:
    """What was used at a boundary belongs to the period that begins there; each increment is in one period."""
    subscribed(store, 1, ITEM.period, NEXT)
    store.commit_batch(
        batch(1, used(1), used(2, bucket_start=END - HOUR), used(4, bucket_start=END), used(8, key_id="k"))
    )
    store.commit_batch(batch(1, used(16), used(32, bucket_start=NEXT.end), used(64, bucket_start=AT - 1), writer="w2"))
    assert found(store) == [
        UsedPeriod("acc_1", "sub_1", "payg", "usd", AT, END, {"calls": 27}),
        UsedPeriod("acc_1", "sub_1", "payg", "usd", END, NEXT.end, {"calls": 4}),
    ]


def test_corrections_count(store: Store) -> None:
    """L11: a correction is part of the period in which its usage was."""
    subscribed(store, 1, ITEM.period, NEXT)
    store.commit_batch(batch(1, used(10), used(5, bucket_start=END)))
    adjusted(store, adjustment(-3))
    assert [period.used for period in found(store)] == [{"calls": 7}, {"calls": 5}]


def test_a_period_without_usage_is_there(store: Store) -> None:
    """It may have a base fee to pay; only the meters that were asked for are summed up."""
    subscribed(store)
    store.commit_batch(batch(1, used(3, meter="tokens")))
    assert [period.used for period in found(store)] == [{}]
    assert [period.used for period in found(store, ("calls", "tokens"))] == [{"tokens": 3}]
    assert [period.used for period in found(store, ())] == [{}]


def test_which_periods(store: Store) -> None:
    """Those that begin in the span, its start included and its end not."""
    subscribed(store, 1, ITEM.period, NEXT)

    def starts(since: int, until: int) -> list[int]:
        return [period.start for period in found(store, since=since, until=until)]

    assert starts(AT, END) == [AT]
    assert starts(AT + 1, END + 1) == [END]
    assert starts(END + 1, EVER) == []


def test_pages_of_accounts(store: Store) -> None:
    """Page after page gives each account once, whole, in order; one account alone is given when it is named."""
    for n in (3, 1, 2):
        subscribed(store, n, ITEM.period, NEXT)
        store.commit_batch(batch(1, used(n, account_id=f"acc_{n}"), writer=f"w{n}"))
    pages, after = [], ""
    while page := store.used_periods(meters=("calls",), since=0, until=EVER, after=after, accounts=2):
        pages.append([(period.account_id, period.used.get("calls", 0)) for period in page])
        after = page[-1].account_id
    assert pages == [[("acc_1", 1), ("acc_1", 0), ("acc_2", 2), ("acc_2", 0)], [("acc_3", 3), ("acc_3", 0)]]
    one = store.used_periods(meters=("calls",), since=0, until=EVER, account_id="acc_2", accounts=2)
    assert [(period.account_id, period.start) for period in one] == [("acc_2", AT), ("acc_2", END)]
    assert (
        store.used_periods(meters=("calls",), since=0, until=EVER, account_id="acc_2", after="acc_2", accounts=2) == []
    )
