"""Values of a schema's keywords, checked and added to the schema that is written."""

from __future__ import annotations

import json
from typing import Any

from takeoff.errors import InvalidRequest
from takeoff.prepare.regex import search
from takeoff.prepare.schema_formats import OF_ANY_TEXT, OF_NUMBERS, PASSED_ON, PATTERNS
from takeoff.prepare.schema_negation import TYPES
from takeoff.prepare.schema_numbers import check_constant
from takeoff.prepare.schema_places import Place, SchemaError


def list_of(name: str, value: Any, place: Place) -> list[Any]:
    """`value` of keyword `name`, which is a list."""
    if not isinstance(value, list):
        raise SchemaError.at(place, f'"{name}" is a list')
    return value


def object_of(name: str, value: Any, place: Place) -> dict[str, Any]:
    """`value` of keyword `name`, which is an object."""
    if not isinstance(value, dict):
        raise SchemaError.at(place, f'"{name}" is an object')
    return value


def types_of(value: Any, place: Place) -> Any:
    """`value` of `type`, all of them JSON Schema's."""
    for each in value if isinstance(value, list) else [value]:
        if not isinstance(each, str) or each not in TYPES:
            raise SchemaError.at(place, f'"type" {json.dumps(each)[:100]} is none of JSON Schema\'s')
    return value


def constants_of(name: str, value: Any, place: Place) -> Any:
    """`value` of `const` or `enum`, which texts of a grammar can equal."""
    try:
        for each in list_of(name, value, place) if name == "enum" else [value]:
            check_constant(each)
    except SchemaError:
        raise
    except ValueError as exc:
        raise SchemaError.at(place, f'"{name}" of {exc} can\'t be enforced') from exc
    return value


def num_containers(value: Any) -> int:
    """How many lists and objects `value` is made of."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + sum(map(num_containers, inner))


def count_of(name: str, value: Any, place: Place, most: int) -> int:
    """`value` of keyword `name`, a whole number from 0 to `most`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value % 1 or value < 0:
        raise SchemaError.at(place, f'"{name}" is a whole number from 0')
    if value > most:
        raise SchemaError.at(place, f'"{name}" over {most:,} can\'t be enforced')
    return int(value)


def add_parts(became: dict[str, Any], name: str, parts: list[dict[str, Any] | bool]) -> None:
    """Add `anyOf` and its like; a second one of a kind applies beside the first."""
    if name == "allOf":
        became.setdefault(name, []).extend(parts)
    elif name in became:
        became.setdefault("allOf", []).append({name: parts})
    else:
        became[name] = parts


def pattern_of(value: Any, place: Place) -> tuple[str, bool]:
    """`value` of `pattern` as llguidance is to match it, and whether that is all that any dialect matches."""
    if not isinstance(value, str):
        raise SchemaError.at(place, '"pattern" is a regular expression')
    try:
        return search(value, "pattern")
    except InvalidRequest as exc:
        raise SchemaError.at(place, exc.message) from exc


def add_pattern(became: dict[str, Any], pattern: str) -> None:
    """Add a pattern; a second one applies beside the first."""
    if "pattern" in became:
        became.setdefault("allOf", []).append({"pattern": pattern})
    else:
        became["pattern"] = pattern


def add_format(became: dict[str, Any], schema: dict[str, Any], value: Any, place: Place) -> None:
    """Add a format, by llguidance's name of it or as a pattern."""
    types = schema.get("type", "string")
    if not isinstance(value, str):
        raise SchemaError.at(place, '"format" is a name')
    if value in OF_NUMBERS and not ("string" in types if isinstance(types, list) else types == "string"):
        return  # bounds, or nothing to add
    if value in OF_ANY_TEXT:
        return
    if value in PASSED_ON:
        became["format"] = PASSED_ON[value]
    elif value in PATTERNS:
        add_pattern(became, PATTERNS[value])
    else:
        raise SchemaError.at(place, f'Unknown format: {value!s:.100}; "format" can\'t be enforced')


def key_pattern(key: str, schema: dict[str, Any], became: dict[str, Any], place: Place) -> str:
    """The pattern of names that llguidance is to match.

    Where dialects differ it matches less than `key` could. A name in between would get the schema of
    additional ones: then none of those is written.
    """
    pattern, is_exact = pattern_of(key, place)
    if not is_exact:
        named = schema.get("properties")
        if isinstance(named, dict) and not all(name.isascii() and name.isprintable() for name in named):
            raise SchemaError.at(
                place,
                f'"patternProperties" {json.dumps(key)[:100]} beside properties that are not in ASCII '
                "can't be enforced: dialects differ over what it matches",
            )
        became["additionalProperties"] = False
    return pattern
