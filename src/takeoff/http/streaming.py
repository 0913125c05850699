"""A streamed answer: kept alive while it has no news, its body closed however the connection ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

EVENT_STREAM = "text/event-stream; charset=utf-8"


class BrokenOff(Exception):
    """Raised inside a started response: the server closes the connection without its proper end."""


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """What a stream says that has had no news for a while, so that no proxy takes it for dead."""

    said: bytes
    every_s: float


class KeptAliveResponse(StreamingResponse):
    """Streams `body`, and closes it."""

    def __init__(
        self, body: AsyncGenerator[bytes, None], media_type: str, keep_alive: KeepAlive | None = None
    ) -> None:
        super().__init__(body, media_type=media_type, headers={"cache-control": "no-store"})
        self.body_iterator: AsyncGenerator[bytes, None] = body
        self.keep_alive = keep_alive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.aclosing(self.body_iterator):
            with contextlib.suppress(ClientDisconnect):  # a client may leave
                async with _kept_alive(send, self.keep_alive) as send:
                    await super().__call__(scope, receive, send)


@contextlib.asynccontextmanager
async def _kept_alive(send: Send, keep_alive: KeepAlive | None) -> AsyncIterator[Send]:
    """A `send` for one response; between its beginning and its end no silence is longer than agreed."""
    if keep_alive is None:
        yield send
        return
    now = asyncio.get_running_loop().time
    sent_at: float | None = None  # None: it has not begun, or has ended

    async def note(message: Message) -> None:
        nonlocal sent_at
        is_end = message["type"] == "http.response.body" and not message.get("more_body", False)
        sent_at = None if is_end else now()
        await send(message)

    async def keep() -> None:
        while True:
            silent_s = 0.0 if sent_at is None else now() - sent_at
            if silent_s >= keep_alive.every_s:
                await note({"type": "http.response.body", "body": keep_alive.said, "more_body": True})
            else:
                await asyncio.sleep(keep_alive.every_s - silent_s)

    keeping = asyncio.create_task(keep(), name="keep alive")
    try:
        yield note
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
