"""Server-sent events."""

from __future__ import annotations

DONE = b"data: [DONE]\n\n"


def sse_event(data: bytes) -> bytes:
    """One event; `data` is JSON and so has no line breaks."""
    return b"data: " + data + b"\n\n"
