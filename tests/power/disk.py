"""A disk that remembers every write and every sync, under the real SQLite: what would be left after a loss of power.

The ledger's own code runs on it through the driver that it always uses. Nothing of the real SQLite is replaced but the
way its bytes take to the files.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import pytest

__all__ = ["Disk", "Step", "recording"]

SECTOR_BYTES = 512


class Step(NamedTuple):
    """What happened to a file (`write`, `truncate`, `sync`, `delete`), or that a promise was given (`promise`)."""

    what: str
    file: str = ""
    offset: int = 0
    data: bytes = b""


@dataclass
class Disk:
    """The steps in their order, and the files as they would be found after a loss of power at one of them."""

    steps: list[Step] = field(default_factory=list)

    def promise(self) -> None:
        """The ledger has said that what it was given so far is durable."""
        self.steps.append(Step("promise"))

    def image(self, at: int, chance: random.Random | None) -> dict[str, bytes]:
        """The files after the first `at` steps. What was not synced is gone, or, with `chance`, there in part: some
        writes, in any order, some of them torn in the middle."""
        files: dict[str, bytearray] = {}
        unsynced: list[Step] = []
        for step in self.steps[:at]:
            if step.what in ("write", "truncate"):
                unsynced.append(step)
            elif step.what == "sync":
                for kept in (s for s in unsynced if s.file == step.file):
                    apply(files, kept)
                unsynced = [s for s in unsynced if s.file != step.file]
            elif step.what == "delete":
                files.pop(step.file, None)
                unsynced = [s for s in unsynced if s.file != step.file]
        if chance is not None:
            survivors = [s for s in unsynced if chance.random() < 0.5]
            chance.shuffle(survivors)
            for step in survivors:
                apply(files, torn(step, chance))
        return {name: bytes(content) for name, content in files.items()}


def apply(files: dict[str, bytearray], step: Step) -> None:
    content = files.setdefault(step.file, bytearray())
    if step.what == "truncate":
        del content[step.offset :]
        return
    if len(content) < step.offset:
        content.extend(bytes(step.offset - len(content)))
    content[step.offset : step.offset + len(step.data)] = step.data


def torn(step: Step, chance: random.Random) -> Step:
    """The write as far as the sector at which the power went, one time in three."""
    if step.what != "write" or chance.random() > 0.33 or len(step.data) <= SECTOR_BYTES:
        return step
    return step._replace(data=step.data[: SECTOR_BYTES * chance.randrange(1, len(step.data) // SECTOR_BYTES + 1)])


@contextmanager
def recording(*, synchronous: str = "FULL") -> Iterator[Disk]:
    """Every SQLite connection that is made meanwhile writes to the disk that is given.

    `synchronous` weakens what the ledger asks for without its noticing: the check of the check.
    """
    disk = Disk()
    name = f"farebox-{id(disk)}"

    class File(apsw.VFSFile):
        def __init__(self, base: str, path: Any, flags: Any) -> None:
            super().__init__(base, path, flags)
            self.name = Path(path.filename() if isinstance(path, apsw.URIFilename) else str(path)).name

        def xWrite(self, data: bytes, offset: int) -> None:
            disk.steps.append(Step("write", self.name, offset, bytes(data)))
            super().xWrite(data, offset)

        def xSync(self, flags: int) -> None:
            disk.steps.append(Step("sync", self.name))
            super().xSync(flags)

        def xTruncate(self, newsize: int) -> None:
            disk.steps.append(Step("truncate", self.name, newsize))
            super().xTruncate(newsize)

    class Recorder(apsw.VFS):
        def __init__(self) -> None:
            super().__init__(name, "")

        def xOpen(self, path: Any, flags: Any) -> apsw.VFSFile:
            return File("", path, flags)

        def xDelete(self, filename: str, syncdir: bool) -> None:
            disk.steps.append(Step("delete", Path(filename).name))
            super().xDelete(filename, syncdir)

    files = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sqlite3.dbapi2.connect", lambda path, **_: Connection(path, name, synchronous))
        yield disk
    files.unregister()


class Connection:
    """As much of a driver's connection as SQLAlchemy asks for, over one that writes to the recording disk."""

    __module__ = "sqlite3.recorded"  # the ledger sets its pragmas on SQLite's connections only

    def __init__(self, path: str, vfs: str, synchronous: str) -> None:
        self.raw = apsw.Connection(str(path), vfs=vfs)
        self.synchronous = synchronous
        self.isolation_level: str | None = None

    def cursor(self) -> "Cursor":
        return Cursor(self)

    def execute(self, statement: str, values: Any = ()) -> "Cursor":
        cursor = self.cursor()
        cursor.execute(statement, values)
        return cursor

    def executemany(self, statement: str, rows: Sequence[Any]) -> "Cursor":
        return self.cursor().executemany(statement, rows)

    def create_function(self, *_: Any, **__: Any) -> None:
        """SQLAlchemy brings a regular expression that the ledger does not use."""

    def _end(self, how: str) -> None:
        if self.raw.in_transaction:
            self.raw.execute(how)

    def commit(self) -> None:
        self._end("COMMIT")

    def rollback(self) -> None:
        self._end("ROLLBACK")

    def close(self) -> None:
        self.raw.close()


class Cursor:
    """A cursor that has read all of its rows when `execute` returns."""

    arraysize = 1
    lastrowid = None

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.description: Any = None
        self.rowcount = -1
        self._rows: list[Any] = []

    def execute(self, statement: str, values: Sequence[Any] = ()) -> "Cursor":
        if statement.startswith("PRAGMA synchronous ="):
            statement = f"PRAGMA synchronous = {self.connection.synchronous}"
        elif statement == "PRAGMA synchronous":
            self._rows = [(2,)]  # FULL, whatever it is
            return self
        cursor = self.connection.raw.cursor()
        self.description = None

        def describe(running: apsw.Cursor, _statement: str, _values: Any) -> bool:
            columns = running.get_description()
            self.description = [(name, None, None, None, None, None, None) for name, *_ in columns] or None
            return True

        cursor.exec_trace = describe
        before = self.connection.raw.total_changes()
        self._rows = list(cursor.execute(statement, values))
        self.rowcount = self.connection.raw.total_changes() - before
        return self

    def executemany(self, statement: str, rows: Sequence[Sequence[Any]]) -> "Cursor":
        before = self.connection.raw.total_changes()
        self.connection.raw.cursor().executemany(statement, rows)
        self.rowcount, self.description = self.connection.raw.total_changes() - before, None
        return self

    def fetchone(self) -> Any:
        return self._rows.pop(0) if self._rows else None

    def fetchmany(self, size: int = 1) -> list[Any]:
        taken, self._rows = self._rows[:size], self._rows[size:]
        return taken

    def fetchall(self) -> list[Any]:
        taken, self._rows = self._rows, []
        return taken

    def close(self) -> None:
        self._rows = []
