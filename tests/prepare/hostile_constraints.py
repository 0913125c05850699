"""Constraints that cost what they can: to read, to compile, or at every token."""

from __future__ import annotations

import json
from typing import Any

from takeoff.request import Constraint, ConstraintKind


def _regex(source: str) -> Constraint:
    return Constraint(ConstraintKind.REGEX, source)


def _schema(value: Any) -> Constraint:
    return Constraint(ConstraintKind.JSON_SCHEMA, value if isinstance(value, str) else json.dumps(value))


def _nested(depth: int, inner: Any, wrap: Any) -> Any:
    for _ in range(depth):
        inner = wrap(inner)
    return inner


def _object(names: int, value: Any, **more: Any) -> Any:
    return {"type": "object", "properties": {f"name{n}": value for n in range(names)}, **more}


_TEXT: dict[str, Any] = {"type": "string"}
_MUTUAL = {
    "a": {"type": "object", "properties": {"b": {"$ref": "#/$defs/b"}, "c": {"$ref": "#/$defs/a"}}},
    "b": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "array", "items": {"$ref": "#/$defs/b"}}]},
}
_TREES = {
    name: {"type": "object", "properties": {"child": {"$ref": f"#/$defs/{name}"}, name: _TEXT}}
    for name in ("one", "two")
}
_CHAIN = {f"c{n}": {"anyOf": [{"allOf": [{"$ref": f"#/$defs/c{n + 1}"}]}, _TEXT]} for n in range(1_000)}
_CHAIN["c1000"] = _TEXT
_DOUBLING = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(24)} | {"d24": _TEXT}

REGEXES = {
    "a count of a million": "x{1,1000000}",
    "counts in counts": "((x{1,1000}){1,1000}){1,1000}",
    "counts of letters in counts": "([a-z]{1,300}[0-9]{1,300}){1,300}",
    "an ambiguous repeat": "(a|aa)+",
    "ambiguous repeats in a repeat": "((a|aa)+(b|bb)*)*c{40}",
    "nested quantifiers": "((((a*)*)*)*)*b",
    "nested bounded quantifiers": "((((a?){9}){9}){9}){9}",
    "an exponential automaton": "(a|b)*a(a|b){24}",
    "an exponential automaton of letters": ".*[aeiou].{40}[0-9].{40}",
    "many exponential automata": "|".join(f".*{letter}.{{30}}" for letter in "abcdefghijklmnop"),
    "many alternatives": "|".join(f"word{n}" for n in range(800)),
    "alternatives in a repeat": f"({'|'.join(f'w{n}x*' for n in range(700))})+",
    "alternatives after alternatives": "(a|b|c|d)?(e|f|g|h)?" * 300,
    "a giant pattern": "[a-z]?" * 1_300,
    "a pattern too long": "a" * 10_000,
    "brackets in brackets": "(" * 3_000 + "a" + ")" * 3_000,
    "classes of all scripts": r"[^\W\d]{1,200}\S{1,200}\W{1,200}",
    "optional classes of all scripts": r"(\w?\W?\s?\S?.?){150}",
    "dots": r".{0,60}" * 30,
    "every character but": r"(?:[^\d]|[^\s]|[^\w]){1,400}",
    "any case": "(?i)" + "(straße|kelvin|σίγμα)?" * 250,
    "an end that is far": "[a-z ]{3000}END",
}
SCHEMAS: dict[str, Any] = {
    "brackets": "[" * 400_000,
    "objects in objects": _nested(60, _TEXT, lambda inner: {"type": "object", "properties": {"a": inner}}),
    "objects nested too deeply": _nested(300, _TEXT, lambda inner: {"properties": {"a": inner}}),
    "anyOf in anyOf": _nested(14, _TEXT, lambda inner: {"anyOf": [inner, inner]}),
    "allOf in allOf": _nested(14, {"minLength": 1}, lambda inner: {"allOf": [inner, inner]}),
    "allOf over anyOf": {"allOf": [{"anyOf": [_object(n + 1, _TEXT) for n in range(6)]} for _ in range(6)]},
    "a huge enum": {"enum": [f"value number {n}" for n in range(20_000)]},
    "a huge enum of numbers": {"enum": list(range(30_000))},
    "an enum to the limit": {"enum": [f"value number {n}" for n in range(2_000)]},
    "a huge enum of objects": {"enum": [{"a": n, "b": [n]} for n in range(5_000)]},
    "a huge oneOf": {"oneOf": [_object(1, {"const": n}, required=["name0"]) for n in range(600)]},
    "a huge anyOf": {"anyOf": [_object(3, {"const": n}) for n in range(3_000)]},
    "many properties": _object(3_000, _TEXT),
    "many optional properties of texts": _object(
        400, {"type": "string", "pattern": r"\d{3}"}, additionalProperties=False
    ),
    "many required properties": _object(2_000, _TEXT, required=[f"name{n}" for n in range(2_000)]),
    "a huge maxItems": {"type": "array", "items": _TEXT, "maxItems": 1_000_000_000},
    "a huge minItems": {"type": "array", "items": _TEXT, "minItems": 1_000_000_000},
    "items counted to the limit": {"type": "array", "items": {"type": "integer"}, "maxItems": 4_096},
    "counted items in counted items": _nested(
        6,
        {"type": "integer"},
        lambda inner: {"type": "array", "items": inner, "minItems": 1, "maxItems": 900},
    ),
    "a huge maxLength": {"type": "string", "maxLength": 1_000_000_000},
    "a length counted to the limit": {"type": "string", "minLength": 1_000, "maxLength": 65_536},
    "long texts of many lengths": _object(64, _TEXT) | {"additionalProperties": {"maxLength": 3_000}},
    "a pattern and a length": {"type": "string", "pattern": r"(a|b)*a(a|b){12}", "minLength": 2_000},
    "a pattern that is exponential": {"type": "string", "pattern": r".*[aeiou].{60}$"},
    "many patterns": _object(60, _TEXT)
    | {"additionalProperties": False, "patternProperties": {f"^{n}[a-z]{{9}}": _TEXT for n in range(60)}},
    "patterns that overlap": {
        "patternProperties": {"a.*b": _TEXT, "b.*a": _TEXT},
        "additionalProperties": False,
    },
    "a reference to itself": {"$ref": "#"},
    "a reference around": {
        "$ref": "#/$defs/a",
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
    },
    "a recursive schema": {"type": "array", "items": {"$ref": "#"}},
    "schemas that refer to each other": {"$ref": "#/$defs/a", "$defs": _MUTUAL},
    "two trees at once": {"allOf": [{"$ref": "#/$defs/one"}, {"$ref": "#/$defs/two"}], "$defs": _TREES},
    "a tree beside itself": {"$ref": "#", "type": "object", "properties": {"a": {"$ref": "#"}}},
    "a chain of references": {"$ref": "#/$defs/c0", "$defs": _CHAIN},
    "references that double": {"$ref": "#/$defs/d0", "$defs": _DOUBLING},
    "bounds of hundreds of digits": {"type": "number", "minimum": -1e300, "maximum": 1e300},
    "bounds that are tiny": {"type": "number", "exclusiveMinimum": 5e-324, "maximum": 1e-300},
    "a bound that is no number": '{"type": "number", "minimum": 1e999}',
    "a constant of 400 digits": '{"const": ' + "9" * 400 + "}",
    "a multiple of much": {"type": "integer", "multipleOf": 999_983},
    "multiples of multiples": {"allOf": [{"multipleOf": n} for n in (9_973, 9_967, 9_949, 9_941)]},
    "settings of llguidance": {
        "type": "object",
        "x-guidance": {"whitespace_pattern": r"\s*", "lenient": True},
    },
    "settings of llguidance further in": _object(1, {"x-guidance": {"lenient": True}}),
    "half a megabyte of properties": _object(9_000, {"type": "string", "description": "d" * 10}),
    "a megabyte of text": {"description": "x" * (1 << 20)},
    "a megabyte of unused definitions": {"$defs": {str(n): _object(3, _TEXT) for n in range(9_000)}},
    "a surrogate": '{"const": "\\ud800"}',
    "all that there is": {"anyOf": [{}, {"type": "array"}, {"type": "object"}, {"maxLength": 999}]},
}
HOSTILE = {name: _regex(source) for name, source in REGEXES.items()} | {
    name: _schema(source) for name, source in SCHEMAS.items()
}
