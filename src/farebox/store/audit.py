"""The audit log in the ledger: written in the transaction of the act itself where there is one, never changed."""

import json

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from farebox.domain.audit import AuditEntry
from farebox.store import tables as t
from farebox.store.engine import Database

__all__ = ["AuditTables", "write_audit"]


class AuditTables:
    """The part of the Store that knows who did what."""

    _database: Database

    def add_audit(self, entry: AuditEntry) -> None:
        with self._database.write() as connection:
            write_audit(connection, entry)

    def audit(self, subject: str | None = None, *, limit: int = 100) -> list[AuditEntry]:
        a = t.audit.c
        query = sa.select(a.id, a.at, a.actor, a.action, a.subject, a.detail).order_by(a.at.desc(), a.id).limit(limit)
        if subject is not None:
            query = query.where(a.subject == subject)
        with self._database.read() as connection:
            return [AuditEntry(*row[:5], detail=json.loads(row[5])) for row in connection.execute(query)]


def write_audit(connection: Connection, entry: AuditEntry | None) -> None:
    """Add the entry in the caller's transaction; None writes nothing."""
    if entry is not None:
        connection.execute(
            sa.insert(t.audit).values(
                id=entry.id,
                at=entry.at,
                actor=entry.actor,
                action=entry.action,
                subject=entry.subject,
                detail=json.dumps(dict(entry.detail)),
            )
        )
