"""`make bench PART=layers`: where the time of a paid call goes, piece by piece, in one process without a server.

Each piece is repeated many times, and the smallest of a few repeats counts. They are hot: in a server, between
the pieces of a framework, each costs about twice as much. The commit is measured with ordinary work before it as well,
and beside a bare write and sync into a file that was made long enough before: the least that any ledger would cost.
"""

import argparse
import asyncio
import gc
import json
import os
import sys
import tempfile
import time
import timeit
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import uvloop

from bench.apps import bare_asgi
from bench.servers import cores
from bench.shop import CONFIG
from farebox.app import Adapters, Runtime, open_provider
from farebox.config import load_settings
from farebox.domain.accounts import Account
from farebox.domain.keys import ApiKey, digest, is_well_formed, mint
from farebox.domain.usage import Batch, Increment
from farebox.logs import log_through_logging
from farebox.store import tables as t
from farebox.store.sql import SqlStore
from farebox.system import SystemClock, SystemEntropy
from farebox.web.calls import Call, credential_of
from farebox.web.middleware import PaidCalls

__all__ = ["measure", "run"]

CALLS_TOGETHER = 32
CALLS = 30_000
COMMITS = 1_000
JOURNAL_BYTES = 1 << 24
BUSY_SECONDS = 0.001


def run(arguments: argparse.Namespace) -> None:
    """Measure, print a table, and end with the figures as one JSON object."""
    figures = measure(arguments)
    for name, value in figures.items():
        print(f"{name:44}{value:>10}", file=sys.stderr)
    print(json.dumps(figures))


def measure(_arguments: argparse.Namespace) -> dict[str, float]:
    """Nanoseconds of the pieces of a call, microseconds of whole calls and of commits."""
    before = os.sched_getaffinity(0) if cores()[0] else set()
    if before:
        os.sched_setaffinity(0, cores()[0])
    try:
        with tempfile.TemporaryDirectory() as folder:
            return uvloop.run(_calls(Path(folder))) | _commits(Path(folder))
    finally:
        if before:
            os.sched_setaffinity(0, before)


async def _calls(folder: Path) -> dict[str, float]:
    runtime, key = _shop(folder)
    await runtime.start()
    gc.collect()
    gc.freeze()
    runtime.gate.poll()
    feed = asyncio.create_task(_keep_fresh(runtime))
    headers = [(b"host", b"127.0.0.1:8000"), (b"x-api-key", key.encode())]
    scope = {"type": "http", "method": "GET", "path": "/api", "root_path": "", "query_string": b"", "headers": headers}
    bare = bare_asgi()
    paid = PaidCalls(bare, runtime)

    async def call(app: Any) -> None:
        await app({**scope, "state": {}}, _nothing, _ignore)

    async def some(app: Any) -> float:
        began = time.thread_time()
        await asyncio.gather(*(_one_after_another(call, app) for _ in range(CALLS_TOGETHER)))
        return (time.thread_time() - began) / CALLS * 1e6

    await some(paid)
    bare_us, paid_us = min([await some(bare) for _ in range(3)]), min([await some(paid) for _ in range(3)])
    pieces = _pieces(runtime, scope, key)
    pieces["future_and_turn_ns"] = round(await _turn_ns())
    feed.cancel()
    await runtime.stop()
    return {
        **pieces,
        "bare_call_us": round(bare_us, 1),
        "paid_call_us": round(paid_us, 1),
        "added_on_the_event_loop_us": round(paid_us - bare_us, 1),
    }


def _pieces(runtime: Runtime, scope: dict[str, Any], key: str) -> dict[str, float]:
    gate, table, pepper = runtime.gate, runtime.edge.table, runtime.settings.peppers[0]
    admitted = gate.admit(key)
    if admitted is None:
        raise SystemExit("The key is not in memory.")
    key_id, grant = admitted
    call = Call(grant, key_id, "GET /api", runtime.edge.meters)
    call.charges["calls"] = 1
    clock = runtime.adapters.clock
    pieces: dict[str, Callable[[], Any]] = {
        "route_ns": lambda: table.price("GET", "/api"),
        "credential_ns": lambda: credential_of(scope, runtime.settings.credentials),
        "admission_ns": lambda: gate.admissions.enter().leave(),
        "gate_ns": lambda: gate.admit(key),
        "time_ns": clock.now_at,
        "usage_ns": lambda: call.usage(1_800_000_000),
        "instead_of_the_gate_form_and_digest_ns": lambda: (is_well_formed(key), digest(key, pepper)),
    }
    return {name: round(_least_ns(piece)) for name, piece in pieces.items()}


def _commits(folder: Path) -> dict[str, float]:
    store = SqlStore(f"sqlite:///{folder}/commits.db", SystemClock(), SystemEntropy())
    store.open()
    numbers = iter(range(1, 1 << 62))

    def commit() -> None:
        row = Increment("acct", "calls", "key", "GET /api", 1_800_000_000, 32, 32, 1_800_000_001)
        store.commit_batch(Batch("writer", next(numbers), "nonce", (row,)))

    descriptor = os.open(folder / "journal", os.O_CREAT | os.O_WRONLY)
    os.write(descriptor, bytes(JOURNAL_BYTES))
    os.fsync(descriptor)
    os.lseek(descriptor, 0, os.SEEK_SET)

    def journal() -> None:
        os.write(descriptor, bytes(200))
        os.fdatasync(descriptor)

    commit()
    figures: dict[str, float] = {}
    for name, work in (("commit", commit), ("write_and_sync", journal)):
        for how, meanwhile in (("", lambda: None), ("_after_other_work", _be_busy)):
            wall, cpu = _spent(work, meanwhile)
            figures |= {f"{name}{how}_us": round(wall), f"{name}{how}_cpu_us": round(cpu)}
    os.close(descriptor)
    store.close()
    return figures


def _spent(work: Callable[[], None], meanwhile: Callable[[], None]) -> tuple[float, float]:
    """Microseconds by the clock and of the processor."""
    wall = cpu = 0.0
    for _ in range(COMMITS):
        meanwhile()
        began, worked = time.perf_counter(), time.thread_time()
        work()
        wall, cpu = wall + time.perf_counter() - began, cpu + time.thread_time() - worked
    return wall / COMMITS * 1e6, cpu / COMMITS * 1e6


def _be_busy() -> None:
    until, seen = time.perf_counter() + BUSY_SECONDS, {}
    while time.perf_counter() < until:
        seen.update({n: str(n) for n in range(50)})


def _least_ns(piece: Callable[[], Any]) -> float:
    repeats = 20_000
    return min(timeit.repeat(piece, number=repeats, repeat=5)) / repeats * 1e9


async def _turn_ns() -> float:
    """To make a future, wait for it, and be woken by its result."""
    loop, repeats = asyncio.get_running_loop(), 20_000
    began = time.perf_counter()
    for _ in range(repeats):
        future = loop.create_future()
        loop.call_soon(future.set_result, None)
        await future
    return (time.perf_counter() - began) / repeats * 1e9


def _shop(folder: Path) -> tuple[Runtime, str]:
    """A seller without a Stripe, and the key of a buyer who is entitled."""
    log_through_logging()  # stdout is for the figures
    path = folder / "farebox.toml"
    path.write_text(CONFIG)
    environment = {
        "STRIPE_SECRET_KEY": "sk_test_bench0123456789",
        "STRIPE_WEBHOOK_SECRET": "whsec_bench0123456789abcdef",
        "FAREBOX_SECRET": "bench-" * 8,
        "FAREBOX_PUBLIC_URL": "http://127.0.0.1:8000",
        "FAREBOX_DATABASE_URL": f"sqlite:///{folder}/layers.db",
    }
    settings = load_settings(environ=environment, path=path)
    clock, entropy = SystemClock(), SystemEntropy()
    store = SqlStore(settings.database_url, clock, entropy)
    key, pepper, now = mint(entropy.token_bytes(32), live=False).reveal(), settings.peppers[0], clock.now_at()
    with _open(store):
        store.add_account(Account("acct_1", now, customer_id="cus_1"))
        store.add_key(ApiKey("key_1", "acct_1", digest(key, pepper), pepper.id, key[:8], key[-4:], "", now))
        row = {"id": "sub_1", "account_id": "acct_1", "customer_id": "cus_1", "plan": "payg", "status": "active"}
        times = {"created_at": now, "status_since_at": now, "cancel_at_period_end": False, "collection_paused": False}
        with store.database.write() as connection:
            connection.execute(sa.insert(t.subscriptions).values(**row, **times, items="[]"))
    adapters = Adapters(store, open_provider(settings), clock, entropy)
    return Runtime(settings, adapters, background=False), key


@contextmanager
def _open(store: SqlStore) -> Iterator[None]:
    store.open()
    try:
        yield
    finally:
        store.close()


async def _keep_fresh(runtime: Runtime) -> None:
    while True:
        await asyncio.sleep(0.25)
        await asyncio.to_thread(runtime.gate.poll)


async def _one_after_another(call: Callable[[Any], Awaitable[None]], app: Any) -> None:
    for _ in range(CALLS // CALLS_TOGETHER):
        await asyncio.create_task(call(app))  # type: ignore[arg-type]


async def _ignore(_message: Any) -> None:
    pass


async def _nothing() -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}
