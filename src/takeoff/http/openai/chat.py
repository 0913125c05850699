"""/v1/chat/completions: a conversation, written by the model's own chat template, and its next message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from fastapi import APIRouter
from pydantic import Field, PrivateAttr, StrictStr
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from takeoff.errors import InvalidRequest
from takeoff.http.answers import all_events, submit_streamed
from takeoff.http.bodies import body_schema, parse_body
from takeoff.http.openai.answers import event_stream, head_of, stream_chunks, usage
from takeoff.http.openai.fields import Unserved, check_depth
from takeoff.http.openai.images import MAX_IMAGES
from takeoff.http.openai.messages import MAX_MESSAGES, checked_messages, predicted_text
from takeoff.http.openai.said import Deltas, whole_choice
from takeoff.http.openai.sampling import MAX_METADATA, SamplingBody, model_told
from takeoff.http.openai.tools import ToolFields, ToolUse, tool_use, with_calls
from takeoff.http.ports import Service
from takeoff.request import MAX_TOKENS, MAX_TOP_LOGPROBS, Constraint, Conversation, Request
from takeoff.settings import Settings

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ChatBody(SamplingBody, ToolFields):
    """POST /v1/chat/completions."""

    unserved: ClassVar[Mapping[str, Unserved]] = {
        "audio": Unserved(),
        "function_call": Unserved((None, "none"), "use tool_choice"),
        "functions": Unserved((None, []), "use tools"),
        "modalities": Unserved((None, ["text"])),
        "moderation": Unserved(),
        "service_tier": Unserved((None, "auto", "default")),
        "store": Unserved((None, False)),
        "verbosity": Unserved((None, "medium")),
        "web_search_options": Unserved(),
    }

    prompt_field: ClassVar[str] = "messages"

    messages: list[Any] = Field(
        description=f"1 to {MAX_MESSAGES} messages of the roles system, developer, user, assistant and tool, "
        "their content a text or parts of the type text, which become its lines, and of a user's of the type "
        f"image_url as well, up to {MAX_IMAGES} images as data: URLs, where the model reads images; an "
        "assistant's message at the end is continued"
    )
    max_tokens: int | None = Field(
        None, ge=1, le=MAX_TOKENS, description="Most tokens of the answer; default: to the end of the context"
    )
    max_completion_tokens: int | None = Field(
        None, ge=1, le=MAX_TOKENS, description="The same as `max_tokens`"
    )
    logprobs: bool | None = Field(
        False,
        description="Tell the logarithm of each token's probability, of thoughts, calls and the end too: the "
        "model's own, before biases, penalties, constraints and temperature",
    )
    top_logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description=f"And of so many of the likeliest, up to {MAX_TOP_LOGPROBS}; only with `logprobs`",
    )
    reasoning_effort: Effort | None = Field(
        None,
        description="How hard to think, as the model's template knows it: `none` does not, `medium` is the "
        "default of models that do, others only where the template has degrees. The thought is told as "
        "`reasoning_content`, apart from `content`; what constrains the answer holds behind it",
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
    prediction: dict[str, Any] | None = Field(
        None,
        description="What the answer may be, of the type content: where it is, the answer comes sooner"
        ", and it is the same; usage.completion_tokens_details counts what was computed ahead by it"
        ", rightly and in vain",
    )

    _tool_use: ToolUse | None = PrivateAttr(None)

    def constraint(self) -> tuple[str, Constraint] | None:
        """As ConstrainedBody has it, and the calls of tools are one too."""
        return with_calls(super().constraint(), self._tool_use)

    def requests(self, *, lenient: bool) -> list[Request]:
        """One request for each choice."""
        check_depth("messages", self.messages)
        check_depth("chat_template_kwargs", self.chat_template_kwargs)
        is_parallel = self.parallel_tool_calls is not False
        self._tool_use = tool_use(
            self.tools or [], self.tool_choice, is_parallel=is_parallel, lenient=lenient
        )
        images: list[bytes] = []
        conversation = Conversation(
            messages=checked_messages(self.messages, lenient=lenient, images=images),
            tools=[] if self._tool_use is None else self._tool_use.told,
            template_values=self.chat_template_kwargs or {},
            reasoning_effort=self.reasoning_effort,
        )
        logprobs = self._num_logprobs()
        predicted = "" if self.prediction is None else predicted_text(self.prediction, lenient=lenient)
        return [
            Request(
                prompt=conversation,
                sampling=replace(sampling, logprobs=logprobs),
                group=self.group,
                images=tuple(images),
                predicted=predicted,
            )
            for sampling in self.samplings(self._max_tokens())
        ]

    @property
    def has_tools(self) -> bool:
        """Whether the answer may be calls."""
        return self._tool_use is not None

    def _num_logprobs(self) -> int | None:
        if self.logprobs:
            return self.top_logprobs or 0
        if self.top_logprobs:
            message = f"top_logprobs is {self.top_logprobs}, and logprobs is not true"
            raise InvalidRequest(message, param="top_logprobs", hint="send logprobs true as well")
        return None

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
                generations = await submit_streamed(http_request, service, requests)
            head = head_of("chatcmpl", "chat.completion.chunk", model)
            deltas = Deltas(generations, has_tools=body.has_tools, has_logprobs=bool(body.logprobs))
            stream = stream_chunks(head, generations, deltas, n=n, with_usage=body.with_usage)
            return event_stream(service, settings, generations, stream)
        with body.in_its_names():
            completed = await all_events(http_request, service, requests)
        choices = [
            whole_choice(
                index, generation, events, has_tools=body.has_tools, has_logprobs=bool(body.logprobs)
            )
            for index, (generation, events) in enumerate(completed)
        ]
        told = usage([generation for generation, _ in completed], n)
        head = head_of("chatcmpl", "chat.completion", model)
        return JSONResponse({**head, "choices": choices, "usage": told})

    return router
