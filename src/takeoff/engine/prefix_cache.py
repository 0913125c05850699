"""Snapshots of computed prefixes in RAM, found by their tokens, evicted least recently used first.

A snapshot is the state of a slot as llama.cpp writes it. Restoring 1,500 tokens (35 MB) costs 3 ms
where computing them costs seconds, so a prefix that was computed once is not computed again.
Prefixes are reused within one scope only: nobody can time another's prompts, and keys and values that
were computed with one adapter are wrong under any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from takeoff.ipc.arena import Arena, Region

MIN_SHARED_TOKENS = 16  # fewer are computed again as fast as they are restored


class Scope(NamedTuple):
    """Within what computed tokens are reused: one tenant, and one adapter or none."""

    tenant: str
    lora: str | None = None


@dataclass(eq=False, slots=True)
class Entry:
    """One snapshot: `token_ids` [n] int32 are the tokens that may be reused from it."""

    scope: Scope
    token_ids: NDArray[np.int32]
    region: Region


@dataclass(frozen=True, slots=True)
class Match:
    """`entry` holds the first `length` tokens of what was looked up."""

    entry: Entry
    length: int


def common_length(a: NDArray[np.int32], b: NDArray[np.int32]) -> int:
    """How many leading tokens `a` [n] and `b` [m] share."""
    size = min(len(a), len(b))
    different = np.flatnonzero(a[:size] != b[:size])
    return int(different[0]) if len(different) else size


class PrefixCache:
    """Snapshots in an arena. `can_trim` is the model's: without it only whole snapshots match."""

    def __init__(self, arena: Arena, *, can_trim: bool) -> None:
        self._arena = arena
        self._can_trim = can_trim
        self._entries: dict[Entry, None] = {}  # in order of use: the first was used longest ago

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def used_bytes(self) -> int:
        return self._arena.used_bytes

    def find(self, scope: Scope, token_ids: NDArray[np.int32]) -> Match | None:
        """The entry that saves most of computing `token_ids` [n]; at least MIN_SHARED_TOKENS."""
        best: Match | None = None
        for entry in self._of(scope):
            length = common_length(entry.token_ids, token_ids)
            if not self._can_trim and length < len(entry.token_ids):
                continue
            if length >= MIN_SHARED_TOKENS and (best is None or length > best.length):
                best = Match(entry, length)
        if best is not None:
            self._touch(best.entry)
        return best

    def longest_common(self, scope: Scope, token_ids: NDArray[np.int32]) -> int:
        """Tokens that `token_ids` [n] shares with any entry, whether it can be reused there or not."""
        return max((common_length(entry.token_ids, token_ids) for entry in self._of(scope)), default=0)

    def covers(self, scope: Scope, token_ids: NDArray[np.int32]) -> bool:
        """Whether storing `token_ids` [n] would add nothing."""
        match = self.find(scope, token_ids) if len(token_ids) >= MIN_SHARED_TOKENS else None
        return match is not None and match.length == len(token_ids)

    def reserve(self, scope: Scope, token_ids: NDArray[np.int32], num_bytes: int) -> Entry | None:
        """Make room for a snapshot of `token_ids` [n], evicting what was used longest ago.

        The caller writes the snapshot into `entry.region.data` at once. None: larger than the arena.
        """
        if num_bytes > self._arena.size_bytes:
            return None
        if self._can_trim:  # a longer snapshot can stand in for every shorter one
            for entry in self._of(scope):
                if common_length(entry.token_ids, token_ids) == len(entry.token_ids):
                    self.discard(entry)
        while (region := self._arena.allocate(num_bytes)) is None:
            self.discard(next(iter(self._entries)))
        entry = Entry(scope, token_ids, region)
        self._entries[entry] = None
        return entry

    def discard(self, entry: Entry) -> None:
        del self._entries[entry]
        self._arena.free(entry.region)

    def _of(self, scope: Scope) -> list[Entry]:
        return [entry for entry in self._entries if entry.scope == scope]

    def _touch(self, entry: Entry) -> None:
        self._entries[entry] = self._entries.pop(entry)
