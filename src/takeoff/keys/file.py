"""The file of keys: JSON, for its owner alone, written whole and by one program at a time.

It holds no key, only hashes; but who can write it can let himself in, and who can read it learns who else is.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from takeoff.errors import KeyFileError
from takeoff.keys.key import Key

MAX_BYTES = 4 << 20
VERSION = 1
_FOR_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class _Content(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    keys: list[Key]


class Version(NamedTuple):
    """By what one state of a file is told from the next, without reading it."""

    inode: int
    modified_ns: int
    size: int
    mode: int


def version_of(path: Path) -> Version | None:
    """Of the file there; None: there is none, or it can't be seen."""
    try:
        status = path.stat()
    except OSError:
        return None
    return Version(status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode)


def read_keys(path: Path) -> list[Key]:
    """The keys of the file.

    Raises:
        KeyFileError: it can't be read, others can read it, or it is no file of keys.
    """
    try:
        with path.open("rb") as f:
            status = os.fstat(f.fileno())
            data = f.read(MAX_BYTES + 1)
    except OSError as exc:
        raise KeyFileError(
            f"the keys in {path} can't be read: {exc.strerror or exc}",
            hint="`takeoff keys create NAME` makes the file",
        ) from exc
    if status.st_mode & _FOR_OTHERS:
        raise KeyFileError(
            f"others than its owner can use {path} (mode {stat.S_IMODE(status.st_mode):04o})",
            hint=f"chmod 600 {path}",
        )
    if len(data) > MAX_BYTES:
        raise KeyFileError(f"{path} has more than {MAX_BYTES} bytes")
    try:
        content = msgspec.json.decode(data, type=_Content)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise KeyFileError(
            f"{path} is no file of keys: {exc}", hint="restore it, or make its keys anew"
        ) from exc
    _check(path, content)
    return content.keys


def change_keys(path: Path, change: Callable[[list[Key]], list[Key]]) -> None:
    """Put `change` of the keys in the place of the keys; a file that is not there yet has none.

    Raises:
        KeyFileError: as `read_keys`; or it can't be written.
    """
    path = path.resolve()  # of a link what it points to is replaced
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            keys = read_keys(path) if path.exists() else []
            _write(path, change(keys))
    except OSError as exc:
        raise KeyFileError(
            f"{path} can't be written: {exc.strerror or exc}", hint="name a file of yours with --keys-file"
        ) from exc


def _check(path: Path, content: _Content) -> None:
    if content.version != VERSION:
        raise KeyFileError(f"{path} has version {content.version}, and this program knows {VERSION}")
    seen: set[str] = set()
    for key in content.keys:
        for what in (key.id, key.name, key.sha256):
            if what in seen:
                raise KeyFileError(f"{path} has {what!r} twice")
            seen.add(what)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock beside the file, which is replaced and so can't be locked itself."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(path.with_name(path.name + ".lock"), flags, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _write(path: Path, keys: list[Key]) -> None:
    """A reader sees the old file or the new one, and a crash leaves one of them."""
    data = msgspec.json.format(msgspec.json.encode(_Content(VERSION, keys)), indent=2) + b"\n"
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)  # of one that was killed; its mode may be another
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
