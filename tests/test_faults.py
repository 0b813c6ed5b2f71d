"""Every fault that the promises are kept under has a test that names it, and no test names one that is not known."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).resolve().parent

FAULTS: Final = {
    "F01": "kill -9 before and after each call of a port",
    "F02": "kill -9 at random times, two workers, live traffic",
    "F03": "loss of power: everything unsynced is gone",
    "F04": "Stripe answers 429",
    "F05": "Stripe answers 500 or 503, and replays a saved 500",
    "F06": "a request to Stripe times out before its commit",
    "F07": "a request to Stripe times out after its commit",
    "F08": "outages of 30 s to 7 days in which half the calls are silently committed",
    "F09": "a duplicate identifier is refused with 400",
    "F10": "5,000 customers due at once under Stripe's limits",
    "F11": "usage refused later, asynchronously",
    "F12": "webhooks duplicated, reordered, delayed up to three days",
    "F13": "a crash while a webhook is handled",
    "F14": "the client leaves at any message",
    "F15": "two sealers and reporters, one of them paused past its lease",
    "F18": "revocation under load, during a look-up, with its news lost, in a process that is cut off",
    "F19": "PostgreSQL restarted again and again",
    "F21": "the disk is full",
    "F22": "a fork after opening, several workers",
    "F23": "clocks that step",
    "F27": "yesterday's database restored",
    "F28": "wrong configuration",
    "F29": "a subscription ends at Stripe by somebody else's hand, with and without an invoice",
    "F30": "a commit never answers, while reads work",
    "F31": "the provider refuses, throttles or saves a failure for one account's object",
    "F32": "random walks of a buyer through every plan, trial and change",
    "F33": "two transactions on one account, the first paused after each of its statements",
}
TO_COME: Final = {"F17": "limits come with plans that have them", "F24": "the gateway comes later"}


def named() -> Iterator[tuple[str, str]]:
    """Each fault that a test's docstring names, ranges taken apart, with the test."""
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_"):
                text = ast.get_docstring(node) or ""
                for first, last in re.findall(r"\bF(\d\d)(?:–F?(\d\d))?\b", text):
                    for number in range(int(first), int(last or first) + 1):
                        yield f"F{number:02}", f"{path.relative_to(TESTS)}::{node.name}"


def test_every_fault_has_a_test() -> None:
    """F01–F31, F33: each known fault is named by a test that shows what holds under it, those to come by none yet."""
    tests: dict[str, list[str]] = {}
    for fault, test in named():
        if not test.startswith("test_faults"):
            tests.setdefault(fault, []).append(test)
    missing = {fault: what for fault, what in FAULTS.items() if fault not in tests}
    assert not missing
    assert tests.keys() <= FAULTS.keys() | TO_COME.keys(), "a fault that nobody has described"
