"""/v1/messages: what a conversation is told as, what is refused, and the answer, whole and in events."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from tests.http.door import (
    Answer,
    Connection,
    FakeService,
    Script,
    ask,
    broken_script,
    make_door,
    make_scope,
    post,
)
from typer.testing import CliRunner

from takeoff.cli.config import config_app
from takeoff.errors import InvalidRequest
from takeoff.http.anthropic.bodies import HARMLESS, CountTokensBody, MessagesBody
from takeoff.http.anthropic.messages import BLOCKS
from takeoff.http.anthropic.reference import anthropic_page
from takeoff.request import (
    Constraint,
    ConstraintKind,
    Conversation,
    FinishReason,
    Request,
    SamplingParams,
)
from takeoff.thoughts import ThoughtFormat, ThoughtStart

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "anthropic.md"
PATH = "/v1/messages"
COUNT = f"{PATH}/count_tokens"
PNG = b"\x89PNG and so on"
SOURCE = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(PNG).decode()}
IMAGE = {"type": "image", "source": SOURCE}
HELLO = {"role": "user", "content": "Hello"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"name": "weather", "description": "d", "input_schema": SCHEMA}
TOLD_WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "d", "parameters": SCHEMA},
}
NOW = {"name": "now", "input_schema": {"type": "object"}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Genève}"}}\n</tool_call>'
USE = {"type": "tool_use", "id": "toolu_abcdefghi", "name": "weather", "input": {"city": "Genève"}}
USED = {
    "id": "abcdefghi",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Genève"}'},
}


def sent(**body: Any) -> dict[str, Any]:
    return {"max_tokens": 16, "messages": [HELLO]} | body


def asked(**body: Any) -> Request:
    """What the service is asked for."""
    service = FakeService()
    answer = post(service, PATH, **sent(**body))
    assert answer.status == 200, answer.body
    (request,) = service.requests
    return request


def conversation(**body: Any) -> Conversation:
    prompt = asked(**body).prompt
    assert isinstance(prompt, Conversation)
    return prompt


def told(*messages: Any, system: Any = None) -> list[dict[str, Any]]:
    """The messages that the template is given."""
    return conversation(messages=list(messages), system=system).messages


def message_of_error(answer: Answer, status: int = 400, kind: str = "invalid_request_error") -> str:
    assert answer.status == status, answer.body
    body = answer.json
    assert body.keys() == {"type", "error", "request_id"}
    assert body["type"] == "error"
    assert body["error"].keys() == {"type", "message"}
    assert body["error"]["type"] == kind
    assert body["request_id"] == answer.headers["request-id"]
    assert body["request_id"].startswith("req_")
    return str(body["error"]["message"])


def refusal(**body: Any) -> str:
    service = FakeService()
    message = message_of_error(post(service, PATH, **sent(**body)))
    assert not service.requests
    return message


def events_of(answer: Answer) -> list[dict[str, Any]]:
    """The events of a stream; each has its type as its name."""
    events = []
    for block in answer.body.decode().split("\n\n")[:-1]:
        kind, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert kind == f"event: {events[-1]['type']}"
    return events


def put_together(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a stream makes, as the package puts it together; ids of calls are left out."""
    first, *others = [event for event in events if event["type"] != "ping"]
    assert first["type"] == "message_start"
    message: dict[str, Any] = {**first["message"]}
    content: list[dict[str, Any]] = []
    raw = ""
    for event in others:
        match event:
            case {"type": "content_block_start", "index": index, "content_block": block}:
                assert index == len(content)
                content.append(dict(block))
                raw = ""
            case {"type": "content_block_delta", "index": index, "delta": {"type": kind, **delta}}:
                assert index == len(content) - 1
                if kind == "input_json_delta":
                    raw += delta["partial_json"]
                else:
                    content[-1][kind.removesuffix("_delta")] += delta[kind.removesuffix("_delta")]
            case {"type": "content_block_stop", "index": index}:
                assert index == len(content) - 1
                if content[-1]["type"] == "tool_use":
                    content[-1]["input"] = json.loads(raw)
            case {"type": "message_delta", "delta": delta, "usage": usage}:
                message |= {**delta, "usage": usage}
    assert others[-1]["type"] == "message_stop"
    return message | {"content": content}


def without_ids(message: dict[str, Any]) -> dict[str, Any]:
    content = [{name: block[name] for name in block if name != "id"} for block in message["content"]]
    return {**message, "id": "", "content": content}


# --- What the model is told ---


def test_text_and_blocks_become_the_conversation() -> None:
    cached = {"type": "text", "text": "one", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    assert told(
        {"role": "user", "content": [cached, {"type": "text", "text": "two", "citations": None}]},
        {"role": "assistant", "content": "three"},
        {"role": "system", "content": "four"},
        HELLO,
        system=[cached],
    ) == [
        {"role": "system", "content": [{"type": "text", "text": "one"}]},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": "three"},
        {"role": "system", "content": "four"},
        HELLO,
    ]
    assert told(HELLO, system="be brief") == [{"role": "system", "content": "be brief"}, HELLO]
    assert told(HELLO, system="") == told(HELLO, system=[]) == [HELLO]


def test_calls_and_their_results_become_messages_of_their_own() -> None:
    results = [
        {"type": "tool_result", "tool_use_id": USE["id"], "content": "rain"},
        {
            "type": "tool_result",
            "tool_use_id": "toolu_01D7FLrfh4GYq7yT1ULFeyMV",
            "content": [{"type": "text", "text": "no clock"}],
            "is_error": True,
            "cache_control": {"type": "ephemeral"},
        },
        {"type": "text", "text": "And?"},
    ]
    now = {
        "type": "tool_use",
        "id": "toolu_01D7FLrfh4GYq7yT1ULFeyMV",
        "name": "now",
        "input": {},
        "caller": {"type": "direct"},
    }
    thought = {"type": "thinking", "thinking": "Two calls.", "signature": ""}
    messages = told(
        HELLO,
        {"role": "assistant", "content": [thought, {"type": "text", "text": "I see."}, USE, now]},
        {"role": "user", "content": results},
    )
    own, other = messages[1]["tool_calls"]
    assert messages[1] == {
        "role": "assistant",
        "content": [{"type": "text", "text": "I see."}],
        "tool_calls": [USED, other],
        "reasoning_content": "Two calls.",
    }
    assert (own["id"], len(other["id"]), other["id"].isalnum()) == ("abcdefghi", 9, True)
    assert messages[2:] == [
        {"role": "tool", "content": "rain", "tool_call_id": "abcdefghi", "name": "weather"},
        {
            "role": "tool",
            "content": [{"type": "text", "text": "Error:"}, {"type": "text", "text": "no clock"}],
            "tool_call_id": other["id"],
            "name": "now",
        },
        {"role": "user", "content": [{"type": "text", "text": "And?"}]},
    ]


@pytest.mark.parametrize("content", [None, "", []])
def test_a_result_may_be_empty(content: Any) -> None:
    result = {"type": "tool_result", "tool_use_id": USE["id"], "content": content}
    failed = result | {"is_error": True}
    messages = told(
        HELLO, {"role": "assistant", "content": [USE]}, {"role": "user", "content": [result, failed]}
    )
    assert [each["content"] for each in messages[2:]] == ["", [{"type": "text", "text": "Error:"}]]


def test_images_stand_where_their_blocks_do() -> None:
    other = {"type": "image", "source": SOURCE | {"data": base64.b64encode(b"other").decode()}}
    result = {"type": "tool_result", "tool_use_id": USE["id"], "content": [other]}
    asks = [{"type": "text", "text": "What is"}, IMAGE, {"type": "text", "text": "this?"}]
    request = asked(
        messages=[
            {"role": "user", "content": asks},
            {"role": "assistant", "content": [USE]},
            {"role": "user", "content": [result]},
        ]
    )
    assert request.images == (PNG, b"other")
    assert isinstance(request.prompt, Conversation)
    contents = [message["content"] for message in request.prompt.messages]
    assert contents == [[asks[0], {"type": "image"}, asks[2]], "", [{"type": "image"}]]


def test_a_model_that_reads_no_images_refuses_them_by_the_field() -> None:
    service = FakeService()
    service.refusal = InvalidRequest("the reader reads no images", param="image_data")
    answer = post(service, PATH, **sent(messages=[{"role": "user", "content": [IMAGE]}]))
    assert message_of_error(answer) == "messages: the reader reads no images"


def test_messages_of_one_role_that_follow_each_other_are_one() -> None:
    one, two = ({"type": "text", "text": text} for text in ("one", "two"))
    assert told(
        {"role": "user", "content": "one"},
        {"role": "user", "content": [two]},
        {"role": "assistant", "content": [USE]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, two]},
        HELLO,
    ) == [
        {"role": "user", "content": [one, two]},
        {"role": "assistant", "content": [two], "tool_calls": [USED], "reasoning_content": "hm"},
        HELLO,
    ]


def test_an_assistants_last_message_stays_the_last() -> None:
    assert told(HELLO, {"role": "assistant", "content": "It is"})[-1] == {
        "role": "assistant",
        "content": "It is",
    }
    assert told(HELLO, {"role": "assistant", "content": []}, HELLO)[1] == {
        "role": "assistant",
        "content": "",
    }


def test_what_chooses_the_tokens_is_handed_on() -> None:
    assert asked(
        temperature=0.5, top_p=0.9, top_k=7, stop_sequences=["\n\n", "END"], max_tokens=5, model="smollm2"
    ) == Request(
        prompt=Conversation(messages=[HELLO]),
        sampling=SamplingParams(temperature=0.5, top_p=0.9, top_k=7, stop=("\n\n", "END"), max_new_tokens=5),
        group="smollm2",
    )
    assert asked(temperature=None, top_p=None, top_k=None, stop_sequences=None) == Request(
        prompt=Conversation(messages=[HELLO]), sampling=SamplingParams(max_new_tokens=16)
    )


@pytest.mark.parametrize(
    ("thinking", "effort", "told_effort", "values"),
    [
        (None, None, None, {}),
        ("adaptive", None, None, {}),
        ("adaptive", "high", None, {"reasoning_effort": "high"}),
        (None, "low", "low", {}),
        ("disabled", None, "none", {}),
        ("disabled", "high", "none", {}),
        ("enabled", None, "medium", {}),
        ("enabled", "max", "max", {}),
    ],
)
def test_how_hard_to_think_is_told_to_the_template(
    thinking: str | None, effort: str | None, told_effort: str | None, values: dict[str, Any]
) -> None:
    kind = {"type": thinking} | ({"budget_tokens": 1_024} if thinking == "enabled" else {})
    prompt = conversation(thinking=kind if thinking else None, output_config={"effort": effort})
    assert (prompt.reasoning_effort, prompt.template_values) == (told_effort, values)


@pytest.mark.parametrize(("effort", "field"), [(None, "thinking"), ("max", "output_config.effort")])
def test_a_thought_that_the_model_cannot_have_is_refused_by_the_field(effort: str | None, field: str) -> None:
    service = FakeService()
    service.refusal = InvalidRequest("its model does not think", param="reasoning_effort")
    thinking = {"type": "enabled", "budget_tokens": 1_024}
    answer = post(service, PATH, **sent(thinking=thinking, output_config={"effort": effort}))
    assert message_of_error(answer) == f"{field}: its model does not think"


def use_of(*names: str, is_required: bool, is_parallel: bool = True) -> Constraint:
    schemas = {"weather": SCHEMA, "now": {"type": "object"}}
    source = {
        "tools": [{"name": name, "parameters": schemas[name]} for name in names],
        "is_required": is_required,
        "is_parallel": is_parallel,
    }
    return Constraint(ConstraintKind.TOOLS, json.dumps(source))


@pytest.mark.parametrize(
    ("choice", "constraint"),
    [
        (None, use_of("weather", "now", is_required=False)),
        ({"type": "auto"}, use_of("weather", "now", is_required=False)),
        (
            {"type": "auto", "disable_parallel_tool_use": True},
            use_of("weather", "now", is_required=False, is_parallel=False),
        ),
        (
            {"type": "any", "disable_parallel_tool_use": False},
            use_of("weather", "now", is_required=True),
        ),
        ({"type": "tool", "name": "now"}, use_of("now", is_required=True, is_parallel=False)),
    ],
)
def test_the_choice_says_which_tools_may_be_called(choice: Any, constraint: Constraint) -> None:
    request = asked(tools=[WEATHER, NOW], tool_choice=choice)
    assert request.sampling.constraint == constraint
    assert isinstance(request.prompt, Conversation)
    told_now = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}
    assert request.prompt.tools == [TOLD_WEATHER, told_now]


@pytest.mark.parametrize("body", [{"tools": []}, {"tools": [WEATHER], "tool_choice": {"type": "none"}}])
def test_without_tools_to_call_none_is_told(body: dict[str, Any]) -> None:
    request = asked(**body)
    assert request == asked()


@pytest.mark.parametrize("field", ["output_config", "output_format"])
def test_a_schema_constrains_the_answer(field: str) -> None:
    form = {"type": "json_schema", "schema": SCHEMA}
    constraint = asked(**{field: {"format": form} if field == "output_config" else form}).sampling.constraint
    assert constraint == Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(SCHEMA))


def test_beside_tools_a_schema_is_of_an_answer_that_calls_none() -> None:
    form = {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}, "tools": [NOW]}
    wanted = use_of("now", is_required=False)
    source = json.loads(wanted.source) | {"response": json.dumps(SCHEMA)}
    assert asked(**form).sampling.constraint == Constraint(ConstraintKind.TOOLS, json.dumps(source))
    required = asked(**form, tool_choice={"type": "any"}).sampling.constraint
    assert required == use_of("now", is_required=True)


# --- What is harmless, and what is refused ---

AGENT: dict[str, Any] = {
    "model": "smollm2",
    "max_tokens": 32_000,
    "stream": True,
    "temperature": 1,
    "system": [
        {"type": "text", "text": "You are an agent.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Be careful.", "cache_control": {"type": "ephemeral", "scope": "global"}},
    ],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "<system-reminder>\nToday.\n</system-reminder>"},
                {"type": "text", "text": "List the files.", "cache_control": {"type": "ephemeral"}},
            ],
        }
    ],
    "tools": [
        {
            "name": f"Tool_{number}",
            "description": "Does a thing.",
            "input_schema": {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "type": "object",
                "properties": {"path": {"type": "string"}, "limit": {"type": "integer"}},
                "required": ["path"],
                "additionalProperties": False,
            },
            "cache_control": {"type": "ephemeral"} if number == 19 else None,
            "eager_input_streaming": True,
            "strict": True,
            "type": "custom",
            "defer_loading": False,
            "allowed_callers": ["direct"],
        }
        for number in range(20)
    ],
    "metadata": {"user_id": "user_0123_account__session_4567"},
    "thinking": {"type": "adaptive", "display": "summarized"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "high"},
    "service_tier": "auto",
    "cache_control": {"type": "ephemeral"},
    "mcp_servers": [],
    "speed": "standard",
}
BETAS = [(b"anthropic-beta", b"interleaved-thinking-2025-05-14"), (b"anthropic-version", b"2023-06-01")]


def test_what_an_agent_sends_is_taken() -> None:
    service = FakeService()
    answer = ask(make_door(service), "POST", f"{PATH}?beta=true", AGENT, BETAS)
    assert answer.status == 200, answer.body
    assert put_together(events_of(answer))["content"] == [{"type": "text", "text": "Hello wörld!"}]
    (request,) = service.requests
    assert isinstance(request.prompt, Conversation)
    assert len(request.prompt.tools) == 20
    assert [message["role"] for message in request.prompt.messages] == ["system", "user"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
        ({"temperature": 1.5}, "temperature: Input should be less than or equal to 1"),
        ({"stop_sequences": [""]}, "stop_sequences: stop strings must have 1 to 1000 characters, got 0"),
        ({"stop_sequences": ["a"] * 33}, "stop_sequences: List should have at most 32 items"),
        ({"messages": []}, "1 to 4096 messages, got 0"),
        ({"max_token": 5}, "unknown field 'max_token'; did you mean 'max_tokens'?"),
        ({"seed": 5}, "unknown field 'seed'"),
        ({"inference_geo": "us"}, "inference_geo is not supported, got 'us'"),
        ({"service_tier": "priority"}, "service_tier is not supported"),
        ({"container": "c"}, "container is not supported"),
        ({"mcp_servers": [{}]}, "mcp_servers is not supported"),
        ({"context_management": {"edits": [{"type": "compact_20260112"}]}}, "context_management is not"),
        ({"output_config": {"effort": "hard"}}, "output_config.effort: Input should be 'low', 'medium'"),
        (
            {"output_config": {"effort": "low"}, "thinking": {"type": "disabled"}},
            "output_config.effort is 'low', and thinking is disabled",
        ),
        ({"output_config": {"task_budget": {}}}, "output_config.task_budget is not supported"),
        ({"output_config": {"format": {"type": "grammar"}}}, "output_config.format.type: Input should be"),
        ({"thinking": {"type": "enabled"}}, "thinking.enabled.budget_tokens: Field required"),
        ({"thinking": {"type": "adaptive", "budget_tokens": 9}}, "thinking.budget_tokens is not supported"),
        ({"thinking": {"type": "adaptive", "displai": 9}}, "'thinking.displai'; did you mean 'display'?"),
        ({"thinking": {"type": "between_tools"}}, "thinking: Input tag 'between_tools'"),
        ({"system": [IMAGE]}, "system[0]: only blocks of the type text are read, not 'image'"),
        ({"system": 5}, "system must be a text or up to 1024 blocks, got 5"),
        ({"metadata": {"user_id": 5}}, "metadata.user_id: Input should be a valid string"),
        ({"tools": [WEATHER] * 2}, "tools has two functions 'weather'"),
        ({"tools": [NOW] * 129}, "at most 128 tools, got 129"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "not 'web_search_20250305'"),
        ({"tools": [{"name": "a b", "input_schema": SCHEMA}]}, "tools[0].name must be 1 to 64 of"),
        ({"tools": [{"name": "a"}]}, "tools[0].input_schema must be the schema of an object, got None"),
        ({"tools": [WEATHER | {"input_examples": [{}]}]}, "tools[0].input_examples is not supported"),
        ({"tools": [WEATHER | {"defer_loading": True}]}, "tools[0].defer_loading is not supported"),
        ({"tools": [WEATHER | {"parameters": {}}]}, "unknown field 'tools[0].parameters'"),
        ({"tools": [WEATHER | {"strict": "yes"}]}, "tools[0].strict must be of the type bool"),
        ({"tool_choice": "any"}, "tool_choice must be an object of the type auto, any, tool, none"),
        ({"tool_choice": {"type": "any"}}, "tool_choice wants a call, and there are no tools"),
        ({"tools": [NOW], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice names 'x'"),
        ({"tool_choice": {"type": "auto", "name": "x"}}, "unknown field 'tool_choice.name'"),
        (
            {
                "output_format": {"type": "json_schema", "schema": SCHEMA},
                "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
            },
            "output_config.format and output_format are both given",
        ),
    ],
)
def test_a_field_that_cannot_be_honoured_is_refused_by_name(body: dict[str, Any], says: str) -> None:
    assert says in refusal(**body)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (5, "messages[0] must be an object, got 5"),
        ({"role": "tool", "content": "a"}, "messages[0].role must be one of user, assistant, system"),
        ({"role": "user"}, "messages[0].content must be a text or up to 1024 blocks, got None"),
        ({"role": "user", "content": "a", "name": "b"}, "unknown field 'messages[0].name'"),
        ({"role": "user", "content": ["a"]}, "messages[0].content[0] must be an object"),
        ({"role": "user", "content": [USE]}, "only blocks of the type text, image, tool_result are read"),
        ({"role": "user", "content": [{"type": "document"}]}, "are read, not 'document'"),
        ({"role": "assistant", "content": [IMAGE]}, "only blocks of the type text, tool_use, thinking"),
        ({"role": "user", "content": [{"type": "image"}]}, "content[0].source must be an object of the"),
        (
            {"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "http://x"}}]},
            "messages[0].content[0].source must be an object of the type base64, because this server",
        ),
        (
            {"role": "user", "content": [{"type": "image", "source": SOURCE | {"data": "?"}}]},
            "messages[0].content[0].source.data is no base64",
        ),
        (
            {"role": "user", "content": [{"type": "image", "source": SOURCE | {"media_type": "a"}}]},
            "source.media_type must be one of image/jpeg, image/png",
        ),
        ({"role": "user", "content": [IMAGE] * 17}, "at most 16 images in a conversation"),
        ({"role": "assistant", "content": [{"type": "redacted_thinking"}]}, "not 'redacted_thinking'"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text must be a text"),
        (
            {"role": "user", "content": [{"type": "text", "text": "a", "citations": [{}]}]},
            "messages[0].content[0].citations is not supported",
        ),
        (
            {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": "yes"}]},
            "messages[0].content[0].cache_control must be of the type dict",
        ),
        (
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x"}]},
            "messages[0].content[0].tool_use_id is of no tool_use before it, got 'x'",
        ),
        (
            {"role": "assistant", "content": [USE | {"input": "{}"}]},
            "messages[0].content[0].input must be an object",
        ),
        ({"role": "assistant", "content": [USE | {"id": ""}]}, "content[0].id must be a text of 1 to"),
        ({"role": "assistant", "content": [USE] * 129}, "messages[0] has 129 tool_use, the limit is 128"),
        ({"role": "assistant", "content": [USE]}, "one with tool_use can't be"),
    ],
)
def test_a_wrong_message_is_refused_with_its_place(message: Any, says: str) -> None:
    assert says in refusal(messages=[message])


def test_the_most_tokens_must_be_said() -> None:
    answer = post(FakeService(), PATH, messages=[HELLO])
    assert message_of_error(answer) == "max_tokens: Field required"


def test_an_unknown_field_is_logged_by_a_lenient_server(caplog: pytest.LogCaptureFixture) -> None:
    service = FakeService()
    body = sent(messages=[HELLO | {"name": "x"}], seed=5)
    answer = ask(make_door(service, lenient=True), "POST", PATH, body)
    assert answer.status == 200, answer.body
    assert "'seed'" in caplog.text
    assert "'messages[0].name'" in caplog.text


def test_an_unknown_model_is_not_found_by_its_field() -> None:
    answer = post(FakeService(), PATH, **sent(model="claude"))
    message = message_of_error(answer, 404, "not_found_error")
    assert message == "model: there is no group 'claude', only primary"


# --- The answer ---

SCRIPTS: dict[str, tuple[Script, list[dict[str, Any]], str]] = {
    "text": (("No ", "<tool> ", "here. "), [{"type": "text", "text": "No <tool> here. "}], "end_turn"),
    "a call in pieces": (
        tuple(CALL),
        [{"type": "tool_use", "name": "weather", "input": {"city": "Genève}"}}],
        "tool_use",
    ),
    "text and calls": (
        ("Let me", " see.\n", CALL[:9], CALL[9:], "\n" + CALL),
        [
            {"type": "text", "text": "Let me see."},
            *[{"type": "tool_use", "name": "weather", "input": {"city": "Genève}"}}] * 2,
        ],
        "tool_use",
    ),
    "nothing": (("",), [], "end_turn"),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_stream_put_together_is_the_whole_answer(name: str) -> None:
    script, content, reason = SCRIPTS[name]
    body = sent(tools=[WEATHER], model="smollm2")
    answer = post(FakeService(script), PATH, **body)
    whole = without_ids(answer.json)
    assert whole == {
        "id": "",
        "type": "message",
        "role": "assistant",
        "model": "smollm2",
        "content": content,
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 0,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 1,
            "output_tokens": len(script),
            "output_tokens_details": {"thinking_tokens": 0},
        },
    }
    assert answer.headers["request-id"].startswith("req_")
    assert answer.json["id"].startswith("msg_")
    streamed = post(FakeService(script), PATH, **body, stream=True)
    assert streamed.headers["request-id"].startswith("req_")
    assert without_ids(put_together(events_of(streamed))) == whole


@pytest.mark.parametrize(("display", "shown"), [("summarized", "Three?\nYes."), ("omitted", "")])
def test_a_thought_is_a_block_of_its_own(display: str, shown: str) -> None:
    script = ("Three?", "\nYes.", "\n</think>", "\n\nThree.", CALL)
    body = sent(tools=[WEATHER], thinking={"type": "adaptive", "display": display})
    messages = []
    for stream in (False, True):
        service = FakeService(script)
        service.thought = ThoughtStart(format=ThoughtFormat.TAGS, is_open=True)
        answer = post(service, PATH, **body, stream=stream)
        messages.append(without_ids(put_together(events_of(answer)) if stream else answer.json))
    assert messages[0] == messages[1]
    assert messages[0]["content"] == [
        {"type": "thinking", "thinking": shown, "signature": ""},
        {"type": "text", "text": "Three."},
        {"type": "tool_use", "name": "weather", "input": {"city": "Genève}"}},
    ]


def test_each_call_has_an_id_of_its_own() -> None:
    content = post(FakeService((CALL, CALL)), PATH, **sent(tools=[WEATHER])).json["content"]
    ids = [block["id"] for block in content]
    assert len(set(ids)) == 2
    assert all(each.startswith("toolu_") and len(each) == 15 for each in ids)


def test_the_events_come_in_their_order() -> None:
    service = FakeService(("Let me see.", CALL))
    events = events_of(post(service, PATH, **sent(tools=[WEATHER], stream=True)))
    kinds = [event.get("delta", {}).get("type") or event["type"] for event in events]
    assert kinds == [
        "message_start",
        "content_block_start",
        "text_delta",
        "content_block_stop",
        "content_block_start",
        "input_json_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0]["message"]["content"] == []
    assert events[0]["message"]["stop_reason"] is None
    assert events[0]["message"]["usage"]["output_tokens"] == 0
    assert events[1]["content_block"] == {"type": "text", "text": ""}
    assert events[4]["content_block"]["input"] == {}
    assert events[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("end", "stop_string", "max_tokens", "told_end"),
    [
        (FinishReason.STOP, "END", 16, ("stop_sequence", "END")),
        (FinishReason.LENGTH, None, 3, ("max_tokens", None)),
        (FinishReason.LENGTH, None, 4, ("model_context_window_exceeded", None)),
    ],
)
def test_the_reason_says_what_ended_it(
    end: FinishReason, stop_string: str | None, max_tokens: int, told_end: tuple[str, str], stream: bool
) -> None:
    service = FakeService()
    service.end, service.stop_string = end, stop_string
    answer = post(service, PATH, **sent(max_tokens=max_tokens, stream=stream))
    message = put_together(events_of(answer)) if stream else answer.json
    assert (message["stop_reason"], message["stop_sequence"]) == told_end


def test_of_a_call_that_was_cut_off_is_told_what_is_known() -> None:
    service = FakeService(('<tool_call>\n{"name": "weather", "arguments": {"a": 1, "city": "Gen',))
    service.end = FinishReason.LENGTH
    message = post(service, PATH, **sent(tools=[WEATHER], max_tokens=1)).json
    (call,) = message["content"]
    assert (call["name"], call["input"], message["stop_reason"]) == ("weather", {"a": 1}, "max_tokens")


def test_a_stream_that_fails_says_so_and_has_no_end() -> None:
    answer = post(FakeService(broken_script()), PATH, **sent(stream=True))
    *others, last = events_of(answer)
    assert "message_stop" not in [event["type"] for event in others]
    assert last == {
        "type": "error",
        "error": {
            "type": "api_error",
            "message": "the engine died while serving: it was killed by signal 9",
        },
        "request_id": answer.headers["request-id"],
    }


def test_a_stream_that_waits_pings() -> None:
    async def waited() -> Answer:
        service = FakeService()
        service.gate = asyncio.Event()
        door = make_door(service, stream_keep_alive_s=0.01)
        connection = Connection([json.dumps(sent(stream=True)).encode()], spec_version="2.3")
        task = asyncio.create_task(connection.run(door, make_scope("POST", PATH)))
        await connection.has_body.wait()
        service.gate.set()
        return await task

    events = events_of(asyncio.run(waited()))
    assert events[0] == {"type": "ping"}
    assert put_together(events)["content"] == [{"type": "text", "text": "Hello wörld!"}]


def test_the_openai_door_answers_too() -> None:
    answer = ask(make_door(door="openai"), "POST", PATH, sent())
    assert answer.json["content"] == [{"type": "text", "text": "Hello wörld!"}]


# --- Counting ---


def test_the_tokens_of_the_same_prompt_are_counted() -> None:
    body = {
        name: AGENT[name] for name in ("model", "messages", "system", "tools", "thinking", "output_config")
    }
    service = FakeService()
    answer = post(service, COUNT, **body)
    assert answer.status == 200, answer.body
    assert answer.json == {"input_tokens": 2}
    ((_, counted),) = service.calls
    assert counted.prompt == asked(**AGENT).prompt
    assert counted.group == "smollm2"


def test_a_count_refuses_as_a_message_does() -> None:
    answer = post(FakeService(), COUNT, messages=[HELLO], max_tokens=5)
    assert "unknown field 'max_tokens'" in message_of_error(answer)
    answer = post(FakeService(), COUNT, messages=[HELLO], model="claude")
    assert message_of_error(answer, 404, "not_found_error").startswith("model: ")


# --- The reference ---


def test_the_reference_is_up_to_date() -> None:
    page = anthropic_page()
    assert PAGE.read_text() == page, "takeoff config reference anthropic > docs/reference/anthropic.md"
    assert CliRunner().invoke(config_app, ["reference", "anthropic"]).stdout == page


def test_the_reference_has_every_field_and_block() -> None:
    page = anthropic_page()
    for body in (MessagesBody, CountTokensBody):
        for name in (*body.model_fields, *body.unserved):
            assert f"| `{name}` | " in page
    for name in BLOCKS:
        assert f"| block `{name}` in " in page
    assert MessagesBody.model_fields.keys() >= HARMLESS
    assert "| `metadata` | harmless | " in page
    assert '| `service_tier` | refused | but for `null`, `"auto"`, `"standard_only"` |' in page
