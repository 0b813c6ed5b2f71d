"""`make bench PART=hello`: what a paid call costs over the same call unpaid, on FastAPI and on a raw ASGI application.

Both sides run on uvicorn with one worker on one core, durable before delivered (SQLite, synchronous=FULL); the load
comes from the other cores. The two sides take turns many times, so that a machine whose speed drifts slows both; each
figure is the median of the rounds, beside the smallest and largest. The first round warms up and does not count.
"""

import argparse
import json
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.chart import bars
from bench.load import Measured, generator, saturate, steady
from bench.servers import HOST, listening, pinned, wait_for
from bench.shop import Shop, buy, metric

__all__ = ["measure", "run"]

PORTS = {"bare_fastapi": 8901, "paid_fastapi": 8902, "bare_asgi": 8904, "paid_asgi": 8905}
KINDS = ("fastapi", "asgi")


def run(arguments: argparse.Namespace) -> None:
    """Measure, print a table, draw, and end with the figures as one JSON object."""
    figures = measure(arguments)
    show(figures)
    draw(figures, Path(arguments.charts))
    print(json.dumps(figures))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures of this part."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(pinned())
        shop = Shop(stack, folder)
        servers = {
            side: stack.enter_context(listening(f"bench.apps:{side}", port, shop.environment(port), "--factory"))
            for side, port in PORTS.items()
        }
        for side, port in PORTS.items():
            wait_for(f"http://{HOST}:{port}" + ("/api" if side.startswith("bare") else "/billing/healthz"))
        keys = {kind: buy(PORTS[f"paid_{kind}"]) for kind in KINDS}
        figures: dict[str, Any] = {
            "generator": generator(),
            "rounds": arguments.rounds,
            "connections": arguments.connections,
        }
        for kind in KINDS:
            sides = {
                side: {"port": PORTS[f"{side}_{kind}"], "pid": servers[f"{side}_{kind}"].pid}
                for side in ("bare", "paid")
            }
            figures |= saturated(kind, sides, keys[kind], arguments)
        port = PORTS["paid_fastapi"]
        figures["calls_per_commit"] = round(
            metric(port, "farebox_calls_total") / metric(port, "farebox_commits_total"), 1
        )
        sides = {
            side: {"port": PORTS[f"{side}_fastapi"], "pid": servers[f"{side}_fastapi"].pid} for side in ("bare", "paid")
        }
        figures |= at_half_load(sides, keys["fastapi"], figures["paid_fastapi_rate"] / 2, arguments)
    return figures


def saturated(kind: str, sides: dict[str, Any], key: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Paid over bare at full load, in turns."""
    rounds: list[dict[str, Measured]] = []
    for number in range(arguments.rounds + 1):
        order = ("bare", "paid") if number % 2 else ("paid", "bare")
        rounds.append(
            {
                side: saturate(**sides[side], key=key, connections=arguments.connections, seconds=arguments.seconds)
                for side in order
            }
        )
        print(f"{kind} {number} of {arguments.rounds}", end="\r", file=sys.stderr, flush=True)
    del rounds[0]
    ratios = [r["paid"].rate / r["bare"].rate for r in rounds]
    added = [r["paid"].cpu_us - r["bare"].cpu_us for r in rounds]
    figures: dict[str, Any] = spread(f"paid_over_bare_{kind}", ratios, 3)
    name = "added_cpu_us" if kind == "fastapi" else f"added_cpu_us_{kind}"
    figures |= spread(name, added, 1)
    for side in ("bare", "paid"):
        figures[f"{side}_{kind}_rate"] = round(statistics.median(r[side].rate for r in rounds))
        figures[f"{side}_{kind}_cpu_us"] = round(statistics.median(r[side].cpu_us for r in rounds), 1)
    return figures


def at_half_load(sides: dict[str, Any], key: str, rate: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """What a paid call takes longer at half of the load that saturates the paid side."""
    rounds: list[dict[str, Measured]] = []
    for number in range(arguments.rounds + 1):
        order = ("bare", "paid") if number % 2 else ("paid", "bare")
        rounds.append(
            {
                side: steady(
                    **sides[side], key=key, connections=arguments.connections, seconds=arguments.seconds, rate=rate
                )
                for side in order
            }
        )
        print(f"half load {number} of {arguments.rounds}", end="\r", file=sys.stderr, flush=True)
    del rounds[0]
    figures: dict[str, Any] = {"half_load_rate": round(rate)}
    for name in ("p50_ms", "p99_ms"):
        for side in ("bare", "paid"):
            figures[f"{side}_{name}"] = round(statistics.median(getattr(r[side], name) for r in rounds), 2)
        figures |= spread(f"added_{name}", [getattr(r["paid"], name) - getattr(r["bare"], name) for r in rounds], 2)
    return figures


def spread(name: str, values: list[float], digits: int) -> dict[str, float]:
    """The median of the rounds, with the smallest and the largest."""
    return {
        name: round(statistics.median(values), digits),
        f"{name}_min": round(min(values), digits),
        f"{name}_max": round(max(values), digits),
    }


def show(figures: dict[str, Any]) -> None:
    """The table, for people."""
    print(f"Load by {figures['generator']}, {figures['connections']} connections.\n", file=sys.stderr)
    print(f"{'':14}{'calls/s':>10}{'CPU µs a call':>16}", file=sys.stderr)
    for kind in KINDS:
        for side in ("bare", "paid"):
            name = f"{side}_{kind}"
            print(f"{name:14}{figures[f'{name}_rate']:>10}{figures[f'{name}_cpu_us']:>16}", file=sys.stderr)
    print(f"\n{'':26}{'median':>10}{'min':>10}{'max':>10}{'goal':>10}", file=sys.stderr)
    goals = {
        "paid_over_bare_fastapi": "≥ 0.90",
        "paid_over_bare_asgi": "≥ 0.70",
        "added_cpu_us": "≤ 28",
        "added_cpu_us_asgi": "≤ 28",
        "added_p50_ms": "≤ 1",
        "added_p99_ms": "≤ 5",
    }
    for name, goal in goals.items():
        row = "".join(f"{figures[f'{name}{end}']:>10}" for end in ("", "_min", "_max"))
        print(f"{name:26}{row}{goal:>10}", file=sys.stderr)


def draw(figures: dict[str, Any], folder: Path) -> None:
    """The charts of this part."""
    names = [f"{side}_{kind}" for kind in KINDS for side in ("bare", "paid")]
    labels = [name.replace("_", " ") for name in names]
    bars(folder / "hello-rate.svg", "Calls a second, one worker", labels, [figures[f"{n}_rate"] for n in names])
    bars(folder / "hello-cpu.svg", "Processor time of a call, µs", labels, [figures[f"{n}_cpu_us"] for n in names])
