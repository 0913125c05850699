from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from takeoff.engine.prefix_cache import PrefixCache, Scope, common_length
from takeoff.ipc.arena import ALIGNMENT_BYTES, Arena


def ids(*parts: range) -> NDArray[np.int32]:
    return np.concatenate([np.array(part, np.int32) for part in parts])


def make_cache(num_pages: int = 8, *, can_trim: bool = True) -> PrefixCache:
    return PrefixCache(Arena(num_pages * ALIGNMENT_BYTES), can_trim=can_trim)


EVERYONE = Scope("")


def keep(
    cache: PrefixCache, token_ids: NDArray[np.int32], scope: Scope = EVERYONE, num_pages: int = 1
) -> None:
    entry = cache.reserve(scope, token_ids, num_pages * ALIGNMENT_BYTES)
    assert entry is not None


def want(cache: PrefixCache, token_ids: NDArray[np.int32]) -> None:
    match = cache.find(EVERYONE, token_ids)
    assert match is not None
    cache.use(match)


def test_common_length_counts_leading_equal_tokens() -> None:
    assert common_length(ids(range(10)), ids(range(10))) == 10
    assert common_length(ids(range(10)), ids(range(4), range(9, 12))) == 4
    assert common_length(ids(range(10)), ids(range(3))) == 3
    assert common_length(ids(range(1, 5)), ids(range(5))) == 0


def test_the_longest_match_wins_and_is_cut_to_what_is_shared() -> None:
    cache = make_cache()
    keep(cache, ids(range(40), range(100, 120)))
    keep(cache, ids(range(30), range(200, 260)))
    match = cache.find(EVERYONE, ids(range(40), range(300, 400)))
    assert match is not None
    assert match.length == 40


def test_less_than_sixteen_tokens_are_no_match() -> None:
    cache = make_cache()
    keep(cache, ids(range(100)))
    assert cache.find(EVERYONE, ids(range(15), range(500, 600))) is None
    assert cache.find(EVERYONE, ids(range(16), range(500, 600))) is not None


@pytest.mark.parametrize("other", [Scope("b", "legal"), Scope("a", "medical"), Scope("a")])
def test_the_prefix_of_another_tenant_or_adapter_is_no_match(other: Scope) -> None:
    cache = make_cache()
    keep(cache, ids(range(100)), Scope("a", "legal"))
    assert cache.find(other, ids(range(100))) is None
    assert not cache.covers(other, ids(range(100)))
    keep(cache, ids(range(120)), other)
    assert cache.covers(Scope("a", "legal"), ids(range(100))), "it was not replaced by the other's longer one"


def test_without_trimming_only_whole_snapshots_match() -> None:
    cache = make_cache(can_trim=False)
    keep(cache, ids(range(50)))
    assert cache.find(EVERYONE, ids(range(49))) is None
    match = cache.find(EVERYONE, ids(range(60)))
    assert match is not None
    assert match.length == 50
    assert cache.longest_common(EVERYONE, ids(range(49))) == 49


def test_a_longer_snapshot_replaces_the_shorter_ones_it_begins_with() -> None:
    cache = make_cache()
    keep(cache, ids(range(50)))
    keep(cache, ids(range(80)))
    assert len(cache) == 1
    assert cache.covers(EVERYONE, ids(range(50)))


def test_the_snapshot_wanted_longest_ago_is_evicted_first() -> None:
    cache = make_cache(2)
    for start in (0, 100):
        keep(cache, ids(range(start, start + 50)))
    want(cache, ids(range(50)))
    keep(cache, ids(range(200, 250)))
    assert cache.find(EVERYONE, ids(range(50))) is not None
    assert cache.find(EVERYONE, ids(range(100, 150))) is None
    assert cache.num_evicted == 1


def test_long_answers_that_nobody_asks_for_again_drive_out_each_other_and_not_the_system_prompt() -> None:
    """The prompt is asked for at every twentieth, and room is for five, beside it."""
    cache = make_cache(27)  # pages of 400 tokens
    system = ids(range(800))
    keep(cache, np.append(system, np.int32(7_000)), num_pages=2)
    for number in range(60):
        if number % 20 == 0:
            want(cache, np.append(system, np.int32(8_000 + number)))
        answer = ids(range(10_000 * (number + 1), 10_000 * (number + 1) + 2_000))
        keep(cache, answer, num_pages=5)
        assert cache.covers(EVERYONE, answer), "the last answer is kept: its conversation may go on"
        assert cache.longest_common(EVERYONE, system) == 800
    assert cache.num_evicted == 55


def test_the_last_snapshot_with_a_shared_prefix_is_worth_that_prefix() -> None:
    cache = make_cache(3)
    system = ids(range(400))
    for tail in (1_000, 2_000):
        keep(cache, np.append(system, ids(range(tail, tail + 20))))
    keep(cache, ids(range(5_000, 5_300)))
    keep(cache, ids(range(6_000, 6_300)))
    assert cache.longest_common(EVERYONE, ids(range(5_000, 5_300))) == 300, "one of the two went first"
    assert cache.longest_common(EVERYONE, system) == 400
    keep(cache, ids(range(7_000, 7_300)))
    assert cache.longest_common(EVERYONE, system) == 400, "now 420 tokens would be lost, not 20"
    assert cache.longest_common(EVERYONE, ids(range(5_000, 5_300))) == 0


def test_a_newcomer_takes_the_less_valuable_half_at_most_unless_somebody_waits_for_it() -> None:
    cache = make_cache(4)
    for start, times in ((0, 9), (1_000, 3), (2_000, 2), (3_000, 1)):
        keep(cache, ids(range(start, start + 500)))
        for _ in range(times):
            want(cache, ids(range(start, start + 500)))
    large = ids(range(5_000, 5_300))
    assert cache.reserve(EVERYONE, large, 3 * ALIGNMENT_BYTES) is None
    assert len(cache) == 4, "nothing went for what was not kept"
    keep(cache, large, num_pages=2)
    assert cache.covers(EVERYONE, ids(range(500)))
    assert cache.covers(EVERYONE, ids(range(1_000, 1_500)))
    keep(cache, ids(range(500), range(9_000, 9_020)))  # takes the place of what it covers
    assert cache.reserve(EVERYONE, ids(range(6_000, 6_300)), 4 * ALIGNMENT_BYTES, is_awaited=True) is not None


def test_what_was_wanted_often_but_long_ago_gives_way_to_what_comes_in() -> None:
    cache = make_cache(2)
    old, new = ids(range(500)), ids(range(1_000, 1_500))
    keep(cache, old)
    for _ in range(3):
        want(cache, old)
    refused = 0
    while cache.reserve(EVERYONE, new, 2 * ALIGNMENT_BYTES) is None:
        refused += 1
    assert refused == 11, "it was worth eight times as much per byte, and a half-life is four arenas"


def test_what_is_larger_than_the_arena_is_not_kept_and_evicts_nothing() -> None:
    cache = make_cache(2)
    keep(cache, ids(range(50)))
    assert cache.reserve(EVERYONE, ids(range(100, 150)), 3 * ALIGNMENT_BYTES) is None
    assert len(cache) == 1
