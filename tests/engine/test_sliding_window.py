"""Prefixes are reused rightly where layers slide: gemma-3-270m, well beyond its window of 512 tokens.

Its cache can't be trimmed, and a snapshot holds the window only. The weights are widened to F32 for
these tests: in the file's own Q4_K_M another slicing of the same prompt moves logits by about 1,
which hides what is wrong; in F32 by 0.04 to 0.13, and a restored snapshot by 0.01.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from tests.engine.real import RealEngine

from takeoff.engine.llama.rows import Rows
from takeoff.request import SamplingParams

GREEDY = SamplingParams(temperature=0.0, max_new_tokens=24, ignore_eos=True)
ROUNDING = 0.25  # twice what another slicing moves a logit in F32
LICENSE = Path(__file__).parents[2] / "LICENSE"


@pytest.fixture(scope="module")
def gemma_f32(gemma_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("gemma") / "gemma-f32.gguf"
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.nthread = 0, True, 2  # LLAMA_FTYPE_ALL_F32
    assert llama_cpp.llama_model_quantize(str(gemma_path).encode(), str(path).encode(), params) == 0
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def text(gemma_path: Path) -> list[int]:
    """About two thousand tokens of English."""
    vocabulary = llama_cpp.Llama(str(gemma_path), vocab_only=True, verbose=False)
    token_ids = list(vocabulary.tokenize(LICENSE.read_bytes(), add_bos=False))
    vocabulary.close()
    assert len(token_ids) > 2_000
    return token_ids


@pytest.fixture(scope="module")
def fresh(gemma_f32: Path) -> Iterator[RealEngine]:
    """Computes every prompt from its beginning."""
    engine = RealEngine(gemma_f32, n_slots=2, n_ctx_slot=1024, cache_mb=0)
    yield engine
    engine.close()


@pytest.fixture
def reusing(gemma_f32: Path) -> Iterator[RealEngine]:
    engine = RealEngine(gemma_f32, n_slots=4, n_ctx_slot=1024, cache_mb=256)
    assert not engine.kernels.can_trim
    yield engine
    engine.close()


def cached_tokens(engine: RealEngine, request_id: int) -> int:
    return max(event.cached_tokens for event in engine.events[request_id])


def assert_same(fresh: RealEngine, prompt: list[int], reused: list[int]) -> None:
    """Token for token what a fresh prefill gives; where they part, it is a numeric tie."""
    number = len(fresh.events)
    expected = fresh.complete(number, prompt, GREEDY)
    assert len(expected) == len(reused) == 24
    for place, (right, ours) in enumerate(zip(expected, reused, strict=True)):
        if right != ours:
            token_ids = prompt + expected[:place]
            fresh.kernels.clear(0)
            logits = np.empty(0)
            for start in range(0, len(token_ids), 512):
                piece = token_ids[start : start + 512]
                logits = fresh.kernels.forward([Rows(0, start, piece, True)])[0].copy()
            fresh.kernels.clear(0)
            assert logits[right] - logits[ours] < ROUNDING, f"token {place} is another, and no tie"
            return


def test_the_next_turn_goes_on_from_the_snapshot_of_the_last(
    reusing: RealEngine, fresh: RealEngine, text: list[int]
) -> None:
    prompt = text[:700]
    answer = reusing.complete(1, prompt, GREEDY)
    assert_same(fresh, prompt, answer)
    turn = prompt + answer + text[1_500:1_560]
    reused = reusing.complete(2, turn, GREEDY)
    assert cached_tokens(reusing, 2) >= 700 + 23
    assert_same(fresh, turn, reused)


def test_a_follower_forks_from_its_leader_beyond_the_window(
    reusing: RealEngine, fresh: RealEngine, text: list[int]
) -> None:
    prompts = [text[300:950] + text[tail : tail + 40] for tail in (1_600, 1_700)]
    for number, prompt in enumerate(prompts):
        reusing.submit(number, prompt, GREEDY)
    reusing.run_until_idle()
    assert [cached_tokens(reusing, number) for number in (0, 1)] == [0, 650]
    for number, prompt in enumerate(prompts):
        assert_same(fresh, prompt, reusing.token_ids(number))


def test_the_third_prompt_forks_where_the_second_parted_from_the_first(
    reusing: RealEngine, fresh: RealEngine, text: list[int]
) -> None:
    prompts = [text[100:750] + text[tail : tail + 40] for tail in (1_300, 1_400, 1_800)]
    completions = [reusing.complete(number, prompt, GREEDY) for number, prompt in enumerate(prompts)]
    assert [cached_tokens(reusing, number) for number in range(3)] == [0, 0, 650]
    for prompt, completion in zip(prompts, completions, strict=True):
        assert_same(fresh, prompt, completion)
