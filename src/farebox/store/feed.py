"""The change feed (L13): a gap-free number for each change of an account's facts."""

from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from farebox.ports import Changes
from farebox.store import tables as t
from farebox.store.engine import Database, notify

__all__ = ["FEED_ROWS_KEPT", "FeedTables", "announce"]

FEED_ROWS_KEPT: Final = 10_000


class FeedTables:
    """The part of the Store that says what has changed."""

    _database: Database

    def changes(self, epoch: str, after: int) -> Changes:
        f, h = t.feed.c, t.feed_head.c
        with self._database.read() as connection:
            head, current, at_ms = connection.execute(sa.select(h.n, h.epoch, self._database.time_ms)).one()
            if current == epoch and head == after:
                return Changes(current, head, (), complete=True, at_ms=at_ms)
            if current != epoch or head < after:
                return Changes(current, head, (), complete=False, at_ms=at_ms)
            rows = (
                connection.execute(sa.select(f.account_id).where(f.n > after, f.n <= head).order_by(f.n))
                .scalars()
                .all()
            )
        return Changes(current, head, tuple(rows), complete=len(rows) == head - after, at_ms=at_ms)

    def wait_for_change(self, timeout_ms: int) -> None:
        self._database.wait_for_notice(timeout_ms)


def announce(connection: Connection, account_id: str) -> int:
    """Number the change of an account's facts.

    Call it last in a transaction: whoever holds a number holds the head's row until commit, so numbers become visible
    in order and without gaps, and nobody who holds it waits for anybody.
    """
    h = t.feed_head.c
    n = connection.execute(sa.update(t.feed_head).values(n=h.n + 1).returning(h.n)).scalar_one()
    connection.execute(sa.insert(t.feed).values(n=n, account_id=account_id))
    notify(connection)
    if n % 100 == 0:
        connection.execute(sa.delete(t.feed).where(t.feed.c.n <= n - FEED_ROWS_KEPT))
    return int(n)
