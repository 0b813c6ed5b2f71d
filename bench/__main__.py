"""`make bench`: requests per second of a protected endpoint over the same app unprotected, and the CPU that a call
costs.

FastAPI on uvicorn with one worker, 32 connections, durable before delivered (SQLite, synchronous=FULL). The two sides
take turns, so that a machine whose speed drifts slows both. The load comes from a bundled client on asyncio streams
(it is not wrk, and shares the machine with the server): the ratio is what counts. The last line of stdout is one JSON
object.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from bench import ledger, reporter, sandbox
from farebox.app import open_provider
from farebox.billing.catalog import apply_push, plan_push
from farebox.config import load_settings

HOST = "127.0.0.1"
BARE_PORT, PAID_PORT, STRIPE_PORT = 8901, 8902, 8903
ADMIN_TOKEN = "bench-" * 8
CONFIG = """
[meters.calls]
title = "API calls"
[plans.payg]
title = "Pay as you go"
[[plans.payg.prices]]
meter = "calls"
unit_amount = "0.01"
[[routes]]
match = "GET /api"
meter = "calls"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--part", choices=("calls", "ledger", "reporter", "sandbox"), default="calls", help="what to measure"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--customers", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="of part sandbox")
    parser.add_argument("--events", type=int, default=100_000, help="of part reporter")
    arguments = parser.parse_args()
    if arguments.part == "sandbox":
        sandbox.run(arguments)
        return
    if arguments.part == "ledger":
        ledger.run(CONFIG)
        return
    if arguments.part == "reporter":
        reporter.run(arguments, CONFIG)
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers, key = start(stack, folder)
        rounds = [
            {
                side: asyncio.run(load(port, key, arguments.connections, arguments.seconds, servers[side].pid))
                for side, port in (("bare", BARE_PORT), ("paid", PAID_PORT))
            }
            for _ in range(arguments.rounds + 1)
        ][1:]  # the first warms both up
        calls_per_commit = metric("farebox_calls_total") / metric("farebox_commits_total")
    report(rounds, arguments, calls_per_commit)


def metric(name: str) -> float:
    """A figure from the protected server's own /metrics."""
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    text = httpx.get(f"http://{HOST}:{PAID_PORT}/billing/metrics", headers=headers, trust_env=False).text
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith(name + " ")))


def report(rounds: list[dict[str, dict[str, float]]], arguments: argparse.Namespace, calls_per_commit: float) -> None:
    ratios = [r["paid"]["rate"] / r["bare"]["rate"] for r in rounds]
    figures: dict[str, Any] = {"rounds": arguments.rounds, "connections": arguments.connections}
    for side in ("bare", "paid"):
        figures[f"{side}_rate"] = round(statistics.median(r[side]["rate"] for r in rounds))
        figures[f"{side}_cpu_us"] = round(statistics.median(r[side]["cpu_us"] for r in rounds), 1)
    figures["added_cpu_us"] = round(statistics.median(r["paid"]["cpu_us"] - r["bare"]["cpu_us"] for r in rounds), 1)
    figures["paid_over_bare"] = round(statistics.median(ratios), 3)
    figures["paid_over_bare_min"], figures["paid_over_bare_max"] = round(min(ratios), 3), round(max(ratios), 3)
    figures["calls_per_commit"] = round(calls_per_commit, 1)
    print(f"{'':6}{'requests/s':>12}{'CPU µs a call':>16}", file=sys.stderr)
    for side in ("bare", "paid"):
        print(f"{side:6}{figures[f'{side}_rate']:>12}{figures[f'{side}_cpu_us']:>16}", file=sys.stderr)
    print(json.dumps(figures))


def start(stack: ExitStack, folder: Path) -> tuple[dict[str, subprocess.Popen[bytes]], str]:
    """Both servers and a local Stripe; the key of a buyer who has paid."""
    config = folder / "farebox.toml"
    config.write_text(CONFIG)
    environment = {
        "STRIPE_SECRET_KEY": "sk_test_bench0123456789",
        "STRIPE_WEBHOOK_SECRET": "whsec_bench0123456789abcdef",
        "STRIPE_API_BASE": f"http://{HOST}:{STRIPE_PORT}",
        "FAREBOX_PUBLIC_URL": f"http://{HOST}:{PAID_PORT}",
        "FAREBOX_SECRET": "bench-" * 8,
        "FAREBOX_DATABASE_URL": f"sqlite:///{folder}/bench.db",
        "FAREBOX_ADMIN_TOKEN": ADMIN_TOKEN,
        "FAREBOX_CONFIG": str(config),
    }
    stack.enter_context(process(["-m", "farebox", "sandbox", "--port", str(STRIPE_PORT)], {}))
    wait_for(f"http://{HOST}:{STRIPE_PORT}/_sandbox/clock")
    settings = load_settings(environ=environment)
    apply_push(plan_push(settings.catalog, open_provider(settings)), lambda change: None)
    uvicorn = ["-m", "uvicorn", "--host", HOST, "--log-level", "warning", "--no-access-log"]
    bare = stack.enter_context(process([*uvicorn, "--port", str(BARE_PORT), "bench.apps:bare"], environment))
    paid = stack.enter_context(
        process([*uvicorn, "--port", str(PAID_PORT), "--factory", "bench.apps:paid"], environment)
    )
    wait_for(f"http://{HOST}:{BARE_PORT}/api")
    wait_for(f"http://{HOST}:{PAID_PORT}/billing/healthz")
    return {"bare": bare, "paid": paid}, buy()


def buy() -> str:
    with httpx.Client(base_url=f"http://{HOST}:{PAID_PORT}/billing", trust_env=False, timeout=30) as client:
        session = client.post("/checkout", json={"plan": "payg"}).raise_for_status().json()
        client.post(session["url"], data={"card_number": "4242424242424242", "exp": "12/40", "cvc": "123"})
        key: str = client.post("/claim", json={"session_id": session["id"]}).raise_for_status().json()["key"]
    return key


@contextmanager
def process(arguments: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, *arguments], env={**os.environ, **environment})
    try:
        yield child
    finally:
        child.send_signal(signal.SIGINT)
        child.wait(30)


def wait_for(url: str) -> None:
    for _ in range(300):
        try:
            httpx.get(url, trust_env=False).raise_for_status()
            return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise SystemExit(f"{url} does not answer")


async def load(port: int, key: str, connections: int, seconds: float, pid: int) -> dict[str, float]:
    """Ask as fast as the answers come, over keep-alive connections. Every answer must be a 200."""
    request = f"GET /api HTTP/1.1\r\nHost: {HOST}\r\nX-API-Key: {key}\r\n\r\n".encode()
    cpu, began = cpu_seconds(pid), time.perf_counter()
    counts = await asyncio.gather(*(ask(port, request, began + seconds) for _ in range(connections)))
    took, calls = time.perf_counter() - began, sum(counts)
    return {"rate": calls / took, "cpu_us": (cpu_seconds(pid) - cpu) / calls * 1e6}


async def ask(port: int, request: bytes, until: float) -> int:
    reader, writer = await asyncio.open_connection(HOST, port)
    count = 0
    while time.perf_counter() < until:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"The server answered {head[:80]!r}")
        lower = head.lower()
        at = lower.index(b"content-length:") + 15
        await reader.readexactly(int(lower[at : lower.index(b"\r\n", at)]))
        count += 1
    writer.close()
    return count


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, from the system's own book."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


main()
