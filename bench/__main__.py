"""`make bench`: what being paid costs, measured beside what people would use instead. Not part of the tests.

Without a part: hello, rivals and scaling, a quarter of an hour; with one: that alone.

Progress and tables go to stderr, charts to a folder; the last line of stdout is one JSON object.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import hello, layers, ledger, reporter, rivals, sandbox, scaling
from bench.shop import CONFIG

PARTS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "hello": hello.run,
    "layers": layers.run,
    "ledger": lambda arguments: ledger.run(CONFIG),
    "reporter": lambda arguments: reporter.run(arguments, CONFIG),
    "rivals": rivals.run,
    "sandbox": sandbox.run,
    "scaling": scaling.run,
}
ALL: tuple[Any, ...] = (hello, rivals, scaling)


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--part", choices=PARTS, help="measure this alone")
    parser.add_argument("--rounds", type=int, default=15, help="how often two sides take turns")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--customers", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="of part sandbox")
    parser.add_argument("--events", type=int, default=100_000, help="of part reporter")
    parser.add_argument("--charts", default=str(Path(__file__).parent / "charts"), help="the folder of the charts")
    arguments = parser.parse_args()
    if arguments.part is not None:
        PARTS[arguments.part](arguments)
        return
    figures: dict[str, Any] = {}
    for part in ALL:
        found = part.measure(arguments)
        part.show(found)
        part.draw(found, Path(arguments.charts))
        figures |= found
    print(json.dumps(figures))


main()
