"""Connections and transactions on either database, the schema's version, and driver errors turned into StoreErrors.

A driver's text never reaches a public detail.
"""

import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from importlib import resources
from pathlib import Path
from typing import Any, Final, ParamSpec, Protocol, TypeVar

import sqlalchemy as sa
import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects import sqlite as sqlite_dialect
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from farebox.errors import StoreError, StoreUnavailable, StoreUnusable
from farebox.ports import Durability
from farebox.store.postgres import FEED_CHANNEL, PostgresBackend
from farebox.store.sqlite import BUSY_TIMEOUT_MILLISECONDS, QuickConnection, SqliteBackend
from farebox.store.tables import metadata

__all__ = [
    "RERUNS_MAX",
    "Contended",
    "Database",
    "insert_into",
    "insert_new",
    "notify",
    "one_at_a_time",
    "rerun",
    "upsert",
]

RERUNS_MAX: Final = 5
_TURNS: Final = 0x4661726F  # advisory locks of `one_at_a_time`

_log = structlog.get_logger("farebox.store")
_P = ParamSpec("_P")
_T = TypeVar("_T")


class Contended(StoreUnavailable):
    """The database gave this transaction up for another one: it did not happen, and may be run again."""


class _Backend(Protocol):
    """What differs between the databases."""

    @property
    def name(self) -> str: ...
    @property
    def advice(self) -> str: ...
    @property
    def path(self) -> Path | None: ...
    @property
    def options(self) -> Mapping[str, Mapping[str, Any]]:
        """How a transaction is begun, by its kind."""
        ...

    def create_engine(self) -> Engine: ...
    @property
    def time_ms(self) -> sa.ColumnElement[Any]:
        """The database's own time in milliseconds, or NULL where it is the machine's."""
        ...

    def durability(self) -> Durability: ...
    def wait_for_notice(self, engine: Engine, timeout_ms: int) -> None: ...
    def hang_up(self) -> None: ...
    def lock_schema(self, connection: Connection) -> None: ...
    def mark(self, connection: Connection) -> None: ...
    def unusable(self, error: DBAPIError) -> StoreUnusable: ...
    def contended(self, error: DBAPIError) -> bool: ...


class Database:
    """One database, opened and checked once.

    `read` and `write` are transactions. A read sees one instant. On SQLite `write` has the lock from its start; on
    PostgreSQL each statement sees what was committed before it.
    """

    def __init__(self, url: str, *, allow_weak: bool = False) -> None:
        parsed = make_url(url)
        self._backend: _Backend = (
            SqliteBackend(parsed)
            if parsed.get_backend_name() == "sqlite"
            else PostgresBackend(parsed, allow_weak=allow_weak)
        )
        sqlite = isinstance(self._backend, SqliteBackend)
        self._alone = threading.RLock() if sqlite and self.path is None else None
        self._turns = _Turns() if sqlite and self.path is not None else None
        self._engine: Engine | None = None
        self._quick: QuickConnection | None = None
        self._process = os.getpid()

    @property
    def path(self) -> Path | None:
        """The SQLite file, or None for a database in memory or on a server."""
        return self._backend.path

    def durability(self) -> Durability:
        """What the database does with a commit, as it said when the last connection was made."""
        return self._backend.durability()

    @property
    def time_ms(self) -> sa.ColumnElement[Any]:
        return self._backend.time_ms

    def wait_for_notice(self, timeout_ms: int) -> None:
        """Until somebody says that the feed has moved, where the database passes that on, or the time is over."""
        self._backend.wait_for_notice(self._own_engine(), timeout_ms)

    def open(self, *, migrate: bool = False) -> None:
        """Create the schema in an empty database; check it in another, and bring it up to date only with `migrate`.

        StoreUnusable says what is wrong and what to do.
        """
        engine = self._backend.create_engine()
        try:
            self._check_and_migrate(engine, migrate=migrate)
        except DBAPIError as error:
            engine.dispose()
            raise self._backend.unusable(error) from error
        except BaseException:
            engine.dispose()
            raise
        self._engine = engine
        for weakness in self.durability().weaknesses:
            _log.critical("weak_durability", database=self._backend.name, weakness=weakness)

    def close(self) -> None:
        if self._quick is not None:
            self._quick.close()
            self._quick = None
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None
            self._backend.hang_up()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with self._transaction("read") as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        with self._transaction("write") as connection:
            yield connection

    @contextmanager
    def _transaction(self, kind: str) -> Iterator[Connection]:
        engine = self._own_engine()
        turns = self._turns if kind == "write" else None
        if self._alone is not None:
            self._alone.acquire()
        if turns is not None and not turns.take(BUSY_TIMEOUT_MILLISECONDS / 1000):
            raise StoreUnavailable(internal="other writers of this process did not come to an end")
        try:
            options = self._backend.options[kind]
            with engine.connect().execution_options(**options) as connection, connection.begin():
                yield connection
        except (IntegrityError, DataError) as error:
            raise StoreError(internal=_reason(error)) from error
        except DBAPIError as error:
            kind_of = Contended if self._backend.contended(error) else StoreUnavailable
            raise kind_of(internal=_reason(error)) from error
        except sa.exc.TimeoutError as error:
            raise StoreUnavailable(internal=_reason(error)) from error
        finally:
            if self._alone is not None:
                self._alone.release()
            if turns is not None:
                turns.give_back()

    @property
    def quick(self) -> bool:
        """Whether `quick_write` is to be had: on a SQLite file."""
        return self._turns is not None

    @contextmanager
    def quick_write(self) -> Iterator[sqlite3.Connection]:
        """A write transaction as `write`, past SQLAlchemy: on the driver's own connection, for the commits of calls."""
        engine, turns = self._own_engine(), self._turns
        if turns is None or not turns.take(BUSY_TIMEOUT_MILLISECONDS / 1000):
            raise StoreUnavailable(internal="other writers of this process did not come to an end")
        try:
            if self._quick is None:
                self._quick = QuickConnection(engine)
            self._quick.begin()
            yield self._quick.raw
            self._quick.raw.execute("COMMIT")
        except BaseException as error:
            quick, self._quick = self._quick, None
            if quick is not None:
                quick.close()
            if isinstance(error, sqlite3.IntegrityError | sqlite3.DataError):
                raise StoreError(internal=str(error)) from error
            if isinstance(error, sqlite3.Error | sa.exc.SQLAlchemyError):
                raise StoreUnavailable(internal=_reason(error)) from error
            raise
        finally:
            turns.give_back()

    def _own_engine(self) -> Engine:
        """The engine; after a fork the child drops the connections that it must not share."""
        if self._engine is None:
            raise StoreUnavailable("The ledger is closed.")
        if self._process != os.getpid():
            self._engine.dispose(close=False)
            self._quick = None
            self._process = os.getpid()
            self._turns = _Turns() if self._turns is not None else None
        return self._engine

    def _check_and_migrate(self, engine: Engine, *, migrate: bool) -> None:
        config = Config()
        config.set_main_option("script_location", str(resources.files("farebox.store") / "migrations"))
        scripts = ScriptDirectory.from_config(config)
        head = scripts.get_current_head()
        options = self._backend.options["write"]
        with engine.connect().execution_options(**options) as connection, connection.begin():
            self._backend.lock_schema(connection)
            current = MigrationContext.configure(connection).get_current_revision()
            self._refuse_foreign(connection, current)
            if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
                raise StoreUnusable("The ledger was written by a newer Farebox. Upgrade this one before serving it.")
            if current != head:
                if not migrate and current is not None:
                    raise StoreUnusable("The ledger's schema is older than this Farebox. Run `farebox migrate`.")
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                self._backend.mark(connection)

    def _refuse_foreign(self, connection: Connection, current: str | None) -> None:
        names = set(sa.inspect(connection).get_table_names())
        if current is None and names & set(metadata.tables):
            raise StoreUnusable(f"{self._backend.name} holds tables of another program. {self._backend.advice}")


class _Turns:
    """The process's writers one after another, in the order in which they came.

    SQLite's own lock goes to whoever looks first: a sealer that takes it again and again would keep paid calls out.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Lock] = deque()

    def take(self, timeout_seconds: float) -> bool:
        """Wait for one's turn. False when it does not come in time."""
        with self._lock:
            if not self._taken:
                self._taken = True
                return True
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append(mine)
        if mine.acquire(timeout=timeout_seconds):
            return True
        with self._lock:
            if mine in self._waiting:
                self._waiting.remove(mine)
                return False
        return True  # it came in the last moment

    def give_back(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False


def rerun(method: Callable[_P, _T]) -> Callable[_P, _T]:
    """Run a method that is one transaction again when the database gave it up for another one."""

    @wraps(method)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        for _ in range(RERUNS_MAX):
            try:
                return method(*args, **kwargs)
            except Contended as error:
                _log.info("transaction_rerun", method=method.__name__, reason=error.internal)
        return method(*args, **kwargs)

    return run


def one_at_a_time(connection: Connection, turn: int) -> None:
    """Let transactions that name the same turn pass one after another. The next sees all that the last one wrote."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_TURNS, turn)))


def notify(connection: Connection) -> None:
    """Wake who waits for a change of the feed, once this transaction is committed."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_notify(FEED_CHANNEL, "")))


def insert_into(dialect: str, table: sa.Table) -> Any:
    """An INSERT that can say ON CONFLICT, in the named dialect."""
    return (postgresql if dialect == "postgresql" else sqlite_dialect).insert(table)


def upsert(connection: Connection, table: sa.Table) -> Any:
    """An INSERT that can say ON CONFLICT, in the connection's dialect."""
    return insert_into(connection.dialect.name, table)


def insert_new(connection: Connection, table: sa.Table, row: Mapping[str, object]) -> bool:
    """Insert the row unless one with its key is there; whether it was inserted.

    What the row returns is counted: how many rows an INSERT wrote is not told by every driver.
    """
    statement = upsert(connection, table).values(row).on_conflict_do_nothing().returning(sa.literal(1))
    return connection.execute(statement).first() is not None


def _reason(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error)
