"""Tools for a model whose chat template knows none: told in the system's message, and called in JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from takeoff.call_formats import SYNTAX, CallFormat

_INTRODUCTION = """\
You can call functions. These are the functions, one a line, with the JSON Schema of their parameters:
{tools}
To call one, answer with nothing but a line of JSON: {{"name": <its name>, "arguments": <its arguments>}}"""


def told_in_text(messages: list[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The conversation without tools, calls and results: they stand in its texts.

    A result is a user's text, joined with what the user says next, because roles may have to alternate.
    """
    told: list[dict[str, Any]] = []
    for message in messages:
        message = dict(message)
        calls = message.pop("tool_calls", [])
        lines = [*([message["content"]] if message["content"] else []), *map(_call, calls)]
        message["content"] = "\n".join(lines)
        if message["role"] == "tool":
            message.pop("tool_call_id", None)
            message |= {"role": "user", "content": f"Result: {message['content']}"}
        if told and message["role"] == told[-1]["role"] == "user":
            message["content"] = f"{told.pop()['content']}\n{message['content']}"
        told.append(message)
    if not tools:
        return told
    lines = [json.dumps(tool["function"], ensure_ascii=False) for tool in tools]
    system = _INTRODUCTION.format(tools="\n".join(lines))
    if told[0]["role"] == "system":
        first = told.pop(0)
        system = f"{first['content']}\n\n{system}"
    return [{"role": "system", "content": system}, *told]


def _call(call: dict[str, Any]) -> str:
    syntax = SYNTAX[CallFormat.JSON]
    function = call["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return f"{syntax.opening}{function['name']}{syntax.middle}{arguments}{syntax.closing}"
