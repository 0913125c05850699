"""/v1/chat/completions: roles, contents, and each field honoured, harmless or refused by name."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from tests.http.door import FakeService, ask, broken_script, make_door, post

from takeoff.http.openai.chat import ChatBody
from takeoff.http.openai.completions import CompletionBody
from takeoff.http.openai.embeddings import EmbeddingsBody
from takeoff.http.openai.fields import HARMLESS, OpenAIBody
from takeoff.http.openai.reference import openai_page
from takeoff.http.openai.responses.body import ResponsesBody
from takeoff.request import Conversation, Request, SamplingParams

PATH = "/v1/chat/completions"
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "openai.md"
HELLO = {"role": "user", "content": "Hello"}
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": "{"}}


def image(url: str, **more: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def asked(*messages: dict[str, Any], **body: Any) -> list[Request]:
    service = FakeService()
    answer = post(service, PATH, messages=list(messages) or [HELLO], **body)
    assert answer.status == 200, answer.body
    return service.requests


def refused(**body: Any) -> dict[str, Any]:
    service = FakeService()
    answer = post(service, PATH, **({"messages": [HELLO]} | body))
    assert answer.status == 400, answer.body
    assert service.requests == []
    return dict(answer.json["error"])


def sent(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages as the service got them."""
    (request,) = asked(*messages)
    assert isinstance(request.prompt, Conversation)
    return request.prompt.messages


@pytest.mark.parametrize(
    ("body", "ours"),
    [
        ({}, {}),
        ({"max_tokens": 7}, {"max_new_tokens": 7}),
        ({"max_completion_tokens": 7, "max_tokens": None}, {"max_new_tokens": 7}),
        ({"max_completion_tokens": 7, "max_tokens": 7}, {"max_new_tokens": 7}),
        ({"temperature": 0, "top_p": 0.5}, {"temperature": 0.0, "top_p": 0.5}),
        ({"stop": ["a", "b"], "seed": 3}, {"stop": ("a", "b"), "seed": 3}),
        ({"presence_penalty": 1, "frequency_penalty": -1}, {"presence_penalty": 1, "frequency_penalty": -1}),
        ({"logit_bias": {"5": -100}}, {"logit_bias": {5: -100.0}}),
        ({"min_p": 0.1, "top_k": 4}, {"min_p": 0.1, "top_k": 4}),
        ({"repetition_penalty": 1.2}, {"repetition_penalty": 1.2}),
        ({"min_tokens": 3, "ignore_eos": True}, {"min_new_tokens": 3, "ignore_eos": True}),
        ({"user": "u", "metadata": {"a": "b"}, "safety_identifier": "s", "prompt_cache_key": "k"}, {}),
        ({"prediction": None, "prompt_cache_retention": "24h"}, {}),
        ({"store": False, "service_tier": "auto", "modalities": ["text"], "logprobs": False}, {}),
        ({"logprobs": True}, {"logprobs": 0}),
        ({"logprobs": True, "top_logprobs": 20}, {"logprobs": 20}),
        ({"logprobs": False, "top_logprobs": 0}, {}),
        ({"n": None, "response_format": {"type": "text"}, "verbosity": "medium"}, {}),
    ],
)
def test_each_field_reaches_the_sampler(body: dict[str, Any], ours: dict[str, Any]) -> None:
    (request,) = asked(**body)
    assert request == Request(
        prompt=Conversation(messages=[HELLO]), sampling=SamplingParams(**ours), group="primary"
    )


@pytest.mark.parametrize(
    "content", ["a\nb", [{"type": "text", "text": "a\n"}, {"type": "text", "text": "b"}]]
)
def test_a_prediction_reaches_the_request_as_one_text(content: object) -> None:
    (request,) = asked(prediction={"type": "content", "content": content})
    assert request.predicted == "a\nb"


@pytest.mark.parametrize(
    ("prediction", "param"),
    [
        ({"type": "image", "content": "x"}, "prediction.type"),
        ({}, "prediction.type"),
        ({"content": "x"}, "prediction.type"),
        ({"type": "content"}, "prediction.content"),
        ({"type": "content", "content": [{"type": "image_url"}]}, "prediction.content[0].type"),
        ({"type": "content", "content": "x", "strength": 1}, "prediction.strength"),
    ],
)
def test_a_prediction_of_another_shape_is_refused_by_its_place(prediction: object, param: str) -> None:
    assert refused(prediction=prediction)["param"] == param


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("max_completion_tokens", 0),
        ("n", 17),
        ("messages", []),
        ("messages", [HELLO] * 4_097),
        ("messages", "hi"),
        ("store", True),
        ("service_tier", "flex"),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy"}),
        ("functions", [{"name": "f"}]),
        ("web_search_options", {}),
        ("reasoning_effort", "hard"),
        ("logprobs", 3),
        ("top_logprobs", 21),
        ("top_logprobs", 3),
        ("metadata", {str(i): "" for i in range(17)}),
        ("chat_template_kwargs", 5),
        ("logit_bias", {str(i): 1 for i in range(1_025)}),
        ("stop", ["x"] * 33),
        ("stream_options", {"include_usage": True}),
    ],
)
def test_what_is_not_served_is_refused_by_its_name(field: str, value: object) -> None:
    error = refused(**{field: value})
    assert error["param"] == field
    assert field in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("body", "number"),
    [
        ({"n": 17}, "16"),
        ({"stop": ["x"] * 33}, "32"),
        ({"logit_bias": {str(i): 1 for i in range(1_025)}}, "1024"),
        ({"messages": [HELLO] * 4_097}, "4096"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens is 5 and max_completion_tokens 6"),
    ],
)
def test_a_cap_tells_its_number(body: dict[str, Any], number: str) -> None:
    assert number in refused(**body)["message"]


def test_an_unknown_field_is_named_with_the_nearest_known_one() -> None:
    assert refused(max_completion_token=1)["message"] == (
        "unknown field 'max_completion_token'; did you mean 'max_completion_tokens'?"
    )
    error = refused(messages=[HELLO | {"contents": "x"}])
    assert error["message"] == "unknown field 'messages[0].contents'; did you mean 'content'?"
    assert error["param"] == "messages[0].contents"


def test_a_lenient_server_logs_unknown_fields_wherever_they_are(caplog: pytest.LogCaptureFixture) -> None:
    body = {"messages": [HELLO | {"colour": "red"}], "tempo": 1}
    with caplog.at_level(logging.WARNING):
        assert ask(make_door(lenient=True), "POST", PATH, body).status == 200
    assert caplog.messages == [
        "ignored the unknown field 'tempo'",
        "ignored the unknown field 'messages[0].colour'",
    ]


def test_a_whole_conversation_reaches_the_template() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    conversation = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": parts, "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None, "annotations": []},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": "12"},
        {"role": "assistant", "content": "It", "tool_calls": None, "reasoning_content": "hm"},
    ]
    assert sent(*conversation) == [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": parts, "name": "ann"},
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": "12"},
        {"role": "assistant", "content": "It", "reasoning_content": "hm"},
    ]


def test_images_go_with_the_request_in_their_order() -> None:
    texts = [{"type": "text", "text": "Compare"}, {"type": "text", "text": "with"}]
    first, second = image("data:image/png;base64,AAAA", detail="auto"), image("data:image/jpeg;base64,/+8=")
    messages = [
        {"role": "user", "content": [texts[0], first, texts[1], second]},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": [first]},
    ]
    (request,) = asked(*messages)
    assert request.images == (b"\0\0\0", b"\xff\xef", b"\0\0\0")
    assert isinstance(request.prompt, Conversation)
    hole = {"type": "image"}
    assert [message["content"] for message in request.prompt.messages] == [
        [texts[0], hole, texts[1], hole],
        "Yes.",
        [hole],
    ]


@pytest.mark.parametrize("arguments", ["", "{", "null", '{"a": NaN}', "\u0000"])
def test_a_malformed_call_of_the_past_is_taken(arguments: str) -> None:
    call = {"id": "1", "index": 0, "function": {"name": "f", "arguments": arguments}}
    messages = [HELLO, {"role": "assistant", "tool_calls": [call]}]
    messages += [{"role": "tool", "tool_call_id": "1", "content": ""}]
    assert sent(*messages)[1]["tool_calls"][0]["function"]["arguments"] == arguments


def test_arguments_that_are_an_object_become_its_json() -> None:
    call = {"id": "1", "function": {"name": "f", "arguments": {"é": 1}}}
    messages = [{"role": "assistant", "tool_calls": [call]}, HELLO]
    assert sent(*messages)[0]["tool_calls"][0]["function"]["arguments"] == '{"é": 1}'


@pytest.mark.parametrize(
    ("message", "param", "says"),
    [
        ("hi", "messages[0]", "must be an object"),
        ({"content": "a"}, "messages[0].role", "one of system, developer, user, assistant, tool, got None"),
        ({"role": "function", "content": "a"}, "messages[0].role", "got 'function'"),
        ({"role": ["user"], "content": "a"}, "messages[0].role", "got ['user']"),
        ({"role": "user"}, "messages[0].content", "is missing"),
        ({"role": "user", "content": None}, "messages[0].content", "is missing"),
        ({"role": "user", "content": 5}, "messages[0].content", "a text or 1 to 1024 parts, got 5"),
        ({"role": "user", "content": []}, "messages[0].content", "a text or 1 to 1024 parts"),
        ({"role": "user", "content": ["a"]}, "messages[0].content[0]", "must be an object"),
        (
            {"role": "user", "content": [{"type": "input_audio"}]},
            "messages[0].content[0].type",
            "only parts of the types text and image_url are read, not 'input_audio'",
        ),
        (
            {"role": "system", "content": [image("data:image/png;base64,AAAA")]},
            "messages[0].content[0].type",
            "only parts of the type text are read, not 'image_url'",
        ),
        (
            {"role": "user", "content": [image("https://example.com/cat.png")]},
            "messages[0].content[0].image_url.url",
            "must be a data: URL of an image in base64, because this server fetches nothing",
        ),
        (
            {"role": "user", "content": [image("data:text/plain;base64,AAAA")]},
            "messages[0].content[0].image_url.url",
            "must be a data: URL of an image",
        ),
        (
            {"role": "user", "content": [image("data:image/png;base64,A?A")]},
            "messages[0].content[0].image_url.url",
            "is no base64",
        ),
        (
            {"role": "user", "content": [image("data:image/png;base64,AAAA", detail="high")]},
            "messages[0].content[0].image_url.detail",
            "must be auto",
        ),
        (
            {"role": "user", "content": [{"type": "image_url"}]},
            "messages[0].content[0].image_url",
            "must be an object with a url",
        ),
        (
            {"role": "user", "content": [image("data:image/png;base64,AAAA")] * 17},
            "messages[0].content[16]",
            "at most 16 images",
        ),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text", "must be a text"),
        ({"role": "tool", "content": "a"}, "messages[0].tool_call_id", "is missing"),
        ({"role": "user", "content": "a", "name": "x" * 257}, "messages[0].name", "up to 256 characters"),
        ({"role": "assistant", "content": "", "audio": {"id": "x"}}, "messages[0].audio", "is not supported"),
        (
            {"role": "user", "content": "a", "tool_calls": [CALL]},
            "messages[0].tool_calls",
            "is not supported",
        ),
        ({"role": "assistant", "tool_calls": {}}, "messages[0].tool_calls", "a list of up to 128 calls"),
        (
            {"role": "assistant", "tool_calls": [1]},
            "messages[0].tool_calls[0]",
            "a call of the type function",
        ),
        (
            {"role": "assistant", "tool_calls": [{"id": "1", "type": "custom", "custom": {}}]},
            "messages[0].tool_calls[0]",
            "a call of the type function",
        ),
        ({"role": "assistant", "tool_calls": [CALL]}, "messages[0].tool_calls", "is continued"),
    ],
)
def test_a_wrong_message_is_refused_with_its_place(message: object, param: str, says: str) -> None:
    error = refused(messages=[message])
    assert error["param"] == param
    assert says in error["message"]


def test_the_answer_is_a_message_and_a_prompt_counts_once() -> None:
    answer = post(FakeService(), PATH, messages=[HELLO, HELLO], n=2, seed=5)
    body = answer.json
    assert body["object"] == "chat.completion"
    assert body["id"].startswith("chatcmpl-")
    message = {"role": "assistant", "content": "Hello wörld!", "refusal": None}
    assert body["choices"] == [
        {"index": index, "message": message, "logprobs": None, "finish_reason": "stop"} for index in (0, 1)
    ]
    assert body["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 6,
        "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 1},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def test_the_openai_door_chats_too() -> None:
    answer = ask(make_door(door="openai"), "POST", PATH, {"messages": [HELLO]})
    assert answer.json["choices"][0]["message"]["content"] == "Hello wörld!"


def test_a_stream_begins_with_the_role_and_ends_with_the_reason_and_the_usage() -> None:
    body = {"messages": [HELLO], "n": 2, "stream": True, "stream_options": {"include_usage": True}}
    answer = post(FakeService(), PATH, **body)
    *chunks, usage, done = answer.events()
    assert done == "[DONE]"
    for index in (0, 1):
        choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert [choice["delta"] for choice in choices] == [
            {"role": "assistant", "content": ""},
            {"content": "Hello"},
            {"content": " wörld"},
            {"content": "!"},
            {},
        ]
        assert [choice["finish_reason"] for choice in choices] == [None] * 4 + ["stop"]
    assert {chunk["object"] for chunk in [*chunks, usage]} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in [*chunks, usage]}) == 1
    assert all(chunk["usage"] is None for chunk in chunks)
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 6)


def test_a_stream_that_fails_says_so_and_has_no_done() -> None:
    *_, last = post(FakeService(broken_script()), PATH, messages=[HELLO], stream=True).events()
    assert last["error"]["code"] == "engine_failed"


@pytest.mark.parametrize(
    ("body", "params"),
    [
        (ChatBody, chat_create_params.CompletionCreateParamsBase),
        (CompletionBody, completion_create_params.CompletionCreateParamsBase),
        (EmbeddingsBody, embedding_create_params.EmbeddingCreateParams),
    ],
)
def test_every_field_of_openais_schema_has_a_class(body: type[OpenAIBody], params: type) -> None:
    assert set(params.__annotations__) <= {*body.model_fields, *body.unserved}
    assert all(field.description for field in body.model_fields.values())
    assert not body.unserved.keys() & body.model_fields.keys()


def test_every_harmless_field_is_declared_somewhere() -> None:
    assert ChatBody.model_fields.keys() | ResponsesBody.model_fields.keys() >= HARMLESS


def test_the_reference_is_up_to_date() -> None:
    assert PAGE.read_text() == openai_page(), "takeoff config reference openai > docs/reference/openai.md"
