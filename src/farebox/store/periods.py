"""Billing periods in the ledger: recorded when subscriptions are applied, closed when their invoice is final."""

import json
from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection, Row

from farebox.domain.accounts import Subscription, SubscriptionItem
from farebox.domain.catalog import AnyPrice, PackagePrice, Price, Tier, TieredPrice
from farebox.domain.invoices import PeriodBill
from farebox.domain.periods import (
    FINAL_AFTER_SECONDS,
    SAME_START_SECONDS,
    BillingPeriod,
    periods_of,
    with_known_starts,
)
from farebox.domain.simulation import UsedPeriod
from farebox.domain.usage import BUCKET_SECONDS, Period
from farebox.store import tables as t
from farebox.store.corrections import lock_account
from farebox.store.engine import Database, rerun, upsert

__all__ = [
    "PRICES_REMEMBERED_MAX",
    "PeriodTables",
    "bill_text",
    "is_period",
    "items_text",
    "read_items",
    "read_period",
    "record_periods",
]

PRICES_REMEMBERED_MAX: Final = 1_024

_log = structlog.get_logger("farebox.periods")


class PeriodTables:
    """The part of the Store that knows past and present billing periods."""

    _database: Database

    def periods(self, account_id: str, *, since: int = 0) -> list[BillingPeriod]:
        with self._database.read() as connection:
            return _periods(connection, account_id, since)

    def accounts_with_period_end(self, after: int, until: int) -> list[str]:
        p = t.periods.c
        query = sa.select(p.account_id).distinct().where(p.end > after, p.end <= until).order_by(p.account_id)
        with self._database.read() as connection:
            return list(connection.execute(query).scalars())

    def periods_to_look_at(self, *, now: int, limit: int) -> list[BillingPeriod]:
        p = t.periods.c
        query = (
            sa.select(t.periods)
            .where(p.next_look_at.is_not(None), p.next_look_at <= now)
            .order_by(p.next_look_at, p.account_id, p.subscription_id, p.start)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [read_period(row) for row in connection.execute(query)]

    @rerun
    def take_look(self, period: BillingPeriod, *, now: int, until: int | None) -> bool:
        due = is_period(period) & (t.periods.c.next_look_at <= now)
        with self._database.write() as connection:
            return connection.execute(sa.update(t.periods).where(due).values(next_look_at=until)).rowcount == 1

    @rerun
    def look_again(self, period: BillingPeriod, at: int | None) -> None:
        closed = t.periods.c.finalized_at
        as_read = closed.is_(None) if period.finalized_at is None else closed.is_not(None)
        with self._database.write() as connection:
            connection.execute(sa.update(t.periods).where(is_period(period), as_read).values(next_look_at=at))

    @rerun
    def update_bill(self, period: BillingPeriod, bill: PeriodBill) -> bool:
        closed = sa.update(t.periods).where(is_period(period), t.periods.c.finalized_at.is_not(None))
        with self._database.write() as connection:
            lock_account(connection, period.account_id)
            changed = closed.where(t.periods.c.billed != bill_text(bill))
            values = {"invoice_id": bill.invoice_id, "billed": bill_text(bill)}
            return connection.execute(changed.values(**values)).rowcount == 1

    def used_periods(
        self,
        *,
        meters: Sequence[str],
        since: int,
        until: int,
        account_id: str | None = None,
        after: str = "",
        accounts: int,
    ) -> list[UsedPeriod]:
        p = t.periods.c
        begun = (p.start >= since) & (p.start < until) & (p.account_id > after)
        if account_id is not None:
            begun &= p.account_id == account_id
        page = sa.select(p.account_id).distinct().where(begun).order_by(p.account_id).limit(accounts)
        with self._database.read() as connection:
            ids = list(connection.execute(page).scalars())
            if not ids:
                return []
            begun &= p.account_id <= ids[-1]
            used = _used_in(connection, begun, meters)
            plans = t.periods.outerjoin(t.subscriptions, t.subscriptions.c.id == p.subscription_id)
            query = (
                sa.select(
                    p.account_id,
                    p.subscription_id,
                    p.start,
                    p.end,
                    p["items"],
                    p.plan,
                    t.subscriptions.c.plan.label("plan_now"),
                )
                .select_from(plans)
                .where(begun)
                .order_by(p.account_id, p.start, p.subscription_id)
            )
            return [
                UsedPeriod(
                    row.account_id,
                    row.subscription_id,
                    row.plan or row.plan_now or "",
                    next((item.currency for item in read_items(row.items)), ""),
                    row.start,
                    row.end,
                    used[row.account_id, row.subscription_id, row.start],
                )
                for row in connection.execute(query)
            ]


def _used_in(
    connection: Connection, begun: sa.ColumnElement[bool], meters: Sequence[str]
) -> dict[tuple[str, str, int], dict[str, int]]:
    """Usage and corrections by meter, of the periods that the condition names."""
    p, u, j = t.periods.c, t.usage.c, t.adjustments.c
    found: dict[tuple[str, str, int], dict[str, int]] = defaultdict(dict)
    for table, at in ((t.usage, u.bucket_start), (t.adjustments, j.used_at)):
        # By name, so that the index that begins with account and meter leads to the times.
        inside = (table.c.account_id == p.account_id) & table.c.meter.in_(meters) & (at >= p.start) & (at < p.end)
        names = (p.account_id, p.subscription_id, p.start, table.c.meter)
        query = sa.select(*names, sa.func.sum(table.c.quantity)).select_from(t.periods.join(table, inside))
        for *key, meter, quantity in connection.execute(query.where(begun).group_by(*names)):
            sums = found[key[0], key[1], key[2]]
            sums[meter] = sums.get(meter, 0) + int(quantity)
    return found


def record_periods(
    connection: Connection, account_id: str, subscriptions: Sequence[Subscription]
) -> tuple[Subscription, ...]:
    """Keep the periods that the subscriptions are in, in the transaction that applies them. The subscriptions with
    their items from where they start in the ledger."""
    starts = [item.interval_start or item.period.start for s in subscriptions for item in s.items]
    if not starts:
        return tuple(subscriptions)
    since = min(starts) - SAME_START_SECONDS - 1
    known = {(p.subscription_id, p.start): p for p in _periods(connection, account_id, since)}
    placed = tuple(with_known_starts(subscription, known.values()) for subscription in subscriptions)
    for period in periods_of(account_id, placed, known.values()):
        before = known.get((period.subscription_id, period.start))
        if before != period:
            _say_if_late(connection, period)
            values = {
                "end": period.end,
                "items": items_text(period.items),
                "plan": period.plan,
                "base": None if period.base is None else str(period.base),
                "trial": period.trial,
            }
            if period.finalized_at is None and (before is None or before.end != period.end):
                values["next_look_at"] = period.end + FINAL_AFTER_SECONDS
            connection.execute(
                upsert(connection, t.periods)
                .values(account_id=account_id, subscription_id=period.subscription_id, start=period.start, **values)
                .on_conflict_do_update(index_elements=["account_id", "subscription_id", "start"], set_=values)
            )
    return placed


def _say_if_late(connection: Connection, period: BillingPeriod) -> None:
    """Usage from both sides of a boundary that was not known when it happened: its row counts wholly before it (L4)."""
    u = t.usage.c
    for edge in (period.start, period.end):
        across = (u.bucket_start < edge) & (u.bucket_start > edge - BUCKET_SECONDS) & (u.last_used_at >= edge)
        query = sa.select(sa.func.sum(u.quantity)).where(u.account_id == period.account_id, across)
        quantity = connection.execute(query).scalar()
        if quantity is not None:
            _log.warning("boundary_learned_late", account=period.account_id, boundary=edge, units_before=int(quantity))


def items_text(items: Sequence[SubscriptionItem]) -> str:
    """The items as JSON, amounts as text."""
    return json.dumps(
        [
            [i.id, i.price_id, i.meter, _terms(i.price), i.currency, i.period.start, i.period.end]
            + ([i.minimum] if i.minimum else [])
            for i in items
        ]
    )


def read_items(text: str) -> tuple[SubscriptionItem, ...]:
    return tuple(
        SubscriptionItem(id, price_id, _price(meter, terms), currency, Period(start, end), *minimum)
        for id, price_id, meter, terms, currency, start, end, *minimum in json.loads(text)
    )


def _terms(price: AnyPrice) -> Any:
    """What a price costs: an amount by the unit, [size, amount, rounds up] by the package, or by tiers."""
    if isinstance(price, Price):
        return str(price.unit_amount)
    if isinstance(price, PackagePrice):
        return [price.size, str(price.unit_amount), price.rounds_up]
    tiers = [
        [tier.up_to, str(tier.unit_amount), None if tier.flat_amount is None else str(tier.flat_amount)]
        for tier in price.tiers
    ]
    return {"graduated": price.graduated, "tiers": tiers}


@lru_cache(PRICES_REMEMBERED_MAX)
def _unit_price(meter: str, amount: str) -> Price:
    """One for all accounts that have it: a million of them are kept in memory."""
    return Price(meter, Decimal(amount))


def _price(meter: str, terms: Any) -> AnyPrice:
    if isinstance(terms, str):
        return _unit_price(meter, terms)
    if isinstance(terms, list):
        size, amount, rounds_up = terms
        return PackagePrice(meter, size, Decimal(amount), rounds_up)
    tiers = tuple(
        Tier(up_to, Decimal(unit), None if flat is None else Decimal(flat)) for up_to, unit, flat in terms["tiers"]
    )
    return TieredPrice(meter, terms["graduated"], tiers)


def _periods(connection: Connection, account_id: str, since: int) -> list[BillingPeriod]:
    """Those that end after `since`, in order of time."""
    p = t.periods.c
    query = sa.select(t.periods).where(p.account_id == account_id, p.end > since).order_by(p.start, p.subscription_id)
    return [read_period(row) for row in connection.execute(query)]


def read_period(row: Row[Any]) -> BillingPeriod:
    """A row of the table, whole."""
    return BillingPeriod(
        account_id=row.account_id,
        subscription_id=row.subscription_id,
        start=row.start,
        end=row.end,
        items=read_items(row.items),
        invoice_id=row.invoice_id,
        finalized_at=row.finalized_at,
        plan=row.plan,
        base=None if row.base is None else Decimal(row.base),
        trial=row.trial,
    )


def is_period(period: BillingPeriod) -> Any:
    """The condition that a row of the table is this period."""
    p = t.periods.c
    return (
        (p.account_id == period.account_id) & (p.subscription_id == period.subscription_id) & (p.start == period.start)
    )


def bill_text(bill: PeriodBill) -> str:
    """What a period's invoices billed, as JSON by meter."""
    return json.dumps({m: [b.quantity, b.amount, b.expected_amount] for m, b in sorted(bill.meters.items())})
