from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from takeoff.engine.randomness import uniform
from takeoff.engine.sampler import Sampler, SamplingState
from takeoff.engine.sampling_filters import draw
from takeoff.request import SamplingParams

PLAIN = SamplingParams(seed=3)


def reference_probabilities(row: NDArray[np.float32], params: SamplingParams) -> NDArray[np.float64]:
    """Temperature, top-k, top-p, min-p, written plainly: sort everything, in float64."""
    logits = row.astype(np.float64) / params.temperature
    if 0 < params.top_k < len(row):
        logits[logits < np.sort(logits)[-params.top_k]] = -np.inf
    weights = np.exp(logits - logits.max())
    order = np.argsort(-weights, kind="stable")
    if params.top_p < 1.0:
        shares = np.cumsum(weights[order]) / weights.sum()
        weights[order[int(np.argmax(shares >= params.top_p)) + 1 :]] = 0.0
    weights[weights < params.min_p] = 0.0
    probabilities: NDArray[np.float64] = weights / weights.sum()
    return probabilities


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    top_k=st.sampled_from([0, 1, 5, 50]),
    top_p=st.sampled_from([0.2, 0.9, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5]),
    temperature=st.sampled_from([0.3, 1.0, 3.0]),
)
def test_draws_follow_the_exact_distribution(
    seed: int, top_k: int, top_p: float, min_p: float, temperature: float
) -> None:
    row = np.random.default_rng(seed).normal(0, 3, 1_000).astype(np.float32)
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    expected = reference_probabilities(row, params)
    chosen = [draw(row, params, (i + 0.5) / 400) for i in range(400)]
    counts = np.bincount([token for token in chosen if token is not None], minlength=1_000)
    # A grid of 400 points gives each token its share to within one point.
    assert np.abs(counts - 400 * expected).max() <= 1.001


@pytest.mark.parametrize("spread", [0.3, 3.0], ids=["flat", "peaked"])
@pytest.mark.parametrize("top_p", [0.1, 0.9, 1.0])
def test_a_large_vocabulary_is_filtered_like_a_small_one(spread: float, top_p: float) -> None:
    """Above 4,096 tokens other code finds the nucleus and the draw; of equal logits the order counts."""
    row = np.random.default_rng(5).normal(0, spread, 30_000).round(2).astype(np.float32)
    params = SamplingParams(temperature=0.9, top_p=top_p)
    expected = reference_probabilities(row, params)
    ends = np.cumsum(expected)
    wrong = []
    for i in range(400):
        u = (i + 0.5) / 400
        token = draw(row, params, u)
        assert token is not None
        if not ends[token] - expected[token] - 1e-6 <= u <= ends[token] + 1e-6:
            wrong.append((u, token))
    assert wrong == []


def test_the_last_random_number_below_one_draws_a_token_that_has_a_share() -> None:
    row = np.full(30_000, -np.inf, np.float32)
    row[[7, 20_000]] = 1.0
    for top_k in (0, 5):
        params = SamplingParams(top_k=top_k)
        assert [draw(row, params, u) for u in (0.0, np.nextafter(1.0, 0.0))] == [7, 20_000]


def test_a_row_is_chosen_alike_alone_and_in_any_batch() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(0, 4, (12, 3_000)).astype(np.float32)
    params = [
        SamplingParams(seed=i, temperature=0.8, top_k=[0, 40][i % 2], top_p=0.95, repetition_penalty=1.2)
        for i in range(12)
    ]
    prompt = [1, 2, 3]
    sampler = Sampler(3_000, [0])
    together = sampler.sample(rows.copy(), [SamplingState(each, prompt, 3_000) for each in params])
    alone = [
        sampler.sample(rows[i : i + 1].copy(), [SamplingState(params[i], prompt, 3_000)])[0]
        for i in range(12)
    ]
    assert together == alone


def test_random_numbers_depend_on_seed_and_position_alone() -> None:
    assert uniform(7, 5) == uniform(7, 5) != uniform(7, 6) != uniform(8, 5)
    # Philox4x64-10, key 0, counter 1: the first word of its output.
    assert uniform(0, 0) == (int(np.random.Philox(key=0, counter=0).random_raw()) >> 11) / 2**53


def choose(row: list[float], params: SamplingParams, prompt: list[int], completion: list[int]) -> int | None:
    state = SamplingState(params, prompt, len(row))
    for token_id in completion:
        state.append(token_id)
    return Sampler(len(row), [0]).sample(np.array([row], np.float32), [state])[0]


GREEDY = SamplingParams(temperature=0.0)


def test_greedy_takes_the_largest_and_of_equals_the_lowest_id() -> None:
    assert choose([0, 1, 5, 5], GREEDY, [], []) == 2


def test_repetition_counts_prompt_and_completion_presence_and_frequency_the_completion() -> None:
    row = [0.0, 2.0, 1.9, -1.0]
    assert choose(row, replace(GREEDY, repetition_penalty=1.5), [1], []) == 2
    assert choose(row, replace(GREEDY, presence_penalty=0.5), [1], []) == 1
    assert choose(row, replace(GREEDY, presence_penalty=0.5), [], [1]) == 2
    assert choose([0, 2.0, 1.0], replace(GREEDY, frequency_penalty=0.4), [], [1, 1]) == 1
    assert choose([0, 2.0, 1.0], replace(GREEDY, frequency_penalty=0.4), [], [1, 1, 1]) == 2


def test_no_ngram_occurs_twice_unless_nothing_else_is_left() -> None:
    params = replace(GREEDY, no_repeat_ngram_size=2)
    assert choose([0, 1, 5, 2], params, [1, 2], [1]) == 3
    assert choose([-np.inf, -np.inf, 5, -np.inf], params, [1, 2], [1]) == 2


def test_the_end_of_text_is_banned_before_the_minimum_and_when_ignored() -> None:
    row = [9.0, 1.0]
    assert choose(row, replace(GREEDY, min_new_tokens=2, max_new_tokens=9), [], [1]) == 1
    assert choose(row, replace(GREEDY, min_new_tokens=2, max_new_tokens=9), [], [1, 1]) == 0
    assert choose(row, replace(GREEDY, ignore_eos=True), [], [1] * 50) == 1


def test_biases_move_the_choice_and_broken_rows_choose_nothing() -> None:
    assert choose([0, 1, 5], replace(GREEDY, logit_bias={1: 1e9}), [], []) == 1
    assert choose([0, 1, 5], replace(GREEDY, logit_bias={2: -1e9}), [], []) == 1
    assert choose([0, np.nan, 5], GREEDY, [], []) is None
    assert choose([-np.inf] * 3, PLAIN, [], []) is None
