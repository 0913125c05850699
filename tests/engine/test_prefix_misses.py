from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from takeoff.engine.prefix_cache import Scope
from takeoff.engine.prefix_misses import MAX_EVICTED_BLOCKS, Miss, PrefixMemory
from takeoff.observe.misses import MissReason, diverged_below

A, B = Scope("a"), Scope("b")


def ids(*parts: range) -> NDArray[np.int32]:
    return np.concatenate([np.array(part, np.int32) for part in parts])


def test_every_token_that_was_missed_has_one_reason() -> None:
    memory = PrefixMemory()
    memory.note_evicted(A, ids(range(96)))
    memory.keep(None, ids(range(160)))
    assert memory.explain(A, None, ids(range(200)), found=32, common=64) == [
        Miss(MissReason.WINDOW, 32, 32),
        Miss(MissReason.EVICTED, 64, 32),
        Miss(MissReason.OTHER_TENANT, 96, 64),
        Miss(MissReason.DIVERGED, 160, 40),
    ]


def test_a_prompt_that_was_found_as_a_whole_is_no_miss() -> None:
    assert PrefixMemory().explain(A, None, ids(range(100)), found=100, common=100) == []


def test_too_few_tokens_are_short_whether_of_the_prompt_or_in_common() -> None:
    memory = PrefixMemory()
    assert memory.explain(A, None, ids(range(15)), found=0, common=0) == [Miss(MissReason.SHORT, 0, 15)]
    assert memory.explain(A, None, ids(range(90)), found=0, common=9) == [Miss(MissReason.SHORT, 0, 90)]
    assert memory.explain(A, None, ids(range(90)), found=0, common=0) == [Miss(MissReason.DIVERGED, 0, 90)]


def test_what_was_evicted_of_one_tenant_or_is_kept_with_an_adapter_explains_no_other_miss() -> None:
    memory = PrefixMemory()
    memory.note_evicted(B, ids(range(100)))
    memory.keep("legal", ids(range(100)))
    assert [miss.reason for miss in memory.explain(A, None, ids(range(100)), found=0, common=0)] == [
        MissReason.DIVERGED
    ]
    reasons = [miss.reason for miss in memory.explain(A, "legal", ids(range(100)), found=0, common=0)]
    assert reasons == [MissReason.OTHER_TENANT, MissReason.DIVERGED]


def test_what_is_dropped_is_nobodys_any_more() -> None:
    memory = PrefixMemory()
    for _ in range(2):
        memory.keep(None, ids(range(64)))
    memory.drop(None, ids(range(64)))
    first = memory.explain(A, None, ids(range(64)), found=0, common=0)
    memory.drop(None, ids(range(64)))
    second = memory.explain(A, None, ids(range(64)), found=0, common=0)
    assert [first[0].reason, second[0].reason] == [MissReason.OTHER_TENANT, MissReason.DIVERGED]


def test_the_memory_of_what_was_evicted_is_bounded_and_forgets_the_oldest() -> None:
    memory = PrefixMemory()
    memory.note_evicted(A, ids(range(160)))
    memory.note_evicted(A, np.arange(1_000, 1_000 + 16 * MAX_EVICTED_BLOCKS, dtype=np.int32))
    assert memory.explain(A, None, ids(range(160)), found=0, common=0)[0].reason is MissReason.DIVERGED
    assert len(memory._evicted) == MAX_EVICTED_BLOCKS


def test_places_of_parting_are_counted_in_buckets() -> None:
    assert [diverged_below(place) for place in (0, 15, 16, 800, 20_000)] == ["16", "16", "64", "1024", "inf"]
