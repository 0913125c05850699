"""The folder of the snapshots on disk: its key, the files of one model, and room for the next.

    <store>/prefixes/key              32 random bytes, for the user alone
    <store>/prefixes/<model's hash>/  a file for each snapshot

Several servers may share it: names are random, files get theirs when they are whole, and one that is
gone is no error. To forget every prompt, delete the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from takeoff.engine.snapshot_file import (
    KEY_BYTES,
    PART_SUFFIX,
    SUFFIX,
    DamagedSnapshot,
    Header,
    Origin,
    SnapshotFile,
    read_header,
    read_state,
    tenant_hash,
    write_snapshot,
)

HALF_LIFE_S = 86_400.0
MAX_FILES = 4_096  # whose headers are read
PART_AGE_S = 3_600.0  # then whoever wrote it is gone
MARGIN_BYTES = 256 << 20  # stays free: a disk filled to the last byte breaks other programs


@dataclass(frozen=True, slots=True)
class Found:
    """What lies in a folder at the start."""

    snapshots: list[tuple[SnapshotFile, float]]  # that fit this engine, with their age in seconds
    num_damaged: int


class SnapshotFolder:
    """The snapshots of one model, at most `budget_bytes` of them."""

    def __init__(self, root: Path, origin: Origin, *, budget_bytes: int) -> None:
        """Make the folder if need be.

        Raises:
            OSError: it can't be made, or is not the user's own.
        """
        self.origin = origin
        self.budget_bytes = budget_bytes
        _make_private(root)
        self._key = _key_of(root)
        self._folder = root / origin.model_hash[:32]
        _make_private(self._folder)

    def tenant(self, name: str) -> str:
        """What a tenant is called in a header."""
        return tenant_hash(self._key, name)

    def look(self) -> Found:
        """The snapshots that fit; what is damaged, left over or of another build is deleted."""
        snapshots: list[tuple[SnapshotFile, float]] = []
        num_damaged = 0
        now = time.time()
        files = sorted(self._files(SUFFIX), key=lambda file: file[2], reverse=True)
        for path, _, used_at in files[:MAX_FILES]:
            try:
                snapshot = read_header(path, self._key, max_tokens=self.origin.n_ctx_slot)
            except DamagedSnapshot:
                num_damaged += 1
                path.unlink(missing_ok=True)
            except OSError:
                continue
            else:
                if snapshot.header.origin == self.origin:
                    snapshots.append((snapshot, max(now - used_at, 0.0)))
                elif snapshot.header.origin.engine_build != self.origin.engine_build:
                    path.unlink(missing_ok=True)  # one of another setting may be in use by another server
        for path, _, written_at in self._files(PART_SUFFIX):
            if now - written_at > PART_AGE_S:
                path.unlink(missing_ok=True)
        return Found(snapshots, num_damaged)

    def make_room(self, num_bytes: int, values: Mapping[Path, float]) -> set[Path] | None:
        """Delete what is worth least per byte until the budget has room; returns the files that went.

        `values` of the files that are known; another server's are worth what these are, by their age.
        None: the disk is too full.
        """
        files = list(self._files(SUFFIX))
        average = sum(values.values()) / len(values) if values else 1.0
        now = time.time()

        def value(file: tuple[Path, int, float]) -> float:
            path, _, used_at = file
            return values.get(path, average * 0.5 ** (max(now - used_at, 0.0) / HALF_LIFE_S))

        excess = sum(size for _, size, _ in files) + num_bytes - self.budget_bytes
        deleted = set()
        for path, size, _ in sorted(files, key=value):
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            deleted.add(path)
            excess -= size
        is_room = excess <= 0 and shutil.disk_usage(self._folder).free >= num_bytes + MARGIN_BYTES
        return deleted if is_room else None

    def write(self, header: Header, state: NDArray[np.uint8]) -> SnapshotFile:
        """Raises OSError: see `write_snapshot`."""
        return write_snapshot(self._folder, self._key, header, state)

    def read(self, snapshot: SnapshotFile, target: NDArray[np.uint8]) -> None:
        """Raises DamagedSnapshot, OSError: see `read_state`."""
        read_state(snapshot, self._key, target)
        with contextlib.suppress(OSError):
            _touch(snapshot.path)

    @property
    def used_bytes(self) -> int:
        return sum(size for _, size, _ in self._files(SUFFIX))

    def _files(self, suffix: str) -> Iterator[tuple[Path, int, float]]:
        """Path, size and time of last use of each file with this suffix; no link is one.

        None, if somebody has deleted the folder.
        """
        with contextlib.ExitStack() as stack:
            try:
                entries = stack.enter_context(os.scandir(self._folder))
            except FileNotFoundError:
                return
            for entry in entries:
                if not entry.name.endswith(suffix):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    found = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(found.st_mode):
                        yield Path(entry.path), found.st_size, found.st_mtime


def _touch(path: Path) -> None:
    """Set the time of last use, by way of an open file: the sandbox lets no path be named for that."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.utime(descriptor)
    finally:
        os.close(descriptor)


def file_hash(path: Path) -> str:
    """BLAKE2b of a file, 1 GB a second."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(0, f"{folder} is not a folder of this user")
    if stat.S_IMODE(found.st_mode) & 0o077:
        folder.chmod(0o700)


def _key_of(root: Path) -> bytes:
    """The key of a folder, made at its first use; of two servers that make one, the first is heard."""
    path = root / "key"
    if not path.exists():
        part = root / f"{secrets.token_hex(16)}{PART_SUFFIX}"
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
        with contextlib.suppress(FileExistsError):
            os.link(part, path)
        part.unlink()
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        key = file.read(KEY_BYTES + 1)
    if len(key) != KEY_BYTES or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(0, f"{path} is not a key for this user alone: delete it and its folder")
    return key
