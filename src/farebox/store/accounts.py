"""Accounts, keys, subscriptions, checkouts and claims in the ledger.

Every change of an account's facts is announced.
"""

from collections.abc import Sequence
from dataclasses import asdict
from decimal import Decimal
from enum import Enum
from typing import Any

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection, Row

from farebox.domain.access import Facts, Standing
from farebox.domain.accounts import (
    BILLING_STATUSES,
    TERMINAL_STATUSES,
    Account,
    Checkout,
    Subscription,
    double_subscriptions,
    with_status_times,
)
from farebox.domain.audit import AuditEntry
from farebox.domain.keys import ApiKey
from farebox.store import tables as t
from farebox.store.audit import write_audit
from farebox.store.engine import Database, rerun
from farebox.store.feed import announce
from farebox.store.late_items import wake_moved_items
from farebox.store.periods import items_text, read_items, record_periods
from farebox.store.usage import key_was_used

__all__ = ["AccountTables", "Applied", "apply_subscriptions", "subscriptions_of"]

_log = structlog.get_logger("farebox.accounts")
_ACCOUNT = (
    t.accounts.c.id,
    t.accounts.c.created_at,
    t.accounts.c.email,
    t.accounts.c.reference,
    t.accounts.c.customer_id,
)
_FACTS = (
    sa.select(
        t.api_keys.c.id.label("key_id"),
        t.api_keys.c.expires_at,
        t.api_keys.c.revoked_at,
        t.accounts.c.held_until,
        *(column.label(f"account_{column.name}") for column in _ACCOUNT),
        *(column for column in t.subscriptions.c if column.name != "account_id"),
    )
    .join_from(t.api_keys, t.accounts)
    .join(t.subscriptions, t.subscriptions.c.account_id == t.accounts.c.id, isouter=True)
    .where(t.api_keys.c.digest.in_(sa.bindparam("digests", expanding=True)))
    .order_by(t.subscriptions.c.id)
)


class Applied(Enum):
    """What became of fetched subscriptions."""

    OUTDATED = "a later fetch was applied before"
    UNCHANGED = "they were known"
    CHANGED = "they are new"


class AccountTables:
    """The part of the Store that knows buyers."""

    _database: Database

    def add_account(self, account: Account) -> None:
        with self._database.write() as connection:
            connection.execute(sa.insert(t.accounts).values(asdict(account)))

    def set_customer(self, account_id: str, customer_id: str) -> None:
        a = t.accounts.c
        with self._database.write() as connection:
            connection.execute(sa.update(t.accounts).where(a.id == account_id).values(customer_id=customer_id))
            announce(connection, account_id)

    def account(self, account_id: str) -> Account | None:
        return self._one_account(t.accounts.c.id == account_id)

    def account_of_customer(self, customer_id: str) -> Account | None:
        return self._one_account(t.accounts.c.customer_id == customer_id)

    def _one_account(self, condition: sa.ColumnElement[bool]) -> Account | None:
        with self._database.read() as connection:
            row = connection.execute(sa.select(*_ACCOUNT).where(condition)).first()
        return None if row is None else Account(*row)

    def accounts(self, *, limit: int, after: str = "") -> list[Account]:
        query = sa.select(*_ACCOUNT).where(t.accounts.c.id > after).order_by(t.accounts.c.id).limit(limit)
        with self._database.read() as connection:
            return [Account(*row) for row in connection.execute(query)]

    def subscriptions(self, account_id: str) -> tuple[Subscription, ...]:
        with self._database.read() as connection:
            return subscriptions_of(connection, account_id)

    def billing_subscriptions(self, *, after: str = "", limit: int) -> dict[str, list[Subscription]]:
        s = t.subscriptions.c
        bills = s.status.in_(sorted(BILLING_STATUSES)) & (s.account_id > after)
        page = sa.select(s.account_id).distinct().where(bills).order_by(s.account_id).limit(limit)
        found: dict[str, list[Subscription]] = {}
        with self._database.read() as connection:
            ids = list(connection.execute(page).scalars())
            if ids:
                query = sa.select(t.subscriptions).where(bills, s.account_id <= ids[-1]).order_by(s.account_id, s.id)
                for row in connection.execute(query):
                    found.setdefault(row.account_id, []).append(_subscription(row))
        return found

    def take_fence(self, account_id: str) -> int:
        with self._database.write() as connection:
            a = t.accounts.c
            moved = sa.update(t.accounts).where(a.id == account_id).values(fence=a.fence + 1).returning(a.fence)
            return int(connection.execute(moved).scalar_one())

    @rerun
    def put_subscriptions(
        self, account_id: str, subscriptions: tuple[Subscription, ...], *, fence: int, at: int
    ) -> bool:
        with self._database.write() as connection:
            applied = apply_subscriptions(connection, account_id, subscriptions, fence=fence, at=at)
            if applied is Applied.CHANGED:
                announce(connection, account_id)
            return applied is not Applied.OUTDATED

    def add_key(self, key: ApiKey, *, audit: AuditEntry | None = None) -> None:
        with self._database.write() as connection:
            connection.execute(sa.insert(t.api_keys).values(asdict(key)))
            write_audit(connection, audit)
            announce(connection, key.account_id)

    def keys(self, account_id: str) -> list[ApiKey]:
        k = t.api_keys.c
        query = sa.select(t.api_keys).where(k.account_id == account_id).order_by(k.created_at, k.id)
        with self._database.read() as connection:
            return [ApiKey(**row._mapping) for row in connection.execute(query)]

    @rerun
    def end_key(
        self,
        account_id: str,
        key_id: str,
        *,
        at: int,
        expires_at: int | None = None,
        audit: AuditEntry | None = None,
    ) -> bool:
        with self._database.write() as connection:
            ended = _end_key(connection, account_id, key_id, at=at, expires_at=expires_at)
            if ended:
                write_audit(connection, audit)
                announce(connection, account_id)
            return ended

    @rerun
    def rotate_key(self, old_key_id: str, new: ApiKey, *, expires_at: int, audit: AuditEntry | None = None) -> bool:
        with self._database.write() as connection:
            if not _end_key(connection, new.account_id, old_key_id, at=new.created_at, expires_at=expires_at):
                return False
            connection.execute(sa.insert(t.api_keys).values(asdict(new)))
            write_audit(connection, audit)
            announce(connection, new.account_id)
            return True

    def find_facts(self, digests: Sequence[str]) -> Facts | None:
        with self._database.read() as connection:
            rows = connection.execute(_FACTS, {"digests": list(digests)}).all()
        if not rows:
            return None
        key_id, expires_at, revoked_at, held_until, *account = rows[0][: 4 + len(_ACCOUNT)]
        subscriptions = tuple(_subscription(row) for row in rows if row.status is not None)
        return Facts(key_id, Standing(Account(*account), subscriptions, held_until), expires_at, revoked_at)

    def peppers_in_use(self, now: int) -> dict[str, int]:
        k = t.api_keys.c
        live = k.revoked_at.is_(None) & (k.expires_at.is_(None) | (k.expires_at > now))
        query = sa.select(k.pepper_id, sa.func.count()).where(live).group_by(k.pepper_id)
        with self._database.read() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def add_checkout(self, checkout: Checkout) -> None:
        with self._database.write() as connection:
            connection.execute(sa.insert(t.checkouts).values(asdict(checkout)))

    def checkout(self, session_id: str) -> Checkout | None:
        query = sa.select(t.checkouts).where(t.checkouts.c.session_id == session_id)
        with self._database.read() as connection:
            row = connection.execute(query).first()
        return None if row is None else Checkout(**row._mapping)

    def open_checkouts(self, account_id: str) -> list[Checkout]:
        c = t.checkouts.c
        query = sa.select(t.checkouts).where(c.account_id == account_id, c.status == "open").order_by(c.created_at)
        with self._database.read() as connection:
            return [Checkout(**row._mapping) for row in connection.execute(query)]

    def set_checkout_status(self, session_id: str, status: str) -> None:
        c = t.checkouts.c
        with self._database.write() as connection:
            connection.execute(
                sa.update(t.checkouts).where(c.session_id == session_id, c.status == "open").values(status=status)
            )

    @rerun
    def claim(self, session_id: str, key: ApiKey, *, at: int, replaceable_seconds: int) -> bool:
        c = t.checkouts.c
        with self._database.write() as connection:
            asked = sa.select(c.account_id, c.claimed_at, c.key_id).where(c.session_id == session_id)
            row = connection.execute(asked.with_for_update()).first()
            if row is None or row.account_id != key.account_id:
                return False
            if row.claimed_at is not None:
                late = at >= row.claimed_at + replaceable_seconds
                if (
                    late
                    or _account_in_use(connection, row.account_id, row.key_id, row.claimed_at)
                    or not _end_key(connection, row.account_id, row.key_id, at=at)
                ):
                    return False
            connection.execute(sa.insert(t.api_keys).values(asdict(key)))
            connection.execute(
                sa.update(t.checkouts)
                .where(c.session_id == session_id)
                .values(
                    claimed_at=row.claimed_at if row.claimed_at is not None else at, key_id=key.id, status="complete"
                )
            )
            announce(connection, key.account_id)
            return True


def _account_in_use(connection: Connection, account_id: str, key_id: str, since: int) -> bool:
    """Whether the claimed key has been used, or the account has gone on in other ways since it was claimed."""
    k, u = t.api_keys.c, t.usage.c
    others = sa.select(1).where(
        k.account_id == account_id, k.id != key_id, k.created_at >= since, k.revoked_at.is_(None)
    )
    used = sa.select(1).where(u.account_id == account_id, u.last_used_at >= since)
    return (
        key_was_used(connection, account_id, key_id)
        or connection.execute(others.limit(1)).first() is not None
        or connection.execute(used.limit(1)).first() is not None
    )


def _end_key(connection: Connection, account_id: str, key_id: str, *, at: int, expires_at: int | None = None) -> bool:
    k = t.api_keys.c
    live = k.revoked_at.is_(None) & (k.expires_at.is_(None) | (k.expires_at > at))
    change: dict[str, Any] = {"revoked_at": at}
    if expires_at is not None:
        change = {"expires_at": sa.case((k.expires_at < expires_at, k.expires_at), else_=expires_at)}
    ended = connection.execute(
        sa.update(t.api_keys).where(k.id == key_id, k.account_id == account_id, live).values(change)
    )
    return ended.rowcount == 1


def subscriptions_of(connection: Connection, account_id: str) -> tuple[Subscription, ...]:
    """The account's subscriptions as last applied, by id."""
    s = t.subscriptions.c
    rows = connection.execute(sa.select(t.subscriptions).where(s.account_id == account_id).order_by(s.id))
    return tuple(_subscription(row) for row in rows)


def apply_subscriptions(
    connection: Connection, account_id: str, fetched: tuple[Subscription, ...], *, fence: int, at: int
) -> Applied:
    """Replace the account's subscriptions by the fetched set. The caller announces a change, last of all.

    Fences are given out in the order in which fetches begin; nothing is done when a fetch that began later has been
    applied already (L17). One that has merely begun does not count: two fetchers would keep each other out.
    A terminal state stays.
    """
    a = t.accounts.c
    newest = sa.update(t.accounts).where(a.id == account_id, a.applied_fence < fence).values(applied_fence=fence)
    if connection.execute(newest).rowcount != 1:
        return Applied.OUTDATED
    old = subscriptions_of(connection, account_id)
    ended = {s.id: s for s in old if s.status in TERMINAL_STATUSES}
    kept = [s for s in ended.values() if s.id not in {f.id for f in fetched}]
    new = with_status_times(old, [*(ended.get(s.id, s) for s in fetched), *kept], at)
    new = record_periods(connection, account_id, new)
    if new == old:
        return Applied.UNCHANGED
    for meter, ids in double_subscriptions(new).items():
        _log.error("double_subscription", account=account_id, meter=meter, subscriptions=ids)
    connection.execute(sa.delete(t.subscriptions).where(t.subscriptions.c.account_id == account_id))
    if new:
        connection.execute(sa.insert(t.subscriptions), [{**_columns(s), "account_id": account_id} for s in new])
    if ended_ids := [s.id for s in new if s.status in TERMINAL_STATUSES and s.id not in ended]:
        wake_moved_items(connection, account_id, ended_ids, at)
    return Applied.CHANGED


def _columns(subscription: Subscription) -> dict[str, Any]:
    return {
        "id": subscription.id,
        "customer_id": subscription.customer_id,
        "plan": subscription.plan,
        "status": subscription.status,
        "created_at": subscription.created_at,
        "status_since_at": subscription.status_since_at,
        "cancel_at_period_end": subscription.cancel_at_period_end,
        "collection_paused": subscription.collection_paused,
        "items": items_text(subscription.items),
        "base": None if subscription.base is None else str(subscription.base),
        "next_plan": subscription.next_plan,
        "ended_at": subscription.ended_at,
        "cancel_at": subscription.cancel_at,
        "trial_end": subscription.trial_end,
    }


def _subscription(row: Row[Any]) -> Subscription:
    return Subscription(
        id=row.id,
        customer_id=row.customer_id,
        plan=row.plan,
        status=row.status,
        created_at=row.created_at,
        items=read_items(row.items),
        cancel_at_period_end=row.cancel_at_period_end,
        collection_paused=row.collection_paused,
        status_since_at=row.status_since_at,
        base=None if row.base is None else Decimal(row.base),
        next_plan=row.next_plan,
        ended_at=row.ended_at,
        cancel_at=row.cancel_at,
        trial_end=row.trial_end,
    )
