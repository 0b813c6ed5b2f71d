"""Quantities in streams of JSON: server-sent events by the HTML standard, NDJSON, JSON Lines, RFC 7464."""

import itertools
import json
import re
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.domain.measures import Fault
from farebox.web.reading import EVENT_BYTES_MAX, reader_of

N: Final = ("n",)
MARK: Final = b"\xef\xbb\xbf"
SSE: Final = b"text/event-stream"
LINES: Final = [
    b"application/x-ndjson",
    b"application/ndjson; charset=utf-8",
    b"application/jsonl",
    b"Application/JSONL",
]


def read(kind: bytes, *pieces: bytes, ended: bool = True) -> tuple[object, Fault | None]:
    """What stands at `n` in an answer of this type that comes in these pieces."""
    reader = reader_of({b"content-type": kind}, {N})
    for piece in pieces:
        reader.feed(piece)
    return reader.found(N, ended=ended)


EVENTS: list[tuple[list[bytes], object]] = [
    ([MARK + b'data: {"n": 120}\n\n'], 120),
    ([MARK[:1], MARK[1:2], MARK[2:] + b'data: {"n": 120}\n\n'], 120),
    ([MARK + b"\n", b'data: {"n": 120}\n\n'], 120),
    ([MARK + MARK + b'data: {"n": 120}\n\n'], None),  # one is dropped, the second is part of the first line
    ([b"\n" + MARK + b'data: {"n": 120}\n\n'], None),
    ([b'data: {"n": 120}\r', b"\n", b"\n", b'data: {"x": 1}\n\n'], 120),
    ([b'data: {"n": 120}\r', b"", b"\n", b"\r", b"\n", b'data: {"x": 1}\r\n\r\n'], 120),
    ([b'data: {"n": 1}\r', b"\r", b'data: {"n": 120}\r', b"\r"], 120),
    ([b'data: {"n": 1}\r\n\r\ndata: {"n": 120}\n\rdata: {"n": 7'], 120),
    ([b'data\ndata: {"n":\ndata\ndata:120}\n\n'], 120),
    ([b'data:{"n":120}'], 120),  # it has been sent, though no empty line follows
    ([b': {"n": 1}\nevent: data: {"n": 2}\n data: {"n": 3}\ndatas: {"n": 4}\nid\n\n'], None),
    ([b": " + b"x" * EVENT_BYTES_MAX * 2 + b'\ndata: {"n": 120}\n\n'], 120),
]


@pytest.mark.parametrize(("pieces", "quantity"), EVENTS)
def test_events_by_the_standard(pieces: list[bytes], quantity: object) -> None:
    """A byte order mark, any line end however it is cut, comments, and fields without a colon change nothing."""
    assert read(SSE, *pieces)[0] == quantity
    assert read(SSE, b"".join(pieces))[0] == quantity


@pytest.mark.parametrize("kind", LINES)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_lines_of_json(kind: bytes, end: bytes) -> None:
    """Of JSON Lines the last document that has something at the path counts, whatever lines are no JSON."""
    lines = [b'{"text": "Hel"}', b'{"n": 3}', b"", b"oops", b'{"text": "lo", "n": null}', b'{"n": 120}']
    assert read(kind, (end or b"\n").join(lines) + end) == (120, None)
    assert read(kind, b'{"n": 120}\n{"n": 12', ended=False) == (120, Fault.ENDED_EARLY)
    assert read(kind, b'{"text": "' + b"x" * EVENT_BYTES_MAX + b'", "n": 5}\n') == (None, Fault.BODY_TOO_LARGE)
    assert read(kind, b'{"text": "' + b"x" * EVENT_BYTES_MAX + b'"}\n{"n": 5}\n') == (5, None)


def test_a_sequence_of_json() -> None:
    """Texts of a JSON sequence are parted by record separators and may have line ends within (RFC 7464)."""
    kind = b"application/json-seq"
    assert read(kind, b'\x1e{"n": 3}\n\x1e{\n "n":\n 120\n}\n') == (120, None)
    assert read(kind, b'\x1e{"n": 3}\n\x1e{"n": 12') == (3, None)


def test_a_document_is_no_stream() -> None:
    """A body of one document counts by the whole document, and not at all when it is several."""
    assert read(b"application/json", b'{"n": 3}\n') == (3, None)
    assert read(b"application/json", b'{"n": 3}\n{"n": 4}\n') == (None, Fault.UNREADABLE)


def by_the_standard(body: bytes) -> object:
    """The quantity in an event stream, read whole and in another way than the product does."""
    found = None
    lines = re.split("\r\n|\n|\r", body.removeprefix(MARK).decode())
    for _, event in itertools.groupby(lines, key=bool):
        fields = [line.partition(":") for line in event if line]
        data = "\n".join(value.removeprefix(" ") for name, _, value in fields if name == "data")
        try:
            document = json.loads(data)
        except ValueError:
            continue
        if isinstance(document, dict) and document.get("n") is not None:
            found = document["n"]
    return found


numbers = st.integers(0, 999)
line = st.one_of(
    st.just(""),
    st.builds('data: {{"n": {}}}'.format, numbers),
    st.builds('data:{{"n":{}'.format, numbers),
    st.sampled_from(["data:}", "data", "data: [DONE]", ": ping", "event: usage", "id: 7", 'data: {"é": "\u20ac"}']),
)
end = st.sampled_from(["\n", "\r\n", "\r"])
streams = st.builds(
    lambda lines, mark: (MARK if mark else b"") + "".join(text + ended for text, ended in lines).encode(),
    st.lists(st.tuples(line, end), max_size=12),
    st.booleans(),
)


def cut(body: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    return [body[start:stop] for start, stop in itertools.pairwise(edges)]


@given(streams, st.lists(st.integers(0, 1_000), max_size=12))
def test_how_a_stream_is_cut_makes_no_difference(body: bytes, cuts: list[int]) -> None:
    """Any stream of events in any pieces tells the quantity that the whole tells by the standard."""
    assert read(SSE, *cut(body, cuts)) == (by_the_standard(body), None)
    assert read(SSE, *(body[at : at + 1] for at in range(len(body)))) == (by_the_standard(body), None)


@given(
    st.lists(st.builds('{{"n": {}}}'.format, numbers) | st.sampled_from(["", "{}", "oops", "\ufeff"]), max_size=8),
    st.sampled_from([b"application/x-ndjson", b"application/json-seq"]),
    st.lists(st.integers(0, 500), max_size=8),
)
def test_how_lines_are_cut_makes_no_difference(lines: list[str], kind: bytes, cuts: list[int]) -> None:
    """Any documents in any pieces tell the same quantity as in one."""
    separator = b"\n" if kind == b"application/x-ndjson" else b"\x1e"
    body = separator.join(text.encode() for text in lines)
    told = [json.loads(text)["n"] for text in lines if '"n"' in text]
    assert read(kind, *cut(body, cuts)) == read(kind, body) == (told[-1] if told else None, None)
