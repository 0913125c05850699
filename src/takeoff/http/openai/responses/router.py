"""/v1/responses: the next items of a conversation that the client keeps."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator

import msgspec
from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from takeoff.errors import NotFound, TakeoffError
from takeoff.http.answers import all_events, check_in_time, submit_streamed
from takeoff.http.bodies import body_schema, parse_body
from takeoff.http.openai.answers import event_stream
from takeoff.http.openai.responses.answer import ResponseObject
from takeoff.http.openai.responses.body import ResponsesBody
from takeoff.http.openai.responses.items import Event
from takeoff.http.openai.responses.output import Output, whole_output
from takeoff.http.openai.sampling import model_told
from takeoff.http.ports import Generation, Service
from takeoff.http.sse import named_event
from takeoff.http.visiting import current_visit
from takeoff.settings import Settings


def responses_router(service: Service, settings: Settings) -> APIRouter:
    """The routes, over `service`."""
    router = APIRouter(prefix="/v1", tags=["OpenAI"])

    @router.post("/responses", openapi_extra=body_schema(ResponsesBody))
    async def create_response(http_request: HttpRequest) -> Response:
        """What the model says next: a message, or calls of tools."""
        body = await parse_body(http_request, ResponsesBody)
        body.check_fields(lenient=settings.lenient)
        request = body.request(lenient=settings.lenient)
        answer = ResponseObject(body, model_told(body.model, service))
        if body.stream:
            with body.in_its_names():
                generations = await submit_streamed(http_request, service, [request])
            events = stream_events(answer, generations[0], has_tools=body.has_tools)
            return event_stream(service, settings, generations, events)
        with body.in_its_names():
            ((generation, told),) = await all_events(http_request, service, [request])
        output = whole_output(generation, told, has_tools=body.has_tools)
        return JSONResponse(answer.ended(generation, output))

    @router.post("/responses/{response_id}/cancel")
    async def cancel_response(response_id: str) -> Response:
        """End a response that is in work; its own answer has what it had said."""
        try:
            current_visit.get().account.end(response_id)
        except NotFound as exc:
            raise _not_stored(response_id) from exc
        told = {"id": response_id, "object": "response", "status": "cancelled", "output": []}
        return JSONResponse(told)

    @router.get("/responses/{response_id}")
    @router.delete("/responses/{response_id}")
    @router.get("/responses/{response_id}/input_items")
    async def stored_response(response_id: str) -> Response:
        """Nothing is stored: always 404."""
        raise _not_stored(response_id)

    return router


def _not_stored(response_id: str) -> NotFound:
    return NotFound(
        f"there is no response {response_id[:64]!r}: nothing is stored",
        param="response_id",
        hint="keep the answer, and send it again as input",
    )


async def stream_events(
    answer: ResponseObject, generation: Generation, *, has_tools: bool
) -> AsyncGenerator[bytes, None]:
    """The events of one response as they come, each with its number."""
    numbers = itertools.count()

    def framed(event: Event) -> bytes:
        return named_event(event["type"], msgspec.json.encode({**event, "sequence_number": next(numbers)}))

    for kind in ("response.created", "response.in_progress"):
        yield framed({"type": kind, "response": answer.begun()})
    output = Output(generation, has_tools=has_tools)
    try:
        async for news in generation:
            check_in_time(news, generation)
            for event in output.take(news):
                yield framed(event)
    except TakeoffError as exc:
        for event in output.end("incomplete"):
            yield framed(event)
        failed = answer.failed(exc, generation, output)
        yield framed({"type": "response.failed", "response": failed})
        return
    ended = answer.ended(generation, output)
    kind = "completed" if ended["status"] == "completed" else "incomplete"
    yield framed({"type": f"response.{kind}", "response": ended})
