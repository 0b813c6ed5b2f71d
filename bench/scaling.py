"""`make bench PART=scaling`: what a call costs with ever more keys, customers and workers, and what grows behind it.

From 1 to 1,000,000 keys and 1 to 10,000 active customers on one core; 1, 2 and 4 workers on SQLite and PostgreSQL;
the ledger's bytes and the requests to Stripe for a million calls; transactions a second by load. While the server with
a million keys reads each of them once, on a core of its own, what is merely counted is measured on the others.
"""

import json
import sys
import tempfile
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.chart import bars, line
from bench.load import generator
from bench.scaling_keys import ACCOUNTS, KEYS, account_a_key, compared, start
from bench.scaling_stripe import ledger_bytes, stripe_calls
from bench.scaling_workers import WORKERS, commits, workers
from bench.servers import pinned
from bench.shop import CONFIG, Shop

__all__ = ["measure", "run"]

SEAL_SELDOM = "[reporting]\nseal_seconds = 3600\n"  # not while rates are measured
GOALS = {
    "rate_million_keys_over_thousand": "≥ 0.95",
    "rate_million_keys_few_active_over_thousand": "",
    "memory_bytes_per_hot_key": "≤ 400",
    "memory_bytes_per_hot_key_account_a_key": "",
    "stripe_calls_per_million_v1": "≤ 60,000",
    "stripe_calls_per_million_stream": "≤ 1,000",
    "seal_seconds_thousand_customers_v1": "",
    "seal_seconds_ten_thousand_customers": "",
    "report_seconds_thousand_customers_v1": "",
    "report_seconds_thousand_customers_stream": "",
    "ledger_bytes_per_million_calls": "",
    "ledger_bytes_per_million_calls_account_a_key": "",
}


def run(arguments: Namespace) -> None:
    """Measure, print tables, draw, and end with the figures as one JSON object."""
    figures = measure(arguments)
    show(figures)
    draw(figures, Path(arguments.charts))
    print(json.dumps(figures))


def measure(arguments: Namespace) -> dict[str, Any]:
    """All figures of this part."""
    figures: dict[str, Any] = {"generator": generator(), "rounds": arguments.rounds}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        shop = Shop(stack, folder, CONFIG + SEAL_SELDOM)
        with ExitStack() as hot:
            servers = start(hot, shop, folder)
            with pinned():
                figures |= stripe_calls(folder) | ledger_bytes(folder) | account_a_key(shop, folder)
            figures |= compared(servers, arguments)
        figures |= workers(shop, folder, arguments) | commits(shop, arguments)
    return figures


def show(figures: dict[str, Any]) -> None:
    """The tables, for people."""
    columns = ("rate", "cpu_us", "fill_us", "memory_bytes", "lookup_ns", "collection_ms")
    print(f"{'keys':>10}{'customers':>12}" + "".join(f"{name:>14}" for name in columns), file=sys.stderr)
    for count in KEYS:
        cells = "".join(f"{figures[f'{name}_by_keys'].get(str(count), ''):>14}" for name in columns)
        print(f"{count:>10,}{min(count, ACCOUNTS):>12,}{cells}", file=sys.stderr)
    print(f"\n{'workers':20}{'rate':>10}{'CPU µs':>10}{'database':>10}", file=sys.stderr)
    for name, row in _by_workers(figures):
        print(f"{name:20}{row['rate']:>10}{row['cpu_us']:>10}{row.get('database_cpu_us', ''):>10}", file=sys.stderr)
    print(f"\n{'load':20}{'calls/s':>10}{'commits/s':>10}{'calls each':>11}", file=sys.stderr)
    for load, rate in figures["calls_per_second_by_load"].items():
        made, each = figures["commits_per_second_by_load"][load], figures["calls_per_commit_by_load"][load]
        print(f"{load:20}{rate:>10}{made:>10}{each:>11}", file=sys.stderr)
    print(f"\n{'':46}{'figure':>14}{'goal':>10}", file=sys.stderr)
    for name, goal in GOALS.items():
        print(f"{name:46}{figures[name]:>14,}{goal:>10}", file=sys.stderr)


def draw(figures: dict[str, Any], folder: Path) -> None:
    """The charts of this part."""
    rates = figures["rate_by_keys"]
    customers = [count for count in KEYS if count <= ACCOUNTS]
    for name, what, counts in (("keys", "keys", KEYS), ("customers", "active customers, a key each", customers)):
        title = f"Calls a second on one core, by {what}"
        line(folder / f"scaling-{name}.svg", title, [f"{n:,}" for n in counts], [rates[str(n)] for n in counts])
    names, rows = zip(*_by_workers(figures), strict=True)
    title = f"Calls a second by workers; load and workers share {figures['workers']['cores']} cores"
    bars(folder / "scaling-workers.svg", title, names, [row["rate"] for row in rows])


def _by_workers(figures: dict[str, Any]) -> list[tuple[str, dict[str, float]]]:
    found = figures["workers"]
    databases = [name for name in ("sqlite", "postgresql") if name in found]
    return [(f"{name}, {count}", found[name][str(count)]) for name in databases for count in WORKERS]
