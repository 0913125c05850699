"""The bodies of /v1/messages and /v1/messages/count_tokens, of which every field is accounted for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, StrictStr

from takeoff.errors import InvalidRequest
from takeoff.http.anthropic.answers import Asked
from takeoff.http.anthropic.messages import Reading, checked_messages
from takeoff.http.anthropic.thinking import Effort, Thinking, effort_of, shows_thought
from takeoff.http.anthropic.tools import chosen_tools
from takeoff.http.bodies import Texts
from takeoff.http.openai.fields import Inner, OpenAIBody, Unserved, check_depth, told_as
from takeoff.http.openai.images import MAX_IMAGES
from takeoff.http.openai.messages import MAX_MESSAGES
from takeoff.http.openai.sampling import MAX_METADATA, MAX_MODEL_CHARACTERS
from takeoff.http.openai.tools import MAX_TOOLS, ToolUse
from takeoff.request import (
    MAX_STOP_STRINGS,
    MAX_TOKENS,
    MAX_TOP_K,
    Constraint,
    ConstraintKind,
    Conversation,
    Request,
    SamplingParams,
)
from takeoff.settings.values import DEFAULT_GROUP

# Fields whose value can't change the answer: taken, checked for their type, and not looked at.
HARMLESS = frozenset({"cache_control", "metadata"})

_KEEPS_ALL = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}


class JsonSchemaFormat(Inner):
    """`format` of an output_config."""

    type: Literal["json_schema"] = Field(description="`json_schema`")
    schema_: dict[str, Any] = Field(alias="schema", description="JSON Schema that the answer obeys")


class OutputConfig(Inner):
    """What the answer is to be."""

    unserved: ClassVar[Mapping[str, Unserved]] = {"task_budget": Unserved()}

    format: JsonSchemaFormat | None = Field(None, description="What the answer is, unless it calls tools")
    effort: Effort | None = Field(
        None,
        description="How hard to think, where the model's template has degrees, or `high`, the default",
    )


class PromptBody(OpenAIBody):
    """What both have: all that the prompt is made of."""

    unserved: ClassVar[Mapping[str, Unserved]] = {
        "billing_policy": Unserved(),
        "compaction": Unserved(),
        "context_management": Unserved((None, {}, {"edits": []}, _KEEPS_ALL)),
        "mcp_servers": Unserved((None, [])),
        "speed": Unserved((None, "standard")),
    }

    model: StrictStr | None = Field(
        None,
        max_length=MAX_MODEL_CHARACTERS,
        description="A model, a reader or a group; default: the group `primary`",
    )
    messages: list[Any] = Field(
        description=f"1 to {MAX_MESSAGES} messages of the roles user, assistant and system, their content a "
        f"text or blocks, up to {MAX_IMAGES} of them images, where the model reads images; those of one role "
        "that follow each other are one, and an assistant's at the end is continued"
    )
    system: Any = Field(None, description="What the model is told first: a text, or blocks of the type text")
    tools: list[Any] | None = Field(
        None, description=f"Tools that the model may call, up to {MAX_TOOLS}; their schemas are enforced"
    )
    tool_choice: Any = Field(
        None,
        description="Of the type `auto`, `any`, `tool` or `none`, with `disable_parallel_tool_use`; of "
        "`none` no tool is told",
    )
    thinking: Thinking | None = Field(
        None,
        description="Whether a model that can think does, before it answers or calls; what constrains the "
        "answer holds behind the thought",
    )
    output_config: OutputConfig | None = Field(None, description="What the answer is, and how hard to try")
    output_format: JsonSchemaFormat | None = Field(
        None, description="The older name of `format` in `output_config`"
    )
    cache_control: dict[str, Any] | None = Field(None, description="What is reused is found without")

    _tool_use: ToolUse | None = PrivateAttr(None)

    @property
    def group(self) -> str:
        return self.model or DEFAULT_GROUP

    def prompt_request(self, *, lenient: bool) -> Request:
        """A request that says all of the prompt, and nothing of the answer.

        Raises:
            InvalidRequest: `param` is the place of what is wrong.
        """
        check_depth("system", self.system)
        check_depth("messages", self.messages)
        check_depth("tools", self.tools)
        reasoning_effort, values = effort_of(
            self.thinking, self.output_config.effort if self.output_config else None
        )
        self._tool_use = chosen_tools(self.tools or [], self.tool_choice, lenient=lenient)
        reading = Reading(lenient)
        conversation = Conversation(
            messages=checked_messages(self.messages, self.system, reading),
            tools=[] if self._tool_use is None else self._tool_use.told,
            template_values=values,
            reasoning_effort=reasoning_effort,
        )
        return Request(
            prompt=conversation,
            sampling=SamplingParams(),
            group=self.group,
            images=tuple(reading.images),
        )

    def constraint(self) -> Constraint | None:
        """What the answer must match: a schema, or calls of tools, or either. Asked once there is a prompt.

        Raises:
            InvalidRequest: several things say so, or a schema is nested too deeply to be written down.
        """
        formats = {
            "output_config.format": self.output_config.format if self.output_config else None,
            "output_format": self.output_format,
        }
        given = {name: each for name, each in formats.items() if each is not None}
        if len(given) > 1:
            raise InvalidRequest(f"{' and '.join(given)} are both given", param="output_format")
        schema = None
        for name, each in given.items():
            try:
                schema = json.dumps(each.schema_)
            except RecursionError as exc:
                raise InvalidRequest(f"{name} is nested too deeply", param=name) from exc
        if self._tool_use is not None:
            return self._tool_use.constraint(schema)
        return None if schema is None else Constraint(ConstraintKind.JSON_SCHEMA, schema)

    def in_its_names(self) -> AbstractContextManager[None]:
        """A refusal from here on names fields of this body."""
        has_effort = self.output_config is not None and self.output_config.effort is not None
        return told_as(
            {
                None: "messages",
                "reasoning_effort": "output_config.effort" if has_effort else "thinking",
                "group": "model",
                "image_data": "messages",
                "stop": "stop_sequences",
                ConstraintKind.JSON_SCHEMA.value: (
                    "output_config.format" if self.output_format is None else "output_format"
                ),
            }
        )


class CountTokensBody(PromptBody):
    """POST /v1/messages/count_tokens."""


class MessagesBody(PromptBody):
    """POST /v1/messages."""

    unserved: ClassVar[Mapping[str, Unserved]] = {
        **PromptBody.unserved,
        "container": Unserved(),
        "diagnostics": Unserved(),
        "fallback_credit_token": Unserved(),
        "fallbacks": Unserved((None, [])),
        "inference_geo": Unserved(),
        "service_tier": Unserved((None, "auto", "standard_only")),
        "thread": Unserved(),
    }

    max_tokens: int = Field(ge=1, le=MAX_TOKENS, description="Most tokens of the answer; must be there")
    stop_sequences: Annotated[Texts, Field(max_length=MAX_STOP_STRINGS)] | None = Field(
        None, description=f"Up to {MAX_STOP_STRINGS} texts that end the answer and are no part of it"
    )
    temperature: float | None = Field(1.0, ge=0, le=1, description="0 is greedy; default 1")
    top_p: float | None = Field(1.0, ge=0, le=1, description="Nucleus; default 1, which is no restriction")
    top_k: int | None = Field(0, ge=0, le=MAX_TOP_K, description="Keep the k likeliest; 0 keeps all")
    stream: bool | None = Field(False, description="Send the answer in events as it is made")
    metadata: dict[StrictStr, str | None] | None = Field(
        None, max_length=MAX_METADATA, description="Who asks"
    )

    @property
    def asked(self) -> Asked:
        """What the answer depends on beside the model; known once there is a request."""
        return Asked(
            has_tools=self._tool_use is not None,
            max_tokens=self.max_tokens,
            shows_thoughts=shows_thought(self.thinking),
        )

    def request(self, *, lenient: bool) -> Request:
        """The request, whole.

        Raises:
            InvalidRequest: `param` is the place of what is wrong.
        """
        request = self.prompt_request(lenient=lenient)
        with self.in_its_names():
            sampling = SamplingParams(
                temperature=1.0 if self.temperature is None else self.temperature,
                top_p=1.0 if self.top_p is None else self.top_p,
                top_k=self.top_k or 0,
                max_new_tokens=self.max_tokens,
                stop=tuple(self.stop_sequences or ()),
                constraint=self.constraint(),
            )
        return replace(request, sampling=sampling)
