"""Consumer groups: a name, and the readers that serve it."""

from __future__ import annotations

from collections.abc import Mapping

from takeoff.errors import NotFound
from takeoff.service.reader import Reader

PRIMARY = "primary"


class Groups:
    """Which reader serves a request of a group. Every group has at least one reader."""

    def __init__(self, readers: Mapping[str, list[Reader]]) -> None:
        self._readers = dict(readers)

    def names(self) -> list[str]:
        return list(self._readers)

    def all_readers(self) -> list[Reader]:
        return [reader for readers in self._readers.values() for reader in readers]

    def pick(self, group: str) -> Reader:
        """The reader of `group` to use now: a live one if there is, the least loaded of them.

        Raises:
            NotFound: no such group; the message names those there are.
        """
        readers = self._readers.get(group)
        if not readers:
            raise NotFound(f"there is no group {group!r}, only {', '.join(self._readers)}", param="group")
        return min(readers, key=lambda reader: (not reader.is_live, reader.num_open))
