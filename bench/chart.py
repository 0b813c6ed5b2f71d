"""Charts as SVG files, light and dark: bars for things side by side, a line for a growth."""

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

__all__ = ["bars", "line"]

WIDTH, LEFT, ROW = 720, 190, 34
STYLE = (
    "<style>text{font:14px system-ui,sans-serif;fill:#24292f}.t{font-weight:600;font-size:16px}"
    ".b{fill:#2563a8}.l{fill:none;stroke:#2563a8;stroke-width:2}.a{stroke:#8c959f;stroke-width:1}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.b{fill:#6cb0f5}.l{stroke:#6cb0f5}}</style>"
)


def bars(path: Path, title: str, labels: Sequence[str], values: Sequence[float]) -> None:
    """A bar for each value, with its figure behind it."""
    high = max(values) or 1
    parts = []
    for row, (label, value) in enumerate(zip(labels, values, strict=True)):
        y = 46 + row * ROW
        width = max(value / high * (WIDTH - LEFT - 100), 1)
        parts.append(f'<text x="{LEFT - 10}" y="{y + 16}" text-anchor="end">{escape(label)}</text>')
        parts.append(f'<rect class="b" x="{LEFT}" y="{y}" width="{width:.0f}" height="22" rx="3"/>')
        parts.append(f'<text x="{LEFT + width + 8:.0f}" y="{y + 16}">{value:,g}</text>')
    _write(path, title, parts, 60 + len(values) * ROW)


def line(path: Path, title: str, labels: Sequence[str], values: Sequence[float]) -> None:
    """A line through values that stand at equal distances, each with its figure."""
    high, height = max(values) or 1, 300
    step = (WIDTH - 120) / max(len(values) - 1, 1)
    points = [(60 + i * step, height - 50 - value / high * (height - 130)) for i, value in enumerate(values)]
    parts = [f'<line class="a" x1="40" y1="{height - 50}" x2="{WIDTH - 40}" y2="{height - 50}"/>']
    parts.append('<polyline class="l" points="' + " ".join(f"{x:.0f},{y:.0f}" for x, y in points) + '"/>')
    for (x, y), label, value in zip(points, labels, values, strict=True):
        parts.append(f'<circle class="b" cx="{x:.0f}" cy="{y:.0f}" r="4"/>')
        parts.append(f'<text x="{x:.0f}" y="{y - 12:.0f}" text-anchor="middle">{value:,g}</text>')
        parts.append(f'<text x="{x:.0f}" y="{height - 26}" text-anchor="middle">{escape(label)}</text>')
    _write(path, title, parts, height)


def _write(path: Path, title: str, parts: Sequence[str], height: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}">{STYLE}<text class="t" x="16" y="26">{escape(title)}</text>'
    )
    path.write_text(head + "".join(parts) + "</svg>\n")
