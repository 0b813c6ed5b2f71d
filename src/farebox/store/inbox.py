"""Webhook events in the ledger: stored once, worked off per customer under a lease and a fence (L17)."""

from dataclasses import asdict

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from farebox.domain.accounts import Subscription
from farebox.domain.inbox import BILLING_WORK, InboxEvent, InboxWork
from farebox.store import tables as t
from farebox.store.accounts import Applied, apply_subscriptions
from farebox.store.engine import Database, insert_new, rerun, upsert
from farebox.store.feed import announce

__all__ = ["InboxTables"]

_NEVER_AT = 1 << 62  # a time that does not come: nothing waits


class InboxTables:
    """The part of the Store that remembers what Stripe said until it has been looked up."""

    _database: Database

    @rerun
    def add_event(self, event: InboxEvent, *, at: int) -> bool:
        work = event.customer_id or event.id
        row = {**asdict(event), "received_at": at, "work": work, "done_at": None}
        del row["connected_account"]  # only our own account's events come this far
        with self._database.write() as connection:
            if not insert_new(connection, t.events, row):
                return False
            # News of a customer is a reason to try again at once, whatever pause an earlier failure asked for.
            _make_due(connection, work, at)
            return True

    @rerun
    def take_inbox(self, holder: str, *, now: int, lease_seconds: int, billing: bool = False) -> InboxWork | None:
        i, a, e = t.inbox.c, t.accounts.c, t.events.c
        is_billing = i.work.like(f"{BILLING_WORK}%")
        with self._database.write() as connection:
            row = connection.execute(
                sa.select(i.work, i.attempts)
                .where(i.next_attempt_at <= now, i.lease_end <= now, is_billing if billing else ~is_billing)
                .order_by(i.next_attempt_at, i.work)
                .limit(1)
                .with_for_update(skip_locked=True)  # who is at it already needs no help
            ).first()
            if row is None:
                return None
            connection.execute(
                sa.update(t.inbox)
                .where(i.work == row.work)
                .values(holder=holder, lease_end=now + lease_seconds, fence=i.fence + 1, attempts=i.attempts + 1)
            )
            connection.execute(sa.update(t.accounts).where(a.customer_id == row.work).values(fence=a.fence + 1))
            own = connection.execute(sa.select(i.fence).where(i.work == row.work)).scalar_one()
            shared = connection.execute(sa.select(a.fence).where(a.customer_id == row.work)).scalar()
            waiting = connection.execute(
                sa.select(e.id, e.type, e.object_id, e.customer_id, e.created_at, e.livemode)
                .where(e.work == row.work, e.done_at.is_(None))
                .order_by(e.received_at, e.id)
            ).all()
        events = tuple(InboxEvent(*values) for values in waiting)
        customer_id = events[0].customer_id if events else None
        if billing:
            customer_id = str(row.work).removeprefix(BILLING_WORK)
        return InboxWork(row.work, customer_id, own, shared, events, row.attempts + 1)

    @rerun
    def finish_inbox(
        self,
        work: InboxWork,
        *,
        at: int,
        account_id: str | None = None,
        subscriptions: tuple[Subscription, ...] | None = None,
        bills: bool = False,
    ) -> bool:
        i, e = t.inbox.c, t.events.c
        with self._database.write() as connection:
            held = sa.select(i.fence).where(i.work == work.name).with_for_update()
            if connection.execute(held).scalar() != work.fence:
                return False
            applied = Applied.UNCHANGED
            if account_id is not None and subscriptions is not None and work.account_fence is not None:
                # When a fetch that began later was faster, it has seen all that these events speak of.
                applied = apply_subscriptions(connection, account_id, subscriptions, fence=work.account_fence, at=at)
            ids = [event.id for event in work.events]
            connection.execute(sa.update(t.events).where(e.id.in_(ids)).values(done_at=at))
            more = connection.execute(sa.select(1).where(e.work == work.name, e.done_at.is_(None)).limit(1)).first()
            if work.customer_id is None and not more:
                connection.execute(sa.delete(t.inbox).where(i.work == work.name))
            else:  # a customer's row stays, so that its fence goes on counting
                due_at, attempts = (at, i.attempts) if more else (_NEVER_AT, 0)
                connection.execute(
                    sa.update(t.inbox)
                    .where(i.work == work.name)
                    .values(lease_end=0, next_attempt_at=due_at, attempts=attempts, reason="")
                )
            if bills and work.customer_id is not None:
                # Another fence: whoever is at this work already may have read the invoices too early to end it.
                _make_due(connection, f"{BILLING_WORK}{work.customer_id}", at, fence=i.fence + 1)
            if account_id is not None and applied is Applied.CHANGED:
                announce(connection, account_id)
            return True

    def postpone_inbox(self, work: InboxWork, *, until: int, reason: str) -> None:
        i = t.inbox.c
        with self._database.write() as connection:
            connection.execute(
                sa.update(t.inbox)
                .where(i.work == work.name, i.fence == work.fence)
                .values(lease_end=0, next_attempt_at=until, reason=reason)
            )

    def inbox_waiting(self) -> int:
        query = sa.select(sa.func.count()).select_from(t.events).where(t.events.c.done_at.is_(None))
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())


def _make_due(connection: Connection, work: str, at: int, **changed: sa.ColumnElement[int]) -> None:
    """Have the work done at `at` or when it is due already, whichever is sooner."""
    i = t.inbox.c
    row = {"work": work, "fence": 0, "holder": "", "lease_end": 0, "next_attempt_at": at, "attempts": 0, "reason": ""}
    sooner = sa.case((i.next_attempt_at < at, i.next_attempt_at), else_=at)
    connection.execute(
        upsert(connection, t.inbox)
        .values(row)
        .on_conflict_do_update(index_elements=["work"], set_={"next_attempt_at": sooner, **changed})
    )
