"""The how-to pages that promise it are run as they stand: their files are written down, and their tests pass."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from tests.test_house import ROOT

HOW_TO: Final = ROOT / "docs" / "how-to"
PAGES: Final = ("charge-by-what-a-call-used.md", "record-usage-from-jobs.md")
SECONDS_MAX: Final = 100


def written_down(page: Path, folder: Path) -> list[str]:
    """The whole farebox.toml of the page, and each Python block that begins with its file's name as a docstring."""
    text = page.read_text()
    (config,) = (b for b in re.findall(r"```toml\n(.*?)```", text, re.DOTALL) if "[plans." in b)
    (folder / "farebox.toml").write_text(config)
    files = re.findall(r'```python\n("""(\w+\.py)""".*?)```', text, re.DOTALL)
    for body, name in files:
        (folder / name).write_text(body)
    return [name for _, name in files]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_run_as_it_stands(name: str, tmp_path: Path) -> None:
    """What the page tells a reader to write works, and its own tests of it pass."""
    files = written_down(HOW_TO / name, tmp_path)
    assert {"main.py", "test_main.py"} <= set(files)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "test_main.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    assert (done.returncode, " passed" in done.stdout) == (0, True), done.stdout + done.stderr
