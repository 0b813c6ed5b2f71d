"""Every attack of the list has its probe in this folder, named by its id where the test says what it promises."""

import ast
import re
from pathlib import Path

PROBED = [f"A{n:02}" for n in (*range(1, 9), 11, *range(15, 21), *range(22, 29), *range(31, 35))]


def named(folder: Path) -> dict[str, list[str]]:
    """By id, the tests whose own docstrings name it."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_"):
                for id in re.findall(r"\bA\d\d\b", ast.get_docstring(node) or ""):
                    found.setdefault(id, []).append(f"{path.name}::{node.name}")
    return found


def test_every_promised_attack_is_probed() -> None:
    """No probe goes lost: each promised id is named by a test here, and each id that is named is promised."""
    assert sorted(named(Path(__file__).parent)) == PROBED


def test_a_lost_probe_is_missed(tmp_path: Path) -> None:
    """The check can fail: an id in a module's docstring, in a comment or in another function is no probe."""
    (tmp_path / "test_a.py").write_text(
        '"""A01"""\n# A02\ndef helper():\n    """A03"""\ndef test_b():\n    """A04, A05: so."""\n'
    )
    assert named(tmp_path) == {"A04": ["test_a.py::test_b"], "A05": ["test_a.py::test_b"]}
