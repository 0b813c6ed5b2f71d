"""The halt of reporting (L6): one row that every reporter reads before it sends, so that no restart forgets it."""

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from farebox.domain.audit import AuditEntry
from farebox.store import tables as t
from farebox.store.audit import write_audit
from farebox.store.engine import Database

__all__ = ["NOT_HALTED", "HaltingTables", "clear_halt", "write_halt"]

NOT_HALTED: Final[Any] = ~sa.exists().where(t.ledger.c.halted_reason.is_not(None))
"""A condition for statements that take usage up to be sent: false in each that begins after the halt was committed."""


class HaltingTables:
    """The part of the Store that says whether anything may be reported."""

    _database: Database

    def halt_reporting(self, reason: str, *, now: int) -> bool:
        with self._database.write() as connection:
            return write_halt(connection, reason, now)

    def resume_reporting(self, *, audit: AuditEntry) -> str | None:
        with self._database.write() as connection:
            halted = sa.select(t.ledger.c.halted_reason).with_for_update()
            reason: str | None = connection.execute(halted).scalar_one()
            if reason is not None:
                clear_halt(connection)
                write_audit(connection, audit.with_detail(reason=reason))
        return reason


def write_halt(connection: Connection, reason: str, now: int) -> bool:
    """Halt unless it is halted already; whether this halted it."""
    halt = sa.update(t.ledger).where(t.ledger.c.halted_reason.is_(None)).values(halted_reason=reason, halted_at=now)
    return connection.execute(halt).rowcount == 1


def clear_halt(connection: Connection) -> None:
    connection.execute(sa.update(t.ledger).values(halted_reason=None, halted_at=None))
