"""Runs worlds in virtual time: `python -m tests.sim --seed 7` one, `python -m tests.sim --seeds 100 --first 0` many."""

import argparse
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
    asked = parser.parse_args()
    seeds = [asked.seed] if asked.seed is not None else range(asked.first, asked.first + asked.seeds)
    days = failures = 0
    began = time.process_time()
    for seed in seeds:
        world, before = World(seed), time.process_time()
        if asked.seed is not None:
            print(world.weather)
        try:
            world.run()
        except Exception:
            traceback.print_exc()
            world.oracle.violations = world.oracle.violations or ["broken"]
        days += world.simulated_days
        if asked.verbose:
            print(seed, world.told(), f"{time.process_time() - before:.1f} s", flush=True)
        if world.oracle.violations:
            failures += 1
            print(f"python -m tests.sim --seed {seed}  # {world.oracle.violations[0]}", flush=True)
        elif asked.seed is not None:
            print(world.told())
    seconds = time.process_time() - began
    print(f"{len(seeds)} worlds, {failures} failed; {days} days, {days / seconds * 60:.0f} a minute and core")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
