"""The time that a restore lost (L6): from the newest that the backup knows until the ledger was settled."""

from dataclasses import asdict

import sqlalchemy as sa

from farebox.domain.audit import AuditEntry
from farebox.domain.restoring import LostSpan
from farebox.store import tables as t
from farebox.store.audit import write_audit
from farebox.store.engine import Database, rerun, upsert

__all__ = ["LostTables"]

_SPAN = (t.lost_spans.c.start, t.lost_spans.c.end, t.lost_spans.c.found_at, t.lost_spans.c.lifted_at)
_NEWEST = (
    t.ledger.c.created_at,
    t.usage.c.last_used_at,
    t.processes.c.seen_at,
    t.meter_events.c.created_at,
    t.meter_events.c.settled_at,
    t.events.c.received_at,
    t.accounts.c.created_at,
    t.api_keys.c.created_at,
    t.audit.c.at,
)


class LostTables:
    """The part of the Store that knows which time a restore lost."""

    _database: Database

    def newest_at(self) -> int:
        with self._database.read() as connection:
            found = [connection.execute(sa.select(sa.func.max(column))).scalar_one() for column in _NEWEST]
        return max(int(at) for at in found if at is not None)

    @rerun
    def keep_lost_span(self, span: LostSpan) -> None:
        s = t.lost_spans.c
        with self._database.write() as connection:
            statement = upsert(connection, t.lost_spans).values(asdict(span))
            later = sa.case((s.end > statement.excluded.end, s.end), else_=statement.excluded.end)
            values = {"end": later, "found_at": statement.excluded.found_at, "lifted_at": None}
            connection.execute(statement.on_conflict_do_update(index_elements=[s.start], set_=values))
            within = (s.start > span.start) & (s.end <= span.end) & s.lifted_at.is_(None)
            connection.execute(sa.delete(t.lost_spans).where(within))

    def lost_spans(self, *, lifted: bool = False) -> list[LostSpan]:
        query = sa.select(*_SPAN).order_by(t.lost_spans.c.start)
        if not lifted:
            query = query.where(t.lost_spans.c.lifted_at.is_(None))
        with self._database.read() as connection:
            return [LostSpan(*row) for row in connection.execute(query)]

    @rerun
    def lift_lost_spans(self, *, at: int, audit: AuditEntry) -> list[LostSpan]:
        s = t.lost_spans.c
        lifting = sa.update(t.lost_spans).where(s.lifted_at.is_(None)).values(lifted_at=at).returning(*_SPAN)
        with self._database.write() as connection:
            spans = sorted((LostSpan(*row) for row in connection.execute(lifting)), key=lambda span: span.start)
            if spans:
                write_audit(connection, audit.with_detail(start=spans[0].start, end=max(span.end for span in spans)))
        return spans
