"""What strangers wrote is shown as it is, and nothing that will be pasted is cut."""

import pytest
from rich.console import Console

from farebox import terminal
from farebox.billing.doctor import Finding


@pytest.mark.parametrize("text", ["[/x]@example.com", "[red]hi", "[/]", "[bold]", "Add a [plans.NAME] table."])
def test_markup_of_strangers(text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A buyer's e-mail or a key's name that looks like markup is printed, letter by letter."""
    monkeypatch.setattr(terminal, "OUT", Console(width=200))
    terminal.print_rows([{"email": text}], as_json=False, empty="")
    terminal.print_findings([Finding("database", "fail", text, text)])
    assert capsys.readouterr().out.count(text) == 3


def test_terminal_commands_of_strangers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A08: what would move a terminal's cursor is replaced."""
    monkeypatch.setattr(terminal, "OUT", Console(width=200))
    terminal.print_rows([{"name": "a\x1b[2Jb\nc"}], as_json=False, empty="")
    assert "a\N{REPLACEMENT CHARACTER}[2Jb\N{REPLACEMENT CHARACTER}c" in capsys.readouterr().out


def test_ids_are_whole(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a narrow terminal a row is folded by the terminal, and no id is cut."""
    monkeypatch.setattr(terminal, "OUT", Console(width=40))
    row = {name: f"{name}_{'x' * 40}" for name in ("account", "customer", "key")}
    terminal.print_rows([row], as_json=False, empty="")
    shown = capsys.readouterr().out
    assert [value for value in row.values() if value not in shown] == []
