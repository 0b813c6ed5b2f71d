"""What was used: hours split where a period ends, and quantities that are whole and not negative."""

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farebox.domain.usage import BUCKET_SECONDS, QUANTITY_MAX, Period, bucket_start, checked_quantity
from farebox.errors import QuantityInvalid

HOUR = 1_800_000_000  # on the hour
times = st.integers(HOUR, HOUR + 6 * BUCKET_SECONDS)
boundaries = st.lists(times, max_size=6)


@pytest.mark.parametrize(
    ("second", "edges", "start"),
    [
        (0, [], 0),
        (3599, [], 0),
        (3600, [], 3600),
        (599, [600], 0),
        (600, [600], 600),
        (3599, [600], 600),
        (3600, [600], 3600),
        (1200, [600, 900], 900),
        (1200, [900, 600], 900),
        (700, [600, 900], 600),
        (100, [0], 0),
        (3599, [3600], 0),
    ],
)
def test_buckets(second: int, edges: list[int], start: int) -> None:
    """L4: a bucket is the hour, or what of it follows the latest known period boundary, to the second."""
    assert bucket_start(HOUR + second, [HOUR + edge for edge in edges]) == HOUR + start


@given(times, boundaries)
def test_a_bucket_holds_its_time(at: int, edges: list[int]) -> None:
    """L4: a call lies in its own bucket, which begins on an hour or a boundary, and no boundary lies between."""
    start = bucket_start(at, edges)
    assert at - at % BUCKET_SECONDS <= start <= at
    assert start % BUCKET_SECONDS == 0 or start in edges
    assert not [edge for edge in edges if start < edge <= at]


@given(times, times, boundaries)
def test_a_boundary_parts(one: int, other: int, edges: list[int]) -> None:
    """I6: two calls share a bucket exactly when they share the hour and no period ends between them."""
    early, late = sorted((one, other))
    same_hour = early // BUCKET_SECONDS == late // BUCKET_SECONDS
    parted = any(early < edge <= late for edge in edges)
    assert (bucket_start(early, edges) == bucket_start(late, edges)) == (same_hour and not parted)


@given(times, st.permutations([HOUR + 10, HOUR + 700, HOUR + 4000]))
def test_the_order_of_boundaries(at: int, edges: list[int]) -> None:
    """However the boundaries are listed, the bucket is the same."""
    assert bucket_start(at, edges) == bucket_start(at, sorted(edges))


def test_periods_do_not_overlap() -> None:
    """A period has its first second and not its last: the next one begins there."""
    period, following = Period(10, 20), Period(20, 30)
    assert [period.contains(at) for at in (9, 10, 19, 20)] == [False, True, True, False]
    assert following.contains(20)


@pytest.mark.parametrize("quantity", [0, 1, QUANTITY_MAX])
def test_good_quantities(quantity: int) -> None:
    """Zero and the bound itself are quantities."""
    assert checked_quantity(quantity, "calls") == quantity


@pytest.mark.parametrize(
    "quantity",
    [
        -1,
        QUANTITY_MAX + 1,
        10**400,
        True,
        False,
        1.0,
        0.5,
        float("nan"),
        float("inf"),
        "1",
        b"1",
        None,
        [1],
        Decimal(1),
        Fraction(1),
        1j,
    ],
)
def test_bad_quantities(quantity: Any) -> None:
    """A26: negative, fractional, huge, and what only looks like a number are refused, naming the meter."""
    with pytest.raises(QuantityInvalid, match=r"^tokens: a quantity must") as refused:
        checked_quantity(quantity, "tokens")
    assert (refused.value.code, refused.value.status) == ("quantity_invalid", 500)
    assert len(refused.value.detail) < 200


def test_a_wrong_kind_is_named_for_buyers() -> None:
    """What is no quantity is called by what it is in JSON, not by Python's names."""
    words = {None: "null", True: "true or false", 0.5: "a fraction", "5": "a text"}
    for quantity, word in words.items():
        with pytest.raises(QuantityInvalid, match=f"calls: a quantity must be a whole number, not {word}$"):
            checked_quantity(quantity, "calls")
