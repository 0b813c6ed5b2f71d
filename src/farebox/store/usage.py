"""Usage in the ledger: fenced batches (L1), rows that writers never share (L2), and reading them back."""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite as sqlite_dialect
from sqlalchemy.engine import Connection

from farebox.domain.usage import Batch, Increment, UsageLine, record_conflict
from farebox.errors import WriterFenced
from farebox.ports import WriterState
from farebox.store import tables as t
from farebox.store.engine import Database, insert_into, insert_new, rerun

__all__ = ["UsageTables", "key_was_used"]

_LIVE = "live"
_CLOSED = "closed"
_EMPTY = ""  # the nonce of a batch that only uses up its number
_NEXT_NUMBER = (
    sa.update(t.writers)
    .where(
        t.writers.c.id == sa.bindparam("writer"),
        t.writers.c.batch == sa.bindparam("before"),
        t.writers.c.state == _LIVE,
    )
    .values(batch=sa.bindparam("number"), nonce=sa.bindparam("made"))
)


class UsageTables:
    """The part of the Store that counts."""

    _database: Database

    def commit_batch(self, batch: Batch) -> None:
        plain = batch.number > 1 and all(i.record_id is None for i in batch.increments)
        if not (plain and self._database.quick and self._commit_quickly(batch)):
            self._commit(batch)

    def _commit_quickly(self, batch: Batch) -> bool:
        """The same in two statements of the driver. False, and nothing is done, when the number was not the next."""
        try:
            with self._database.quick_write() as raw:
                fence, adding, defaults = _driver_statements()
                values = {"writer": batch.writer, "before": batch.number - 1, "number": batch.number}
                if raw.execute(fence, {**defaults, **values, "made": batch.nonce}).rowcount != 1:
                    raise WriterFenced
                raw.executemany(adding, [{**defaults, **row} for row in _summed(batch.writer, batch.increments)])
        except WriterFenced:
            return False
        return True

    @rerun
    def _commit(self, batch: Batch) -> None:
        with self._database.write() as connection:
            if not _take_number(connection, batch):
                if _row(connection, batch.writer) == (batch.number, batch.nonce, _LIVE):
                    return
                raise WriterFenced(internal=f"writer {batch.writer} batch {batch.number}")
            plain = [i for i in batch.increments if i.record_id is None]
            # In one order everywhere: writers that share record ids wait for each other, never in a circle.
            named = sorted((i for i in batch.increments if i.record_id is not None), key=_record_key)
            _add(connection, batch.writer, plain + [i for i in named if _first_record(connection, i)])

    @rerun
    def batch_landed(self, batch: Batch) -> bool:
        with self._database.write() as connection:
            if _take_number(connection, Batch(batch.writer, batch.number, _EMPTY, ())):
                return False
            row = _row(connection, batch.writer)
            if row in ((batch.number, batch.nonce, _LIVE), (batch.number, _EMPTY, _LIVE)):
                return row[1] == batch.nonce  # an empty batch whose own answer was lost is an answer, too
            raise WriterFenced(internal=f"writer {batch.writer} batch {batch.number}")

    def close_writer(self, writer: str) -> None:
        with self._database.write() as connection:
            connection.execute(sa.update(t.writers).where(t.writers.c.id == writer).values(state=_CLOSED))

    def writer_state(self, writer: str) -> WriterState | None:
        with self._database.read() as connection:
            row = _row(connection, writer)
        return None if row is None else WriterState(row[0], row[1], row[2] == _LIVE)

    def recorded(self, account_id: str, record_ids: Sequence[str]) -> dict[str, tuple[str, int]]:
        r = t.recorded.c
        query = sa.select(r.record_id, r.meter, r.quantity).where(r.account_id == account_id)
        with self._database.read() as connection:
            rows = connection.execute(query.where(r.record_id.in_(record_ids))).all()
        return {row[0]: (row[1], row[2]) for row in rows}

    def first_recorded(self, account_id: str, record_ids: Sequence[str], mark: str) -> set[str]:
        r = t.recorded.c
        query = sa.select(r.record_id).where(r.account_id == account_id, r.record_id.in_(record_ids), r.mark == mark)
        with self._database.read() as connection:
            return set(connection.execute(query).scalars())

    def usage(self, account_id: str, start: int, end: int, *, by_operation: bool = False) -> list[UsageLine]:
        u = t.usage.c
        groups = [u.meter, u.operation, u.key_id] if by_operation else [u.meter]
        query = (
            sa.select(*groups, sa.func.sum(u.quantity), sa.func.sum(u.calls), sa.func.max(u.last_used_at))
            .where(u.account_id == account_id, u.bucket_start >= start, u.bucket_start < end)
            .group_by(*groups)
            .order_by(*groups)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        lines = [tuple(row) for row in rows]
        if by_operation:
            return [UsageLine(r[0], int(r[3]), int(r[4]), r[5], operation=r[1], key_id=r[2]) for r in lines]
        return [UsageLine(r[0], int(r[1]), int(r[2]), r[3]) for r in lines]

    def key_used(self, account_id: str, key_id: str) -> bool:
        with self._database.read() as connection:
            return key_was_used(connection, account_id, key_id)


def key_was_used(connection: Connection, account_id: str, key_id: str) -> bool:
    used = sa.select(1).where(t.usage.c.account_id == account_id, t.usage.c.key_id == key_id)
    return connection.execute(used.limit(1)).first() is not None


def _take_number(connection: Connection, batch: Batch) -> bool:
    """Move the writer to this number; False when it is not the next one. A writer's first number registers it."""
    if batch.number == 1:
        row = {"id": batch.writer, "batch": 1, "nonce": batch.nonce, "state": _LIVE}
        return insert_new(connection, t.writers, row)
    wanted = {"writer": batch.writer, "before": batch.number - 1, "number": batch.number, "made": batch.nonce}
    return connection.execute(_NEXT_NUMBER, wanted).rowcount == 1


def _row(connection: Connection, writer: str) -> tuple[int, str, str] | None:
    w = t.writers.c
    row = connection.execute(sa.select(w.batch, w.nonce, w.state).where(w.id == writer)).first()
    return None if row is None else (row[0], row[1], row[2])


def _record_key(increment: Increment) -> tuple[str, str]:
    return increment.account_id, str(increment.record_id)


def _first_record(connection: Connection, increment: Increment) -> bool:
    """Whether the record is new. RecordConflict when its id is known with other values."""
    r = t.recorded.c
    row = {
        "account_id": increment.account_id,
        "record_id": increment.record_id,
        "meter": increment.meter,
        "quantity": increment.quantity,
        "recorded_at": increment.used_at,
        "mark": increment.mark,
    }
    # Waits for another writer that is about to commit the same id, and then finds it there.
    if insert_new(connection, t.recorded, row):
        return True
    known = connection.execute(
        sa.select(r.meter, r.quantity).where(r.account_id == increment.account_id, r.record_id == increment.record_id)
    ).one()
    if tuple(known) != (increment.meter, increment.quantity):
        raise record_conflict(str(increment.record_id), known[0], known[1])
    return False


def _add(connection: Connection, writer: str, increments: Iterable[Increment]) -> None:
    """Add to the writer's own rows: summed first, then one statement in key order."""
    values = _summed(writer, increments)
    if values:
        connection.execute(_adding(connection.dialect.name), values)


def _summed(writer: str, increments: Iterable[Increment]) -> list[dict[str, Any]]:
    sums: dict[tuple[str, str, int, str, str], list[int]] = {}
    for i in increments:
        row = sums.setdefault((i.account_id, i.meter, i.bucket_start, i.key_id, i.operation), [0, 0, 0])
        row[0] += i.quantity
        row[1] += i.calls
        row[2] = max(row[2], i.used_at)
    return [
        {
            "account_id": key[0],
            "meter": key[1],
            "bucket_start": key[2],
            "key_id": key[3],
            "operation": key[4],
            "writer": writer,
            "quantity": quantity,
            "calls": calls,
            "last_used_at": last_used_at,
            "dirty": True,
        }
        for key, (quantity, calls, last_used_at) in sorted(sums.items())
    ]


@cache
def _driver_statements() -> tuple[str, str, dict[str, Any]]:
    """The fence's and the usage rows' statements as SQLite's driver takes them, and what is bound to them always."""
    named = sqlite_dialect.dialect(paramstyle="named")
    fence, adding = _NEXT_NUMBER.compile(dialect=named), _adding("sqlite").compile(dialect=named)
    return str(fence), str(adding), {**fence.params, **adding.params}


@cache
def _adding(dialect: str) -> Any:
    """The statement that adds to usage rows, built once: building it costs more than running it."""
    statement = insert_into(dialect, t.usage)
    new, old = statement.excluded, t.usage.c
    later = sa.case((old.last_used_at > new.last_used_at, old.last_used_at), else_=new.last_used_at)
    return statement.on_conflict_do_update(
        index_elements=list(t.usage.primary_key.columns),
        set_={
            "quantity": old.quantity + new.quantity,
            "calls": old.calls + new.calls,
            "last_used_at": later,
            "dirty": True,
        },
    )
