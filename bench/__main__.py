"""`make bench`: what being paid costs, measured beside what people would use instead. Not part of the tests.

Progress and tables go to stderr, charts to a folder; the last line of stdout is one JSON object.
"""

import argparse
from pathlib import Path

from bench import hello, ledger, reporter, sandbox
from bench.shop import CONFIG


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--part", choices=("hello", "rivals", "scaling", "ledger", "reporter", "sandbox"), help="measure this alone")
    parser.add_argument("--rounds", type=int, default=15, help="how often two sides take turns")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each turn")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--customers", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="of part sandbox")
    parser.add_argument("--events", type=int, default=100_000, help="of part reporter")
    parser.add_argument("--charts", default=str(Path(__file__).parent / "charts"), help="the folder of the charts")
    arguments = parser.parse_args()
    if arguments.part == "sandbox":
        sandbox.run(arguments)
    elif arguments.part == "ledger":
        ledger.run(CONFIG)
    elif arguments.part == "reporter":
        reporter.run(arguments, CONFIG)
    else:
        hello.run(arguments)


main()
