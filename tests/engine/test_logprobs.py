"""Logprobs are the model's own: as llama.cpp's logits give them, whatever else is asked of the sampler."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.engine.real import RealEngine

from takeoff.engine.logprobs import LEAST, OwnLogprobs, of_prompt
from takeoff.errors import InvalidRequest
from takeoff.request import SamplingParams, TokenLogprobs

SAME_ROWS = 1e-3  # of logits that the same kernels computed in calls of one shape
OTHER_ROWS = 0.25  # of logits computed in calls of other shapes: Q4_1 weights, activations in 8 bits
TEXT = "The quick brown fox jumps over the lazy dog. Paris is the capital of France, and Rome of"


@pytest.fixture(scope="module")
def engine(smollm2_path: Path) -> Iterator[RealEngine]:
    engine = RealEngine(smollm2_path, n_slots=4, n_ctx_slot=256)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def llama(smollm2_path: Path) -> Iterator[llama_cpp.Llama]:
    llama = llama_cpp.Llama(
        str(smollm2_path),
        n_ctx=256,
        n_batch=4,  # rows of a call: as many as the engine has slots
        n_threads=2,
        flash_attn=True,
        logits_all=True,
        verbose=False,
    )
    yield llama
    llama.close()


@pytest.fixture(scope="module")
def prompt(llama: llama_cpp.Llama) -> list[int]:
    return llama.tokenize(TEXT.encode(), add_bos=False)


def log_softmax(llama: llama_cpp.Llama, prompt: list[int], completion: list[int]) -> NDArray[np.float64]:
    """[num tokens, n_vocab]: of each row of llama.cpp's logits; the completion is computed token by token."""
    llama.reset()
    llama.eval(prompt)
    for token_id in completion:
        llama.eval([token_id])
    logits = np.array(llama.scores[: len(prompt) + len(completion)], np.float64)
    peaks = logits.max(axis=1, keepdims=True)
    return logits - peaks - np.log(np.exp(logits - peaks).sum(axis=1, keepdims=True))


def told(engine: RealEngine, request_id: int) -> list[TokenLogprobs]:
    return [each for event in engine.events[request_id] for each in event.logprobs]


def values(tokens: list[TokenLogprobs]) -> NDArray[np.float64]:
    """[n] the logprobs of the tokens; not of one that nothing comes before."""
    return np.array([each.token.logprob for each in tokens if each.token.logprob is not None])


def test_they_are_those_of_llama_cpps_own_logits(
    engine: RealEngine, llama: llama_cpp.Llama, prompt: list[int]
) -> None:
    params = SamplingParams(temperature=0, max_new_tokens=8, logprobs=5, prompt_logprobs=True)
    completion = engine.complete(1, prompt, params)
    tokens = told(engine, 1)
    assert [each.token.token_id for each in tokens] == [*prompt, *completion]
    assert tokens[0].token.logprob is None
    own = log_softmax(llama, prompt, completion)
    wanted = np.array([own[place - 1, each.token.token_id] for place, each in enumerate(tokens) if place])
    difference = np.abs(values(tokens) - wanted)
    print(f"largest difference from llama_cpp: {difference.max():.6f}")
    assert difference.max() < SAME_ROWS
    for each in tokens[1:]:
        logprobs = [other.logprob for other in each.top]
        assert len(logprobs) == 5
        assert logprobs == sorted(logprobs, reverse=True)  # type: ignore[type-var]
        assert max(logprobs) >= each.token.logprob  # type: ignore[type-var, operator]
    for each in tokens[len(prompt) :]:
        assert each.top[0] == each.token  # greedy: the likeliest came
    assert b"".join(each.token.piece for each in tokens[: len(prompt)]).decode() == TEXT


def test_they_are_equal_alone_and_in_a_batch(engine: RealEngine, prompt: list[int]) -> None:
    params = SamplingParams(
        temperature=0, max_new_tokens=6, logprobs=0, prompt_logprobs=True, ignore_eos=True
    )
    prompts = [prompt[: 5 + 3 * number] for number in range(5)]  # more than there are slots
    for number, each in enumerate(prompts):
        engine.complete(10 + number, each, params)
    for number, each in enumerate(prompts):
        engine.submit(20 + number, each, params)
    engine.run_until_idle()
    largest_of_prompts = largest = 0.0
    for number, each in enumerate(prompts):
        alone, beside = told(engine, 10 + number), told(engine, 20 + number)
        n = len(each)
        assert len(alone) == len(beside) == n + 6
        largest_of_prompts = max(largest_of_prompts, np.abs(values(alone[:n]) - values(beside[:n])).max())
        same = 0  # greedy completions of a small model may part at a near tie
        while same < 6 and alone[n + same].token.token_id == beside[n + same].token.token_id:
            same += 1
        assert same >= 1
        apart = np.abs(values(alone[n : n + same]) - values(beside[n : n + same]))
        largest = max(largest, apart.max())
    print(f"alone and in a batch: prompts {largest_of_prompts:.5f}, completions {largest:.5f}")
    assert largest_of_prompts < SAME_ROWS  # a prompt's rows are computed in calls of their own
    assert largest < OTHER_ROWS


def test_nothing_that_is_asked_of_the_sampler_changes_them(engine: RealEngine, prompt: list[int]) -> None:
    plain = SamplingParams(temperature=0, max_new_tokens=1, logprobs=20)
    engine.complete(30, prompt, plain)
    (own,) = told(engine, 30)
    third = own.top[2]
    for request_id, params in enumerate(
        (
            SamplingParams(temperature=0, max_new_tokens=1, logprobs=20, logit_bias={third.token_id: 100.0}),
            SamplingParams(
                temperature=0, max_new_tokens=1, logprobs=20, logit_bias={own.token.token_id: -100.0}
            ),
            SamplingParams(temperature=7.0, seed=1, max_new_tokens=1, logprobs=20, ignore_eos=True),
            SamplingParams(
                temperature=0, max_new_tokens=1, logprobs=20, repetition_penalty=1.7, presence_penalty=2
            ),
        ),
        start=31,
    ):
        engine.complete(request_id, prompt, params)
        (asked,) = told(engine, request_id)
        assert [(other.token_id, pytest.approx(other.logprob, abs=SAME_ROWS)) for other in own.top] == [
            (other.token_id, other.logprob) for other in asked.top
        ]
    (biased,) = told(engine, 31)
    assert biased.token == third._replace(logprob=biased.token.logprob)
    assert biased.token.logprob == pytest.approx(third.logprob, abs=SAME_ROWS)


@pytest.mark.parametrize("size", [1, 2, 4, 5, 8, 9, 17])
def test_a_prompt_of_any_length_is_told_whole_and_never_from_the_cache(
    engine: RealEngine, prompt: list[int], size: int
) -> None:
    params = SamplingParams(
        temperature=0, max_new_tokens=2, logprobs=1, prompt_logprobs=True, ignore_eos=True
    )
    for request_id in (100 + size, 200 + size):
        completion = engine.complete(request_id, prompt[:size], params)
        ids = [each.token.token_id for each in told(engine, request_id)]
        assert ids == [*prompt[:size], *completion]
        assert engine.events[request_id][0].cached_tokens == 0
    assert values(told(engine, 100 + size)) == pytest.approx(values(told(engine, 200 + size)), abs=SAME_ROWS)


def test_who_does_not_ask_is_told_nothing(engine: RealEngine, prompt: list[int]) -> None:
    engine.submit(300, prompt, SamplingParams(temperature=0, max_new_tokens=4))
    engine.submit(301, prompt, SamplingParams(temperature=0, max_new_tokens=4, logprobs=3))
    engine.run_until_idle()
    assert told(engine, 300) == []
    assert [len(each.top) for each in told(engine, 301)] == [3] * 4


def test_the_arithmetic_on_made_up_logits() -> None:
    logits = np.array([[0.0, math.log(2), math.log(5), -np.inf], [3.0, 3.0, 3.0, 3.0]], np.float32)
    own = OwnLogprobs(logits, 3, lambda token_id: bytes([65 + token_id]))
    told = own.of(0, 3, 3)
    assert told.token == (3, b"D", LEAST)
    assert [token.token_id for token in told.top] == [2, 1, 0]
    assert [token.logprob for token in told.top] == pytest.approx(
        [math.log(x / 8) for x in (5, 2, 1)], abs=1e-6
    )
    assert own.of(1, 2, 1).token.logprob == pytest.approx(math.log(1 / 4))
    assert own.of(0, 0, 0).top == ()
    assert of_prompt(logits, [], 2, lambda _: b"") == []


def test_their_number_is_bounded() -> None:
    for number in (-1, 21):
        with pytest.raises(InvalidRequest, match="logprobs must be between 0 and 20"):
            SamplingParams(logprobs=number)
    with pytest.raises(InvalidRequest, match="prompt_logprobs needs logprobs"):
        SamplingParams(prompt_logprobs=True)
