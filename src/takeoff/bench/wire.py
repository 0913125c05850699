"""The bytes of a streamed completion: server-sent events, and the JSON in their data.

Knows nothing of sockets or clocks. Fields that we don't measure are skipped by the decoder, so
every server's extras (timings, fingerprints) pass.
"""

from __future__ import annotations

from typing import Any

import msgspec

DONE = b"[DONE]"


class Choice(msgspec.Struct):
    text: str | None = None
    finish_reason: str | None = None


class Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class CompletionEvent(msgspec.Struct):
    """One chunk of `POST /v1/completions` with `stream: true`."""

    choices: list[Choice] = []
    usage: Usage | None = None
    error: Any = None  # an error after the 200: any shape

    @property
    def text(self) -> str:
        return "".join(choice.text or "" for choice in self.choices)

    @property
    def finish_reason(self) -> str | None:
        return self.choices[0].finish_reason if self.choices else None


class ModelCard(msgspec.Struct):
    id: str


class ModelList(msgspec.Struct):
    """The answer of `GET /v1/models`."""

    data: list[ModelCard] = []


class SSEDecoder:
    """Cuts a byte stream into the data of its events, wherever the reads fall."""

    def __init__(self) -> None:
        self._rest = b""  # an unfinished line
        self._data: list[bytes] = []  # data lines of the unfinished event

    def feed(self, data: bytes) -> list[bytes]:
        """The data of every event that ends in `data`; events without data (comments) are dropped.

        Source: WHATWG HTML, section 9.2.6, without the rarer line ending of a lone CR.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        events: list[bytes] = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:].strip())
            elif not line.rstrip(b"\r") and self._data:
                events.append(b"\n".join(self._data))
                self._data.clear()
        return events
