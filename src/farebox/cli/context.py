"""What the commands share: their usual options, and the ledger opened for one command and closed after it."""

import getpass
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from farebox.app import open_store, system_clock
from farebox.config import Settings, load_settings
from farebox.domain.audit import ACTOR_CHARACTERS_MAX, AuditEntry
from farebox.errors import NotFound
from farebox.ports import Clock, Entropy
from farebox.store.sql import SqlStore
from farebox.system import SystemEntropy
from farebox.terminal import ERR

__all__ = [
    "AccountArgument",
    "ActorOption",
    "ConfigOption",
    "JsonOption",
    "audited",
    "ledger",
    "require_account",
    "say_if_cut",
]

ConfigOption = Annotated[Path | None, typer.Option("--config", help="farebox.toml; else FAREBOX_CONFIG.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ActorOption = Annotated[str, typer.Option(help="Who does it, for the audit log; else user@host.")]
AccountArgument = Annotated[str, typer.Argument(help="An account's id, acct_…")]


@contextmanager
def ledger(config: Path | None, *, migrate: bool = False) -> Iterator[tuple[Settings, SqlStore, Clock, Entropy]]:
    """Settings, the opened ledger (brought up to date with `migrate`), clock and entropy. ConfigError, StoreError."""
    settings = load_settings(path=config)
    clock, entropy = system_clock(settings), SystemEntropy()
    store = open_store(settings, clock, entropy)
    store.open(migrate=migrate)
    try:
        if (at_ms := store.changes("", 0).at_ms) is not None:
            clock.follow_store(at_ms, clock.monotonic_ms())
        yield settings, store, clock, entropy
    finally:
        store.close()


def audited(clock: Clock, entropy: Entropy, action: str, subject: str, actor: str = "") -> AuditEntry:
    """An entry of the audit log for what this command is about to do."""
    try:
        who = actor.strip() or f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError):  # a user without a name, as in some containers
        who = f"somebody@{socket.gethostname()}"
    return AuditEntry(entropy.token(), clock.now_at(), who[:ACTOR_CHARACTERS_MAX], action, subject)


def require_account(store: SqlStore, account: str) -> None:
    if store.account(account) is None:
        raise NotFound(f"There is no account {account!r}. `farebox customers` lists them.")


def say_if_cut(rows: Sequence[object], limit: int) -> None:
    if len(rows) == limit:
        ERR.print(f"Only the first {limit} are shown.", style="dim")
