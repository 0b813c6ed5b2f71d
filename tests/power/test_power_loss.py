"""What a loss of power leaves of a SQLite ledger, replayed from everything that was written and synced."""

from dataclasses import replace

from tests.power.images import lose_power

IMAGES = 60


def test_nothing_promised_is_lost_with_the_power() -> None:
    """F03, I1: in no image with everything unsynced gone, or half of it there and torn, is a promised batch missing,
    and each image is a whole ledger."""
    for seed in range(4):
        losses = lose_power(seed, IMAGES)
        assert replace(losses, images=0) == type(losses)(), f"lose_power({seed}, {IMAGES})"


def test_a_weaker_setting_loses() -> None:
    """F03: the same replay finds lost batches when SQLite is not told to sync each commit, so it can tell."""
    assert sum(lose_power(seed, IMAGES, synchronous="NORMAL").lost for seed in range(2)) > IMAGES
