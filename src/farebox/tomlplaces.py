"""Where each setting of a TOML document stands, so that what is wrong with it can be said by line and column.

For text that `tomllib` has taken already: what a key is called, `tomllib` says here too. Nothing is checked, no value
is read.
"""

import re
import tomllib
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Final

__all__ = ["Path", "Place", "places_of"]

Path = tuple[str | int, ...]

_TOKEN: Final = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|' + r"'''.*?'{3,5}|" + r'"(?:\\.|[^"\\])*"|' + r"'[^']*'|"  # strings, long ones first
    r"\#[^\n]*|[\[\]{},=\n]|[^\s\[\]{},=\"'\#]+",
    re.DOTALL,
)
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Place:
    """A line and a column in it, in characters, both from 1."""

    line: int
    column: int


def places_of(text: str) -> dict[Path, Place]:
    """Where each table, key and entry of a list begins, by its path: names of tables and keys, numbers in lists.

    A table that only others name, as [a.b] names a, begins where it is named first.
    """
    return _Reader(text).read()


class _Reader:
    """Walks over the tokens once. Each method begins at the token that its name says and ends behind what it read."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = [(found.start(), found.group()) for found in _TOKEN.finditer(text) if found.group()[0] != "#"]
        self._tokens.append((len(text), ""))
        self._at = 0
        self._line_starts = [0] + [at + 1 for at, letter in enumerate(text) if letter == "\n"]
        self._places: dict[Path, Place] = {}
        self._tables: dict[Path, int] = defaultdict(int)  # how many tables an [[array]] has so far

    def read(self) -> dict[Path, Place]:
        table: Path = ()
        while self._now:
            if self._now == "\n":
                self._at += 1
            elif self._now == "[":
                table = self._header()
            else:
                self._setting(table)
        return self._places

    @property
    def _now(self) -> str:
        return self._tokens[self._at][1]

    def _header(self) -> Path:
        start = self._tokens[self._at][0]
        array = self._text.startswith("[[", start)
        self._at += 2 if array else 1
        names = self._key()
        self._at += 2 if array else 1
        path: Path = ()
        for number, name in enumerate(names, 1):
            path = (*path, name)
            if array and number == len(names):
                self._tables[path] += 1
            self._note(path, start, anew=number == len(names) and not array)
            if path in self._tables:
                path = (*path, self._tables[path] - 1)
        if array:
            self._note(path, start)
        return path

    def _setting(self, table: Path) -> None:
        start = self._tokens[self._at][0]
        path = table
        for name in self._key():
            path = (*path, name)
            self._note(path, start)
        self._at += 1  # the sign
        self._value(path)

    def _key(self) -> tuple[str, ...]:
        start = self._tokens[self._at][0]
        while self._now not in ("=", "]"):
            self._at += 1
        text = self._text[start : self._tokens[self._at][0]].strip()
        if _BARE.fullmatch(text):
            return (text,)
        names: list[str] = []
        inner: Any = tomllib.loads(f"{text} = 0")
        while isinstance(inner, dict):
            ((name, inner),) = inner.items()
            names.append(name)
        return tuple(names)

    def _value(self, path: Path) -> None:
        if self._now not in ("[", "{"):
            while self._now not in ("", "\n", ",", "]", "}"):
                self._at += 1
            return
        opened, number = self._now, 0
        self._at += 1
        while self._now not in ("]", "}"):
            if self._now in ("\n", ","):
                self._at += 1
            elif opened == "{":
                self._setting(path)
            else:
                self._note((*path, number), self._tokens[self._at][0])
                self._value((*path, number))
                number += 1
        self._at += 1

    def _note(self, path: Path, at: int, *, anew: bool = False) -> None:
        if anew or path not in self._places:
            line = bisect_right(self._line_starts, at)
            self._places[path] = Place(line, at - self._line_starts[line - 1] + 1)
