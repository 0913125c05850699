"""The front door: Takeoff v1, the OpenAI API, health and metrics over one service."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from takeoff.errors import MethodNotAllowed, NotFound, TakeoffError
from takeoff.http.answers import ClientLeft, NoAnswer
from takeoff.http.guard import Guard
from takeoff.http.limits import BodyLimits
from takeoff.http.openai import openai_router
from takeoff.http.pages import page_router
from takeoff.http.ports import Service
from takeoff.http.refusals import error_response, validation_response
from takeoff.http.takeoff_v1 import v1_router
from takeoff.settings import Settings


def make_app(service: Service, settings: Settings) -> FastAPI:
    """All routes of the front door. Limits are inside the guard: strangers can't make us read."""
    app = FastAPI(
        title="Takeoff",
        summary="A private LLM server",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.include_router(v1_router(service, stop_at_roles=settings.stop_at_roles))
    app.include_router(openai_router(service))
    app.include_router(page_router())
    _add_state_routes(app, service)
    _add_error_handlers(app)
    app.add_middleware(BodyLimits, settings=settings)
    app.add_middleware(Guard, settings=settings)
    return app


def _add_state_routes(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", tags=["State"])
    async def healthz() -> Response:
        """200 when requests are served, else 503 with the reason."""
        return JSONResponse({"status": service.status}, 200 if service.is_ready else 503)

    @app.get("/metrics", tags=["State"])
    async def metrics() -> Response:
        """Prometheus' text format."""
        return Response(service.metrics.render(), media_type=service.metrics.content_type)


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(TakeoffError)
    async def refused(request: HttpRequest, exc: TakeoffError) -> Response:
        return error_response(request.url.path, exc)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: HttpRequest, exc: RequestValidationError) -> Response:
        return validation_response(request.url.path, exc.errors())

    @app.exception_handler(HTTPException)
    async def not_routed(request: HttpRequest, exc: HTTPException) -> Response:
        kind = MethodNotAllowed if exc.status_code == MethodNotAllowed.status else NotFound
        message = f"{exc.detail}: {request.method} {request.url.path}"
        return error_response(request.url.path, kind(message), exc.headers)

    @app.exception_handler(Exception)
    async def broken(request: HttpRequest, _exc: Exception) -> Response:
        return error_response(request.url.path, TakeoffError("an error on our side; the server's log has it"))

    @app.exception_handler(ClientLeft)
    async def left(_request: HttpRequest, _exc: ClientLeft) -> Response:
        return NoAnswer()
