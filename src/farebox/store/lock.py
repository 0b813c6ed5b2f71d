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
        _held.add(descriptor)

    def release(self) -> None:
        if self._descriptor is not None:
            _held.discard(self._descriptor)
            with suppress(OSError):  # a child closed it with the fork
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
                os.close(self._descriptor)
            self._descriptor = None


def _let_go_in_child() -> None:
    """A forked child must not keep the folder locked after its parent has died."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


_held: set[int] = set()
os.register_at_fork(after_in_child=_let_go_in_child)
