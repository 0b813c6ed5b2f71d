"""`farebox plan check`: every mistake with its line and a hint; what a good file sells, and what is odd in it."""

import json
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
from tests.test_house import ROOT
from tests.unit.test_config import PLAIN
from typer.testing import CliRunner, Result

from farebox.cli import app
from farebox.configcheck import check_file
from farebox.errors import ConfigError
from farebox.starter import STARTER_CONFIG
from farebox.tomlplaces import places_of

GOLDEN: Final = Path(__file__).with_name("golden")
QUOTED: Final = GOLDEN / "quote" / "farebox.toml"
FILES: Final = [QUOTED, ROOT / "examples" / "fire_api" / "farebox.toml"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["plan", *arguments], catch_exceptions=False)


def checked(path: Path) -> list[dict[str, Any]]:
    done = run("check", str(path), "--json")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    assert done.exit_code == (1 if any(one["severity"] == "error" for one in found) else 0)
    return found


@pytest.fixture(autouse=True)
def _nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder to work in, and no other file named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FAREBOX_CONFIG", raising=False)


@pytest.mark.parametrize(("name", "code"), [("bad", 1), ("odd", 0)])
def test_what_is_said(name: str, code: int, tmp_path: Path) -> None:
    """All mistakes at once, in the order of the lines, and what is odd in a good file, stand in the golden files."""
    (tmp_path / "farebox.toml").write_text((GOLDEN / "plan" / f"{name}.toml").read_text())
    done = run("check")
    said = "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())
    assert (done.exit_code, said) == (code, (GOLDEN / "plan" / f"{name}.txt").read_text())
    assert checked(Path("farebox.toml")) == json.loads((GOLDEN / "plan" / f"{name}.json").read_text())


@pytest.mark.parametrize("path", FILES, ids=["golden", "fire_api"])
def test_good_files(path: Path) -> None:
    """Of a good file nothing is said but what it sells, and the exit code is 0."""
    assert checked(path) == []
    done = run("check", str(path))
    assert (done.exit_code, "plan" in done.stdout, "│" in done.stdout) == (0, True, False)


def test_the_starter_is_good(tmp_path: Path) -> None:
    """What `farebox init` writes has no fault and nothing odd."""
    (tmp_path / "farebox.toml").write_text(STARTER_CONFIG)
    assert checked(Path("farebox.toml")) == []


def settings_of(text: str) -> list[tuple[str | int, ...]]:
    """The paths of all settings: what is no table and no list of tables."""
    document = tomllib.loads(text)

    def found(value: Any, path: tuple[str | int, ...]) -> list[tuple[str | int, ...]]:
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        return [one for name, each in inner for one in found(each, (*path, name))] or [path]

    return found(document, ())


SETTINGS: Final = settings_of(QUOTED.read_text())


@pytest.mark.parametrize("path", SETTINGS, ids=[".".join(map(str, path)) for path in SETTINGS])
def test_a_wrong_name_is_found_in_its_line(path: tuple[str | int, ...], tmp_path: Path) -> None:
    """Whichever setting of a file is misspelt: it is named with line and column, and with what was meant."""
    text = QUOTED.read_text()
    place = places_of(text)[path]
    lines = text.split("\n")
    before, after = lines[place.line - 1][: place.column - 1], lines[place.line - 1][place.column - 1 :]
    name = str(path[-1])
    assert after.startswith(name)
    lines[place.line - 1] = f"{before}{name}x{after.removeprefix(name)}"
    file = tmp_path / "farebox.toml"
    file.write_text("\n".join(lines))
    (found,) = [one for one in checked(file) if "knows no such setting" in one["message"]]
    assert (found["line"], found["column"], found["path"].endswith(f"{name}x")) == (place.line, place.column, True)
    assert found["hint"] == f'did you mean "{name}"?'


@pytest.mark.parametrize("path", SETTINGS, ids=[".".join(map(str, path)) for path in SETTINGS])
def test_a_wrong_kind_is_found_in_its_line(path: tuple[str | int, ...], tmp_path: Path) -> None:
    """Whichever setting holds a value of another kind: it is named with its line, and nothing else is."""
    text = QUOTED.read_text()
    place = places_of(text)[path]
    lines = text.split("\n")
    line, at = lines[place.line - 1], place.column - 1
    sign = line.index("=", at)
    end = min(end for end in (line.find(",", sign), line.find(" }", sign), len(line)) if end > 0)
    lines[place.line - 1] = f"{line[: sign + 1]} false{line[end:]}"
    file = tmp_path / "farebox.toml"
    file.write_text("\n".join(lines))
    (found,) = [one for one in checked(file) if one["severity"] == "error" and one["line"] == place.line]
    assert found["column"] == place.column
    assert found["path"].endswith(str(path[-1]))


@pytest.mark.parametrize(
    ("text", "line", "column", "said", "hint"),
    [
        ("[meters.calls]\ntitle = API calls\n", 2, 9, "Invalid value", "text stands in quotes"),
        ("a = 1\na = 2\n", 2, 6, "Cannot overwrite", "a name stands once"),
        ("[a]\n[a]\n", 2, 3, "Cannot declare", "a table stands once"),
        ("title 1\n", 1, 7, "Expected '='", "NAME = VALUE"),
        ("a = [1,\n", 2, 1, "", ""),
        ('a = "x\n', 1, 7, "Illegal character", "close its quotes"),
        ('a = "x', 1, 1, "Unterminated string", "close the text"),
        ("a = 1 b = 2\n", 1, 7, "Expected newline", "one setting to a line"),
    ],
)
def test_no_toml(text: str, line: int, column: int, said: str, hint: str, tmp_path: Path) -> None:
    """What is no TOML is one fault with its line and column, and says how TOML is written."""
    file = tmp_path / "farebox.toml"
    file.write_text(text)
    (found,) = checked(file)
    assert (found["path"], found["line"], found["column"]) == ("", line, column)
    assert found["message"].startswith(f"not valid TOML: {said}")
    assert hint in (found["hint"] or "")


@pytest.mark.parametrize(
    ("old", "new", "path", "message", "hint"),
    [
        ('title = "Pay as you go"', "title = 7", "plans.payg.title", "must be text", 'write it in quotes: "7"'),
        (
            "[meters.calls]\n",
            "[http]\ncredentials = 1\n[meters.calls]\n",
            "http.credentials",
            "must be a list",
            "square",
        ),
        ("[meters.calls]\n", "http = 1\n[meters.calls]\n", "http", "must be a table", "[http] on a line of its own"),
        (
            "[meters.calls]\n",
            "[ledger]\nspool_seconds_max = 0\n[meters.calls]\n",
            "ledger.spool_seconds_max",
            "must be at least 1, not 0",
            "",
        ),
        (
            "[meters.calls]\n",
            '[ledger]\nallow_weak_durability = "no"\n[meters.calls]\n',
            "ledger.allow_weak_durability",
            "must be true or false",
            "without quotes",
        ),
        ("[meters.calls]\n", "[acess]\n[meters.calls]\n", "acess", "Farebox knows no such setting", '"access"'),
        ("[meters.calls]\n", "[zzz]\n[meters.calls]\n", "zzz", "Farebox knows no such setting", "known here: access,"),
        ("Pay as you go", "x" * 251, "plans.payg.title", "is too long", "at most 250 characters"),
        (PLAIN, 'meters = "calls"\n', "meters", "must be a table", "[meters] on a line of its own"),
    ],
)
def test_what_to_write_instead(old: str, new: str, path: str, message: str, hint: str, tmp_path: Path) -> None:
    """What the form of the file refuses is said in words of our own, and how it is written."""
    file = tmp_path / "farebox.toml"
    file.write_text(PLAIN.replace(old, new))
    found = next(one for one in checked(file) if one["path"] == path)
    assert found["message"] == message
    assert hint in (found["hint"] or "")


def test_a_mistake_does_not_hide_another(tmp_path: Path) -> None:
    """What does not fit together is said beside what has the wrong form; what hangs on a mistake is not said twice."""
    text = PLAIN.replace('title = "API calls"', "title = 1").replace('"1.00"', "1.0")
    file = tmp_path / "farebox.toml"
    file.write_text(f'{text}[[routes]]\nmatch = "GET b"\n[[routes]]\nmatch = "GET /c"\nmeter = "call"\n')
    assert [one["path"] for one in checked(file)] == [
        "meters.calls.title",
        "plans.payg.prices[0].unit_amount",
        "routes[1].match",
        "routes[2].meter",
    ]


def test_strangers_letters(tmp_path: Path) -> None:
    """A line that holds a terminal's commands is shown without them."""
    file = tmp_path / "farebox.toml"
    file.write_text('"a\\u001b[31m" = "\u009b31m\u202e"\n')
    done = run("check", "farebox.toml")
    assert (done.exit_code, {"\u001b", "\u009b", "\u202e"} & set(done.stdout)) == (1, set())


def test_which_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file named, else that of FAREBOX_CONFIG; one that is not there is an error of its own."""
    monkeypatch.setenv("FAREBOX_CONFIG", str(QUOTED))
    assert "0.00015 USD per unit" in run("check").stdout
    with pytest.raises(ConfigError, match=r"none\.toml does not exist"):
        run("check", "none.toml")


def test_other_commands_name_the_line(tmp_path: Path) -> None:
    """What refuses the start of anything else names the same line."""
    file = tmp_path / "farebox.toml"
    file.write_text(PLAIN.replace('meter = "calls"\nunit', 'meter = "cals"\nunit'))
    with pytest.raises(
        ConfigError, match=r"farebox\.toml:7: plans\.payg\.prices\[0\]\.meter: .*; did you mean"
    ) as refused:
        check_file(file).require()
    assert refused.value.detail.count("\n") == 0
