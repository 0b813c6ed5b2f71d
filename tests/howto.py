"""How-to pages as scripts: their files are written, their commands are run, and what is printed is what they show."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.test_house import ROOT

__all__ = ["Command", "commands_of", "files_of", "play"]

_BLOCK: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Command:
    """A line after "$ ", and what the page shows below it; "" when it shows nothing."""

    line: str
    shown: str


def files_of(page: str) -> dict[str, str]:
    """The page's TOML blocks, the wrong ones shown as text too, by the file that was last named before each."""
    text = (ROOT / "docs" / "how-to" / page).read_text()
    found = {}
    for block in _BLOCK.finditer(text):
        names = re.findall(r"`([\w-]+\.toml)`", text[: block.start()])
        if block[1] in ("toml", "text") and not block[2].startswith("#:schema"):
            found[names[-1]] = block[2]
    return found


def commands_of(page: str) -> list[Command]:
    text = (ROOT / "docs" / "how-to" / page).read_text()
    found = []
    for block in _BLOCK.finditer(text):
        for said in re.split(r"^\$ ", block[2], flags=re.MULTILINE)[1:]:
            line, _, shown = said.partition("\n")
            found.append(Command(line, shown))
    return found


def play(command: Command, folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Run it there: the exit code, and what it printed, without spaces at the ends of lines."""
    line, _, into = command.line.partition(" > ")
    program, *arguments = shlex.split(line)
    assert program == "farebox"
    done = subprocess.run(
        [sys.executable, "-m", "farebox", *arguments],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if not k.startswith(("STRIPE_", "FAREBOX_"))} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if into:
        (folder / into).write_text(done.stdout)
        return done.returncode, ""
    return done.returncode, "".join(f"{printed.rstrip()}\n" for printed in (done.stdout or done.stderr).splitlines())
