"""/v1/completions: a prompt continued as it is, without a chat template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter
from pydantic import Field, StrictInt, StrictStr
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from takeoff.errors import InvalidRequest
from takeoff.http.answers import all_events, submit_streamed
from takeoff.http.bodies import Texts, body_schema, parse_body
from takeoff.http.openai.answers import event_stream, head_of, stream_chunks, usage
from takeoff.http.openai.fields import Unserved
from takeoff.http.openai.logprobs import LegacyLogprobs
from takeoff.http.openai.models import reader_of
from takeoff.http.openai.sampling import SamplingBody, model_told
from takeoff.http.ports import Service
from takeoff.request import MAX_TOKENS, MAX_TOP_LOGPROBS, FinishReason, Request, TokenEvent, joined
from takeoff.settings import Settings

MAX_PROMPTS = 128
DEFAULT_MAX_TOKENS = 16

TokenIds = Annotated[list[StrictInt], Field(fail_fast=True)]
TokenIdLists = Annotated[list[TokenIds], Field(fail_fast=True)]


class CompletionBody(SamplingBody):
    """POST /v1/completions. The prompt is used as it is: no chat template."""

    unserved: ClassVar[Mapping[str, Unserved]] = {
        "best_of": Unserved((None, 1)),
        "suffix": Unserved((None, "")),
    }

    prompt_field: ClassVar[str] = "prompt"

    prompt: StrictStr | TokenIds | Texts | TokenIdLists = Field(
        description=f"A text or token ids, or up to {MAX_PROMPTS} of them"
    )
    max_tokens: int | None = Field(
        DEFAULT_MAX_TOKENS,
        ge=0,
        le=MAX_TOKENS,
        description=f"Most tokens; 0 for the sake of `echo`; default {DEFAULT_MAX_TOKENS}",
    )
    echo: bool | None = Field(False, description="Begin each choice with the text of its prompt")
    logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="Tell the logarithm of each token's probability, with `echo` of the prompt's too, and of "
        "so many of the likeliest: the model's own, before biases, penalties, constraints and temperature",
    )

    @property
    def has_completion(self) -> bool:
        """Whether tokens were asked for; of none, one is computed all the same."""
        return self.max_tokens != 0

    def requests(self) -> list[Request]:
        """One request for each prompt and choice, the choices of a prompt together."""
        max_tokens = DEFAULT_MAX_TOKENS if self.max_tokens is None else max(self.max_tokens, 1)
        of_prompt = bool(self.echo) and self.logprobs is not None
        samplings = [
            replace(sampling, logprobs=self.logprobs, prompt_logprobs=of_prompt)
            for sampling in self.samplings(max_tokens)
        ]
        return [
            Request(
                prompt=prompt if isinstance(prompt, str) else tuple(prompt),
                sampling=sampling,
                group=self.group,
                chat_template=False,
            )
            for prompt in self._prompts()
            for sampling in samplings
        ]

    def _prompts(self) -> list[str | list[int]]:
        prompt: Any = self.prompt
        is_one = isinstance(prompt, str) or (bool(prompt) and isinstance(prompt[0], int))
        prompts: list[str | list[int]] = [prompt] if is_one else prompt
        if not 1 <= len(prompts) <= MAX_PROMPTS:
            raise InvalidRequest(f"1 to {MAX_PROMPTS} prompts at once, got {len(prompts)}", param="prompt")
        return prompts


def completions_router(service: Service, settings: Settings) -> APIRouter:
    """The route, over `service`."""
    router = APIRouter(prefix="/v1", tags=["OpenAI"])

    @router.post("/completions", openapi_extra=body_schema(CompletionBody))
    async def create_completion(http_request: HttpRequest) -> Response:
        """Complete one prompt or several."""
        body = await parse_body(http_request, CompletionBody)
        body.check_fields(lenient=settings.lenient)
        requests = body.requests()
        head = head_of("cmpl", "text_completion", model_told(body.model, service))
        n = body.n or 1
        with body.in_its_names():
            echoes = [await _prompt_text(service, request) if body.echo else "" for request in requests]
        choices = [_Choice(index, body, echo) for index, echo in enumerate(echoes)]
        if body.stream:
            with body.in_its_names():
                generations = await submit_streamed(http_request, service, requests)
            stream = stream_chunks(
                head,
                generations,
                lambda index, event: choices[index].chunks(event),
                n=n,
                with_usage=body.with_usage,
                has_completion=body.has_completion,
            )
            return event_stream(service, settings, generations, stream)
        with body.in_its_names():
            completed = await all_events(http_request, service, requests)
        whole = [choice.take(joined(events)) for choice, (_, events) in zip(choices, completed, strict=True)]
        told = usage([generation for generation, _ in completed], n, has_completion=body.has_completion)
        return JSONResponse({**head, "choices": whole, "usage": told})

    return router


class _Choice:
    """One completion of one prompt, piece after piece; the first piece begins with the echo."""

    def __init__(self, index: int, body: CompletionBody, echo: str) -> None:
        self._index = index
        self._echo = echo
        self._has_completion = body.has_completion
        self._logprobs = None if body.logprobs is None else LegacyLogprobs()

    def chunks(self, event: TokenEvent) -> list[dict[str, Any]]:
        """What a stream tells of an event; of one without news nothing."""
        return [self.take(event)] if event.text or event.finish_reason or event.logprobs else []

    def take(self, event: TokenEvent) -> dict[str, Any]:
        """The event as a choice of the wire."""
        text, reason, logprobs = event.text, event.finish_reason, event.logprobs
        if not self._has_completion:  # the one token that was computed
            logprobs = logprobs[: len(logprobs) - len(event.token_ids)]
            text, reason = "", FinishReason.LENGTH if reason else None
        text, self._echo = self._echo + text, ""
        return {
            "index": self._index,
            "text": text,
            "logprobs": None if self._logprobs is None else self._logprobs.take(logprobs),
            "finish_reason": reason.value if reason else None,
        }


async def _prompt_text(service: Service, request: Request) -> str:
    """What a prompt says, if it was given as token ids."""
    if isinstance(request.prompt, str):
        return request.prompt
    assert isinstance(request.prompt, tuple), "completions have no conversations"
    reader_id = reader_of(request.group, service).reader_id
    return await service.detokenize(reader_id, list(request.prompt), skip_special_tokens=True)
