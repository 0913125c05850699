"""Anthropic's API: /v1/messages and /v1/messages/count_tokens, for the doors that have OpenAI's."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from takeoff.http.answers import (
    GenerationResponse,
    all_events,
    submit_streamed,
    unless_client_leaves,
)
from takeoff.http.anthropic.answers import PING, message_events, message_of, whole_message
from takeoff.http.anthropic.bodies import CountTokensBody, MessagesBody
from takeoff.http.bodies import body_schema, parse_body
from takeoff.http.openai.sampling import model_told
from takeoff.http.ports import Service
from takeoff.http.streaming import EVENT_STREAM, KeepAlive
from takeoff.http.visiting import current_visit
from takeoff.settings import Settings


def anthropic_router(service: Service, settings: Settings) -> APIRouter:
    """The routes, over `service`."""
    router = APIRouter(prefix="/v1/messages", tags=["Anthropic"])

    @router.post("", openapi_extra=body_schema(MessagesBody))
    async def create_message(http_request: HttpRequest) -> Response:
        """The assistant's next message."""
        body = await parse_body(http_request, MessagesBody)
        body.check_fields(lenient=settings.lenient)
        request = body.request(lenient=settings.lenient)
        head = message_of(model_told(body.model, service))
        headers = {"request-id": (request_id := current_visit.get().request_id)}
        if body.stream:
            with body.in_its_names():
                (generation,) = await submit_streamed(http_request, service, [request])
            stream = message_events(head, generation, body.asked, request_id=request_id)
            keep_alive = KeepAlive(PING, settings.stream_keep_alive_s)
            response = GenerationResponse(service, [generation], stream, EVENT_STREAM, keep_alive)
            response.headers.update(headers)
            return response
        with body.in_its_names():
            ((generation, events),) = await all_events(http_request, service, [request])
        return JSONResponse(whole_message(head, generation, events, body.asked), headers=headers)

    @router.post("/count_tokens", openapi_extra=body_schema(CountTokensBody))
    async def count_tokens(http_request: HttpRequest) -> Response:
        """How many tokens the prompt of a message has."""
        body = await parse_body(http_request, CountTokensBody)
        body.check_fields(lenient=settings.lenient)
        request = body.prompt_request(lenient=settings.lenient)
        with body.in_its_names():
            count = await unless_client_leaves(http_request, lambda: service.count_tokens(request))
        return JSONResponse({"input_tokens": count}, headers={"request-id": current_visit.get().request_id})

    return router
