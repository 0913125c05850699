"""One HTTP/1.1 request over a connection of its own, as an asyncio protocol.

Lean on purpose: the client shares the machine with the server that it measures. The parser is
httptools' (C); a read costs one call, and its time is taken before anything is parsed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import httptools

MAX_ERROR_BYTES = 4_096  # of the body of a refusal, kept for the message

BodySink = Callable[[bytes], None]


class Exchange(asyncio.Protocol):
    """Sends `request` when connected; hands the body of a 200 to `on_body`, read by read.

    `on_read` is called after each read with the time it came, `on_end` once, with a message if
    the connection ended before the response did.
    """

    def __init__(
        self,
        request: bytes,
        *,
        on_body: BodySink,
        on_read: Callable[[float], None],
        on_end: Callable[[str | None], None],
    ) -> None:
        self.status = 0
        self.server = ""  # the Server header
        self.error_body = b""
        self._request = request
        self._on_body_bytes = on_body
        self._on_read = on_read
        self._on_end = on_end
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._is_over = False

    def close(self) -> None:
        """Close the connection as a client that leaves does; nothing is reported any more."""
        self._is_over = True
        if self._transport is not None:
            self._transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now_s = time.perf_counter()
        if self._is_over:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self._end(f"not HTTP: {exc}")
            return
        self._on_read(now_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(
            f"the connection broke: {exc}" if exc else "the connection closed before the response ended"
        )

    # httptools' callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"server":
            self.server = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if self.status == 200:
            self._on_body_bytes(body)
        elif len(self.error_body) < MAX_ERROR_BYTES:
            self.error_body += body[:MAX_ERROR_BYTES]

    def on_message_complete(self) -> None:
        self._end(None)

    def _end(self, failure: str | None) -> None:
        if self._is_over:
            return
        self.close()
        self._on_end(failure)
