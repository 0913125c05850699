"""What stays in a prefix cache that is small and full, under traffic of several kinds."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from tests.engine.prefix_traffic import Asked, Fresh, LongestUnused, Ours, in_turn, mixed, show


def test_a_second_conversation_is_found_at_its_second_turn_however_long_the_first_was() -> None:
    fresh, cache = Fresh(1), Ours(3_000)
    text = fresh(200, 201)
    for _ in range(8):
        cache.found(text)
        text = np.concatenate([text, fresh(280, 281)])
        cache.keep(text)
    second = fresh(400, 401)
    assert cache.found(second) == 0
    cache.keep(second)
    assert cache.found(np.concatenate([second, fresh(50, 51)])) == 400


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
