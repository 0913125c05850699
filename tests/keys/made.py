"""Keys for tests, and files of them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from takeoff.keys.file import change_keys
from takeoff.keys.key import Key, digest_of, new_id, new_secret


def make_key(name: str = "alice", **values: Any) -> tuple[Key, str]:
    """A key, and the text that shows it."""
    secret = new_secret()
    digest = digest_of(secret.encode()).hex()
    created = datetime(2026, 1, 1, tzinfo=UTC)
    return Key(id=new_id(), name=name, sha256=digest, created=created, **values), secret


def write_keys(path: Path, *keys: Key) -> None:
    """In the place of what is there."""
    change_keys(path, lambda _: list(keys))
