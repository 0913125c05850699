"""Threads give way when others hold the cores, come back when they are free, and never without need."""

from __future__ import annotations

from itertools import pairwise

import pytest

from takeoff.engine.crowding import (
    CROWDED_CALLS,
    LONGEST_PATIENCE_S,
    MARGIN,
    PATIENCE_S,
    TRIED_S,
    Crowding,
)


class Machine:
    """Calls on cores of which others hold some."""

    def __init__(self, most: int, *, is_watched: bool = True) -> None:
        self.now = self.used = 0.0
        self.free = most  # threads that nobody disturbs
        self.crowding = Crowding(
            most, is_watched=is_watched, clock=lambda: self.now, processor_clock=lambda: self.used
        )

    def call(self, wanted: int, seconds: float = 0.02) -> int:
        """Returns how many threads computed it; beyond the free ones it takes ten times as long."""
        with self.crowding.threads(wanted, seconds) as number:
            is_crowded = number > self.free
            self.now += seconds * (10 if is_crowded else 1)
            self.used += seconds * number
        return number

    def calls(self, wanted: int, number: int) -> list[int]:
        return [self.call(wanted) for _ in range(number)]

    def wait(self, seconds: float) -> None:
        """In which nothing is computed."""
        self.now += seconds


def test_while_the_cores_are_free_all_threads_compute() -> None:
    machine = Machine(8)
    assert machine.calls(8, 100) == [8] * 100
    assert machine.calls(4, 100) == [4] * 100


@pytest.mark.parametrize(
    ("free", "steps"), [(7, [8, 7]), (5, [8, 7, 4]), (1, [8, 7, 4, 1]), (0, [8, 7, 4, 1])]
)
def test_fewer_compute_until_nobody_is_disturbed(free: int, steps: list[int]) -> None:
    machine = Machine(8)
    machine.free = free
    expected = [number for number in steps[:-1] for _ in range(CROWDED_CALLS)] + [steps[-1]] * 5
    assert machine.calls(8, len(expected)) == expected


def test_one_call_that_was_held_up_is_no_crowd() -> None:
    machine = Machine(2)
    for _ in range(10):
        machine.free = 1
        machine.calls(2, CROWDED_CALLS - 1)
        machine.free = 2
        assert machine.calls(2, 3) == [2] * 3


def test_one_call_tries_whether_the_cores_are_free_again_and_then_all_threads_are_back() -> None:
    machine = Machine(2)
    machine.free = 1
    machine.calls(2, CROWDED_CALLS)
    assert machine.call(2) == 1
    machine.free = 2
    assert machine.call(2) == 1, "nobody is asked all the time"
    machine.wait(PATIENCE_S)
    assert machine.crowding.expected_s(0.02) == MARGIN * 0.02, "a call that tries is no hang"
    assert machine.calls(2, 10) == [2] * 10
    assert machine.crowding.expected_s(0.02) == 0.02


def test_who_tries_in_vain_waits_twice_as_long_for_the_next_time_up_to_a_minute() -> None:
    machine = Machine(2)
    machine.free = 1
    machine.calls(2, CROWDED_CALLS)
    tries = []
    while len(tries) < 9:
        at = machine.now
        if machine.call(2) == 2:
            tries.append(at)
    gaps = [later - earlier for earlier, later in pairwise(tries)]
    doubled = [min(PATIENCE_S * 2.0**number, LONGEST_PATIENCE_S) for number in range(1, 9)]
    assert gaps == pytest.approx(doubled, abs=0.3)


def test_long_and_short_calls_try_nothing_and_short_ones_tell_nothing() -> None:
    machine = Machine(2)
    machine.free = 1
    assert [machine.call(2, 0.0001) for _ in range(20)] == [2] * 20
    machine.calls(2, CROWDED_CALLS)
    machine.wait(PATIENCE_S)
    assert machine.call(2, 2 * TRIED_S) == 1
    assert machine.call(2) == 2


def test_a_short_call_that_tries_is_no_less_of_an_answer() -> None:
    machine = Machine(2)
    machine.free = 1
    machine.calls(2, CROWDED_CALLS)
    machine.free = 2
    machine.wait(PATIENCE_S)
    assert machine.call(2, 0.001) == 2
    assert machine.crowding.expected_s(0.02) == 0.02
    assert machine.calls(2, 3) == [2] * 3


def test_where_it_is_not_watched_all_compute_whatever_happens() -> None:
    machine = Machine(2, is_watched=False)
    machine.free = 0
    assert machine.calls(2, 20) == [2] * 20
