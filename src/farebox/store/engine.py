"""Connections and transactions: durable settings that are checked, and driver errors turned into StoreErrors.

The only module that knows which database it is; a driver's text never reaches a public detail.
"""

import os
import sqlite3
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects import sqlite as sqlite_dialect
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.pool import StaticPool

from farebox.errors import StoreError, StoreUnavailable, StoreUnusable
from farebox.store.tables import metadata

__all__ = ["APPLICATION_ID", "BUSY_TIMEOUT_MILLISECONDS", "CONNECTIONS_MAX", "Database", "insert_into", "upsert"]

APPLICATION_ID: Final = 0x46617265  # "Fare": marks a SQLite file as a Farebox ledger
BUSY_TIMEOUT_MILLISECONDS: Final = 5_000
CONNECTIONS_MAX: Final = 64  # more than all threads that may ask: who waits for the writer keeps no reader out
_FULL: Final = 2  # what PRAGMA synchronous answers when it is FULL
_ADVICE: Final = "Name another file in FAREBOX_DATABASE_URL, or restore this one from a backup."


class Database:
    """One database, opened and checked once.

    `read` and `write` are transactions; `write` takes the lock at its start.
    """

    def __init__(self, url: str) -> None:
        self._url: URL = make_url(url)
        self._memory = self._url.database in (None, "", ":memory:")
        self._alone = threading.RLock() if self._memory else None
        self._turns = _Turns()
        self._engine: Engine | None = None
        self._process = os.getpid()

    @property
    def path(self) -> Path | None:
        """The SQLite file, or None for a database in memory."""
        return None if self._memory else Path(str(self._url.database))

    def open(self, *, migrate: bool = True) -> None:
        """Create the schema, or check it and bring it up to date. StoreUnusable says what is wrong and what to do."""
        path = self.path
        if path is not None:
            _prepare_file(path)
            _refuse_foreign_file(path)
        # One connection for all threads in memory; `_alone` lets them use it one after another.
        shared: dict[str, Any] = {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
        many: dict[str, Any] = {"pool_size": CONNECTIONS_MAX, "max_overflow": 0}
        engine = sa.create_engine(self._url, **(shared if self._memory else many))
        event.listen(engine, "connect", _on_connect)
        event.listen(engine, "begin", _on_begin)
        try:
            self._check_and_migrate(engine, migrate=migrate)
        except DBAPIError as error:
            engine.dispose()
            raise _unusable(path or self._url.render_as_string(), _reason(error)) from error
        except BaseException:
            engine.dispose()
            raise
        self._engine = engine

    def close(self) -> None:
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

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
        turns = self._turns if kind == "write" and self._alone is None else None
        if self._alone is not None:
            self._alone.acquire()
        if turns is not None and not turns.take(BUSY_TIMEOUT_MILLISECONDS / 1000):
            raise StoreUnavailable(internal="other writers of this process did not come to an end")
        try:
            with engine.connect().execution_options(farebox=kind) as connection, connection.begin():
                yield connection
        except IntegrityError as error:
            raise StoreError(internal=_reason(error)) from error
        except (DBAPIError, sa.exc.TimeoutError) as error:
            raise StoreUnavailable(internal=_reason(error)) from error
        finally:
            if self._alone is not None:
                self._alone.release()
            if turns is not None:
                turns.give_back()

    def _own_engine(self) -> Engine:
        """The engine; after a fork the child drops the connections that it must not share."""
        if self._engine is None:
            raise StoreUnavailable("The ledger is closed.")
        if self._process != os.getpid():
            self._engine.dispose(close=False)
            self._process = os.getpid()
            self._turns = _Turns()
        return self._engine

    def _check_and_migrate(self, engine: Engine, *, migrate: bool) -> None:
        config = Config()
        config.set_main_option("script_location", str(resources.files("farebox.store") / "migrations"))
        head = ScriptDirectory.from_config(config).get_current_head()
        with engine.connect().execution_options(farebox="write") as connection, connection.begin():
            current = MigrationContext.configure(connection).get_current_revision()
            self._refuse_foreign(connection, current)
            known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
            if current is not None and current not in known:
                raise StoreUnusable("The ledger was written by a newer Farebox. Upgrade this one before serving it.")
            if current != head:
                if not migrate and current is not None:
                    raise StoreUnusable("The ledger's schema is older than this Farebox. Run `farebox migrate`.")
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                if connection.dialect.name == "sqlite":
                    connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")

    def _refuse_foreign(self, connection: Connection, current: str | None) -> None:
        names = set(sa.inspect(connection).get_table_names())
        if current is None and names & set(metadata.tables):
            raise StoreUnusable(f"{self._url.database} holds tables of another program. {_ADVICE}")


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


def insert_into(dialect: str, table: sa.Table) -> Any:
    """An INSERT that can say ON CONFLICT, in the named dialect."""
    return (postgresql if dialect == "postgresql" else sqlite_dialect).insert(table)


def upsert(connection: Connection, table: sa.Table) -> Any:
    """An INSERT that can say ON CONFLICT, in the connection's dialect."""
    return insert_into(connection.dialect.name, table)


def _prepare_file(path: Path) -> None:
    folder = path.parent
    if not folder.is_dir():
        raise StoreUnusable(
            f"The folder {folder} of the ledger does not exist. Create it, or set FAREBOX_DATABASE_URL."
        )
    if path.is_dir():
        raise StoreUnusable(f"{path} is a folder, not a database file. {_ADVICE}")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StoreUnusable(f"{path} cannot be written: {error.strerror}. Check the folder and its owner.") from error
    os.close(descriptor)
    if not os.access(folder, os.W_OK):
        raise StoreUnusable(
            f"{folder} cannot be written, and a ledger needs files beside it. Check the folder's owner."
        )


def _refuse_foreign_file(path: Path) -> None:
    """Look at a file that is not empty before anything is written to it, a journal's mode included.

    A file that bears our mark is left to SQLite, which alone knows how to read it beside its journal.
    """
    with path.open("rb") as file:
        head = file.read(100)
    if not head or int.from_bytes(head[68:72], "big") == APPLICATION_ID:
        return
    way = "mode=ro" if path.with_name(path.name + "-wal").exists() else "immutable=1"
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?{way}", uri=True)) as raw:
            mark = raw.execute("PRAGMA application_id").fetchone()[0]
            tables = raw.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    except sqlite3.Error as error:
        raise _unusable(path, str(error)) from error
    if (tables and mark != APPLICATION_ID) or mark not in (0, APPLICATION_ID):
        raise StoreUnusable(f"{path} is another program's database, not a Farebox ledger. {_ADVICE}")


def _unusable(where: Path | str, reason: str) -> StoreUnusable:
    if "not a database" in reason or "malformed" in reason:
        return StoreUnusable(f"{where} is not a SQLite database, or is damaged. {_ADVICE}", internal=reason)
    return StoreUnusable(f"{where} cannot be used: {reason}.")


def _on_connect(raw: Any, _record: Any) -> None:
    if not type(raw).__module__.startswith("sqlite3"):
        return
    raw.isolation_level = None  # transactions are ours, begun in _on_begin
    cursor = raw.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MILLISECONDS}")
    mode = cursor.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    level = cursor.execute("PRAGMA synchronous").fetchone()[0]
    cursor.close()
    if mode not in ("wal", "memory") or level != _FULL:
        raise StoreUnusable(
            f"SQLite does not keep its writes here (journal {mode}, synchronous {level}). Use a local disk."
        )


def _on_begin(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        kind = connection.get_execution_options().get("farebox")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if kind == "write" else "BEGIN")


def _reason(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error)
