"""Turns on the cores: of the engines that share them, one computes at a time.

The kernels' threads spin while they wait, so two engines at once are many times slower than one.
A line of record locks in one file: whoever wants a turn takes its last place, and gives each place up
when he has the one before it. A place has one holder, and so one who waits for the next: turns come in
the order in which they were asked for, which a lock alone does not promise. The kernel frees the locks
of who dies.

Source: fcntl(2), "Advisory record locking": the locks belong to the process and end with it.
"""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

_CORES, _LAST = 0, 16  # bytes of the file; engines beyond the sixteenth wait for the last place in no order


def make_turns_file() -> IO[bytes]:
    """The file that the engines of one machine share; it has no name and ends with its users."""
    return tempfile.TemporaryFile()


class Turns:
    """One process's part in taking turns. One thread uses it."""

    def __init__(self, fd: int | None) -> None:
        """`fd` is that of the shared file; None: the cores are ours alone."""
        self._fd = fd

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Wait for a turn, and hold it."""
        if self._fd is None:
            yield
            return
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, _LAST)
        for place in range(_LAST - 1, _CORES - 1, -1):
            fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, place)
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, place + 1)
        try:
            yield
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, _CORES)
