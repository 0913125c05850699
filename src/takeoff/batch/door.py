"""The OpenAI door, called in this process: its own app, so that the answers are its own to the byte."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from takeoff.http.app import make_openai_app
from takeoff.service.service import Service
from takeoff.settings import Settings

Message = MutableMapping[str, Any]
App = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes


class Door:
    """POSTs to the app over ASGI."""

    def __init__(self, service: Service, settings: Settings) -> None:
        """`settings` has no key: nobody else can come in here."""
        self._app: App = make_openai_app(service, settings)

    async def post(self, path: str, body: bytes) -> Reply:
        """What the door answers. Cancelling it cancels the request."""
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
            "client": None,
            "server": None,
        }
        unread = [body]
        status, parts = 500, []

        async def receive() -> Message:
            if not unread:
                await asyncio.Event().wait()  # the client never leaves
            return {"type": "http.request", "body": unread.pop(), "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                parts.append(message.get("body", b""))

        try:
            await self._app(scope, receive, send)
        except Exception:  # the door has answered 500 by then, and lets its server log why
            logger.exception("a request of the batch failed")
        return Reply(status, b"".join(parts))
