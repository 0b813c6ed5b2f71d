"""`farebox quote`: what is said stands in golden files, and what cannot be quoted is refused by name."""

import json
from pathlib import Path
from typing import Any, Final

import pytest
from tests.test_house import ROOT
from typer.testing import CliRunner

from farebox.cli import app
from farebox.errors import ConfigError, FareboxError, InputInvalid, MeterUnknown, PlanUnknown, QuantityInvalid

GOLDEN: Final = Path(__file__).with_name("golden") / "quote"
CATALOG: Final = GOLDEN / "farebox.toml"
CASES: Final = {
    "payg": ["payg", "calls=333", "minutes=1"],
    "scale": ["scale", "calls=12345", "tokens=1500001"],
    "scale-unused": ["scale"],
    "scale-included": ["scale", "calls=10000"],
    "team": ["team", "minutes=119", "seats=7"],
    "team-unused": ["team"],
    "fine": ["fine", "calls=1000000000000000000"],
}


def quoted(*arguments: str, config: Path = CATALOG) -> str:
    done = CliRunner().invoke(app, ["quote", *arguments, "--config", str(config)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())


@pytest.fixture(autouse=True)
def _nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder to work in, and no variable that Farebox reads."""
    monkeypatch.chdir(tmp_path)
    for name in ("STRIPE_SECRET_KEY", "STRIPE_API_BASE", "FAREBOX_CONFIG", "FAREBOX_SECRET", "FAREBOX_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", CASES)
def test_what_is_said(name: str) -> None:
    """The lines and the total are those of the golden files, as a table and as JSON."""
    assert quoted(*CASES[name]) == (GOLDEN / f"{name}.txt").read_text()
    said: dict[str, Any] = json.loads(quoted(*CASES[name], "--json"))
    assert said == json.loads((GOLDEN / f"{name}.json").read_text())
    assert said["total"] == sum(line["amount"] for line in said["lines"])


def test_the_documentation_shows_it() -> None:
    """The example of the command line's page is what the command says."""
    text = (ROOT / "docs" / "reference" / "cli.md").read_text()
    for arguments in (CASES["scale"], [*CASES["scale"], "--json"]):
        assert f"$ farebox quote {' '.join(arguments)}\n{quoted(*arguments)}```" in text


def test_nothing_else_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a key nor a ledger: what is wrong with Stripe's variables does not matter, and no file is made."""
    monkeypatch.setenv("STRIPE_SECRET_KEY", "not a key")
    monkeypatch.setenv("FAREBOX_DATABASE_URL", "nowhere")
    monkeypatch.setenv("FAREBOX_CONFIG", str(CATALOG))
    done = CliRunner().invoke(app, ["quote", "payg", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["total"] == 0
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("FAREBOX_CONFIG", " ")
    with pytest.raises(ConfigError, match="FAREBOX_CONFIG is set but empty"):
        CliRunner().invoke(app, ["quote", "payg"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (["gold"], PlanUnknown, "There is no plan 'gold'. The plans are: fine, payg, scale, team."),
        (["payg", "call=1"], MeterUnknown, "no price for a meter 'call' (it has: calls, minutes)"),
        (["payg", "tokens=1"], MeterUnknown, "no price for a meter 'tokens' (it has: calls, minutes)"),
        (["payg", "calls=1", "calls=1"], InputInvalid, "calls is named twice"),
        (["payg", "calls"], InputInvalid, "'calls' is not a meter and a quantity; write it like calls=1000"),
        (["payg", "calls="], QuantityInvalid, "calls: '' is not a whole number"),
        (["payg", "calls=1.5"], QuantityInvalid, "calls: '1.5' is not a whole number"),
        (["payg", "calls=-1"], QuantityInvalid, "calls: '-1' is not a whole number"),
        (["payg", "calls=1e3"], QuantityInvalid, "calls: '1e3' is not a whole number"),
        (["payg", "calls=1_000"], QuantityInvalid, "calls: '1_000' is not a whole number"),
        (["payg", "calls=٣"], QuantityInvalid, "is not a whole number"),
        (["payg", "calls=1=2"], QuantityInvalid, "calls: '1=2' is not a whole number"),
        (["payg", "calls=1000000000000000001"], QuantityInvalid, "from 0 to 1000000000000000000"),
        (["payg", "calls=" + "9" * 5_000], QuantityInvalid, "is not a whole number"),
        (["--config", "none.toml", "payg"], ConfigError, "none.toml does not exist"),
    ],
)
def test_what_cannot_be_quoted(arguments: list[str], error: type[FareboxError], said: str) -> None:
    """An unknown name is refused with those there are; a quantity is whole, in digits, and said once."""
    given = arguments if "--config" in arguments else [*arguments, "--config", str(CATALOG)]
    with pytest.raises(error) as refused:
        CliRunner().invoke(app, ["quote", *given], catch_exceptions=False)
    assert said in refused.value.detail


def test_a_file_without_plans(tmp_path: Path) -> None:
    """Where there is no plan, that is said."""
    (tmp_path / "farebox.toml").write_text("")
    with pytest.raises(PlanUnknown, match="The plans are: none"):
        CliRunner().invoke(app, ["quote", "payg"], catch_exceptions=False)
