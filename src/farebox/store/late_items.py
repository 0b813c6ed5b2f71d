"""Late items in the ledger, from their row to a final invoice: which are due, who works on them, where they stand."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from farebox.domain.audit import AuditEntry
from farebox.domain.corrections import NEVER_AT, NO_METER, LateItem, LateItemGroup, LateItemState
from farebox.domain.periods import BillingPeriod
from farebox.store import tables as t
from farebox.store.audit import write_audit
from farebox.store.corrections import lock_account
from farebox.store.engine import Database, insert_new, rerun

__all__ = ["LateItemTables", "late_groups", "wake_moved_items"]

_LATE = tuple(t.late_items.c[field.name] for field in fields(LateItem))
# What changes in the life of an item; all else is written once.
_CHANGES: Final = (
    "invoice_item_id",
    "state",
    "state_since_at",
    "attached_id",
    "invoice_id",
    "next_look_at",
    "lease_end",
    "failures",
    "error",
    "item_key_number",
    "invoice_key_number",
)
_ON_THE_WAY: Final = (LateItemState.PENDING, LateItemState.DRAFT, LateItemState.OPEN, LateItemState.UNCOLLECTIBLE)


class LateItemTables:
    """The part of the Store that knows where late items stand."""

    _database: Database

    def late_items(self, account_id: str) -> list[LateItem]:
        late = t.late_items.c
        query = sa.select(*_LATE).where(late.account_id == account_id).order_by(late.created_at, late.id)
        with self._database.read() as connection:
            return [_item(row) for row in connection.execute(query)]

    def accounts_with_late_items(self, *, now: int, limit: int) -> list[str]:
        late = t.late_items.c
        query = (
            sa.select(late.account_id)
            .where(t.IS_UNSETTLED_ITEM, late.next_look_at <= now, late.lease_end <= now)
            .group_by(late.account_id)
            .order_by(sa.func.min(late.next_look_at), late.account_id)
            .limit(limit)
        )
        with self._database.read() as connection:
            return list(connection.execute(query).scalars())

    @rerun
    def take_late_items(
        self, account_id: str, *, now: int, lease_end: int, limit: int, ahead_of_time: bool = False
    ) -> list[LateItem]:
        late = t.late_items.c
        due = late.state.in_(_ON_THE_WAY) if ahead_of_time else late.next_look_at <= now
        free = sa.and_(late.account_id == account_id, t.IS_UNSETTLED_ITEM, due, late.lease_end <= now)
        first = sa.select(late.id).where(free).order_by(late.next_look_at, late.created_at, late.id).limit(limit)
        # The condition again: what another process took meanwhile is not taken twice.
        taken = sa.update(t.late_items).where(late.id.in_(first), free).values(lease_end=lease_end).returning(*_LATE)
        with self._database.write() as connection:
            items = [_item(row) for row in connection.execute(taken)]
        return sorted(items, key=lambda item: (item.created_at, item.id))

    def save_late_item(self, before: LateItem, after: LateItem) -> bool:
        late = t.late_items.c
        values = {name: getattr(after, name) for name in _CHANGES}
        with self._database.write() as connection:
            saved = connection.execute(
                sa.update(t.late_items).where(late.id == before.id, late.lease_end == before.lease_end).values(values)
            )
            return saved.rowcount == 1

    def adopt_late_item(self, item: LateItem) -> bool:
        with self._database.write() as connection:
            lock_account(connection, item.account_id)
            return insert_new(connection, t.late_items, asdict(item))

    @rerun
    def retry_late_items(
        self, ids: Sequence[str], account_id: str | None, *, limit: int, now: int, audit: AuditEntry | None = None
    ) -> list[LateItem]:
        late = t.late_items.c
        query = sa.select(*_LATE).where(
            t.IS_UNSETTLED_ITEM, late.state.in_((LateItemState.REFUSED, LateItemState.DELETED)), late.lease_end <= now
        )
        if ids:
            query = query.where(late.id.in_(ids))
        if account_id is not None:
            query = query.where(late.account_id == account_id)
        with self._database.write() as connection:
            rows = connection.execute(query.order_by(late.created_at, late.id).limit(limit).with_for_update())
            items = [_item(row) for row in rows]
            for item in items:
                again = replace(item, failures=0, next_look_at=now)
                if item.state is LateItemState.DELETED:
                    number = item.item_key_number + 1
                    again = replace(
                        again, state=LateItemState.NEW, state_since_at=now, invoice_item_id=None, item_key_number=number
                    )
                values = {name: getattr(again, name) for name in _CHANGES}
                connection.execute(sa.update(t.late_items).where(late.id == item.id).values(values))
            if items:
                write_audit(connection, audit.with_detail(count=len(items), first=items[0].id) if audit else None)
        return items

    def late_item_summary(self, *, settled_since: int = 0) -> list[LateItemGroup]:
        late = t.late_items.c
        query = (
            sa.select(late.state, sa.func.sum(late.quantity), sa.func.min(late.state_since_at), sa.func.count())
            .where(t.IS_UNSETTLED_ITEM, (late.next_look_at < NEVER_AT) | (late.state_since_at >= settled_since))
            .group_by(late.state)
            .order_by(late.state)
        )
        with self._database.read() as connection:
            rows = connection.execute(query)
            return [LateItemGroup(LateItemState(row[0]), int(row[1]), row[2], row[3]) for row in rows]


def late_groups(connection: Connection, period: BillingPeriod) -> dict[str, list[LateItemGroup]]:
    """The period's late items by meter and state. Of NO_METER only those that are not settled."""
    late = t.late_items.c
    size = sa.case((late.meter == NO_METER, late.amount), else_=late.quantity)
    query = (
        sa.select(late.meter, late.state, sa.func.sum(size), sa.func.min(late.state_since_at), sa.func.count())
        .where(late.account_id == period.account_id, late.period_start == period.start)
        .where((late.meter != NO_METER) | t.IS_UNSETTLED_ITEM)
        .group_by(late.meter, late.state)
        .order_by(late.meter, late.state)
    )
    groups: dict[str, list[LateItemGroup]] = defaultdict(list)
    for meter, state, quantity, since_at, count in connection.execute(query):
        groups[meter].append(LateItemGroup(LateItemState(state), int(quantity), since_at, count))
    return groups


def wake_moved_items(connection: Connection, account_id: str, ended_ids: Sequence[str], at: int) -> None:
    """Items that wait for an invoice of a subscription that has ended are due now: no invoice may come any more."""
    late = t.late_items.c
    connection.execute(
        sa.update(t.late_items)
        .where(late.account_id == account_id, late.state == LateItemState.PENDING, late.attached_id.in_(ended_ids))
        .where(late.next_look_at > at, late.next_look_at < NEVER_AT)
        .values(next_look_at=at)
    )


def _item(row: Any) -> LateItem:
    item = LateItem(*row)
    return replace(item, state=LateItemState(item.state))
