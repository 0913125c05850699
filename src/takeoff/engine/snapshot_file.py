"""The file of one snapshot: what it is of, then the state as llama.cpp writes it, both under a key.

    magic 8 | version u32 | header bytes u32 | header, msgpack | MAC of all before, 32
    state                                                      | MAC of all before, 32

Little-endian. The state is parsed by native code that trusts it, so nothing reaches it but what a
server of this user has written: the MACs are BLAKE2b under a key that lies beside the files, readable
by the user alone. That holds against files that were damaged, cut, copied from elsewhere or planted by
somebody who can write to the folder but can't read the key. It does not hold against the user himself,
nor root, nor a thief of the disk; prompts can be read from the files, which are not encrypted.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hmac import compare_digest
from io import BufferedReader
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

MAGIC, VERSION = b"TAKEOFFP", 1
SUFFIX, PART_SUFFIX = ".prefix", ".part"
KEY_BYTES = MAC_BYTES = 32
HEADER_ROOM_BYTES = 4_096  # of a header without its tokens
CHUNK_BYTES = 1 << 20
_PREAMBLE = struct.Struct("<8sII")


class DamagedSnapshot(Exception):
    """The file is not what a server of this user wrote."""


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """With what a snapshot was computed. It fits an engine of which all of this is equal."""

    model_hash: str
    projector_hash: str  # "": none
    engine_build: str
    n_ctx_slot: int
    cache_type_k: str
    cache_type_v: str
    flash_attention: bool
    deterministic: bool


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a snapshot is of."""

    origin: Origin
    tenant: str  # a keyed hash of the name
    lora: str | None
    lora_hash: str  # of its file and scale; "": none
    start_position: int
    end_position: int  # the state holds the tokens of these positions
    token_ids: bytes  # int32: those that may be reused, from position 0 on
    state_bytes: int

    @property
    def tokens(self) -> NDArray[np.int32]:
        return np.frombuffer(self.token_ids, "<i4").astype(np.int32)

    @property
    def most_bytes(self) -> int:
        """That its file may have."""
        return HEADER_ROOM_BYTES + len(self.token_ids) + self.state_bytes


@dataclass(frozen=True, eq=False, slots=True)
class SnapshotFile:
    """A file whose header was checked; its state was not."""

    path: Path
    header: Header
    mac: bytes  # of the header
    num_bytes: int


def write_snapshot(folder: Path, key: bytes, header: Header, state: NDArray[np.uint8]) -> SnapshotFile:
    """Write a file for `state` [header.state_bytes]; it has its name once it is whole.

    Raises:
        OSError: the disk did not take it; nothing is left behind.
    """
    encoded = msgspec.msgpack.encode(header)
    head = _PREAMBLE.pack(MAGIC, VERSION, len(encoded)) + encoded
    head_mac = _mac(key, "header", head).digest()
    whole_mac = _mac(key, "whole", head + head_mac)
    name = secrets.token_hex(16)
    part = folder / f"{name}{PART_SUFFIX}"
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(head + head_mac)
            for chunk in _chunks(state):
                whole_mac.update(chunk)
                file.write(chunk)
            file.write(whole_mac.digest())
        path = part.with_suffix(SUFFIX)
        part.rename(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return SnapshotFile(path, header, head_mac, _file_bytes(len(encoded), header.state_bytes))


def read_header(path: Path, key: bytes, *, max_tokens: int) -> SnapshotFile:
    """Read and check what a file is of; one of more than `max_tokens` tokens is none of ours.

    Raises:
        DamagedSnapshot: it is not what a server of this user wrote.
        OSError: it can't be read.
    """
    with _opened(path) as file:
        head, encoded = _read_head(file, HEADER_ROOM_BYTES + 4 * max_tokens)
        mac = file.read(MAC_BYTES)
        if not compare_digest(mac, _mac(key, "header", head).digest()):
            raise DamagedSnapshot("its header is not what was written")
        try:
            header = msgspec.msgpack.decode(encoded, type=Header)
        except msgspec.DecodeError as exc:
            raise DamagedSnapshot(f"its header is another version's: {exc}") from exc
        size = os.fstat(file.fileno()).st_size
    if size != _file_bytes(len(encoded), header.state_bytes):
        raise DamagedSnapshot(f"it has {size} bytes, and its header says another length")
    return SnapshotFile(path, header, mac, size)


def read_state(snapshot: SnapshotFile, key: bytes, target: NDArray[np.uint8]) -> None:
    """Read the state into `target` [header.state_bytes], which holds it only if nothing is raised.

    Raises:
        DamagedSnapshot: it is not what a server of this user wrote.
        OSError: it can't be read, or is gone.
    """
    with _opened(snapshot.path) as file:
        head, _ = _read_head(file, snapshot.num_bytes)
        if not compare_digest(file.read(MAC_BYTES), snapshot.mac):
            raise DamagedSnapshot("its header is not the one that was checked")
        mac = _mac(key, "whole", head + snapshot.mac)
        for chunk in _chunks(target):
            if file.readinto(chunk) != len(chunk):
                raise DamagedSnapshot("it is shorter than its header says")
            mac.update(chunk)
        if not compare_digest(file.read(MAC_BYTES + 1), mac.digest()):
            raise DamagedSnapshot("its state is not what was written")


def tenant_hash(key: bytes, tenant: str) -> str:
    """The name of a tenant as files have it."""
    return _mac(key, "tenant", tenant.encode()).hexdigest()


def _read_head(file: BufferedReader, max_header_bytes: int) -> tuple[bytes, bytes]:
    """The bytes up to the first MAC, and those of the header in them."""
    preamble = file.read(_PREAMBLE.size)
    if len(preamble) < _PREAMBLE.size:
        raise DamagedSnapshot("it is shorter than any snapshot")
    magic, version, size = _PREAMBLE.unpack(preamble)
    if (magic, version) != (MAGIC, VERSION):
        raise DamagedSnapshot(f"it is no snapshot of version {VERSION}")
    if size > max_header_bytes:
        raise DamagedSnapshot(f"it has a header of {size} bytes, the limit is {max_header_bytes}")
    encoded = file.read(size)
    return preamble + encoded, encoded


def _file_bytes(header_bytes: int, state_bytes: int) -> int:
    return _PREAMBLE.size + header_bytes + MAC_BYTES + state_bytes + MAC_BYTES


def _mac(key: bytes, what: str, data: bytes) -> hashlib.blake2b:
    return hashlib.blake2b(data, key=key, digest_size=MAC_BYTES, person=what.encode())


def _chunks(data: NDArray[np.uint8]) -> Iterator[memoryview]:
    view = data.data
    return (view[start : start + CHUNK_BYTES] for start in range(0, len(view), CHUNK_BYTES))


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """A regular file, open for reading: no link is followed, no pipe waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise DamagedSnapshot("it is not a regular file")
        yield file
