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
from farebox.domain.periods import BillingPeriod, periods_of
from farebox.domain.simulation import UsedPeriod
from farebox.domain.usage import BUCKET_SECONDS, Period
from farebox.ports import PeriodEnd
from farebox.store import tables as t
from farebox.store.engine import Database, upsert

__all__ = ["PRICES_REMEMBERED_MAX", "PeriodTables", "items_text", "read_items", "read_period", "record_periods"]

PRICES_REMEMBERED_MAX: Final = 1_024

_log = structlog.get_logger("farebox.periods")


class PeriodTables:
    """The part of the Store that knows past and present billing periods."""

    _database: Database

    def periods(self, account_id: str, *, since: int = 0) -> list[BillingPeriod]:
        with self._database.read() as connection:
            return _periods(connection, account_id, since)

    def period_ends(self, after: PeriodEnd, until: int, *, limit: int) -> list[PeriodEnd]:
        p = t.periods.c
        later = sa.tuple_(p.end, p.account_id) > sa.tuple_(sa.literal(after.at), sa.literal(after.account_id))
        query = sa.select(p.end, p.account_id).where(later, p.end <= until).order_by(p.end, p.account_id).limit(limit)
        with self._database.read() as connection:
            return [PeriodEnd(*row) for row in connection.execute(query)]

    def unfinished_periods(self, *, ended_by: int, limit: int, after: str = "") -> list[BillingPeriod]:
        p = t.periods.c
        query = (
            sa.select(t.periods)
            .where(p.end <= ended_by, p.finalized_at.is_(None), p.account_id > after)
            .order_by(p.account_id, p.start)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [read_period(row) for row in connection.execute(query)]

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


def record_periods(connection: Connection, account_id: str, subscriptions: Sequence[Subscription]) -> None:
    """Keep the periods that the subscriptions are in, in the transaction that applies them."""
    starts = [item.period.start for s in subscriptions for item in s.items]
    if not starts:
        return
    known = {(p.subscription_id, p.start): p for p in _periods(connection, account_id, min(starts))}
    for period in periods_of(account_id, subscriptions, known.values()):
        if known.get((period.subscription_id, period.start)) != period:
            _say_if_late(connection, period)
            values = {
                "end": period.end,
                "items": items_text(period.items),
                "plan": period.plan,
                "base": None if period.base is None else str(period.base),
            }
            connection.execute(
                upsert(connection, t.periods)
                .values(account_id=account_id, subscription_id=period.subscription_id, start=period.start, **values)
                .on_conflict_do_update(index_elements=["account_id", "subscription_id", "start"], set_=values)
            )


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
    )
