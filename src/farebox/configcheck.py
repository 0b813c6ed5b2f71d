"""Reads farebox.toml and says all that is wrong with it at once: the line, the dotted path, what it is, what to write.

Every command reads the file through here; `farebox plan check` shows the same faults with the lines themselves.
"""

import re
import tomllib
import types
from collections.abc import Iterable, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any, Final, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from farebox.configfile import FileModel, read_catalog
from farebox.configschema import about_setting
from farebox.configtable import near
from farebox.domain.catalog import Catalog
from farebox.errors import ConfigError
from farebox.tomlplaces import Path, Place, places_of

__all__ = ["CONFIG_BYTES_MAX", "CheckedFile", "Fault", "about", "check_file", "located"]

CONFIG_BYTES_MAX: Final = 1_048_576
_SHOWN_CHARACTERS: Final = 40
_WORDS: Final = {
    "missing": ("is required", ""),
    "string_type": ("must be text", 'write it in quotes: "{given}"'),
    "int_type": ("must be a whole number", "write digits, without quotes"),
    "bool_type": ("must be true or false", "write one of them, without quotes"),
    "list_type": ("must be a list", "write it in square brackets"),
    "dict_type": ("must be a table", "write [{path}] on a line of its own, and its settings below"),
    "model_type": ("must be a table", "write [{path}] on a line of its own, or {{ … }}"),
    "literal_error": ("{given} is not one of {expected}", ""),
    "greater_than_equal": ("must be at least {ge}, not {given}", ""),
    "less_than_equal": ("must be at most {le}, not {given}", ""),
    "string_too_short": ("must not be empty", ""),
    "string_too_long": ("is too long", "at most {max_length} characters"),
    "too_short": ("must not be empty", ""),
    "too_long": ("has {actual_length} entries", "at most {max_length}"),
}
_TOML_HINTS: Final = {
    "Invalid value": 'text stands in quotes, "like this"; numbers, true and false do not',
    "Cannot overwrite": "a name stands once in a table; take one of them out",
    "Cannot declare": "a table stands once; put its settings together, or write [[…]] for one of a list",
    "Expected '=' after a key": "a setting is NAME = VALUE, a table [NAME]",
    "Unclosed array": "close the list with ]",
    "Unterminated string": "close the text with the quotes that it begins with",
    "Illegal character": "text ends on the line on which it begins; close its quotes",
    "Expected newline or end of document": 'one setting to a line; inside text, write \\" for quotes',
}
_TOML_PLACE: Final = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong at a dotted path: what it is, and, where more can be said, what to write instead."""

    path: str
    message: str
    hint: str = ""
    line: int | None = None
    column: int | None = None

    def told(self, source: str) -> str:
        """On one line: the file with the line, the path, and the rest."""
        where = source if self.line is None else f"{source}:{self.line}"
        said = f"{self.message}; {self.hint}" if self.hint else self.message
        return ": ".join(part for part in (where, self.path, said) if part)


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """A farebox.toml as it was read. The catalog is there when nothing is wrong."""

    source: str
    text: str
    model: FileModel | None
    catalog: Catalog | None
    faults: tuple[Fault, ...]

    def require(self) -> tuple[FileModel, Catalog]:
        """The file and what it sells. ConfigError with every fault, each on a line of its own."""
        if self.faults or self.model is None or self.catalog is None:
            raise ConfigError("\n".join(fault.told(self.source) for fault in self.faults))
        return self.model, self.catalog


def check_file(path: FilePath) -> CheckedFile:
    """Read the file and find all that is wrong with it. ConfigError only when there is no text to read."""
    text = _text_of(path)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return CheckedFile(str(path), text, None, None, (_toml_fault(str(error), text),))
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply.") from error
    model, catalog, faults = _checked(document)
    return CheckedFile(str(path), text, model, catalog, located(faults, text))


def located(faults: Iterable[Fault], text: str) -> tuple[Fault, ...]:
    """Each with the line of its path, or of what holds it when it is not there; in the order of the text, which must be
    valid TOML."""
    found = list(faults)
    places = {_dotted(path): place for path, place in places_of(text).items()} if found else {}
    placed = [_placed(fault, places) for fault in found]
    return tuple(sorted(placed, key=lambda fault: (fault.line or 0, fault.column or 0)))


def about(path: str) -> str:
    """What the setting at a dotted path is for; "" when there is none."""
    *above, name = _parts(path) or [""]
    model = _model_at(above)
    return about_setting(model, name) if model is not None else ""


def _text_of(path: FilePath) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(
            f"{path} does not exist. `farebox init` writes one, or name yours in FAREBOX_CONFIG."
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    if len(raw) > CONFIG_BYTES_MAX:
        raise ConfigError(f"{path} is larger than {CONFIG_BYTES_MAX} bytes.")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8.") from error


def _toml_fault(said: str, text: str) -> Fault:
    place = _TOML_PLACE.search(said)
    message = said[: place.start()] if place else said
    hint = next((hint for begin, hint in _TOML_HINTS.items() if message.startswith(begin)), "")
    line, column = (int(place[1]), int(place[2])) if place and place[1] else (text.count("\n") + 1, 1)
    return Fault("", f"not valid TOML: {message}", hint, line, column)


def _checked(document: dict[str, Any]) -> tuple[FileModel | None, Catalog | None, list[Fault]]:
    """What is wrong in its form and, apart from that, in how its parts fit together."""
    try:
        model, faults, cut = FileModel.model_validate(document), [], set[str]()
    except ValidationError as error:
        faults = [_explained(one) for one in error.errors()]
        cut = {path for one in error.errors() for path in (_dotted(one["loc"]), _dotted(one["loc"][:-1]))}
        mended = _mended(document, error)
        if mended is None:
            return None, None, faults
        model = mended
    catalog, unfit = read_catalog(model)
    for said in unfit:
        path, _, message = said.partition(": ")
        lost = path.startswith("changes.order") and any(one.startswith("plans.") for one in cut)
        if path not in cut and not lost:  # else it is what was cut out that is missing
            faults.append(_split(path, message))
    return model, catalog, faults


def _mended(document: dict[str, Any], error: ValidationError) -> FileModel | None:
    """The file without what is wrong in its form, so that the rest can be looked at: first only the settings are cut
    out, then whole plans and tables. None when too much would be missing."""
    rest = deepcopy(document)
    for cut in (_cut_setting, _cut_table):
        wrong: list[Path] = [one["loc"] for one in error.errors()]
        if ("meters",) in wrong:
            return None
        for path in wrong:
            cut(rest, path)
        try:
            return FileModel.model_validate(rest)
        except ValidationError as left:
            error = left
    return None


def _cut_setting(document: dict[str, Any], path: Path) -> None:
    if path[0] == "meters" and len(path) == 2:
        return
    at: Any = document
    with suppress(LookupError, TypeError):  # the path need not be there: a setting may be missing
        for part in path[:-1]:
            at = at[part]
        if isinstance(at, dict):
            at.pop(path[-1], None)


def _cut_table(document: dict[str, Any], path: Path) -> None:
    """What others speak of, meters, and count by, routes, keeps its place."""
    top, *inner = path
    if top == "meters" and inner:
        document["meters"][inner[0]] = {"title": "-"}
    elif top == "routes" and inner:
        document["routes"][inner[0]] = {"match": "GET /-"}
    elif top == "plans" and inner:
        document["plans"].pop(inner[0], None)
    else:
        document.pop(str(top), None)


def _explained(fault: Any) -> Fault:
    """A fault of pydantic in words of our own."""
    path, kind, context = _dotted(fault["loc"]), fault["type"], fault.get("ctx", {})
    if kind == "value_error":
        return _split(path, str(context["error"]))
    if kind == "extra_forbidden":
        *above, name = fault["loc"]
        model = _model_at([str(part) for part in above])
        known = sorted(_fields(model)) if model is not None else []
        return _split(path, "Farebox knows no such setting" + (near(str(name), known) or _listed(known)))
    message, hint = _WORDS.get(kind, (fault["msg"], ""))
    expected = str(context.get("expected", "")).replace("'", '"')
    shown = {**context, "expected": expected, "path": path, "given": _shown(fault["input"])}
    if kind == "literal_error":
        return _split(path, message.format(**shown) + near(str(fault["input"]), re.findall(r'"(.*?)"', expected)))
    return Fault(path, message.format(**shown), hint.format(**shown))


def _split(path: str, said: str) -> Fault:
    """What the checks say in one breath: "what is wrong; what to write"."""
    message, sign, hint = said.rpartition("; ")
    return Fault(path, message, hint) if sign else Fault(path, said)


def _listed(names: list[str]) -> str:
    return f"; known here: {', '.join(names)}" if names else ""


def _shown(value: object) -> str:
    text = f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


def _placed(fault: Fault, places: Mapping[str, Place]) -> Fault:
    at = fault.path
    while at and at not in places:
        at = at[: max(at.rfind("."), at.rfind("["), 0)]
    if not at:
        return fault
    return replace(fault, line=places[at].line, column=places[at].column)


def _dotted(path: Iterable[str | int]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def _parts(path: str) -> list[str]:
    return re.findall(r"[^.\[\]]+", path)


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    """The settings of a table, by the names that stand in the file."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _model_at(parts: Iterable[str]) -> type[BaseModel] | None:
    """The form of the table at a path: names of settings, tables and numbers in lists."""
    at: Any = FileModel
    for part in parts:
        if (table := _table_in(at)) is not None:
            at = _fields(table)[part].annotation if part in _fields(table) else None
        else:
            at = next((args[-1] for args in _containers(at)), None)
    return _table_in(at)


def _table_in(annotation: Any) -> type[BaseModel] | None:
    """The one table that may stand here, beside nothing."""
    found = [one for one in _alternatives(annotation) if isinstance(one, type) and issubclass(one, BaseModel)]
    return found[0] if len(found) == 1 else None


def _containers(annotation: Any) -> list[tuple[Any, ...]]:
    return [get_args(one) for one in _alternatives(annotation) if get_origin(one) in (dict, list)]


def _alternatives(annotation: Any) -> list[Any]:
    """What may stand here: the members of a union, without what is annotated to them."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [inner for one in get_args(annotation) for inner in _alternatives(one)]
    if hasattr(annotation, "__metadata__"):
        return _alternatives(get_args(annotation)[0])
    return [annotation]
