"""Logging: one line for each event, on stderr. Never a prompt, never a key."""

from __future__ import annotations

import logging
import sys

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_CHATTY = ("httpx", "httpcore", "urllib3", "filelock", "huggingface_hub", "asyncio", "uvicorn")


def set_up_logs(level: str) -> None:
    """Write lines of `level` (debug, info, warning or error) and worse; libraries only warnings."""
    logging.basicConfig(level=level.upper(), format=FORMAT, stream=sys.stderr, force=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
