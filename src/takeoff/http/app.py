"""The doors: each an app of its own over the one service, behind the same guard and limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from takeoff.errors import InvalidRequest, MethodNotAllowed, NotFound, TakeoffError
from takeoff.http.answers import ClientLeft, NoAnswer
from takeoff.http.anthropic.router import anthropic_router
from takeoff.http.encoders import encoder_router
from takeoff.http.guard import Guard
from takeoff.http.keyed import KeyedService
from takeoff.http.limits import BodyLimits
from takeoff.http.management import management_router
from takeoff.http.open_requests import REQUESTS, requests_router
from takeoff.http.openai.router import openai_routers
from takeoff.http.pages import page_router
from takeoff.http.ports import Service
from takeoff.http.refusals import error_response, validation_response
from takeoff.http.request_log import RequestLog
from takeoff.http.resuming import KeptStreams
from takeoff.http.state import health_router, metrics_router
from takeoff.http.status import takeoff_status
from takeoff.http.takeoff_pro import generate_router
from takeoff.http.takeoff_v1 import v1_router
from takeoff.http.texts import in_wire_names
from takeoff.http.tokens import token_router
from takeoff.http.traffic import Traffic
from takeoff.keys.key import Scope
from takeoff.keys.keyring import Keyring
from takeoff.observe.lines import Logs
from takeoff.settings import Settings

NO_PORTS: Mapping[str, int] = MappingProxyType({})


def make_app(
    service: Service,
    settings: Settings,
    *,
    ports: Mapping[str, int] = NO_PORTS,  # noqa: ARG001  (all are made alike)
    keys: Keyring | None = None,
    streams: KeptStreams | None = None,
    logs: Logs | None = None,
) -> FastAPI:
    """The front door: Takeoff v1, the OpenAI API and Anthropic's, pages, health and metrics.

    `keys`, `streams` and `logs` are those of all doors; None: the settings' one key, streams of its own, and
    no line about anybody.
    """
    keyed, streams = KeyedService(service), streams or KeptStreams(settings)
    routers = [
        v1_router(keyed, stop_at_roles=settings.stop_at_roles),
        *openai_routers(keyed, settings),
        anthropic_router(keyed, settings),
        requests_router(streams),
        page_router("front"),
        *_state_routers(keyed, settings),
    ]
    return _make_door("Takeoff", keyed, settings, routers, keys, streams, logs)


def make_takeoff_app(
    service: Service,
    settings: Settings,
    *,
    ports: Mapping[str, int] = NO_PORTS,
    keys: Keyring | None = None,
    streams: KeptStreams | None = None,
    logs: Logs | None = None,
) -> FastAPI:
    """The later Takeoff API, with the pages. `ports` are the open doors', by the name of their setting."""
    keyed, streams = KeyedService(service), streams or KeptStreams(settings)
    state = APIRouter(tags=["State"])

    @state.get("/status")
    async def status() -> Response:
        """The readers by state; answered from the first connection on."""
        return JSONResponse(takeoff_status(keyed, ports))

    routers = [
        generate_router(keyed, settings),
        encoder_router(keyed, settings),
        token_router(keyed, settings),
        requests_router(streams),
        state,
        health_router(keyed),
        page_router("takeoff"),
    ]
    app = _make_door("Takeoff API", keyed, settings, routers, keys, streams, logs)

    @app.exception_handler(InvalidRequest)
    @app.exception_handler(NotFound)  # a path that isn't there is no exception: this is a group or a reader
    async def refused(request: HttpRequest, exc: TakeoffError) -> Response:
        path = request.url.path
        return error_response(path, exc if path.startswith(f"{REQUESTS}/") else in_wire_names(exc))

    return app


def make_management_app(
    service: Service,
    settings: Settings,
    *,
    ports: Mapping[str, int] = NO_PORTS,
    keys: Keyring | None = None,
    streams: KeptStreams | None = None,
    logs: Logs | None = None,
) -> FastAPI:
    """Readers, groups, status, metrics; of all models, whatever a key may use."""
    routers = [
        management_router(service, settings, ports, None if logs is None else logs.audit),
        *_state_routers(KeyedService(service), settings),
    ]
    streams = streams or KeptStreams(settings)
    return _make_door("Takeoff management", service, settings, routers, keys, streams, logs, Scope.ADMIN)


def make_openai_app(
    service: Service,
    settings: Settings,
    *,
    ports: Mapping[str, int] = NO_PORTS,  # noqa: ARG001  (all are made alike)
    keys: Keyring | None = None,
    streams: KeptStreams | None = None,
    logs: Logs | None = None,
) -> FastAPI:
    """The OpenAI API of the front door, and Anthropic's, alone."""
    keyed, streams = KeyedService(service), streams or KeptStreams(settings)
    routers = [
        *openai_routers(keyed, settings),
        anthropic_router(keyed, settings),
        requests_router(streams),
        health_router(keyed),
    ]
    return _make_door("Takeoff OpenAI API", keyed, settings, routers, keys, streams, logs)


def _state_routers(service: Service, settings: Settings) -> list[APIRouter]:
    return [health_router(service), *([metrics_router(service)] if settings.enable_metrics else [])]


def _make_door(
    title: str,
    service: Service,
    settings: Settings,
    routers: Sequence[APIRouter],
    keys: Keyring | None,
    streams: KeptStreams,
    logs: Logs | None,
    scope: Scope = Scope.INFERENCE,
) -> FastAPI:
    """What all doors share. Limits are inside the guard: strangers can't make us read."""
    app = FastAPI(
        title=title,
        summary="A private LLM server",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    for router in routers:
        app.include_router(router)
    _add_error_handlers(app)
    app.add_middleware(BodyLimits, settings=settings)
    keys = keys or Keyring(settings.api_key)
    app.add_middleware(Guard, settings=settings, keys=keys, scope=scope, streams=streams)
    log = RequestLog.of(logs, settings)
    routes = [route for router in routers for route in router.routes if isinstance(route, Route)]
    app.add_middleware(Traffic, service=service, log=log, routes=routes, with_prompts=settings.log_prompts)
    return app


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
