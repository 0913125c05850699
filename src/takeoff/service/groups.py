"""Consumer groups: a name, and the readers that serve it."""

from __future__ import annotations

from collections.abc import Iterable

from takeoff.errors import InvalidRequest, NotFound
from takeoff.request import Task
from takeoff.service.reader import Reader, ReaderState

_DOES = {Task.GENERATE: "generates text", Task.EMBED: "embeds", Task.CLASSIFY: "classifies"}


class Groups:
    """All readers, by id; which of them serves a request."""

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        """Requests of `reserved` groups wait while no reader is up."""
        self._readers: dict[str, Reader] = {}
        self._reserved = frozenset(reserved)

    def __contains__(self, reader_id: str) -> bool:
        return reader_id in self._readers

    def readers(self) -> list[Reader]:
        return list(self._readers.values())

    def names(self) -> list[str]:
        """The groups that have readers."""
        return list(dict.fromkeys(reader.group for reader in self._readers.values()))

    def is_reserved(self, group: str) -> bool:
        return group in self._reserved

    def add(self, reader: Reader) -> None:
        self._readers[reader.reader_id] = reader

    def remove(self, reader: Reader) -> None:
        if self._readers.get(reader.reader_id) is reader:
            del self._readers[reader.reader_id]

    def exchange(self, one: Reader, other: Reader) -> None:
        """Each has the other's id and place from here on; one that was removed has its id alone."""
        readers = self.readers()
        if one in readers and other in readers:
            places = {one: other, other: one}
            readers = [places.get(each, each) for each in readers]
        one.reader_id, other.reader_id = other.reader_id, one.reader_id
        self._readers = {each.reader_id: each for each in readers}

    def reader(self, reader_id: str) -> Reader:
        """The reader of that id.

        Raises:
            NotFound: there is none; the message names those there are.
        """
        reader = self._readers.get(reader_id)
        if reader is None:
            there = ", ".join(self._readers) or "none"
            raise NotFound(f"there is no reader {reader_id!r}, only {there}", param="reader_id")
        return reader

    def pick(self, name: str, task: Task) -> Reader | None:
        """The reader to use now: of those that serve `name` a live one if there is, the least loaded.

        `name` is a group's, a reader's id or a model's. None: a reserved group without any reader.

        Raises:
            NotFound: nothing has that name; the message says what there is.
            InvalidRequest: what has it does another task.
        """
        candidates = self._named(name)
        if not candidates:
            if name in self._reserved:
                return None
            there = ", ".join(self.names()) or "none"
            raise NotFound(f"there is no group {name!r}, only {there}", param="group")
        fitting = [reader for reader in candidates if reader.launch is None or reader.task is task]
        if not fitting:
            does = _DOES[candidates[0].task]
            raise InvalidRequest(
                f"the model {candidates[0].model_name} of {name!r} {does}: it can't be asked for this",
                param="group",
                hint=f"name a group whose model {_DOES[task]}",
            )
        return min(fitting, key=_preference)

    def _named(self, name: str) -> list[Reader]:
        readers = [reader for reader in self._readers.values() if reader.state is not ReaderState.DRAINING]
        return (
            [reader for reader in readers if reader.group == name]
            or [reader for reader in readers if reader.reader_id == name]
            or [reader for reader in readers if reader.model_name == name]
        )


def _preference(reader: Reader) -> tuple[int, float]:
    """Live before on its way before loading before dead; then the least loaded."""
    if reader.is_live:
        rank = 0
    elif reader.is_coming:
        rank = 1 if reader.state is ReaderState.LOADING else 2
    else:
        rank = 3 if reader.state is ReaderState.LOADING else 4
    return rank, reader.load_share
