"""`farebox simulate` and its how-to page, over a small ledger: what is said stands on the page and in golden files."""

import csv
import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import pytest
from tests.contract.test_store import ITEM, SUBSCRIPTION, of
from tests.howto import commands_of, files_of, play
from tests.test_house import ROOT
from typer.testing import CliRunner

from farebox.cli import app
from farebox.domain.accounts import Account
from farebox.domain.usage import Batch, Increment, Period
from farebox.errors import AccountUnknown, ConfigError, FareboxError, InputInvalid
from farebox.system import SystemEntropy

PAGE: Final = "try-new-prices.md"
GOLDEN: Final = Path(__file__).with_name("golden") / "simulate"
JANUARY, FEBRUARY, MARCH = (int(datetime(2025, month, 1, tzinfo=UTC).timestamp()) for month in (1, 2, 3))
FAR: Final = int(datetime(2125, 1, 1, tzinfo=UTC).timestamp())
USED: Final[dict[str, tuple[str, int, int]]] = {  # by name: the plan, and calls in January and February
    "ada": ("payg", 900, 1_350),
    "bert": ("payg", 8_000, 7_000),
    "cleo": ("scale", 14_000, 10_000),
    "dora": ("payg", 4_000, 2_000),
    "eve": ("early", 500, 1_000),
}


def add(folder: Path, name: str, plan: str, *periods: tuple[int, int, int], currency: str = "usd") -> None:
    """An account whose subscription has been in these periods: start, end, calls."""
    store, made = of(f"sqlite:///{folder / 'farebox.db'}"), SystemEntropy()
    store.open()
    account = Account(f"acct_{name}", JANUARY, customer_id=f"cus_{name}")
    store.add_account(account)
    for start, end, calls in periods:
        items = (replace(ITEM, period=Period(start, end), currency=currency),)
        bought = replace(SUBSCRIPTION, id=f"sub_{name}", customer_id=f"cus_{name}", plan=plan, items=items)
        store.put_subscriptions(account.id, (bought,), fence=store.take_fence(account.id), at=start)
        used = Increment(account.id, "calls", "key_1", "GET /api", start + 3600, calls, 1, start + 3605)
        store.commit_batch(Batch(made.token(), 1, made.token(), (used,)))
    store.close()


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's two files and a ledger of five accounts over two months."""
    folder = tmp_path_factory.mktemp("simulated")
    for name, text in files_of(PAGE).items():
        (folder / name).write_text(text)
    for name, (plan, first, second) in USED.items():
        add(folder, name, plan, (JANUARY, FEBRUARY, first), (FEBRUARY, MARCH, second))
    return folder


@pytest.fixture
def ledger(made_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to work in."""
    monkeypatch.chdir(tmp_path)
    for name in ("STRIPE_SECRET_KEY", "STRIPE_API_BASE", "FAREBOX_CONFIG", "FAREBOX_SECRET", "FAREBOX_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(made_once, tmp_path, dirs_exist_ok=True)
    return tmp_path


def simulated(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["simulate", "--plan", "new.toml", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def document(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(simulated(*arguments, "--json"))
    return found


def test_the_page(ledger: Path) -> None:
    """Each command of the page prints what it shows; the files that it writes are the golden ones."""
    commands = commands_of(PAGE)
    assert len(commands) == 4
    for one in commands:
        assert play(one, ledger, {}) == (0, one.shown)
    assert (ledger / "periods.csv").read_text() == (GOLDEN / "periods.csv").read_text()
    assert (ledger / "chart.svg").read_text() == (ROOT / "docs" / "images" / "simulate.svg").read_text()
    shown = (ROOT / "docs" / "how-to" / PAGE).read_text().split("```csv\n")[1].split("```")[0]
    assert (GOLDEN / "periods.csv").read_text().startswith(shown)


def test_every_period_is_in_the_table(ledger: Path) -> None:
    """The rows of the table add up to the sums, and what could not be compared has its row without a new amount."""
    found = document("--csv", "all.csv")
    with (ledger / "all.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    compared = [row for row in rows if row["after"]]
    assert (len(rows), len(compared), found["periods"]) == (10, 8, 10)
    (usd,) = found["currencies"]
    for name in ("before", "after", "change"):
        assert sum(round(float(row[name]) * 100) for row in compared) == usd[name]
    assert [(row["before"], row["after"], row["plan_after"]) for row in rows if row["plan"] == "early"] == [
        ("2.50", "", ""),
        ("5.00", "", ""),
    ]


def test_the_same_prices(ledger: Path) -> None:
    """Against itself a catalog changes nothing, and everybody pays the same."""
    done = CliRunner().invoke(app, ["simulate", "--plan", "farebox.toml", "--json"], catch_exceptions=False)
    found = json.loads(done.stdout)
    assert [(c["change"], c["pay_the_same"], c["most_more"]) for c in found["currencies"]] == [(0, 5, [])]
    assert found["not_compared"] == []


def test_the_picture_is_one(ledger: Path) -> None:
    """The chart is well-formed, says what the sums say, fits a telephone, and knows the dark."""
    simulated("--svg", "chart.svg")
    text = (ledger / "chart.svg").read_text()
    root = ElementTree.fromstring(text)  # noqa: S314
    width = float(root.attrib["viewBox"].split()[2])
    assert (width, "prefers-color-scheme:dark" in text) == (390, True)
    said = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"298.50", "293.40", "2 periods left out: a catalog lacks their plan."} <= set(said)
    for bar in root.iter("{http://www.w3.org/2000/svg}rect"):
        assert float(bar.attrib.get("x", 0)) + float(bar.attrib["width"]) <= width


def test_what_runs(ledger: Path) -> None:
    """A period that is not over is compared, marked in the table, and said in the summary and the chart."""
    add(ledger, "fay", "payg", (MARCH, FAR, 100))
    assert document("--csv", "all.csv")["running"] == 1
    assert ",2025-03-01 00:00,2125-01-01 00:00,yes,usd,1.00,0.00,-1.00" in (ledger / "all.csv").read_text()
    done = CliRunner().invoke(app, ["simulate", "--plan", "new.toml", "--svg", "c.svg"], catch_exceptions=False)
    assert "Periods: 11; 1 of them run, and count so far." in done.stderr
    assert "1 periods run, and count so far." in (ledger / "c.svg").read_text()


def test_pages(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few accounts are read at once, the sums are the same."""
    whole = document()
    monkeypatch.setattr(import_module("farebox.cli.simulate"), "ACCOUNTS_AT_ONCE_MAX", 2)
    assert document() == whole


def test_an_empty_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing was sold, or nothing then, that is said in a sentence; as JSON the sums are empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FAREBOX_CONFIG", raising=False)
    monkeypatch.delenv("FAREBOX_DATABASE_URL", raising=False)
    for name, text in files_of(PAGE).items():
        (tmp_path / name).write_text(text)
    assert "there is nothing to compare" in " ".join(simulated("--svg", "c.svg", "--csv", "c.csv").split())
    assert document()["currencies"] == []
    ElementTree.fromstring((tmp_path / "c.svg").read_text())  # noqa: S314


def test_a_plan_that_nobody_knows_now(ledger: Path) -> None:
    """A subscription to a plan that farebox.toml no longer has is set apart with the reason."""
    add(ledger, "gus", "gone", (JANUARY, FEBRUARY, 5))
    (early, gone) = document()["not_compared"]
    assert (early["plan"], gone["plan"], gone["before"], gone["accounts"]) == ("early", "gone", None, 1)
    assert "the current farebox.toml has no plan gone" in simulated()


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (["--since", "last month"], InputInvalid, "'last month' is no time"),
        (["--since", "2025-13"], InputInvalid, "is no time"),
        (["--account", "acct_nobody"], AccountUnknown, "There is no account 'acct_nobody'"),
        (["--map", "early"], InputInvalid, "write OLD=NEW"),
        (["--map", "=payg"], InputInvalid, "write OLD=NEW"),
        (["--map", "early=payg", "--map", "early=scale"], InputInvalid, "each old plan once"),
        (["--map", "early=gold"], InputInvalid, "the new file has no plan 'gold'; it has payg, scale"),
        (["--csv", "no/such/folder.csv"], ConfigError, "folder.csv cannot be written"),
        (["--svg", "."], ConfigError, "cannot be written"),
        (["--plan", "none.toml"], ConfigError, r"none.toml does not exist"),
    ],
)
def test_bad_input(ledger: Path, arguments: list[str], error: type[FareboxError], said: str) -> None:
    """What was asked wrongly is refused in words."""
    with pytest.raises(error) as refused:
        simulated(*arguments)
    assert said in refused.value.detail


def test_prices_in_another_currency(ledger: Path) -> None:
    """Amounts of two currencies are never added up: both plans are named."""
    text = (ledger / "new.toml").read_text()
    (ledger / "new.toml").write_text(text.replace("[plans.payg]\n", '[plans.payg]\ncurrency = "eur"\n'))
    with pytest.raises(InputInvalid, match=r"acct_ada pays payg in usd, and plans\.payg of the new one is in eur"):
        simulated()


def test_a_broken_new_file(ledger: Path) -> None:
    """Its mistakes are said as those of any farebox.toml, with the line."""
    (ledger / "new.toml").write_text('[plans.payg]\ntitle = "P"\n')
    with pytest.raises(ConfigError, match=r"new\.toml:1: plans\.payg\.prices: is required"):
        simulated()
