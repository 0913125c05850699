"""What is promised of each keyword: the rows of docs/reference/compatibility.md, Constraints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from takeoff.engine.constraint import ConstraintCompiler
from takeoff.errors import InvalidRequest
from takeoff.prepare.constraint_trial import ConstraintTrial
from takeoff.prepare.tokenizer import Tokenizer
from takeoff.request import Constraint, ConstraintKind

Accepts = Callable[[Any, str], bool]
TEXT = {"type": "string"}
CAT = {"type": "object", "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}}}
DOG = {"type": "object", "properties": {"kind": {"const": "dog"}}}

CHAIN = {str(n): {"type": "array", "items": {"$ref": f"#/$defs/{n + 1}"}} for n in range(300)} | {"300": TEXT}


@pytest.fixture(scope="module")
def vocabulary(smollm2_path: Path) -> tuple[ConstraintTrial, ConstraintCompiler]:
    tokenizer = Tokenizer(str(smollm2_path))
    guidance = tokenizer.for_constraints()
    return ConstraintTrial(guidance), ConstraintCompiler(guidance, tokenizer.n_vocab)


@pytest.fixture
def accepts(vocabulary: tuple[ConstraintTrial, ConstraintCompiler]) -> Accepts:
    """Whether a text as a whole matches a schema."""
    trial, compiler = vocabulary

    def accepts(schema: Any, text: str) -> bool:
        constraint = Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(schema))
        return compiler.compile(trial.grammar(constraint)).accepts(text)

    return accepts


@pytest.fixture
def refused(vocabulary: tuple[ConstraintTrial, ConstraintCompiler]) -> Callable[[Any], str]:
    """Why a schema is refused."""

    def refused(schema: Any) -> str:
        with pytest.raises(InvalidRequest) as why:
            vocabulary[0].grammar(Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(schema)))
        assert why.value.param == "json_schema"
        return why.value.message

    return refused


@pytest.mark.parametrize(
    ("schema", "takes", "leaves"),
    [
        ({"type": "integer"}, ["0", "-12", "9007199254740991"], ["9007199254740992", "1.0", "-", "01"]),
        ({"type": "integer", "maximum": 2**63 - 1}, ["9007199254740991"], ["9007199254740993"]),
        ({"type": "integer", "exclusiveMinimum": 4, "maximum": 6.5}, ["5", "6"], ["4", "7"]),
        ({"type": "integer", "format": "int32"}, ["2147483647", "-2147483648"], ["2147483648"]),
        ({"type": "number"}, ["1e9", "-0.5E-3", "7"], [".5", "+1"]),
        ({"type": "number", "exclusiveMinimum": 0.1}, ["0.2", "0.1001"], ["0.1", "0.10000000000000000001"]),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, ["0.001", "0.5"], ["0", "0.0", "-0"]),
        ({"type": "number", "maximum": 99.99000099999999}, ["99.9900008"], ["99.990001"]),
        ({"type": "number", "multipleOf": 0.25}, ["0.75", "-2", "3.50"], ["0.3", "1e2"]),
        ({"type": "integer", "multipleOf": 3}, ["0", "-9", "12"], ["4"]),
        ({"const": 2.0}, ["2"], ["3"]),
    ],
)
def test_numbers(accepts: Accepts, schema: Any, takes: list[str], leaves: list[str]) -> None:
    assert [text for text in takes if not accepts(schema, text)] == []
    assert [text for text in leaves if accepts(schema, text)] == []


@pytest.mark.parametrize(
    ("name", "takes", "leaves"),
    [
        (
            "date",
            ["2024-02-29", "2000-02-29", "1999-12-31", "0004-02-29"],
            ["2023-02-29", "1900-02-29", "2024-02-30", "2024-04-31", "0000-01-01", "2024-13-01"],
        ),
        ("time", ["23:59:59Z", "00:00:00.123+05:30"], ["24:00:00Z", "23:59:60Z", "12:00:00"]),
        ("date-time", ["2024-02-29T12:00:00Z"], ["2023-02-29T12:00:00Z", "2024-01-01 12:00:00Z"]),
        ("hostname", ["a.example.com", "x-1"], ["-a", "a..b", "a-", "a_b", ".".join(["a" * 60] * 5)]),
        ("uuid", ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567"]),
        ("email", ["a.b@example.com"], ["a@", "@b"]),
        ("ipv4", ["127.0.0.1"], ["256.0.0.1", "01.2.3.4"]),
    ],
)
def test_formats(accepts: Accepts, name: str, takes: list[str], leaves: list[str]) -> None:
    schema = {"type": "string", "format": name}
    assert [text for text in takes if not accepts(schema, json.dumps(text))] == []
    assert [text for text in leaves if accepts(schema, json.dumps(text))] == []
    both = schema | {"pattern": "^[^2]*$", "maxLength": 400}
    assert [text for text in takes if accepts(both, json.dumps(text)) is ("2" in text)] == []


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        ({"not": {"pattern": "^x"}}, '"not" of {"pattern": "^x"}'),
        ({"not": {"tpye": "null"}}, '"not": "tpye"'),
        ({"type": "object", "propertys": {}}, '"propertys"'),
        (
            {"properties": {"a": {"items": {"maxlength": 3}}}},
            '"maxlength" can\'t be enforced (at #/properties/a/items)',
        ),
        ({"type": "array", "uniqueItems": True}, '"uniqueItems"'),
        ({"type": "array", "uniqueItems": True, "items": {"enum": list(range(40))}}, "of 40 values"),
        ({"contains": {"pattern": "^a"}, "maxContains": 1}, '"contains" of {"pattern": "^a"}'),
        ({"contains": {}, "minContains": 2, "maxContains": 1}, '"maxContains" is below'),
        ({"propertyNames": {"format": "date"}}, '"propertyNames" of {"format": "date"}'),
        ({"propertyNames": {"pattern": "^a", "maxLength": 2}}, '"propertyNames"'),
        ({"unevaluatedProperties": False, "anyOf": [{}]}, '"unevaluatedProperties" beside "anyOf"'),
        ({"unevaluatedItems": False, "contains": {}}, '"unevaluatedItems"'),
        ({"dependentRequired": {"a": "b"}}, '"dependentRequired"'),
        ({"if": {"pattern": "^a"}, "then": {"maxLength": 2}}, '"if" of {"pattern": "^a"}'),
        ({"if": {"const": 1}, "then": {"maximun": 2}}, '"maximun"'),
        ({"$dynamicRef": "#a", "$defs": {n: {"$dynamicAnchor": "a"} for n in "bc"}}, '"$dynamicRef"'),
        ({"type": "string", "format": "phone"}, "Unknown format: phone"),
        ({"type": "integer", "format": "int8"}, "Unknown format: int8"),
        ({"multipleOf": 0.01}, '"multipleOf" of 0.01'),
        ({"multipleOf": 0}, '"multipleOf" is a number above 0'),
        ({"minimum": 2**53}, '"minimum" beyond 2^53 - 1'),
        ({"exclusiveMinimum": 10**400}, '"exclusiveMinimum" beyond 2^53 - 1'),
        ({"maximum": -(10**400)}, '"maximum" beyond 2^53 - 1'),
        ({"exclusiveMinimum": True}, '"exclusiveMinimum" is a number'),
        ({"const": 2**53 + 1}, "the number 9007199254740993, beyond 2^53 - 1,"),
        ({"enum": [0.1 + 0.2]}, "the number 0.30000000000000004, of more than 15 digits,"),
        ({"const": "\u0001"}, "the control character U+0001"),
        ({"type": "object", "minProperties": 2}, '"minProperties" beyond the required ones and one more'),
        ({"maxProperties": 2, "properties": {"a": {}}}, "min/maxProperties only supported when"),
        ({"enum": list(range(2_001))}, '"enum" of more than 2,000 values'),
        ({"$ref": "#"}, "nothing can match it"),
        ({"maxItems": 4_097}, '"maxItems" over 4,096'),
        ({"maxLength": 65_537}, '"maxLength" over 65,536'),
        ({"minLength": -1}, '"minLength" is a whole number'),
        ({"minLength": float("inf")}, '"minLength" is a whole number'),
        ({"format": []}, '"format" is a name'),
        ({"$ref": "#/enum/0", "enum": [{}]}, "no schema at #/enum/0"),
        ({"$ref": "other.json"}, "no other is fetched"),
        ({"$schema": "https://example.com/mine"}, "is no draft"),
        ({"items": [{}, {}]}, "a schema is an object"),
        ({"additionalItems": TEXT}, '"additionalItems"'),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "prefixItems": [{}]}, '"prefixItems"'),
        ({"patternProperties": {r"^\d$": TEXT}, "properties": {"é": {}}}, "dialects differ"),
        ({"oneOf": [TEXT, {"minLength": 3}]}, "oneOf"),
        ({"oneOf": [CAT, DOG, {"type": "object"}]}, "oneOf"),
        ({"patternProperties": {"^a$": TEXT, r"^a\Z": {}}}, "that are the same"),
        ({"$ref": "#/$defs/0", "$defs": CHAIN}, "nested more than 400 deep"),
        ({"type": "strng"}, '"type" "strng"'),
        ({"x-guidance": {}}, '"x-guidance"'),
    ],
)
def test_what_is_refused_is_named(refused: Callable[[Any], str], schema: Any, name: str) -> None:
    assert name in refused(schema)


def test_annotations_and_keys_of_vendors_say_nothing(accepts: Accepts) -> None:
    said = {
        "title": "t",
        "description": "d",
        "default": 5,
        "examples": [1],
        "$comment": "c",
        "deprecated": True,
    }
    assert accepts({"type": "boolean", **said, "x-order": 3, "discriminator": {"propertyName": "a"}}, "true")
    assert accepts({"type": "array", "uniqueItems": False}, "[1,1]")
    assert accepts(said, '{"anything":[1]}')


def test_a_property_may_be_called_as_a_keyword_is(accepts: Accepts) -> None:
    named = {
        name: {"type": "string", "pattern": r"^\d$"} for name in ("const", "enum", "x-guidance", "pattern")
    }
    schema = {"type": "object", "properties": named, "required": list(named)}
    assert accepts(schema, '{"const":"1","enum":"2","x-guidance":"3","pattern":"4"}')
    assert not accepts(schema, '{"const":"1","enum":"2","x-guidance":"3","pattern":"x"}')
    assert not accepts(schema, '{"const":"x","enum":"2","x-guidance":"3","pattern":"4"}')


def test_properties_that_are_not_named_are_allowed_unless_the_schema_says_no(accepts: Accepts) -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert accepts(schema, '{"a":1,"b":"x"}')
    assert not accepts(schema | {"additionalProperties": False}, '{"a":1,"b":"x"}')
    assert accepts(schema | {"additionalProperties": TEXT}, '{"a":1,"b":"x"}')
    assert not accepts(schema | {"additionalProperties": TEXT}, '{"a":1,"b":1}')


def test_no_name_fills_a_minimum_twice(accepts: Accepts) -> None:
    schema = {
        "type": "object",
        "required": ["a"],
        "minProperties": 2,
        "additionalProperties": {"type": "integer"},
    }
    assert accepts(schema, '{"a":1,"b":2}')
    assert not accepts(schema, '{"a":1}')
    assert not accepts(schema, '{"a":1,"a":2}')


def test_patterns_of_names_are_exact_or_nothing_else_may_be_there(accepts: Accepts) -> None:
    exact = {"type": "object", "patternProperties": {"^x-": {"type": "integer"}}}
    assert accepts(exact, '{"x-a":1,"b":"t"}')
    assert not accepts(exact, '{"x-a":"t"}')
    vague = {"type": "object", "patternProperties": {r"^\d$": TEXT}, "additionalProperties": True}
    assert accepts(vague, '{"1":"t"}')
    assert not accepts(vague, '{"a":"t"}')
    assert not accepts(vague, '{"٣":5}'), "a digit to Python, none to ECMA"


@pytest.mark.parametrize("referred", [False, True])
def test_a_discriminator_that_is_not_required_has_to_be_written(accepts: Accepts, referred: bool) -> None:
    branches: list[Any] = [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}] if referred else [CAT, DOG]
    schema = {"oneOf": branches, "$defs": {"cat": CAT, "dog": DOG}}
    assert accepts(schema, '{"kind":"cat","lives":9}')
    assert accepts(schema, '{"kind":"dog"}')
    assert not accepts(schema, '{"lives":9}')
    assert not accepts(schema, "{}")


def test_the_property_that_a_discriminator_names_is_always_written(accepts: Accepts) -> None:
    strict = DOG | {"required": ["kind"]}
    schema: dict[str, Any] = {"oneOf": [CAT, strict]}
    assert accepts(schema, '{"lives":9}')
    assert not accepts(schema | {"discriminator": {"propertyName": "kind"}}, '{"lives":9}')


def test_of_three_branches_each_pair_is_told_apart(accepts: Accepts) -> None:
    fish = {"type": "object", "properties": {"kind": {"enum": ["fish", "shark"]}}}
    schema = {"oneOf": [CAT, DOG, fish], "discriminator": {"propertyName": "kind"}}
    assert [accepts(schema, text) for text in ("{}", '{"kind":"shark"}', '{"kind":"cow"}')] == [
        False,
        True,
        False,
    ]
    assert accepts({"oneOf": [TEXT, {"type": "integer"}, {"type": ["null", "array"]}]}, "[1]")


def test_references_are_read_as_json_pointers(accepts: Accepts) -> None:
    definitions = {"a/b": {"const": 1}, "a~1b": {"const": 2}, "c d": {"const": 3}}
    for reference, text in (("a~1b", "1"), ("a~01b", "2"), ("c%20d", "3")):
        assert accepts({"$ref": f"#/$defs/{reference}", "$defs": definitions}, text)
    assert accepts({"properties": {"a": {"$ref": "#/properties/b"}, "b": {"const": 1}}}, '{"a":1,"b":1}')


def test_lists_of_items_are_those_of_older_drafts(accepts: Accepts) -> None:
    old = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "array",
        "items": [TEXT, {"const": 1}],
    }
    assert accepts(old, '["a",1,null]')
    assert not accepts(old, "[1]")
    assert not accepts(old | {"additionalItems": False}, '["a",1,null]')
    assert accepts({"type": "array", "prefixItems": [TEXT], "items": {"const": 1}}, '["a",1]')
