"""A test of the tests: bugs that are planted on purpose, each of which must turn the tests red that it names.

To plant another one, put a file NAME.patch into tests/planted/patches:

    Breaks: L8 what would no longer hold, in a sentence
    Red: tests/unit/metering/test_reporter.py::test_that_must_fail
    Red: tests/…::another_one            (optional; without a [case] it is enough that one of the cases fails)

    --- a/src/farebox/metering/reporter.py
    +++ b/src/farebox/metering/reporter.py
    @@
    -        the lines as they are
    +        the lines with the bug

The lines of a hunk must stand exactly once in the file, so take one to three of them and no more. Name the narrowest
test that keeps the promise: each patch runs its own tests and nothing else, in a few seconds. When a patch no longer
fits, the code has moved: renew the patch, and see that it still turns red. Never delete one because it is in the way.
"""

from pathlib import Path

import pytest
from tests.planted.planting import PATCHES, Patch, Unplantable, grow, judged, parsed, red_tests

PATCHES_MIN = 12
FILES = sorted(PATCHES.glob("*.patch"))
HARMLESS = """
Breaks: nothing
Red: tests/unit/domain/test_keys.py::test_secrets_stay_hidden

--- a/src/farebox/domain/keys.py
+++ b/src/farebox/domain/keys.py
@@
-KEY_ENTROPY_BYTES: Final = 32
+KEY_ENTROPY_BYTES: Final = 16 + 16
"""


def _run(patch: Patch, folder: Path) -> tuple[dict[str, str], str]:
    report = folder / "report.xml"
    said = red_tests(grow(patch, folder), patch.red, report)
    assert report.exists(), said[-3000:]
    return judged(report, patch.red), said


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_planted_bug_is_caught(file: Path, tmp_path: Path) -> None:
    """Each of the named tests fails, by an assertion of its own, when its promise is broken on purpose."""
    patch = parsed(file.name, file.read_text())
    verdicts, said = _run(patch, tmp_path)
    assert set(verdicts.values()) == {"red"}, f"{patch.breaks}\n{verdicts}\n{said[-3000:]}"


def test_there_are_enough() -> None:
    """The patches are there, and each names another promise or another way to break it."""
    patches = [parsed(file.name, file.read_text()) for file in FILES]
    assert len(patches) >= PATCHES_MIN
    assert len({patch.breaks for patch in patches}) == len(patches)


def test_a_bug_that_survives_is_told(tmp_path: Path) -> None:
    """The judge can fail: under a change that breaks nothing the tests are green, and that is what it says."""
    patch = parsed("harmless", HARMLESS)
    verdicts, _ = _run(patch, tmp_path)
    assert list(verdicts.values()) == ["green"]


@pytest.mark.parametrize(
    "line", ["KEY_ENTROPY_BYTES: Final = (", 'raise RuntimeError("no")'], ids=["no syntax", "no import"]
)
def test_a_broken_copy_is_no_catch(tmp_path: Path, line: str) -> None:
    """A patch that keeps the tests from running at all has proved nothing."""
    patch = parsed("broken", HARMLESS.replace("KEY_ENTROPY_BYTES: Final = 16 + 16", line))
    with pytest.raises(AssertionError, match="tested"):
        _run(patch, tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        HARMLESS.replace("-KEY_ENTROPY_BYTES: Final = 32", "-KEY_ENTROPY_BYTES: Final = 33"),
        HARMLESS.replace("-KEY_ENTROPY_BYTES: Final = 32", "-"),
        HARMLESS.replace("keys.py", "gone.py"),
    ],
    ids=["gone", "ambiguous", "no file"],
)
def test_a_patch_that_does_not_fit_is_told(tmp_path: Path, text: str) -> None:
    """A patch whose lines are gone, or stand there more than once, fails in words."""
    with pytest.raises(Unplantable, match="Renew it"):
        grow(parsed("old", text), tmp_path)


def test_a_test_that_is_gone_is_told(tmp_path: Path) -> None:
    """A patch that names a test which no longer exists fails instead of proving nothing."""
    report = tmp_path / "report.xml"
    report.write_text('<testsuites><testsuite><testcase classname="tests.a" name="test_b"/></testsuite></testsuites>')
    assert judged(report, ("tests/a.py::test_b", "tests/a.py::test_c")) == {
        "tests/a.py::test_b": "green",
        "tests/a.py::test_c": "not run",
    }
