"""What is learnt of the costs of calls, on machines of other kinds than the table's."""

from __future__ import annotations

import pytest

from takeoff.engine.step_costs import StepCosts


def learnt(steepness: float, *, scale: float = 1.0, calls: int = 20) -> StepCosts:
    """After `calls` decodes of one sequence and as many calls of 8 tokens, 1 + 2.5 * steepness each."""
    costs = StepCosts()
    for _ in range(calls):
        costs.learn_decode(1, 0.01 * scale)
        costs.learn(1, 8, 0.01 * scale * (1.0 + 2.5 * steepness))
    return costs


def test_nothing_is_known_before_the_first_decode() -> None:
    assert StepCosts().decode_s(1) is None
    assert learnt(1.0).decode_s(1) == pytest.approx(0.01)
    assert learnt(1.0).decode_s(2) is None


@pytest.mark.parametrize("steepness", [0.2, 1.0, 1.5])
@pytest.mark.parametrize("scale", [0.1, 30.0])
def test_a_cost_that_was_seen_is_known_and_others_are_guessed_from_it(steepness: float, scale: float) -> None:
    costs = learnt(steepness, scale=scale)
    assert costs.ratio(1, 8) == pytest.approx(1.0 + 2.5 * steepness, rel=0.02)
    assert costs.ratio(1, 16) == pytest.approx(1.0 + 4.6 * steepness, rel=0.06)
    assert costs.ratio(2, 8) == pytest.approx(1.0 + (5.6 / 1.9 - 1.0) * steepness, rel=0.06)


def test_costs_between_and_beyond_the_tables_rows_lie_on_lines() -> None:
    costs = StepCosts()
    assert costs.ratio(1, 1) == 1.0
    assert costs.ratio(1, 10) == pytest.approx((3.5 + 4.8) / 2)
    assert costs.ratio(1, 128) == pytest.approx(18.0 + 2 * (18.0 - 9.9))


def test_one_call_that_was_held_up_is_forgotten() -> None:
    costs = learnt(1.0)
    costs.learn(1, 8, 0.5)
    assert costs.ratio(1, 8) < 5.0
    for _ in range(400):
        costs.learn_decode(1, 0.01)
    assert costs.ratio(1, 8) == pytest.approx(3.5, rel=0.1)
