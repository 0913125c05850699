"""The package openai 3.57.0 against the real server: what its users call, plain, streamed and async."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import requests
from tests.cli.test_serve import LIMIT_S
from tests.clients.doors import HOST, Doors, chat_reader, serving_manifest, write_manifest
from tests.clients.environments import Environment

CHAT = "chat.completions.create"
COMPLETION = "completions.create"
HI = {"role": "user", "content": "hi"}
HELLO = "Hello there! How can I assist you today?"  # what SmolLM2 says to that
FRANCE = "The capital of France is"
SPAIN = "The capital of Spain is"
USAGE = {"include_usage": True}
BOOK = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "minLength": 1, "maxLength": 30},
        "pages": {"type": "integer", "minimum": 1, "maximum": 999},
    },
    "required": ["title", "pages"],
    "additionalProperties": False,
}
LEND = {"type": "function", "function": {"name": "lend", "description": "Lends a book", "parameters": BOOK}}
MUST_CALL: dict[str, Any] = {"tools": [LEND], "tool_choice": "required", "max_tokens": 160}

Call = Callable[..., Any]


@pytest.fixture(params=["front", "openai"])
def call(request: pytest.FixtureRequest, environment: Callable[[str], Environment], doors: Doors) -> Call:
    """Calls a function of openai_calls.py, at one of the two doors that have the API."""
    port = getattr(doors, request.param)

    def call(name: str, *args: object, **body: object) -> Any:
        settings = {"base_url": f"{HOST}:{port}/v1", "api_key": "any", "max_retries": 0}
        asked = [body] if body else []
        return environment("openai_3_57_0").call(f"openai_calls.{name}", settings, *args, *asked)

    return call


def greedy(**body: object) -> dict[str, Any]:
    """A short completion that is always the same."""
    return {"model": "primary", "temperature": 0, "max_tokens": 12, **body}


def chat(*messages: dict[str, Any], **body: object) -> dict[str, Any]:
    """A short answer that is always the same."""
    return greedy(messages=list(messages) or [HI], **body)


def text_of(answer: dict[str, Any]) -> str:
    (choice,) = answer["choices"]
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


def told(message: dict[str, Any]) -> Any:
    """What two messages of the same answer say: ids differ, and a stream begins with an empty text."""
    calls = [(each["function"]["name"], each["function"]["arguments"]) for each in message["tool_calls"]]
    return message["content"] or None, calls


def joined(chunks: list[dict[str, Any]]) -> str:
    """The text of a stream's chunks."""
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return "".join(each.get("text") or each.get("delta", {}).get("content") or "" for each in choices)


# --- Models and completions ---


def test_the_models_are_listed_and_retrieved(call: Call) -> None:
    assert {"primary", "embed"} <= set(call("models"))


@pytest.mark.parametrize(("method", "body"), [(COMPLETION, greedy(prompt=FRANCE)), (CHAT, chat())])
def test_every_way_of_asking_is_told_the_same(call: Call, method: str, body: dict[str, Any]) -> None:
    whole = call("ask", method, **body)
    assert text_of(whole) == (HELLO if method == CHAT else text_of(whole))
    assert text_of(call("ask_async", method, **body)) == text_of(whole)
    for ask in ("ask_stream", "ask_stream_async"):
        chunks = call(ask, method, **body, stream_options=USAGE)
        assert joined(chunks) == text_of(whole)
        assert len(chunks) > 5
        assert len({chunk["id"] for chunk in chunks}) == 1
        assert chunks[-1]["choices"] == []
        for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
            assert chunks[-1]["usage"][name] == whole["usage"][name]
        assert chunks[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
        assert not any(chunk.get("usage") for chunk in call(ask, method, **body))


def test_prompts_are_texts_lists_and_token_ids(call: Call, doors: Doors) -> None:
    alone = [text_of(call("ask", COMPLETION, **greedy(prompt=prompt))) for prompt in (FRANCE, SPAIN)]
    assert alone[0].startswith(" Paris")
    assert alone[1].startswith(" Madrid")
    url = f"{HOST}:{doors.front}/tokenize"
    ids = [
        requests.post(url, json={"prompt": each}, timeout=LIMIT_S).json()["tokens"]
        for each in (FRANCE, SPAIN)
    ]
    for prompts in ([FRANCE, SPAIN], ids):
        answer = call("ask", COMPLETION, **greedy(prompt=prompts))
        assert [choice["text"] for choice in answer["choices"]] == alone
        assert [choice["index"] for choice in answer["choices"]] == [0, 1]
        assert answer["usage"]["prompt_tokens"] == 10
    assert text_of(call("ask", COMPLETION, **greedy(prompt=ids[0]))) == alone[0]


def test_an_echo_with_logprobs_tells_the_prompts_too(call: Call) -> None:
    body = greedy(prompt=FRANCE, max_tokens=1, echo=True, logprobs=2)
    answer = call("ask", COMPLETION, **body)
    assert text_of(answer) == f"{FRANCE} Paris"
    logprobs = answer["choices"][0]["logprobs"]
    assert "".join(logprobs["tokens"]) == text_of(answer)
    assert logprobs["text_offset"] == [0, 3, 11, 14, 21, 24]
    assert logprobs["token_logprobs"][0] is None
    assert all(each < 0 for each in logprobs["token_logprobs"][1:])
    assert logprobs["top_logprobs"][-1][" Paris"] == logprobs["token_logprobs"][-1]
    assert joined(call("ask_stream", COMPLETION, **body)) == text_of(answer)


def test_several_choices_are_of_one_prompt_each_and_the_seeds_own(call: Call) -> None:
    body = greedy(prompt="Once upon a time", temperature=1, n=2, seed=11)
    texts = [choice["text"] for choice in call("ask", COMPLETION, **body)["choices"]]
    assert len(set(texts)) == 2
    chunks = call("ask_stream", COMPLETION, **body)
    for index, text in enumerate(texts):
        own = [{"choices": [each for each in chunk["choices"] if each["index"] == index]} for chunk in chunks]
        assert joined(own) == text


# --- Chats ---


def test_the_fields_of_a_chat_are_obeyed(call: Call) -> None:
    stopped = call("ask", CHAT, **chat(stop=[" assist", "zzz"]))
    assert text_of(stopped) == "Hello there! How can I"
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert joined(call("ask_stream", CHAT, **chat(stop=" assist"))) == "Hello there! How can I"
    biased = call("ask", CHAT, **chat(max_tokens=3, logit_bias={"28": 100}))
    assert text_of(biased) == ",,,"
    cut = call("ask", CHAT, **chat(max_tokens=None, max_completion_tokens=2))
    assert (text_of(cut), cut["choices"][0]["finish_reason"]) == ("Hello there", "length")
    seeded = chat(temperature=1, n=2, seed=5)
    texts = [choice["message"]["content"] for choice in call("ask", CHAT, **seeded)["choices"]]
    again = [choice["message"]["content"] for choice in call("ask_async", CHAT, **seeded)["choices"]]
    assert texts == again


def test_the_beginning_of_an_answer_is_continued(call: Call) -> None:
    ask = {"role": "user", "content": "What is the capital of France?"}
    begun = {"role": "assistant", "content": FRANCE}
    body = chat(ask, begun)
    whole = call("ask", CHAT, **body)
    assert text_of(whole).startswith(" Paris")
    assert joined(call("ask_stream_async", CHAT, **body)) == text_of(whole)


def test_an_answer_obeys_its_schema_streamed_or_not(call: Call) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "book", "strict": True, "schema": BOOK}}
    body = chat({"role": "user", "content": "Name a book."}, response_format=form, max_tokens=120)
    whole = text_of(call("ask", CHAT, **body))
    jsonschema.validate(json.loads(whole), BOOK)
    assert joined(call("ask_stream", CHAT, **body)) == whole


def test_an_answer_is_parsed_as_the_class_that_was_asked_for(call: Call) -> None:
    ask = {"role": "user", "content": "Ann is 30 years old. Write her name and age as JSON."}
    for way in ("parse", "parse_tool"):
        person = call(way, **chat(ask, max_tokens=120))
        assert (type(person["name"]), type(person["age"])) == (str, int)


@pytest.mark.parametrize("prompt", ["Lend me a book.", "hi"])
def test_calls_put_together_from_a_stream_are_those_of_the_whole(call: Call, prompt: str) -> None:
    body = chat({"role": "user", "content": prompt}, **MUST_CALL)
    (whole,) = call("ask", CHAT, **body)["choices"]
    assert whole["finish_reason"] == "tool_calls"
    for each in whole["message"]["tool_calls"]:
        assert each["function"]["name"] == "lend"
        jsonschema.validate(json.loads(each["function"]["arguments"]), BOOK)
    for way in ("stream", "stream_async"):
        streamed = call(way, **body)
        (choice,) = streamed["completion"]["choices"]
        assert told(choice["message"]) == told(whole["message"])
        assert "tool_calls.function.arguments.delta" in streamed["kinds"]
        assert streamed["kinds"].count("tool_calls.function.arguments.done") == len(
            whole["message"]["tool_calls"]
        )


# --- Embeddings ---


def test_vectors_come_as_floats_or_as_the_package_asks_by_default(call: Call, doors: Doors) -> None:
    texts = ["A cat sits on the mat.", "Interest rates rose in May."]
    body = {"text": texts, "consumer_group": "embed"}
    expected = requests.post(f"{HOST}:{doors.takeoff}/embed", json=body, timeout=LIMIT_S).json()["result"]
    asked = {"model": "embed", "input": texts}
    floats = call("vectors", **asked, encoding_format="float")
    coded = call("vectors", **asked, encoding_format="base64")
    decoded = [struct.unpack("<384f", base64.b64decode(each)) for each in coded]
    for vectors in (call("vectors", **asked), floats, decoded):
        for vector, wanted in zip(vectors, expected, strict=True):
            assert vector == pytest.approx(wanted, abs=1e-6)
    (alone,) = call("vectors", model="embed", input=texts[1])
    assert alone == pytest.approx(expected[1], abs=1e-5)
    usage = call("ask", "embeddings.create", **asked)["usage"]
    assert usage["prompt_tokens"] == usage["total_tokens"] == 9 + 8


# --- Refusals ---


@pytest.mark.parametrize(
    ("method", "body", "kind", "param", "says"),
    [
        (CHAT, chat(temperature=-1), "BadRequestError", "temperature", "greater than or equal to 0"),
        (CHAT, chat(n=17), "BadRequestError", "n", "less than or equal to 16"),
        (
            CHAT,
            chat({"role": "king", "content": "hi"}),
            "BadRequestError",
            "messages[0].role",
            "must be one of system",
        ),
        (
            CHAT,
            chat(extra_body={"temprature": 1}),
            "BadRequestError",
            "temprature",
            "did you mean 'temperature'",
        ),
        (CHAT, chat(model="gpt-9"), "NotFoundError", "model", "gpt-9"),
        (COMPLETION, greedy(prompt="word " * 1200), "BadRequestError", "prompt", "a sequence holds 1024"),
        (COMPLETION, greedy(prompt=[], echo=True), "BadRequestError", "prompt", "1 to 128 prompts"),
        ("embeddings.create", {"model": "embed", "input": [[1]]}, "BadRequestError", "input", "token ids"),
        ("embeddings.create", {"model": "primary", "input": "hi"}, "BadRequestError", "model", "generates"),
    ],
)
def test_a_refusal_is_the_packages_own_error(
    call: Call, method: str, body: dict[str, Any], kind: str, param: str, says: str
) -> None:
    refused = call("refusal", method, **body)
    assert (refused["class"], refused["status_code"]) == (kind, 404 if kind == "NotFoundError" else 400)
    assert refused["param"] == param
    assert says in refused["message"]


def test_a_busy_server_is_asked_again_once_it_says(
    environment: Callable[[str], Environment], smollm2_path: Path, tmp_path: Path
) -> None:
    ask = environment("openai_3_57_0").call
    manifest = write_manifest(tmp_path, {"chat": chat_reader(smollm2_path, max_batch_size=1)})
    with serving_manifest(manifest, "--max-requests", "1") as (server, doors):
        settings = {"base_url": f"{server.wait_ready()}/v1", "api_key": "any"}
        long = {"prompt": "Once", "max_tokens": 300, "ignore_eos": True, "stream": True}
        url = f"{HOST}:{doors.openai}/v1/completions"
        with requests.post(url, json=long, stream=True, timeout=LIMIT_S) as stream:
            assert stream.status_code == 200
            refused = ask("openai_calls.refusal", settings | {"max_retries": 0}, CHAT, chat())
            assert (refused["class"], refused["status_code"]) == ("RateLimitError", 429)
            assert "1 requests are open, the limit is 1" in refused["message"]
            assert text_of(ask("openai_calls.ask", settings | {"max_retries": 9}, CHAT, chat())) == HELLO
