"""Serving processes in the ledger, and accounts held back while their usage is settled (L1, L12)."""

from dataclasses import asdict

import sqlalchemy as sa

from farebox.ports import ProcessRow
from farebox.store import tables as t
from farebox.store.engine import Database, rerun
from farebox.store.feed import announce

__all__ = ["PresenceTables"]


class PresenceTables:
    """The part of the Store that knows who serves."""

    _database: Database

    @rerun
    def beat(self, process: ProcessRow) -> bool:
        p = t.processes.c
        alive = (
            sa.update(t.processes)
            .where(p.id == process.id)
            .values(beats=p.beats + 1, seen_at=process.seen_at, acknowledged=process.acknowledged)
        )
        with self._database.write() as connection:
            if connection.execute(alive).rowcount == 1:
                return True
            connection.execute(sa.insert(t.processes).values({**asdict(process), "beats": 1}))
            return False

    def processes(self) -> list[ProcessRow]:
        with self._database.read() as connection:
            rows = connection.execute(sa.select(t.processes).order_by(t.processes.c.id))
            return [ProcessRow(**row._mapping) for row in rows]

    @rerun
    def remove_process(self, process: ProcessRow) -> bool:
        p, w = t.processes.c, t.writers.c
        with self._database.write() as connection:
            gone = connection.execute(sa.delete(t.processes).where(p.id == process.id, p.beats == process.beats))
            if gone.rowcount != 1:
                return False
            connection.execute(
                sa.update(t.writers).where(w.id.like(f"{process.id}-%"), w.state == "live").values(state="closed")
            )
            return True

    @rerun
    def hold_account(self, account_id: str, *, now: int, until: int) -> int | None:
        a = t.accounts.c
        free = a.held_until.is_(None) | (a.held_until <= now)
        with self._database.write() as connection:
            held = connection.execute(sa.update(t.accounts).where(a.id == account_id, free).values(held_until=until))
            return announce(connection, account_id) if held.rowcount == 1 else None

    @rerun
    def release_account(self, account_id: str, *, until: int) -> None:
        a = t.accounts.c
        with self._database.write() as connection:
            released = connection.execute(
                sa.update(t.accounts).where(a.id == account_id, a.held_until == until).values(held_until=None)
            )
            if released.rowcount == 1:
                announce(connection, account_id)

    def held_until(self, account_id: str) -> int | None:
        query = sa.select(t.accounts.c.held_until).where(t.accounts.c.id == account_id)
        with self._database.read() as connection:
            return connection.execute(query).scalar()

    def reported(self, account_id: str, start: int, end: int) -> dict[str, int]:
        m = t.meter_events.c
        query = (
            sa.select(m.event_name, sa.func.sum(m.value))
            .where(m.account_id == account_id, m.state == "delivered", m.timestamp >= start, m.timestamp < end)
            .group_by(m.event_name)
        )
        with self._database.read() as connection:
            return {row[0]: int(row[1]) for row in connection.execute(query)}
