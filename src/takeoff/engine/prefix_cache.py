"""Snapshots of computed prefixes in RAM, found by their tokens; the least value per byte goes first.

A snapshot is the state of a slot as llama.cpp writes it. Restoring 1,500 tokens (35 MB) costs 3 ms
where computing them costs seconds, so a prefix that was computed once is not computed again.
Prefixes are reused within one scope only: nobody can time another's prompts, and keys and values that
were computed with one adapter are wrong under any other.

In an arena that outlives its engine the next engine finds them again; what each was worth is forgotten.

    value per byte = sum over the tokens that no other snapshot gives of
                     (times it was wanted, each halved with every half-life since) / bytes of the snapshot

A half-life is four times as many bytes of new snapshots as the arena holds. Seconds would not do: a busy
server would remember what is over for a thousand requests, and an idle one forget what comes back next. A
snapshot that takes the place of shorter ones begins anew: if a conversation were worth more for each turn
that it had, new ones would find no room beside the old.

Nobody knows yet what a newcomer is worth. So it may drive out what is worth more, down to half of the
arena: there the next turn of a new conversation finds its beginning. The more valuable half stays, so that a
long text which nobody asks for again throws out no system prompt that is in use. A newcomer for which that
is not room enough is not kept, unless somebody waits for it; but the others age by it as if it were.

Sources: Cherkasova 1998, "Improving WWW Proxies Performance with Greedy-Dual-Size-Frequency Caching
Policy", for ages that are counted in what came in; Karedla et al. 1994, "Caching strategies to improve disk
system performance", for a part of the cache that newcomers can't reach.
"""

from __future__ import annotations

import heapq
import logging
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from takeoff.engine.prefix_misses import PrefixMemory
from takeoff.engine.prefix_tree import PrefixTree, common_length
from takeoff.ipc.arena import Arena, Region

__all__ = ["MIN_SHARED_TOKENS", "Entry", "Match", "PrefixCache", "Scope", "common_length"]

MIN_SHARED_TOKENS = 16  # fewer are computed again as fast as they are restored
HALF_LIFE_FILLS = 4.0  # arenas full of new snapshots
PROTECTED_SHARE = 0.5  # of the arena, that a newcomer of less value leaves alone

logger = logging.getLogger(__name__)


class Scope(NamedTuple):
    """Within what computed tokens are reused: one tenant, and one adapter or none.

    `decoded_from`, where that makes other bits: how many of the first tokens were computed as a prompt is,
    the others one by one. None: it makes none, or all are a prompt's.
    """

    tenant: str
    lora: str | None = None
    decoded_from: int | None = None


@dataclass(eq=False, slots=True)
class Entry:
    """One snapshot: `token_ids` [n] int32 are the tokens that may be reused from it."""

    scope: Scope
    token_ids: NDArray[np.int32]
    region: Region
    num_positions: int  # that the snapshot has: a few more, perhaps, than may be reused
    num_readers: int = 0  # threads that read the region now: it is freed after the last
    is_discarded: bool = False


@dataclass(frozen=True, slots=True)
class Match:
    """`entry` holds the first `length` tokens of what was looked up."""

    entry: Entry
    length: int


class PrefixCache:
    """Snapshots in an arena. `can_trim` is the model's: without it only whole snapshots match."""

    def __init__(self, arena: Arena, *, can_trim: bool) -> None:
        self.memory = PrefixMemory()
        self.num_evicted = 0
        self._arena = arena
        self._new_bytes = 0  # of all snapshots that came, beyond those that they took the place of
        self._tree: PrefixTree[Entry] = PrefixTree(
            can_trim=can_trim,
            half_life=HALF_LIFE_FILLS * max(arena.size_bytes, 1),
            clock=lambda: float(self._new_bytes),
        )
        self._inherit()

    def __len__(self) -> int:
        return len(self._tree)

    @property
    def used_bytes(self) -> int:
        return self._arena.used_bytes

    def find(self, scope: Scope, token_ids: NDArray[np.int32]) -> Match | None:
        """The entry that saves most of computing `token_ids` [n]; at least MIN_SHARED_TOKENS."""
        found = self._tree.find(scope, token_ids)
        return None if found is None or found[1] < MIN_SHARED_TOKENS else Match(*found)

    def use(self, match: Match) -> None:
        """Note that a match was worth having."""
        self._tree.use(match.entry, match.length)

    def longest_common(self, scope: Scope, token_ids: NDArray[np.int32]) -> int:
        """Tokens that `token_ids` [n] shares with any entry, whether it can be reused there or not."""
        return self._tree.longest_common(scope, token_ids)

    def covers(self, scope: Scope, token_ids: NDArray[np.int32]) -> bool:
        """Whether storing `token_ids` [n] would add nothing."""
        match = self.find(scope, token_ids)
        return match is not None and match.length == len(token_ids)

    def reserve(
        self, scope: Scope, token_ids: NDArray[np.int32], num_bytes: int, *, is_awaited: bool = False
    ) -> Entry | None:
        """Make room for a snapshot of `token_ids` [n], evicting what is worth less.

        The caller writes the snapshot into `entry.region.data` at once, and then calls `seal`. None: larger
        than the arena, or not `is_awaited` and larger than what it may have of it.
        """
        if num_bytes > self._arena.size_bytes:
            return None
        match = self.find(scope, token_ids)
        covered = self._tree.covered_by(scope, token_ids)
        self._new_bytes += max(num_bytes - sum(entry.region.reserved_bytes for entry in covered), 0)
        worth = len(token_ids) - (match.length if match else 0) + sum(map(self._tree.worth, covered))
        limit = None if is_awaited else worth / num_bytes
        if not self._has_room(num_bytes, covered, limit):
            return None
        for entry in covered:
            self.discard(entry)
        region = self._make_room(num_bytes, limit)
        if region is None:
            return None
        return self._add(Entry(scope, token_ids, region, len(token_ids)))

    def seal(self, entry: Entry, num_positions: int) -> None:
        """Note that the snapshot is written, and has so many positions: from now on it may outlive us."""
        entry.num_positions = num_positions
        self._arena.publish(entry.region, _note_of(entry))

    def make_room(self, num_bytes: int) -> Region | None:
        """Memory for a snapshot that somebody waits for, to be given to `take` or `give_back`.

        None: larger than the arena, or than what of it is free to go.
        """
        return self._make_room(num_bytes, None) if num_bytes <= self._arena.size_bytes else None

    def take(self, scope: Scope, token_ids: NDArray[np.int32], region: Region, num_positions: int) -> None:
        """Keep the snapshot of `token_ids` [n] that `region` holds now, unless it adds nothing."""
        if self.covers(scope, token_ids):
            self.give_back(region)
            return
        for entry in self._tree.covered_by(scope, token_ids):
            self.discard(entry)
        self._new_bytes += region.reserved_bytes
        self.seal(self._add(Entry(scope, token_ids, region, num_positions)), num_positions)

    def give_back(self, region: Region) -> None:
        self._arena.free(region)

    def hold(self, entry: Entry) -> None:
        """Keep its memory until `let_go`, even if it is discarded: a thread reads it."""
        entry.num_readers += 1

    def let_go(self, entry: Entry) -> None:
        entry.num_readers -= 1
        self._free_unread(entry)

    def discard(self, entry: Entry) -> None:
        self._tree.remove(entry)
        if entry.scope.decoded_from is None:
            self.memory.drop(entry.scope.lora, entry.token_ids)
        entry.is_discarded = True
        self._free_unread(entry)

    def _add(self, entry: Entry) -> Entry:
        self._tree.add(entry.scope, entry.token_ids, entry)
        if entry.scope.decoded_from is None:
            self.memory.keep(entry.scope.lora, entry.token_ids)
        return entry

    def _inherit(self) -> None:
        """Take what the arena has of an earlier engine."""
        for region, note in self._arena.survivors:
            try:
                self._add(_noted(region, note))
            except (msgspec.MsgspecError, ValueError) as exc:
                logger.warning("a prefix of the last engine can't be read: %s", exc)
                self._arena.free(region)

    def _has_room(self, num_bytes: int, covered: list[Entry], limit: float | None) -> bool:
        """Whether there would be room, once all went that may go for a newcomer of so much value per byte."""
        used = self._arena.used_bytes - sum(entry.region.reserved_bytes for entry in covered)
        if used + num_bytes <= self._arena.size_bytes:
            return True
        for entry in sorted(set(self._tree).difference(covered), key=self._value):
            if not self._may_go(self._value(entry), limit, used):
                return False
            used -= entry.region.reserved_bytes
            if used + num_bytes <= self._arena.size_bytes:
                return True
        return False

    def _may_go(self, value: float, limit: float | None, used_bytes: int) -> bool:
        """Whether what is worth least of `used_bytes` gives way to a newcomer of `limit` value per byte."""
        return limit is None or value <= limit or used_bytes > PROTECTED_SHARE * self._arena.size_bytes

    def _make_room(self, num_bytes: int, limit: float | None) -> Region | None:
        """A region, evicting what is worth least per byte and may go for a newcomer of so much value.

        Values only rise while others go: an entry may become the last to have some tokens.
        """
        region = self._arena.allocate(num_bytes)
        if region is not None:
            return region
        heap = [
            (self._value(entry), number, entry)
            for number, entry in enumerate(self._tree)
            if not entry.num_readers
        ]
        heapq.heapify(heap)
        while region is None and heap:
            _, number, entry = heap[0]
            value = self._value(entry)
            if len(heap) > 1 and value > min(heap[1:3])[0]:
                heapq.heapreplace(heap, (value, number, entry))
                continue
            if not self._may_go(value, limit, self._arena.used_bytes):
                return None
            heapq.heappop(heap)
            self._evict(entry)
            region = self._arena.allocate(num_bytes)
        return region

    def _evict(self, entry: Entry) -> None:
        self.discard(entry)
        self.memory.note_evicted(entry.scope, entry.token_ids)
        self.num_evicted += 1

    def _value(self, entry: Entry) -> float:
        return self._tree.worth(entry) / entry.region.reserved_bytes

    def _free_unread(self, entry: Entry) -> None:
        if entry.is_discarded and entry.num_readers == 0:
            self._arena.free(entry.region)


class _Note(msgspec.Struct, frozen=True, array_like=True):
    """What an entry says of its region, for the next engine."""

    tenant: str
    lora: str | None
    decoded_from: int | None
    num_positions: int
    token_ids: bytes  # int32


def _note_of(entry: Entry) -> bytes:
    return msgspec.msgpack.encode(_Note(*entry.scope, entry.num_positions, entry.token_ids.tobytes()))


def _noted(region: Region, note: bytes) -> Entry:
    """Raises MsgspecError or ValueError: this is no note."""
    told = msgspec.msgpack.decode(note, type=_Note)
    token_ids = np.frombuffer(told.token_ids, np.int32)
    if len(token_ids) < 1:
        raise ValueError("it has no tokens")
    scope = Scope(told.tenant, told.lora, told.decoded_from)
    return Entry(scope, token_ids, region, told.num_positions)
