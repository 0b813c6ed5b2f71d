"""Kills processes: `python -m tests.crash --seed 3 --kills 20` at random calls of a port and at random times;
`--every` before and after each call of a port that one life makes. The last line is one JSON object."""

import argparse
import gc
import json
import sys
import tempfile
import time
from pathlib import Path

from tests.crash.life import Plan
from tests.crash.town import Town

CALLS_A_LIFE = 3


def every(folder: Path) -> Town:
    """F01: one death before and one after each call of a port that a life makes, on one ledger."""
    town = Town(folder, 0)
    plan = Plan(calls=1, kill_at=None, after=False)
    town.live(plan)
    town.watch()
    for number in range(1, len(town.seen) + 1):
        for after in (False, True):
            town.live(Plan(calls=1, kill_at=number, after=after))
            town.watch()
    town.heal()
    return town


def at_random(folder: Path, seed: int, kills: int, workers: int) -> Town:
    """F02: so many deaths, half of them from outside at any moment, while others live on the same ledger."""
    town = Town(folder, seed)
    chance = town.chance
    while town.kills < kills and not town.oracle.violations:
        while len(town.living()) < workers:
            own = chance.random() < 0.5
            town.live(
                Plan(
                    calls=CALLS_A_LIFE,
                    kill_at=chance.randint(1, 90) if own else None,
                    after=own and chance.random() < 0.5,
                )
            )
        town.watch(until=time.monotonic() + chance.random() * 0.15)
        if chance.random() < 0.5:
            town.kill(chance.choice(town.living() or [0]))
    town.heal()
    return town


def main() -> int:
    """The exit code says whether all was well."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description="Kill processes; then look.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--every", action="store_true")
    asked = parser.parse_args()
    gc.freeze()  # what is loaded is shared with the children
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        town = every(place) if asked.every else at_random(place, asked.seed, asked.kills, asked.workers)
    oracle = town.oracle
    told = {
        "kills": town.kills,
        "calls": town.calls,
        "lost": oracle.lost,
        "doubled": oracle.doubled,
        "violations": oracle.violations[:5],
        "seen": sorted(set(town.seen)),
    }
    print(json.dumps(told))
    return 1 if oracle.violations else 0


if __name__ == "__main__":
    sys.exit(main())
