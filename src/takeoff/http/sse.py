"""Server-sent events: OpenAI's, Anthropic's, and those that give takeoff-client's parser every token back."""

from __future__ import annotations

DONE = b"data: [DONE]\n\n"


def sse_event(data: bytes) -> bytes:
    """One event; `data` is JSON and so has no line breaks."""
    return b"data: " + data + b"\n\n"


def named_event(kind: str, data: bytes) -> bytes:
    """One event that says what it is; `data` is JSON and so has no line breaks."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


def tight_event(data: bytes, *, kind: str | None = None) -> bytes:
    """One event of the Takeoff API, with no space after the colon; `data` is JSON."""
    head = f"event:{kind}\n".encode() if kind else b""
    return head + b"data:" + data + b"\n\n"


class TokenEvents:
    """Frames the tokens of one text, each as the data of an event, with no JSON around it.

    A parser takes one space away after the colon and joins data lines with a line feed, so a space is
    put there only where the line begins with one, and each line is a data line. No framing can carry
    a carriage return: the line breaks CR and CRLF become LF, also where two tokens share a CRLF.
    """

    def __init__(self) -> None:
        self._ended_in_cr = False

    def frame(self, text: str) -> bytes:
        """The event of the next token."""
        shown = text.removeprefix("\n") if self._ended_in_cr else text
        if text:
            self._ended_in_cr = text.endswith("\r")
        lines = shown.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        data = [f"data:{' ' if line.startswith(' ') else ''}{line}\n" for line in lines]
        return "".join([*data, "\n"]).encode()
