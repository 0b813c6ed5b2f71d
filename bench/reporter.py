"""`make bench PART=reporter`: how fast a worker takes meter events to a local Stripe that keeps Stripe's limits.

100,000 events of 10,000 customers wait in the ledger, ten of each. The worker and the local Stripe are processes of
their own. The clock runs from the start of the reporting until Stripe's answer to the last event is in the ledger;
CPU is the worker's own. Afterwards Stripe's sums are compared with what was sent. On SQLite, and on PostgreSQL where
FAREBOX_POSTGRES names its programs.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa
from tests.postgres import cluster_in

from bench.servers import HOST, cpu_seconds, wait_for
from farebox.app import open_provider
from farebox.billing.catalog import apply_push, plan_push
from farebox.config import load_settings
from farebox.domain.reports import MeterEvent, Unsealed, seal
from farebox.store import tables as t
from farebox.store.sql import SqlStore
from farebox.system import SystemClock, SystemEntropy

STRIPE_PORT = 8907
BASE = f"http://{HOST}:{STRIPE_PORT}"
KEY = "sk_test_bench_of_the_reporter"
EVENTS_OF_ONE = 10
ALLOWED_PER_SECOND = 1_000  # what Stripe takes in live mode, one by one
CONFIG = """
[stripe]
meter_events_per_second = 800
stream_requests_per_second = 40
"""
CONNECTIONS = 16
SAMPLE = 200
WAIT_SECONDS_MAX = 900


def run(arguments: argparse.Namespace, config: str) -> None:
    customers = arguments.events // EVENTS_OF_ONE
    figures: dict[str, Any] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "farebox.toml").write_text(config + CONFIG)
        figures["sqlite"] = drained(folder, f"sqlite:///{folder}/bench.db", customers)
        if programs := os.environ.get("FAREBOX_POSTGRES"):
            cluster = stack.enter_context(cluster_in(Path(programs)))
            figures["postgresql"] = drained(folder, cluster.fresh(empty=True), customers)
    for name, row in figures.items():
        print(f"{name:12}{row['seconds']:>8} s of {row['seconds_max']} s, {row['cores']} cores", file=sys.stderr)
    print(json.dumps({**figures["sqlite"], **figures}))


def drained(folder: Path, url: str, customers: int) -> dict[str, Any]:
    """One ledger, filled and emptied."""
    environment = {
        "STRIPE_SECRET_KEY": KEY,
        "STRIPE_WEBHOOK_SECRET": "whsec_bench0123456789abcdef",
        "STRIPE_API_BASE": BASE,
        "FAREBOX_PUBLIC_URL": f"http://{HOST}:8908",
        "FAREBOX_SECRET": "bench-" * 8,
        "FAREBOX_DATABASE_URL": url,
        "FAREBOX_CONFIG": str(folder / "farebox.toml"),
    }
    with process(["-m", "farebox", "sandbox", "--port", str(STRIPE_PORT)], {}):
        wait_for(f"{BASE}/_sandbox/clock")
        settings = load_settings(environ=environment)
        provider = open_provider(settings)
        apply_push(plan_push(settings.catalog, provider), lambda change: None)
        meter_id = provider.meters()[0].id
        store = SqlStore(settings.database_url, SystemClock(), SystemEntropy())
        store.open()
        events = fill(store, asyncio.run(make_customers(customers)))
        limits("live")
        with process(["-m", "farebox", "worker"], environment) as worker:
            seconds, cpu = watched(store, worker.pid, len(events))
        refused = limits("off")
        for event in events[:: max(len(events) // SAMPLE, 1)]:
            start = event.timestamp - event.timestamp % 60
            shown = provider.summary(meter_id, event.customer_id, start, start + 60)
            if shown != event.value:
                raise SystemExit(f"Stripe shows {shown} for {event.identifier}, and not {event.value}")
        again = rows(store, t.meter_events.c.attempts > 1)
        streamed = rows(store, t.meter_events.c.transport == "stream")
        store.close()
    return {
        "events": len(events),
        "customers": customers,
        "allowed_per_second": ALLOWED_PER_SECOND,
        "seconds": round(seconds, 1),
        "seconds_max": round(1.2 * len(events) / ALLOWED_PER_SECOND, 1),
        "events_per_second": round(len(events) / seconds),
        "cpu_seconds": round(cpu, 1),
        "cores": round(cpu / seconds, 2),
        "by_stream": streamed,
        "sent_again": again,
        "refused": refused,
    }


def fill(store: SqlStore, customers: list[str]) -> list[MeterEvent]:
    """Events as the sealer leaves them: each of its own hour, over the last day."""
    now = SystemClock().now_at()
    hour = now - now % 3_600
    ledger_id = store.ledger().id
    events = []
    for n, customer in enumerate(customers):
        for back in range(1, EVENTS_OF_ONE + 1):
            start = hour - 3_600 * back
            unsealed = Unsealed(f"acct_{n}", customer, "calls", start, n % 7 + 1, 0, 0, start + 1_800)
            event = seal(ledger_id, unsealed, "calls", now)
            assert event is not None
            events.append(event)
    accounts = [
        {"id": f"acct_{n}", "created_at": now, "email": "", "reference": "", "customer_id": customer}
        for n, customer in enumerate(customers)
    ]
    with store.database.write() as connection:
        connection.execute(sa.insert(t.accounts), accounts)
        connection.execute(
            sa.insert(t.meter_events), [{**asdict(event), "holder": "", "lease_end": 0} for event in events]
        )
    return events


async def make_customers(count: int) -> list[str]:
    headers = {"Authorization": f"Bearer {KEY}"}
    limits_ = httpx.Limits(max_connections=CONNECTIONS)
    async with httpx.AsyncClient(base_url=BASE, headers=headers, trust_env=False, limits=limits_) as client:
        turn = asyncio.Semaphore(CONNECTIONS)

        async def make() -> str:
            async with turn:
                answer = await client.post("/v1/customers", timeout=60)
                return str(answer.raise_for_status().json()["id"])

        return await asyncio.gather(*(make() for _ in range(count)))


def watched(store: SqlStore, pid: int, events: int) -> tuple[float, float]:
    """Seconds, and the worker's CPU seconds, from the first event that is not pending until none is open."""
    began, cpu = 0.0, 0.0
    ends = time.monotonic() + WAIT_SECONDS_MAX
    while time.monotonic() < ends:
        left = rows(store, t.IS_OPEN)
        if not began and (left < events or rows(store, t.meter_events.c.state == "sending")):
            began, cpu = time.perf_counter(), cpu_seconds(pid)
        if left == 0:
            parked = rows(store, t.meter_events.c.state != "delivered")
            if parked:
                raise SystemExit(f"{parked} events were not delivered")
            return time.perf_counter() - began, cpu_seconds(pid) - cpu
        time.sleep(0.2)
    raise SystemExit(f"{left} events are left after {WAIT_SECONDS_MAX} s")


def rows(store: SqlStore, condition: Any) -> int:
    query = sa.select(sa.func.count()).select_from(t.meter_events).where(condition)
    with store.database.read() as connection:
        return int(connection.execute(query).scalar_one())


def limits(mode: str) -> int:
    """Set the local Stripe's limits. How many requests they refused until now."""
    refused = httpx.get(f"{BASE}/_sandbox/limits", trust_env=False).raise_for_status().json()["refused"]
    httpx.post(f"{BASE}/_sandbox/limits", json={"mode": mode}, trust_env=False).raise_for_status()
    return int(refused)


@contextmanager
def process(arguments: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, *arguments], env={**os.environ, **environment}, stderr=subprocess.DEVNULL)
    try:
        yield child
    finally:
        child.terminate()
        child.wait(60)
