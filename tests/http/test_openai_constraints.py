"""What an answer must match, in every shape that OpenAI's and other servers' clients send."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from tests.http.door import FakeService, ask, make_door, post

from takeoff.errors import InvalidRequest
from takeoff.http.openai.reference import openai_page
from takeoff.request import Constraint, ConstraintKind

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
OF_SCHEMA = Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(SCHEMA))
OBJECT = Constraint(ConstraintKind.JSON_SCHEMA, '{"type": "object"}')
DIGITS = Constraint(ConstraintKind.REGEX, "[0-9]+")
LARK = Constraint(ConstraintKind.GRAMMAR, 'start: "a"')
PATHS = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}]},
    "/v1/completions": {"prompt": "a"},
}


def response_format(**form: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", **form}}}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("body", "constraint"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": None, "structured_outputs": None, "regex": None}, None),
        ({"response_format": {"type": "json_object"}}, OBJECT),
        (response_format(schema=SCHEMA, strict=True), OF_SCHEMA),
        (response_format(schema=SCHEMA, strict=False, description="an a"), OF_SCHEMA),
        (response_format(), Constraint(ConstraintKind.JSON_SCHEMA, "{}")),
        ({"regex": "[0-9]+"}, DIGITS),
        ({"grammar": 'start: "a"'}, LARK),
        ({"structured_outputs": {"json": SCHEMA}}, OF_SCHEMA),
        ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, OF_SCHEMA),
        ({"structured_outputs": {"json_object": True}}, OBJECT),
        ({"structured_outputs": {"regex": "[0-9]+"}}, DIGITS),
        ({"structured_outputs": {"grammar": 'start: "a"'}}, LARK),
        ({"structured_outputs": {"choice": ["a.b", "c"]}}, Constraint(ConstraintKind.REGEX, r"a\.b|c")),
        ({"guided_json": SCHEMA}, OF_SCHEMA),
        ({"guided_regex": "[0-9]+"}, DIGITS),
        ({"guided_choice": ["a", "b"]}, Constraint(ConstraintKind.REGEX, "a|b")),
        ({"guided_grammar": 'start: "a"'}, LARK),
    ],
)
def test_each_shape_becomes_one_constraint(
    path: str, body: dict[str, Any], constraint: Constraint | None
) -> None:
    service = FakeService()
    answer = post(service, path, **PATHS[path], **body)
    assert answer.status == 200, answer.body
    assert [request.sampling.constraint for request in service.requests] == [constraint]


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"response_format": {"type": "xml"}}, "response_format", "xml"),
        ({"response_format": {"type": "text", "typ": 1}}, "response_format.typ", "did you mean 'type'?"),
        (
            {"response_format": {"type": "json_object", "json_schema": {}}},
            "response_format.json_schema",
            "use the type json_schema",
        ),
        ({"response_format": {"type": "json_schema"}}, "response_format", "required"),
        (response_format(schemas=SCHEMA), "response_format.json_schema.schemas", "did you mean 'schema'?"),
        (response_format(schema_=SCHEMA), "response_format.json_schema.schema_", "did you mean 'schema'?"),
        ({"structured_outputs": {"jsn": "x"}}, "structured_outputs.jsn", "did you mean 'json'?"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag", "use tools"),
        ({"guided_choice": []}, "guided_choice", "at least 1"),
        ({"guided_choice": ["a"] * 1_001}, "guided_choice", "at most 1000"),
        ({"regex": "a", "grammar": "b"}, "grammar", "regex and grammar are both given"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs", "are both given"),
    ],
)
def test_what_is_no_constraint_is_refused_by_its_field(body: dict[str, Any], param: str, says: str) -> None:
    error = post(FakeService(), "/v1/completions", prompt="a", **body).json["error"]
    assert error["param"] == param
    assert says in error["message"]


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"response_format": {"type": "text", "typ": 1}}, "response_format.typ"),
        (response_format(schema=SCHEMA, schemas=1), "response_format.json_schema.schemas"),
        ({"structured_outputs": {"json": SCHEMA, "jsn": 1}}, "structured_outputs.jsn"),
        ({"stream": True, "stream_options": {"include_usages": True}}, "stream_options.include_usages"),
    ],
)
def test_an_unknown_field_inside_an_object_is_refused_by_its_path_or_logged(
    body: dict[str, Any], place: str, caplog: pytest.LogCaptureFixture
) -> None:
    error = post(FakeService(), "/v1/completions", prompt="a", **body).json["error"]
    assert error["param"] == place
    assert error["message"].startswith(f"unknown field '{place}'; did you mean ")
    with caplog.at_level(logging.WARNING):
        assert ask(make_door(lenient=True), "POST", "/v1/completions", {"prompt": "a", **body}).status == 200
    assert caplog.messages == [f"ignored the unknown field '{place}'"]


def test_the_reference_tells_what_stands_inside_of_objects_once() -> None:
    section = openai_page().partition("## /v1/completions\n")[2].partition("\n## ")[0]
    for row in (
        "| `stream_options.include_usage` | honoured |",
        "| `stream_options.include_obfuscation` | refused | but for `null`, `false` |",
        "| `response_format.type` | honoured |",
        "| `response_format.json_schema` | honoured |",
        "| `response_format.json_schema.strict` | harmless |",
        "| `structured_outputs.json` | honoured |",
    ):
        assert section.count(row) == 1
    assert "`response_format.json_schema` | refused" not in section
    assert "None" not in section  # a field without a description


def test_defaults_of_fields_that_are_not_served_are_taken_inside_objects_too() -> None:
    service = FakeService()
    body = {
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": False},
        "structured_outputs": {
            "regex": "[0-9]+",
            "disable_any_whitespace": False,
            "whitespace_pattern": None,
        },
    }
    assert post(service, "/v1/completions", prompt="a", **body).status == 200
    assert [request.sampling.constraint for request in service.requests] == [DIGITS]
    body["stream_options"] = {"continuous_usage_stats": True}
    error = post(service, "/v1/completions", prompt="a", **body).json["error"]
    assert error["message"] == "stream_options.continuous_usage_stats is not supported, got True"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("body", "kind", "param"),
    [
        (response_format(schema=SCHEMA), "json_schema", "response_format"),
        ({"guided_choice": ["a"]}, "regex", "guided_choice"),
        ({"grammar": "a"}, "grammar", "grammar"),
    ],
)
def test_a_constraint_that_is_refused_is_told_by_its_field(
    stream: bool, body: dict[str, Any], kind: str, param: str
) -> None:
    service = FakeService()
    service.refusal = InvalidRequest("it can't be enforced: too hard", param=kind)
    answer = post(service, "/v1/completions", prompt="a", stream=stream, **body)
    assert answer.status == 400
    assert answer.json["error"]["param"] == param
    assert answer.json["error"]["message"] == f"{param}: it can't be enforced: too hard"
