"""What the replicas of one machine share: turns on its cores, and one after the other to plan and to load."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

from takeoff.errors import StartError

TURNS, LOADING = "turns", "loading"


def open_shared(name: str) -> IO[bytes]:
    """A file that all processes of this user on this machine mean by `name`.

    Raises:
        StartError: somebody else's file is in its place.
    """
    path = Path(tempfile.gettempdir()) / f"takeoff-{os.getuid()}-{name}"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise StartError(f"can't open {path}: {exc.strerror}", hint="remove it, or set TMPDIR") from exc
    if os.fstat(fd).st_uid != os.getuid():
        os.close(fd)
        raise StartError(f"{path} is not ours", hint="remove it, or set TMPDIR")
    return os.fdopen(fd, "r+b")


@contextlib.asynccontextmanager
async def alone_on_this_node() -> AsyncIterator[None]:
    """Others wait meanwhile: each must see what memory the last one took."""
    with open_shared(LOADING) as file:
        await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX)
        yield  # closing the file frees the lock
