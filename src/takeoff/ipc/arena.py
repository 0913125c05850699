"""One block of memory, handed out in regions: first fit, neighbours joined when freed.

Allocated once, so that a snapshot is a copy into pages that exist, not into fresh ones.

In a file that a process inherits, what it has published outlives it: whoever opens the arena next finds
those regions, each with its note. A directory in front of the regions says where they are; an entry is made
valid when all else of it is written, and made invalid before its region is free. A process that is killed
leaves its stores as far as it had come, in order, so nothing that is valid was half written. All the same an
entry is checked before it is believed: a crash may have written anywhere.
"""

from __future__ import annotations

import mmap
import sys
import zlib
from dataclasses import dataclass
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from takeoff.ipc.nameless import nameless_file

ALIGNMENT_BYTES = 4096
MAX_PUBLISHED = 4095  # regions; what is published beyond that does not survive

_ENTRY = np.dtype(
    [
        ("offset", np.uint64),  # of the region, from the end of the directory
        ("num_bytes", np.uint64),
        ("note_offset", np.uint64),
        ("note_bytes", np.uint32),
        ("checksum", np.uint32),  # of the note, CRC-32
        ("is_valid", np.uint32),
        ("unused", np.uint32),
    ]
)
_DIRECTORY_BYTES = -(-MAX_PUBLISHED * _ENTRY.itemsize // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


@dataclass(eq=False, slots=True)
class Region:
    """A part of an arena. `data` [num_bytes] uint8 is valid until the region is freed."""

    offset: int
    reserved_bytes: int
    data: NDArray[np.uint8]


class Survivor(NamedTuple):
    """What an earlier user of the arena has published."""

    region: Region
    note: bytes


class _Published(NamedTuple):
    place: int  # in the directory
    note: Region


def make_arena_file(size_bytes: int) -> IO[bytes] | None:
    """The file for an arena of `size_bytes`, all of it free; None: there is nothing to share, or no way."""
    usable = _whole_pages(size_bytes)
    if not usable or sys.platform != "linux":  # elsewhere a file would be on disk
        return None
    return nameless_file("prefixes", _DIRECTORY_BYTES + usable)


class Arena:
    """`size_bytes` of memory; pages cost RAM from their first use on."""

    def __init__(self, size_bytes: int, fd: int | None = None) -> None:
        """`fd` is that of its file, made for as many bytes; None: memory that ends with the process."""
        self.size_bytes = _whole_pages(size_bytes)
        self.used_bytes = 0
        self._free: list[tuple[int, int]] = [(0, self.size_bytes)] if self.size_bytes else []
        self._published: dict[Region, _Published] = {}
        directory_bytes = 0 if fd is None else _DIRECTORY_BYTES
        memory = mmap.mmap(-1 if fd is None else fd, max(directory_bytes + self.size_bytes, ALIGNMENT_BYTES))
        self._memory = np.frombuffer(memory, np.uint8)[directory_bytes:]
        self._directory = np.frombuffer(memory, _ENTRY, count=0 if fd is None else MAX_PUBLISHED)
        self._free_places = list(range(len(self._directory)))[::-1]
        self.survivors = self._survivors()

    def allocate(self, num_bytes: int) -> Region | None:
        """A region of at least `num_bytes` >= 1 bytes, or None when no gap is large enough."""
        reserved = _reserved(num_bytes)
        for offset, size in self._free:
            if size >= reserved:
                return self._occupy(offset, num_bytes)
        return None

    def publish(self, region: Region, note: bytes) -> None:
        """Let a region, which is filled, survive this process, if the arena can and has room for its note."""
        if not self._free_places or region in self._published:
            return
        told = self.allocate(len(note))
        if told is None:
            return
        told.data[:] = np.frombuffer(note, np.uint8)
        place = self._free_places.pop()
        entry = self._directory[place : place + 1]
        entry["offset"], entry["num_bytes"] = region.offset, len(region.data)
        entry["note_offset"], entry["note_bytes"] = told.offset, len(note)
        entry["checksum"] = zlib.crc32(note)
        entry["is_valid"] = 1
        self._published[region] = _Published(place, told)

    def free(self, region: Region) -> None:
        """Give a region back; its `data` must not be used any more."""
        published = self._published.pop(region, None)
        if published is not None:
            self._directory["is_valid"][published.place] = 0
            self._free_places.append(published.place)
            self._give_back(published.note)
        self._give_back(region)

    def _give_back(self, region: Region) -> None:
        self.used_bytes -= region.reserved_bytes
        gaps = sorted([*self._free, (region.offset, region.reserved_bytes)])
        joined: list[tuple[int, int]] = []
        for offset, size in gaps:
            if joined and joined[-1][0] + joined[-1][1] == offset:
                joined[-1] = (joined[-1][0], joined[-1][1] + size)
            else:
                joined.append((offset, size))
        self._free = joined

    def _occupy(self, offset: int, num_bytes: int) -> Region | None:
        """The region of `num_bytes` at `offset`, if all of it is free."""
        reserved = _reserved(num_bytes)
        for i, (start, size) in enumerate(self._free):
            before, behind = offset - start, start + size - offset - reserved
            if before >= 0 and behind >= 0:
                rest = [(start, before), (offset + reserved, behind)]
                self._free[i : i + 1] = [gap for gap in rest if gap[1]]
                self.used_bytes += reserved
                return Region(offset, reserved, self._memory[offset : offset + num_bytes])
        return None

    def _survivors(self) -> list[Survivor]:
        """What the directory has that is true; the rest of it is forgotten."""
        found = []
        for place in np.flatnonzero(self._directory["is_valid"]).tolist():
            survivor = self._survivor(place)
            if survivor is None:
                self._directory["is_valid"][place] = 0
            else:
                found.append(survivor)
                self._free_places.remove(place)
        return found

    def _survivor(self, place: int) -> Survivor | None:
        entry = self._directory[place]
        parts = [
            (int(entry[f"{name}offset"]), int(entry[size]))
            for name, size in (("", "num_bytes"), ("note_", "note_bytes"))
        ]
        if any(offset % ALIGNMENT_BYTES or num_bytes == 0 for offset, num_bytes in parts):
            return None
        region = self._occupy(*parts[0])
        if region is None:
            return None
        told = self._occupy(*parts[1])
        note = b"" if told is None else told.data.tobytes()
        if told is not None and zlib.crc32(note) == int(entry["checksum"]):
            self._published[region] = _Published(place, told)
            return Survivor(region, note)
        for taken in (region, told):
            if taken is not None:
                self._give_back(taken)
        return None


def _whole_pages(size_bytes: int) -> int:
    return size_bytes // ALIGNMENT_BYTES * ALIGNMENT_BYTES


def _reserved(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
