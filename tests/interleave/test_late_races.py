"""Usage that comes late while its period is being closed, billed or sealed: three at once, and as it comes (F33)."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import psycopg
import pytest
from tests.contract.test_reconciling import END, closed, late_plan, subscribed
from tests.contract.test_store import AT, HOUR, SUBSCRIPTION, of, plan, used
from tests.interleave.turns import WAITING, Interleaver
from tests.postgres import Cluster

from farebox.domain.accounts import Account
from farebox.domain.balance import Verdict, judge
from farebox.domain.periods import BillingPeriod
from farebox.domain.usage import Batch
from farebox.errors import StoreError
from farebox.store.sql import SqlStore

ACCOUNTS: Final = 6
WRITERS: Final = 3
UNITS_EACH: Final = 30


@pytest.fixture
def stores(cluster: Cluster) -> Iterator[tuple[SqlStore, ...]]:
    """As many processes as are needed, on one PostgreSQL ledger."""
    url = cluster.fresh()
    opened = tuple(of(url) for _ in range(WRITERS + 2))
    for store in opened:
        store.open()
    yield opened
    for store in opened:
        store.close()
    cluster.drop(url)


def record(store: SqlStore, writer: str, quantity: int) -> None:
    store.commit_batch(Batch(writer, 1, writer, (used(quantity),)))


def not_billed(store: SqlStore, period: BillingPeriod) -> int:
    """Units that neither the invoice nor an item has, once nothing says any more that there are some."""
    while periods := store.closed_with_late_usage(limit=9):
        for late in periods:
            store.bill_late(late, plan=late_plan, now=END + 2 * HOUR)
    balance, bill = store.balances(period, now=END + 3 * HOUR)["calls"], store.bill(period)
    assert bill is not None
    verdict, _ = judge(balance, stripe=None, bill=bill.meters["calls"], now=END + 3 * HOUR, bills_late=True)
    missing = balance.ledger - bill.meters["calls"].quantity - balance.late
    assert (verdict is Verdict.DIFFERS) == (missing != 0)
    return missing


@pytest.mark.parametrize("place", range(1, 9))
def test_closed_and_used_while_it_is_sealed(stores: tuple[SqlStore, ...], cluster: Cluster, place: int) -> None:
    """F33, I15, L10: between any two statements of a seal the invoice becomes final and late usage is recorded: it is
    billed late, and the sealer takes no hint of a closed period."""
    sealer, other, *_ = stores
    period = subscribed(other)
    record(other, "first", 3)

    def close_and_record() -> None:
        other.close_period(period, closed(3), plan=late_plan, now=END + HOUR)
        record(other, "late", 5)

    with psycopg.connect(cluster.url(), autocommit=True) as monitor:
        turns = Interleaver(sealer.database, other.database, lambda: monitor.execute(WAITING).fetchone() is not None)
        run = turns.run(lambda: sealer.seal(plan, now=END + HOUR, hard=True), close_and_record, pause_after=place)
        turns.close()
    assert not isinstance(run.first, BaseException), run.first
    assert not isinstance(run.second, BaseException), run.second
    assert not_billed(other, period) == 0


def test_late_usage_as_it_comes(stores: tuple[SqlStore, ...]) -> None:
    """F33, I15: jobs record late usage from three processes while one bills it and one seals: every unit is billed."""
    biller, sealer, *writers = stores
    for number in range(ACCOUNTS):
        account_id = f"acc_{number}"
        biller.add_account(Account(account_id, AT, customer_id=f"cus_{number}"))
        subscription = replace(SUBSCRIPTION, id=f"sub_{number}", customer_id=f"cus_{number}")
        biller.put_subscriptions(account_id, (subscription,), fence=biller.take_fence(account_id), at=AT)
        (period,) = biller.periods(account_id)
        biller.close_period(period, closed(0), plan=late_plan, now=END + HOUR)
        stop, refused = threading.Event(), list[StoreError]()

        def write(store: SqlStore, writer: str, account_id: str = account_id) -> None:
            for n in range(1, UNITS_EACH + 1):
                store.commit_batch(Batch(writer, n, writer, (used(1, account_id=account_id),)))

        def bill(stop: threading.Event = stop) -> None:
            while not stop.is_set():
                for late in biller.closed_with_late_usage(limit=9):
                    biller.bill_late(late, plan=late_plan, now=END + 2 * HOUR)

        def seal(stop: threading.Event = stop, refused: list[StoreError] = refused) -> None:
            while not stop.is_set():
                try:
                    sealer.seal(plan, now=END + HOUR, hard=True)
                except StoreError as error:
                    refused.append(error)

        jobs = [threading.Thread(target=write, args=(w, f"w{n}_{number}")) for n, w in enumerate(writers)]
        loops = [threading.Thread(target=bill), threading.Thread(target=seal)]
        for thread in (*loops, *jobs):
            thread.start()
        for thread in jobs:
            thread.join()
        stop.set()
        for thread in loops:
            thread.join()
        assert not_billed(biller, period) == 0
        assert biller.balances(period, now=END)["calls"].late == WRITERS * UNITS_EACH
        assert refused == []
