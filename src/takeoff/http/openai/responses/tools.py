"""The tools of a response: their functions lie flat, and are handed on as a chat has them."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any

from takeoff.errors import InvalidRequest
from takeoff.http.openai.fields import Unserved
from takeoff.http.openai.objects import ObjectFields, wrong
from takeoff.http.openai.tools import ToolUse, check_number, function_tool, tool_use

_FUNCTION = ("name", "description", "parameters", "strict")
TOOL_FIELDS = ObjectFields(
    ("type", *_FUNCTION),
    unserved={
        "allowed_callers": Unserved((None, ["direct"])),
        "async": Unserved((None, False)),
        "defer_loading": Unserved((None, False)),
        "output_schema": Unserved((None,), "tell it in the description"),
    },
)
_REFERENCE = ObjectFields(("type", "name"))
_ALLOWED = ObjectFields(("type", "mode", "tools"))


def chosen_tools(tools: Sequence[Any], choice: Any, *, is_parallel: bool, lenient: bool) -> ToolUse | None:
    """What `tools` and `tool_choice` mean; None: nothing is called, and nothing is told of it.

    Raises:
        InvalidRequest: `param` is the place.
    """
    check_number(tools)
    functions = [_tool(tool, f"tools[{i}]", lenient=lenient) for i, tool in enumerate(tools)]
    wanted = _choice(choice, lenient=lenient)
    return tool_use(functions, wanted, is_parallel=is_parallel, lenient=lenient)


def shown_tools(tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tools that `chosen_tools` took, as an answer tells them. Their schemas are always enforced."""
    return [{**{name: tool.get(name) for name in ("type", *_FUNCTION)}, "strict": True} for tool in tools]


def _tool(tool: Any, at: str, *, lenient: bool) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise wrong(at, "an object", tool)
    kind = tool.get("type")
    if kind != "function":
        message = f"{at}: only tools of the type function are served, not {reprlib.repr(kind)}"
        hint = "this server runs no tools: describe it as a function, and run that yourself"
        raise InvalidRequest(message, param=f"{at}.type", hint=hint)
    TOOL_FIELDS.check(tool, at, lenient=lenient)
    return function_tool({name: tool[name] for name in _FUNCTION if name in tool}, at, lenient=lenient)


def _choice(choice: Any, *, lenient: bool) -> Any:
    """As a chat has it; what is no choice at all is left for it to refuse."""
    match choice:
        case {"type": "function", "name": _}:
            return _reference(choice, "tool_choice", lenient=lenient)
        case {"type": "allowed_tools", "mode": mode, "tools": list(tools)}:
            _ALLOWED.check(choice, "tool_choice", lenient=lenient)
            references = [
                _reference(each, f"tool_choice.tools[{i}]", lenient=lenient) for i, each in enumerate(tools)
            ]
            return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": references}}
    return choice


def _reference(tool: Any, at: str, *, lenient: bool) -> Any:
    if not isinstance(tool, dict):
        raise wrong(at, "an object", tool)
    _REFERENCE.check(tool, at, lenient=lenient)
    return {"type": tool.get("type"), "function": {"name": tool.get("name")}}
