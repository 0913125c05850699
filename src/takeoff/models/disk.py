"""The store's dealings with the file system: space, locks, whole files or none."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from takeoff.errors import PullError
from takeoff.models.progress import Progress

CHUNK_BYTES = 1 << 20
SPACE_MARGIN_BYTES = 64 * 2**20  # stays free: a disk filled to the last byte breaks other programs
_CREATE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def check_space(folder: Path, needed_bytes: int) -> None:
    """Refuse a pull that the disk can't hold.

    Raises:
        PullError: fewer than `needed_bytes` and a margin are free.
    """
    free = _free_bytes(folder)
    wanted = needed_bytes + SPACE_MARGIN_BYTES
    if free < wanted:
        raise PullError(
            f"the model needs {wanted / 1e6:,.0f} MB in {folder}, {free / 1e6:,.0f} MB are free",
            hint="free some space, or set TAKEOFF_HOME to a folder on a larger disk",
        )


def _free_bytes(folder: Path) -> int:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError of the disk into a PullError that names the folder and the cause."""
    try:
        yield
    except OSError as exc:
        if exc.errno in _FULL:
            free = _free_bytes(folder)
            raise PullError(
                f"the disk is full while writing to {folder} ({exc.strerror}); {free / 1e6:,.0f} MB are free",
                hint="free some space, or set TAKEOFF_HOME to a folder on a larger disk, and pull again",
            ) from exc
        raise PullError(
            f"{folder} can't be used: {exc.strerror or exc}",
            hint="set TAKEOFF_HOME to a folder you can write",
        ) from exc


@contextmanager
def locked(path: Path, what: str, progress: Progress) -> Iterator[None]:
    """Hold the lock file at `path`; says so when another process holds it, and waits.

    The kernel lets go of the lock when its holder ends, however it ends.
    """
    fd = os.open(path, _CREATE_FLAGS, 0o666)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.note(f"another process is pulling {what}; waiting for it")
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def open_part(path: Path, keep_bytes: int = 0) -> BinaryIO:
    """The unfinished file at `path`, cut to `keep_bytes` and ready for writing at its end.

    Never follows a symbolic link.
    """
    fd = os.open(path, _CREATE_FLAGS, 0o666)
    part = os.fdopen(fd, "r+b")
    try:
        part.truncate(keep_bytes)
        part.seek(keep_bytes)
    except OSError:
        part.close()
        raise
    return part


def part_size(path: Path) -> int:
    """Bytes of the unfinished file at `path`; 0 where there is none."""
    return path.stat().st_size if path.is_file() and not path.is_symlink() else 0


def sha256_of(path: Path, progress: Progress) -> str:
    """SHA-256 of the file as it lies on the disk, in lower-case hexadecimal."""
    digest = hashlib.sha256()
    done = 0
    with path.open("rb") as f:
        while chunk := f.read(CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            progress.at(done)
    return digest.hexdigest()


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file so that a reader sees the old one or the new one, never a piece."""
    fresh = path.with_name(path.name + ".new")
    with open_part(fresh) as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    fresh.replace(path)


def settle(part: Path, final: Path) -> None:
    """Give a finished part its final name, durably."""
    with part.open("rb") as f:
        os.fsync(f.fileno())
    part.replace(final)
    folder = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
