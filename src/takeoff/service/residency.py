"""Which readers hold the machine's memory: makes room for one by unloading others that may go.

A reader of `on_demand` may go; the others are pinned. Of those that may go first the ones that serve nobody,
and of these the least valuable for its bytes: requests of late, of which each counts half after every ten
minutes, times the seconds that its next loading would take, over the bytes that it holds. That is the key of
Greedy-Dual-Size-Frequency caches (Cherkasova, HP Labs HPL-98-69, 1998), with a half-life in the place of
their ageing term.

Nothing thrashes: who was loaded stays at least twice as long as the loading took, so at most a third of the
time goes into loading, however the requests come.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from takeoff.errors import NoRoom
from takeoff.service.changes import Changes
from takeoff.service.reader import Reader, ReaderState

HALF_LIFE_S = 600.0  # of a request in what a reader is worth
STAY_TIMES = 2.0  # of its last loading's duration, that a reader stays at least
RETRY_S = 30.0  # after a loading that failed

_HOLDING = (ReaderState.LIVE, ReaderState.DRAINING, ReaderState.UNLOADING, ReaderState.LOADING)


@dataclass(slots=True)
class Use:
    """How a reader was used, and what its loading costs. Times are monotonic seconds."""

    requests: float = 0.0  # a request counts half after HALF_LIFE_S
    counted_at: float = 0.0
    used_at: float = 0.0  # when it last was asked for, or ended its last request
    load_s: float = 1.0  # that the last loading took; a guess before the first
    loaded_at: float = 0.0
    not_before: float = 0.0  # it is not loaded: the last loading failed

    def count(self, now: float) -> None:
        """It was asked for."""
        self.requests, self.counted_at, self.used_at = self.recent(now) + 1.0, now, now

    def recent(self, now: float) -> float:
        """Requests of late."""
        return self.requests * math.exp2((self.counted_at - now) / HALF_LIFE_S)

    def stays_s(self, now: float) -> float:
        """How long it may not be unloaded yet."""
        return max(0.0, self.loaded_at + STAY_TIMES * self.load_s - now)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A reader that may be unloaded."""

    reader: Reader
    num_bytes: int
    is_busy: bool
    stays_s: float
    value: float  # for each byte

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """Who goes first has the least."""
        return self.is_busy, self.stays_s > 0, self.value


def leaving(candidates: Iterable[Candidate], lacking_bytes: int) -> list[Candidate]:
    """Those to unload for so many bytes, none of them needlessly; empty: all together are not enough."""
    chosen: list[Candidate] = []
    freed = 0
    for each in sorted(candidates, key=lambda each: each.rank):
        if freed >= lacking_bytes:
            break
        chosen.append(each)
        freed += each.num_bytes
    if freed < lacking_bytes:
        return []
    for each in chosen[::-1]:
        if freed - each.num_bytes >= lacking_bytes:
            chosen.remove(each)
            freed -= each.num_bytes
    return chosen


class Residency:
    """The memory of the readers, by their plans."""

    def __init__(
        self,
        readers: Callable[[], list[Reader]],
        changes: Changes,
        unload: Callable[[Reader], Awaitable[None]],
        limit_bytes: int | None,
        free_bytes: Callable[[], int],
    ) -> None:
        """`limit_bytes` for all readers together, None: what `free_bytes` says now that the machine has."""
        self._readers = readers
        self._changes = changes
        self._unload = unload
        self._free_bytes = free_bytes
        self._uses: dict[Reader, Use] = {}
        self.limit_bytes = free_bytes() if limit_bytes is None else limit_bytes

    def use(self, reader: Reader) -> Use:
        return self._uses.setdefault(reader, Use())

    def forget(self, reader: Reader) -> None:
        self._uses.pop(reader, None)

    def room_bytes(self, beside: Reader) -> int:
        """Memory that `beside` can have now, whatever it has already."""
        others = self._others(beside)
        return max(0, min(self.limit_bytes - _sum(others), self._free_bytes() - _sum(_coming(others))))

    def most_bytes(self, instead_of: Reader | None = None) -> int:
        """Memory that a reader can have at most, where all go that may, and `instead_of` does."""
        holding = self.holding()
        going = [each for each in holding if _may_go(each) or each is instead_of]
        staying = [each for each in holding if each not in going]
        there = self._free_bytes() - _sum(_coming(staying)) + _sum(going) - _sum(_coming(going))
        return max(0, min(self.limit_bytes - _sum(staying), there))

    async def make_room(self, reader: Reader, is_wanted: Callable[[], bool]) -> bool:
        """Unload others until `reader` fits; False: nobody wants it any more.

        Raises:
            NoRoom: it does not fit beside those that stay.
        """
        while (lacking := reader.num_bytes - self.room_bytes(reader)) > 0:
            now = time.monotonic()
            chosen = leaving(self._candidates(reader, now), lacking)
            if not is_wanted():
                return False
            if not chosen and any(_may_go(each) and not each.is_live for each in self._others(reader)):
                await self._changes.next()  # it drains, or its engine restarts
                continue
            if not chosen:
                raise self.refusal(reader)
            stays_s = max(each.stays_s for each in chosen)
            if stays_s > 0:
                await asyncio.sleep(stays_s)
                continue
            for each in chosen:
                each.reader.become(ReaderState.UNLOADING)
            await asyncio.gather(*(self._unload_when_done(each.reader) for each in chosen))
        return True

    async def _unload_when_done(self, reader: Reader) -> None:
        await self._changes.until(lambda: reader.num_open == 0)
        await self._unload(reader)

    def refusal(self, reader: Reader) -> NoRoom:
        """What a reader needs, what there is, and what could be done."""
        needed, most = reader.num_bytes / 1e6, self.most_bytes(reader) / 1e6
        told = f"{reader.model_name} needs {needed:,.0f} MB, and there are {most:,.0f} MB"
        hint = "give it less (max_slots, context, prefix_cache_mb), or remove a reader"
        return NoRoom(told + self.held_by_others(reader), hint=hint)

    def held_by_others(self, reader: Reader | None) -> str:
        """Who stays, and with how much of the limit, behind a sentence; empty: nobody."""
        staying = [each for each in self.holding() if not _may_go(each) and each is not reader]
        held = ", ".join(f"{each.reader_id} {each.num_bytes / 1e6:,.0f} MB" for each in staying)
        return f"; of {self.limit_bytes / 1e6:,.0f} MB others hold: {held}" if held else ""

    def holding(self) -> list[Reader]:
        """The readers whose plans count."""
        return [each for each in self._readers() if each.launch is not None and each.state in _HOLDING]

    def _others(self, reader: Reader) -> list[Reader]:
        return [each for each in self.holding() if each is not reader]

    def _candidates(self, beside: Reader, now: float) -> list[Candidate]:
        live = (each for each in self._others(beside) if each.is_live)
        return [self._candidate(each, now) for each in live if _may_go(each)]

    def _candidate(self, reader: Reader, now: float) -> Candidate:
        use = self.use(reader)
        value = use.recent(now) * use.load_s / max(1, reader.num_bytes)
        return Candidate(reader, reader.num_bytes, reader.num_open > 0, use.stays_s(now), value)


def _may_go(reader: Reader) -> bool:
    return reader.settings.on_demand or reader.state is ReaderState.DRAINING


def _sum(readers: Iterable[Reader]) -> int:
    return sum(each.num_bytes for each in readers)


def _coming(readers: Iterable[Reader]) -> list[Reader]:
    """Those whose memory is not taken yet."""
    return [each for each in readers if each.state is ReaderState.LOADING]
