"""`make bench PART=ledger`: how a SQLite ledger grows in a day of a million calls, and how fast a server starts on one
that has a million units to report.

Growth counts the pages of the file after a checkpoint, over the same ledger before the day: usage sealed as often as by
default and delivered, 100 active keys, one operation, one writer; once with all keys of one account, once with an
account for each.
The start is timed from the command to the first 200 of /readyz, beside the start on an empty ledger.
"""

import json
import os
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from bench.servers import HOST, wait_for
from farebox.domain.accounts import Account
from farebox.domain.catalog import Catalog, Meter
from farebox.domain.reports import ReportState, seal
from farebox.domain.usage import BUCKET_SECONDS, Batch, Increment
from farebox.metering.sealer import Sealer
from farebox.store import tables as t
from farebox.store.sql import SqlStore
from farebox.system import SystemEntropy

PORT, STRIPE_PORT = 8905, 8906
START_AT = 1_800_000_000
KEYS = 100
CALLS = 1_000_000
DAY_MINUTES = 24 * 60
SEAL_MINUTES = 5  # as often as by default
UNREPORTED_ROWS = 100_000
UNITS_A_ROW = 10
STARTS = 5


class StandingClock:
    """A clock that the bench moves."""

    def __init__(self) -> None:
        self.at = START_AT

    def now_at(self) -> int:
        return self.at

    system_at = now_at

    def monotonic_ms(self) -> int:
        return self.at * 1000


def run(config: str) -> None:
    """Measure both, and print the figures; `config` is the seller's farebox.toml."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures: dict[str, Any] = {
            "growth_bytes_per_million_calls": growth(folder / "one.db", accounts=1),
            "growth_bytes_per_million_calls_account_a_key": growth(folder / "many.db", accounts=KEYS),
            **starts(folder, config),
        }
    for label, value in figures.items():
        print(f"{label:46}{value:>14,}", file=sys.stderr)
    print(json.dumps(figures))


def growth(path: Path, *, accounts: int) -> int:
    """Bytes by which the file grew in a day of a million calls of 100 keys of so many accounts."""
    clock, entropy = StandingClock(), SystemEntropy()
    store = SqlStore(f"sqlite:///{path}", clock, entropy)
    store.open()
    owners = [f"acct_{entropy.token()}" for _ in range(accounts)]
    for owner in owners:
        store.add_account(Account(owner, START_AT, customer_id=f"cus_{entropy.token()[:14]}"))
    keys = [(f"key_{entropy.token()}", owners[n % accounts]) for n in range(KEYS)]
    sealer = Sealer(store, clock, Catalog(meters={"calls": Meter("calls", "Calls", "calls")}, plans={}, routes=()))
    before, writer, done = size(path), entropy.token(), 0
    for minute in range(1, DAY_MINUTES + 1):
        due = CALLS * minute // DAY_MINUTES - done
        done += due
        start = clock.at - clock.at % BUCKET_SECONDS
        increments = tuple(
            Increment(owner, "calls", key, "GET /api", start, share, share, clock.at)
            for n, (key, owner) in enumerate(keys)
            if (share := due // KEYS + (n < due % KEYS))
        )
        store.commit_batch(Batch(writer, minute, entropy.token(), increments))
        if minute % SEAL_MINUTES == 0:
            sealer.step()
            deliver(store, clock)
        clock.at += 60
    sealer.step(hard=True)
    deliver(store, clock)
    summary = store.report_summary()
    if summary.quantities[ReportState.DELIVERED] != CALLS or summary.unsealed_quantity:
        raise SystemExit(f"the day does not add up: {summary}")
    store.close()
    return size(path) - before


def deliver(store: SqlStore, clock: StandingClock) -> None:
    """All at once, as an attempt that succeeded leaves them."""
    m = t.meter_events.c
    delivered = {"state": ReportState.DELIVERED, "attempts": 1, "settled_at": clock.at}
    with store.database.write() as connection:
        connection.execute(sa.update(t.meter_events).where(m.state == ReportState.PENDING).values(delivered))


def size(path: Path) -> int:
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return int(raw.execute("PRAGMA page_count").fetchone()[0] * raw.execute("PRAGMA page_size").fetchone()[0])


def starts(folder: Path, config: str) -> dict[str, Any]:
    """Seconds to the first answer on an empty ledger and on a full one, by turns: medians."""
    (folder / "farebox.toml").write_text(config)
    empty, full = folder / "empty.db", folder / "full.db"
    fill(empty, 0)
    fill(full, UNREPORTED_ROWS)
    stripe = child(["-m", "farebox", "sandbox", "--port", str(STRIPE_PORT)], {})
    try:
        wait_for(f"http://{HOST}:{STRIPE_PORT}/_sandbox/clock", 30)
        times: dict[Path, list[float]] = {empty: [], full: []}
        for _ in range(STARTS):
            for source in (empty, full):
                times[source].append(start_seconds(folder, source))
    finally:
        stop(stripe)
    return {
        "start_seconds_empty": round(statistics.median(times[empty]), 2),
        "start_seconds_million_unreported": round(statistics.median(times[full]), 2),
        "start_seconds_million_unreported_max": round(max(times[full]), 2),
    }


def fill(path: Path, rows: int) -> None:
    """Half of the units are sealed and wait to be sent, half are not sealed yet."""
    clock, entropy = StandingClock(), SystemEntropy()
    clock.at = int(time.time())
    store = SqlStore(f"sqlite:///{path}", clock, entropy)
    store.open()
    start = clock.at - clock.at % BUCKET_SECONDS - BUCKET_SECONDS
    owners = [f"acct_{entropy.token()}" for _ in range(max(rows // 10, 1))]
    with store.database.write() as connection:
        connection.execute(
            sa.insert(t.accounts),
            [
                {"id": o, "created_at": start, "email": "", "reference": "", "customer_id": "cus_" + o[5:19]}
                for o in owners
            ],
        )
        for half in range(2 if rows else 0):
            connection.execute(sa.insert(t.usage), [usage_row(owners, n, half, start) for n in range(rows // 2)])
    if rows:
        seal_half(store, clock, start)
    store.close()


def usage_row(owners: list[str], n: int, half: int, start: int) -> dict[str, Any]:
    owner = owners[n % len(owners)]
    return {
        "account_id": owner,
        "meter": "calls",
        "key_id": f"key_{n:024}",
        "operation": "GET /api",
        "bucket_start": start - half * BUCKET_SECONDS,
        "writer": "bench",
        "quantity": UNITS_A_ROW,
        "calls": UNITS_A_ROW,
        "last_used_at": start - half * BUCKET_SECONDS + n % BUCKET_SECONDS,
        "dirty": True,
    }


def seal_half(store: SqlStore, clock: StandingClock, before: int) -> None:
    ledger = store.ledger().id
    store.seal(lambda unsealed: seal(ledger, unsealed, "calls", clock.at), now=clock.at, before=before, hard=True)


def start_seconds(folder: Path, source: Path) -> float:
    path = folder / "started.db"
    for old in folder.glob("started.db*"):
        old.unlink()
    shutil.copy(source, path)
    environment = {
        "STRIPE_SECRET_KEY": "sk_test_bench0123456789",
        "STRIPE_WEBHOOK_SECRET": "whsec_bench0123456789abcdef",
        "STRIPE_API_BASE": f"http://{HOST}:{STRIPE_PORT}",
        "FAREBOX_PUBLIC_URL": f"http://{HOST}:{PORT}",
        "FAREBOX_SECRET": "bench-" * 8,
        "FAREBOX_DATABASE_URL": f"sqlite:///{path}",
        "FAREBOX_CONFIG": str(folder / "farebox.toml"),
    }
    began = time.perf_counter()
    arguments = ["-m", "uvicorn", "--host", HOST, "--port", str(PORT), "--log-level", "critical", "--no-access-log"]
    server = child([*arguments, "--factory", "bench.apps:paid_fastapi"], environment)
    try:
        wait_for(f"http://{HOST}:{PORT}/billing/readyz", 60)
        return time.perf_counter() - began
    finally:
        server.kill()
        server.wait(30)


def child(arguments: list[str], environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, *arguments], env={**os.environ, **environment}, stderr=subprocess.DEVNULL)


def stop(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGINT)
    process.wait(30)
