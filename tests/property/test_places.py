"""Where a setting stands in a TOML document is found however it is written: each draw notes its places as it writes."""

import tomllib
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.tomlplaces import Path, Place, places_of

SCALARS: Final = (
    "1",
    "true",
    "1979-05-27 07:32:00",
    '""',
    "''",
    '"a # [b] = \\"c\\", {"',
    "'it is [\"no\"] = # comment'",
    '"""\nthree\n  [not.a.table]\nb = 1 \\""" " ""x"""""',
    "'''\nno = \"table\"\n[[x]]'''''",
)
NAMES: Final = ("a", "b-1", "C_d", "7")
NOISE: Final = ("", "\n", "  # a = [1, {\n", "\n# [x]\n\n")

names = st.sampled_from(NAMES) | st.text("aé .[]=\"'#", max_size=4)
trees = st.recursive(
    st.sampled_from(SCALARS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(names, inner, max_size=3)
        | st.lists(st.dictionaries(names, inner, max_size=3), min_size=1, max_size=3)
    ),
    max_leaves=12,
)
documents = st.dictionaries(names, trees, max_size=4)


class Writer:
    """Writes a tree in one of the ways that TOML has for it, and notes where each part begins."""

    def __init__(self, data: st.DataObject) -> None:
        self.text = ""
        self.places: dict[Path, Place] = {}
        self._draw = data.draw

    def write(self, tree: dict[str, Any]) -> None:
        self._settings((), tree, later=())

    def _table(self, path: Path, keys: Path, tree: dict[str, Any]) -> None:
        """Under a header of its own. `keys` is the path without numbers, as headers say it."""
        self._noise()
        self._note(path)
        self._here(f"[{self._dotted(keys)}]")
        self._end_line()
        self._settings(path, tree, later=keys)

    def _tables(self, path: Path, keys: Path, trees: list[Any]) -> None:
        for number, tree in enumerate(trees):
            self._noise()
            for noted in [path, (*path, number)][number > 0 :]:
                self._note(noted)
            self._here(f"[[{self._dotted(keys)}]]")
            self._end_line()
            self._settings((*path, number), tree, later=keys)

    def _settings(self, path: Path, tree: dict[str, Any], *, later: Path) -> None:
        """First what is written as NAME = VALUE, then what has a header, since a header ends the table before it."""
        headed = []
        for name, value in tree.items():
            tables = isinstance(value, list) and value and all(isinstance(one, dict) for one in value)
            if (isinstance(value, dict) or tables) and self._chance():
                headed.append((name, value))
                continue
            self._noise()
            self._setting((*path, name), self._key(name), value)
            self._end_line()
        for name, value in headed:
            write = self._table if isinstance(value, dict) else self._tables
            write((*path, name), (*later, name), value)

    def _setting(self, path: Path, key: str, value: Any) -> None:
        """NAME = VALUE, or A.B = VALUE for a table with one entry."""
        self._note(path)
        while isinstance(value, dict) and len(value) == 1 and self._chance():
            ((name, value),) = value.items()
            path, key = (*path, name), f"{key} . {self._key(name)}"
            self._note(path)
        self._here(f"{key} = ")
        self._value(path, value)

    def _value(self, path: Path, value: Any) -> None:
        if isinstance(value, str):
            self._here(value)
        elif isinstance(value, dict):
            self._here("{ ")
            for number, (name, inner) in enumerate(value.items()):
                self._here(", " if number else "")
                self._setting((*path, name), self._key(name), inner)
            self._here(" }")
        else:
            self._here("[")
            for number, inner in enumerate(value):
                self._here("," if number else "")
                self._noise()
                self._note((*path, number))
                self._value((*path, number), inner)
            self._noise()
            self._here("]")

    def _note(self, path: Path) -> None:
        before, _, line = self.text.rpartition("\n")
        self.places[path] = Place(before.count("\n") + 1 + ("\n" in self.text), len(line) + 1)

    def _here(self, text: str) -> None:
        self.text += text

    def _noise(self) -> None:
        self.text += self._draw(st.sampled_from(NOISE))

    def _end_line(self) -> None:
        self.text += self._draw(st.sampled_from(("\n", " # [c]\n", "\n\n")))

    def _chance(self) -> bool:
        return self._draw(st.booleans())

    def _dotted(self, keys: Path) -> str:
        return self._draw(st.sampled_from((".", " . "))).join(self._key(str(key)) for key in keys)

    def _key(self, name: str) -> str:
        bare = name in NAMES and self._chance()
        return name if bare else '"' + name.replace('"', '\\"') + '"'


@given(documents, st.data())
def test_every_place_is_found(tree: dict[str, Any], data: st.DataObject) -> None:
    """Tables, tables in lists, dotted and quoted keys, inline tables and lists over several lines, with comments and
    strings that look like all of them: every part stands where it was written, and nothing else is found."""
    writer = Writer(data)
    writer.write(tree)
    found = places_of(writer.text)
    assert set(found) == set(paths_in(tomllib.loads(writer.text)))
    assert found == writer.places


def paths_in(value: Any, path: Path = ()) -> list[Path]:
    """All that a document has, as `tomllib` reads it."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for name, one in inner for found in ((*path, name), *paths_in(one, (*path, name)))]


@pytest.mark.parametrize(
    ("text", "path", "place"),
    [
        ("", (), None),
        ("[a.b]\nc = 1\n[a]\nd = 2", ("a",), Place(3, 1)),
        ("[a.b]\nc = 1\n", ("a",), Place(1, 1)),
        ("[[a]]\n[a.b]\nc = 1\n[[a]]\n[a.b]\n c = 2", ("a", 1, "b", "c"), Place(6, 2)),
        ("[[a.b]]\n[[a.b.c]]\n[[a.b.c]]\nd = 1\n[[a.b]]\n[[a.b.c]]\nd = 2", ("a", "b", 1, "c", 0, "d"), Place(7, 1)),
        ("a = 1\r\n[b]\r\n  c = 2\r\n", ("b", "c"), Place(3, 3)),
        ("a.b = 1\na.c = 2\n", ("a",), Place(1, 1)),
    ],
)
def test_what_is_named_more_than_once(text: str, path: Path, place: Place | None) -> None:
    """A table begins at its own header, else where it is named first; the tables of a list are told apart."""
    assert places_of(text).get(path) == place


def test_a_file_as_large_as_may_be() -> None:
    """A megabyte of inline tables takes seconds, not minutes: each character is looked at once."""
    text = "a = [\n" + '{ b = "GET /c", d = 1 },\n' * 40_000 + "]\n"
    assert places_of(text)["a", 39_999, "d"] == Place(40_001, 17)
