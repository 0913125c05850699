"""One streamed completion, timed: a client lean enough not to slow the server beside it.

A connection a request, HTTP parsed by httptools, events of the stream by msgspec. Times are of
`time.perf_counter`, taken when bytes arrive, before anything is parsed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httptools
import msgspec

from takeoff.bench.apis import MAX_ERROR_CHARACTERS, Work
from takeoff.bench.target import Target

__all__ = ["REFUSALS", "Trace", "Work", "complete"]

REFUSALS = (429, 503)  # statuses of a server that says it has too much to do


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
    status: int | None = None  # of the answer; None where none came
    planned_at: float | None = None  # when it was to be sent; waiting since then counts as the server's
    began_at: float = 0.0  # when the client turned to it
    has_left: bool = False
    is_warm_up: bool = False
    kind: str = ""

    @property
    def is_refused(self) -> bool:
        return self.status in REFUSALS

    @property
    def ttft_s(self) -> float:
        """From sending, or from when it was to be sent, to the first piece of text."""
        return self.text_at[0] - (self.sent_at if self.planned_at is None else self.planned_at)

    @property
    def tpot_s(self) -> float | None:
        """Seconds a token after the first; None where there is no second."""
        if self.completion_tokens < 2 or len(self.text_at) < 2:
            return None
        return (self.text_at[-1] - self.text_at[0]) / (self.completion_tokens - 1)

    @property
    def seconds(self) -> float:
        """From sending to the end of the answer."""
        return self.ended_at - self.sent_at

    def gaps(self, since: float = 0.0, until: float = float("inf")) -> list[float]:
        """Seconds between pieces of text that follow each other, for those that end in the span."""
        pairs = zip(self.text_at, self.text_at[1:], strict=False)
        return [after - before for before, after in pairs if since < after <= until]


async def complete(
    target: Target,
    work: Work,
    *,
    planned_at: float | None = None,
    on_text: Callable[[Trace], None] | None = None,
) -> Trace:
    """Ask for a completion and read it to its end. Cancelling this closes the connection.

    Never raises for what the server does: that becomes `Trace.error`. `on_text` gets the trace as it
    is after each piece of text.
    """
    now = time.perf_counter()
    trace = Trace(now, planned_at=planned_at, began_at=now, kind=work.kind)
    try:
        async with asyncio.timeout(target.timeout_s):
            await _exchange(target, work, trace, on_text)
    except TimeoutError:
        trace.error = f"no end after {target.timeout_s:g} s"
    except OSError as exc:
        trace.error = f"no connection: {exc}"
    trace.ended_at = trace.ended_at or time.perf_counter()
    if trace.error is None and not trace.has_left and trace.completion_tokens != work.max_tokens:
        trace.error = f"{trace.completion_tokens} tokens came, {work.max_tokens} were asked for"
    return trace


async def _exchange(
    target: Target, work: Work, trace: Trace, on_text: Callable[[Trace], None] | None
) -> None:
    loop = asyncio.get_running_loop()
    transport, answer = await loop.create_connection(
        lambda: _Answer(target, work, trace, loop.create_future(), on_text), target.host, target.port
    )
    try:
        trace.sent_at = time.perf_counter()
        transport.write(_request(target, work))
        await answer.done
    finally:
        transport.abort()


def _request(target: Target, work: Work) -> bytes:
    body = msgspec.json.encode(target.api.body(target.model, work))
    head = [
        f"POST {target.api.path} HTTP/1.1",
        f"host: {target.host}:{target.port}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *(f"{name}: {value}" for name, value in target.headers.items()),
    ]
    return "\r\n".join([*head, "", ""]).encode() + body


class _Answer(asyncio.Protocol):
    """Writes an answer into a trace; `done` when it is whole, broken off, left or an error."""

    def __init__(
        self,
        target: Target,
        work: Work,
        trace: Trace,
        done: asyncio.Future[None],
        on_text: Callable[[Trace], None] | None,
    ) -> None:
        self.done = done
        self._api = target.api
        self._work = work
        self._trace = trace
        self._on_text = on_text
        self._parser = httptools.HttpResponseParser(self)
        self._arrived_at = 0.0
        self._pending = b""  # the beginning of an event whose end is still to come
        self._is_whole = not target.api.needs_end
        self._is_counted = False  # the server has told how many tokens it made

    def data_received(self, data: bytes) -> None:
        self._arrived_at = time.perf_counter()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, msgspec.DecodeError, LookupError, TypeError) as exc:
            self._end(f"not an answer of this API: {exc}")

    def connection_lost(self, _exc: Exception | None) -> None:
        self._arrived_at = time.perf_counter()
        self._end("the connection broke off")

    def on_headers_complete(self) -> None:
        self._trace.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._pending += body
        if self._trace.status != 200:
            return
        *events, self._pending = self._pending.replace(b"\r\n", b"\n").split(b"\n\n")
        for event in events:
            if not self.done.done():
                self._take(event)

    def on_message_complete(self) -> None:
        if self._trace.status != 200:
            text = self._pending.decode("utf-8", "replace")
            self._end(f"status {self._trace.status}: {text[:MAX_ERROR_CHARACTERS]}")
        elif self._is_whole:
            self._count()
            self._end(None)
        else:
            self._end("the stream ended without [DONE]")

    def _take(self, event: bytes) -> None:
        news = self._api.read(event)
        trace = self._trace
        self._is_whole = self._is_whole or news.is_end
        trace.error = news.error or trace.error
        trace.finish_reason = news.finish_reason or trace.finish_reason
        if news.completion_tokens is not None:
            self._is_counted = True
            trace.prompt_tokens = news.prompt_tokens or 0
            trace.completion_tokens = news.completion_tokens
            trace.cached_tokens = news.cached_tokens
        if news.has_text:
            self._take_text()

    def _take_text(self) -> None:
        trace = self._trace
        trace.text_at.append(self._arrived_at)
        if not self._is_counted:
            trace.completion_tokens = len(trace.text_at)
        if self._on_text is not None:
            self._on_text(trace)
        if len(trace.text_at) == self._work.leave_after:
            trace.has_left = True
            self._end(None)

    def _count(self) -> None:
        """A server that counts no tokens, but ended the text for its length, has made all of them: a piece of
        text may be several.
        """
        if not self._is_counted and self._trace.finish_reason == "length":
            self._trace.completion_tokens = self._work.max_tokens

    def _end(self, error: str | None) -> None:
        if not self.done.done():
            self._trace.error = self._trace.error or error
            self._trace.ended_at = self._arrived_at
            self.done.set_result(None)
