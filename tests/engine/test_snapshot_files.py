"""Snapshots on disk: what comes back is what was written, or nothing."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from takeoff.engine.snapshot_file import (
    DamagedSnapshot,
    Header,
    Origin,
    SnapshotFile,
    read_header,
    read_state,
    write_snapshot,
)
from takeoff.engine.snapshot_folder import SnapshotFolder

KEY = bytes(range(32))
ORIGIN = Origin("ab" * 32, "", "build 1", 1_024, "f16", "f16", flash_attention=True, deterministic=False)
STATE = np.random.default_rng(1).integers(0, 256, 3_000_000, np.uint8)


def header(state: NDArray[np.uint8] = STATE, origin: Origin = ORIGIN) -> Header:
    token_ids = np.arange(-3, 797, dtype="<i4").tobytes()
    return Header(origin, "tenant", "legal", "hash", 0, 800, token_ids, len(state))


def read_back(snapshot: SnapshotFile) -> NDArray[np.uint8]:
    target = np.zeros(snapshot.header.state_bytes, np.uint8)
    read_state(snapshot, KEY, target)
    return target


def test_a_snapshot_comes_back_byte_for_byte_with_what_it_is_of(tmp_path: Path) -> None:
    written = write_snapshot(tmp_path, KEY, header(), STATE)
    assert [path.name for path in tmp_path.iterdir()] == [written.path.name]
    assert stat.S_IMODE(written.path.stat().st_mode) == 0o600
    read = read_header(written.path, KEY, max_tokens=1_024)
    assert read.header == header()
    assert read.num_bytes == written.num_bytes == written.path.stat().st_size
    assert read.header.tokens.tolist() == list(range(-3, 797)), "images stand as negative ids"
    assert (read_back(read) == STATE).all()


@pytest.mark.parametrize("place", [0, 8, 12, 20, 400, 3_000, 4_500, 1_000_000, -40, -1])
def test_one_flipped_bit_anywhere_is_found_before_the_state_is_used(tmp_path: Path, place: int) -> None:
    written = write_snapshot(tmp_path, KEY, header(), STATE)
    data = bytearray(written.path.read_bytes())
    data[place] ^= 1
    written.path.write_bytes(data)
    with pytest.raises(DamagedSnapshot):
        read_back(read_header(written.path, KEY, max_tokens=1_024))
    with pytest.raises(DamagedSnapshot):
        read_back(written)


@pytest.mark.parametrize("size", [0, 10, 60, 5_000, -1])
def test_a_file_that_was_cut_is_none(tmp_path: Path, size: int) -> None:
    written = write_snapshot(tmp_path, KEY, header(), STATE)
    written.path.write_bytes(written.path.read_bytes()[:size])
    with pytest.raises(DamagedSnapshot):
        read_header(written.path, KEY, max_tokens=1_024)
    with pytest.raises(DamagedSnapshot):
        read_back(written)


def test_a_file_of_another_key_or_with_a_hostile_header_is_none(tmp_path: Path) -> None:
    written = write_snapshot(tmp_path, bytes(32), header(), STATE)
    with pytest.raises(DamagedSnapshot, match="not what was written"):
        read_header(written.path, KEY, max_tokens=1_024)
    written.path.write_bytes(b"TAKEOFFP\x01\0\0\0\xff\xff\xff\xff" + bytes(200))
    with pytest.raises(DamagedSnapshot, match="a header of 4294967295 bytes, the limit is 8192"):
        read_header(written.path, KEY, max_tokens=1_024)


def test_neither_a_link_nor_a_pipe_is_opened(tmp_path: Path) -> None:
    written = write_snapshot(tmp_path, KEY, header(), STATE)
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(written.path)
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="symbolic"):
        read_header(link, KEY, max_tokens=1_024)
    with pytest.raises(DamagedSnapshot, match="regular"):
        read_header(pipe, KEY, max_tokens=1_024)


def test_another_whole_file_in_the_place_of_the_checked_one_is_refused(tmp_path: Path) -> None:
    one = write_snapshot(tmp_path, KEY, header(), STATE)
    other = write_snapshot(tmp_path, KEY, header(STATE[:1_000]), STATE[:1_000])
    other.path.replace(one.path)
    with pytest.raises(DamagedSnapshot, match="not the one that was checked"):
        read_back(one)


def make_folder(root: Path, origin: Origin = ORIGIN, budget_bytes: int = 20_000_000) -> SnapshotFolder:
    return SnapshotFolder(root / "prefixes", origin, budget_bytes=budget_bytes)


def test_the_folder_and_its_key_are_the_users_alone_and_two_servers_share_them(tmp_path: Path) -> None:
    one, other = make_folder(tmp_path), make_folder(tmp_path)
    assert one.tenant("a") == other.tenant("a") != one.tenant("b")
    written = one.write(header(), STATE)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "prefixes").rglob("*")}
    assert modes == {"key": 0o600, "ab" * 16: 0o700, written.path.name: 0o600}
    assert stat.S_IMODE((tmp_path / "prefixes").stat().st_mode) == 0o700
    assert [snapshot.path for snapshot, _ in other.look().snapshots] == [written.path]


def test_a_folder_that_others_could_read_is_closed_and_a_key_that_they_could_is_refused(
    tmp_path: Path,
) -> None:
    make_folder(tmp_path)
    (tmp_path / "prefixes").chmod(0o755)
    make_folder(tmp_path)
    assert stat.S_IMODE((tmp_path / "prefixes").stat().st_mode) == 0o700
    (tmp_path / "prefixes" / "key").chmod(0o644)
    with pytest.raises(PermissionError, match="for this user alone"):
        make_folder(tmp_path)


@pytest.mark.parametrize("field", Origin.__struct_fields__)
def test_a_snapshot_that_differs_in_any_setting_does_not_fit_this_engine(tmp_path: Path, field: str) -> None:
    value = getattr(ORIGIN, field)
    other = not value if isinstance(value, bool) else "other" if isinstance(value, str) else value + 256
    origin = msgspec.structs.replace(ORIGIN, **{field: other})
    path = make_folder(tmp_path).write(header(origin=origin), STATE).path
    assert make_folder(tmp_path).look().snapshots == []
    assert path.exists() == (field != "engine_build"), "of another build it is of no use to anybody"


def test_what_is_damaged_or_left_over_is_deleted_at_the_start(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    damaged, good = (folder.write(header(), STATE).path for _ in range(2))
    damaged.write_bytes(damaged.read_bytes()[:100])
    old, fresh = (good.with_name(f"{name}.part") for name in ("old", "fresh"))
    for part in (old, fresh):
        part.write_bytes(b"half of it")
    hours_ago = time.time() - 7_200
    os.utime(old, (hours_ago, hours_ago))
    found = folder.look()
    assert found.num_damaged == 1
    assert [snapshot.path for snapshot, _ in found.snapshots] == [good]
    assert {path.name for path in good.parent.iterdir()} == {good.name, "fresh.part"}


def test_the_budget_is_kept_by_deleting_what_is_worth_least(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, budget_bytes=9_500_000)
    paths = [folder.write(header(), STATE).path for _ in range(3)]
    values = dict(zip(paths, (5.0, 1.0, 3.0), strict=True))
    assert folder.make_room(len(STATE), values) == {paths[1]}
    assert sorted(path.name for path in paths[0].parent.iterdir()) == sorted([paths[0].name, paths[2].name])
    assert folder.make_room(10_000_000, values) is None, "larger than the budget"
