"""The memory of a reader's prefix cache: it outlives the engines, which come and go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

from takeoff.ipc.arena import make_arena_file
from takeoff.ipc.messages import Load
from takeoff.sandbox.policy import with_companions
from takeoff.service.launch import FileState, file_state

MAX_USELESS_ENGINES = 3  # in a row, that were ended from outside: short of memory, perhaps, which this takes

Origin = tuple[Load, tuple[FileState | None, ...]]


def origin_of(load: Load) -> Origin:
    """What an engine computes with: what it is told, and the files that it reads, as they are now."""
    return load, tuple(map(file_state, _files(load)))


class KeptPrefixes:
    """One file at a time, filled by engines that were told the same and read the same weights."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._origin: Origin | None = None
        self.number = 0  # of the file: another one for each
        self._num_useless = 0  # engines in a row that died before they were of any use

    def fd_for(self, origin: Origin) -> int | None:
        """The file for the next engine: what the last ones computed, if this one would compute the same."""
        if origin != self._origin:
            self.close()
            self._file, self._origin = make_arena_file(origin[0].cache_bytes), origin
            self.number += 1
        return None if self._file is None else self._file.fileno()

    def note_death(self, *, was_useful: bool, is_crash: bool) -> None:
        """An engine died. One that crashes before it is of any use may have done so of what it found."""
        self._num_useless = 0 if was_useful else self._num_useless + 1
        if self._num_useless and (is_crash or self._num_useless >= MAX_USELESS_ENGINES):
            self.close()

    def close(self) -> None:
        """Forget everything. Idempotent."""
        if self._file is not None:
            self._file.close()
        self._file = self._origin = None


def _files(load: Load) -> Iterator[Path]:
    """What is computed depends on these."""
    yield from map(Path, with_companions(load.model_path))
    yield from (Path(lora.path) for lora in load.loras)
    if load.projector_path is not None:
        yield Path(load.projector_path)
