"""A file of keys for the scripts that need one."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from takeoff.keys.file import change_keys
from takeoff.keys.key import ALL_SCOPES, Key, digest_of, new_id, new_secret


def make_keys(path: Path, num: int, **limits: int) -> list[str]:
    """Write so many keys, each of which may do everything within `limits`; returns their secrets."""
    secrets = [new_secret() for _ in range(num)]
    made = [
        Key(
            id=new_id(),
            name=f"key{number}",
            sha256=digest_of(secret.encode()).hex(),
            created=datetime.now(UTC),
            scopes=ALL_SCOPES,
            **limits,
        )
        for number, secret in enumerate(secrets)
    ]
    change_keys(path, lambda _: made)
    return secrets
