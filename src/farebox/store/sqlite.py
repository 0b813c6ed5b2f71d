"""SQLite as the ledger's database: the file is looked at before it is touched, and every write is synchronous."""

import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

from farebox.errors import StoreUnusable
from farebox.ports import Durability

__all__ = [
    "APPLICATION_ID",
    "BUSY_TIMEOUT_MILLISECONDS",
    "CHECKPOINT_PAGES",
    "COMMIT_CACHE_KIBIBYTES",
    "CONNECTIONS_MAX",
    "LOCK_LOOK_MILLISECONDS",
    "QuickConnection",
    "SqliteBackend",
]

APPLICATION_ID: Final = 0x46617265  # "Fare": marks a SQLite file as a Farebox ledger
BUSY_TIMEOUT_MILLISECONDS: Final = 5_000
LOCK_LOOK_MILLISECONDS: Final = 4
CHECKPOINT_PAGES: Final = 4_000  # pages that are written again and again are copied into the file once for all of them
COMMIT_CACHE_KIBIBYTES: Final = 65_536
CONNECTIONS_MAX: Final = 64  # more than all threads that may ask: who waits for the writer keeps no reader out
_LOOK_OFTEN: Final = f"PRAGMA busy_timeout = {LOCK_LOOK_MILLISECONDS}"
_FULL: Final = 2  # what PRAGMA synchronous answers when it is FULL
_ADVICE: Final = "Name another file in FAREBOX_DATABASE_URL, or restore this one from a backup."


class SqliteBackend:
    """A file, or a database in memory that all threads use one after another."""

    advice = _ADVICE
    time_ms: Final[sa.ColumnElement[Any]] = sa.null()
    options: Final = {"read": {"farebox": "read"}, "write": {"farebox": "write"}}

    def __init__(self, url: URL) -> None:
        self._url = url
        self._never = threading.Event()
        self.path = None if url.database in (None, "", ":memory:") else Path(str(url.database))
        self.name = str(self.path or "a database in memory")

    def create_engine(self) -> Engine:
        """An engine on the file, which is there and ours or empty. StoreUnusable says what is wrong with it."""
        if self.path is not None:
            _prepare_file(self.path)
            _refuse_foreign_file(self.path)
        shared: dict[str, Any] = {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
        wait_seconds = BUSY_TIMEOUT_MILLISECONDS // 1000
        many: dict[str, Any] = {"pool_size": CONNECTIONS_MAX, "max_overflow": 0, "pool_timeout": wait_seconds}
        # What is bound to a statement shows in no log and no trace: e-mails, digests of keys.
        engine = sa.create_engine(self._url, hide_parameters=True, **(shared if self.path is None else many))
        event.listen(engine, "connect", _on_connect)
        event.listen(engine, "begin", _on_begin)
        return engine

    def durability(self) -> Durability:
        kept = "WAL journal, synchronous FULL" if self.path is not None else "in memory, gone with the process"
        return Durability(f"SQLite {sqlite3.sqlite_version}, {self.name}", kept)

    def wait_for_notice(self, engine: Engine, timeout_ms: int) -> None:
        """SQLite passes nothing on: who waits looks again when the time is over."""
        self._never.wait(timeout_ms / 1000)

    def hang_up(self) -> None:
        """Nothing to do: nobody listens."""

    def lock_schema(self, connection: Connection) -> None:
        """Nothing to do: a write transaction has the whole file."""

    def mark(self, connection: Connection) -> None:
        """Mark the file as a ledger of ours, for whoever looks at it next."""
        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")

    def unusable(self, error: DBAPIError) -> StoreUnusable:
        return _unusable(self.name, str(error.orig))

    def contended(self, error: DBAPIError) -> bool:
        """Whether the database gave up a transaction that would succeed in another turn: SQLite makes them wait."""
        return False


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
    raw.isolation_level = None  # transactions are ours, begun in _on_begin
    cursor = raw.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MILLISECONDS}")
    mode = cursor.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    cursor.execute("PRAGMA foreign_keys = ON")
    level = cursor.execute("PRAGMA synchronous").fetchone()[0]
    cursor.close()
    if mode not in ("wal", "memory") or level != _FULL:
        raise StoreUnusable(
            f"SQLite does not keep its writes here (journal {mode}, synchronous {level}). Use a local disk."
        )


def _on_begin(connection: Connection) -> None:
    if connection.get_execution_options().get("farebox") != "write":
        connection.exec_driver_sql("BEGIN")
        return
    # SQLite looks for a lock ever more seldom, so that a process could starve beside busy ones: look often instead.
    raw: Any = connection.connection.dbapi_connection
    raw.execute(_LOOK_OFTEN)
    try:
        if not _begin_writing(raw):
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # once more, to fail as every statement does
    finally:
        raw.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MILLISECONDS}")


def _begin_writing(raw: sqlite3.Connection) -> bool:
    """Take the file's lock, looking for it often and for as long as is usual. False when there is something wrong."""
    for _ in range(BUSY_TIMEOUT_MILLISECONDS // LOCK_LOOK_MILLISECONDS):
        try:
            raw.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                return False
        else:
            return True
    return False


class QuickConnection:
    """A connection of the pool that is kept for one short transaction after another.

    What SQLAlchemy does for each transaction costs several times what it costs SQLite to write a few rows durably.
    """

    def __init__(self, engine: Engine) -> None:
        self._pooled = engine.raw_connection()
        raw: Any = self._pooled.driver_connection
        self.raw: sqlite3.Connection = raw
        self.raw.execute(_LOOK_OFTEN)
        self.raw.execute(f"PRAGMA cache_size = -{COMMIT_CACHE_KIBIBYTES}")

    def begin(self) -> None:
        if not _begin_writing(self.raw):
            self.raw.execute("BEGIN IMMEDIATE")  # once more, to fail as every statement does

    def close(self) -> None:
        """Give the connection up: what is wrong with it is not looked into."""
        self._pooled.invalidate()
        self._pooled.close()
