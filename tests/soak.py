"""`make soak MINUTES=n`: simulation on one core, kill -9 and power loss on the other, for as long as asked.

Each world is judged by I1–I10, I15, I16 and I18, whatever of F29–F31 is switched on in tests/sim/swarm.py; each life
that was killed by I1–I4 and I14. A failure is any violation of any of them.

Tells its progress on stderr, appends a row to bench/reliability.csv, and ends with one JSON object on stdout.
"""

import argparse
import csv
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tests.power.images import lose_power

ROOT: Final = Path(__file__).resolve().parent.parent
TABLE: Final = ROOT / "bench" / "reliability.csv"
COLUMNS: Final = ("date", "commit", "seeds", "simulated_days", "kills", "power_loss_images", "failures")
KILLS_A_RUN: Final = 40
IMAGES_A_RUN: Final = 60
WORLDS_A_RUN: Final = 3
SECONDS_A_RUN_MAX: Final = 1_200


@dataclass
class Found:
    """What has been done and found so far. Each failure is the line that replays it."""

    seeds: int = 0
    simulated_days: int = 0
    kills: int = 0
    power_loss_images: int = 0
    lost: int = 0
    doubled: int = 0
    failures: list[str] = field(default_factory=list)


def simulate(first: int, found: Found) -> None:
    """A few worlds."""
    told = _run("tests.sim", "--first", str(first), "--seeds", str(WORLDS_A_RUN), "--json")
    found.seeds += told.get("seeds", 0)
    found.simulated_days += told.get("simulated_days", 0)
    _take(told, found)


def kill(seed: int, found: Found) -> None:
    """A town in which processes die."""
    told = _run("tests.crash", "--seed", str(seed), "--kills", str(KILLS_A_RUN), "--workers", str(1 + seed % 2))
    found.kills += told.get("kills", 0)
    if told["violations"]:
        told["violations"] = [f"python -m tests.crash --seed {seed}  # {told['violations'][0]}"]
    _take(told, found)


def cut_the_power(seed: int, found: Found) -> None:
    """A ledger's file after so many losses of power."""
    losses = lose_power(seed, IMAGES_A_RUN)
    found.power_loss_images += losses.images
    found.lost += losses.lost
    if losses.lost or losses.broken:
        found.failures.append(f"tests.power.images.lose_power({seed}, {IMAGES_A_RUN})")


def _take(told: dict[str, Any], found: Found) -> None:
    found.lost += told.get("lost", 0)
    found.doubled += told.get("doubled", 0)
    for failure in told["violations"]:
        print(f"FAILED: {failure}", file=sys.stderr, flush=True)
        found.failures.append(failure)


def _run(module: str, *asked: str) -> dict[str, Any]:
    """A run in a process of its own; its last line is a JSON object, or it has failed."""
    command = [sys.executable, "-m", module, *asked]
    replay = " ".join(["python", "-m", module, *asked])
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=SECONDS_A_RUN_MAX)
        told: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
        return {"violations": [f"{replay}  # {type(error).__name__}"]}
    return told


def _keep_on(until: float, first: int, found: Found, *works: Callable[[int, Found], None]) -> None:
    number = first  # the next run begins behind the worlds of this one
    while time.monotonic() < until:
        for work in works:
            if time.monotonic() < until:
                work(number, found)
        number += WORLDS_A_RUN


def _commit() -> str:
    asked = ["git", "rev-parse", "--short", "HEAD"]  # a copy without its history has no commit
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def _append(row: dict[str, Any]) -> None:
    new = not TABLE.exists()
    with TABLE.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def main() -> int:
    """The exit code says whether all was well."""
    parser = argparse.ArgumentParser(prog="make soak")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--first", type=int, default=int(time.time()) % 1_000_000_000, help="the first seed")
    asked = parser.parse_args()
    found, began = Found(), time.monotonic()
    until = began + asked.minutes * 60
    jobs = [
        threading.Thread(target=_keep_on, args=(until, asked.first, found, simulate)),
        threading.Thread(target=_keep_on, args=(until, asked.first, found, kill, cut_the_power)),
    ]
    for job in jobs:
        job.start()
    while any(job.is_alive() for job in jobs):
        for job in jobs:
            job.join(15)
        minutes = (time.monotonic() - began) / 60
        print(
            f"{minutes:.1f} of {asked.minutes:g} minutes: {found.seeds} seeds, {found.simulated_days} simulated days, "
            f"{found.kills} kills, {found.power_loss_images} power loss images, {len(found.failures)} failures",
            file=sys.stderr,
            flush=True,
        )
    told: dict[str, Any] = {name: value for name, value in asdict(found).items() if name != "failures"}
    row: dict[str, Any] = {"date": datetime.now(UTC).date().isoformat(), "commit": _commit()}
    row |= {name: value for name, value in told.items() if name in COLUMNS}
    _append({**row, "failures": len(found.failures)})
    print(json.dumps({**told, "violations": len(found.failures)}))
    return 1 if found.failures else 0


if __name__ == "__main__":
    sys.exit(main())
