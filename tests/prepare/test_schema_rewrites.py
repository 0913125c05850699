"""Keywords that no grammar has: what is written in their place takes nothing that a validator refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from takeoff.engine.constraint import ConstraintCompiler
from takeoff.prepare.constraint_trial import ConstraintTrial
from takeoff.prepare.tokenizer import Tokenizer
from takeoff.request import Constraint, ConstraintKind

Takes = Callable[[Any, list[str]], list[str]]
SMALL = {"type": "integer", "minimum": -20, "maximum": 20}
AB = {"type": "object", "properties": {"a": SMALL, "b": {"type": "string"}}}
COLOURS = {"enum": ["red", "green", "blue"]}
KIND = {"type": "object", "properties": {"kind": {"enum": ["x", "y"]}, "n": SMALL}, "required": ["kind"]}
IS_X = {"properties": {"kind": {"const": "x"}}}
OLD = {"$schema": "http://json-schema.org/draft-07/schema#"}


@pytest.fixture(scope="module")
def takes(smollm2_path: Path) -> Takes:
    """Those of some texts that the grammar of a schema takes."""
    tokenizer = Tokenizer(str(smollm2_path))
    guidance = tokenizer.for_constraints()
    trial, compiler = ConstraintTrial(guidance), ConstraintCompiler(guidance, tokenizer.n_vocab)

    def takes(schema: Any, texts: list[str]) -> list[str]:
        state = compiler.compile(trial.grammar(Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(schema))))
        return [text for text in texts if state.accepts(text)]

    return takes


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        ({"not": {"type": "integer"}}, ['"a"', "null", "[1]"], ["1"]),
        ({"not": {"type": ["string", "null"]}}, ["1.5", "{}"], ['"a"', "null"]),
        ({"type": "string", "not": {"const": "no"}}, ['"yes"', '"n"', '"not"', '""'], ['"no"']),
        (
            {"type": "string", "not": {"enum": ["", "a]", "^b"]}},
            ['"a"', '"]"', '"^"', '"c"'],
            ['""', '"a]"', '"^b"'],
        ),
        ({**COLOURS, "not": {"const": "red"}}, ['"green"', '"blue"'], ['"red"']),
        (
            SMALL | {"not": {"enum": [3, 5, "a", True]}},
            ["2", "4", "6", "-20", "20"],
            ["3", "5", "3.0"],
        ),
        ({"type": "boolean", "not": {"const": True}}, ["false"], ["true"]),
        ({**AB, "not": {"required": ["a", "b"]}}, ['{"a":1}', '{"b":"x"}', "{}"], ['{"a":1,"b":"x"}']),
        ({"not": {"anyOf": [{"type": "string"}, {"minimum": 5}]}}, ["4"], ["5", "null", '"a"']),
        ({**SMALL, "not": {"minimum": 3, "maximum": 6}}, ["2", "7"], ["3", "6"]),
        ({"type": "string", "not": {"maxLength": 2}}, ['"abc"'], ['"ab"']),
        ({**AB, "not": {"properties": {"a": {"const": 1}}}}, ['{"a":2}'], ['{"a":1}', "{}"]),
        (
            {**KIND, "if": IS_X, "then": {"required": ["n"]}},
            ['{"kind":"y"}', '{"kind":"x","n":1}'],
            ['{"kind":"x"}'],
        ),
        (
            {**KIND, "if": IS_X, "then": {"required": ["n"]}, "else": {"properties": {"n": {"minimum": 5}}}},
            ['{"kind":"y"}', '{"kind":"x","n":1}', '{"kind":"y","n":6}'],
            ['{"kind":"x"}', '{"kind":"y","n":1}'],
        ),
        (
            {**AB, "if": {"required": ["a"]}, "then": {"required": ["b"]}},
            ["{}", '{"a":1,"b":""}'],
            ['{"a":1}'],
        ),
        ({**SMALL, "if": {"maximum": 0}, "else": {"multipleOf": 2}}, ["-3", "2"], ["3"]),
        ({**SMALL, "if": {"const": 1}, "then": False}, ["2", "0"], ["1"]),
        ({"if": {"const": 1}}, ["1", "2"], []),
        ({"then": False, "else": False}, ["1"], []),
        ({**AB, "dependentRequired": {"a": ["b"]}}, ["{}", '{"b":""}', '{"a":1,"b":""}'], ['{"a":1}']),
        (
            {**AB, "dependentSchemas": {"a": {"properties": {"c": SMALL}, "required": ["c"]}}},
            ["{}", '{"a":1,"c":2}'],
            ['{"a":1}', '{"a":1,"c":"x"}'],
        ),
        (
            {**OLD, **AB, "dependencies": {"a": ["b"], "b": {"maxProperties": 2}}},
            ['{"a":1,"b":""}'],
            ['{"a":1}'],
        ),
        ({"type": "array", "items": SMALL, "contains": {"minimum": 5}}, ["[5]", "[6,1]"], ["[]", "[4]"]),
        ({"type": "array", "contains": {"const": 5}, "minContains": 0}, ["[]", "[1]"], []),
        (
            {"type": "array", "items": COLOURS, "contains": {"const": "red"}, "maxContains": 1},
            ['["red"]', '["red","blue"]'],
            ["[]", '["red","red"]', '["blue"]'],
        ),
        (
            {**OLD, "type": "array", "items": SMALL, "contains": {"minimum": 5}},
            ["[5]", "[6,1]"],
            ["[]", "[4]"],
        ),
        ({"type": "array", "uniqueItems": True, "maxItems": 1}, ["[]", "[1]"], ["[1,1]"]),
        (
            {"type": "array", "items": COLOURS, "uniqueItems": True, "minItems": 1},
            ['["red"]', '["blue","red"]', '["blue","green","red"]'],
            ["[]", '["red","red"]', '["red","blue","red"]'],
        ),
        (
            {"type": "array", "items": {"type": "boolean"}, "uniqueItems": True},
            ["[true,false]"],
            ["[true,true]"],
        ),
        ({"type": "array", "items": {"enum": [1, 1.0, "a"]}, "uniqueItems": True}, ['[1,"a"]'], ["[1,1.0]"]),
        (
            {"type": "object", "propertyNames": {"pattern": "^a"}, "properties": {"b": SMALL, "ab": SMALL}},
            ["{}", '{"ax":"t"}', '{"ab":3}'],
            ['{"b":1}', '{"ab":"t"}', '{"x":1}'],
        ),
        (
            {"type": "object", "propertyNames": {"maxLength": 2}, "additionalProperties": SMALL},
            ['{"ab":1}', '{"":1}'],
            ['{"abc":1}', '{"a":"t"}'],
        ),
        (
            {"type": "object", "propertyNames": COLOURS, "additionalProperties": SMALL},
            ['{"red":1,"blue":2}', "{}"],
            ['{"pink":1}', '{"red":"t"}'],
        ),
        ({"type": "object", "propertyNames": False}, ["{}"], ['{"a":1}']),
        ({**AB, "unevaluatedProperties": False}, ['{"a":1}'], ['{"c":1}']),
        (
            {
                "allOf": [{"$ref": "#/$defs/base"}],
                **AB,
                "unevaluatedProperties": SMALL,
                "$defs": {"base": KIND},
            },
            ['{"kind":"x","a":1}', '{"kind":"x","z":2}'],
            ['{"kind":"x","z":"t"}', '{"a":1}'],
        ),
        ({"type": "array", "prefixItems": [SMALL], "unevaluatedItems": False}, ["[]", "[1]"], ["[1,2]"]),
        (
            {**AB, "minProperties": 2, "additionalProperties": False},
            ['{"a":1,"b":""}'],
            ["{}", '{"a":1}'],
        ),
        (
            {**AB, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
            ['{"a":1}', '{"b":""}'],
            ["{}", '{"a":1,"b":""}'],
        ),
        ({"type": "integer", "oneOf": [{"maximum": 3}, {"minimum": 10}]}, ["3", "10"], ["4"]),
        (
            {"oneOf": [{**AB, "additionalProperties": False}, {"type": "object", "required": ["c"]}]},
            ['{"a":1}', '{"c":1}'],
            ['{"d":1}'],
        ),
        ({"type": "string", "nullable": True}, ['"a"'], ["null"]),
        ({"type": "array", "items": SMALL, "additionalItems": False}, ["[1,2]"], ['["a"]']),
    ],
)
def test_what_is_taken_is_valid(takes: Takes, schema: Any, valid: list[str], invalid: list[str]) -> None:
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    validator = kind(schema)
    assert [text for text in [*valid, *invalid] if validator.is_valid(json.loads(text))] == valid
    assert takes(schema, [*valid, *invalid]) == valid


@pytest.mark.parametrize(
    ("name", "valid", "invalid"),
    [
        ("uri-reference", ["/a/b?c=d#e", "a", "#x", ""], ["a b", "%zz"]),
        ("json-pointer", ["", "/a/0", "/a~1b"], ["a", "/~2"]),
        ("relative-json-pointer", ["0", "1/a", "2#"], ["/a", "01"]),
        ("uri-template", ["/a/{b}", "c"], ["{", "a b"]),
        ("regex", ["^a+b$", r"[ab]*\d", ""], ["(", "[", "a**"]),
        ("byte", ["", "QQ==", "QUI=", "QUJD"], ["QR==", "QQ", "Q"]),
        ("idn-email", ["a@example.com"], ["a"]),
        ("ipvanyaddress", ["127.0.0.1"], ["a"]),
        ("password", ["anything at all"], []),
    ],
)
def test_formats_of_other_documents(takes: Takes, name: str, valid: list[str], invalid: list[str]) -> None:
    texts = [json.dumps(text) for text in [*valid, *invalid]]
    assert takes({"type": "string", "format": name}, texts) == texts[: len(valid)]


def test_schemas_are_found_by_every_kind_of_reference(takes: Takes) -> None:
    leaf = {"const": 1}
    for schema in (
        {"$ref": "#leaf", "$defs": {"x": {"$anchor": "leaf", **leaf}}},
        {"$ref": "#/components/schemas/Leaf", "components": {"schemas": {"Leaf": leaf}}},
        {"$id": "https://a.example/b", "$ref": "c", "$defs": {"x": {"$id": "c", **leaf}}},
        {"$id": "https://a.example/b", "$ref": "/b#/$defs/x", "$defs": {"x": leaf}},
        {"$ref": "c#/$defs/y", "$defs": {"x": {"$id": "c", "$defs": {"y": leaf}}}},
        {
            "$ref": "#/$defs/x",
            "$defs": {"x": {"$id": "c", "$ref": "#d", "$defs": {"y": {"$anchor": "d", **leaf}}}},
        },
        {"$dynamicRef": "#leaf", "$defs": {"x": {"$dynamicAnchor": "leaf", **leaf}}},
    ):
        assert takes(schema, ["1", "2"]) == ["1"], schema
    tree = {
        "type": "object",
        "$dynamicAnchor": "node",
        "properties": {"below": {"type": "array", "items": {"$dynamicRef": "#node"}}},
        "additionalProperties": False,
    }
    assert takes(tree, ['{"below":[{},{"below":[]}]}', '{"below":[1]}']) == ['{"below":[{},{"below":[]}]}']


def test_a_property_may_be_called_as_a_reference_is(takes: Takes) -> None:
    schema = {
        "properties": {"$id": {"const": 1}, "$ref": {"const": 2}},
        "enum": [{"$id": 1}, {"$ref": 2}, {"$ref": 3}],
    }
    assert takes(schema, ['{"$id":1}', '{"$ref":2}', '{"$ref":3}']) == ['{"$id":1}', '{"$ref":2}']
