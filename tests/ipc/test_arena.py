from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from takeoff.ipc.arena import ALIGNMENT_BYTES, Arena, Region


def test_a_region_holds_what_was_written_and_no_neighbour_touches_it() -> None:
    arena = Arena(4 * ALIGNMENT_BYTES)
    first, second = arena.allocate(100), arena.allocate(ALIGNMENT_BYTES + 1)
    assert first is not None
    assert second is not None
    first.data[:], second.data[:] = 1, 2
    assert (len(first.data), len(second.data)) == (100, ALIGNMENT_BYTES + 1)
    assert first.data.min() == first.data.max() == 1
    assert arena.used_bytes == 3 * ALIGNMENT_BYTES


def test_freed_neighbours_become_one_gap_again() -> None:
    arena = Arena(3 * ALIGNMENT_BYTES)
    regions = [arena.allocate(ALIGNMENT_BYTES) for _ in range(3)]
    assert arena.allocate(1) is None
    for i in (0, 2, 1):
        region = regions[i]
        assert region is not None
        arena.free(region)
    assert arena.used_bytes == 0
    assert arena.allocate(3 * ALIGNMENT_BYTES) is not None


def test_an_arena_of_no_bytes_has_no_room() -> None:
    assert Arena(0).allocate(1) is None


@given(st.lists(st.integers(-8, 5 * ALIGNMENT_BYTES), max_size=60))
def test_regions_never_overlap_and_all_memory_comes_back(steps: list[int]) -> None:
    """A positive step allocates so many bytes, another frees the oldest region."""
    arena = Arena(16 * ALIGNMENT_BYTES)
    live: list[Region] = []
    for step in steps:
        if step > 0 and (region := arena.allocate(step)) is not None:
            live.append(region)
        elif step <= 0 and live:
            arena.free(live.pop(0))
        spans = sorted((region.offset, region.offset + region.reserved_bytes) for region in live)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
        assert arena.used_bytes == sum(region.reserved_bytes for region in live) <= arena.size_bytes
    for region in live:
        arena.free(region)
    assert arena.allocate(arena.size_bytes) is not None
