"""What the store asks of every source: facts known before the first byte, then the bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from takeoff.errors import PullError
from takeoff.models.disk import CHUNK_BYTES, open_part, part_size
from takeoff.models.progress import Progress
from takeoff.models.sources import FileSource, store_name


class Fetch(Protocol):
    """One model file that can be brought into the store."""

    @property
    def name(self) -> str:
        """Folder of the store."""

    @property
    def file_name(self) -> str:
        """Final name of the file; no path."""

    @property
    def file_bytes(self) -> int | None:
        """Size of the file, where the source says it."""

    @property
    def sha256(self) -> str | None:
        """What the file must hash to, where the source or the user says it."""

    @property
    def revision(self) -> str | None:
        """The source's own name of this version, such as a commit."""

    def space_bytes(self, part: Path) -> int:
        """Disk space still needed, given what an interrupted pull left at `part`."""

    def fetch(self, part: Path, progress: Progress) -> None:
        """Bring the whole file to `part`; goes on from an interrupted pull where it can.

        Raises:
            PullError: the source failed.
            OSError: the disk did.
        """


def gguf_file_name(label: str) -> str:
    """A file name of our own from the last part of a URL or path; always ends in .gguf."""
    stem = label.rsplit("/", 1)[-1].removesuffix(".gguf")
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in stem).strip("-._")
    return (plain[:80] or "model") + ".gguf"


class FileFetch:
    """Copies a local file."""

    def __init__(self, source: FileSource) -> None:
        if not source.path.is_file():
            raise PullError(f"there is no file {source.path}")
        self.source = source
        self.file_name = gguf_file_name(source.path.name)
        self.name = store_name(self.file_name.removesuffix(".gguf"), str(source))
        self.file_bytes: int | None = source.path.stat().st_size
        self.sha256 = source.sha256
        self.revision = None

    def space_bytes(self, part: Path) -> int:
        return max((self.file_bytes or 0) - part_size(part), 0)

    def fetch(self, part: Path, progress: Progress) -> None:
        progress.stage(f"copying {self.file_name}", self.file_bytes)
        done = 0
        with self.source.path.open("rb") as original, open_part(part) as copy:
            while chunk := original.read(CHUNK_BYTES):
                copy.write(chunk)
                done += len(chunk)
                progress.at(done)
