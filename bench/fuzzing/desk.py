"""What a worker and its driver share in memory: which case is at hand since when, and how many ended how.

It outlives a worker that dies: then the case is here that it died of.
"""

from __future__ import annotations

import mmap
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from bench.fuzzing.target import MAX_CASE_BYTES

NO_CASE, SMALLER = -1, -2
_HEAD = struct.Struct("<qdqqqq")  # number, since, accepted, rejected, late, size


@dataclass(frozen=True, slots=True)
class Told:
    """What stands on it."""

    number: int  # of the case at hand, NO_CASE, or SMALLER while one is made smaller
    since: float  # on the monotonic clock
    accepted: int
    rejected: int
    late: int
    case: bytes = b""


class Desk:
    """A file that both map."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            with path.open("wb") as file:
                file.truncate(_HEAD.size + MAX_CASE_BYTES)
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        self._counts = [0, 0, 0]
        self._number, self._size = NO_CASE, 0

    def begin(self, number: int, case: bytes) -> None:
        case = case[:MAX_CASE_BYTES]
        self._memory[_HEAD.size : _HEAD.size + len(case)] = case
        self._number, self._size = number, len(case)
        self._write()

    def end(self, *, accepted: bool = False, rejected: bool = False, late: bool = False) -> None:
        more = (accepted, rejected, late)
        self._counts = [count + one for count, one in zip(self._counts, more, strict=True)]
        self._number = NO_CASE
        self._write()

    def clear(self) -> None:
        self._counts, self._number, self._size = [0, 0, 0], NO_CASE, 0
        self._write()

    def read(self, *, with_case: bool = False) -> Told:
        number, since, accepted, rejected, late, size = _HEAD.unpack_from(self._memory)
        case = bytes(self._memory[_HEAD.size : _HEAD.size + size]) if with_case else b""
        return Told(number, since, accepted, rejected, late, case)

    def _write(self) -> None:
        # Copied over at once: `pack_into` writes zeros first, which are a case 0 that began long ago.
        head = _HEAD.pack(self._number, time.monotonic(), *self._counts, self._size)
        self._memory[: _HEAD.size] = head
