from __future__ import annotations

import random
import statistics

import pytest

from takeoff.engine.call_cost import CallCost, Cost, Work, guessed

TRUE = Cost(fixed=0.010, per_token=0.002, per_pair=1e-6)


def seconds(work: Work, cost: Cost = TRUE) -> float:
    return sum(each * amount for each, amount in zip(cost, work, strict=True))


def some_work(rng: random.Random) -> Work:
    return Work.of([(rng.randrange(3_000), rng.randrange(16, 160))])


GUESSES = (Cost(0.005, 0.003, 1.5e-6), Cost(0.020, 0.0012, 4e-7))
ASKED = (Work.of([(0, 32)]), Work.of([(0, 160)]), Work.of([(2_500, 64)]))


def test_pairs_are_counted_from_the_first_position_of_each_slice() -> None:
    assert Work.of([(0, 4)]) == Work(1, 4, 0 + 1 + 2 + 3)
    assert Work.of([(100, 2), (7, 1)], calls=2) == Work(2, 3, 100 + 101 + 7)


@pytest.mark.parametrize("guess", GUESSES)
def test_three_costs_are_told_apart_from_calls_of_different_sizes_at_different_places(guess: Cost) -> None:
    rng, cost = random.Random(1), CallCost(guess)
    for _ in range(200):
        work = some_work(rng)
        cost.learn(work, seconds(work))
    for work in ASKED:
        assert cost.seconds(work) == pytest.approx(seconds(work), rel=0.05)


@pytest.mark.parametrize("guess", GUESSES)
def test_neither_noise_nor_disturbed_calls_lead_it_astray(guess: Cost) -> None:
    rng, cost = random.Random(1), CallCost(guess)
    errors = []
    for number in range(400):
        work = some_work(rng)
        took = seconds(work) * rng.lognormvariate(0.0, 0.05)
        cost.learn(work, 10 * took if rng.random() < 0.01 else took)
        if number >= 100:
            errors += [abs(cost.seconds(each) / seconds(each) - 1) for each in ASKED]
    assert statistics.median(errors) < 0.07
    assert statistics.quantiles(errors, n=20)[-1] < 0.25


def test_a_machine_that_slows_down_for_good_is_believed_within_some_calls() -> None:
    cost, work = CallCost(TRUE), Work.of([(1_000, 64)])
    for _ in range(50):
        cost.learn(work, seconds(work))
    for _ in range(50):
        cost.learn(work, 6 * seconds(work))
    assert cost.seconds(work) == pytest.approx(6 * seconds(work), rel=0.15)


def test_calls_of_always_the_same_size_leave_the_guess_to_say_what_is_fixed() -> None:
    guess = Cost(fixed=0.004, per_token=0.001, per_pair=1e-9)
    cost = CallCost(guess)
    work = Work.of([(0, 32)])
    for _ in range(100):
        cost.learn(work, 2 * seconds(work, guess))
    double = Work.of([(0, 64)])
    assert cost.seconds(double) == pytest.approx(2 * seconds(double, guess), rel=0.05)


def test_no_cost_becomes_negative_or_nothing() -> None:
    cost = CallCost(Cost(0.010, 0.001, 1e-6))
    rng = random.Random(2)
    for _ in range(200):
        cost.learn(Work.of([(rng.randrange(9_000), rng.randrange(1, 99))]), rng.uniform(1e-6, 1e-3))
    assert min(cost.now) > 0.0


def test_the_first_guess_is_of_two_calls() -> None:
    cost = guessed((2, 0.012), (32, 0.072))
    assert cost.per_token == pytest.approx(0.002)
    assert cost.fixed == pytest.approx(0.008)


def test_calls_that_tell_nonsense_still_make_a_guess_of_positive_costs() -> None:
    assert min(guessed((2, 0.050), (32, 0.020))) > 0.0
