"""The OpenAI API: /v1/completions and /v1/models. Every field is honoured or refused by name."""

from __future__ import annotations

import difflib
import reprlib
import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, StrictStr
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from takeoff.errors import InvalidRequest, TakeoffError
from takeoff.http.answers import EVENT_STREAM, GenerationResponse, complete_all, merge, submit_all
from takeoff.http.bodies import Texts, body_schema, parse_body
from takeoff.http.ports import Generation, Service
from takeoff.http.refusals import error_body
from takeoff.http.sse import DONE, sse_event
from takeoff.request import MAX_LOGIT_BIASES, FinishReason, Request, SamplingParams
from takeoff.settings.values import DEFAULT_GROUP

MAX_PROMPTS = 128
MAX_N = 16
MAX_NAME_CHARACTERS = 64  # of an unknown field that are looked at
MAX_MODEL_CHARACTERS = 1_024
DEFAULT_MAX_TOKENS = 16

# Fields of the real API that we don't serve: only a value that changes nothing is taken.
_HARMLESS_VALUES: dict[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "echo": (None, False),
    "logprobs": (None,),
    "suffix": (None, ""),
}

TokenIds = Annotated[list[StrictInt], Field(fail_fast=True)]
TokenIdLists = Annotated[list[TokenIds], Field(fail_fast=True)]


def _few(biases: Any) -> Any:
    if isinstance(biases, dict) and len(biases) > MAX_LOGIT_BIASES:
        raise ValueError(f"at most {MAX_LOGIT_BIASES} entries, got {len(biases)}")
    return biases


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class CompletionBody(BaseModel):
    """POST /v1/completions. The prompt is used as it is: no chat template."""

    model_config = ConfigDict(extra="allow")

    model: StrictStr | None = Field(None, max_length=MAX_MODEL_CHARACTERS)
    prompt: StrictStr | TokenIds | Texts | TokenIdLists
    max_tokens: int | None = Field(DEFAULT_MAX_TOKENS, ge=1, le=10_000_000)
    temperature: float | None = Field(1.0, ge=0, le=100)
    top_p: float | None = Field(1.0, gt=0, le=1)
    n: int | None = Field(1, ge=1, le=MAX_N)
    stop: StrictStr | Texts | None = None
    seed: int | None = Field(None, ge=0, le=2**63 - 1)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    presence_penalty: float | None = Field(0.0, ge=-2, le=2)
    frequency_penalty: float | None = Field(0.0, ge=-2, le=2)
    logit_bias: Annotated[dict[int, float] | None, BeforeValidator(_few)] = None
    user: str | None = Field(None, max_length=1_024)
    min_p: float | None = Field(0.0, ge=0, le=1)
    top_k: int | None = Field(0, ge=-1, le=1_000_000)
    repetition_penalty: float | None = Field(1.0, ge=0.01, le=100)
    min_tokens: int | None = Field(0, ge=0, le=10_000_000)
    ignore_eos: bool | None = False

    def requests(self) -> list[Request]:
        """One request for each prompt and choice, the choices of a prompt together."""
        sampling = self._sampling()
        requests = []
        for prompt in self._prompts():
            for choice in range(self.n or 1):
                seed = None if sampling.seed is None else sampling.seed + choice
                requests.append(
                    Request(
                        prompt=prompt if isinstance(prompt, str) else tuple(prompt),
                        sampling=replace(sampling, seed=seed),
                        group=self.model or DEFAULT_GROUP,
                        chat_template=False,
                    )
                )
        return requests

    def _sampling(self) -> SamplingParams:
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        max_tokens = DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens
        if (self.min_tokens or 0) > max_tokens:
            raise InvalidRequest(
                f"min_tokens is {self.min_tokens}, which is more than max_tokens, {max_tokens}",
                param="min_tokens",
            )
        return SamplingParams(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=max(0, self.top_k or 0),
            top_p=1.0 if self.top_p is None else self.top_p,
            min_p=self.min_p or 0.0,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias=self.logit_bias or {},
            max_new_tokens=max_tokens,
            min_new_tokens=self.min_tokens or 0,
            stop=tuple(stop),
            ignore_eos=bool(self.ignore_eos),
            seed=self.seed,
        )

    def _prompts(self) -> list[str | list[int]]:
        prompt: Any = self.prompt
        is_one = isinstance(prompt, str) or (bool(prompt) and isinstance(prompt[0], int))
        prompts: list[str | list[int]] = [prompt] if is_one else prompt
        if not 1 <= len(prompts) <= MAX_PROMPTS:
            raise InvalidRequest(f"1 to {MAX_PROMPTS} prompts at once, got {len(prompts)}", param="prompt")
        return prompts


def openai_router(service: Service) -> APIRouter:
    """The routes, over `service`."""
    router = APIRouter(prefix="/v1", tags=["OpenAI"])
    created = int(time.time())

    @router.get("/models")
    async def models() -> Response:
        """What `model` may be."""
        data = [
            {"id": name, "object": "model", "created": created, "owned_by": "takeoff"}
            for name in service.models()
        ]
        return JSONResponse({"object": "list", "data": data})

    @router.post("/completions", openapi_extra=body_schema(CompletionBody))
    async def create_completion(http_request: HttpRequest) -> Response:
        """Complete one prompt or several."""
        body = await parse_body(http_request, CompletionBody)
        if body.stream_options is not None and not body.stream:
            raise InvalidRequest("stream_options needs stream to be true", param="stream_options")
        refuse_unknown(body, _HARMLESS_VALUES)
        requests = body.requests()
        answer = _Answer(model_told(body.model, service))
        if body.stream:
            generations = await submit_all(service, requests)
            with_usage = body.stream_options is not None and body.stream_options.include_usage
            stream = answer.stream(generations, with_usage)
            return GenerationResponse(service, generations, stream, EVENT_STREAM)
        return JSONResponse(answer.whole(await complete_all(http_request, service, requests)))

    return router


class _Answer:
    """One answer on the wire: its id, and the shapes of its chunks."""

    def __init__(self, model: str) -> None:
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, completed: list[tuple[Generation, str]]) -> dict[str, Any]:
        choices = [
            _choice(index, text, generation.finish_reason)
            for index, (generation, text) in enumerate(completed)
        ]
        usage = _usage([generation for generation, _ in completed])
        return {**self._head, "choices": choices, "usage": usage}

    async def stream(self, generations: list[Generation], with_usage: bool) -> AsyncGenerator[bytes, None]:
        """Chunks of all generations as they come; an error travels as a chunk of its own."""
        try:
            async with aclosing(merge(generations)) as events:
                async for index, event in events:
                    if event.text or event.finish_reason:
                        choice = _choice(index, event.text, event.finish_reason)
                        yield sse_event(msgspec.json.encode({**self._head, "choices": [choice]}))
        except TakeoffError as exc:
            yield sse_event(msgspec.json.encode(error_body(exc)))
            return
        if with_usage:
            yield sse_event(msgspec.json.encode({**self._head, "choices": [], "usage": _usage(generations)}))
        yield DONE


def _choice(index: int, text: str, reason: FinishReason | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": reason.value if reason else None}


def _usage(generations: list[Generation]) -> dict[str, Any]:
    prompt = sum(generation.prompt_tokens for generation in generations)
    completion = sum(generation.completion_tokens for generation in generations)
    cached = sum(generation.cached_tokens for generation in generations)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def model_told(model: str | None, service: Service) -> str:
    """The name that an answer gives for the `model` that was asked for."""
    return model or next(iter(service.models()), DEFAULT_GROUP)


def refuse_unknown(body: BaseModel, harmless_values: Mapping[str, tuple[Any, ...]]) -> None:
    """Raise InvalidRequest for a field that we neither honour nor know to be harmless."""
    known = [*type(body).model_fields, *harmless_values]
    for name, value in (body.model_extra or {}).items():
        if name not in harmless_values:
            name = name[:MAX_NAME_CHARACTERS]
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise InvalidRequest(f"unknown field {name!r}; did you mean {near!r}?", param=name)
        if not any(value is harmless or value == harmless for harmless in harmless_values[name]):
            raise InvalidRequest(f"{name} is not supported, got {reprlib.repr(value)}", param=name)
