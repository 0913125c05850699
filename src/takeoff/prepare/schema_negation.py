"""What does not match a schema, as a schema: for `not`, for `if` and for what an array contains at most.

What is made takes none of the values that the schema takes, and may leave others out too: a part of the
complement that no grammar has, such as texts without a pattern, is left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

Schema = dict[str, Any]
Resolve = Callable[[str], Any]  # the schema that a `$ref` means

_MAX_DEPTH = 8  # of references and schemas in one another
_MAX_CHARACTERS = 500  # of texts that are to be left out, together

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
_SILENT = frozenset(
    {"title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly"}
    | {"$comment", "$defs", "definitions", "then", "else"}
)
_LEFT_OUT = frozenset(  # of these no complement is made
    {"pattern", "format", "multipleOf", "items", "prefixItems", "additionalItems", "additionalProperties"}
    | {"patternProperties", "propertyNames", "uniqueItems", "contains", "minContains", "maxContains"}
    | {"maxProperties", "oneOf", "if", "dependentRequired", "dependentSchemas", "unevaluatedProperties"}
)
_BOUNDS = {  # and the bound of what is beyond
    "minimum": ("number", "exclusiveMaximum"),
    "maximum": ("number", "exclusiveMinimum"),
    "exclusiveMinimum": ("number", "maximum"),
    "exclusiveMaximum": ("number", "minimum"),
}
_COUNTS = {  # and the count that is one less or more
    "minLength": ("string", "maxLength", -1),
    "maxLength": ("string", "minLength", 1),
    "minItems": ("array", "maxItems", -1),
    "maxItems": ("array", "minItems", 1),
    "minProperties": ("object", "maxProperties", -1),
}


def negated(schema: Any, resolve: Resolve, depth: int = 0) -> Schema | bool | None:
    """A schema whose values `schema` does not take; None: none could be made.

    Raises:
        ValueError: a keyword is unknown, or its value is of a wrong kind.
    """
    if isinstance(schema, bool):
        return not schema
    if not isinstance(schema, dict):
        raise ValueError(f"a schema is an object, got {json.dumps(schema)[:100]}")
    if depth > _MAX_DEPTH:
        return None
    alternatives: dict[str, Any] = {}
    says_something = False
    for name, value in schema.items():
        if name in _SILENT or name.startswith("x-"):
            continue
        says_something = True
        for each in _without(name, value, resolve, depth):
            if each is True:
                return True
            if each is not False and each is not None:
                alternatives.setdefault(json.dumps(each, sort_keys=True), each)
    if not alternatives:
        return None if says_something else False
    return {"anyOf": list(alternatives.values())}


def _without(name: str, value: Any, resolve: Resolve, depth: int) -> Iterable[Schema | bool | None]:
    """Schemas of values that keyword `name` with `value` refuses."""
    match name:
        case _ if name in _LEFT_OUT:
            return []
        case "type":
            return [{"type": left}] if (left := _other_types(value)) else [False]
        case "const":
            return _other_values([value])
        case "enum" if isinstance(value, list):
            return _other_values(value)
        case _ if name in _BOUNDS and isinstance(value, int | float) and not isinstance(value, bool):
            kind, bound = _BOUNDS[name]
            return [{"type": kind, bound: value}]
        case _ if name in _COUNTS and isinstance(value, int) and not isinstance(value, bool):
            kind, count, step = _COUNTS[name]
            if name == "minProperties" and value > 1:
                return []
            return [{"type": kind, count: value + step}] if value + step >= 0 else []
        case "required" if isinstance(value, list):
            return [
                {"type": "object", "properties": {each: False}} for each in value if isinstance(each, str)
            ]
        case "properties" if isinstance(value, dict):
            others = {each: negated(below, resolve, depth + 1) for each, below in value.items()}
            return [
                {"type": "object", "required": [each], "properties": {each: other}}
                for each, other in others.items()
                if other is not None and other is not False
            ]
        case "not":
            return [value]
        case "allOf" if isinstance(value, list):
            return [negated(each, resolve, depth + 1) for each in value]
        case "anyOf" if isinstance(value, list):
            parts = [negated(each, resolve, depth + 1) for each in value]
            return [] if None in parts else [{"allOf": parts}]
        case "$ref" if isinstance(value, str):
            return [negated(resolve(value), resolve, depth + 1)]
        case _:
            raise ValueError(f"{json.dumps(name)[:100]} can't be enforced")


def _other_types(named: Any) -> list[str]:
    """The types but those named. A whole number is a number: each takes the other with it."""
    given = {each for each in (named if isinstance(named, list) else [named]) if isinstance(each, str)}
    if given & {"integer", "number"}:
        given |= {"integer", "number"}
    return [each for each in TYPES if each not in given]


def _other_values(values: list[Any]) -> list[Schema | bool | None]:
    """Schemas of values that equal none of `values`. Of lists and objects none is made."""
    switches = [each for each in values if isinstance(each, bool)]
    numbers = [each for each in values if isinstance(each, int | float) and not isinstance(each, bool)]
    texts = [each for each in values if isinstance(each, str)]
    kinds = {
        "null": None in values,
        "boolean": bool(switches),
        "number": bool(numbers),
        "string": bool(texts),
        "array": any(isinstance(each, list) for each in values),
        "object": any(isinstance(each, dict) for each in values),
    }
    others: list[Schema | bool | None] = []
    if left := _other_types([kind for kind, is_there in kinds.items() if is_there]):
        others.append({"type": left})
    if len(set(switches)) == 1:
        others.append({"const": not switches[0]})
    if numbers:
        others += _gaps(numbers)
    if texts and sum(map(len, texts)) <= _MAX_CHARACTERS:
        others.append({"type": "string", "pattern": f"^{_other_than(texts)}$"})
    return others


def _gaps(numbers: list[int | float]) -> list[Schema | bool | None]:
    """The numbers before, between and behind `numbers`."""
    edges: list[int | float | None] = [None, *sorted(set(numbers)), None]
    gaps: list[Schema | bool | None] = []
    for low, high in pairwise(edges):
        gap: Schema = {"type": "number"}
        if low is not None:
            gap["exclusiveMinimum"] = low
        if high is not None:
            gap["exclusiveMaximum"] = high
        gaps.append(gap)
    return gaps


def _other_than(words: Iterable[str]) -> str:
    """A regular expression of texts that are none of `words`."""
    rest: dict[str, list[str]] = {}
    is_word = False
    for word in words:
        if word:
            rest.setdefault(word[0], []).append(word[1:])
        else:
            is_word = True
    if not rest:
        return "(?s:.)+" if is_word else "(?s:.)*"
    firsts = "".join(f"\\x{ord(char):02x}" if ord(char) < 256 else char for char in sorted(rest))
    ways = [f"[^{firsts}](?s:.)*", *(f"{_literal(char)}{_other_than(ends)}" for char, ends in rest.items())]
    return f"(?:{'|'.join(ways if is_word else ['', *ways])})"


def _literal(char: str) -> str:
    return char if char.isalnum() or ord(char) > 127 else f"\\x{ord(char):02x}"
