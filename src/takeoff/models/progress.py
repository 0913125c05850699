"""What a slow pull reports to whoever watches it."""

from __future__ import annotations

import logging
from typing import Protocol

logger = logging.getLogger(__name__)


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


class LoggedProgress:
    """Writes the stages of a pull to the log."""

    def stage(self, label: str, total_bytes: int | None) -> None:
        logger.info("%s%s", label, "" if total_bytes is None else f" ({total_bytes / 1e6:,.0f} MB)")

    def at(self, done_bytes: int) -> None:
        pass

    def note(self, text: str) -> None:
        logger.info("%s", text)
