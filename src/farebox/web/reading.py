"""Reads quantities out of a body on its way to the client, whole or event by event. Holds copies, never the body."""

import json
from collections.abc import Collection, Mapping
from typing import Any, Final, Protocol

from farebox.domain.measures import Fault, at_path

__all__ = ["ANSWER_BYTES_MAX", "EVENT_BYTES_MAX", "BodyReader", "reader_of"]

ANSWER_BYTES_MAX: Final = 1_048_576
EVENT_BYTES_MAX: Final = 262_144
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_LINES_OF_JSON: Final = frozenset(
    b"application/" + name for name in (b"x-ndjson", b"ndjson", b"jsonl", b"x-jsonl", b"jsonlines", b"x-jsonlines")
)
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
    kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if kind == b"text/event-stream":
        return _EventStream(paths)
    if kind in _LINES_OF_JSON:
        return _JsonStream(paths, b"\n")
    if kind == b"application/json-seq":
        return _JsonStream(paths, b"\x1e")
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


class _Stream:
    """JSON documents one after another, of which the last one counts that has something at the path. Others, such as
    [DONE], may be no JSON at all. How pieces are cut makes no difference."""

    def __init__(self, paths: Collection[_Path]) -> None:
        self._found: dict[_Path, object] = dict.fromkeys(paths)
        self._line = bytearray()  # as far as it can be part of a document that is not too large
        self._line_bytes = 0
        self._skipped = False

    def feed(self, piece: bytes) -> None:
        raise NotImplementedError

    def found(self, path: _Path, *, ended: bool) -> tuple[object, Fault | None]:
        self._end()
        if not ended:
            return self._found[path], Fault.ENDED_EARLY
        if self._found[path] is None and self._skipped:
            return None, Fault.BODY_TOO_LARGE
        return self._found[path], None

    def _end(self) -> None:
        """The body is over: the last document counts, although nothing that ends it has come."""
        raise NotImplementedError

    def _add(self, part: bytes) -> None:
        self._line_bytes += len(part)
        self._line += part[: max(EVENT_BYTES_MAX - len(self._line), 0)]

    def _take_line(self) -> tuple[bytes, int]:
        """The line at hand, and how long it is without the cut."""
        line, length = bytes(self._line), self._line_bytes
        self._line.clear()
        self._line_bytes = 0
        return line, length

    def _document(self, text: bytes, length: int) -> None:
        if length > EVENT_BYTES_MAX:
            self._skipped = True
            return
        document, fault = _parsed(text) if text.strip() else (None, Fault.MISSING)
        if fault is None:
            for path in self._found:
                value = at_path(document, path)
                if value is not None:
                    self._found[path] = value


class _JsonStream(_Stream):
    """Documents with a separator between them: NDJSON and JSON Lines (a line end), RFC 7464 (a record separator)."""

    def __init__(self, paths: Collection[_Path], separator: bytes) -> None:
        super().__init__(paths)
        self._separator = separator

    def feed(self, piece: bytes) -> None:
        *lines, rest = bytes(piece).split(self._separator)
        for line in lines:
            self._add(line)
            self._end()
        self._add(rest)

    def _end(self) -> None:
        self._document(*self._take_line())


class _EventStream(_Stream):
    """Server-sent events as the HTML standard reads them: one byte order mark at the start is no part of the first
    line, and a line ends with CR LF, LF or CR. What the standard drops, the last event that no empty line follows,
    counts here: it has been sent."""

    def __init__(self, paths: Collection[_Path]) -> None:
        super().__init__(paths)
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._at_start = True
        self._after_return = False

    def feed(self, piece: bytes) -> None:
        if self._after_return and piece:
            self._after_return = False
            if piece[:1] == b"\n":
                piece = piece[1:]
        if not piece:
            return
        self._after_return = piece.endswith(b"\r")
        *lines, rest = bytes(piece).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            self._add(line)
            self._end_line()
        self._add(rest)

    def _end(self) -> None:
        self._end_line()
        self._end_event()

    def _end_line(self) -> None:
        line, length = self._take_line()
        if self._at_start:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        self._at_start = False
        if not line:
            self._end_event()
        elif line == b"data" or line.startswith(b"data:"):
            self._data_bytes += length
            if self._data_bytes <= EVENT_BYTES_MAX:
                self._data.append(line[5:].removeprefix(b" "))

    def _end_event(self) -> None:
        self._document(b"\n".join(self._data), self._data_bytes)
        self._data.clear()
        self._data_bytes = 0


def _parsed(text: bytes) -> tuple[Any, Fault | None]:
    try:
        return json.loads(text), None
    except (ValueError, RecursionError):
        return None, Fault.UNREADABLE
