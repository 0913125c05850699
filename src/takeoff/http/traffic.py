"""Counts and times what every door answers. Pure ASGI, around all the rest."""

from __future__ import annotations

import re
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from takeoff.http.ports import Service

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_NOWHERE = "other"  # what strangers make up must not become a series of its own
_LEFT = 499  # nobody was there to be answered


class Traffic:
    """Tells the metrics of each request: method, route, status, and the time to the answer's end."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._metrics = service.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status: int | None = None

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        started = time.perf_counter()
        try:
            await self._app(scope, receive, watched)
        except Exception:
            status = status or 500  # which is yet to be sent
            raise
        finally:
            method = scope["method"] if scope["method"] in _METHODS else _NOWHERE
            seconds = time.perf_counter() - started
            self._metrics.observe_http(method, route_template(scope), status or _LEFT, seconds)


def route_template(scope: Scope) -> str:
    """The path of the route that a request took, its parameters by name: /tokenize/:reader_id."""
    path = getattr(scope.get("route"), "path", _NOWHERE)
    return re.sub(r"\{(\w+)(:\w+)?\}", r":\1", path)
