"""`farebox demo`: the fire API with Farebox, and a local Stripe, as two real processes on loopback, from nothing."""

import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import httpx
import stamina
from rich.console import Console

from farebox.app import open_provider
from farebox.billing.catalog import apply_push, plan_push, push_error_destination, push_portal, push_webhook
from farebox.config import child_environment, load_settings
from farebox.errors import ConfigError, FareboxError, StoreBusy
from farebox.smoke import run_smoke
from farebox.store.lock import FolderLock
from farebox.system import SystemEntropy

__all__ = ["CHILD_POLL_SECONDS", "START_SECONDS_MAX", "STOP_SECONDS_MAX", "run_demo"]

START_SECONDS_MAX: Final = 30
STOP_SECONDS_MAX: Final = 15
CHILD_POLL_SECONDS: Final = 2
_HOST: Final = "127.0.0.1"
_Children = dict[str, subprocess.Popen[bytes]]
_say = Console(stderr=True, highlight=False)


def run_demo(folder: Path, *, port: int, sandbox_port: int, smoke: bool) -> None:
    """Start both, sell from a fresh ledger, and stop both at Ctrl-C or after the smoke journey.

    FareboxError in words.
    """
    example = _example()
    stamina.instrumentation.set_on_retry_hooks([])  # waiting for something to come up is no news
    with ExitStack() as stack:
        stack.enter_context(_signals_as_interrupt())
        stack.enter_context(_own_folder(folder))
        for number in (port, sandbox_port):
            _refuse_busy(number)
        try:
            children = _start(stack, folder, example, port, sandbox_port)
            base, stripe = f"http://{_HOST}:{port}", f"http://{_HOST}:{sandbox_port}"
            if smoke:
                run_smoke(base, stripe, (folder / "stripe-key").read_text(), _say)
            else:
                _say.print(_welcome(base, stripe), soft_wrap=True)
                _wait_for_interrupt(children)
        except KeyboardInterrupt:
            _say.print("\nStopping: what was used is reported first.")


def _start(stack: ExitStack, folder: Path, example: Path, port: int, sandbox_port: int) -> _Children:
    entropy = SystemEntropy()
    environment = {
        "STRIPE_SECRET_KEY": f"sk_test_{entropy.token()}",
        "STRIPE_API_BASE": f"http://{_HOST}:{sandbox_port}",
        "FAREBOX_PUBLIC_URL": f"http://{_HOST}:{port}",
        "FAREBOX_SECRET": entropy.token() + entropy.token(),
        "FAREBOX_ADMIN_TOKEN": entropy.token() + entropy.token(),
        "FAREBOX_CONFIG": str(example / "farebox.toml"),
        "FAREBOX_DATABASE_URL": f"sqlite:///{(folder / 'ledger.db').resolve()}",
    }
    with _step("Starting the local Stripe"):
        command = [sys.executable, "-m", "farebox", "sandbox", "--port", str(sandbox_port)]
        stripe = stack.enter_context(_process(command, folder / "stripe.log", child_environment({})))
        _await_answer(stripe, f"http://{_HOST}:{sandbox_port}/_sandbox/clock", folder / "stripe.log")
    with _step("Publishing the catalog and the webhook endpoint"):
        settings = load_settings(environ=environment)
        provider = open_provider(settings)
        apply_push(plan_push(settings.catalog, provider), lambda change: None)
        push_portal(provider)
        made = [see_to(provider, settings.webhook_url)[1] for see_to in (push_webhook, push_error_destination)]
        environment["STRIPE_WEBHOOK_SECRET"] = ",".join(str(endpoint.secret) for endpoint in made)
    _write_secrets(folder, environment)
    with _step("Starting the fire API with Farebox"):
        command = [sys.executable, "-m", "uvicorn", "fire_api.app:app", "--host", _HOST, "--port", str(port)]
        command += ["--app-dir", str(example.parent), "--log-level", "warning", "--timeout-graceful-shutdown", "5"]
        api = stack.enter_context(_process(command, folder / "fire-api.log", child_environment(environment)))
        _await_answer(api, f"http://{_HOST}:{port}/health", folder / "fire-api.log")
    return {"The local Stripe": stripe, "The fire API": api}


def _example() -> Path:
    """The fire API, inside an installed package or beside the sources."""
    here = Path(__file__).resolve().parent
    for folder in (here / "_demo" / "fire_api", here.parent.parent / "examples" / "fire_api"):
        if (folder / "app.py").is_file():
            return folder
    raise ConfigError("The demo's fire API is missing from this installation. Install Farebox again.")


@contextmanager
def _own_folder(folder: Path) -> Iterator[None]:
    """A fresh folder that no other demo uses. What an earlier demo left in it is removed."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"The demo cannot write to {folder.resolve()}: {error.strerror}. Use --folder.") from error
    lock = FolderLock(folder / "demo.lock")
    try:
        lock.take()
    except StoreBusy:
        raise StoreBusy(f"The demo already runs in {folder.resolve()}. Stop it with Ctrl-C, or use --folder.") from None
    try:
        for old in folder.iterdir():
            if old.name.startswith(("ledger.db", "stripe", "fire-api", "environment")):
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        yield
    finally:
        lock.release()


def _refuse_busy(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            raise ConfigError(
                f"Port {port} is in use. Stop what listens there, or choose others with --port and --sandbox-port."
            ) from None
        except OverflowError:
            raise ConfigError(f"{port} is not a port: they go from 1 to 65535.") from None


@contextmanager
def _process(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A child in a group of its own, so that Ctrl-C reaches it only through us, in order."""
    with log.open("wb") as output:
        child = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    try:
        yield child
    finally:
        child.send_signal(signal.SIGINT)
        try:
            child.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


class _NotYet(Exception):
    """Asked again until the time is up."""


def _await_answer(child: subprocess.Popen[bytes], url: str, log: Path) -> None:
    try:
        for attempt in stamina.retry_context(
            on=_NotYet, attempts=None, timeout=START_SECONDS_MAX, wait_initial=0.05, wait_max=0.25, wait_jitter=0.05
        ):
            with attempt:
                if child.poll() is not None:
                    raise ConfigError(f"It ended while starting. Its last words, from {log}:\n{_tail(log)}")
                try:
                    httpx.get(url, timeout=1, trust_env=False).raise_for_status()
                except httpx.HTTPError as error:
                    raise _NotYet from error
    except _NotYet:
        raise ConfigError(f"{url} did not answer within {START_SECONDS_MAX} seconds. See {log}.") from None


def _tail(log: Path) -> str:
    return "\n".join(log.read_text("utf-8", "replace").splitlines()[-8:])


def _write_secrets(folder: Path, environment: dict[str, str]) -> None:
    """For the other commands: `set -a; . .farebox-demo/environment` and `farebox doctor` speaks of the demo."""
    path = folder / "environment"
    path.touch(mode=0o600)
    path.write_text("".join(f"{name}='{value}'\n" for name, value in environment.items()))
    key = folder / "stripe-key"
    key.touch(mode=0o600)
    key.write_text(environment["STRIPE_SECRET_KEY"])


@contextmanager
def _step(text: str) -> Iterator[None]:
    _say.print(f"[dim]·[/] {text} …", end="")
    try:
        yield
    except (FareboxError, KeyboardInterrupt):
        _say.print(" [red]failed[/]")
        raise
    _say.print(" [green]done[/]")


def _welcome(base: str, stripe: str) -> str:
    """What to open and what to paste. Printed without wrapping: a line that a terminal folds can still be copied."""
    return f"""
[bold green]The fire API is open: one dollar a call.[/]

[bold]Subscribe[/]     {base}/billing/   [dim]pay with 4242 4242 4242 4242[/]
[bold]API pages[/]     {base}/docs
[bold]Local Stripe[/]  {stripe}/   [dim]time, invoices, webhooks, requests[/]

With the key that you claim:
  [cyan]export KEY=fb_test_…[/]
  [cyan]curl -H "Authorization: Bearer $KEY" {base}/api[/]
  [cyan]curl -H "Authorization: Bearer $KEY" {base}/billing/usage[/]
  [cyan]curl -H "Authorization: Bearer $KEY" {base}/billing/invoices/upcoming[/]

A month later:
  [cyan]curl -X POST {stripe}/_sandbox/clock -d '{{"advance": "1 month"}}'[/]

[dim]Ctrl-C stops everything.[/]"""


def _wait_for_interrupt(children: _Children) -> None:
    """Until Ctrl-C, or until a child ends by itself, which is said."""
    while True:
        for name, child in children.items():
            try:
                code = child.wait(CHILD_POLL_SECONDS / len(children))
            except subprocess.TimeoutExpired:
                continue
            raise ConfigError(f"{name} ended by itself with code {code}. See its log in the demo's folder.")


@contextmanager
def _signals_as_interrupt() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does, and Ctrl-C also where a shell's background job would ignore it."""

    def interrupt(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
