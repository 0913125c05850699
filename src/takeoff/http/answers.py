"""How a generation becomes an answer: streamed, or whole. The answer owns the generation."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from takeoff.errors import TakeoffError
from takeoff.http.ports import Generation

Result = TypeVar("Result")


class ClientLeft(Exception):
    """The connection closed before the answer was whole; nobody is there to be told."""


class NoAnswer(Response):
    """To a client that has left: nothing is sent."""

    async def __call__(self, _scope: Scope, _receive: Receive, _send: Send) -> None:
        return


class BrokenOff(Exception):
    """Raised inside a started response: the server closes the connection without its proper end."""


class GenerationResponse(StreamingResponse):
    """Streams generations and ends them, however the connection ends."""

    def __init__(self, generations: list[Generation], body: AsyncIterator[bytes], media_type: str) -> None:
        super().__init__(body, media_type=media_type, headers={"cache-control": "no-store"})
        self._generations = generations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with ExitStack() as stack:
            for generation in self._generations:
                stack.enter_context(generation)
            with contextlib.suppress(ClientDisconnect):  # a client may leave
                await super().__call__(scope, receive, send)


async def whole_text(generation: Generation) -> str:
    """The text of a generation to its end."""
    return "".join([event.text async for event in generation])


async def raw_text(generation: Generation) -> AsyncIterator[bytes]:
    """The text as UTF-8 as it comes.

    Raises:
        BrokenOff: it failed; the client must not take what it has for the whole.
    """
    try:
        async for event in generation:
            if event.text:
                yield event.text.encode()
    except TakeoffError as exc:
        raise BrokenOff(exc.message) from exc


async def unless_client_leaves(request: HttpRequest, work: Callable[[], Awaitable[Result]]) -> Result:
    """Await `work()`, but cancel it when the client closes the connection.

    Raises:
        ClientLeft: it did.
    """
    task = asyncio.ensure_future(work())
    left = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientLeft
    finally:
        for each in (task, left):
            each.cancel()
        await asyncio.gather(task, left, return_exceptions=True)


async def _disconnected(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
