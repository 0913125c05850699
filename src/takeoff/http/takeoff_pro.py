"""The later Takeoff API: /generate and /generate_stream with `text`, groups and server-sent events.

Its clients of different years overlap, so unknown fields are ignored, and null means the default.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Literal, TypeVar

import msgspec
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StrictStr
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from takeoff.errors import InvalidRequest
from takeoff.http.answers import (
    CUT_SHORT,
    GenerationResponse,
    break_off_if_cut,
    breaking_off,
    check_in_time,
    complete_all,
    merge,
    submit_streamed,
)
from takeoff.http.bodies import Texts, body_schema, field_error, form_schema, parse_body, parse_form
from takeoff.http.ports import Generation, Service
from takeoff.http.sse import TokenEvents, tight_event
from takeoff.http.streaming import EVENT_STREAM
from takeoff.http.texts import GroupName, check_texts, like
from takeoff.request import Constraint, ConstraintKind, Request, SamplingParams
from takeoff.settings import Settings
from takeoff.settings.values import DEFAULT_GROUP

DEFAULT_MAX_NEW_TOKENS = 128
MAX_TOKENS = 10_000_000
METADATA = "metadata"
JSON_PART, IMAGE_PART = "json_data", "image_data"  # of a multipart body

Number = TypeVar("Number", int, float)


class GenerateBody(BaseModel):
    """POST /generate and /generate_stream."""

    model_config = ConfigDict(extra="ignore")

    text: StrictStr | Texts = Field(description="The prompt, or a list of them")
    consumer_group: GroupName = None
    sampling_temperature: float | None = Field(None, ge=0, le=100, description="0 is greedy; default 1.0")
    sampling_topp: float | None = Field(
        None, gt=0, le=1, description="Nucleus; default 1.0, which is no restriction"
    )
    sampling_topk: int | None = Field(
        None, ge=1, le=1_000_000, description="Keep the k likeliest; default 1, which is greedy"
    )
    repetition_penalty: float | None = Field(
        None, ge=0.01, le=100, description="Above 1 penalises repetition; default 1.0"
    )
    no_repeat_ngram_size: int | None = Field(
        None, ge=0, le=1_000, description="No n-gram of this size twice; default 0, which is off"
    )
    max_new_tokens: int | None = Field(
        None, ge=1, le=MAX_TOKENS, description="Most tokens to generate; default 128"
    )
    min_new_tokens: int | None = Field(
        None, ge=0, le=MAX_TOKENS, description="Fewest, at most max_new_tokens; default 0"
    )
    prompt_max_tokens: int | None = Field(
        None,
        ge=1,
        le=MAX_TOKENS,
        description="A longer prompt loses the beginning of its text, for a model continues the end; "
        "default: it is refused where the context is too short",
    )
    regex_string: StrictStr | None = Field(None, description="Regular expression that the whole text matches")
    json_schema: Any = Field(None, description="JSON Schema that the text obeys; regex_string goes before it")
    constrained_decoding_backend: Literal["lmfe", "outlines"] | None = Field(
        None, description="Taken for the sake of clients: one engine enforces both kinds of constraint"
    )
    return_metadata: bool | None = Field(None, description="Tell token counts and why the text ended")
    use_chat_template: bool | None = Field(
        None, description="Wrap the text as a user's message; default: the reader's setting"
    )
    lora_id: StrictStr | None = Field(None, max_length=1_024, description="Adapter of the reader to use")

    @property
    def texts(self) -> list[str]:
        return [self.text] if isinstance(self.text, str) else self.text

    def requests(self, images: tuple[bytes, ...] = ()) -> list[Request]:
        """One request for each text, all of the same images.

        Raises:
            RequestValidationError: fields that contradict each other.
        """
        sampling = self._sampling()
        return [
            Request(
                prompt=text,
                sampling=sampling,
                group=self.consumer_group or DEFAULT_GROUP,
                chat_template=self.use_chat_template,
                keep_tokens=self.prompt_max_tokens,
                lora_id=self.lora_id,
                images=images,
            )
            for text in self.texts
        ]

    def _sampling(self) -> SamplingParams:
        try:
            return SamplingParams(
                temperature=_or(self.sampling_temperature, 1.0),
                top_k=_or(self.sampling_topk, 1),
                top_p=_or(self.sampling_topp, 1.0),
                repetition_penalty=_or(self.repetition_penalty, 1.0),
                no_repeat_ngram_size=_or(self.no_repeat_ngram_size, 0),
                max_new_tokens=_or(self.max_new_tokens, DEFAULT_MAX_NEW_TOKENS),
                min_new_tokens=_or(self.min_new_tokens, 0),
                constraint=self._constraint(),
            )
        except InvalidRequest as exc:  # only what no field can see of itself: min above max
            raise field_error(exc.param or "text", exc.message) from exc

    def _constraint(self) -> Constraint | None:
        if self.regex_string is not None:
            return Constraint(ConstraintKind.REGEX, self.regex_string)
        if self.json_schema is None:
            return None
        try:
            return Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(self.json_schema))
        except RecursionError as exc:
            raise field_error("json_schema", "it is nested too deeply") from exc


def generate_router(service: Service, settings: Settings) -> APIRouter:
    """Texts to complete, alone and with an image, over `service`."""
    router = APIRouter(tags=["Generate"])
    with_image = form_schema(GenerateBody, json_part=JSON_PART, file_part=IMAGE_PART)

    async def parse(http_request: HttpRequest) -> GenerateBody:
        body = await parse_body(http_request, GenerateBody)
        check_texts(body.texts, settings)
        return body

    async def parse_with_image(http_request: HttpRequest) -> tuple[GenerateBody, list[Request]]:
        form = await parse_form(http_request, GenerateBody, json_part=JSON_PART, file_part=IMAGE_PART)
        check_texts(form.body.texts, settings)
        if not form.file:
            raise field_error(IMAGE_PART, "the image is empty")
        return form.body, form.body.requests((form.file,))

    async def answer_whole(
        http_request: HttpRequest, body: GenerateBody, requests: list[Request]
    ) -> Response:
        completed = await complete_all(http_request, service, requests)
        answer: dict[str, Any] = {"text": like(body.text, [text for _, text in completed])}
        is_cut = any(generation.finish_reason in CUT_SHORT for generation, _ in completed)
        if body.return_metadata or is_cut:
            answer[METADATA] = like(body.text, [_metadata(generation) for generation, _ in completed])
        return JSONResponse(answer)

    async def answer_streamed(
        http_request: HttpRequest, body: GenerateBody, requests: list[Request]
    ) -> Response:
        generations = await submit_streamed(http_request, service, requests)
        stream = _token_events if isinstance(body.text, str) else _json_events
        return GenerationResponse(
            service, generations, stream(generations, bool(body.return_metadata)), EVENT_STREAM
        )

    @router.post("/generate", openapi_extra=body_schema(GenerateBody))
    async def generate(http_request: HttpRequest) -> Response:
        """The whole text: `{"text": ...}`, a list for a list."""
        body = await parse(http_request)
        return await answer_whole(http_request, body, body.requests())

    @router.post("/generate_stream", openapi_extra=body_schema(GenerateBody))
    async def generate_stream(http_request: HttpRequest) -> Response:
        """Events as the tokens are made: the bare token of one text, JSON with `batch_id` of a list."""
        body = await parse(http_request)
        return await answer_streamed(http_request, body, body.requests())

    @router.post("/image_generate", openapi_extra=with_image)
    async def image_generate(http_request: HttpRequest) -> Response:
        """As /generate, of a text and an image; the image stands where the text says `<image>`, or first."""
        body, requests = await parse_with_image(http_request)
        return await answer_whole(http_request, body, requests)

    @router.post("/image_generate_stream", openapi_extra=with_image)
    async def image_generate_stream(http_request: HttpRequest) -> Response:
        """As /generate_stream, of a text and an image."""
        body, requests = await parse_with_image(http_request)
        return await answer_streamed(http_request, body, requests)

    return router


async def _token_events(generations: list[Generation], with_metadata: bool) -> AsyncGenerator[bytes, None]:
    """The tokens of one text."""
    (generation,) = generations
    events = TokenEvents()
    with breaking_off():
        async for event in generation:
            check_in_time(event, generation)
            if event.text:
                yield events.frame(event.text)
    if with_metadata:
        yield tight_event(msgspec.json.encode(_metadata(generation)), kind=METADATA)
    else:
        break_off_if_cut(generations)


async def _json_events(generations: list[Generation], with_metadata: bool) -> AsyncGenerator[bytes, None]:
    """The tokens of a list of texts as they come, then the metadata of each."""
    with breaking_off():
        async with aclosing(merge(generations)) as events:
            async for index, event in events:
                if event.text:
                    yield tight_event(msgspec.json.encode({"text": event.text, "batch_id": index}))
    if with_metadata:
        for index, generation in enumerate(generations):
            told = {"batch_id": index, **_metadata(generation)}
            yield tight_event(msgspec.json.encode(told), kind=METADATA)
    else:
        break_off_if_cut(generations)


def _metadata(generation: Generation) -> dict[str, Any]:
    reason = generation.finish_reason
    return {
        "prompt_tokens": generation.prompt_tokens,
        "generated_tokens": generation.completion_tokens,
        "cached_tokens": generation.cached_tokens,
        "finish_reason": reason.value if reason else None,
    }


def _or(value: Number | None, default: Number) -> Number:
    return default if value is None else value
