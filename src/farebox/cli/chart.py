"""The chart of `farebox simulate`, as an SVG: revenue before and after, and how many accounts pay how much more.

390 units wide, so that a telephone shows its letters as large as they are; light and dark.
"""

from decimal import Decimal
from typing import Final
from xml.sax.saxutils import escape

from farebox.domain.catalog import format_minor
from farebox.domain.simulation import Change, CurrencySum, Simulation

__all__ = ["chart_of"]

_WIDTH: Final = 390
_MARGIN: Final = 16
_LEFT: Final = 126  # where bars begin
_BAR: Final = 150  # the longest
_TITLE_CHARACTERS: Final = 42
_ROW: Final = 26
_STYLE: Final = (
    "text{font:13px system-ui,sans-serif;fill:#1f2328}.h{font-weight:600;font-size:16px}.s{fill:#59636e}"
    ".n{font-weight:600}.bg{fill:#fff}.old,.same{fill:#8c959f}.new{fill:#0969da}.less{fill:#1a7f37}.more{fill:#bc4c00}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#9198a1}.bg{fill:#0d1117}.old,.same{fill:#768390}"
    ".new{fill:#4493f8}.less{fill:#3fb950}.more{fill:#f0883e}}"
)
_LABELS: Final = {
    Change.HALF: "half or less",
    Change.LESS: "20–50% less",
    Change.LITTLE_LESS: "up to 20% less",
    Change.SAME: "the same",
    Change.LITTLE_MORE: "up to 20% more",
    Change.MORE: "20–50% more",
    Change.MUCH_MORE: "over 50% more",
}


def chart_of(found: Simulation, title: str) -> str:
    """The whole SVG. What cannot be compared is named below."""
    drawing = _Drawing(title)
    drawing.say(title[:_TITLE_CHARACTERS], "h")
    for one in found.sums:
        _draw(drawing, one)
    notes = [f"{found.running:,} periods run, and count so far."] if found.running else []
    left = sum(one.periods for one in found.left)
    notes += [f"{left:,} periods left out: a catalog lacks their plan."] if left else []
    for note in notes:
        drawing.say(note, "s")
    return drawing.text()


def _draw(drawing: "_Drawing", one: CurrencySum) -> None:
    high = max(one.before, one.after)
    drawing.say(f"Revenue in {one.currency.upper()}", "n")
    for label, kind, amount in (("before", "old", one.before), ("after", "new", one.after)):
        drawing.bar(label, kind, amount, high, _figure(amount, one.currency))
    drawing.say("Accounts that would pay", "n")
    for change, label in _LABELS.items():
        kind = "same" if change is Change.SAME else "less" if change < Change.SAME else "more"
        count = one.accounts[change]
        drawing.bar(label, kind, count, max(one.accounts), f"{count:,}")


def _figure(amount: int, currency: str) -> str:
    return f"{Decimal(format_minor(amount, currency).rpartition(' ')[0]):,}"


class _Drawing:
    """Rows from top to bottom."""

    def __init__(self, title: str) -> None:
        self._title = title[:_TITLE_CHARACTERS]
        self._parts: list[str] = []
        self._y = _MARGIN

    def say(self, text: str, kind: str) -> None:
        self._y += _ROW if kind == "h" or not self._parts else _ROW + 6 * (kind == "n")
        self._parts.append(f'<text class="{kind}" x="{_MARGIN}" y="{self._y - 8}">{escape(text)}</text>')

    def bar(self, label: str, kind: str, value: int, high: int, figure: str) -> None:
        """A bar of value in high, its label before it and its figure behind it."""
        length = max(value * _BAR // high, 1) if value else 0
        y = self._y
        self._parts.append(f'<text class="s" x="{_LEFT - 8}" y="{y + 15}" text-anchor="end">{escape(label)}</text>')
        self._parts.append(f'<rect class="{kind}" x="{_LEFT}" y="{y + 2}" width="{length}" height="18" rx="2"/>')
        self._parts.append(f'<text x="{_LEFT + length + 6}" y="{y + 15}">{escape(figure)}</text>')
        self._y += _ROW

    def text(self) -> str:
        height = self._y + _MARGIN
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
            f'aria-label="{escape(self._title, {chr(34): "&quot;"})}"><style>{_STYLE}</style>'
            f'<rect class="bg" width="{_WIDTH}" height="{height}"/>\n' + "\n".join(self._parts) + "\n</svg>\n"
        )
