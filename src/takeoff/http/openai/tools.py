"""The tools that a chat may call: checked, and which of them the answer may, must or can't call."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field

from takeoff.errors import InvalidRequest
from takeoff.http.openai.fields import check_depth, refuse_unknown
from takeoff.request import Constraint, ConstraintKind

MAX_TOOLS = 128
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}
_FUNCTION_FIELDS = ("name", "description", "parameters", "strict")  # of the last: schemas always are


class ToolFields(BaseModel):
    """What chats and responses say of tools; see `tool_use`."""

    tools: list[Any] | None = Field(
        None, description=f"Functions that the model may call, up to {MAX_TOOLS}; their schemas are enforced"
    )
    tool_choice: Any = Field(
        None,
        description="`none`, `auto`, `required`, one function or `allowed_tools`; of `none` no tool is told",
    )
    parallel_tool_calls: bool | None = Field(
        True, description="Whether an answer may call several times, where the model's format can"
    )


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What the model is told, and what it may call."""

    told: list[dict[str, Any]]  # as the template wants them
    callable_names: frozenset[str]
    is_required: bool
    is_parallel: bool

    def constraint(self, response: str | None = None) -> Constraint:
        """Of an answer that calls them, or may; if not it is JSON of the schema `response`, which is JSON."""
        functions = [
            tool["function"] for tool in self.told if tool["function"]["name"] in self.callable_names
        ]
        source: dict[str, Any] = {
            "tools": [
                {"name": each["name"], "parameters": each.get("parameters", _NO_PARAMETERS)}
                for each in functions
            ],
            "is_required": self.is_required,
            "is_parallel": self.is_parallel,
        }
        if response is not None and not self.is_required:
            source["response"] = response
        return Constraint(ConstraintKind.TOOLS, json.dumps(source))


def tool_use(tools: Sequence[Any], choice: Any, *, is_parallel: bool, lenient: bool) -> ToolUse | None:
    """What `tools` and `tool_choice` mean; None: nothing is called, and nothing is told of it.

    Raises:
        InvalidRequest: `param` is the place.
    """
    check_number(tools)
    check_depth("tools", tools)
    told = [_tool(tool, f"tools[{i}]", lenient=lenient) for i, tool in enumerate(tools)]
    names = [tool["function"]["name"] for tool in told]
    for name in names:
        if names.count(name) > 1:
            raise InvalidRequest(f"tools has two functions {name!r}", param="tools")
    everything = frozenset(names)
    match choice:
        case None | "auto":
            use = ToolUse(told, everything, is_required=False, is_parallel=is_parallel)
        case "none":
            return None
        case "required":
            use = ToolUse(told, everything, is_required=True, is_parallel=is_parallel)
        case {"type": "function", "function": {"name": str(name)}}:
            use = ToolUse(told, frozenset({name}), is_required=True, is_parallel=False)
        case {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "auto" | "required" as mode, "tools": allowed},
        }:
            use = ToolUse(told, _named(allowed), is_required=mode == "required", is_parallel=is_parallel)
        case _:
            wanted = "none, auto, required, a function's name or allowed_tools"
            raise InvalidRequest(
                f"tool_choice must be {wanted}, got {reprlib.repr(choice)}", param="tool_choice"
            )
    unknown = use.callable_names - everything
    if unknown:
        message = f"tool_choice names {min(unknown)!r}, and tools has {', '.join(names) or 'none'}"
        raise InvalidRequest(message, param="tool_choice")
    if use.is_required and not use.callable_names:
        raise InvalidRequest("tool_choice wants a call, and there are no tools", param="tool_choice")
    return use if use.callable_names else None


def check_number(tools: Sequence[Any]) -> None:
    """Raise InvalidRequest for more tools than are taken."""
    if len(tools) > MAX_TOOLS:
        raise InvalidRequest(f"at most {MAX_TOOLS} tools, got {len(tools)}", param="tools")


def with_calls(
    constraint: tuple[str, Constraint] | None, use: ToolUse | None
) -> tuple[str, Constraint] | None:
    """A body's constraint, with the field it is from, where the calls of `use` are one too.

    In the place of calls JSON may stand, if the constraint is a schema.

    Raises:
        InvalidRequest: it is another.
    """
    if use is None:
        return constraint
    if constraint is None:
        return "tools", use.constraint()
    name, of_text = constraint
    if of_text.kind is not ConstraintKind.JSON_SCHEMA:
        message = f"{name} and tools are both given, and one of them constrains the answer"
        raise InvalidRequest(message, param=name, hint='send tool_choice "none"')
    return "tools", use.constraint(of_text.source)


def _tool(tool: Any, at: str, *, lenient: bool) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or tool.get("type") != "function":
        message = f"{at} must be a tool of the type function, got {reprlib.repr(tool)}"
        raise InvalidRequest(message, param=at)
    refuse_unknown(tool.keys() - {"type", "function"}, ["type", "function"], lenient=lenient, inside=at)
    return function_tool(function, f"{at}.function", lenient=lenient)


def function_tool(function: Mapping[str, Any], at: str, *, lenient: bool) -> dict[str, Any]:
    """The tool that the function at `at` is, as templates want it.

    Raises:
        InvalidRequest: `param` is the place.
    """
    refuse_unknown(function.keys() - set(_FUNCTION_FIELDS), _FUNCTION_FIELDS, lenient=lenient, inside=at)
    name, description, parameters = (function.get(field) for field in _FUNCTION_FIELDS[:3])
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        message = f"{at}.name must be 1 to 64 of a-z, A-Z, 0-9, _ and -, got {reprlib.repr(name)}"
        raise InvalidRequest(message, param=f"{at}.name")
    result: dict[str, Any] = {"name": name}
    if description is not None:
        if not isinstance(description, str):
            raise InvalidRequest(f"{at}.description must be a text", param=f"{at}.description")
        result["description"] = description
    if parameters is not None:
        if not isinstance(parameters, dict) or parameters.get("type", "object") != "object":
            message = f"{at}.parameters must be the schema of an object, got {reprlib.repr(parameters)}"
            raise InvalidRequest(message, param=f"{at}.parameters")
        result["parameters"] = {"type": "object", **parameters}
    return {"type": "function", "function": result}


def _named(tools: Any) -> frozenset[str]:
    """The names in a list of references to functions."""
    names = []
    for tool in tools if isinstance(tools, list) else [tools]:
        match tool:
            case {"type": "function", "function": {"name": str(name)}}:
                names.append(name)
            case _:
                message = f"tool_choice must name functions, got {reprlib.repr(tool)}"
                raise InvalidRequest(message, param="tool_choice")
    return frozenset(names)
