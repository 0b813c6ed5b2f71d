"""The command line as an operator uses it: beside a serving process, for people and as JSON, with honest exit codes."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e.stack import Stack, stack_in, until

COMMANDS = [
    "demo",
    "init",
    "quote",
    "simulate",
    "plan",
    "push",
    "serve",
    "sandbox",
    "migrate",
    "doctor",
    "customers",
    "usage",
    "keys",
]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack_in(tmp_path_factory.mktemp("cli")) as running:
        running.start_api()
        yield running


@pytest.fixture(scope="module")
def buyer(stack: Stack) -> dict[str, str]:
    return stack.buy()


@pytest.fixture(scope="module")
def account(stack: Stack, buyer: dict[str, str]) -> str:
    return str(stack.usage(buyer)["account"])


def said(done: "subprocess.CompletedProcess[str]") -> Any:
    """The JSON of a command that succeeded: nothing else may stand on stdout."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(stack: Stack, command: str) -> None:
    """`--help` of each command exits 0 and is listed by `farebox --help`."""
    done = stack.farebox(command, "--help")
    assert (done.returncode, "Usage: " in done.stdout) == (0, True)


def test_without_a_command(stack: Stack) -> None:
    """`farebox` alone shows what there is; `--version` prints the version; an unknown command fails."""
    shown = stack.farebox()
    assert [command for command in COMMANDS if f" {command} " not in shown.stdout] == []
    assert stack.farebox("--version").stdout == "farebox 0.1.0\n"
    assert stack.farebox("nothing").returncode == 2


def test_a_second_push_changes_nothing(stack: Stack) -> None:
    """`push` says what is there; a dry run with another price says what it would do and does nothing."""
    kinds = [(c["kind"], c["object"]) for c in said(stack.farebox("push", "--webhook", "--json"))["changes"]]
    objects = ("meter", "product", "price", "portal", "webhook endpoint", "event destination")
    assert kinds == [("unchanged", name) for name in objects]
    config = (stack.folder / "farebox.toml").read_text()
    (stack.folder / "dearer.toml").write_text(config.replace('"1.00"', '"2.00"'))
    dry = said(stack.farebox("push", "--config", "dearer.toml", "--dry-run", "--json"))["changes"]
    (price,) = (c for c in dry if c["object"] == "price")
    assert price["kind"] == "update"
    assert price["detail"] == "a new version: calls: 2.00 USD per unit / month; subscribers keep theirs"
    assert price["differences"] == [{"name": "price", "before": "1.00 USD per unit", "after": "2.00 USD per unit"}]
    assert {c["kind"] for c in said(stack.farebox("push", "--json"))["changes"]} == {"unchanged"}


def test_the_doctor_finds_nothing(stack: Stack) -> None:
    """With everything in place each check is ok, and the exit code is 0."""
    findings = said(stack.farebox("doctor", "--json"))["findings"]
    assert {finding["status"] for finding in findings} == {"ok"}
    assert {"configuration", "database", "stripe key", "catalog", "webhook endpoint", "portal"} <= {
        finding["check"] for finding in findings
    }


def test_the_doctor_speaks_json_when_stripe_is_away(stack: Stack) -> None:
    """With nothing listening at Stripe's address the finding names it, stdout stays JSON, and the exit code is 1."""
    done = stack.farebox("doctor", "--json", STRIPE_API_BASE="http://127.0.0.1:9")
    assert done.returncode == 1
    (fault,) = [f for f in json.loads(done.stdout)["findings"] if f["status"] == "fail"]
    assert fault["check"] == "stripe key"
    assert "127.0.0.1:9 did not answer" in fault["detail"]


def test_customers_and_usage(stack: Stack, buyer: dict[str, str], account: str) -> None:
    """The operator sees the account, what it used and how far that has got, while the API serves."""
    stack.call(buyer, 3)
    until(lambda: stack.counted() == 3, "the calls are reported")
    (row,) = said(stack.farebox("customers", "--json"))
    assert (row["account"], row["plan"], row["status"], row["keys"]) == (account, "payg", "active", 1)
    shown = said(stack.farebox("usage", account, "--json"))
    assert (shown["total"], shown["currency"], shown["unsealed"]) == (300, "usd", 0)
    assert shown["meters"][0]["quantity"] == 3
    assert shown["reported"]["delivered"] == 3
    events = said(stack.farebox("usage", account, "--events", "--json"))
    assert sum(event["value"] for event in events) == 3
    assert {event["state"] for event in events} == {"delivered"}
    assert "3.00 USD" in stack.farebox("usage", account).stdout


def test_keys_live_and_die(stack: Stack, account: str) -> None:
    """A key made, rotated and revoked here is accepted and refused by the process that serves, within a second."""
    made = said(stack.farebox("keys", "create", account, "--name", "batch jobs", "--json"))
    assert made["key"].startswith("fb_test_")
    headers = {"X-API-Key": made["key"]}
    until(lambda: stack.client.get(stack.base + "/api", headers=headers).status_code == 200, "the key is accepted", 2)
    listed = said(stack.farebox("keys", "list", account, "--json"))
    assert {key["name"] for key in listed} == {"claimed", "batch jobs"}
    assert made["key"] not in json.dumps(listed)
    rotated = said(stack.farebox("keys", "rotate", account, made["id"], "--overlap-seconds", "0", "--json"))
    until(lambda: stack.client.get(stack.base + "/api", headers=headers).status_code == 401, "the old key ends", 2)
    fresh = {"X-API-Key": rotated["key"]}
    assert stack.client.get(stack.base + "/api", headers=fresh).status_code == 200
    assert said(stack.farebox("keys", "revoke", account, rotated["id"], "--json")) == {"revoked": rotated["id"]}
    until(lambda: stack.client.get(stack.base + "/api", headers=fresh).status_code == 401, "the key is revoked", 2)


@pytest.mark.parametrize(
    "arguments",
    [
        ("usage", "acct_nobody"),
        ("keys", "list", "acct_nobody"),
        ("keys", "create", "acct_nobody"),
        ("keys", "revoke", "acct_nobody", "key_none"),
        ("keys", "rotate", "acct_nobody", "key_none"),
        ("push", "--config", "nowhere.toml"),
        ("sandbox", "--host", "0.0.0.0"),
        ("init", "farebox.toml"),
        ("init", "nowhere/farebox.toml"),
    ],
)
def test_failures_are_words(stack: Stack, arguments: tuple[str, ...]) -> None:
    """A command that cannot be done says why on stderr, exits 1, and changes nothing."""
    before = (stack.folder / "farebox.toml").read_bytes()
    done = stack.farebox(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(("Error", "The local Stripe"))
    assert "Traceback" not in done.stderr
    assert (stack.folder / "farebox.toml").read_bytes() == before


def test_errors_as_json(stack: Stack) -> None:
    """With `--json` an error is one JSON object on stderr with a stable code."""
    done = stack.farebox("usage", "acct_nobody", "--json")
    assert done.returncode == 1
    assert json.loads(done.stderr)["error"]["code"] == "account_unknown"


def test_init_and_migrate(stack: Stack) -> None:
    """`init` writes a file that `push` accepts; `migrate` makes a ledger and says which."""
    assert stack.farebox("init", "fresh.toml").returncode == 0
    assert {c["kind"] for c in said(stack.farebox("push", "--config", "fresh.toml", "--dry-run", "--json"))["changes"]}
    made = said(stack.farebox("migrate", "--json", FAREBOX_DATABASE_URL="sqlite:///other.db"))
    again = said(stack.farebox("migrate", "--json", FAREBOX_DATABASE_URL="sqlite:///other.db"))
    assert made == again
    assert made["id"]
