"""/v1/requests: what is in work, for who asked for it. Ended by the id that its answer carries."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from takeoff.http.visiting import current_visit

REQUESTS = "/v1/requests"


def requests_router() -> APIRouter:
    """The route, for each door that serves models; a request is found whatever door it came in by."""
    router = APIRouter(prefix=REQUESTS, tags=["Requests"])

    @router.delete("/{request_id}")
    async def end_request(request_id: str) -> Response:
        """End a request of the same key; its answer says so, with what it had said. 404: none is in work."""
        current_visit.get().account.end(request_id)
        return JSONResponse({"id": request_id, "object": "request", "status": "cancelled"})

    return router
