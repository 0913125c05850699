"""Several engines told as one: what was done only grows, whoever comes and goes; states don't."""

from __future__ import annotations

import pytest

from takeoff.cluster import beats
from takeoff.cluster.beats import Beats
from takeoff.ipc.messages import Heartbeat


def beat(steps: int, *, running: int = 0, step_s: float = 0.0, cache: float = 0.0) -> Heartbeat:
    counters = {"decode_calls": float(steps), "prefill_tokens": 10.0 * steps, "cache_bytes": cache}
    return Heartbeat(steps, step_s, running, running + 1, counters)


def sums(taken: Beats) -> tuple[int, float, float]:
    total = taken.total()
    return total.steps, total.counters["decode_calls"], total.counters["prefill_tokens"]


def test_without_a_beat_there_is_nothing() -> None:
    total = Beats().total()
    assert (total.steps, total.step_running_s, total.running, total.waiting) == (0, 0.0, 0, 0)
    assert set(total.counters.values()) == {0.0}


def test_sums_and_states_of_all_are_added_and_the_longest_step_is_told() -> None:
    taken = Beats()
    taken.take("a", beat(5, running=1, step_s=0.5, cache=100))
    taken.take("b", beat(7, running=2, step_s=0.2, cache=50))
    total = taken.total()
    assert sums(taken) == (12, 12.0, 120.0)
    assert (total.running, total.waiting, total.step_running_s) == (3, 5, 0.5)
    assert total.counters["cache_bytes"] == 150.0


def test_a_beat_that_is_taken_again_adds_nothing() -> None:
    taken = Beats()
    for _ in range(3):
        taken.take("a", beat(5, running=1))
    assert sums(taken) == (5, 5.0, 50.0)
    assert taken.total().running == 1


def test_what_a_replica_has_done_stays_done_when_it_goes_and_its_state_goes_with_it() -> None:
    taken = Beats()
    taken.take("a", beat(5, running=1, cache=100))
    taken.take("b", beat(7, running=2, cache=50))
    taken.keep({"b"})
    assert sums(taken) == (12, 12.0, 120.0)
    assert (taken.total().running, taken.total().counters["cache_bytes"]) == (2, 50.0)
    taken.keep(set())
    assert sums(taken) == (12, 12.0, 120.0)
    assert taken.total().running == 0
    taken.take("c", beat(3))
    assert sums(taken) == (15, 15.0, 150.0)


def test_an_engine_that_began_anew_adds_all_that_it_has_done() -> None:
    taken = Beats()
    seen = []
    for steps in (5, 9, 2, 3, 0, 4):
        taken.take("a", beat(steps))
        seen.append(taken.total().steps)
    assert seen == [5, 9, 11, 12, 12, 16]
    assert sums(taken) == (16, 16.0, 160.0)


def test_a_replica_that_comes_back_is_not_summed_twice() -> None:
    taken = Beats()
    taken.take("a", beat(5, running=1))
    taken.keep(set())
    taken.take("a", beat(6, running=1))
    assert sums(taken) == (6, 6.0, 60.0)
    assert taken.total().running == 1


def test_of_those_that_are_gone_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beats, "MOST_GONE", 3)
    taken = Beats()
    for number in range(10):
        taken.take(f"r{number}", beat(1))
        taken.keep({"r0", f"r{number}"})
    assert list(taken._last) == ["r0", "r6", "r7", "r8", "r9"]
    assert sums(taken) == (10, 10.0, 100.0)
