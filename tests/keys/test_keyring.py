"""Whose key it is, and that a running server hears of what changes in the file."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec import structs
from tests.keys.made import make_key, write_keys

from takeoff.errors import KeyFileError, Unauthorized
from takeoff.keys.key import ALL_SCOPES, Scope
from takeoff.keys.keyring import LOOK_EVERY_S, Keyring


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def later(keys: Keyring, clock: Clock, secret: str) -> str | None:
    """Whose the key is when the file may be looked at again."""
    clock.now += LOOK_EVERY_S
    return whose(keys, secret)


def whose(keys: Keyring, secret: str) -> str | None:
    """The name of the key's owner, None: a stranger."""
    account = keys.account_of(secret.encode())
    return None if account.is_stranger else account.name


def test_without_keys_everyone_may_do_everything(path: Path) -> None:
    for keys in (Keyring(), Keyring(None, path)):
        account = keys.account_of(b"")
        assert [account.has(scope) for scope in ALL_SCOPES] == [True] * 3
        assert (account.tenant, account.models) == ("", frozenset())


def test_each_key_is_its_owners_and_nothing_else_is_one(path: Path) -> None:
    (alice, hers), (bob, his) = make_key("alice"), make_key("bob", scopes=(Scope.ADMIN,))
    write_keys(path, alice, bob)
    keys = Keyring("the-old-one", path)
    assert (whose(keys, hers), whose(keys, his)) == ("alice", "bob")
    for wrong in ("", hers[:-1], hers + "x", hers.upper(), alice.sha256, alice.id, "alice", "the-old-on"):
        assert whose(keys, wrong) is None
    hers_may = keys.account_of(hers.encode())
    assert [scope for scope in ALL_SCOPES if hers_may.has(scope)] == [Scope.INFERENCE]
    assert [scope for scope in ALL_SCOPES if keys.account_of(his.encode()).has(scope)] == [Scope.ADMIN]
    operator = keys.account_of(b"the-old-one")
    assert [scope for scope in ALL_SCOPES if operator.has(scope)] == list(ALL_SCOPES)
    assert not any(keys.account_of(b"").has(scope) for scope in ALL_SCOPES)
    tenants = [keys.account_of(secret).tenant for secret in (hers.encode(), his.encode(), b"the-old-one")]
    assert tenants == [f"key:{alice.id}", f"key:{bob.id}", ""]


def test_a_new_key_and_a_revoked_one_are_known_without_a_restart(path: Path) -> None:
    (alice, hers), (bob, his) = make_key("alice"), make_key("bob")
    write_keys(path, alice)
    clock = Clock()
    keys = Keyring(None, path, clock=clock)
    write_keys(path, alice, bob)
    assert whose(keys, his) is None, "not looked at for each request"
    assert later(keys, clock, his) == "bob"
    write_keys(path, bob)
    assert later(keys, clock, hers) is None
    assert whose(keys, his) == "bob"


def test_the_last_key_taken_away_locks_the_door(path: Path) -> None:
    alice, hers = make_key("alice")
    write_keys(path, alice)
    clock = Clock()
    keys = Keyring(None, path, clock=clock)
    write_keys(path)
    assert later(keys, clock, hers) is None
    assert Keyring(None, path).account_of(b"").is_stranger, "after a restart too"


def test_the_first_key_locks_a_door_that_was_open(path: Path) -> None:
    clock = Clock()
    keys = Keyring(None, path, clock=clock)
    assert whose(keys, "") == ""
    alice, hers = make_key("alice")
    write_keys(path, alice)
    assert later(keys, clock, "") is None
    assert whose(keys, hers) == "alice"


def test_a_changed_secret_keeps_account_and_tenant(path: Path) -> None:
    alice, hers = make_key("alice", requests_per_minute=2)
    write_keys(path, alice)
    clock = Clock()
    keys = Keyring(None, path, clock=clock)
    before = keys.account_of(hers.encode())
    rotated, new_secret = make_key("alice", requests_per_minute=2)
    write_keys(path, structs.replace(rotated, id=alice.id))
    assert later(keys, clock, new_secret) == "alice"
    assert keys.account_of(new_secret.encode()) is before, "what it used stays used"
    assert whose(keys, hers) is None


@pytest.mark.parametrize("how", ["broken", "readable", "gone"])
def test_a_file_that_goes_wrong_keeps_the_keys_and_says_so_once(
    path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    (alice, hers), (bob, his) = make_key("alice"), make_key("bob")
    write_keys(path, alice)
    clock = Clock()
    keys = Keyring(None, path, clock=clock)
    if how == "broken":
        path.write_text("{")
    elif how == "readable":
        path.chmod(0o644)
    else:
        path.unlink()
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert later(keys, clock, hers) == "alice"
            assert whose(keys, "wrong") is None
    (record,) = caplog.records
    assert str(path) in record.message
    assert record.message.endswith("the keys that it had stay in force")
    path.unlink(missing_ok=True)
    write_keys(path, bob)
    assert (later(keys, clock, his), whose(keys, hers)) == ("bob", None)


def test_a_file_that_appears_and_is_wrong_opens_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    keys = Keyring(None, path, clock=clock)
    path.write_text("{")
    path.chmod(0o600)
    assert later(keys, clock, "") is None
    assert "no key opens anything" in caplog.text


def test_a_server_does_not_start_with_a_wrong_file_or_without_the_one_that_was_named(path: Path) -> None:
    with pytest.raises(KeyFileError, match="No such file"):
        Keyring(None, path, must_exist=True)
    path.write_text("{}")
    with pytest.raises(KeyFileError):
        Keyring("the-old-one", path)


def test_a_key_whose_time_is_over_says_so_to_who_has_it(path: Path) -> None:
    end = datetime(2026, 6, 1, tzinfo=UTC)
    alice, hers = make_key("alice", expires=end)
    write_keys(path, alice)
    now = [end - timedelta(seconds=1)]
    keys = Keyring(None, path, now=lambda: now[0])
    assert whose(keys, hers) == "alice"
    now[0] = end
    with pytest.raises(Unauthorized, match="'alice' was valid until 2026-06-01 00:00 UTC"):
        keys.account_of(hers.encode())
    assert whose(keys, "wrong") is None


def test_every_key_is_compared_whichever_is_right(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [make_key(f"key{number}") for number in range(20)]
    write_keys(path, *(key for key, _ in made))
    keys = Keyring("the-old-one", path)
    compared = 0

    def compare(one: bytes, other: bytes) -> bool:
        nonlocal compared
        compared += 1
        return one == other

    monkeypatch.setattr("hmac.compare_digest", compare)
    counts = []
    for secret in (made[0][1], made[19][1], "wrong", "the-old-one", ""):
        compared = 0
        keys.account_of(secret.encode())
        counts.append(compared)
    assert counts == [21] * 5


def test_a_link_to_the_file_is_followed_when_it_is_moved(tmp_path: Path) -> None:
    """As container platforms change what they mount."""
    (alice, hers), (bob, his) = make_key("alice"), make_key("bob")
    for name, key in (("one", alice), ("two", bob)):
        write_keys(tmp_path / name, key)
    link = tmp_path / "keys.json"
    link.symlink_to("one")
    clock = Clock()
    keys = Keyring(None, link, clock=clock)
    assert whose(keys, hers) == "alice"
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").replace(link)
    assert (later(keys, clock, his), whose(keys, hers)) == ("bob", None)
