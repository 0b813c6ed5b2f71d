"""docs/how-to/sell-plans.md: its file is right, and each of its commands prints what the page shows."""

from pathlib import Path
from typing import Final

from tests.howto import commands_of, files_of, play

PAGE: Final = "sell-plans.md"


def test_the_page(tmp_path: Path) -> None:
    """The page's file, and its commands in order."""
    for name, text in files_of(PAGE).items():
        (tmp_path / name).write_text(text)
    commands = commands_of(PAGE)
    assert len(commands) == 4
    for command in commands:
        assert play(command, tmp_path, {}) == (0, command.shown)
