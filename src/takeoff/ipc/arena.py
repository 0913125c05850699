"""One block of memory, handed out in regions: first fit, neighbours joined when freed.

Allocated once, so that a snapshot is a copy into pages that exist, not into fresh ones.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ALIGNMENT_BYTES = 4096


@dataclass(eq=False, slots=True)
class Region:
    """A part of an arena. `data` [num_bytes] uint8 is valid until the region is freed."""

    offset: int
    reserved_bytes: int
    data: NDArray[np.uint8]


class Arena:
    """`size_bytes` of anonymous memory; pages cost RAM from their first use on."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes // ALIGNMENT_BYTES * ALIGNMENT_BYTES
        self.used_bytes = 0
        self._free: list[tuple[int, int]] = [(0, self.size_bytes)] if self.size_bytes else []
        memory = mmap.mmap(-1, max(self.size_bytes, ALIGNMENT_BYTES))
        self._memory = np.frombuffer(memory, np.uint8)

    def allocate(self, num_bytes: int) -> Region | None:
        """A region of at least `num_bytes` >= 1 bytes, or None when no gap is large enough."""
        reserved = -(-num_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        for i, (offset, size) in enumerate(self._free):
            if size < reserved:
                continue
            if size == reserved:
                del self._free[i]
            else:
                self._free[i] = (offset + reserved, size - reserved)
            self.used_bytes += reserved
            return Region(offset, reserved, self._memory[offset : offset + num_bytes])
        return None

    def free(self, region: Region) -> None:
        """Give a region back; its `data` must not be used any more."""
        self.used_bytes -= region.reserved_bytes
        gaps = sorted([*self._free, (region.offset, region.reserved_bytes)])
        joined: list[tuple[int, int]] = []
        for offset, size in gaps:
            if joined and joined[-1][0] + joined[-1][1] == offset:
                joined[-1] = (joined[-1][0], joined[-1][1] + size)
            else:
                joined.append((offset, size))
        self._free = joined
