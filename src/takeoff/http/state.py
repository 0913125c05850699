"""What every door tells of the server's state: for probes, and /metrics where it belongs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from takeoff.http.answers import unless_client_leaves
from takeoff.http.ports import Service

MAX_WAIT_S = 600.0

State = Literal["loading", "live", "draining", "unloading", "unloaded", "failed", "stopped"]


def health_router(service: Service) -> APIRouter:
    """GET /healthz, and /livez, /readyz and /startupz as Kubernetes asks, over `service`."""
    router = APIRouter(tags=["State"])

    @router.get("/healthz")
    async def healthz(
        http_request: HttpRequest,
        state: Annotated[State | None, Query(description="What all readers must be")] = None,
        wait: Annotated[float, Query(ge=0, le=MAX_WAIT_S, description="Seconds to wait for it")] = 0.0,
    ) -> Response:
        """200 when requests are served, or when all readers are in `state`; else 503 with the reason."""

        async def is_well() -> bool:
            if state is not None:
                return await service.wait_state(state, wait)
            if wait and not service.is_ready:
                await service.wait_state("live", wait)
            return service.is_ready

        status = 200 if await unless_client_leaves(http_request, is_well) else 503
        return JSONResponse({"status": service.status}, status)

    @router.get("/livez")
    async def livez() -> Response:
        """200 while this process answers: engines are watched and restarted by it, no reason to end it."""
        return JSONResponse({"status": service.status})

    @router.get("/readyz")
    async def readyz() -> Response:
        """200 while requests are served; 503 while models load, also after a death, and at the end."""
        return JSONResponse(_readiness(service), 200 if service.is_ready else 503)

    @router.get("/startupz")
    async def startupz() -> Response:
        """200 once a model was loaded, for good; until then 503."""
        return JSONResponse(_readiness(service), 200 if service.has_started else 503)

    return router


def _readiness(service: Service) -> dict[str, Any]:
    """The state of each reader, and why its last engine ended where there is none."""
    readers = []
    for reader in service.readers():
        told: dict[str, Any] = {"reader_id": reader.reader_id, "state": reader.state}
        if reader.state == "loading":
            told["progress"] = reader.progress
        if reader.error is not None:
            told["error"] = reader.error
        readers.append(told)
    return {"status": service.status, "readers": readers}


def metrics_router(service: Service) -> APIRouter:
    """GET /metrics, over `service`."""
    router = APIRouter(tags=["State"])

    @router.get("/metrics")
    async def metrics() -> Response:
        """Prometheus' text format."""
        return Response(service.metrics.render(), media_type=service.metrics.content_type)

    return router
