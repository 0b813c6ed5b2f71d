"""The outage spool in files (L16): records with length and checksum, fsynced before they count, held by a file lock.

A record torn by a crash was never acknowledged and is dropped. Never decides when to spool, and never writes a ledger.
"""

import fcntl
import json
import os
import struct
import threading
import zlib
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import structlog

from farebox.domain.usage import Batch, Increment
from farebox.errors import StoreUnavailable
from farebox.ports import SpooledBatch, SpoolSummary

__all__ = ["SPOOL_BYTES_MAX", "FileSpool", "FileSpoolFolder"]

SPOOL_BYTES_MAX: Final = 67_108_864
_MARK: Final = b"FBXS"
_ROOM_BYTES: Final = 1_048_576  # with less left it is full for all: a small probe must not say that there is room
_TRIED: Final = b'{"tried"'
_HEAD: Final = struct.Struct(">4sII")  # mark, length and CRC-32 of what follows
_FULL: Final = "Usage cannot be recorded right now: the outage spool is full."
_UNWRITABLE: Final = "Usage cannot be recorded right now: the outage spool cannot be written."

_log = structlog.get_logger("farebox.spool")


class FileSpool:
    """One spool file, open and locked."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor  # -1 once it is closed: the number may be another file's by then
        self._end = 0  # of the last whole record
        self._starts: list[int] = []
        self._tried = 0
        self._writing = threading.Lock()
        self._broken = False
        self._damaged = False
        self.writer = ""
        self.begun_at = 0
        _open.add(self)

    @property
    def batches(self) -> int:
        return len(self._starts)

    @property
    def tried(self) -> int:
        return self._tried

    @property
    def bytes(self) -> int:
        return self._end

    @property
    def damaged(self) -> bool:
        return self._damaged

    @property
    def path(self) -> Path:
        return self._path

    def begin(self, writer: str, at: int) -> None:
        """Write the first record: whose spool this is."""
        self.writer, self.begun_at = writer, at
        self._write({"writer": writer, "begun_at": at})

    def load(self) -> bool:
        """Read what an earlier process left. False when not even its first record is whole."""
        content = os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)
        for start, end, document in _records(content):
            if start == 0:
                self.writer, self.begun_at = document["writer"], document["begun_at"]
            elif "tried" in document:
                self._tried = document["tried"]
            else:
                self._starts.append(start)
            self._end = end
        self._damaged = content.find(_MARK, self._end + 1) > 0 and _readable_after(content, self._end + 1)
        if self._damaged:
            _log.critical("spool_damaged", file=str(self._path), readable_batches=self.batches)
        return self._end > 0

    def append(self, batch: SpooledBatch) -> None:
        self._starts.append(self._write(_document(batch)))

    def mark_tried(self, number: int) -> None:
        if number > self._tried:
            self._tried = number
            try:
                self._write({"tried": number}, room_bytes=0)
            except StoreUnavailable as error:
                _log.warning("spool_not_marked", file=str(self._path), reason=error.internal)

    def read(self, after: int) -> Iterator[SpooledBatch]:
        for start in self._starts[after:]:
            descriptor = self._descriptor
            if descriptor < 0:
                raise StoreUnavailable(_UNWRITABLE, internal="the outage spool is closed")
            head = os.pread(descriptor, _HEAD.size, start)
            body = os.pread(descriptor, _HEAD.unpack(head)[1], start + _HEAD.size)
            yield _batch(json.loads(body))

    def remove(self) -> None:
        try:
            if self._damaged:
                self._path.rename(self._path.with_suffix(".damaged"))
            else:
                self._path.unlink(missing_ok=True)
            _sync_folder(self._path.parent)
        except OSError as error:
            raise StoreUnavailable(_UNWRITABLE, internal=str(error)) from error
        self.close()

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        _open.discard(self)
        if descriptor >= 0:
            os.close(descriptor)

    def _write(self, document: dict[str, Any], *, room_bytes: int = _ROOM_BYTES) -> int:
        """Where the record begins, which is durable. One thread appends and another may mark."""
        body = json.dumps(document, separators=(",", ":")).encode()
        record = _HEAD.pack(_MARK, len(body), zlib.crc32(body)) + body
        if self._descriptor < 0:
            raise StoreUnavailable(_UNWRITABLE, internal="the outage spool is closed")
        with self._writing:
            start = self._end
            if self._broken:
                raise StoreUnavailable(_UNWRITABLE, internal="the outage spool is broken")
            if start + max(len(record), room_bytes) > SPOOL_BYTES_MAX:
                raise StoreUnavailable(_FULL)
            try:
                written = os.pwrite(self._descriptor, record, start)
                if written != len(record):
                    raise OSError("the record was not written whole")
                os.fsync(self._descriptor)
            except OSError as error:
                self._take_back()
                raise StoreUnavailable(_UNWRITABLE, internal=str(error)) from error
            self._end += len(record)
            return start

    def _take_back(self) -> None:
        """Drop what may stand behind the last whole record. When that fails too, nothing is appended any more."""
        try:
            os.ftruncate(self._descriptor, self._end)
            os.fsync(self._descriptor)
        except OSError as error:
            self._broken = True
            _log.error("spool_broken", file=str(self._path), reason=str(error))


class FileSpoolFolder:
    """Spools of any number of ledgers in one folder: `farebox-LEDGER-WRITER.spool`, readable by their owner only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def folder(self) -> Path:
        return self._folder

    def create(self, ledger_id: str, writer: str, at: int) -> FileSpool:
        """A new spool, known under its name only once it is locked and begun. StoreUnavailable."""
        path = self._folder / f"farebox-{ledger_id}-{writer}.spool"
        young = path.with_suffix(".new")
        try:
            descriptor = os.open(young, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreUnavailable(_UNWRITABLE, internal=str(error)) from error
        spool = FileSpool(path, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            spool.begin(writer, at)
            young.rename(path)
            _sync_folder(self._folder)
        except (OSError, StoreUnavailable) as error:
            spool.close()
            with suppress(OSError):
                young.unlink(missing_ok=True)
                path.unlink(missing_ok=True)
            raise StoreUnavailable(_UNWRITABLE, internal=str(error)) from error
        return spool

    def abandoned(self, ledger_id: str) -> Generator[FileSpool]:
        for path in self._files(ledger_id, "spool"):
            spool = _open_alone(path)
            if spool is not None:
                try:
                    yield spool
                finally:
                    spool.close()
        for path in self._files(ledger_id, "new"):  # begun by a process that died before anything was accepted
            young = _open_alone(path)
            if young is not None:
                path.unlink(missing_ok=True)
                young.close()

    def waiting(self, ledger_id: str) -> SpoolSummary:
        files, batches, size, damaged = 0, 0, 0, len(self._files("*", "damaged"))
        begun: list[int] = []
        for path in self._files(ledger_id, "spool"):
            found = _glance(path)
            if found is not None:
                files, batches, size = files + 1, batches + found[0], size + found[1]
                begun.append(found[2])
        return SpoolSummary(files, batches, size, min(begun, default=None), damaged)

    def of_others(self, ledger_id: str) -> dict[str, int]:
        ids = [path.name.split("-")[1] for path in self._files("*", "spool")]
        return {id: ids.count(id) for id in sorted({*ids} - {ledger_id})}

    def _files(self, ledger_id: str, kind: str) -> list[Path]:
        return sorted(self._folder.glob(f"farebox-{ledger_id}-*.{kind}"))


def _open_alone(path: Path) -> FileSpool | None:
    """The file if no living process holds it and it still bears its name; an empty one is removed on the way."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    spool = FileSpool(path, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        same = os.fstat(descriptor).st_ino == path.stat().st_ino
        if same and (spool.load() or path.suffix == ".new"):
            return spool
        if same:
            _log.error("spool_unreadable", file=str(path))
            path.rename(path.with_suffix(".damaged"))
    except OSError:
        pass
    spool.close()
    return None


def _glance(path: Path) -> tuple[int, int, int] | None:
    """Batches, bytes and beginning of a spool that another may be writing: by the heads of its records alone."""
    batches, end = -1, 0
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            while end + _HEAD.size <= size:
                mark, length, _ = _HEAD.unpack(file.read(_HEAD.size))
                if mark != _MARK or end + _HEAD.size + length > size:
                    break
                if end == 0:
                    begun_at = int(json.loads(file.read(length))["begun_at"])
                    batches, end = 0, file.tell()
                else:
                    first = file.read(min(length, len(_TRIED)))
                    batches += first != _TRIED
                    end = file.seek(length - len(first), os.SEEK_CUR)
    except (OSError, ValueError, KeyError, struct.error):
        return None
    return (batches, end, begun_at) if batches > 0 else None


def _records(content: bytes) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Start, end and document of each whole record from the beginning, up to the first that is not."""
    start = 0
    while True:
        found = _record_at(content, start)
        if found is None:
            return
        yield start, found[0], found[1]
        start = found[0]


def _record_at(content: bytes, start: int) -> tuple[int, dict[str, Any]] | None:
    if start + _HEAD.size > len(content):
        return None
    mark, length, checksum = _HEAD.unpack_from(content, start)
    body = content[start + _HEAD.size : start + _HEAD.size + length]
    if mark != _MARK or len(body) != length or zlib.crc32(body) != checksum:
        return None
    return start + _HEAD.size + length, json.loads(body)


def _readable_after(content: bytes, start: int) -> bool:
    """Whether a whole record stands behind one that cannot be read: that is damage, not the end of a torn write."""
    while (start := content.find(_MARK, start)) >= 0:
        if _record_at(content, start) is not None:
            return True
        start += 1
    return False


def _document(batch: SpooledBatch) -> dict[str, Any]:
    origin = batch.origin
    return {
        "number": batch.number,
        "nonce": batch.nonce,
        "increments": _rows(batch.increments),
        **({"origin": [origin.writer, origin.number, origin.nonce]} if origin is not None else {}),
    }


def _rows(increments: tuple[Increment, ...]) -> list[list[Any]]:
    """Summed by the ledger row that they add to: a record's size follows active keys, not calls."""
    sums: dict[tuple[str, str, str, str, int], list[int]] = {}
    for i in increments:
        row = sums.setdefault((i.account_id, i.meter, i.key_id, i.operation, i.bucket_start), [0, 0, 0])
        row[:] = [row[0] + i.quantity, row[1] + i.calls, max(row[2], i.used_at)]
    return [[*key, *row] for key, row in sums.items()]


def _batch(document: dict[str, Any]) -> SpooledBatch:
    origin = document.get("origin")
    return SpooledBatch(
        document["number"],
        document["nonce"],
        tuple(Increment(*row) for row in document["increments"]),
        Batch(origin[0], origin[1], origin[2], ()) if origin is not None else None,
    )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _let_go_in_child() -> None:
    """A forked child shares the lock of its parent's spool: it must not keep it after the parent has died."""
    for spool in list(_open):
        spool.close()


_open: set[FileSpool] = set()
os.register_at_fork(after_in_child=_let_go_in_child)
