"""What parent and child say to each other: whole messages over a pair of sockets."""

import pickle
import socket
import struct
import threading
from typing import Any

__all__ = ["Talk"]


class Talk:
    """One end. `ask` says something and waits for the answer; threads take turns."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._turn = threading.Lock()

    def fileno(self) -> int:
        return self._end.fileno()

    def close(self) -> None:
        self._end.close()

    def say(self, kind: str, what: Any) -> None:
        """One message."""
        said = pickle.dumps((kind, what))
        self._end.sendall(struct.pack("!I", len(said)) + said)

    def hear(self) -> tuple[str, Any]:
        """The next message. EOFError when the other end is gone."""
        length = struct.unpack("!I", self._take(4))[0]
        kind, what = pickle.loads(self._take(length))  # noqa: S301 - from our own child
        return kind, what

    def ask(self, kind: str, what: Any) -> Any:
        """Say it, and return what is answered."""
        with self._turn:
            self.say(kind, what)
            return self.hear()[1]

    def tell(self, kind: str, what: Any) -> None:
        """Say it, between the questions of other threads."""
        with self._turn:
            self.say(kind, what)

    def _take(self, length: int) -> bytes:
        taken = b""
        while len(taken) < length:
            more = self._end.recv(length - len(taken))
            if not more:
                raise EOFError
            taken += more
        return taken
