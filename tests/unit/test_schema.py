"""The JSON Schema of farebox.toml: current, true to what Farebox takes and refuses, and with a word on each setting."""

import json
import re
import tomllib
from typing import Any, Final

import pytest
from jsonschema import Draft202012Validator
from tests.test_docs import PAGES
from tests.test_house import ROOT
from tests.unit.test_config import PLAIN
from tests.unit.test_plan_command import run
from tests.unit.test_price_kinds import SCALE

from farebox.configcheck import about
from farebox.starter import STARTER_CONFIG

PUBLISHED: Final = ROOT / "docs" / "reference" / "farebox.schema.json"
BLOCKS: Final = [
    block for page in PAGES for block in re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL) if "[" in block
]
FILES: Final = [
    path
    for folder in ("examples", "tests", "docs")
    for path in sorted((ROOT / folder).rglob("*.toml"))
    if path.name != "bad.toml"
]


@pytest.fixture(scope="module")
def judge() -> Draft202012Validator:
    document = json.loads(PUBLISHED.read_text())
    Draft202012Validator.check_schema(document)
    return Draft202012Validator(document)


def test_the_published_one_is_current() -> None:
    """docs/reference/farebox.schema.json is what `farebox plan schema` prints: write it anew when this fails."""
    done = run("schema")
    assert (done.exit_code, done.stdout) == (0, PUBLISHED.read_text())


@pytest.mark.parametrize("text", [PLAIN, SCALE, STARTER_CONFIG, *(path.read_text() for path in FILES), *BLOCKS])
def test_it_takes_what_farebox_takes(judge: Draft202012Validator, text: str) -> None:
    """Every farebox.toml of the repository, of its tests and of its documentation is in the form."""
    assert [error.message for error in judge.iter_errors(tomllib.loads(text))] == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"0.002"', "0.002"),
        ('"0.002"', "1"),
        ('"0.002"', '"-1"'),
        ('"0.002"', '"1,5"'),
        ("up_to = 10000", "up_to = 0"),
        ("up_to = 10000", 'up_to = "10"'),
        ("up_to = 10000, ", ""),
        ("up_to = 10000", "upto = 10000"),
        ('{ up_to = 5, flat_amount = "10" }', "{ up_to = 5 }"),
        ('mode = "graduated"', ""),
        ('mode = "graduated"', 'mode = "cumulative"'),
        ('mode = "graduated"', 'mode = "graduated"\nunit_amount = "1"'),
        ('package = { size = 1000, unit_amount = "0.02", round = "up" }', ""),
        ("size = 1000", "size = 1.5"),
        ('round = "up"', 'round = "nearest"'),
        ('"usd"', '"USD"'),
        ('"usd"', '"usx"'),
        ('"month"', '"monthly"'),
        ('title = "Scale"', ""),
        ('title = "Scale"', 'title = ""'),
        ('title = "Scale"', 'title = "Scale"\nprice = "1"'),
        ("[meters.calls]", "[meters.Calls]"),
        ("[meters.calls]", "[http]\nprefix = 'billing'\n[meters.calls]"),
        ("[meters.calls]", "[http]\ncredentials = ['cookie']\n[meters.calls]"),
        ("[meters.calls]", "[stripe]\nmode = 'prod'\n[meters.calls]"),
        ("[meters.calls]", "[reporting]\nseal_seconds = 0\n[meters.calls]"),
        ("[meters.calls]", "[metres]\n[meters.calls]"),
        ("[meters.calls]", "routes = [{match = '/api'}]\n[meters.calls]"),
        ("[meters.calls]", "routes = [{match = 'GET /api', meter = 'calls', quantity = -1}]\n[meters.calls]"),
    ],
)
def test_it_refuses_what_farebox_refuses(judge: Draft202012Validator, old: str, new: str) -> None:
    """A wrong name, kind, bound or choice is a mistake in the editor already."""
    assert SCALE.count(old) >= 1
    assert not judge.is_valid(tomllib.loads(SCALE.replace(old, new, 1)))


def test_every_setting_has_a_word(judge: Draft202012Validator) -> None:
    """Each setting says what it is, and nothing in the schema speaks of null or of our code."""
    whole: Any = judge.schema
    tables = [whole, *whole["$defs"].values()]
    silent = [name for table in tables for name, form in table["properties"].items() if not form.get("description")]
    assert (silent, '"null"' in PUBLISHED.read_text(), "#/$defs/_" in PUBLISHED.read_text()) == ([], False, False)
    names = {
        f"{n}.{name}" for n, table in {**whole["$defs"], "FileModel": whole}.items() for name in table["properties"]
    }
    text = (ROOT / "src" / "farebox" / "configschema.py").read_text()
    assert set(re.findall(r'^    "(\w+\.\w+)": ', text, re.MULTILINE)) <= names


def test_where_a_word_is_found() -> None:
    """The hint of last resort: what the setting at a path is for."""
    assert about("plans.scale.prices[3].tiers[0].up_to").startswith("The last unit of the tier")
    assert about("http.prefix").startswith("Every route of Farebox")
    assert (about("plans.scale"), about("plans.scale.nothing"), about(""), about("a.b.c")) == ("", "", "", "")
