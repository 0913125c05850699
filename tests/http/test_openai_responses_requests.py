"""What /v1/responses makes of a body: the conversation, the fields, and what is refused by its name."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from openai.types.responses import response_create_params
from tests.http.door import FakeService, ask, make_door, post

from takeoff.http.openai.responses.body import ResponsesBody
from takeoff.request import Constraint, ConstraintKind, Conversation, Request, SamplingParams

PATH = "/v1/responses"
HELLO = {"role": "user", "content": "Hello"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "name": "weather", "description": "d", "parameters": SCHEMA, "strict": True}
NOW = {"type": "function", "name": "now", "parameters": None, "strict": None}
TOLD_WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "d", "parameters": SCHEMA},
}
CALL = {"type": "function_call", "call_id": "abcdefghi", "name": "f", "arguments": "{"}
RESULT = {"type": "function_call_output", "call_id": "abcdefghi", "output": "12"}
TOLD_CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": "{"}}
TOLD_RESULT = {"role": "tool", "tool_call_id": "abcdefghi", "content": "12"}
IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"}
THOUGHT = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}


def asked(**body: Any) -> Request:
    service = FakeService()
    answer = post(service, PATH, **({"input": "Hello"} | body))
    assert answer.status == 200, answer.body
    (request,) = service.requests
    return request


def refused(**body: Any) -> dict[str, Any]:
    service = FakeService()
    answer = post(service, PATH, **({"input": "Hello"} | body))
    assert answer.status == 400, answer.body
    assert service.requests == []
    return dict(answer.json["error"])


def sent(*items: dict[str, Any], **body: Any) -> list[dict[str, Any]]:
    """The messages as the service got them."""
    prompt = asked(input=list(items), **body).prompt
    assert isinstance(prompt, Conversation)
    return prompt.messages


def schema_constraint(schema: dict[str, Any]) -> dict[str, Any]:
    return {"constraint": Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(schema))}


@pytest.mark.parametrize(
    ("body", "ours"),
    [
        ({}, {}),
        ({"max_output_tokens": 7}, {"max_new_tokens": 7}),
        ({"temperature": 0, "top_p": 0.5}, {"temperature": 0.0, "top_p": 0.5}),
        (
            {"top_k": 4, "min_p": 0.1, "seed": 3, "stop": ["a"]},
            {"top_k": 4, "min_p": 0.1, "seed": 3, "stop": ("a",)},
        ),
        ({"seed": -1}, {"seed": 2**64 - 1}),
        ({"regex": "a|b"}, {"constraint": Constraint(ConstraintKind.REGEX, "a|b")}),
        ({"text": {"format": {"type": "text"}, "verbosity": "medium"}}, {}),
        ({"text": {"format": {"type": "json_object"}}}, schema_constraint({"type": "object"})),
        (
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": False}}},
            schema_constraint(SCHEMA),
        ),
        ({"top_logprobs": 0}, {}),
        ({"top_logprobs": 3}, {"logprobs": 3}),
        ({"include": ["message.output_text.logprobs"]}, {"logprobs": 0}),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 2}, {"logprobs": 2}),
        ({"include": ["reasoning.encrypted_content"], "max_tool_calls": 3}, {}),
        ({"user": "u", "metadata": {"a": "b"}, "safety_identifier": "s", "prompt_cache_key": "k"}, {}),
        ({"prompt_cache_retention": "24h", "prompt_cache_options": {"mode": "explicit", "ttl": "30m"}}, {}),
        ({"store": False, "service_tier": "auto", "truncation": "disabled", "background": False}, {}),
        ({"previous_response_id": None, "conversation": None, "prompt": None, "tools": [], "text": {}}, {}),
        ({"stream": True, "stream_options": {"include_obfuscation": False}}, {}),
    ],
)
def test_each_field_reaches_the_sampler(body: dict[str, Any], ours: dict[str, Any]) -> None:
    assert asked(**body) == Request(
        prompt=Conversation(messages=[HELLO]), sampling=SamplingParams(**ours), group="primary"
    )


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("previous_response_id", "resp_1", "send the items of the conversation so far"),
        ("conversation", "conv_1", "send the conversation's items as input"),
        ("store", True, "nothing is stored"),
        ("background", True, "wait for the answer, or stream it"),
        ("truncation", "auto", "send a shorter input"),
        ("prompt", {"id": "pmpt_1"}, "as instructions and input"),
        ("context_management", [{"type": "compaction"}], "send a shorter input"),
        ("moderation", {"model": "x"}, "not supported"),
        ("service_tier", "flex", "not supported"),
        ("max_output_tokens", 0, "greater than or equal to 1"),
        ("top_logprobs", 21, "less than or equal to 20"),
        ("include", ["everything"], "message.output_text.logprobs"),
        ("text", {"format": {"type": "json_schema", "name": "x"}}, "Field required"),
        ("text", {"format": {"type": "grammar"}}, "json_schema"),
        ("stream_options", {"include_obfuscation": False}, "needs stream to be true"),
        ("reasoning", {"effort": "hard"}, "'none', 'minimal', 'low', 'medium'"),
        ("metadata", {str(i): "" for i in range(17)}, "16"),
        ("input", [], "1 to 4096 items, got 0"),
        ("input", [HELLO] * 4_097, "1 to 4096 items, got 4097"),
        ("input", 5, "valid string"),
        ("instructions", ["Be brief."], "valid string"),
        ("min_tokens", 5, "more than max_output_tokens, 3"),
        ("n", 2, "send the request so many times"),
        ("response_format", {"type": "text"}, "use text.format"),
        ("max_tokens", 5, "use max_output_tokens"),
        ("messages", [HELLO], "use input"),
        ("max_output_token", 5, "unknown field 'max_output_token'; did you mean 'max_output_tokens'?"),
    ],
)
def test_what_is_not_served_is_refused_by_its_name(field: str, value: object, says: str) -> None:
    body = {"max_output_tokens": 3} if field == "min_tokens" else {}
    error = refused(**body, **{field: value})
    assert error["param"] == field
    assert says in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"text": {"verbosity": "low"}}, "text.verbosity", "is not supported, got 'low'"),
        ({"text": {"formats": {}}}, "text.formats", "did you mean 'format'?"),
        (
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": {}, "strct": True}}},
            "text.format.strct",
            "did you mean 'strict'?",
        ),
        ({"reasoning": {"summary": "detailed"}}, "reasoning.summary", "the thought is told as it is"),
        ({"reasoning": {"efort": "low"}}, "reasoning.efort", "did you mean 'effort'?"),
        ({"prompt_cache_options": {"prewarm": True}}, "prompt_cache_options.prewarm", "is not supported"),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
            "is not supported",
        ),
        (
            {"stream": True, "stream_options": {"include_usage": True}},
            "stream_options.include_usage",
            "unknown field",
        ),
    ],
)
def test_what_objects_have_is_refused_by_its_path(body: dict[str, Any], param: str, says: str) -> None:
    error = refused(**body)
    assert error["param"] == param
    assert says in error["message"]


def test_a_model_is_told_how_hard_to_think() -> None:
    prompt = asked(reasoning={"effort": "low", "summary": "auto"}).prompt
    assert prompt == Conversation(messages=[HELLO], reasoning_effort="low")


def test_a_lenient_server_logs_unknown_fields_wherever_they_are(caplog: pytest.LogCaptureFixture) -> None:
    body = {"input": [HELLO | {"colour": "red"}], "tempo": 1}
    with caplog.at_level(logging.WARNING):
        assert ask(make_door(lenient=True), "POST", PATH, body).status == 200
    assert caplog.messages == [
        "ignored the unknown field 'tempo'",
        "ignored the unknown field 'input[0].colour'",
    ]


def test_a_text_is_a_users_and_instructions_are_the_systems() -> None:
    prompt = asked(input="Hi", instructions="Be brief.", chat_template_kwargs={"a": 1}).prompt
    assert prompt == Conversation(
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        template_values={"a": 1},
    )


def test_a_whole_conversation_reaches_the_template() -> None:
    said = {"type": "output_text", "text": "Let me see.", "annotations": [], "logprobs": []}
    assert sent(
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Now?"}]},
        THOUGHT | {"id": "rs_1", "status": "completed", "encrypted_content": None},
        {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [said]},
        CALL | {"id": "fc_1", "status": "completed"},
        CALL | {"call_id": "123456789"},
        RESULT | {"id": None},
        RESULT | {"call_id": "123456789", "output": [{"type": "input_text", "text": "13"}], "name": "f"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "I won't."}], "phase": None},
        HELLO,
    ) == [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Now?"}]},
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "Let me see."}],
            "reasoning_content": "hm",
            "tool_calls": [TOLD_CALL, TOLD_CALL | {"id": "123456789"}],
        },
        TOLD_RESULT,
        {
            "role": "tool",
            "tool_call_id": "123456789",
            "content": [{"type": "text", "text": "13"}],
            "name": "f",
        },
        {"role": "assistant", "content": [{"type": "text", "text": "I won't."}]},
        HELLO,
    ]


def test_images_go_with_the_request_in_their_order() -> None:
    other = IMAGE | {"image_url": "data:image/jpeg;base64,/+8="}
    text = {"type": "input_text", "text": "Compare"}
    items = [{"role": "user", "content": [text, IMAGE, other]}, CALL, RESULT | {"output": [IMAGE]}]
    request = asked(input=items)
    assert request.images == (b"\0\0\0", b"\xff\xef", b"\0\0\0")
    assert isinstance(request.prompt, Conversation)
    hole = {"type": "image"}
    told = [message["content"] for message in request.prompt.messages]
    assert told == [[{"type": "text", "text": "Compare"}, hole, hole], "", [hole]]


@pytest.mark.parametrize(
    ("items", "wanted"),
    [
        (
            [CALL, {"role": "assistant", "content": "Wait."}, RESULT],
            [{"role": "assistant", "content": "Wait.", "tool_calls": [TOLD_CALL]}, TOLD_RESULT],
        ),
        (
            [THOUGHT, CALL, THOUGHT, RESULT],
            [
                {
                    "role": "assistant",
                    "content": "",
                    "reasoning_content": "hm\nhm",
                    "tool_calls": [TOLD_CALL],
                },
                TOLD_RESULT,
            ],
        ),
        (
            [CALL, RESULT, CALL, RESULT],
            [{"role": "assistant", "content": "", "tool_calls": [TOLD_CALL]}, TOLD_RESULT] * 2,
        ),
        (
            [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}],
            [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}],
        ),
        (
            [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "so"}]}, HELLO],
            [{"role": "assistant", "content": "", "reasoning_content": "so"}, HELLO],
        ),
        ([{"type": "reasoning", "summary": []}, HELLO], [HELLO]),
    ],
)
def test_what_an_assistant_says_and_calls_in_one_turn_is_one_message(
    items: list[dict[str, Any]], wanted: list[dict[str, Any]]
) -> None:
    assert sent(*items) == wanted


@pytest.mark.parametrize(
    ("item", "param", "says"),
    [
        ("hi", "input[0]", "must be an object"),
        ({"role": "tool", "content": "a"}, "input[0].role", "one of user, assistant, system, developer"),
        ({"role": "user"}, "input[0].content", "a text or 1 to 1024 parts, got None"),
        ({"role": "user", "content": []}, "input[0].content", "a text or 1 to 1024 parts"),
        (
            {"role": "user", "content": [{"type": "output_text", "text": "a"}]},
            "input[0].content[0].type",
            "only parts of the type input_text, input_image are read, not 'output_text'",
        ),
        (
            {"role": "system", "content": [IMAGE]},
            "input[0].content[0].type",
            "only parts of the type input_text are read, not 'input_image'",
        ),
        (
            {"role": "user", "content": [IMAGE | {"image_url": "https://example.com/cat.png"}]},
            "input[0].content[0].image_url",
            "because this server fetches nothing",
        ),
        (
            {"role": "user", "content": [IMAGE | {"detail": "high"}]},
            "input[0].content[0].detail",
            "in the one way of its model",
        ),
        (
            {"role": "user", "content": [{"type": "input_image", "file_id": "file_1"}]},
            "input[0].content[0].file_id",
            "send the image itself",
        ),
        ({"role": "user", "content": [IMAGE] * 17}, "input[0].content[16]", "at most 16 images"),
        ({"role": "user", "content": [{"type": "input_text"}]}, "input[0].content[0].text", "must be a text"),
        ({"role": "user", "content": "a", "contents": "b"}, "input[0].contents", "did you mean 'content'?"),
        (
            {"type": "item_reference", "id": "msg_1"},
            "input[0].type",
            "nothing is stored: send the item itself",
        ),
        (
            {"type": "computer_call", "id": "cu_1"},
            "input[0].type",
            "only items of the type message, function_call, function_call_output, reasoning are read",
        ),
        (
            THOUGHT | {"encrypted_content": "gAAA"},
            "input[0].encrypted_content",
            "only who wrote it can read it",
        ),
        (CALL | {"call_id": ""}, "input[0].call_id", "1 to 256 characters"),
        (CALL | {"name": None}, "input[0].name", "1 to 256 characters"),
        (CALL | {"arguments": {}}, "input[0].arguments", "must be a text"),
        (CALL | {"namespace": "crm"}, "input[0].namespace", "is not supported"),
        (RESULT | {"output": None}, "input[0].output", "a text or 1 to 1024 parts"),
        (RESULT | {"status": 5}, "input[0].status", "of the type str"),
        (CALL, "input[0]", "let the results of the calls follow it"),
    ],
)
def test_a_wrong_item_is_refused_with_its_place(item: object, param: str, says: str) -> None:
    error = refused(input=[item])
    assert error["param"] == param
    assert says in error["message"]


def test_a_deep_item_is_refused() -> None:
    deep: Any = "x"
    for _ in range(70):
        deep = [deep]
    assert refused(input=[{"role": "user", "content": deep}])["param"] == "input"


@pytest.mark.parametrize(
    ("body", "names", "is_required"),
    [
        ({}, ["weather", "now"], False),
        ({"tool_choice": "auto"}, ["weather", "now"], False),
        ({"tool_choice": "required"}, ["weather", "now"], True),
        ({"tool_choice": {"type": "function", "name": "now"}}, ["now"], True),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "required",
                    "tools": [{"type": "function", "name": "weather"}],
                }
            },
            ["weather"],
            True,
        ),
    ],
)
def test_tools_lie_flat(body: dict[str, Any], names: list[str], is_required: bool) -> None:
    request = asked(tools=[WEATHER, NOW], **body)
    assert isinstance(request.prompt, Conversation)
    assert request.prompt.tools == [TOLD_WEATHER, {"type": "function", "function": {"name": "now"}}]
    constraint = request.sampling.constraint
    assert constraint is not None
    assert constraint.kind is ConstraintKind.TOOLS
    source = json.loads(constraint.source)
    assert [tool["name"] for tool in source["tools"]] == names
    assert source["is_required"] is is_required


def test_in_the_place_of_calls_json_of_the_texts_format_may_stand() -> None:
    text = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}
    constraint = asked(tools=[NOW], text=text).sampling.constraint
    assert constraint is not None
    assert constraint.kind is ConstraintKind.TOOLS
    assert json.loads(constraint.source)["response"] == json.dumps(SCHEMA)


def test_without_a_choice_of_them_tools_are_not_told() -> None:
    assert asked(tools=[WEATHER], tool_choice="none") == asked()


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "not 'web_search' (this server runs no tools"),
        ({"tools": [NOW, {"type": "custom", "name": "x"}]}, "tools[1].type", "not 'custom'"),
        ({"tools": ["now"]}, "tools[0]", "must be an object"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name", "1 to 64 of a-z"),
        (
            {"tools": [{"type": "function", "function": {"name": "now"}}]},
            "tools[0].function",
            "unknown field 'tools[0].function'",
        ),
        ({"tools": [NOW | {"parameters": []}]}, "tools[0].parameters", "the schema of an object"),
        ({"tools": [NOW | {"defer_loading": True}]}, "tools[0].defer_loading", "is not supported"),
        ({"tools": [NOW, NOW]}, "tools", "two functions 'now'"),
        ({"tools": [{"type": "web_search"}] * 129}, "tools", "at most 128 tools, got 129"),
        ({"tools": [NOW | {"parameters": {"a": "\ud800"}}]}, "tools", "tools is no JSON"),
        (
            {"tools": [NOW], "tool_choice": {"type": "function", "name": "x"}},
            "tool_choice",
            "names 'x', and tools has now",
        ),
        (
            {"tools": [NOW], "tool_choice": {"type": "file_search"}},
            "tool_choice",
            "got {'type': 'file_search'}",
        ),
        (
            {"tools": [NOW], "tool_choice": {"type": "function", "name": "now", "why": 1}},
            "tool_choice.why",
            "unknown field",
        ),
        (
            {"tools": [NOW], "regex": "a"},
            "regex",
            'and one of them constrains the answer (send tool_choice "none")',
        ),
        (
            {"regex": "a", "text": {"format": {"type": "json_object"}}},
            "regex",
            "text.format and regex are both given",
        ),
    ],
)
def test_what_cannot_be_called_is_refused_with_its_place(body: dict[str, Any], param: str, says: str) -> None:
    error = refused(**body)
    assert error["param"] == param
    assert says in error["message"]


def test_every_field_of_openais_schema_has_a_class() -> None:
    fields = set(response_create_params.ResponseCreateParamsBase.__annotations__)
    assert fields <= {*ResponsesBody.model_fields, *ResponsesBody.unserved}
    assert all(field.description for field in ResponsesBody.model_fields.values())
    assert not ResponsesBody.unserved.keys() & ResponsesBody.model_fields.keys()
