"""What goes wrong in a world, drawn by its seed: each seed has its own faults at its own rates, and many have none of
a kind. Fixed rates would find far less."""

import random
from dataclasses import dataclass
from typing import Final

__all__ = ["ON", "Swarm"]

DAY_MS = 86_400_000
ON: Final = frozenset({"F29", "F30", "F31"})
"""Faults that are drawn beside the older ones; with F29 also I15 is judged. All of them: {"F29", "F30", "F31"}."""


@dataclass(slots=True)
class Swarm:
    """Chances are for each call of a port or each request, in millionths; spans in milliseconds."""

    processes: int
    accounts: int
    days: int
    bursts_gap_ms: int
    burst_calls: int
    brisk_ms: int
    loop_gap_ms: int
    webhook_gap_ms: int
    # each call of a port
    kill: int
    pause: int
    pause_ms: int
    freeze: int
    freeze_ms: int
    store_fails: int
    store_fails_after: int
    # each request to Stripe
    latency_ms: int
    refused: int
    throttled: int
    conflict: int
    error_saved: int
    error_unsaved: int
    error_after: int
    timeout_before: int
    timeout_after: int
    # now and then
    stripe_outages_gap_ms: int
    stripe_outage_ms: int
    silently: int
    store_outages_gap_ms: int
    store_outage_ms: int
    changes_gap_ms: int
    clock_offset_seconds: int
    # webhooks
    dropped: int
    duplicated: int
    reordered: int
    delayed: int
    # F29: subscriptions end by somebody else's hand, and cards fail later
    endings_gap_ms: int
    failing_cards: int
    # F31: Stripe refuses, throttles or saves a failure for one account's objects
    broken_gap_ms: int
    broken_ms: int
    # F30: the commits of a process do not answer, its reads do
    hangs_gap_ms: int
    hang_ms: int
    hang_lost: int

    @classmethod
    def of(cls, chance: random.Random, more: random.Random) -> "Swarm":
        """Draw a world's weather. `more` draws the newer faults, so that worlds keep their histories without them."""

        def rate(high: int, likely: float = 0.5) -> int:
            """Nothing, or anything up to `high`: mostly small, and large often enough to be met within days."""
            return int(high * chance.random() ** 3) if chance.random() < likely else 0

        def span(low: int, high: int) -> int:
            return int(low * (high / low) ** chance.random())

        return cls(
            processes=chance.choice((1, 1, 2, 2, 3)),
            accounts=chance.choice((1, 2, 3)),
            days=chance.choice((3, 10, 35, 70)),
            bursts_gap_ms=span(3_600_000, 2 * DAY_MS),
            burst_calls=chance.randint(1, 6),
            brisk_ms=span(10_000, 1_800_000),
            loop_gap_ms=span(3_600_000, DAY_MS),
            webhook_gap_ms=span(60_000, DAY_MS // 2),
            kill=rate(20_000),
            pause=rate(200_000),
            pause_ms=span(10, 60_000),
            freeze=rate(20_000),
            freeze_ms=span(60_000, DAY_MS),
            store_fails=rate(100_000),
            store_fails_after=rate(100_000),
            latency_ms=span(10, 20_000) if chance.random() < 0.5 else 0,
            refused=rate(300_000),
            throttled=rate(300_000),
            conflict=rate(300_000),
            error_saved=rate(300_000),
            error_unsaved=rate(300_000),
            error_after=rate(300_000),
            timeout_before=rate(300_000),
            timeout_after=rate(300_000),
            stripe_outages_gap_ms=span(DAY_MS // 4, 30 * DAY_MS) if chance.random() < 0.5 else 0,
            stripe_outage_ms=span(30_000, 7 * DAY_MS),
            silently=rate(1_000_000),
            store_outages_gap_ms=span(DAY_MS // 8, 10 * DAY_MS) if chance.random() < 0.4 else 0,
            store_outage_ms=span(1_000, 6 * 3_600_000),
            changes_gap_ms=span(DAY_MS // 12, 20 * DAY_MS) if chance.random() < 0.7 else 0,
            clock_offset_seconds=chance.choice((0, 0, 2, 120, 600)),
            dropped=rate(500_000),
            duplicated=rate(500_000),
            reordered=rate(500_000),
            delayed=rate(500_000),
            **_newer(more),
        )

    def calm(self) -> None:
        """All faults end. What moves by itself moves briskly."""
        for name in self.__dataclass_fields__:
            if name not in ("processes", "accounts", "days", "burst_calls", "pause_ms"):
                setattr(self, name, 0)
        self.brisk_ms, self.loop_gap_ms, self.webhook_gap_ms = 30_000, 3_600_000, 900_000


def _newer(chance: random.Random) -> dict[str, int]:
    """What is drawn of F29–F31: each is in half of the worlds, if it is switched on."""

    def span(low: int, high: int) -> int:
        return int(low * (high / low) ** chance.random())

    has = {fault: chance.random() < 0.5 and fault in ON for fault in ("F29", "F30", "F31")}
    drawn = {
        "endings_gap_ms": ("F29", span(DAY_MS, 40 * DAY_MS)),
        "failing_cards": ("F29", chance.choice((0, 300_000, 1_000_000))),
        "broken_gap_ms": ("F31", span(DAY_MS // 8, 20 * DAY_MS)),
        "broken_ms": ("F31", span(60_000, 7 * DAY_MS)),
        "hangs_gap_ms": ("F30", span(DAY_MS // 8, 10 * DAY_MS)),
        "hang_ms": ("F30", span(1_000, 6 * 3_600_000)),
        "hang_lost": ("F30", chance.choice((0, 500_000, 1_000_000))),
    }
    return {name: value if has[fault] else 0 for name, (fault, value) in drawn.items()}
