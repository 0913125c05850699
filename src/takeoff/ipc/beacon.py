"""What an engine is doing, in memory that it shares with whoever watches it, and that outlives it.

A heart that beats, and the call that is running: its number, how long it is expected to take, and the ids of
the requests in it. Written before the call begins, so that it can be read when the call has killed the
process. Each word has one writer.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import IO, NamedTuple

import numpy as np

from takeoff.ipc.nameless import nameless_file

MAX_REQUESTS = 1_023  # of one call whose ids are told; a reader has 512 slots at most


class Lane(IntEnum):
    """The threads of an engine that work for requests."""

    STEP = 0
    COMPILE = 1  # a grammar
    IMAGES = 2


_BEATS, _CALLS, _RUNNING, _EXPECTED = range(4)  # words of the header
_HEADER = 8
_LANE = 1 + MAX_REQUESTS  # words: how many ids, and the ids
SIZE_BYTES = 8 * (_HEADER + len(Lane) * _LANE)


class RunningCall(NamedTuple):
    number: int  # another one for each call
    expected_s: float


def make_beacon_file() -> IO[bytes]:
    """The file for one beacon: it has no name, and ends with its users."""
    return nameless_file("beacon", SIZE_BYTES)


def open_beacon(fd: int | None) -> Beacon:
    """The engine's end of the beacon in a file that it inherited; None: one that nobody watches."""
    return Beacon() if fd is None else Beacon(fd)


class Beacon:
    """Both ends: the engine writes, the watch reads."""

    def __init__(self, fd: int = -1) -> None:
        """`fd` is that of the shared file; -1: nobody watches."""
        memory = mmap.mmap(fd, SIZE_BYTES)
        self._words = np.frombuffer(memory, np.int64)
        self._numbers = np.frombuffer(memory, np.float64)

    # --- the engine's end ------------------------------------------------------------------------

    def beat(self) -> None:
        self._words[_BEATS] += 1

    @contextmanager
    def at_work(self, request_ids: Sequence[int], lane: Lane) -> Iterator[None]:
        """Tell for whom a thread works now. Work that raises is its last: it stays told."""
        start, ids = _start(lane), request_ids[:MAX_REQUESTS]
        self._words[start + 1 : start + 1 + len(ids)] = ids
        self._words[start] = len(ids)
        yield
        self._words[start] = 0

    @contextmanager
    def call(self, request_ids: Sequence[int], expected_s: float) -> Iterator[None]:
        """Tell of a call of the step, whose thread this is. One that raises is its last, too."""
        with self.at_work(request_ids, Lane.STEP):
            self._numbers[_EXPECTED] = expected_s
            self._words[_CALLS] += 1
            self._words[_RUNNING] = self._words[_CALLS]
            yield
            self._words[_RUNNING] = 0

    # --- the watch's end -------------------------------------------------------------------------

    @property
    def num_beats(self) -> int:
        return int(self._words[_BEATS])

    @property
    def num_calls(self) -> int:
        """That have begun."""
        return int(self._words[_CALLS])

    @property
    def running_call(self) -> RunningCall | None:
        number = int(self._words[_RUNNING])
        return None if number == 0 else RunningCall(number, float(self._numbers[_EXPECTED]))

    @property
    def in_work(self) -> frozenset[int]:
        """The requests that some thread works for; of a dead engine: worked for when it died."""
        found: set[int] = set()
        for lane in Lane:
            start = _start(lane)
            num_ids = min(int(self._words[start]), MAX_REQUESTS)
            found.update(self._words[start + 1 : start + 1 + num_ids].tolist())
        return frozenset(found)

    def clear(self) -> None:
        """For another engine: nothing has happened yet."""
        self._words[:] = 0


def _start(lane: Lane) -> int:
    return _HEADER + lane * _LANE
