"""Starts that must be refused, and disks that fail: said in words, nothing lost, nothing free, no stack trace."""

import resource
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.stack import Stack, stack_in, until


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One local Stripe for the file: no test here needs it empty."""
    with stack_in(tmp_path_factory.mktemp("refusals")) as running:
        yield running


@pytest.fixture
def folder(stack: Stack, tmp_path: Path) -> Iterator[Path]:
    """A folder of the test's own for the ledger."""
    config = (stack.folder / "farebox.toml").read_text()
    (tmp_path / "farebox.toml").write_text(config)
    before = stack.folder
    stack.folder = tmp_path
    yield tmp_path
    if stack.api is not None:
        stack.stop_api()
    stack.folder = before


def refused(stack: Stack, **changed: str) -> str:
    """What the seller's own server says when it will not start."""
    before = dict(stack.environment)
    stack.environment.update(changed)
    try:
        child = stack.spawn_api()
        code = child.wait(60)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"it started: {stack.log}") from None
    finally:
        stack.environment.clear()
        stack.environment.update(before)
    assert code != 0
    assert "Traceback" not in stack.log, stack.log
    return stack.log


def test_a_corrupted_ledger_is_refused(stack: Stack, folder: Path) -> None:
    """F28: a damaged file is named and left as it is."""
    broken = b"SQLite format 3\0" + b"\xff" * 5000
    (folder / "farebox.db").write_bytes(broken)
    assert "farebox.db is not a SQLite database, or is damaged" in refused(stack)
    assert (folder / "farebox.db").read_bytes() == broken


def test_a_foreign_database_is_refused(stack: Stack, folder: Path) -> None:
    """F28: another program's database is named and left as it is."""
    with sqlite3.connect(folder / "farebox.db") as theirs:
        theirs.execute("CREATE TABLE invoices (id TEXT)")
    theirs.close()
    assert "another program's database" in refused(stack)
    with sqlite3.connect(folder / "farebox.db") as theirs:
        tables = [row[0] for row in theirs.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    theirs.close()
    assert tables == ["invoices"]


def test_a_folder_that_is_not_there_is_refused(stack: Stack, folder: Path) -> None:
    """A ledger in a folder that does not exist: which folder, and the setting that names it."""
    said = refused(stack, FAREBOX_DATABASE_URL=f"sqlite:///{folder}/nowhere/ledger.db")
    assert "nowhere of the ledger does not exist" in said
    assert "FAREBOX_DATABASE_URL" in said


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"STRIPE_SECRET_KEY": "sk_live_0123456789abcdef"}, "live key"),
        ({"FAREBOX_SECRET": "short"}, "FAREBOX_SECRET"),
        ({"FAREBOX_SECRET": ""}, "FAREBOX_SECRET"),
        ({"STRIPE_WEBHOOK_SECRET": "no"}, "STRIPE_WEBHOOK_SECRET"),
        ({"FAREBOX_PUBLIC_URL": "api.example.com"}, "FAREBOX_PUBLIC_URL"),
        ({"FAREBOX_CONFIG": "nowhere.toml"}, "nowhere.toml"),
    ],
)
def test_a_wrong_setting_is_refused(stack: Stack, folder: Path, changed: dict[str, str], words: str) -> None:
    """F28, A02: a live key at the local Stripe, a short or empty secret, a wrong address: named, and not started."""
    assert words in refused(stack, **changed)


@pytest.mark.parametrize(
    ("find", "put", "words"),
    [
        ('meter = "calls"\nquantity', 'meter = "cals"\nquantity', "routes[2].meter"),
        ('unit_amount = "1.00"', "unit_amount = 1.00", "plans.payg.prices[0].unit_amount"),
        ("[plans.payg]", "[plans.payg", "farebox.toml:6: not valid TOML"),
    ],
)
def test_a_wrong_file_is_refused(stack: Stack, folder: Path, find: str, put: str, words: str) -> None:
    """Syntax names the line, meaning names the dotted path."""
    config = (folder / "farebox.toml").read_text()
    assert find in config
    (folder / "farebox.toml").write_text(config.replace(find, put))
    assert words in refused(stack)


def test_a_full_disk(stack: Stack, folder: Path) -> None:
    """F21, I12: while nothing can be written, paid calls get 503 and cost nothing; with space back they go on."""
    stack.start_api()
    buyer = stack.buy()
    stack.call(buyer, 3)
    assert stack.api is not None
    pid = stack.api.pid
    until(lambda: stack.counted() >= 3, "what was used is reported")
    hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    answers = [stack.client.get(stack.base + "/api", headers=buyer) for _ in range(4)]
    assert {answer.status_code for answer in answers} == {503}
    assert {answer.json()["code"] for answer in answers} <= {"store_unavailable", "facts_stale"}
    assert stack.client.get(stack.base + "/health").status_code == 200
    assert stack.client.get(stack.base + "/billing/readyz").status_code == 503
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
    until(lambda: stack.client.get(stack.base + "/api", headers=buyer).status_code == 200, "it heals")
    assert stack.usage(buyer)["meters"][0]["quantity"] == 4
