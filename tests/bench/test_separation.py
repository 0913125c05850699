"""A classifier that can't tell is told from one that can, also from one that can only a little."""

from __future__ import annotations

import random

import pytest

from takeoff.bench.separation import separation


def times(median: float, *, seed: int, num: int = 100) -> list[float]:
    draw = random.Random(seed)
    return [median * draw.lognormvariate(0.0, 0.2) for _ in range(num)]


def test_every_pair_is_compared_and_ties_count_half() -> None:
    found = separation([1.0, 2.0, 3.0], [2.0, 0.0])
    assert found.area == pytest.approx((0 + 1 + 0.5 + 1 + 1 + 1) / 6)
    assert found.num_cases == 5


def test_equal_counts_tell_nothing_for_sure() -> None:
    found = separation([0.0] * 30, [0.0] * 30)
    assert (found.area, found.low, found.high) == (0.5, 0.5, 0.5)


def test_cases_of_one_kind_are_chance_about_as_often_as_the_interval_says() -> None:
    found = [separation(times(0.2, seed=2 * n), times(0.2, seed=2 * n + 1)) for n in range(40)]
    assert sum(each.is_chance for each in found) >= 34


def test_a_tenth_of_a_difference_is_found_and_its_direction_counts() -> None:
    slow, fast = times(0.22, seed=1, num=400), times(0.2, seed=2, num=400)
    assert separation(slow, fast).low > 0.5
    assert separation(fast, slow).high < 0.5
    assert not separation(slow, fast).is_chance


def test_what_always_differs_has_all_of_the_area() -> None:
    found = separation(times(2.0, seed=1), times(0.2, seed=2))
    assert (found.area, found.low, found.high) == (1.0, 1.0, 1.0)


def test_without_cases_there_is_nothing_to_tell() -> None:
    with pytest.raises(ValueError, match="both kinds"):
        separation([], [1.0])
