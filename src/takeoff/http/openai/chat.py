"""/v1/chat/completions: a conversation, written by the model's own chat template, and its next message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from fastapi import APIRouter
from pydantic import Field, StrictStr
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from takeoff.errors import InvalidRequest
from takeoff.http.answers import EVENT_STREAM, GenerationResponse, complete_all, submit_all
from takeoff.http.bodies import body_schema, parse_body
from takeoff.http.openai.answers import head_of, stream_chunks, usage
from takeoff.http.openai.fields import Unserved, check_depth
from takeoff.http.openai.messages import MAX_MESSAGES, checked_messages
from takeoff.http.openai.sampling import MAX_METADATA, SamplingBody, model_told
from takeoff.http.ports import Service
from takeoff.request import MAX_TOKENS, Conversation, FinishReason, Request, TokenEvent
from takeoff.settings import Settings


class ChatBody(SamplingBody):
    """POST /v1/chat/completions."""

    unserved: ClassVar[Mapping[str, Unserved]] = {
        "audio": Unserved(),
        "function_call": Unserved((None, "none"), "use tool_choice"),
        "functions": Unserved((None, []), "use tools"),
        "logprobs": Unserved((None, False)),
        "modalities": Unserved((None, ["text"])),
        "moderation": Unserved(),
        "parallel_tool_calls": Unserved((None, True)),
        "reasoning_effort": Unserved(),
        "service_tier": Unserved((None, "auto", "default")),
        "store": Unserved((None, False)),
        "tool_choice": Unserved((None, "none", "auto")),
        "tools": Unserved((None, [])),
        "top_logprobs": Unserved((None, 0)),
        "verbosity": Unserved((None, "medium")),
        "web_search_options": Unserved(),
    }

    messages: list[Any] = Field(
        description=f"1 to {MAX_MESSAGES} messages of the roles system, developer, user, assistant and tool, "
        "their content a text or parts of the type text, which become its lines; an assistant's message at "
        "the end is continued"
    )
    max_tokens: int | None = Field(
        None, ge=1, le=MAX_TOKENS, description="Most tokens of the answer; default: to the end of the context"
    )
    max_completion_tokens: int | None = Field(
        None, ge=1, le=MAX_TOKENS, description="The same as `max_tokens`"
    )
    chat_template_kwargs: dict[StrictStr, Any] | None = Field(
        None, description="Variables of the model's chat template, as `enable_thinking`; not OpenAI's"
    )
    metadata: dict[str, str] | None = Field(
        None, max_length=MAX_METADATA, description="Notes of the client's"
    )
    prompt_cache_key: str | None = Field(
        None, max_length=1_024, description="What is reused is found without"
    )
    prompt_cache_options: dict[str, Any] | None = Field(None, description="As `prompt_cache_key`")
    prompt_cache_retention: str | None = Field(None, max_length=1_024, description="As `prompt_cache_key`")
    safety_identifier: str | None = Field(None, max_length=1_024, description="Who asks")
    prediction: dict[str, Any] | None = Field(None, description="What the answer may be")

    def requests(self, *, lenient: bool) -> list[Request]:
        """One request for each choice."""
        check_depth("messages", self.messages)
        check_depth("chat_template_kwargs", self.chat_template_kwargs)
        conversation = Conversation(
            messages=checked_messages(self.messages, lenient=lenient),
            template_values=self.chat_template_kwargs or {},
        )
        return [
            Request(prompt=conversation, sampling=sampling, group=self.group)
            for sampling in self.samplings(self._max_tokens())
        ]

    def _max_tokens(self) -> int | None:
        given = {each for each in (self.max_tokens, self.max_completion_tokens) if each is not None}
        if len(given) == 2:
            raise InvalidRequest(
                f"max_tokens is {self.max_tokens} and max_completion_tokens {self.max_completion_tokens}",
                param="max_completion_tokens",
                hint="they are the same; give one of them",
            )
        return next(iter(given), None)


def chat_router(service: Service, settings: Settings) -> APIRouter:
    """The route, over `service`."""
    router = APIRouter(prefix="/v1", tags=["OpenAI"])

    @router.post("/chat/completions", openapi_extra=body_schema(ChatBody))
    async def create_chat_completion(http_request: HttpRequest) -> Response:
        """The assistant's next message."""
        body = await parse_body(http_request, ChatBody)
        body.check_fields(lenient=settings.lenient)
        requests = body.requests(lenient=settings.lenient)
        model = model_told(body.model, service)
        n = len(requests)
        if body.stream:
            with body.in_its_names():
                generations = await submit_all(service, requests)
            head = head_of("chatcmpl", "chat.completion.chunk", model)
            stream = stream_chunks(head, generations, _Deltas(), n=n, with_usage=body.with_usage)
            return GenerationResponse(service, generations, stream, EVENT_STREAM)
        with body.in_its_names():
            completed = await complete_all(http_request, service, requests)
        choices = [
            _choice(index, generation.finish_reason, message={**_ROLE, "content": text, "refusal": None})
            for index, (generation, text) in enumerate(completed)
        ]
        told = usage([generation for generation, _ in completed], n)
        head = head_of("chatcmpl", "chat.completion", model)
        return JSONResponse({**head, "choices": choices, "usage": told})

    return router


_ROLE = {"role": "assistant"}


class _Deltas:
    """The chunks of a streamed message: the first tells the role, the last why it ended."""

    def __init__(self) -> None:
        self._begun: set[int] = set()

    def __call__(self, index: int, event: TokenEvent) -> list[dict[str, Any]]:
        choices = []
        if index not in self._begun:
            self._begun.add(index)
            choices.append(_choice(index, None, delta={**_ROLE, "content": ""}))
        if event.text:
            choices.append(_choice(index, None, delta={"content": event.text}))
        if event.finish_reason is not None:
            choices.append(_choice(index, event.finish_reason, delta={}))
        return choices


def _choice(index: int, reason: FinishReason | None, **said: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, **said, "logprobs": None, "finish_reason": reason.value if reason else None}
