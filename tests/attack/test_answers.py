"""Attacks by the seller's own API, or through it: headers and bodies that are made to be misread (A26, A32)."""

import itertools
import json
import time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from farebox.domain.measures import FOUND_CHARACTERS_MAX, Fault, at_path, judged, of_header, said
from farebox.web.reading import ANSWER_BYTES_MAX, EVENT_BYTES_MAX, reader_of

SECONDS_MAX = 10
PATH = ("usage", "0", "total")
STREAM = {b"content-type": b"Text/Event-Stream; charset=utf-8"}
JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*PATH, "x"]), inner, max_size=3),
    max_leaves=12,
)
LINES = st.lists(
    st.sampled_from(["\n", "\r", "\r\n", "data:", "data: ", ":", "event: x", "[DONE]", "{", '{"usage":[{"total":7}]}'])
    | JSON.map(json.dumps),
    max_size=20,
).map(lambda parts: "".join(parts).encode())


def read(headers: dict[bytes, bytes], body: bytes, cuts: list[int]) -> tuple[object, Fault | None]:
    reader = reader_of(headers, {PATH})
    places = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    for start, end in itertools.pairwise(places):
        reader.feed(body[start:end])
    return reader.found(PATH, ended=True)


@given(st.lists(st.binary(max_size=50), max_size=3), st.integers(0, 10**12))
def test_any_header(values: list[bytes], maximum: int) -> None:
    """Whatever stands in a header, what is counted is a whole number from 0 to the maximum, or nothing with a reason;
    and what the log says of it is short and plain."""
    found = of_header(values)
    quantity = judged(found, maximum)
    assert isinstance(quantity, Fault) or (type(quantity) is int and 0 <= quantity <= maximum)
    assert len(said(found)) <= 4 * FOUND_CHARACTERS_MAX + 2
    assert said(found).isprintable()


@given(JSON)
def test_any_document(document: object) -> None:
    """Whatever the document, what is counted is a whole number that stands at the path as one."""
    body = json.dumps(document).encode()
    found, fault = read({}, body, [])
    assert fault is None
    quantity = judged(found)
    if not isinstance(quantity, Fault):
        assert json.dumps(at_path(json.loads(body), PATH)) == str(quantity)


@given(LINES | st.binary(max_size=60), st.lists(st.integers(0, 400), max_size=12))
def test_a_stream_reads_alike_however_it_is_cut(body: bytes, cuts: list[int]) -> None:
    """The network cuts a stream where it likes, in the middle of a line's end too: what is read is the same."""
    assert repr(read(STREAM, body, cuts)) == repr(read(STREAM, body, []))


@given(st.binary(max_size=300), st.lists(st.integers(0, 400), max_size=5))
def test_any_bytes(body: bytes, cuts: list[int]) -> None:
    """No body breaks the reader: a document is one, or it is not read."""
    found, fault = read({}, body, cuts)
    assert fault in (None, Fault.UNREADABLE)
    judged(found)


def test_heavy_answers_are_quick() -> None:
    """A32: an endless line, endless empty events, a deep document and a long number cost no more than their bytes, and
    what is kept of them is bounded."""
    began = time.monotonic()
    deep = b'{"usage":' * 100_000
    for headers in ({}, STREAM):
        for body in (b"x" * 4_000_000, b"\n" * 200_000, deep, b"data: " + deep, b"data: 1\n" * 300_000, b"9" * 900_000):
            read(headers, body, list(range(0, len(body), 65_536)))
    assert time.monotonic() - began < SECONDS_MAX
    stream: Any = reader_of(STREAM, {PATH})
    document: Any = reader_of({}, {PATH})
    for _ in range(2_000):
        stream.feed(b"data: " + b"x" * 4_000)
        document.feed(b"x" * 4_000)
    assert len(stream._line) <= EVENT_BYTES_MAX
    assert sum(map(len, document._pieces)) <= ANSWER_BYTES_MAX


def test_what_is_said_is_short() -> None:
    """What a fault found goes to the log cut short, whatever a handler passes: a giant number, an object that lies."""

    class Sly:
        def __repr__(self) -> str:
            return "x" * 10**6

    assert said(10**5_000).endswith("bits")
    assert said("x" * 10**6) == repr("x" * FOUND_CHARACTERS_MAX)
    assert [said(found) for found in (Sly(), [1], 0.5, None, True, -5)] == [
        "Sly",
        "list",
        "float",
        "None",
        "True",
        "-5",
    ]
