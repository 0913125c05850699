"""Logging: one line for each event, on stderr. Never a prompt, never a key."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_CHATTY = ("httpx", "httpcore", "urllib3", "filelock", "huggingface_hub", "asyncio", "uvicorn")


def set_up_logs(level: str) -> None:
    """Write lines of `level` (debug, info, warning or error) and worse; libraries only warnings."""
    logging.basicConfig(level=level.upper(), format=FORMAT, stream=sys.stderr, force=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))


@contextmanager
def written_by(say: Callable[[str], None]) -> Iterator[None]:
    """Until the end of the block what went to stderr is said to `say`.

    A pipe that nobody reads, or a terminal that was stopped, would else stop whoever has something to log.
    """
    root = logging.getLogger()
    waiting = [h for h in root.handlers if isinstance(h, logging.StreamHandler) and h.stream is sys.stderr]
    instead = _Saying(say)
    instead.setFormatter(logging.Formatter(FORMAT))
    root.handlers = [instead if handler in waiting else handler for handler in root.handlers]
    try:
        yield
    finally:
        root.handlers = [*(h for h in root.handlers if h is not instead), *waiting]


class _Saying(logging.Handler):
    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(self.format(record))
