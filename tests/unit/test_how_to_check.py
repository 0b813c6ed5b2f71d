"""docs/how-to/check-your-prices.md: each of its commands prints what the page shows."""

import json
from pathlib import Path
from typing import Final

from tests.howto import commands_of, files_of, play
from tests.test_house import ROOT

PAGE: Final = "check-your-prices.md"


def test_the_page(tmp_path: Path) -> None:
    """The files of the page, and its commands in order: the draft fails, all else succeeds."""
    for name, text in files_of(PAGE).items():
        (tmp_path / name).write_text(text)
    for command in commands_of(PAGE):
        assert play(command, tmp_path, {}) == (1 if "draft" in command.line else 0, command.shown)
    assert (tmp_path / "farebox.schema.json").read_text() == (ROOT / "docs/reference/farebox.schema.json").read_text()
    assert json.loads((tmp_path / "plan-faults.json").read_text()) == []
