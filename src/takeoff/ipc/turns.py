"""Turns on the cores: of the engines that share them, one computes at a time.

The kernels' threads spin while they wait, so two engines at once are many times slower than one.
Two record locks in one file: whoever wants a turn first takes the place next in line, and gives it
up when the turn is his. So nobody takes two turns while another waits, and the kernel frees both
locks when their holder dies.

Source: fcntl(2), "Advisory record locking": the locks belong to the process and end with it.
"""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

_NEXT, _CORES = 0, 1  # bytes of the file


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
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, _NEXT)
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, _CORES)
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, _NEXT)
        try:
            yield
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, _CORES)
