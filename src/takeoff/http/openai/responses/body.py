"""The body of /v1/responses: each field honoured, harmless or refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, StrictStr

from takeoff.errors import InvalidRequest
from takeoff.http.openai.chat import Effort
from takeoff.http.openai.constraints import (
    ANY_OBJECT,
    FORMAT_TYPE,
    JsonObjectFormat,
    JsonSchemaFormat,
    PossibleConstraint,
    TextFormat,
    schema_constraint,
)
from takeoff.http.openai.fields import Inner, Unserved, check_depth
from takeoff.http.openai.images import MAX_IMAGES
from takeoff.http.openai.messages import MAX_MESSAGES
from takeoff.http.openai.responses.history import History
from takeoff.http.openai.responses.tools import chosen_tools
from takeoff.http.openai.sampling import MAX_METADATA, TokensBody
from takeoff.http.openai.tools import ToolFields, ToolUse, with_calls
from takeoff.request import MAX_TOKENS, MAX_TOP_LOGPROBS, Constraint, Conversation, Request

LOGPROBS = "message.output_text.logprobs"
Includable = Literal[
    "message.output_text.logprobs",
    # harmless: what they ask for is told anyway, or is of tools and inputs that are not served
    "reasoning.encrypted_content",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "web_search_call.action.sources",
    "web_search_call.results",
]


class FlatSchemaFormat(JsonSchemaFormat):
    """JSON that a schema describes, enforced whether `strict` or not."""

    type: Literal["json_schema"] = FORMAT_TYPE
    schema_: dict[StrictStr, Any] = Field(alias="schema", description="JSON Schema that the answer obeys")


TextFormats = Annotated[TextFormat | JsonObjectFormat | FlatSchemaFormat, Field(discriminator="type")]


class TextConfig(Inner):
    """What the text of an answer is like."""

    unserved: ClassVar[Mapping[str, Unserved]] = {"verbosity": Unserved((None, "medium"))}

    format: TextFormats | None = Field(None, description="What the text is: free, or JSON of a schema")


class Reasoning(Inner):
    """How the model thinks before it answers. The thought is told as it is, so it has no summary."""

    unserved: ClassVar[Mapping[str, Unserved]] = {
        "context": Unserved((None, "auto")),
        "generate_summary": Unserved((None, "auto")),
        "mode": Unserved((None, "standard")),
        "summary": Unserved((None, "auto"), "the thought is told as it is"),
    }

    effort: Effort | None = Field(None, description="As `reasoning_effort` of a chat")


class ResponseStreamOptions(Inner):
    """Nothing that would change a stream."""

    unserved: ClassVar[Mapping[str, Unserved]] = {"include_obfuscation": Unserved((None, False))}


class PromptCacheOptions(Inner):
    """What is reused is found without; but nothing is computed without an answer."""

    unserved: ClassVar[Mapping[str, Unserved]] = {"prewarm": Unserved((None, False))}

    harmless: ClassVar[frozenset[str]] = frozenset({"comparison_response_id", "mode", "ttl"})

    comparison_response_id: StrictStr | None = Field(None, description="Not looked at")
    mode: StrictStr | None = Field(None, description="Not looked at")
    ttl: StrictStr | None = Field(None, description="Not looked at")


class ResponsesBody(TokensBody, ToolFields):
    """POST /v1/responses."""

    unserved: ClassVar[Mapping[str, Unserved]] = {
        "access_programs": Unserved(),
        "background": Unserved((None, False), "wait for the answer, or stream it"),
        "background_options": Unserved((None, {})),
        "context_management": Unserved((None, []), "send a shorter input"),
        "conversation": Unserved((None,), "nothing is stored: send the conversation's items as input"),
        "image": Unserved((None, {})),
        "max_completion_tokens": Unserved((None,), "use max_output_tokens"),
        "max_tokens": Unserved((None,), "use max_output_tokens"),
        "messages": Unserved((None,), "use input"),
        "moderation": Unserved(),
        "n": Unserved((None, 1), "send the request so many times"),
        "previous_response_id": Unserved(
            (None,), "nothing is stored: send the items of the conversation so far, answers too, as input"
        ),
        "prompt": Unserved((None,), "send what it says as instructions and input"),
        "reasoning_effort": Unserved((None,), "use reasoning.effort"),
        "response_format": Unserved((None,), "use text.format"),
        "service_tier": Unserved((None, "auto", "default")),
        "store": Unserved((None, False), "nothing is stored: keep the answer, and send it again as input"),
        "truncation": Unserved((None, "disabled"), "send a shorter input"),
    }

    prompt_field: ClassVar[str] = "input"
    max_tokens_field: ClassVar[str] = "max_output_tokens"
    wire_names: ClassVar[Mapping[str | None, str]] = {
        **TokensBody.wire_names,
        "reasoning_effort": "reasoning.effort",
    }

    input: StrictStr | list[Any] = Field(
        description=f"A user's text, or 1 to {MAX_MESSAGES} items: messages of the roles user, assistant, "
        "system and developer with texts, function_call, function_call_output and reasoning; a user's "
        f"message and an output may have images as well, up to {MAX_IMAGES} as data: URLs, where the model "
        "reads images; an assistant's message at the end is continued"
    )
    instructions: StrictStr | None = Field(None, description="The system's message, before the input")
    max_output_tokens: int | None = Field(
        None,
        ge=1,
        le=MAX_TOKENS,
        description="Most tokens of the answer, thoughts too; default: to the end of the context",
    )
    text: TextConfig | None = Field(
        None,
        description="`format`: `text`, `json_object` or `json_schema`, which is enforced, `strict` or not; "
        "`verbosity`: only `medium`, the default",
    )
    reasoning: Reasoning | None = Field(
        None,
        description="`effort`: how hard to think, as `reasoning_effort` of a chat; the thought is told as it "
        "is, before the answer, in an item of the type reasoning that has no summary",
    )
    include: Annotated[list[Includable], Field(fail_fast=True)] | None = Field(
        None,
        description=f"`{LOGPROBS}`: tell how likely each token of a text was; others that OpenAI has change "
        "nothing: what a model thought is told as it is",
    )
    top_logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="And so many of the likeliest in its place: the model's own, before biases, penalties, "
        "constraints and temperature; above 0 it needs no `include`",
    )
    stream_options: ResponseStreamOptions | None = Field(
        None, description="`include_obfuscation`: only false, the default; only with `stream`"
    )
    chat_template_kwargs: dict[StrictStr, Any] | None = Field(
        None, description="Variables of the model's chat template, as `enable_thinking`; not OpenAI's"
    )
    max_tool_calls: int | None = Field(
        None, ge=1, description="Of tools that the server runs: there are none"
    )
    metadata: dict[str, str] | None = Field(
        None, max_length=MAX_METADATA, description="Notes of the client's, told with the answer"
    )
    prompt_cache_key: str | None = Field(
        None, max_length=1_024, description="What is reused is found without"
    )
    prompt_cache_options: PromptCacheOptions | None = Field(
        None, description="As `prompt_cache_key`; `prewarm`: only false"
    )
    prompt_cache_retention: str | None = Field(None, max_length=1_024, description="As `prompt_cache_key`")
    safety_identifier: str | None = Field(None, max_length=1_024, description="Who asks")

    _tool_use: ToolUse | None = PrivateAttr(None)

    @property
    def has_tools(self) -> bool:
        """Whether the answer may be calls; known once `request` was called."""
        return self._tool_use is not None

    @property
    def num_logprobs(self) -> int | None:
        """How many of the likeliest tokens are told beside each; None: of no token anything."""
        if self.top_logprobs:
            return self.top_logprobs
        return 0 if LOGPROBS in (self.include or []) else None

    @property
    def shown_format(self) -> dict[str, Any]:
        """The text's format, as an answer tells it."""
        form = self.text.format if self.text is not None else None
        if not isinstance(form, FlatSchemaFormat):
            return {"type": "text" if form is None else form.type}
        told = {"name": form.name, "description": form.description, "schema": form.schema_}
        return {"type": form.type, **told, "strict": True}

    def check_fields(self, *, lenient: bool) -> None:
        """As OpenAIBody has it; and `stream_options` are a stream's."""
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("stream_options needs stream to be true", param="stream_options")
        super().check_fields(lenient=lenient)

    def constraints(self) -> list[PossibleConstraint]:
        """As ConstrainedBody has them, the text's format first."""
        form = self.text.format if self.text is not None else None
        return [
            ("text.format", schema_constraint, form.schema_ if isinstance(form, FlatSchemaFormat) else None),
            ("text.format", schema_constraint, ANY_OBJECT if isinstance(form, JsonObjectFormat) else None),
            *super().constraints(),
        ]

    def constraint(self) -> tuple[str, Constraint] | None:
        """As ConstrainedBody has it, and the calls of tools are one too."""
        return with_calls(super().constraint(), self._tool_use)

    def request(self, *, lenient: bool) -> Request:
        """What is asked of the model.

        Raises:
            InvalidRequest: its `param` is the place.
        """
        check_depth("input", self.input)
        check_depth("chat_template_kwargs", self.chat_template_kwargs)
        is_parallel = self.parallel_tool_calls is not False
        self._tool_use = chosen_tools(
            self.tools or [], self.tool_choice, is_parallel=is_parallel, lenient=lenient
        )
        history = History(self.input, self.instructions, lenient=lenient)
        conversation = Conversation(
            messages=history.messages,
            tools=[] if self._tool_use is None else self._tool_use.told,
            template_values=self.chat_template_kwargs or {},
            reasoning_effort=None if self.reasoning is None else self.reasoning.effort,
        )
        sampling = replace(self.sampling(self.max_output_tokens), logprobs=self.num_logprobs)
        return Request(prompt=conversation, sampling=sampling, group=self.group, images=tuple(history.images))
