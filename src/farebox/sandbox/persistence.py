"""The whole state in one SQLite file: what changed since the last time, in one transaction, synced to the disk.

A process that is killed loses what changed since then, and never leaves half of it. The file belongs to one process.
"""

import json
import logging
import os
import sqlite3
import threading
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from farebox.sandbox.keeping import Book, Row, Rows
from farebox.sandbox.sandbox import Sandbox

__all__ = ["KEEP_MILLISECONDS_MIN", "STATE_VERSION", "Keeper", "StateError"]

STATE_VERSION: Final = 1
KEEP_MILLISECONDS_MIN: Final = 1_000  # the shortest pause between two writings; ten times what the last one took
_PAUSE_FACTOR: Final = 10
_APPLICATION: Final = 0x46_42_53_58  # "FBSX", in the header of the file
_MAGIC: Final = b"SQLite format 3\0"
_HEADER_BYTES: Final = 100
_SCHEMA: Final = (
    "create table kept (number integer primary key, account text not null, part text not null, name text not null,"
    " content text not null, crc integer not null, unique (account, part, name))"
)
_PUT: Final = (
    "insert into kept (account, part, name, content, crc) values (?, ?, ?, ?, ?) on conflict (account, part, name)"
    " do update set content = excluded.content, crc = excluded.crc"
)
_log: Final = logging.getLogger(__name__)


class StateError(ValueError):
    """The file cannot be used, said in words. It is left as it is."""


class Keeper:
    """Holds the file for as long as it lives. `keep` writes what changed; `run` does so again and again."""

    def __init__(self, sandbox: Sandbox, path: Path, *, reset: bool = False) -> None:
        self._sandbox = sandbox
        self._book = Book(sandbox)
        self._path = path
        self._writing = threading.Lock()
        self._unwritten: Rows = {}
        self._pause_ms = KEEP_MILLISECONDS_MIN
        self._closed = False
        if reset:
            _remove(path)
        fresh = _is_fresh(path)
        with _in_words(path):
            self._base = _opened(path)
            try:
                if fresh:
                    self._base.execute(_SCHEMA)
                    self._base.execute(f"pragma application_id = {_APPLICATION}")
                    self._base.execute(f"pragma user_version = {STATE_VERSION}")
                    self._base.execute("commit")
                else:
                    self._base.execute("commit")
                    _check(self._base)
                    self._book.restore(_read(self._base))
            except BaseException:
                self._base.close()
                raise
        self.keep()

    def keep(self) -> int:
        """Write what changed since the last time, all of it or nothing. Returns how many rows that were."""
        with self._writing:
            began_ms = self._sandbox.clock.system_ms()
            with self._sandbox.lock:
                self._unwritten.update(self._book.changes())
            rows = self._unwritten
            if rows:
                self._write(rows)
                self._unwritten = {}
            took_ms = self._sandbox.clock.system_ms() - began_ms
            self._pause_ms = max(KEEP_MILLISECONDS_MIN, took_ms * _PAUSE_FACTOR)
            return len(rows)

    def _write(self, rows: Rows) -> None:
        gone = [name for name, content in rows.items() if content is None]
        kept = [(*name, text, _crc(text)) for name, text in rows.items() if text is not None]
        self._base.execute("begin immediate")
        try:
            self._base.executemany("delete from kept where account = ? and part = ? and name = ?", gone)
            self._base.executemany(_PUT, kept)
            self._base.execute("commit")
        except BaseException:
            self._base.rollback()
            raise

    def run(self, stopping: threading.Event) -> None:
        """Keep the state until told to stop. A disk that is full is tried again."""
        while not stopping.wait(self._pause_ms / 1000):
            try:
                self.keep()
            except sqlite3.Error:
                _log.exception("The state could not be written to %s. It is tried again.", self._path)

    def close(self) -> None:
        """Write what is left, and let go of the file; the second time does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            self.keep()
        finally:
            self._base.close()


def _crc(text: str) -> int:
    return zlib.crc32(text.encode())


def _opened(path: Path) -> sqlite3.Connection:
    """The file for this process alone: nobody else opens it until this connection is closed."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # it holds the endpoints' secrets
    base = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    base.execute("pragma locking_mode = exclusive")
    base.execute("pragma journal_mode = delete")
    base.execute("pragma synchronous = full")
    base.execute("begin exclusive")
    return base


def _is_fresh(path: Path) -> bool:
    """Whether there is nothing yet at this path. StateError when there is something that is not ours."""
    if not path.exists() or (path.is_file() and path.stat().st_size == 0):
        if not path.parent.is_dir():
            raise StateError(f"{path.parent} is no folder: the state cannot be kept there.")
        return True
    if not _is_ours(path):
        raise StateError(f"{path} is not a state file of the local Stripe. It is left as it is; name another file.")
    return False


def _is_ours(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError as error:
        raise StateError(f"{path} cannot be read: {error.strerror}.") from error
    return header.startswith(_MAGIC) and header[68:72] == _APPLICATION.to_bytes(4, "big")


def _remove(path: Path) -> None:
    """Delete a state file that is ours and that nobody uses."""
    if _is_fresh(path):
        return
    with _in_words(path, damage_matters=False), closing(_opened(path)):
        pass
    path.unlink()
    Path(f"{path}-journal").unlink(missing_ok=True)


@contextmanager
def _in_words(path: Path, *, damage_matters: bool = True) -> Iterator[None]:
    advice = "It is left as it is. Begin anew with --reset, or name another file."
    try:
        yield
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise StateError(f"{path} is in use by another local Stripe.") from None
        raise StateError(f"{path} cannot be used: {error}. {advice}") from error
    except (sqlite3.DatabaseError, KeyError, TypeError, IndexError, AttributeError) as error:
        if damage_matters:
            raise StateError(f"{path} is damaged ({error}). {advice}") from error
    except StateError:
        raise
    except ValueError as error:
        raise StateError(f"{path} is damaged ({error}). {advice}") from error
    except OSError as error:
        raise StateError(f"{path} cannot be used: {error.strerror}.") from error


def _check(base: sqlite3.Connection) -> None:
    version = base.execute("pragma user_version").fetchone()[0]
    if version != STATE_VERSION:
        raise StateError(
            f"The state is of version {version}, and this local Stripe knows version {STATE_VERSION}. "
            "It is left as it is. Begin anew with --reset, or name another file."
        )
    found = base.execute("pragma quick_check").fetchone()[0]
    if found != "ok":
        raise ValueError(str(found).splitlines()[0])


def _read(base: sqlite3.Connection) -> Iterator[Row]:
    for account, part, name, text, crc in base.execute(
        "select account, part, name, content, crc from kept order by number"
    ):
        if _crc(text) != crc:
            raise ValueError(f"the sum of {part} {name} is wrong")
        yield account, part, name, json.loads(text)
