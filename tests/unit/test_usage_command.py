"""`farebox usage` is a group of commands that still shows an account when no command is named."""

import pytest
from typer.testing import CliRunner

from farebox.cli import app


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["usage"], "Name an account"),
        (["usage", "--help"], "Commands"),
        (["usage", "show", "--help"], "--events"),
        (["usage", "acct_1", "--help"], "--events"),
        (["usage", "--events", "--help"], "--events"),
    ],
)
def test_what_is_shown_when_no_command_is_named(arguments: list[str], told: str) -> None:
    """`usage ACCOUNT` and `usage --events` mean `usage show`; `usage --help` lists the commands."""
    result = CliRunner().invoke(app, arguments, prog_name="farebox")
    assert told in result.output + str(result.exception)
