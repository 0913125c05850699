"""The grammar of an answer that is either calls of tools, or JSON that obeys a schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from takeoff.call_formats import MAX_ANSWER_CALLS, CallSyntax
from takeoff.prepare.tool_grammar import WrittenSchema


def calls_or_json(
    tools: list[dict[str, Any]],
    response: Any,
    syntax: CallSyntax,
    *,
    control_id: int | None,
    is_parallel: bool,
    written: WrittenSchema,
) -> str:
    """Lark, in llguidance's dialect. `response` and the tools' parameters are schemas that can be enforced.

    Raises:
        ValueError: some JSON of `response` would be taken for a call.
    """
    if not syntax.mark and _may_be_call(response, response, syntax, frozenset()):
        what = "a list" if syntax.begin else f"an object with the property {_key(syntax)!r}"
        raise ValueError(
            f"{what} can't be told from a call in this model's format: let the response's schema allow none, "
            "with additionalProperties false for example"
        )
    # A call is JSON as well where nothing marks it: two readings of one text must have the same tokens.
    bodies = " | ".join(f"%json {written(_call(tool, syntax))}" for tool in tools)
    before, after = syntax.begin, syntax.end
    between = syntax.between or ""
    if syntax.mark:
        before, after = syntax.mark + "\n", syntax.closing.removeprefix("}")
        between = after + between + before
    max_more = MAX_ANSWER_CALLS - 1 if is_parallel and syntax.between is not None else 0
    more = f"({json.dumps(between)} call){{0,{max_more}}}" if max_more else ""
    calls = " ".join(filter(None, [_literal(before), "call", more, _literal(after)]))
    marked = "" if control_id is None else f"<[{control_id}]> calls | "
    rules = [f"start: {marked}calls | response", f"calls: {calls}", f"call: {bodies}"]
    return "\n".join(["%llguidance {}", *rules, f"response: %json {written(response)}"])


def _literal(text: str) -> str:
    return json.dumps(text) if text else ""


def _key(syntax: CallSyntax) -> str:
    """The name that arguments have in a call."""
    return syntax.middle.split('"')[2]


def _call(tool: dict[str, Any], syntax: CallSyntax) -> dict[str, Any]:
    """The schema of a call of `tool`, as an object."""
    parameters = dict(tool["parameters"])
    definitions = parameters.pop("$defs", None)
    key = _key(syntax)
    call = {
        "type": "object",
        "properties": {"name": {"const": tool["name"]}, key: parameters},
        "required": ["name", key],
        "additionalProperties": False,
    }
    return call if definitions is None else {**call, "$defs": definitions}


def _may_be_call(schema: Any, document: Any, syntax: CallSyntax, seen: frozenset[str]) -> bool:
    """Whether something that `schema`, a part of `document`, allows may look like a call."""
    if not isinstance(schema, dict):
        return schema is not False
    return all(_ways_to_be_call(schema, document, syntax, seen))


def _ways_to_be_call(
    schema: dict[str, Any], document: Any, syntax: CallSyntax, seen: frozenset[str]
) -> Iterator[bool]:
    """For each keyword that speaks of it, whether that leaves a call possible."""
    kind = "array" if syntax.begin else "object"
    for name, value in schema.items():
        match name:
            case "type":
                yield kind in ([value] if isinstance(value, str) else value)
            case "const":
                yield _is_like_call(value, syntax)
            case "enum":
                yield any(_is_like_call(each, syntax) for each in value)
            case "anyOf" | "oneOf":
                yield any(_may_be_call(each, document, syntax, seen) for each in value)
            case "allOf":
                yield all(_may_be_call(each, document, syntax, seen) for each in value)
            case "$ref" if value not in seen:
                target = document["$defs"][value.rpartition("/")[2]]
                yield _may_be_call(target, document, syntax, seen | {value})
            case "additionalProperties" if value is False and not schema.get("patternProperties"):
                yield bool(syntax.begin) or _key(syntax) in schema.get("properties", {})


def _is_like_call(value: Any, syntax: CallSyntax) -> bool:
    if syntax.begin:
        return isinstance(value, list)
    return isinstance(value, dict) and _key(syntax) in value
