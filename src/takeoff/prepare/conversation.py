"""A conversation as OpenAI's API has it, brought into the shape that chat templates are written for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Set
from dataclasses import replace
from typing import Any

from takeoff.call_formats import CallFormat, call_format_of
from takeoff.errors import InvalidRequest
from takeoff.prepare.tool_prompt import told_in_text
from takeoff.request import MAX_DEPTH, Conversation, is_nested_deeper

# What every template is given, and no client may set.
RESERVED_VALUES = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token"}
)

_SWITCHES = ("enable_thinking", "thinking")  # variables with which templates turn thinking on and off
_EFFORT = "reasoning_effort"
DEFAULT_EFFORT = "medium"


def effort_values(effort: str | None, known: Set[str], *, can_think: bool) -> dict[str, Any]:
    """The variables that tell a template, which looks at those in `known`, how hard to think.

    Raises:
        InvalidRequest: it knows no way to.
    """
    if effort is None:
        return {}
    values: dict[str, Any] = {_EFFORT: effort} if _EFFORT in known else {}
    values |= dict.fromkeys((each for each in _SWITCHES if each in known), effort != "none")
    if _EFFORT in known or (values and effort in ("none", DEFAULT_EFFORT)):
        return values
    if values:
        raise _unable(effort, f"its model thinks or does not: send none or {DEFAULT_EFFORT}")
    if effort != (DEFAULT_EFFORT if can_think else "none"):
        raise _unable(effort, "its model always thinks" if can_think else "its model does not think")
    return {}


def _unable(effort: str, why: str) -> InvalidRequest:
    message = f"the model's chat template has no reasoning_effort {effort!r}, {why}"
    return InvalidRequest(message, param="reasoning_effort")


def with_effort(values: Mapping[str, Any], effort: Mapping[str, Any]) -> dict[str, Any]:
    """A client's own variables, and those of the effort that it asks for.

    Raises:
        InvalidRequest: they contradict each other.
    """
    for name in sorted(values.keys() & effort.keys()):
        if values[name] != effort[name]:
            raise InvalidRequest(
                f"chat_template_kwargs.{name} is {values[name]!r}, "
                f"and the reasoning_effort makes it {effort[name]!r}",
                param="reasoning_effort",
                hint="give one of them",
            )
    return {**values, **effort}


def num_images(conversation: Conversation) -> int:
    """Parts of the type image in it."""
    return sum(part["type"] == "image" for message in conversation.messages for part in _parts(message))


def with_images_marked(conversation: Conversation, marks: Iterable[str]) -> Conversation:
    """The conversation with a text, the next of `marks`, in place of each image."""
    following = iter(marks)

    def marked(message: dict[str, Any]) -> dict[str, Any]:
        parts = [
            {"type": "text", "text": next(following)} if part["type"] == "image" else part
            for part in _parts(message)
        ]
        return {**message, "content": parts} if parts else message

    return replace(conversation, messages=list(map(marked, conversation.messages)))


def _parts(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of a message whose content is no text."""
    content = message.get("content")
    return content if isinstance(content, list) else []


def told(conversation: Conversation, template: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The messages and the tools that a template is given."""
    messages = shaped(conversation.messages, template)
    has_calls = conversation.tools or any({"tool_calls", "tool_call_id"} & each.keys() for each in messages)
    if has_calls and call_format_of(template) is CallFormat.JSON:
        return told_in_text(messages, conversation.tools), []
    return messages, conversation.tools


def shaped(messages: Iterable[Mapping[str, Any]], template: str) -> list[dict[str, Any]]:
    """Messages whose content is one text, and whose calls have objects as arguments.

    A developer's message is the system's where the template knows no developer. The text parts of a
    content are lines of it.
    """
    knows_developer = "developer" in template
    return [_shaped(message, knows_developer=knows_developer) for message in messages]


def _shaped(message: Mapping[str, Any], *, knows_developer: bool) -> dict[str, Any]:
    result = {name: value for name, value in message.items() if value is not None}
    if result["role"] == "developer" and not knows_developer:
        result["role"] = "system"
    content = result.get("content", "")  # templates write what is there, so also the word None
    result["content"] = content if isinstance(content, str) else "\n".join(part["text"] for part in content)
    if "tool_calls" in result:
        result["tool_calls"] = [_shaped_call(call) for call in result["tool_calls"]]
    return result


def _shaped_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = {**call["function"], "arguments": arguments_of(call["function"].get("arguments", ""))}
    return {**call, "type": "function", "function": function}


def arguments_of(text: str) -> dict[str, Any]:
    """The object that a call's arguments are, as templates want it.

    What a model once wrote may be no object, and the conversation has to go on: it stands in one then.
    """
    try:
        value = json.loads(text) if text.strip() else None
    except (ValueError, RecursionError):
        value = text
    if is_nested_deeper(value, MAX_DEPTH):
        value = text
    if value is None:
        return {}
    return value if isinstance(value, dict) else {"arguments": value}
