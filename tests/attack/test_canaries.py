"""A07, A31: secrets that are easy to find again go through a whole life at debug level, and then all is searched.

One real server, one local Stripe, the command line; errors of every kind that a secret could ride on.
"""

import base64
import hashlib
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest
from tests.e2e.stack import EXAMPLES, HOST, Stack, stack_in, until
from tests.shop import signed

pytestmark = pytest.mark.timeout(300)
STRIPE_KEY = "sk_test_canaryOfTheStripeKey0123456789"
FAREBOX_SECRET = "canary-of-the-farebox-secret-0123456789-abcdef"
ADMIN_TOKEN = "canary-of-the-operators-token-0123456789-abcdef"
EMAIL = "canary.of.the.buyer@private.example"
EVERYTHING_AT_DEBUG = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"all": {"class": "logging.StreamHandler"}},
    "root": {"level": "DEBUG", "handlers": ["all"]},
}
END = "-- the next command --"
COMMANDS = f"""
import sys
from farebox.cli import main
for command in sys.argv[1:]:
    sys.argv = ["farebox", *command.split()]
    try:
        main()
    except SystemExit:
        pass
    sys.stderr.flush()
    print({END!r}, flush=True)
"""
ATTEMPTS = "farebox_meter_event_attempts_total"


@dataclass
class Life:
    """`seen` is where secrets must not be, by name; `shown` where they are meant to be, so that the search can fail."""

    stack: Stack
    seen: dict[str, bytes] = field(default_factory=dict)
    shown: dict[str, bytes] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)

    @property
    def secrets(self) -> dict[str, str]:
        webhook = self.stack.environment["STRIPE_WEBHOOK_SECRET"]
        named = {"Stripe key": STRIPE_KEY, "webhook secret": webhook, "secret": FAREBOX_SECRET, "token": ADMIN_TOKEN}
        return named | {f"API key {n}": key for n, key in enumerate(self.keys)}

    def ask(self, method: str, path: str, *, status: int, shown: bool = False, **more: object) -> bytes:
        answer = self.stack.client.request(method, self.stack.base + path, **more)  # type: ignore[arg-type]
        name = f"{len(self.seen) + len(self.shown)} {method} {path} → {answer.status_code}"
        assert answer.status_code == status, (name, answer.text)
        (self.shown if shown else self.seen)[name] = str(answer.headers).encode() + answer.content
        return answer.content

    def run(self, *commands: str, shown: bool = False) -> list[str]:
        """Commands, one after another in one process. Returns what each has printed, on stdout and stderr."""
        done = subprocess.run(
            [sys.executable, "-c", COMMANDS, *commands],
            cwd=self.stack.folder,
            env={**os.environ, **self.stack.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=True,
        )
        said = done.stdout.split(END)[:-1]
        assert len(said) == len(commands), done.stdout
        for command, what in zip(commands, said, strict=True):
            (self.shown if shown else self.seen)[f"farebox {command}"] = what.encode()
        return said


def forms(secret: str) -> list[bytes]:
    """A secret as it is, as in a URL, in hexadecimal and in base64, whatever stands before it."""
    raw = secret.encode()
    coded = [base64.b64encode(b"_" * n + raw)[4:-4] for n in range(3)]
    return [raw, quote(secret).encode(), raw.hex().encode(), raw[8:].hex().upper().encode(), *coded]


def found(secret: str, places: dict[str, bytes]) -> list[str]:
    return [name for name, what in places.items() if any(form in what for form in forms(secret))]


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    folder = tmp_path_factory.mktemp("canaries")
    (folder / "logging.json").write_text(json.dumps(EVERYTHING_AT_DEBUG))
    with stack_in(folder) as stack:
        stack.environment |= {
            "STRIPE_SECRET_KEY": STRIPE_KEY,
            "FAREBOX_SECRET": FAREBOX_SECRET,
            "FAREBOX_ADMIN_TOKEN": ADMIN_TOKEN,
        }
        stack.publish()
        life = Life(stack)
        _serve(stack)
        _buy(life)
        _live(life)
        _be_refused(life)
        _lose_stripe(life)
        _lose_the_store(life)
        _command(life)
        for path in folder.glob("farebox.db*"):  # while it runs: the journal too
            life.seen[path.name] = path.read_bytes()
        assert {"farebox.db", "farebox.db-wal"} <= life.seen.keys()
        stack.stop_api()
        life.seen["log"] = stack.log.encode()
        yield life


def _serve(stack: Stack) -> None:
    uvicorn = ["-m", "uvicorn", "fire_api.app:app", "--app-dir", str(EXAMPLES), "--log-level", "debug"]
    uvicorn += ["--log-config", "logging.json", "--host", HOST, "--port", str(stack.api_port)]
    stack.api = stack.spawn(*uvicorn, log="api.log", environment=stack.environment)
    until(lambda: stack.client.get(stack.base + "/billing/readyz").is_success, f"the API starts: {stack.log[-800:]}")


def _buy(life: Life) -> None:
    """Two purchases: one taken as a page, one as JSON. Each shows its key, once."""
    for accept in ("text/html", "application/json"):
        asked = {"plan": "payg", "email": EMAIL, "reference": "their own"}
        session = json.loads(life.ask("POST", "/billing/checkout", json=asked, status=201))
        life.ask("GET", f"/billing/claim?session_id={session['id']}", status=402)
        life.stack.pay(session)
        life.ask("GET", f"/billing/claim?session_id={session['id']}", status=200, headers={"Accept": accept})
        taken = life.ask(
            "POST",
            "/billing/claim",
            data={"session_id": session["id"]},
            headers={"Accept": accept},
            status=201,
            shown=True,
        )
        start = taken.index(b"fb_test_")
        life.keys.append(taken[start : start + 51].decode())


def _live(life: Life) -> None:
    key = {"X-API-Key": life.keys[0]}
    for path in ("/api", "/report", "/burn/3"):
        life.ask("GET", path, headers={"Authorization": f"Bearer {life.keys[1]}"}, status=200)
    for path in ("usage", "keys", "invoices/upcoming"):
        life.ask("GET", f"/billing/{path}", headers=key, status=200)
    life.ask("POST", "/billing/portal", headers=key, status=200)
    for path in ("keys", "keys/{}/rotate"):
        ids = [one["id"] for one in json.loads(life.ask("GET", "/billing/keys", headers=key, status=200))["keys"]]
        made = life.ask("POST", f"/billing/{path.format(ids[-1])}", headers=key, status=201, shown=True)
        life.keys.append(json.loads(made)["key"])
    life.ask("DELETE", f"/billing/keys/{json.loads(made)['id']}", headers=key, status=204)
    for path in ("", "openapi.json", "healthz", "readyz", "static/farebox.css"):
        life.ask("GET", f"/billing/{path}", status=200)
    for path in ("/", "/docs", "/openapi.json", "/health"):
        life.ask("GET", path, status=200)
    operator = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    until(
        lambda: (
            f'{ATTEMPTS}{{outcome="delivered"}} 0'.encode()
            not in life.ask("GET", "/billing/metrics", headers=operator, status=200)
        ),
        "usage is reported",
    )


def _be_refused(life: Life) -> None:
    """What buyers and strangers get wrong, with secrets in their hands."""
    one, other = life.keys[:2]
    for headers, status in (
        ({}, 401),
        ({"X-API-Key": one, "Authorization": f"Bearer {other}"}, 401),
        ({"X-API-Key": one[:-1] + "x"}, 401),
        ({"Authorization": f"Bearer {ADMIN_TOKEN}"}, 401),
        ({"Authorization": f"Basic {one}"}, 401),
        ({"X-API-Key": life.keys[-1]}, 401),
    ):
        life.ask("GET", "/api", headers=headers, status=status)
        life.ask("GET", "/billing/metrics", headers=headers, status=200 if ADMIN_TOKEN in str(headers) else 403)
    at = life.stack.client.get(life.stack.stripe + "/_sandbox/clock").json()["now_at"]
    webhook = life.stack.environment["STRIPE_WEBHOOK_SECRET"]
    body = json.dumps({"id": "evt_1", "data": {"object": {"customer": {"email": EMAIL}}}}).encode()
    for sent, header in (
        (body, None),
        (body, f"t={at},v1={'0' * 64}"),
        (body, signed(body, at, webhook)),
        (b"{", signed(b"{", at, webhook)),
    ):
        headers = {"Stripe-Signature": header} if header is not None else {}
        life.ask("POST", "/billing/webhook", content=sent, headers=headers, status=400)
    for wrong in (b"{", b"[]", json.dumps({"plan": "payg", "email": f"{EMAIL}@"}).encode(), b'{"session_id": 5}'):
        for path in ("checkout", "claim"):
            life.ask("POST", f"/billing/{path}", content=wrong, status=422)
    known = {"plan": "payg", "email": EMAIL, "unknown": FAREBOX_SECRET}
    life.ask("POST", "/billing/checkout", json=known, status=422)
    life.ask("POST", "/billing/checkout", json={"plan": "payg"}, headers={"X-API-Key": one}, status=409)
    life.ask("POST", "/billing/keys", json={"name": one * 3}, headers={"X-API-Key": one}, status=422)


def _lose_stripe(life: Life) -> None:
    """Stripe refuses, breaks, throttles, hangs up and is gone, for buyers, the reporter and the command line."""
    stack, key = life.stack, {"X-API-Key": life.keys[0]}
    asked = {"plan": "payg", "email": EMAIL}
    for status in (400, 401, 403, 429, 500, None):
        stack.fault(path="/v1/*", status=status, reset="before" if status is None else None, count=None)
        refused = 503 if status in (429, 500, None) else 502
        life.ask("GET", "/api", headers=key, status=200)  # which will be reported
        life.ask("POST", "/billing/checkout", json=asked, status=refused)
        life.ask("POST", "/billing/portal", headers={**key, "Accept": "text/html"}, status=refused)
        if status == 401:
            life.run("doctor")
        stack.heal()
    stack.relay.close()
    life.ask("POST", "/billing/checkout", json=asked, status=503)
    life.run("doctor --json")
    stack.relay.open()


def _lose_the_store(life: Life) -> None:
    """Somebody holds the ledger's lock for longer than anyone waits."""
    key = {"X-API-Key": life.keys[0]}
    with closing(sqlite3.connect(life.stack.folder / "farebox.db", isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(1) as beside:
            call = beside.submit(life.ask, "GET", "/api", headers=key, status=503)
            for _ in range(2):  # by the end of the second, the call's commit has given up
                life.ask("POST", "/billing/keys", headers=key, status=503)
            holder.execute("ROLLBACK")
            call.result(60)
    until(
        lambda: life.stack.client.get(life.stack.base + "/api", headers=key).status_code == 200,
        "calls are let in again",
    )


def _command(life: Life) -> None:
    """Every command that knows a secret, in words and as JSON."""
    accounts, _ = life.run("customers --json", "customers", shown=True)
    account = json.loads(accounts)[0]["account"]
    life.run("doctor", f"usage {account}", "usage --events --json", f"keys list {account}", "push --json")
    life.run(f"usage {EMAIL}")


def test_the_search_finds_what_is_there(life: Life) -> None:
    """A07: the search below can fail: keys are found where each is shown once, the e-mail where the operator looks."""
    assert len(life.keys) == 4
    for key in life.keys:
        assert len(found(key, life.shown)) == 1
    assert found(EMAIL, life.shown) == ["farebox customers --json", "farebox customers"]
    assert found(EMAIL, life.seen)
    for n in range(3):
        hidden = base64.b64encode(b"x" * n + ADMIN_TOKEN.encode() + b"y" * 3)
        assert found(ADMIN_TOKEN, {"": hidden}), n


def test_no_secret_is_told(life: Life) -> None:
    """A07, I11: no secret, in clear or encoded, is in a log at debug level, an answer, a page, a figure, what a command
    prints, or the ledger's files with their journal."""
    assert {name: found(secret, life.seen) for name, secret in life.secrets.items() if found(secret, life.seen)} == {}
    assert [name for name in life.seen if name == "log" or "farebox.db" in name] != []


def test_no_email_is_told(life: Life) -> None:
    """A07, I11: a buyer's e-mail is in the ledger, and in no log, answer, figure or message of a command."""
    told = found(EMAIL, life.seen)
    assert [name for name in told if not name.startswith("farebox.db") and name != f"farebox usage {EMAIL}"] == []


def test_the_log_did_speak(life: Life) -> None:
    """A07: what was searched was worth it: the log is at debug level and tells of each kind of trouble."""
    log = life.seen["log"].decode()
    for word in ("httpcore", "farebox", "commit_failed", "stripe_refused"):
        assert word in log, word


def test_files_are_the_owners(life: Life) -> None:
    """A31: nobody but their owner can read the ledger's files."""
    files = list(life.stack.folder.glob("farebox.db*"))
    assert files
    assert {stat.filemode(path.stat().st_mode) for path in files} == {"-rw-------"}


def test_a_stolen_ledger(life: Life, tmp_path: Path) -> None:
    """A31: with the ledger's files and no pepper one has no key, cannot tell a guessed one, and cannot serve them."""
    for path in life.stack.folder.glob("farebox.db*"):
        shutil.copy(path, tmp_path)
    with closing(sqlite3.connect(tmp_path / "farebox.db")) as stolen:
        digests = [row[0] for row in stolen.execute("SELECT digest FROM api_keys")]
    assert len(digests) == len(life.keys)
    plain = {
        getattr(hashlib, name)(key.encode()).hexdigest() for key in life.keys for name in ("md5", "sha1", "sha256")
    }
    assert not plain & set(digests)
    theirs = dict(life.stack.environment) | {"FAREBOX_SECRET": "a secret of the thief's own that is long enough"}
    theirs["FAREBOX_DATABASE_URL"] = f"sqlite:///{tmp_path / 'farebox.db'}"
    done = subprocess.run(
        [sys.executable, "-m", "farebox", "serve", "--port", "1"],
        cwd=life.stack.folder,
        env=theirs,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "3 live keys were made with a secret that is no longer in FAREBOX_SECRET" in done.stdout + done.stderr
    life.stack.start_api()
    try:
        for digest in digests:
            for text in (digest, f"fb_test_{digest[:43]}", f"fb_test_{digest[-43:]}"):
                answer = life.stack.client.get(life.stack.base + "/api", headers={"X-API-Key": text})
                assert answer.status_code == 401
    finally:
        life.stack.stop_api()
