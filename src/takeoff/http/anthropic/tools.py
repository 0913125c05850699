"""The tools of Anthropic's API: checked, and handed on in the shape of OpenAI's, with what may be called."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Sequence
from typing import Any

from takeoff.errors import InvalidRequest
from takeoff.http.openai.fields import Unserved
from takeoff.http.openai.objects import ObjectFields, checked_bool, checked_name, checked_text, wrong
from takeoff.http.openai.tools import ToolUse, tool_use

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
TOOL_FIELDS = ObjectFields(
    ("type", "name", "description", "input_schema"),
    {"cache_control": dict, "eager_input_streaming": bool, "strict": bool},  # schemas are always enforced
    {
        "allowed_callers": Unserved((None, ["direct"])),
        "defer_loading": Unserved((None, False)),
        "input_examples": Unserved((None, []), "tell them in the description"),
    },
)
_PARALLEL = ObjectFields(("type", "disable_parallel_tool_use"))
CHOICES = {
    "auto": _PARALLEL,
    "any": _PARALLEL,
    "tool": ObjectFields(("type", "name", "disable_parallel_tool_use")),
    "none": ObjectFields(("type",)),
}
_OPENAI_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def chosen_tools(tools: Sequence[Any], choice: Any, *, lenient: bool) -> ToolUse | None:
    """What `tools` and `tool_choice` mean; None: nothing is called, and nothing is told of it.

    Raises:
        InvalidRequest: `param` is the place.
    """
    told = [_tool(tool, f"tools[{i}]", lenient=lenient) for i, tool in enumerate(tools)]
    wanted: Any = "auto"
    is_parallel = True
    if choice is not None:
        kind = choice.get("type") if isinstance(choice, dict) else None
        if not isinstance(kind, str) or kind not in CHOICES:
            raise wrong("tool_choice", f"an object of the type {', '.join(CHOICES)}", choice)
        CHOICES[kind].check(choice, "tool_choice", lenient=lenient)
        disabled = choice.get("disable_parallel_tool_use")
        is_parallel = not checked_bool(disabled, "tool_choice.disable_parallel_tool_use")
        if kind == "tool":
            name = checked_name(choice.get("name"), "tool_choice.name")
            wanted = {"type": "function", "function": {"name": name}}
        else:
            wanted = _OPENAI_CHOICES[kind]
    return tool_use(told, wanted, is_parallel=is_parallel, lenient=lenient)


def _tool(tool: Any, at: str, *, lenient: bool) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise wrong(at, "an object", tool)
    kind = tool.get("type")
    if kind not in (None, "custom"):
        message = f"{at}: only tools of the type custom are served, not {reprlib.repr(kind)}"
        raise InvalidRequest(message, param=f"{at}.type", hint="describe it by name and input_schema")
    TOOL_FIELDS.check(tool, at, lenient=lenient)
    name, schema, description = tool.get("name"), tool.get("input_schema"), tool.get("description")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise wrong(f"{at}.name", "1 to 64 of a-z, A-Z, 0-9, _ and -", name)
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        raise wrong(f"{at}.input_schema", "the schema of an object", schema)
    function = {"name": name, "parameters": schema}
    if description is not None:
        function["description"] = checked_text(description, f"{at}.description")
    return {"type": "function", "function": function}
