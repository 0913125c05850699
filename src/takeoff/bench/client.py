"""One streamed completion, timed: a client lean enough not to slow the server beside it.

A connection a request, HTTP parsed by httptools, events of the stream by msgspec. Times are of
`time.perf_counter`, taken when bytes arrive, before anything is parsed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httptools
import msgspec

from takeoff.bench.target import Target

MAX_ERROR_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Work:
    """A completion to ask for: exactly `max_tokens` tokens, greedy."""

    prompt: str
    max_tokens: int


@dataclass(eq=False, slots=True)
class Trace:
    """What one request got, and when."""

    sent_at: float
    text_at: list[float] = field(default_factory=list)  # arrivals of pieces of text
    ended_at: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    finish_reason: str | None = None
    error: str | None = None

    @property
    def ttft_s(self) -> float:
        """From sending to the first piece of text."""
        return self.text_at[0] - self.sent_at

    @property
    def seconds(self) -> float:
        """From sending to the end of the answer."""
        return self.ended_at - self.sent_at

    def gaps(self, since: float = 0.0, until: float = float("inf")) -> list[float]:
        """Seconds between pieces of text that follow each other, for those that end in the span."""
        pairs = zip(self.text_at, self.text_at[1:], strict=False)
        return [after - before for before, after in pairs if since < after <= until]


async def complete(target: Target, work: Work, *, on_text: Callable[[Trace], None] | None = None) -> Trace:
    """Ask for a completion and read it to its end. Cancelling this closes the connection.

    Never raises for what the server does: that becomes `Trace.error`. `on_text` gets the trace as it
    is after each piece of text.
    """
    trace = Trace(time.perf_counter())
    loop = asyncio.get_running_loop()
    try:
        transport, answer = await loop.create_connection(
            lambda: _Answer(trace, loop.create_future(), on_text), target.host, target.port
        )
    except OSError as exc:
        trace.error, trace.ended_at = f"no connection: {exc}", time.perf_counter()
        return trace
    try:
        trace.sent_at = time.perf_counter()
        transport.write(_request(target, work))
        await answer.done
    finally:
        transport.abort()
    if trace.error is None and trace.completion_tokens != work.max_tokens:
        trace.error = f"{trace.completion_tokens} tokens came, {work.max_tokens} were asked for"
    return trace


def _request(target: Target, work: Work) -> bytes:
    body = msgspec.json.encode(
        {
            "model": target.model,
            "prompt": work.prompt,
            "max_tokens": work.max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    )
    head = [
        "POST /v1/completions HTTP/1.1",
        f"host: {target.host}:{target.port}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *([f"authorization: Bearer {target.api_key}"] if target.api_key else []),
    ]
    return "\r\n".join([*head, "", ""]).encode() + body


class _Answer(asyncio.Protocol):
    """Writes an answer into a trace; `done` when it is whole, broken off or an error."""

    def __init__(
        self, trace: Trace, done: asyncio.Future[None], on_text: Callable[[Trace], None] | None
    ) -> None:
        self.done = done
        self._trace = trace
        self._on_text = on_text
        self._parser = httptools.HttpResponseParser(self)
        self._arrived_at = 0.0
        self._pending = b""  # the beginning of an event whose end is still to come
        self._is_whole = False

    def data_received(self, data: bytes) -> None:
        self._arrived_at = time.perf_counter()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, msgspec.DecodeError, LookupError, TypeError) as exc:
            self._end(f"not an answer of this API: {exc}")

    def connection_lost(self, _exc: Exception | None) -> None:
        self._arrived_at = time.perf_counter()
        self._end("the connection broke off")

    def on_body(self, body: bytes) -> None:
        self._pending += body
        if self._parser.get_status_code() != 200:
            return
        *events, self._pending = self._pending.replace(b"\r\n", b"\n").split(b"\n\n")
        for event in events:
            if event.startswith(b"data:"):
                self._take(event[5:].strip())

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status != 200:
            text = self._pending.decode("utf-8", "replace")
            self._end(f"status {status}: {text[:MAX_ERROR_CHARACTERS]}")
        elif self._is_whole:
            self._end(None)
        else:
            self._end("the stream ended without [DONE]")

    def _take(self, data: bytes) -> None:
        if data == b"[DONE]":
            self._is_whole = True
            return
        event: dict[str, Any] = msgspec.json.decode(data)
        if "error" in event:
            self._trace.error = str(event["error"])[:MAX_ERROR_CHARACTERS]
        for choice in event.get("choices", ()):
            if choice["text"]:
                self._trace.text_at.append(self._arrived_at)
                if self._on_text is not None:
                    self._on_text(self._trace)
            self._trace.finish_reason = choice.get("finish_reason") or self._trace.finish_reason
        if usage := event.get("usage"):
            self._trace.prompt_tokens = usage["prompt_tokens"]
            self._trace.completion_tokens = usage["completion_tokens"]
            details = usage.get("prompt_tokens_details") or {}
            self._trace.cached_tokens = details.get("cached_tokens") or 0

    def _end(self, error: str | None) -> None:
        if not self.done.done():
            self._trace.error = self._trace.error or error
            self._trace.ended_at = self._arrived_at
            self.done.set_result(None)
