"""One process at a time in a folder: a lock on a file in it, which the system drops when the process dies."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from farebox.errors import StoreBusy, StoreUnusable

__all__ = ["FolderLock"]


class FolderLock:
    """Held from `take` to `release`. The file stays, with the holder's process id in it for people to read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def take(self) -> None:
        """StoreBusy when another process has it, StoreUnusable when the folder cannot be written."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreUnusable(f"{self._path} cannot be written: {error.strerror}. Check the folder.") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise StoreBusy(
                f"Another process (id {holder}) has {self._path}. Stop it, or use another folder."
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor
        _held.add(self)

    def release(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        _held.discard(self)
        if descriptor is not None:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def _let_go(self) -> None:
        """Close the file without unlocking it: the lock is the parent's."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _let_go_in_child() -> None:
    """A forked child must not keep the folder locked after its parent has died."""
    for lock in _held:
        lock._let_go()
    _held.clear()


_held: set[FolderLock] = set()
os.register_at_fork(after_in_child=_let_go_in_child)
