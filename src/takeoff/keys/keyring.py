"""The keys of a running server: who is at the door, by the key that he shows.

The file is looked at when somebody comes, at most twice a second, and read when it has changed. One that is
wrong, or gone, changes nothing: the keys that it had go on, and the log says what is wrong.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from takeoff.errors import KeyFileError, Unauthorized
from takeoff.keys.account import Account, Clock, Spent
from takeoff.keys.file import read_keys, version_of
from takeoff.keys.key import Key, digest_of

LOOK_EVERY_S = 0.5
OPERATOR = "TAKEOFF_API_KEY"  # what the log calls who has the settings' one key

logger = logging.getLogger(__name__)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Keyring:
    """Accounts by key. Without any key, and without a file of them, the server is everyone's."""

    def __init__(
        self,
        api_key: str | None = None,
        path: Path | None = None,
        *,
        must_exist: bool = False,
        clock: Clock = time.monotonic,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        """`api_key` opens everything; `path` is the file of the others, which may not be there yet.

        Raises:
            KeyFileError: the file is there and wrong, or it is not there and `must_exist`.
        """
        self._clock = clock
        self._now = now
        self._path = path
        self._anyone = Account(None, clock, name=OPERATOR if api_key else "")
        self._stranger = Account(None, clock, is_stranger=True)
        self._operators = _digests(api_key) if api_key else []
        self._keys: list[tuple[bytes, Key]] | None = None  # None: there is no file, and was none
        self._accounts: dict[str, Account] = {}
        self._version = None if path is None else version_of(path)
        self._looked_at = clock()
        if path is not None and (must_exist or self._version is not None):
            self._take(read_keys(path))

    @property
    def is_locked(self) -> bool:
        """Whether a key is asked for. Who takes the last one away locks the door, and doesn't open it."""
        return bool(self._operators) or self._keys is not None

    def account_of(self, secret: bytes) -> Account:
        """Whose key `secret` is; a stranger's if nobody's.

        In a time that says nothing of how near a wrong one came, or to which key.

        Raises:
            Unauthorized: it is a key's, and its time is over.
        """
        self._look()
        if not self.is_locked:
            return self._anyone
        digest = digest_of(secret)
        found: Key | None = None
        for right, key in self._keys or ():
            if hmac.compare_digest(digest, right):
                found = key
        is_operator = False
        for right in self._operators:
            is_operator |= hmac.compare_digest(digest, right)
        if is_operator:
            return self._anyone
        if found is None:
            return self._stranger
        if found.has_expired(self._now()):
            raise Unauthorized(
                f"the API key {found.name!r} was valid until {found.expires:%Y-%m-%d %H:%M} UTC"
            )
        return self._accounts[found.id]

    def spent(self) -> dict[str, Spent]:
        """By key id, of keys that have used anything since it was asked last, or have anything open."""
        spent = {key_id: account.spent() for key_id, account in self._accounts.items()}
        return {key_id: each for key_id, each in spent.items() if any(each)}

    def take_spent(self, server: str, spent: Mapping[str, Spent]) -> None:
        """Another server of the same keys has said this. Keys that it leaves out have nothing open there."""
        for key_id, account in self._accounts.items():
            account.take_spent(server, spent.get(key_id, Spent(0, 0, 0)))

    def _look(self) -> None:
        """Read the file again if it has changed."""
        if self._path is None or self._clock() - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = self._clock()
        version = version_of(self._path)
        if version == self._version:
            return
        self._version = version
        try:
            self._take(read_keys(self._path))
        except KeyFileError as exc:
            if self._keys is not None:
                logger.error("%s; the keys that it had stay in force", exc.told)
            elif version is not None:  # somebody wants keys, and we don't know which: none is known
                logger.error("%s; until it is right no key opens anything", exc.told)
                self._keys = []
        else:
            logger.info("%s: %d keys", self._path, len(self._keys or ()))

    def _take(self, keys: list[Key]) -> None:
        self._keys = [(bytes.fromhex(key.sha256), key) for key in keys]
        accounts = self._accounts
        self._accounts = {key.id: accounts.get(key.id) or Account(key, self._clock) for key in keys}
        for key in keys:
            self._accounts[key.id].take_limits(key)


def _digests(key: str) -> list[bytes]:
    """Of the bytes that clients make of a key: UTF-8, and Latin-1 where that can spell it."""
    spellings = {key.encode()}
    with contextlib.suppress(UnicodeEncodeError):
        spellings.add(key.encode("latin-1"))
    return [digest_of(spelling) for spelling in spellings]
