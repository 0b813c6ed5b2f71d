"""More workers on one machine, on either database; and how many transactions a second the load makes.

Load, workers and database share the machine's cores here, since workers are for more cores than one: where there are
few, the load takes some of what the workers could have had. Processor time of a call counts all workers, and apart
from them PostgreSQL's processes. Workers of one kind run alone, one kind after another.
"""

import os
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from tests.postgres import cluster_in

from bench.load import saturate, steady
from bench.scaling_load import family_seconds, saturate_with
from bench.servers import HOST, listening, pinned, process, wait_for
from bench.shop import Shop, buy, metric

__all__ = ["WORKERS", "commits", "workers"]

WORKERS = (1, 2, 4)
PORT = 8921
COMMITS_PORT = 8931
LOADS = {"quarter": 0.25, "half": 0.5}


def workers(shop: Shop, folder: Path, arguments: Namespace) -> dict[str, Any]:
    """Calls a second and processor time of a call, by database and number of workers."""
    figures: dict[str, Any] = {"cores": os.cpu_count()}
    with ExitStack() as stack:
        urls: dict[str, Callable[[int], str]] = {"sqlite": lambda count: f"sqlite:///{folder}/workers{count}.db"}
        database = 0
        if programs := _postgres_programs():
            cluster = stack.enter_context(cluster_in(programs))
            urls["postgresql"] = lambda _: cluster.fresh(empty=True)
            database = cluster.server.pid if cluster.server is not None else 0
        for name, url in urls.items():
            figures[name] = {}
            for count in WORKERS:
                print(f"{count} workers on {name}", end="\r", file=sys.stderr, flush=True)
                figures[name][str(count)] = _served_by(shop, folder, count, url(count), database, arguments)
    return {"workers": figures}


def _postgres_programs() -> Path | None:
    """The folder of PostgreSQL's programs, or None where there is none."""
    root = Path(__file__).resolve().parent.parent
    asked = subprocess.run(["sh", "tools/postgres.sh"], cwd=root, capture_output=True, text=True, check=False)
    return Path(asked.stdout.strip()) if asked.returncode == 0 else None


def _served_by(shop: Shop, folder: Path, count: int, url: str, database: int, arguments: Namespace) -> dict[str, Any]:
    uvicorn = ["-m", "uvicorn", "--host", HOST, "--port", str(PORT), "--log-level", "warning", "--no-access-log"]
    command = [*uvicorn, "--workers", str(count), "--factory", "bench.apps:paid_fastapi"]
    with process(command, shop.environment(PORT, url)) as server:
        wait_for(f"http://{HOST}:{PORT}/billing/healthz")
        keys = folder / "workers.keys"
        keys.write_text(buy(PORT) + "\n")
        rounds: list[tuple[float, float, float]] = []
        for _ in range(arguments.rounds // 3 + 2):
            cpu, ours = family_seconds(server.pid), family_seconds(database) if database else 0.0
            rate, calls = saturate_with(keys, 1, PORT, connections=arguments.connections, seconds=arguments.seconds / 2)
            spent = family_seconds(server.pid) - cpu
            apart = family_seconds(database) - ours if database else 0.0
            rounds.append((rate, spent / calls * 1e6, apart / calls * 1e6))
    del rounds[0]
    figures = {"rate": round(median(r[0] for r in rounds)), "cpu_us": round(median(r[1] for r in rounds), 1)}
    if url.startswith("postgresql"):
        figures["database_cpu_us"] = round(median(r[2] for r in rounds), 1)
    return figures


def commits(shop: Shop, arguments: Namespace) -> dict[str, Any]:
    """Commits a second and calls in each, by load, of one worker on one core."""
    with listening("bench.apps:paid_fastapi", COMMITS_PORT, shop.environment(COMMITS_PORT), "--factory") as server:
        wait_for(f"http://{HOST}:{COMMITS_PORT}/billing/healthz")
        key = buy(COMMITS_PORT)
        whole = max(round(arguments.seconds), 1)
        side: dict[str, Any] = {"port": COMMITS_PORT, "key": key, "pid": server.pid}
        side |= {"connections": arguments.connections, "seconds": whole}
        with pinned():
            rate = saturate(**side).rate
            figures = {name: _counted(partial(steady, **side, rate=rate * part)) for name, part in LOADS.items()}
            figures["full"] = _counted(partial(saturate, **side))
    return {name: {load: row[name] for load, row in figures.items()} for name in figures["full"]}


def _counted(load: Callable[[], object]) -> dict[str, float]:
    """By the server's own count."""
    names = ("farebox_commits_total", "farebox_calls_total")
    before, began = [metric(COMMITS_PORT, name) for name in names], time.perf_counter()
    load()
    took = time.perf_counter() - began
    made, calls = (metric(COMMITS_PORT, name) - count for name, count in zip(names, before, strict=True))
    return {
        "calls_per_second_by_load": round(calls / took),
        "commits_per_second_by_load": round(made / took, 1),
        "calls_per_commit_by_load": round(calls / made, 1),
    }
