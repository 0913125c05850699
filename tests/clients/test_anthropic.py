"""The package anthropic 2.14.0 against the real server: what its users call, plain, streamed and async."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import requests
from tests.cli.test_serve import serving
from tests.clients.doors import HOST, Doors
from tests.clients.environments import Environment, Raised
from tests.e2e.test_thinking_server import TEMPLATE

from takeoff.http.anthropic.bodies import CountTokensBody, MessagesBody, PromptBody

LIMIT_S = 120  # against hanging only
GREEDY = {"temperature": 0}  # which the package takes only beside its own parameters
HI = {"role": "user", "content": "hi"}
HELLO = "Hello there! How can I assist you today?"  # what SmolLM2 says to that
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one message": [HI],
    "turns": [
        {"role": "system", "content": "You answer in one short sentence."},
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "Paris."},
        {"role": "user", "content": "And of Italy?"},
    ],
    "prefill": [
        {"role": "user", "content": "List three colours."},
        {"role": "assistant", "content": "1. Red\n2."},
    ],
}
WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "minLength": 1, "maxLength": 30},
            "unit": {"enum": ["celsius", "fahrenheit"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
        },
        "required": ["city", "unit", "days"],
        "additionalProperties": False,
    },
}
ASKS_WEATHER = {"role": "user", "content": "What is the weather in Lisbon?"}
MUST_CALL: dict[str, Any] = {"tools": [WEATHER], "tool_choice": {"type": "any"}, "max_tokens": 100}

Call = Callable[..., Any]


@pytest.fixture
def call(environment: Callable[[str], Environment], doors: Doors) -> Call:
    """Calls a function of anthropic_calls.py with a body."""

    def call(name: str, *args: object, url: str = f"{HOST}:{doors.front}", **body: object) -> Any:
        settings = {"base_url": url, "api_key": "any", "max_retries": 0}
        asked = {"model": "primary", "messages": [HI], **body}
        if "count" not in name:
            asked = {"max_tokens": 24, "extra_body": GREEDY, **asked}
        return environment("anthropic_2_14_0").call(f"anthropic_calls.{name}", settings, asked, *args)

    return call


def split(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """A conversation as the package wants it: its system's message apart."""
    first, *others = messages
    return (
        {"system": first["content"], "messages": others}
        if first["role"] == "system"
        else {"messages": messages}
    )


def chat(doors: Doors, messages: list[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """The greedy text of the other API, and its usage."""
    body = {"messages": messages, "max_tokens": 24, "temperature": 0}
    answer = requests.post(f"{HOST}:{doors.front}/v1/chat/completions", json=body, timeout=LIMIT_S).json()
    return answer["choices"][0]["message"]["content"], answer["usage"]


def text_of(message: dict[str, Any]) -> str:
    (block,) = message["content"]
    return str(block["text"])


def num_input_tokens(message: dict[str, Any]) -> int:
    usage = message["usage"]
    return int(usage["input_tokens"] + usage["cache_read_input_tokens"])


def same(message: dict[str, Any]) -> dict[str, Any]:
    """What two answers to one request have in common: ids differ, and what came from the cache may."""
    content = [{name: block[name] for name in block if name != "id"} for block in message["content"]]
    ends = {name: message[name] for name in ("role", "model", "stop_reason", "stop_sequence")}
    return {**ends, "content": content, "output_tokens": message["usage"]["output_tokens"]}


# --- Text ---


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_text_is_that_of_a_chat(call: Call, doors: Doors, name: str) -> None:
    expected, usage = chat(doors, CONVERSATIONS[name])
    message = call("create", **split(CONVERSATIONS[name]))
    assert text_of(message) == expected
    assert len(expected) > 2
    assert num_input_tokens(message) == usage["prompt_tokens"]
    assert message["usage"]["output_tokens"] == usage["completion_tokens"]
    assert message["stop_reason"] == ("max_tokens" if usage["completion_tokens"] == 24 else "end_turn")
    assert (message["type"], message["role"], message["model"]) == ("message", "assistant", "primary")


def test_blocks_say_the_same_as_texts(call: Call) -> None:
    blocks = [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]
    message = call("create", messages=[{"role": "user", "content": blocks}])
    assert text_of(message) == HELLO
    assert message["stop_reason"] == "end_turn"


def test_every_way_of_streaming_says_the_same_as_the_whole(call: Call) -> None:
    body = split(CONVERSATIONS["prefill"])
    whole = call("create", **body)
    assert same(call("create_async", **body)) == same(whole)
    for name in ("stream", "stream_async"):
        streamed = call(name, **body)
        assert same(streamed["message"]) == same(whole)
        assert "".join(streamed["texts"]) == text_of(whole)
        assert len(streamed["texts"]) > 2
    for name in ("create_stream", "create_stream_async"):
        events = call(name, **body)
        texts = [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"]
        assert "".join(texts) == text_of(whole)
        kinds = [event["type"] for event in events]
        assert kinds[:2] == ["message_start", "content_block_start"]
        assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
        assert events[-2]["delta"]["stop_reason"] == whole["stop_reason"]
        assert events[-2]["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
        assert num_input_tokens(events[0]["message"]) == num_input_tokens(whole)


@pytest.mark.parametrize(("sequences", "met"), [(["!", "assist"], "!"), (["zzz", " can I"], " can I")])
def test_the_stop_sequence_that_was_met_is_told(call: Call, sequences: list[str], met: str) -> None:
    message = call("create", stop_sequences=sequences)
    assert text_of(message) == HELLO[: HELLO.index(met)]
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", met)
    streamed = call("stream", stop_sequences=sequences)
    assert same(streamed["message"]) == same(message)


def test_the_door_of_openais_api_has_it_too(call: Call, doors: Doors) -> None:
    assert text_of(call("create", url=f"{HOST}:{doors.openai}")) == HELLO


# --- Tools and schemas ---


@pytest.mark.parametrize("prompt", ["What is the weather in Lisbon?", "hi", "Is it cold in Oslo now?"])
def test_what_a_tool_is_called_with_obeys_its_schema(call: Call, prompt: str) -> None:
    body = {**MUST_CALL, "messages": [{"role": "user", "content": prompt}]}
    message = call("create", **body)
    assert message["stop_reason"] == "tool_use"
    assert message["content"]
    for block in message["content"]:
        assert (block["type"], block["name"]) == ("tool_use", "get_weather")
        jsonschema.validate(block["input"], WEATHER["input_schema"])
    streamed = call("stream", **body)
    assert same(streamed["message"]) == same(message)
    assert "input_json" in streamed["kinds"]


def test_of_a_forced_tool_there_is_one_call(call: Call) -> None:
    choice = {"type": "tool", "name": "get_weather"}
    (block,) = call("create", **MUST_CALL | {"tool_choice": choice}, messages=[ASKS_WEATHER])["content"]
    jsonschema.validate(block["input"], WEATHER["input_schema"])


def test_the_result_of_a_tool_goes_back_as_the_package_has_it(call: Call) -> None:
    told = call("round_trip", "Sunny, 21 degrees", **MUST_CALL, messages=[ASKS_WEATHER])
    assert told["calls"]
    assert all(each["id"].startswith("toolu_") for each in told["calls"])
    assert text_of(told["message"])


def test_an_answer_is_parsed_as_the_class_that_was_asked_for(call: Call) -> None:
    prompt = "Ann is 30 years old. Write her name and age as JSON."
    person = call("parse", messages=[{"role": "user", "content": prompt}], max_tokens=60)
    assert person.keys() == {"name", "age"}


def test_an_agent_with_all_that_it_sends_is_answered(call: Call) -> None:
    tools = [{**WEATHER, "name": f"tool_{number}", "description": "A tool."} for number in range(6)]
    tools[-1]["cache_control"] = {"type": "ephemeral"}
    body = {
        "system": [
            {"type": "text", "text": "You are an agent.", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        ],
        "tools": tools,
        "thinking": {"type": "adaptive"},
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Say hello."}]}],
        "betas": ["interleaved-thinking-2025-05-14", "context-management-2025-06-27"],
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    }
    message = call("beta_stream", **body, metadata={"user_id": "user_1_account__session_2"}, max_tokens=40)
    assert message["content"]
    assert num_input_tokens(message) == call("beta_count", **body)


# --- Thoughts ---


@pytest.fixture(scope="module")
def thinker(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server whose model's template opens thoughts."""
    path = tmp_path_factory.mktemp("thinking") / "thinking.gguf"
    script = "gguf.scripts.gguf_new_metadata"
    command = [sys.executable, "-m", script, "--chat-template", TEMPLATE, str(smollm2_path), str(path)]
    subprocess.run(command, check=True, capture_output=True)
    with serving("--model", str(path), "--port", "0", "--max-slots", "2", "--context", "512") as server:
        yield server.wait_ready()


def test_what_a_model_thinks_is_a_block_of_its_own(call: Call, thinker: str) -> None:
    budget = {"type": "enabled", "budget_tokens": 1_024}
    message = call("create", url=thinker, thinking=budget)
    (block,) = message["content"]
    assert block["type"] == "thinking"
    assert block["thinking"].strip()
    assert message["stop_reason"] == "max_tokens"
    assert message["usage"]["output_tokens_details"]["thinking_tokens"] == 24
    streamed = call("stream", url=thinker, thinking=budget)
    assert same(streamed["message"]) == same(message)
    assert "thinking" in streamed["kinds"]


def test_a_model_that_can_leave_thinking_is_told_to(call: Call, thinker: str) -> None:
    disabled = {"type": "disabled"}
    assert text_of(call("create", url=thinker, thinking=disabled))
    with_thought = call("count", url=thinker)
    assert call("count", url=thinker, thinking=disabled) > with_thought


def test_a_model_that_does_not_think_refuses_to_by_the_field(call: Call) -> None:
    assert text_of(call("create", thinking={"type": "disabled"})) == HELLO
    with pytest.raises(Raised, match=r"thinking: .* its model does not think") as caught:
        call("create", thinking={"type": "enabled", "budget_tokens": 1_024})
    assert caught.value.type == "BadRequestError"


# --- Counting ---


def history() -> list[dict[str, Any]]:
    use = {
        "type": "tool_use",
        "id": "toolu_01D7FLrfh4GYq7yT1ULFeyMV",
        "name": "get_weather",
        "input": {"city": "Lisbon", "unit": "celsius", "days": 1},
    }
    result = {"type": "tool_result", "tool_use_id": use["id"], "content": "no network", "is_error": True}
    return [
        ASKS_WEATHER,
        {"role": "assistant", "content": [{"type": "text", "text": "Let me see."}, use]},
        {"role": "user", "content": [result, {"type": "text", "text": "Try again."}]},
    ]


@pytest.mark.parametrize(
    "body",
    [
        {},
        split(CONVERSATIONS["turns"]),
        split(CONVERSATIONS["prefill"]),
        {"tools": [WEATHER], "messages": history()},
        {"tools": [WEATHER], "tool_choice": {"type": "none"}},
        {"system": [{"type": "text", "text": "Ünïcödé <|im_end|> 🙂"}]},
    ],
)
def test_the_tokens_counted_are_those_that_a_message_uses(call: Call, body: dict[str, Any]) -> None:
    counted = call("count", **body)
    assert counted > 10
    assert num_input_tokens(call("create", **body)) == counted


def test_a_prompt_that_no_sequence_holds_is_counted_and_refused(call: Call) -> None:
    long = [{"role": "user", "content": "one two three four " * 500}]
    assert call("count", messages=long) > 2_000
    with pytest.raises(Raised, match=r"prompt has 20\d\d tokens, but a sequence holds 1024") as caught:
        call("create", messages=long)
    assert (caught.value.type, caught.value.status_code) == ("BadRequestError", 400)


# --- Refusals ---


@pytest.mark.parametrize(
    ("body", "kind", "status", "says"),
    [
        ({"model": "claude"}, "NotFoundError", 404, "model: there is no"),
        ({"max_tokens": 0}, "BadRequestError", 400, "max_tokens: Input should be greater"),
        ({"container": "c"}, "BadRequestError", 400, "container is not supported"),
        (
            {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
            "BadRequestError",
            400,
            "only tools of the type custom are served",
        ),
        (
            {"tools": [{"name": "a", "input_schema": {"properties": {"b": {"multipleOf": 0.1}}}}]},
            "BadRequestError",
            400,
            "can\\'t be enforced",
        ),
    ],
)
def test_a_refusal_is_the_packages_own_error(
    call: Call, body: dict[str, Any], kind: str, status: int, says: str
) -> None:
    for name in ("create", "create_stream"):
        with pytest.raises(Raised) as caught:
            call(name, **body)
        assert (caught.value.type, caught.value.status_code) == (kind, status)
        assert says in caught.value.message
        assert "'type': 'error'" in caught.value.message


def test_every_field_of_the_packages_types_has_a_class(environment: Callable[[str], Environment]) -> None:
    fields = environment("anthropic_2_14_0").call("anthropic_calls.body_fields")
    bodies: dict[str, type[PromptBody]] = {"messages": MessagesBody, "count_tokens": CountTokensBody}
    for route, body in bodies.items():
        assert len(fields[route]) > 10
        assert set(fields[route]) <= {*body.model_fields, *body.unserved}
        assert all(field.description for field in body.model_fields.values())
        assert not body.unserved.keys() & body.model_fields.keys()
