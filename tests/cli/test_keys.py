"""`takeoff keys`: data on stdout, talk on stderr, and errors that say what to do."""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from takeoff.cli.main import app
from takeoff.errors import KeyFileError
from takeoff.keys.file import read_keys
from takeoff.keys.key import Scope, digest_of

Keys = Callable[..., Result]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def keys(path: Path, monkeypatch: pytest.MonkeyPatch) -> Keys:
    monkeypatch.setenv("TAKEOFF_KEYS_FILE", str(path))

    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["keys", *arguments], catch_exceptions=True)

    return invoke


def refusal(result: Result) -> KeyFileError:
    assert isinstance(result.exception, KeyFileError)
    assert result.stdout == ""
    return result.exception


def test_a_key_is_shown_once_alone_on_stdout(keys: Keys, path: Path) -> None:
    made = keys("create", "alice")
    secret = made.stdout.removesuffix("\n")
    (key,) = read_keys(path)
    assert digest_of(secret.encode()).hex() == key.sha256
    assert made.stderr == f"alice ({key.id}) opens inference; shown this once, {path} has its hash\n"
    assert (key.name, key.scopes, key.models, key.expires) == ("alice", (Scope.INFERENCE,), (), None)
    assert secret not in path.read_text() + keys("list").output + keys("list", "--json").output
    assert key.sha256 not in keys("list").output + keys("list", "--json").output


def test_what_was_asked_for_is_in_the_list(keys: Keys) -> None:
    keys(
        *("create", "ci", "--scope", "inference", "--scope", "metrics", "--model", "a", "--model", "b"),
        *("--requests-per-minute", "60", "--tokens-per-minute", "100000", "--max-open", "4"),
        *("--expires", "2027-01-31", "--priority", "30"),
    )
    head, row = (line.split("\t") for line in keys("list").stdout.splitlines())
    told = dict(zip(head, row, strict=True))
    assert told["scopes"] == "inference,metrics"
    assert told["models"] == "a,b"
    assert (told["requests/min"], told["tokens/min"], told["open"]) == ("60", "100,000", "4")
    assert told["priority"] == "30"
    assert told["expires"] == "2027-02-01 00:00 UTC", "the day itself is the last"
    (facts,) = json.loads(keys("list", "--json").stdout)
    assert facts["models"] == ["a", "b"]
    assert facts["expires"] == "2027-02-01T00:00:00Z"


def test_who_changes_keys_is_noted_beside_them_without_secret_and_hash(keys: Keys, path: Path) -> None:
    secrets = [keys("create", "alice", "--scope", "admin").stdout.strip()]
    (made,) = read_keys(path)
    secrets.append(keys("rotate", "alice").stdout.strip())
    keys("revoke", "alice")
    keys("revoke", "nobody")
    audit = path.with_name("audit.jsonl")
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert [line["event"] for line in lines] == ["key_created", "key_rotated", "key_revoked"]
    for line in lines:
        assert line["by"] == {"user": pwd.getpwuid(os.getuid()).pw_name}
        told = [line["key"][name] for name in ("id", "name", "scopes")]
        assert told == [made.id, "alice", ["admin"]]
    assert not [secret for secret in (*secrets, made.sha256, "sha256") if secret in audit.read_text()]
    assert audit.stat().st_mode & 0o077 == 0


def test_a_key_is_made_and_shown_where_nobody_can_note_it(
    keys: Keys, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAKEOFF_AUDIT_LOG", str(path / "nowhere"))
    made = keys("create", "alice")
    assert digest_of(made.stdout.strip().encode()).hex() == read_keys(path)[0].sha256
    assert f"warning: {path}/nowhere can't be written: Not a directory" in made.stderr


def test_a_key_is_found_by_its_name_or_its_id_and_is_gone_when_it_is_revoked(keys: Keys, path: Path) -> None:
    for name in ("alice", "bob", "carol"):
        keys("create", name)
    (alice, bob, carol) = read_keys(path)
    assert keys("revoke", "alice").stderr == f"revoked alice ({alice.id})\n"
    assert keys("revoke", bob.id).exit_code == 0
    assert read_keys(path) == [carol]
    missing = refusal(keys("revoke", "alice"))
    assert missing.told == "there is no key 'alice' (`takeoff keys list` shows those there are)"


def test_a_rotated_key_has_another_secret_and_nothing_else(keys: Keys, path: Path) -> None:
    first = keys("create", "alice", "--max-open", "3").stdout
    (before,) = read_keys(path)
    second = keys("rotate", "alice").stdout
    (after,) = read_keys(path)
    assert first != second
    assert after.sha256 == digest_of(second.strip().encode()).hex() != before.sha256
    assert (after.id, after.created, after.max_open) == (before.id, before.created, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("alice",), "there is a key 'alice' already (`takeoff keys rotate alice` gives it"),
        (("a b",), "name: "),
        (("",), "name: "),
        (("x" * 65,), "up to 64 letters"),
        (
            ("bob", "--scope", "all"),
            "scope: Invalid enum value 'all' (the scopes are inference, admin, metrics)",
        ),
        (("bob", "--max-open", "0"), "max_open: "),
        (("bob", "--tokens-per-minute", "-1"), "tokens_per_minute: "),
        (("bob", "--priority", "0"), "priority: Expected `int` >= 1"),
        (("bob", "--priority", "101"), "priority: Expected `int` <= 100"),
        (("bob", "--scope", "metrics", "--priority", "5"), "models and limits are of the scope inference"),
        (("bob", "--model", ""), "model: "),
        (("bob", "--expires", "tomorrow"), "'tomorrow' is no date (write 2027-01-31"),
        (("bob", "--expires", "2027-01-31T12:00"), "is no date"),
        (("bob", "--expires", "9999-12-31"), "is no date"),
        (("bob", "--scope", "metrics", "--model", "m"), "models and limits are of the scope inference"),
    ],
)
def test_what_makes_no_key_is_refused_and_changes_nothing(
    keys: Keys, path: Path, arguments: tuple[str, ...], words: str
) -> None:
    keys("create", "alice")
    before = path.read_bytes()
    assert words in refusal(keys("create", *arguments)).told
    assert path.read_bytes() == before


def test_a_time_of_day_ends_a_key_at_that_moment(keys: Keys, path: Path) -> None:
    keys("create", "alice", "--expires", "2027-01-31T14:00+02:00")
    (key,) = read_keys(path)
    assert key.expires is not None
    assert key.expires.isoformat() == "2027-01-31T12:00:00+00:00"


def test_without_keys_it_says_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: Keys
) -> None:
    assert "takeoff keys create" in (refusal(keys("list")).hint or ""), "the file that was named is not there"
    monkeypatch.delenv("TAKEOFF_KEYS_FILE")
    result = keys("list", "--home", str(tmp_path / "store"))
    assert result.stderr == f"no keys in {tmp_path}/store/keys.json; `takeoff keys create NAME` makes one\n"
    keys("create", "alice", "--home", str(tmp_path / "store"))
    assert [key.name for key in read_keys(tmp_path / "store" / "keys.json")] == ["alice"]
