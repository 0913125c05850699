from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from takeoff.engine.prefix_cache import PrefixCache, Scope, common_length
from takeoff.ipc.arena import ALIGNMENT_BYTES, Arena


def ids(*parts: range) -> NDArray[np.int32]:
    return np.concatenate([np.array(part, np.int32) for part in parts])


def make_cache(num_snapshots: int = 8, *, can_trim: bool = True) -> PrefixCache:
    return PrefixCache(Arena(num_snapshots * ALIGNMENT_BYTES), can_trim=can_trim)


EVERYONE = Scope("")


def keep(cache: PrefixCache, token_ids: NDArray[np.int32], scope: Scope = EVERYONE) -> None:
    entry = cache.reserve(scope, token_ids, ALIGNMENT_BYTES)
    assert entry is not None


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


def test_the_snapshot_used_longest_ago_is_evicted_first() -> None:
    cache = make_cache(2)
    keep(cache, ids(range(50)))
    keep(cache, ids(range(100, 150)))
    assert cache.find(EVERYONE, ids(range(50))) is not None
    keep(cache, ids(range(200, 250)))
    assert cache.find(EVERYONE, ids(range(50))) is not None
    assert cache.find(EVERYONE, ids(range(100, 150))) is None


def test_what_is_larger_than_the_arena_is_not_kept_and_evicts_nothing() -> None:
    cache = make_cache(2)
    keep(cache, ids(range(50)))
    assert cache.reserve(EVERYONE, ids(range(100, 150)), 3 * ALIGNMENT_BYTES) is None
    assert len(cache) == 1
