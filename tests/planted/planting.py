"""Planted bugs: reading a patch, growing it in a copy of the sources, and judging what the tests made of it.

A hunk is found by its own lines, which must stand exactly once in the file; line numbers are not looked at, so that
changes elsewhere in the file do not uproot it.
"""

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["PATCHES", "ROOT", "Patch", "Unplantable", "fits", "grow", "judged", "parsed", "red_tests"]

ROOT: Final = Path(__file__).resolve().parents[2]
PATCHES: Final = Path(__file__).with_name("patches")
RUN_SECONDS_MAX: Final = 110
_ASSERTED: Final = re.compile(r"(AssertionError|assert |Failed: DID NOT RAISE|.*hypothesis)", re.DOTALL)
_TESTED: Final = "tested here: "


class Unplantable(AssertionError):
    """The patch does not fit the sources as they are now: renew it, it guards a promise."""


@dataclass(frozen=True, slots=True)
class Patch:
    """`breaks` is the promise; `red` the node ids of the tests that must notice; `hunks` (file, old text, new text)."""

    name: str
    breaks: str
    red: tuple[str, ...]
    hunks: tuple[tuple[str, str, str], ...]


def parsed(name: str, text: str) -> Patch:
    """A patch file: `Breaks:` and one or more `Red:` lines, then a unified diff of files below src/farebox."""
    breaks = re.findall(r"^Breaks: (.+)$", text, re.MULTILINE)
    red = re.findall(r"^Red: (\S+)$", text, re.MULTILINE)
    hunks = tuple(_hunks(name, text))
    if len(breaks) != 1 or not red or not hunks:
        raise Unplantable(f"{name}: one `Breaks:` line, at least one `Red:` line and one hunk are needed.")
    return Patch(name, breaks[0], tuple(red), hunks)


def _hunks(name: str, text: str) -> Iterator[tuple[str, str, str]]:
    for part in re.split(r"^--- ", text, flags=re.MULTILINE)[1:]:
        file = re.search(r"^\+\+\+ b/src/(farebox/\S+)$", part, re.MULTILINE)
        if file is None:
            raise Unplantable(f"{name}: a diff names no file below b/src/farebox/.")
        for body in re.split(r"^@@.*\n", part, flags=re.MULTILINE)[1:]:
            lines = [line if line else " " for line in body.rstrip("\n").split("\n")]
            if not all(line[0] in " -+" for line in lines):
                raise Unplantable(f"{name}: a line of a hunk begins with none of space, minus, plus.")
            old, new = ("".join(line[1:] + "\n" for line in lines if line[0] in kinds) for kinds in (" -", " +"))
            yield file[1], old, new


def grow(patch: Patch, folder: Path) -> Path:
    """A copy of src with the bug in it. Its path is to stand first on the path of who tests it."""
    faults = fits(patch)
    if faults:
        raise Unplantable("\n".join(faults))
    source = folder / "src"
    shutil.copytree(ROOT / "src", source)  # compiled files too: only what is patched is compiled anew
    for file, old, new in patch.hunks:
        path = source / file
        path.write_text(path.read_text().replace(old, new))
    return source


def fits(patch: Patch) -> list[str]:
    """Why the patch cannot be planted in the sources as they are; nothing when it can."""
    faults = []
    for file, old, _ in patch.hunks:
        path = ROOT / "src" / file
        places = path.read_text().count(old) if path.exists() else 0
        if places != 1:
            faults.append(f"{patch.name} fits {places} places of {file}, not one. Renew it:\n{old}")
    return faults


def red_tests(source: Path, tests: tuple[str, ...], report: Path) -> str:
    """Run exactly these tests against the sources there, whatever is installed. Returns what the run said."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "STRIPE_", "FAREBOX_SECRET"))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.planted.witness"]
    command += ["-o", f"pythonpath={source} examples .", f"--junitxml={report}", *tests]
    done = subprocess.run(
        command,
        cwd=ROOT,
        # The path is for the processes that a test starts itself.
        env={**kept, "PYTHONPATH": str(source), "HYPOTHESIS_PROFILE": "planted"},
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS_MAX,
        check=False,
    )
    said = done.stdout + done.stderr
    assert f"{_TESTED}{source / 'farebox'}" in said, f"something else was tested:\n{said[-3000:]}"
    return said


def judged(report: Path, tests: tuple[str, ...]) -> dict[str, str]:
    """By node id: "red" when one of its cases failed by an assertion, otherwise what happened instead."""
    found: dict[str, list[str]] = {test: [] for test in tests}
    for case in ElementTree.parse(report).getroot().iter("testcase"):  # noqa: S314 -- our own report
        file = case.get("classname", "").replace(".", "/") + ".py"
        name = f"{file}::{case.get('name')}"
        for test in tests:
            if name == test or name.startswith(test + "["):
                found[test].append(_outcome(case))
    return {test: "red" if "red" in what else ", ".join(sorted(set(what))) or "not run" for test, what in found.items()}


def _outcome(case: ElementTree.Element) -> str:
    failure, error = case.find("failure"), case.find("error")
    if error is not None:
        return f"broken: {error.get('message', '')[:200]}"
    if failure is None:
        return "skipped" if case.find("skipped") is not None else "green"
    message = failure.get("message", "")
    return "red" if _ASSERTED.match(message) else f"broken: {message[:200]}"
