"""A leak is found beneath noise, and noise alone is none."""

from __future__ import annotations

import random

import pytest

from takeoff.bench.slope import Sample, slope_of

BOUND = 5.0  # an hour


def samples(per_hour: float, *, seed: int, level: float = 300.0, minutes: int = 30) -> list[Sample]:
    """One every five seconds: a level, noise that lasts for some samples, and what grows."""
    draw = random.Random(seed)
    noise, found = 0.0, []
    for number in range(minutes * 12):
        noise = 0.7 * noise + draw.gauss(0.0, 1.0)
        found.append((5.0 * number, level + noise + per_hour * number * 5.0 / 3_600))
    return found


def test_a_planted_leak_is_found_with_its_size() -> None:
    slope = slope_of([samples(40.0, seed=1)], 120.0)
    assert not slope.is_flat(BOUND / 3_600)
    assert slope.low * 3_600 <= 40.0 <= slope.high * 3_600
    assert slope.margin * 3_600 < 10.0


def test_noise_alone_is_flat_and_seldom_taken_for_more() -> None:
    slopes = [slope_of([samples(0.0, seed=seed)], 120.0) for seed in range(100)]
    assert all(slope.is_flat(BOUND / 3_600) for slope in slopes)
    assert sum(slope.low > 0.0 or slope.high < 0.0 for slope in slopes) <= 12, "5 of 100 are to be expected"


def test_engines_one_after_the_other_have_one_slope_and_levels_of_their_own() -> None:
    """Each of five minutes at another level; together they would look like a leak, or hide one."""
    levels = (700.0, 650.0, 720.0, 690.0, 800.0, 810.0)
    steady = [samples(0.0, seed=seed, level=level, minutes=5) for seed, level in enumerate(levels)]
    leaking = [samples(300.0, seed=seed, level=level, minutes=5) for seed, level in enumerate(levels)]
    assert slope_of(steady, 30.0).is_flat(BOUND / 3_600)
    slope = slope_of(leaking, 30.0)
    assert slope.low * 3_600 > BOUND
    assert slope.low * 3_600 <= 300.0 <= slope.high * 3_600


def test_what_shrinks_is_no_leak() -> None:
    assert slope_of([samples(-40.0, seed=3)], 120.0).is_flat(0.0)


def test_of_too_few_samples_nothing_is_said() -> None:
    with pytest.raises(ValueError, match="too few"):
        slope_of([samples(0.0, seed=1)[:30]], 60.0)
