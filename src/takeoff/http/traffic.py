"""Counts and times what every door answers, and has it logged. Pure ASGI, around all the rest."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from takeoff.errors import TakeoffError
from takeoff.http.notes import Note, current_note
from takeoff.http.ports import Service
from takeoff.http.request_log import RequestLog

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_NOWHERE = "other"  # what strangers make up must not become a series of its own
_LEFT = 499  # nobody was there to be answered


class Traffic:
    """Tells the metrics of each request: method, route, status, and the time to the answer's end."""

    def __init__(
        self,
        app: ASGIApp,
        service: Service,
        log: RequestLog | None,
        routes: Sequence[Route],
        *,
        with_prompts: bool,
    ) -> None:
        """`routes` are all there are, `log` is told of each request, of its prompts on demand."""
        self._app = app
        self._metrics = service.metrics
        self._log = log
        self._routes = routes
        self._with_prompts = with_prompts

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

        note = Note(time.monotonic(), [] if self._with_prompts else None)
        token = current_note.set(note)
        try:
            await self._app(scope, receive, watched)
        except Exception:
            if status is None:
                status = 500  # which is yet to be sent
                note.error = TakeoffError("an error on our side")
            raise
        finally:
            current_note.reset(token)
            method = scope["method"] if scope["method"] in _METHODS else _NOWHERE
            seconds, path = time.monotonic() - note.arrived_at, route_template(scope)
            self._metrics.observe_http(method, path, status or _LEFT, seconds)
            if self._log is not None:
                self._log.end(scope, note, method, self._told_path(scope), status or _LEFT)

    def _told_path(self, scope: Scope) -> str:
        """As `route_template`; of a request that was not let in the route that it was for."""
        if "route" in scope:
            return route_template(scope)
        wanted = (route.path for route in self._routes if route.path_regex.match(scope["path"]))
        return _with_names(next(wanted, _NOWHERE))


def route_template(scope: Scope) -> str:
    """The path of the route that a request took, its parameters by name: /tokenize/:reader_id."""
    return _with_names(getattr(scope.get("route"), "path", _NOWHERE))


def _with_names(path: str) -> str:
    return re.sub(r"\{(\w+)(:\w+)?\}", r":\1", path)
