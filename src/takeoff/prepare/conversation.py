"""A conversation as OpenAI's API has it, brought into the shape that chat templates are written for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from takeoff.call_formats import CallFormat, call_format_of
from takeoff.prepare.tool_prompt import told_in_text
from takeoff.request import MAX_DEPTH, Conversation, is_nested_deeper

# What every template is given, and no client may set.
RESERVED_VALUES = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token"}
)


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
