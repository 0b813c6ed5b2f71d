"""Runs worlds in virtual time: `python -m tests.sim --seed 7` one, `python -m tests.sim --first 0 --seeds 100` many.

A failure is a line that replays it. With `--json` the last line is one JSON object.
"""

import argparse
import json
import sys
import time
import traceback

from tests.sim.world import World


def main() -> int:
    """The exit code says whether all was well."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description="Simulate shops under faults.")
    parser.add_argument("--seed", type=int, help="one world, with its weather")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    alone = asked.seed is not None
    seeds = [asked.seed] if alone else range(asked.first, asked.first + asked.seeds)
    days = lost = doubled = 0
    failures: list[str] = []
    began = time.process_time()
    for seed in seeds:
        world, before = World(seed), time.process_time()
        if alone:
            print(world.weather)
        try:
            world.run()
        except Exception as error:
            if alone:
                traceback.print_exc()
            world.oracle.violations = world.oracle.violations or [f"broken: {error!r}"]
        days, lost, doubled = days + world.simulated_days, lost + world.oracle.lost, doubled + world.oracle.doubled
        if alone or asked.verbose:
            print(seed, world.told(), f"{time.process_time() - before:.1f} s", flush=True)
        if world.oracle.violations:
            failures.append(f"python -m tests.sim --seed {seed}  # {world.oracle.violations[0]}")
            print(failures[-1], flush=True)
    seconds = time.process_time() - began
    print(f"{len(seeds)} worlds, {len(failures)} failed; {days} days, {days / seconds * 60:.0f} a minute and core")
    if asked.json:
        told = {"seeds": len(seeds), "simulated_days": days, "lost": lost, "doubled": doubled, "violations": failures}
        print(json.dumps(told))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
