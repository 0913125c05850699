from __future__ import annotations

import itertools
import subprocess
import sys
from typing import IO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from takeoff.ipc.arena import ALIGNMENT_BYTES, Arena, Region, make_arena_file


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


DYING = """
import os, sys
from takeoff.ipc.arena import ALIGNMENT_BYTES, Arena
arena = Arena(8 * ALIGNMENT_BYTES, int(sys.argv[1]))
kept, freed, secret = arena.allocate(ALIGNMENT_BYTES + 5), arena.allocate(7), arena.allocate(9)
kept.data[:], freed.data[:], secret.data[:] = 1, 2, 3
arena.publish(kept, b"kept")
arena.publish(freed, b"freed")
arena.free(freed)
os.abort()
"""


def test_what_a_process_has_published_is_there_after_its_death_and_nothing_else() -> None:
    with shared(8 * ALIGNMENT_BYTES) as file:
        command = [sys.executable, "-c", DYING, str(file.fileno())]
        subprocess.run(command, pass_fds=[file.fileno()], check=False)
        arena = Arena(8 * ALIGNMENT_BYTES, file.fileno())
        ((region, note),) = arena.survivors
        assert note == b"kept"
        assert region.data.tolist() == [1] * (ALIGNMENT_BYTES + 5)
        assert arena.used_bytes == 3 * ALIGNMENT_BYTES, "two pages and its note"
        arena.free(region)
        assert arena.allocate(8 * ALIGNMENT_BYTES) is not None
        assert Arena(8 * ALIGNMENT_BYTES, file.fileno()).survivors == []


@pytest.mark.parametrize("word", ["offset", "num_bytes", "note_offset", "note_bytes", "checksum"])
@pytest.mark.parametrize("value", [0, 1, 4096, 2**32 - 1])
def test_an_entry_that_a_crash_wrote_over_is_not_believed(word: str, value: int) -> None:
    size = 8 * ALIGNMENT_BYTES
    with shared(size) as file:
        arena = Arena(size, file.fileno())
        regions = [arena.allocate(100) for _ in range(3)]
        for region in regions:
            assert region is not None
            arena.publish(region, b"a note")
        place = arena._published[regions[1]].place  # type: ignore[index]
        before = int(arena._directory[word][place])
        arena._directory[word][place] = value if value != before else value + 1
        after = Arena(size, file.fileno())
        whole = [region.offset for region, _ in after.survivors]
        assert len(whole) in (2, 3), "another length may be a true one"
        assert after.used_bytes == sum(2 * ALIGNMENT_BYTES for _ in whole)
        assert word == "num_bytes" or len(whole) == 2


def test_what_finds_no_room_for_its_note_is_kept_all_the_same_but_does_not_survive() -> None:
    with shared(2 * ALIGNMENT_BYTES) as file:
        arena = Arena(2 * ALIGNMENT_BYTES, file.fileno())
        region = arena.allocate(2 * ALIGNMENT_BYTES)
        assert region is not None
        arena.publish(region, b"a note")
        assert Arena(2 * ALIGNMENT_BYTES, file.fileno()).survivors == []
        arena.free(region)
        assert arena.used_bytes == 0


@given(st.lists(st.integers(-8, 5 * ALIGNMENT_BYTES), max_size=60))
def test_who_opens_it_next_finds_what_is_published_and_all_other_memory_free(steps: list[int]) -> None:
    """A positive step publishes so many bytes, another frees the oldest region."""
    size = 24 * ALIGNMENT_BYTES
    with shared(size) as file:
        arena = Arena(size, file.fileno())
        live: dict[Region, bytes] = {}
        for number, step in enumerate(steps):
            if step > 0 and (region := arena.allocate(step)) is not None:
                region.data[:] = number
                arena.publish(region, str(number).encode())
                if region in arena._published:
                    live[region] = str(number).encode()
                else:
                    arena.free(region)
            elif step <= 0 and live:
                region = next(iter(live))
                arena.free(region)
                del live[region]
        after = Arena(size, file.fileno())
        found = {(region.offset, region.data.tobytes(), note) for region, note in after.survivors}
        assert found == {(region.offset, region.data.tobytes(), note) for region, note in live.items()}
        assert after.used_bytes == arena.used_bytes
        for region, _ in after.survivors:
            after.free(region)
        assert after.allocate(size) is not None


def shared(size_bytes: int) -> IO[bytes]:
    file = make_arena_file(size_bytes)
    assert file is not None
    return file
