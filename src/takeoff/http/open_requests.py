"""/v1/requests: what is in work, for who asked for it, by the id that its answer carries."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from takeoff.errors import InvalidRequest
from takeoff.http.notes import current_note
from takeoff.http.resuming import KeptStreams, ResumedResponse
from takeoff.http.visiting import current_visit

REQUESTS = "/v1/requests"
LAST_EVENT = "Last-Event-ID"
MAX_EVENTS = 10**12


def requests_router(streams: KeptStreams) -> APIRouter:
    """The routes, for each door that serves models; a request is found whatever door it came in by."""
    router = APIRouter(prefix=REQUESTS, tags=["Requests"])

    @router.get("/{request_id}")
    async def resume_request(
        http_request: HttpRequest,
        request_id: str,
        after: Annotated[
            int | None, Query(ge=0, le=MAX_EVENTS, description="Number of the last event that is known")
        ] = None,
    ) -> Response:
        """A stream that was asked for with `X-Resume`, from behind the event of `Last-Event-ID` or `after`.

        Without either from its beginning. 404: none of this key's is kept; 410: those events are forgotten.
        """
        stream = streams.find(current_visit.get().account.tenant, request_id)
        current_note.get().request_id = stream.request_id
        last = http_request.headers.get(LAST_EVENT)
        number = None if last is None else _number(last, request_id)
        if number is not None and after is not None and number != after:
            raise InvalidRequest(f"{LAST_EVENT} says {number}, after says {after}", param="after")
        return ResumedResponse(stream, number or after or 0)

    @router.delete("/{request_id}")
    async def end_request(request_id: str) -> Response:
        """End a request of the same key; its answer says so, with what it had said. 404: none is in work."""
        current_visit.get().account.end(request_id)
        current_note.get().request_id = request_id
        return JSONResponse({"id": request_id, "object": "request", "status": "cancelled"})

    return router


def _number(event_id: str, request_id: str) -> int:
    """Of an event of the stream.

    Raises:
        InvalidRequest: it is of no such stream.
    """
    match = re.fullmatch(re.escape(request_id) + r":([0-9]{1,12})", event_id)
    if match is None:
        raise InvalidRequest(
            f"{LAST_EVENT} must be the id of an event of {request_id!r}, got {event_id[:200]!r}",
            param=LAST_EVENT,
        )
    return int(match[1])
