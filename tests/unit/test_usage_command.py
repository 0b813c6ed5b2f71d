"""`farebox usage` is a group of commands that still shows an account when no command is named."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.settling import settle
from tests.shop import START_AT, StillClock
from typer.testing import CliRunner

from farebox.cli import app
from farebox.domain.accounts import Account
from farebox.domain.corrections import LateItem, LateItemState
from farebox.domain.reports import Outcome, OutcomeKind, ReportState, seal
from farebox.domain.usage import Batch, Increment
from farebox.starter import STARTER_CONFIG
from farebox.store.sql import SqlStore
from farebox.system import SystemEntropy


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["usage"], "Name an account"),
        (["usage", "--help"], "Commands"),
        (["usage", "show", "--help"], "--events"),
        (["usage", "acct_1", "--help"], "--events"),
        (["usage", "--events", "--help"], "--events"),
    ],
)
def test_what_is_shown_when_no_command_is_named(arguments: list[str], told: str) -> None:
    """`usage ACCOUNT` and `usage --events` mean `usage show`; `usage --help` lists the commands."""
    result = CliRunner().invoke(app, arguments, prog_name="farebox")
    assert told in result.output + str(result.exception)


@pytest.fixture
def parked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqlStore]:
    """A ledger with a rejected and a doubtful meter event, in a folder that the commands work in."""
    monkeypatch.chdir(tmp_path)
    for name in ("STRIPE_SECRET_KEY", "STRIPE_API_BASE", "FAREBOX_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FAREBOX_DATABASE_URL", "sqlite:///ledger.db")
    (tmp_path / "farebox.toml").write_text(STARTER_CONFIG)
    store = SqlStore("sqlite:///ledger.db", StillClock(), SystemEntropy())
    store.open()
    store.add_account(Account("acct_1", START_AT, customer_id="cus_1"))
    lines = [Increment("acct_1", meter, "", "x", START_AT, 5, 1, START_AT) for meter in ("calls", "tokens")]
    store.commit_batch(Batch("w", 1, "n", tuple(lines)))
    store.seal(lambda unsealed: seal("ledger", unsealed, unsealed.meter, START_AT), now=START_AT, hard=True)
    events = sorted(store.take_meter_events("h", now=START_AT, lease_seconds=28, limit=9), key=lambda e: e.meter)
    for event, state in zip(events, (ReportState.REJECTED, ReportState.DOUBTFUL), strict=True):
        settle(store, "h", event, Outcome(OutcomeKind.UNKNOWN, "why"), state=state, now=START_AT)
    yield store
    store.close()


def states(store: SqlStore) -> dict[str, ReportState]:
    return {event.meter: event.state for event in store.meter_events()}


def test_retry(parked: SqlStore) -> None:
    """Rejected events are pending again at a word; doubtful ones need a yes, because they may count twice."""
    runner = CliRunner()
    done = runner.invoke(app, ["usage", "retry", "--state", "rejected", "--json", "--actor", "ada"])
    assert [row["value"] for row in json.loads(done.stdout)["retried"]] == [5]
    assert states(parked) == {"calls": ReportState.PENDING, "tokens": ReportState.DOUBTFUL}
    assert [(e.actor, e.action, e.subject) for e in parked.audit()] == [("ada", "usage.retry", "ledger")]
    doubtful = next(e.identifier for e in parked.meter_events() if e.meter == "tokens")
    asked = runner.invoke(app, ["usage", "retry", doubtful], input="n\n")
    assert (asked.exit_code, "count them twice" in " ".join(asked.output.split())) == (1, True)
    assert "--yes" in str(runner.invoke(app, ["usage", "retry", doubtful, "--json"]).exception)
    assert states(parked)["tokens"] is ReportState.DOUBTFUL
    assert runner.invoke(app, ["usage", "retry", doubtful, "--account", "acct_1", "--yes"]).exit_code == 0
    assert set(states(parked).values()) == {ReportState.PENDING}


def test_resume(parked: SqlStore) -> None:
    """A halt of reporting is ended only at a yes, with a word in the audit log."""
    runner = CliRunner()
    parked.halt_reporting("It was restored.", now=START_AT)
    asked = runner.invoke(app, ["usage", "resume"], input="n\n")
    assert (asked.exit_code, "It was restored." in " ".join(asked.output.split())) == (1, True)
    assert "--yes" in str(runner.invoke(app, ["usage", "resume", "--json"]).exception)
    assert parked.ledger().halted_reason == "It was restored."
    done = runner.invoke(app, ["usage", "resume", "--yes", "--json", "--actor", "ada"])
    assert json.loads(done.stdout) == {"resumed": True, "reason": "It was restored."}
    assert [(e.actor, e.action, e.detail) for e in parked.audit()] == [
        ("ada", "usage.resume", {"reason": "It was restored."})
    ]
    again = runner.invoke(app, ["usage", "resume", "--json"])
    assert json.loads(again.stdout) == {"resumed": False, "reason": None}
    assert parked.ledger().halted_at is None


@pytest.mark.parametrize(
    ("arguments", "told"), [([], "--state"), (["fb_none"], "fb_none"), (["--state", "pending"], "--state")]
)
def test_retry_of_nothing(parked: SqlStore, arguments: list[str], told: str) -> None:
    """Nothing is retried that is not named, or not parked."""
    assert told in str(CliRunner().invoke(app, ["usage", "retry", *arguments]).exception)
    assert ReportState.PENDING not in states(parked).values()


def test_late_items_are_retried(parked: SqlStore) -> None:
    """Refused late items are due at once on a person's word, all or those that are named; the act is in the log."""
    item = LateItem("late_1", "acct_1", "calls", START_AT, START_AT + 9, 3, 300, "usd", "late", START_AT)
    refused = replace(item, state=LateItemState.REFUSED, next_look_at=1 << 39, failures=7, error="No such customer")
    parked.adopt_late_item(refused)
    parked.adopt_late_item(replace(refused, id="late_2", state=LateItemState.PAID))
    runner = CliRunner()
    assert runner.invoke(app, ["usage", "retry", "--late", "late_2"]).exit_code != 0
    told = runner.invoke(app, ["usage", "retry", "--late", "--json", "--actor", "ada"])
    retried = [{"id": "late_1", "was": "refused", "amount": 300, "error": "No such customer"}]
    assert (told.exit_code, json.loads(told.output)) == (0, {"retried": retried})
    first, second = sorted(parked.late_items("acct_1"), key=lambda late: late.id)
    assert (first.failures, first.next_look_at < 1 << 39, second.next_look_at) == (0, True, 1 << 39)
    assert [(entry.action, entry.actor) for entry in parked.audit()] == [("usage.retry_late", "ada")]
