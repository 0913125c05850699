"""A leak is found in the process that has it, across restarts, and in nobody else."""

from __future__ import annotations

import random

import pytest

from takeoff.bench.growth import Holding, Look, growths

BOUNDS = {"memory_mb": 10.0 / 3_600, "descriptors": 6.0 / 3_600, "threads": 1.0 / 3_600}  # a second
MINUTES, EVERY_S, ENGINE_LIFE_S = 30, 5.0, 120.0


def soaked(
    *, front_mb: float = 0.0, engine_mb: float = 0.0, descriptors: float = 0.0, threads: float = 0.0
) -> list[Look]:
    """Half an hour of a server whose engine is killed every two minutes; growth is an hour's.

    Engines fill their caches in the first half minute, and come up at levels of their own.
    """
    draw = random.Random(5)
    looks: list[Look] = []
    levels = [draw.uniform(400, 500) for _ in range(100)]
    for number in range(int(MINUTES * 60 / EVERY_S)):
        at = number * EVERY_S
        hours = at / 3_600
        life, age = divmod(at, ENGINE_LIFE_S)
        engine = levels[int(life)] + min(age, 30.0) + engine_mb * age / 3_600 + draw.gauss(0.0, 0.5)
        present = [
            Holding(
                "front",
                1,
                75.0 + front_mb * hours + draw.gauss(0.0, 0.3),
                1.0,
                round(40 + descriptors * hours + draw.gauss(0.0, 5.0)),
                round(12 + threads * hours),
            ),
            Holding("engine", 100 + int(life), engine, 64.0, 12, 6),
        ]
        looks.append((at, present))
    return looks


def leaks(looks: list[Look]) -> set[tuple[str, str]]:
    found = growths(looks, BOUNDS, settle=30.0, block=30.0)
    assert len(found) == 2 * len(BOUNDS)
    assert all(each.slope is not None for each in found)
    return {(each.role, each.what) for each in found if each.is_leak}


def test_a_server_that_keeps_nothing_has_no_leak() -> None:
    assert leaks(soaked()) == set()


@pytest.mark.parametrize(
    ("planted", "where"),
    [
        ({"front_mb": 20.0}, ("front", "memory_mb")),
        ({"engine_mb": 60.0}, ("engine", "memory_mb")),
        ({"descriptors": 20.0}, ("front", "descriptors")),
        ({"threads": 10.0}, ("front", "threads")),
    ],
)
def test_a_planted_leak_is_found_where_it_is(planted: dict[str, float], where: tuple[str, str]) -> None:
    assert leaks(soaked(**planted)) == {where}


def test_of_a_short_life_nothing_is_said() -> None:
    found = growths(soaked()[:8], BOUNDS, settle=30.0, block=30.0)
    assert [each.slope for each in found] == [None] * 6
    assert not any(each.is_leak for each in found)
