"""An API key: what it may do, and the text that shows it, of which only a hash is kept."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from takeoff.request import DEFAULT_PRIORITY, MAX_PRIORITY

PREFIX = "tk-"  # by which people, and programs that look for leaked secrets, know a key of ours
SECRET_BYTES = 24  # of randomness; 32 characters
NAME_RULE = "a name is up to 64 letters, digits and . _ @ -, the first of them a letter or a digit"

Id = Annotated[str, Meta(pattern=r"^[0-9a-f]{12}\Z")]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}\Z")]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
ModelName = Annotated[str, Meta(min_length=1, max_length=1_024)]
Time = Annotated[datetime, Meta(tz=True)]
Limit = Annotated[int, Meta(ge=1, le=1_000_000_000_000)]
Priority = Annotated[int, Meta(ge=1, le=MAX_PRIORITY)]


class Scope(StrEnum):
    """A kind of routes. A key that has one has none of the others by it."""

    INFERENCE = "inference"  # what uses models
    ADMIN = "admin"  # what changes readers
    METRICS = "metrics"  # what tells of everyone's use


ALL_SCOPES = tuple(Scope)


class Key(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key. No models: all of them; no limit: none."""

    id: Id  # stays when the secret is changed; its prefixes stay with it
    name: Name
    sha256: Digest
    created: Time
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1)] = (Scope.INFERENCE,)
    models: tuple[ModelName, ...] = ()  # names of models, readers or groups
    requests_per_minute: Limit | None = None
    tokens_per_minute: Limit | None = None  # of prompts and completions
    max_open: Limit | None = None  # generations and encodings at once
    priority: Priority = DEFAULT_PRIORITY  # weight of its share where there is not enough for all
    expires: Time | None = None

    def has_expired(self, now: datetime) -> bool:
        return self.expires is not None and now >= self.expires


def new_id() -> str:
    return secrets.token_hex(6)


def new_secret() -> str:
    """The text of a key: who has it may use the key, and it can't be guessed."""
    return PREFIX + secrets.token_urlsafe(SECRET_BYTES)


def digest_of(secret: bytes) -> bytes:
    """What is kept of a key's text.

    A slow hash protects passwords that people think of, because those can be guessed one after the other. Of
    192 random bits nobody tries a part worth a name, however fast the hash, and each request would pay.
    """
    return hashlib.sha256(secret).digest()
