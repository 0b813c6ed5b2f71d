"""`farebox sandbox` as a process: it starts alone, keeps its state through a kill, and refuses in words."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

KEY = {"Authorization": "Bearer sk_test_of_a_process"}
HEAVY = ("sqlalchemy", "stripe", "fastapi", "alembic", "structlog", "httpx", "prometheus_client")
WATCHED = f"""
import atexit, json, sys
from importlib.metadata import entry_points
atexit.register(lambda: print(json.dumps([name for name in {HEAVY} if name in sys.modules])))
sys.argv[1:] = ["sandbox", "--help"]
(script,) = entry_points(group="console_scripts", name="farebox")
script.load()()
"""


@contextmanager
def serving(*options: str) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """A local Stripe on a free port, and a client for it."""
    child = subprocess.Popen(
        [sys.executable, "-u", "-m", "farebox", "sandbox", "--port", "0", *options], stderr=subprocess.PIPE
    )
    try:
        with httpx.Client(base_url=address(child), headers=KEY, trust_env=False, timeout=60) as client:
            yield child, client
    finally:
        child.kill()
        child.wait(60)
        assert child.stderr is not None
        child.stderr.close()


def address(child: subprocess.Popen[bytes]) -> str:
    assert child.stderr is not None
    line = child.stderr.readline().decode()
    assert "The local Stripe is at http://127.0.0.1:" in line, line
    return line.split()[5].rstrip(".")


def post(client: httpx.Client, path: str, **data: Any) -> Any:
    return client.post(path, data=data).raise_for_status().json()


def kept(client: httpx.Client, id: str) -> bool:
    return client.get(f"/v1/customers/{id}").status_code == 200


def test_a_killed_process_leaves_a_whole_state(tmp_path: Path) -> None:
    """After kill -9 in the midst of writing, the next process finds all of a former moment, and goes on from it."""
    path = tmp_path / "stripe.state"
    file = str(path)
    with serving("--state", file) as (child, client):
        first = post(client, "/v1/customers", name="first")["id"]
        for id in (first, None):  # once a second writing has begun, the first is done
            id = id or post(client, "/v1/customers")["id"]
            while id.encode() not in path.read_bytes():
                assert child.poll() is None
        made: list[str] = []
        began = path.stat().st_size
        while path.stat().st_size < began + 100_000:
            made.append(post(client, "/v1/customers", name="x" * 250)["id"])
        child.send_signal(signal.SIGKILL)
        child.wait(60)
    with serving("--state", file) as (child, client):
        assert kept(client, first)
        there = [kept(client, id) for id in made]
        assert there == sorted(there, reverse=True)  # what is kept is what was first
        last = post(client, "/v1/customers", name="last")["id"]
        child.send_signal(signal.SIGTERM)
        child.wait(60)
    with serving("--state", file) as (_, client):
        assert kept(client, last)
    with serving("--state", file, "--reset") as (_, client):
        assert not kept(client, last)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--state", "{folder}/foreign"], "is not a state file of the local Stripe"),
        (["--reset"], "name the file"),
        (["--account-limits", "loud"], "mode is one of off, live, test"),
        (["--host", "0.0.0.0"], "loopback only"),
    ],
)
def test_refusals_are_words(tmp_path: Path, options: list[str], says: str) -> None:
    """What cannot be served is said in a line, with exit code 1, and nothing is served or changed."""
    (tmp_path / "foreign").write_text("mine")
    asked = [option.format(folder=tmp_path) for option in options]
    command = [sys.executable, "-m", "farebox", "sandbox", "--port", "0", *asked]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "foreign").read_text() == "mine"


def test_it_starts_alone() -> None:
    """The installed command loads neither the ledger nor the Stripe SDK nor Farebox's routes."""
    done = subprocess.run([sys.executable, "-c", WATCHED], capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout.splitlines()[-1]) == []
    assert "--account-limits" in done.stdout


def test_it_is_a_module_of_its_own() -> None:
    """`python -m farebox.sandbox` is the same command."""
    environment = {**os.environ, "COLUMNS": "200"}
    run = [
        subprocess.run([sys.executable, "-m", *name, "--help"], capture_output=True, text=True, env=environment).stdout
        for name in (["farebox", "sandbox"], ["farebox.sandbox"])
    ]
    assert run[0] == run[1] != ""
