"""How much a client may send, and how long it may take. Pure ASGI; header limits are in `server`."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from takeoff.errors import PayloadTooLarge, RequestTimeout
from takeoff.http.refusals import error_response
from takeoff.settings import Settings

_HINT = "send less, or serve with a larger --max-body-bytes"


class BodyLimits:
    """Bounds the bytes and the time of a request body, announced or chunked."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._max_bytes = settings.max_body_bytes
        self._timeout_s = settings.body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            messages = await asyncio.wait_for(self._read(scope, receive), self._timeout_s)
        except TimeoutError:
            late = RequestTimeout(f"the body did not arrive within {self._timeout_s:g} s")
            await error_response(scope["path"], late, {"connection": "close"})(scope, receive, send)
        except PayloadTooLarge as exc:
            # Not closed: who still sends would see a reset in place of the answer. The server ends
            # it with the wait for a next request.
            await error_response(scope["path"], exc)(scope, receive, send)
        else:
            if messages[-1]["type"] == "http.request":  # else the client left before the body's end
                await self._app(scope, _replay(messages, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> list[Message]:
        """The whole body.

        Raises:
            PayloadTooLarge: announced or found to be over the limit.
        """
        for name, value in scope["headers"]:
            if name == b"content-length" and int(value) > self._max_bytes:
                raise PayloadTooLarge(
                    f"the body has {int(value)} bytes, the limit is {self._max_bytes}", hint=_HINT
                )
        messages: list[Message] = []
        size = 0
        while True:
            message = await receive()
            messages.append(message)
            size += len(message.get("body", b""))
            if size > self._max_bytes:
                raise PayloadTooLarge(
                    f"the body has more than {self._max_bytes} bytes, which is the limit", hint=_HINT
                )
            if not message.get("more_body", False):
                return messages


def _replay(messages: list[Message], receive: Receive) -> Receive:
    """A `receive` that gives `messages` first."""
    waiting = iter(messages)

    async def replay() -> Message:
        for message in waiting:
            return message
        return await receive()

    return replay
