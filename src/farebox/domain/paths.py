"""How a rule's path matches the paths of requests, and whether an earlier rule leaves a later one nothing to match."""

import re

from farebox.domain.catalog import Route

__all__ = ["covers", "pattern_of"]


def pattern_of(path: str) -> re.Pattern[str]:
    """The pattern that fits, as a whole, every path that a rule with this path prices."""
    parts = [_part(part) for part in path.removesuffix("/**").split("/")]
    # The application's own routes end in "$", which also matches before a last newline: what is served is priced.
    return re.compile("/".join(parts) + ("(/.*)?\n?" if path.endswith("/**") else "\n?"), re.DOTALL)


def _part(part: str) -> str:
    """The pattern of what stands between two slashes. A name takes at least one character of it.

    All names but the last take as little as they can and never look again (an atomic group): the last can always take
    what they left, and no path of a stranger's walks in circles (A32).
    """
    fixed = [re.escape(text) for text in re.split(r"\{[^/{}]*\}", part)]
    if len(fixed) == 1:
        return fixed[0]
    first, *middle = fixed[:-1]
    return first + "".join(f"(?>[^/]+?{text})" for text in middle) + "[^/]+" + fixed[-1]


def covers(earlier: Route, later: Route) -> bool:
    """Whether every request that fits `later` fits `earlier` as well, so that `later` never prices any."""
    if earlier.method not in ("*", later.method):
        return False
    fixed, pattern = later.path.removesuffix("/**"), pattern_of(earlier.path)
    # A name stands for any text: only a name or a star of the earlier rule fits one that is in no rule.
    sample = re.sub(r"\{[^/{}]*\}", "\x01", fixed)
    if not later.path.endswith("/**"):
        return pattern.fullmatch(sample) is not None
    return earlier.path.endswith("/**") and all(pattern.fullmatch(sample + end) for end in ("", "/", "/\x01/\x01"))
