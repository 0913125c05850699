"""The file of keys: what is read, what is refused, and that nothing is lost when many write it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from tests.keys.made import make_key, write_keys

from takeoff.errors import KeyFileError
from takeoff.keys.file import change_keys, read_keys
from takeoff.keys.key import Key, Scope, digest_of, new_secret


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "store" / "keys.json"
    alice, _ = make_key("alice", models=("m",), tokens_per_minute=7)
    admin, _ = make_key("root", scopes=(Scope.ADMIN, Scope.METRICS))
    write_keys(path, alice, admin)
    assert read_keys(path) == [alice, admin]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_key_is_in_the_file_only_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key, secret = make_key("alice")
    write_keys(path, key)
    assert secret not in path.read_text()
    assert json.loads(path.read_text())["keys"][0]["sha256"] == digest_of(secret.encode()).hex()
    assert len({new_secret() for _ in range(100)}) == 100
    assert len(secret) == len("tk-") + 32, "192 bits"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602])
def test_a_file_that_others_can_use_is_refused_with_what_to_do(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keys.json"
    write_keys(path, make_key("alice")[0])
    path.chmod(mode)
    for attempt in (lambda: read_keys(path), lambda: change_keys(path, lambda keys: keys)):
        with pytest.raises(KeyFileError, match=f"mode {mode:04o}") as refused:
            attempt()
        assert refused.value.hint == f"chmod 600 {path}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no file of keys"),
        ("{", "no file of keys"),
        ("[]", "no file of keys"),
        ('{"version": 1}', "missing required field `keys`"),
        ('{"version": 2, "keys": []}', "version 2, and this program knows 1"),
        ('{"version": 1, "keys": [], "more": 1}', "unknown field `more`"),
        ('{"version": 1, "keys": [{"id": "x"}]}', "$.keys[0]"),
        ("\udcff", "no file of keys"),
        ("[" * 100_000, "no file of keys"),
    ],
)
def test_what_is_no_file_of_keys_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    path.chmod(0o600)
    with pytest.raises(KeyFileError) as refused:
        read_keys(path)
    assert words in refused.value.message
    assert path.name in refused.value.message


@pytest.mark.parametrize("field", ["name", "id", "sha256"])
def test_two_keys_of_one_name_id_or_hash_are_refused(tmp_path: Path, field: str) -> None:
    path = tmp_path / "keys.json"
    write_keys(path, make_key("alice")[0], make_key("bob")[0])
    content = json.loads(path.read_text())
    content["keys"][1][field] = content["keys"][0][field]
    path.write_text(json.dumps(content))
    with pytest.raises(KeyFileError, match="twice"):
        read_keys(path)


def test_a_value_out_of_bounds_is_refused_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    wrong: list[tuple[str, object]] = [
        ("max_open", 0),
        ("priority", 101),
        ("scopes", []),
        ("scopes", ["all"]),
    ]
    for field, value in [*wrong, ("models", [""]), ("x", 1)]:
        write_keys(path, make_key("alice")[0])
        content = json.loads(path.read_text())
        content["keys"][0][field] = value
        path.write_text(json.dumps(content))
        with pytest.raises(KeyFileError, match=r"\$\.keys\[") as refused:
            read_keys(path)
        assert field in refused.value.message
        path.unlink()


def test_a_missing_file_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="No such file") as refused:
        read_keys(tmp_path / "keys.json")
    assert "takeoff keys create" in (refused.value.hint or "")


def test_a_change_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    write_keys(path, make_key("alice")[0])
    before = path.read_bytes()

    def fail(keys: list[Key]) -> list[Key]:
        raise KeyFileError("no")

    with pytest.raises(KeyFileError, match="no"):
        change_keys(path, fail)
    (tmp_path / "keys.json.new").write_text("what a killed program left")
    assert path.read_bytes() == before
    change_keys(path, lambda keys: keys)
    assert path.read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["keys.json", "keys.json.lock"]


def test_of_a_link_the_file_that_it_points_to_is_changed(tmp_path: Path) -> None:
    write_keys(tmp_path / "real.json", make_key("alice")[0])
    link = tmp_path / "keys.json"
    link.symlink_to("real.json")
    write_keys(link, bob := make_key("bob")[0])
    assert link.is_symlink()
    assert read_keys(tmp_path / "real.json") == [bob]


def test_a_folder_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KeyFileError, match="can't be written") as refused:
        write_keys(tmp_path / "file" / "keys.json")
    assert "--keys-file" in (refused.value.hint or "")


WRITER = """
import sys
from pathlib import Path
from takeoff.keys.file import change_keys
from tests.keys.made import make_key
for number in range(10):
    key, _ = make_key(f"{sys.argv[2]}-{number}")
    change_keys(Path(sys.argv[1]), lambda keys: [*keys, key])
"""


def test_of_programs_that_write_at_once_none_loses_a_key(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    environ = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), f"writer{number}"], env=environ)
        for number in range(4)
    ]
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            read_keys(path)  # never half a file
    assert [writer.returncode for writer in writers] == [0] * 4
    assert len(read_keys(path)) == 40
