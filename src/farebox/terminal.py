"""What the command line prints: tables and words for people, JSON for programs. Nothing here decides anything."""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from farebox.billing.doctor import Finding
from farebox.errors import FareboxError

__all__ = [
    "ERR",
    "OUT",
    "moment",
    "print_error",
    "print_findings",
    "print_json",
    "print_key",
    "print_rows",
    "printable",
]

OUT: Final = Console()
ERR: Final = Console(stderr=True)
_COLUMNS_MAX: Final = 1_000


def print_error(error: FareboxError, *, as_json: bool) -> None:
    """The error in words on stderr, with what only the operator may read."""
    if as_json:
        sys.stderr.write(json.dumps({"error": {"code": error.code, "detail": error.detail}}) + "\n")
        return
    ERR.print("[bold red]Error[/]", end=" ")
    ERR.print("\n".join(printable(line) for line in error.detail.split("\n")), markup=False, highlight=False)
    if error.internal:
        ERR.print(error.internal, style="dim", markup=False, highlight=False)


def print_findings(findings: Sequence[Finding]) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    style = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    for finding in findings:
        text = finding.detail + (f"\n→ {finding.advice}" if finding.advice else "")
        table.add_row(Text(finding.status, style[finding.status]), finding.check, Text(text))
    OUT.print(table)


def print_rows(rows: Sequence[dict[str, Any]], *, as_json: bool, empty: str) -> None:
    """A table with a column for each name, or a JSON list; `empty` says in words that there is nothing."""
    if as_json:
        print_json(rows)
        return
    if not rows:
        OUT.print(empty, style="dim")
        return
    table = Table(*(name.replace("_", " ") for name in rows[0]), box=None, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*(_cell(name, value) for name, value in row.items()))
    # Never narrower than its contents: an id that is cut cannot be pasted into the next command.
    width = Measurement.get(OUT, OUT.options.update(max_width=_COLUMNS_MAX), table).maximum
    OUT.width = max(width, OUT.width)
    OUT.print(table)


def _cell(name: str, value: object) -> Text:
    """A value as it is: what strangers wrote is neither markup nor a terminal's command."""
    if value is None:
        return Text("–")
    text = moment(value) if name.endswith("_at") and isinstance(value, int) else str(value)
    return Text(printable(text))


def printable(text: str) -> str:
    """The text on one line, without letters that a terminal would obey."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def moment(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")


def print_key(key: str, id: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"key": key, "id": id})
        return
    OUT.print(key, markup=False, highlight=False, soft_wrap=True)
    ERR.print(f"This is {id}. It is shown this once; only a fingerprint is kept.", style="dim")


def print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, default=str) + "\n")
