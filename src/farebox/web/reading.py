"""Reads quantities out of a body on its way to the client, whole or event by event. Holds copies, never the body."""

import json
from collections.abc import Collection, Mapping
from typing import Any, Final, Protocol

from farebox.domain.measures import Fault, at_path

__all__ = ["ANSWER_BYTES_MAX", "EVENT_BYTES_MAX", "BodyReader", "reader_of"]

ANSWER_BYTES_MAX: Final = 1_048_576
EVENT_BYTES_MAX: Final = 262_144
_Path = tuple[str, ...]


class BodyReader(Protocol):
    """Sees the pieces of a body as they go by, and says what stood at its paths."""

    def feed(self, piece: bytes) -> None: ...
    def found(self, path: _Path, *, ended: bool) -> tuple[object, Fault | None]:
        """What stands at the path, and what kept it from being read; asked once, at the end. `ended`: by itself."""
        ...


def reader_of(headers: Mapping[bytes, bytes], paths: Collection[_Path]) -> BodyReader:
    """The one for an answer with these headers (names in small letters)."""
    if not paths:
        return _Unread(Fault.MISSING)
    if headers.get(b"content-encoding", b"identity").strip().lower() not in (b"", b"identity"):
        return _Unread(Fault.COMPRESSED)
    if headers.get(b"content-type", b"").split(b";")[0].strip().lower() == b"text/event-stream":
        return _EventStream(paths)
    return _Document()


class _Unread:
    """A body that cannot be looked into."""

    def __init__(self, why: Fault) -> None:
        self._why = why

    def feed(self, piece: bytes) -> None:
        pass

    def found(self, path: _Path, *, ended: bool) -> tuple[object, Fault | None]:
        return None, self._why


class _Document:
    """One JSON document."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._bytes = 0
        self._parsed: tuple[Any, Fault | None] | None = None

    def feed(self, piece: bytes) -> None:
        self._bytes += len(piece)
        if self._bytes <= ANSWER_BYTES_MAX:
            self._pieces.append(bytes(piece))
        else:
            self._pieces.clear()

    def found(self, path: _Path, *, ended: bool) -> tuple[object, Fault | None]:
        if not ended:
            return None, Fault.ENDED_EARLY
        if self._bytes > ANSWER_BYTES_MAX:
            return None, Fault.BODY_TOO_LARGE
        if self._bytes == 0:
            return None, None
        if self._parsed is None:
            self._parsed = _parsed(b"".join(self._pieces))
        document, fault = self._parsed
        return (None, fault) if fault is not None else (at_path(document, path), None)


class _EventStream:
    """Server-sent events, of which the last one counts that has something at the path. Others, such as [DONE], may be
    no JSON at all."""

    def __init__(self, paths: Collection[_Path]) -> None:
        self._found: dict[_Path, object] = dict.fromkeys(paths)
        self._line = bytearray()
        self._line_bytes = 0
        self._data: list[bytes] = []
        self._bytes = 0  # of the event's data, the line at hand among it
        self._skipped = False
        self._after_return = False

    def feed(self, piece: bytes) -> None:
        if self._after_return and piece[:1] == b"\n":
            piece = piece[1:]
        if not piece:
            return
        self._after_return = piece.endswith(b"\r")
        *lines, rest = bytes(piece).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            self._add(line)
            self._end_line()
        self._add(rest)

    def found(self, path: _Path, *, ended: bool) -> tuple[object, Fault | None]:
        self._end_line()
        self._end_event()  # a last one that no empty line follows
        if not ended:
            return self._found[path], Fault.ENDED_EARLY
        if self._found[path] is None and self._skipped:
            return None, Fault.BODY_TOO_LARGE
        return self._found[path], None

    def _add(self, part: bytes) -> None:
        self._line_bytes += len(part)
        self._bytes += len(part)
        if self._bytes <= EVENT_BYTES_MAX:
            self._line += part

    def _end_line(self) -> None:
        line, length = bytes(self._line), self._line_bytes
        self._line.clear()
        self._line_bytes = 0
        if not length:
            self._end_event()
        elif line.startswith(b"data:"):
            self._data.append(line[5:])
        elif self._bytes <= EVENT_BYTES_MAX:
            self._bytes -= length  # a comment, or a field that is not asked for

    def _end_event(self) -> None:
        too_large, data = self._bytes > EVENT_BYTES_MAX, b"\n".join(self._data)
        self._data.clear()
        self._bytes = 0
        if too_large:
            self._skipped = True
            return
        document, fault = _parsed(data) if data.strip() else (None, Fault.MISSING)
        if fault is None:
            for path in self._found:
                value = at_path(document, path)
                if value is not None:
                    self._found[path] = value


def _parsed(text: bytes) -> tuple[Any, Fault | None]:
    try:
        return json.loads(text), None
    except (ValueError, RecursionError):
        return None, Fault.UNREADABLE
