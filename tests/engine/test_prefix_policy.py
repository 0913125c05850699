"""What stays in a prefix cache that is small and full, under traffic of several kinds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.engine.prefix_traffic import Asked, Fresh, LongestUnused, Ours, in_turn, mixed, show
from tests.engine.real import RealEngine

from takeoff.request import SamplingParams


def test_a_second_conversation_is_found_at_its_second_turn_however_long_the_first_was() -> None:
    fresh, cache = Fresh(1), Ours(3_000)
    text = fresh(200, 201)
    for _ in range(9):
        cache.found(text)
        text = np.concatenate([text, fresh(280, 281)])
        cache.keep(text)
        assert cache.found(text) == len(text), "its last answer is asked for again"
    second = fresh(400, 401)
    assert cache.found(second) == 0
    cache.keep(second)
    assert cache.found(np.concatenate([second, fresh(50, 51)])) == 400


def test_a_second_conversation_is_found_on_real_weights(smollm2_path: Path) -> None:
    """In 8 MB, room for 360 tokens; the first conversation has most of it, and is asked for twice."""
    engine = RealEngine(smollm2_path, n_ctx_slot=512, cache_mb=8)
    params = SamplingParams(temperature=0.0, ignore_eos=True, max_new_tokens=20, seed=0)
    fresh = Fresh(100)
    text: list[int] = []
    for turn in range(6):
        text += [100 + token_id for token_id in fresh(30, 31).tolist()]
        engine.complete(20 + turn, text, params)
        text += engine.complete(turn, text, params)
    second = [100 + token_id for token_id in fresh(60, 61).tolist()]
    second += [*engine.complete(10, second, params), *text[:10]]
    engine.complete(11, second, params)
    engine.close()
    assert engine.events[25][0].cached_tokens == 5 * 50 - 1, "the first was found up to its last turn"
    assert engine.events[10][0].cached_tokens == 0
    assert engine.events[11][0].cached_tokens == 60 + 20 - 1


@pytest.mark.parametrize(
    ("num_tokens", "ours", "longest_unused"), [(3_000, 0.21, 0.13), (6_000, 0.23, 0.20), (12_000, 0.30, 0.28)]
)
def test_more_is_found_of_mixed_traffic_than_by_the_time_of_last_use(
    num_tokens: int, ours: float, longest_unused: float
) -> None:
    """A shared beginning, long prompts that come once, and conversations side by side."""

    def traffic() -> Iterator[Asked]:
        return mixed(600, shared=0.3, once=0.4, chats=6)

    seen = show(Ours(num_tokens), traffic())
    assert seen.share() > ours
    assert seen.share("shared") > 0.88, "all but the new tokens, after the first"
    assert show(LongestUnused(num_tokens), traffic()).share() < longest_unused


def test_what_is_shared_outlives_a_stream_of_long_prompts_that_come_once() -> None:
    def traffic() -> Iterator[Asked]:
        return mixed(600, shared=0.15, once=0.7, chats=4)

    assert show(Ours(6_000), traffic()).share("shared") > 0.85
    assert show(LongestUnused(6_000), traffic()).share("shared") < 0.5


def test_one_users_conversations_one_after_the_other_find_themselves() -> None:
    """Room is for little more than the longest of them."""
    seen = show(Ours(3_000), in_turn(600))
    assert seen.share("turn 1") == 0.0
    for turn in range(2, 12):
        assert seen.share(f"turn {turn}") > 0.85, f"turn {turn}"
