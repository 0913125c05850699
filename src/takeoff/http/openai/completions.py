"""/v1/completions: a prompt continued as it is, without a chat template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter
from pydantic import Field, StrictInt, StrictStr
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from takeoff.errors import InvalidRequest
from takeoff.http.answers import EVENT_STREAM, GenerationResponse, complete_all, submit_all
from takeoff.http.bodies import Texts, body_schema, parse_body
from takeoff.http.openai.answers import head_of, stream_chunks, usage
from takeoff.http.openai.fields import Unserved
from takeoff.http.openai.sampling import SamplingBody, model_told
from takeoff.http.ports import Service
from takeoff.request import MAX_TOKENS, FinishReason, Request, TokenEvent
from takeoff.settings import Settings

MAX_PROMPTS = 128
DEFAULT_MAX_TOKENS = 16

TokenIds = Annotated[list[StrictInt], Field(fail_fast=True)]
TokenIdLists = Annotated[list[TokenIds], Field(fail_fast=True)]


class CompletionBody(SamplingBody):
    """POST /v1/completions. The prompt is used as it is: no chat template."""

    unserved: ClassVar[Mapping[str, Unserved]] = {
        "best_of": Unserved((None, 1)),
        "echo": Unserved((None, False)),
        "logprobs": Unserved((None,)),
        "suffix": Unserved((None, "")),
    }

    prompt_field: ClassVar[str] = "prompt"

    prompt: StrictStr | TokenIds | Texts | TokenIdLists = Field(
        description=f"A text or token ids, or up to {MAX_PROMPTS} of them"
    )
    max_tokens: int | None = Field(
        DEFAULT_MAX_TOKENS, ge=1, le=MAX_TOKENS, description=f"Most tokens; default {DEFAULT_MAX_TOKENS}"
    )

    def requests(self) -> list[Request]:
        """One request for each prompt and choice, the choices of a prompt together."""
        samplings = self.samplings(DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens)
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
        if body.stream:
            with body.in_its_names():
                generations = await submit_all(service, requests)
            stream = stream_chunks(head, generations, _choices, n=n, with_usage=body.with_usage)
            return GenerationResponse(service, generations, stream, EVENT_STREAM)
        with body.in_its_names():
            completed = await complete_all(http_request, service, requests)
        choices = [
            _choice(index, text, generation.finish_reason)
            for index, (generation, text) in enumerate(completed)
        ]
        told = usage([generation for generation, _ in completed], n)
        return JSONResponse({**head, "choices": choices, "usage": told})

    return router


def _choices(index: int, event: TokenEvent) -> list[dict[str, Any]]:
    return [_choice(index, event.text, event.finish_reason)] if event.text or event.finish_reason else []


def _choice(index: int, text: str, reason: FinishReason | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": reason.value if reason else None}
