"""Tools of a chat: what may be called, and calls streamed and whole, the same to the byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.http.door import FakeService, Script, post

from takeoff.request import Constraint, ConstraintKind, Conversation

PATH = "/v1/chat/completions"
HELLO = {"role": "user", "content": "Hello"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "d", "parameters": SCHEMA, "strict": True},
}
NOW = {"type": "function", "function": {"name": "now"}}
TOOLS = [WEATHER, NOW]
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Genève}"}}\n</tool_call>'
SCRIPTS: dict[str, tuple[Script, str | None, list[tuple[str, str]], str]] = {
    "a call": ((CALL,), None, [("weather", '{"city": "Genève}"}')], "tool_calls"),
    "a call in pieces": (tuple(CALL), None, [("weather", '{"city": "Genève}"}')], "tool_calls"),
    "text and calls": (
        ("Let me", " see.\n", CALL[:9], CALL[9:], "\n" + CALL),
        "Let me see.",
        [("weather", '{"city": "Genève}"}')] * 2,
        "tool_calls",
    ),
    "text": (("No ", "<tool> ", "here. "), "No <tool> here. ", [], "stop"),
}


def asked(**body: Any) -> tuple[list[dict[str, Any]], Constraint | None]:
    """The tools that the model is told of, and what its answer must match."""
    service = FakeService()
    answer = post(service, PATH, **({"messages": [HELLO], "tools": TOOLS} | body))
    assert answer.status == 200, answer.body
    (request,) = service.requests
    assert isinstance(request.prompt, Conversation)
    return request.prompt.tools, request.sampling.constraint


def constraint(*names: str, is_required: bool, is_parallel: bool = True) -> Constraint:
    parameters = {"weather": SCHEMA, "now": NOTHING}
    source = {
        "tools": [{"name": name, "parameters": parameters[name]} for name in names],
        "is_required": is_required,
        "is_parallel": is_parallel,
    }
    return Constraint(ConstraintKind.TOOLS, json.dumps(source))


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({}, constraint("weather", "now", is_required=False)),
        ({"tool_choice": "auto"}, constraint("weather", "now", is_required=False)),
        ({"parallel_tool_calls": False}, constraint("weather", "now", is_required=False, is_parallel=False)),
        ({"tool_choice": "required"}, constraint("weather", "now", is_required=True)),
        (
            {"tool_choice": {"type": "function", "function": {"name": "now"}}},
            constraint("now", is_required=True, is_parallel=False),
        ),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {
                        "mode": "required",
                        "tools": [{"type": "function", "function": {"name": "weather"}}],
                    },
                }
            },
            constraint("weather", is_required=True),
        ),
    ],
)
def test_the_choice_says_what_may_be_called(body: dict[str, Any], wanted: Constraint) -> None:
    told, found = asked(**body)
    assert found == wanted
    assert told == [
        {"type": "function", "function": {"name": "weather", "description": "d", "parameters": SCHEMA}},
        NOW,
    ]


def test_json_may_stand_in_place_of_calls_unless_they_are_required() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    _, found = asked(response_format=form)
    _, without = asked()
    assert found is not None
    assert without is not None
    assert json.loads(found.source) == {**json.loads(without.source), "response": json.dumps(SCHEMA)}
    assert asked(response_format=form, tool_choice="required") == asked(tool_choice="required")
    _, of_text = asked(response_format=form, tool_choice="none")
    assert of_text == Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(SCHEMA))


@pytest.mark.parametrize(
    "body", [{"tool_choice": "none"}, {"tools": []}, {"tools": None, "tool_choice": "auto"}]
)
def test_without_tools_nothing_is_told_and_nothing_constrained(body: dict[str, Any]) -> None:
    assert asked(**body) == ([], None)


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"tools": [NOW] * 129}, "tools", "at most 128 tools, got 129"),
        ({"tools": [NOW, NOW]}, "tools", "two functions 'now'"),
        ({"tools": [{"type": "custom"}]}, "tools[0]", "of the type function"),
        (
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
            "tools[0].function.name",
            "1 to 64 of",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "array"}}}]},
            "tools[0].function.parameters",
            "the schema of an object",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameter": {}}}]},
            "tools[0].function.parameter",
            "did you mean 'parameters'?",
        ),
        ({"tool_choice": "always"}, "tool_choice", "got 'always'"),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice", "names 'x'"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice", "there are no tools"),
        ({"regex": "a"}, "regex", "both given"),
    ],
)
def test_what_cannot_be_called_is_refused_with_its_place(body: dict[str, Any], param: str, says: str) -> None:
    answer = post(FakeService(), PATH, **({"messages": [HELLO], "tools": TOOLS} | body))
    assert answer.status == 400
    assert answer.json["error"]["param"] == param
    assert says in answer.json["error"]["message"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_stream_put_together_is_the_whole_answer(name: str) -> None:
    script, content, calls, reason = SCRIPTS[name]
    body = {"messages": [HELLO], "tools": TOOLS, "n": 2}
    whole = post(FakeService(script), PATH, **body).json["choices"]
    *chunks, done = post(FakeService(script), PATH, **body, stream=True).events()
    assert done == "[DONE]"
    for index in (0, 1):
        message = whole[index]["message"]
        told = message.get("tool_calls", [])
        assert (message["content"], whole[index]["finish_reason"]) == (content, reason)
        assert [(call["function"]["name"], call["function"]["arguments"]) for call in told] == calls
        ids = [call["id"] for call in told]
        assert all(len(each) == 9 and each.isalnum() for each in ids)
        assert len(set(ids)) == len(ids)
        choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert choices[0]["delta"] == {"role": "assistant", "content": ""}
        assert (choices[-1]["delta"], choices[-1]["finish_reason"]) == ({}, reason)
        assert "".join(choice["delta"].get("content") or "" for choice in choices) == (content or "")
        assembled: list[list[str]] = []
        for choice in choices:
            for delta in choice["delta"].get("tool_calls", []):
                if "id" in delta:
                    assert delta["index"] == len(assembled)
                    assembled.append([delta["function"]["name"], ""])
                assembled[delta["index"]][1] += delta["function"]["arguments"]
        assert [tuple(each) for each in assembled] == calls


def test_without_tools_a_text_that_looks_like_a_call_is_text() -> None:
    answer = post(FakeService((CALL,)), PATH, messages=[HELLO])
    assert answer.json["choices"][0]["message"] == {"role": "assistant", "content": CALL, "refusal": None}
