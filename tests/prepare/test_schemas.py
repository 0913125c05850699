"""The 300 schemas of tests/schemas: which are accepted, and that each other one is refused by name."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.schemas.reading import read_schemas

from takeoff.errors import InvalidRequest
from takeoff.prepare.constraint_trial import ConstraintTrial
from takeoff.prepare.tokenizer import Tokenizer
from takeoff.request import Constraint, ConstraintKind

UNIQUE = '"uniqueItems"'
# What can't be enforced, and the words that say why.
REFUSED = {
    "documents": {
        "container composition": UNIQUE,
        "product of a catalogue": UNIQUE,
        "custom resource with int or string": 'Unknown format: quantity; "format"',
        "bill of materials": UNIQUE,
        "fragment of a compiler's options": UNIQUE,
    },
    "keywords": {
        "false schema": "a schema is an object, got false",
        "const big integer": '"const" of the number 9007199254740993',
        "const control character": '"const" of a text with the control character U+0000',
        "multiple of a tenth": '"multipleOf" of 0.1',
        "pattern with unicode classes": r"not a regular expression: bad escape \p",
        "pattern with a negative look-ahead": "negative lookahead",
        "pattern with a back-reference": "a backreference",
        "pattern with word boundaries": "a word boundary",
        "unique strings": UNIQUE,
        "unique objects": UNIQUE,
        "pattern properties that overlap": "patternProperty regexes",
        "minimum of properties": '"minProperties"',
        "all of that contradict": "incompatible types",  # nothing matches it
        "one of by multiples": '"oneOf"',
        "not everything": "schema is false",  # nor it
        "not a pattern": '"not" of {"pattern": "^x"}',
        "unevaluated properties with any of": '"unevaluatedProperties" beside "anyOf"',
        "format unknown": 'Unknown format: zip-code-of-mars; "format"',
        "misspelt keyword": '"propertys"',
    },
    "mcp": {"zod 4 email": "negative lookahead", "chart": UNIQUE},
    "openapi": {
        "money amount": '"multipleOf" of 0.01',
        "charge": 'Unknown format: unix-time; "format"',
        "exclusive minimum of 3.0": '"exclusiveMinimum" is a number',
        "unique identifiers": UNIQUE,
        "one of overlapping numbers": '"oneOf"',
        "external reference": '"$ref" "https://api.example.com/schemas/user.json"',
    },
    "pydantic": {
        "set of tags": UNIQUE,
        "multiple of a cent": '"multipleOf" of 0.01',
        "look-ahead password": "lookahead",
    },
}


@pytest.fixture(scope="module")
def trial(smollm2_path: Path) -> ConstraintTrial:
    return ConstraintTrial(Tokenizer(str(smollm2_path)).for_constraints())


def why_refused(trial: ConstraintTrial, schema: Any) -> str | None:
    """What the client is told; None: it is accepted."""
    try:
        trial.grammar(Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(schema)))
    except InvalidRequest as exc:
        return exc.message
    return None


def test_of_300_schemas_all_but_a_few_are_accepted_and_those_are_named(trial: ConstraintTrial) -> None:
    schemas = read_schemas()
    kinds = Counter(schema.kind for schema in schemas)
    assert len(schemas) == 300
    assert kinds["pydantic"] + kinds["openapi"] + kinds["mcp"] >= 100
    refused: dict[str, dict[str, str]] = {kind: {} for kind in sorted(kinds)}
    for each in schemas:
        if (why := why_refused(trial, each.schema)) is not None:
            refused[each.kind][each.name] = why
    for kind, expected in REFUSED.items():
        assert refused[kind].keys() == expected.keys()
        unnamed = {name: why for name, why in refused[kind].items() if expected[name] not in why}
        assert unnamed == {}
    assert sum(map(len, refused.values())) <= 0.15 * 300
