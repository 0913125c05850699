"""What was measured already: one line of JSON for each trial, so that an interrupted search goes on."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from takeoff.models import disk

FILE = "trials.jsonl"
_MAX_BYTES = 4 << 20

Result = TypeVar("Result")


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: str
    result: msgspec.Raw


class Trials:
    """The log in a model's place. `circumstances`: what every trial depends on: weights, machine, build."""

    def __init__(self, place: Path, circumstances: Any) -> None:
        self._path = place / FILE
        self._salt = msgspec.json.encode(circumstances)
        self._results = dict(self._read())
        self.num_found = 0

    def find(self, question: Any, kind: type[Result]) -> Result | None:
        """The result of a trial that was made before; None: it was not, or can't be read."""
        data = self._results.get(self._key(question))
        if data is None:
            return None
        try:
            result = msgspec.json.decode(data, type=kind)
        except msgspec.DecodeError:
            return None
        self.num_found += 1
        return result

    def keep(self, question: Any, result: Any) -> None:
        """Write a result down at once."""
        line = _Line(self._key(question), msgspec.Raw(msgspec.json.encode(result)))
        with disk.disk_errors(self._path.parent):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(msgspec.json.encode(line) + b"\n")

    def discard(self) -> None:
        """Forget all: the search is done, the next one measures anew."""
        disk.discard(self._path)
        self._results = {}

    def _key(self, question: Any) -> str:
        return hashlib.blake2b(self._salt + msgspec.json.encode(question), digest_size=16).hexdigest()

    def _read(self) -> list[tuple[str, msgspec.Raw]]:
        if self._path.is_symlink() or not self._path.is_file() or self._path.stat().st_size > _MAX_BYTES:
            return []
        found = []
        for line in self._path.read_bytes().splitlines():
            try:  # the last line of an interrupted search may be half of one
                read = msgspec.json.decode(line, type=_Line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            found.append((read.key, read.result))
        return found
