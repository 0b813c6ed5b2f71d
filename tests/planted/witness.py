"""A pytest plugin that says, at the end of a run, which copy of farebox has been tested.

It also brings a profile of the random tests that stops at the first failure instead of looking for the smallest.
"""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

import farebox.app

__all__ = ["pytest_terminal_summary"]

settings.register_profile(
    "planted",
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow],
)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for the planter to look for."""
    terminalreporter.write_line(f"tested here: {Path(farebox.app.__file__).parent}")
