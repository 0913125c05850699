"""The store's dealings with the file system: space, locks, whole files or none."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from takeoff.errors import ModelError, PullError
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
def locked(path: Path, what: str, progress: Progress, doing: str = "pulling") -> Iterator[None]:
    """Hold the lock file at `path`; says so when another process holds it, and waits.

    The kernel lets go of the lock when its holder ends, however it ends.
    """
    fd = os.open(path, _CREATE_FLAGS, 0o666)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.note(f"another process is {doing} {what}; waiting for it")
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


def _open_regular(path: str, flags: int) -> int:
    """An opener that never waits for a pipe's other end and refuses anything but a regular file."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "it is not a regular file")
    return descriptor


@contextmanager
def model_file(path: Path, buffering: int = -1) -> Iterator[BinaryIO]:
    """A file of a model, open for reading.

    Raises:
        ModelError: it can't be opened or read, or is no regular file.
    """
    try:
        with open(path, "rb", buffering=buffering, opener=_open_regular) as file:
            yield file
    except OSError as exc:
        raise ModelError(f"{path} can't be read: {exc.strerror or exc}") from exc


def part_size(path: Path) -> int:
    """Bytes of the unfinished file at `path`; 0 where there is none."""
    return path.stat().st_size if path.is_file() and not path.is_symlink() else 0


def sha256_of_all(paths: Sequence[Path], progress: Progress) -> list[str]:
    """SHA-256 of each file as it lies on the disk, in lower-case hexadecimal; one stage of `progress`."""
    done = 0
    hashes = []
    for path in paths:
        digest = hashlib.sha256()
        with path.open("rb") as f:
            while chunk := f.read(CHUNK_BYTES):
                digest.update(chunk)
                done += len(chunk)
                progress.at(done)
        hashes.append(digest.hexdigest())
    return hashes


def files_below(folder: Path) -> list[Path]:
    """Every file in a folder and the folders in it, by name; no link is followed, or counted."""
    return sorted(
        Path(where) / name
        for where, _, names in os.walk(folder)
        for name in names
        if not (Path(where) / name).is_symlink()
    )


def discard(path: Path) -> None:
    """Delete a file, a link or a folder with what is in it; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file so that a reader sees the old one or the new one, never a piece."""
    fresh = path.with_name(path.name + ".new")
    with open_part(fresh) as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    fresh.replace(path)


def settle(part: Path, final: Path) -> None:
    """Give a finished part, a file or a folder, its final name, durably."""
    is_folder = part.is_dir()
    for path in files_below(part) if is_folder else [part]:
        _sync(path)
    for folder in {path.parent for path in files_below(part)} if is_folder else ():
        _sync(folder)
    if is_folder:
        discard(final)  # what is there is not whole, and a folder replaces only an empty one
    part.replace(final)
    _sync(final.parent)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
