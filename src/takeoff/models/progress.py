"""What a slow pull reports to whoever watches it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told of each stage of a pull; the command line draws it as one bar."""

    def stage(self, label: str, total_bytes: int | None) -> None:
        """A new stage begins at 0 bytes; `total_bytes` is None where nobody knows it."""

    def at(self, done_bytes: int) -> None:
        """Bytes of the current stage that are done, counted from its beginning."""

    def note(self, text: str) -> None:
        """One line for the user: what is waited for, which terms apply."""


class NoProgress:
    """Watches nothing."""

    def stage(self, label: str, total_bytes: int | None) -> None:
        pass

    def at(self, done_bytes: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass
