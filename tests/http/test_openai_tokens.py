"""/tokenize, /detokenize and /tokenizer_info in vLLM's shape, on the doors that speak OpenAI's API."""

from __future__ import annotations

from typing import Any

import pytest
from tests.http.door import FakeReader, FakeService, ask, make_door, post, post_takeoff

from takeoff.errors import InvalidRequest, NotReady
from takeoff.http.openai.fields import OpenAIBody
from takeoff.http.openai.reference import openai_page
from takeoff.http.openai.tokens import DetokenizeBody, TokenizeBody
from takeoff.request import Conversation
from takeoff.settings import ReaderSettings

USER = {"role": "user", "content": "Hello"}
IMAGE = {
    "role": "user",
    "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8="}}],
}
ASSISTANT = {"role": "assistant", "content": "Well,"}
TOOL = {"type": "function", "function": {"name": "f", "description": "d"}}


@pytest.mark.parametrize("door", ["front", "openai"])
@pytest.mark.parametrize(("add", "adds"), [({}, True), ({"add_special_tokens": False}, False)])
def test_a_prompt_is_counted_and_shown_as_ids(door: str, add: dict[str, Any], adds: bool) -> None:
    service = FakeService()
    body = {"model": "smollm2", "prompt": "one three", **add}
    answer = ask(make_door(service, door), "POST", "/tokenize", body)
    assert answer.json == {"count": 2, "max_model_len": 512, "tokens": [3, 5], "token_strs": None}
    assert service.calls == [("tokenize", "smollm2", "one three", False, False, adds)]


def test_token_strings_are_told_on_demand() -> None:
    answer = post(FakeService(), "/tokenize", prompt="one three", return_token_strs=True).json
    assert answer["token_strs"] == ["one", "three"]
    assert post(FakeService(), "/tokenize", prompt="").json["tokens"] == []


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"add_generation_prompt": True, "continue_final_message": False, "add_special_tokens": False},
        {"add_generation_prompt": None, "add_special_tokens": True, "chat_template": None},
    ],
)
def test_messages_are_those_of_a_chat(options: dict[str, Any]) -> None:
    service = FakeService()
    body = {
        "tools": [TOOL],
        "tool_choice": "auto",
        "chat_template_kwargs": {"thinks": False},
        "reasoning_effort": "low",
    }
    answer = post(service, "/tokenize", messages=[USER], **body, **options)
    assert (answer.json["count"], answer.json["tokens"]) == (1, [4])
    chatted = FakeService()
    post(chatted, "/v1/chat/completions", messages=[USER], **body)
    assert service.calls == [("tokenize_chat", "smollm2", chatted.requests[0].prompt)]
    assert isinstance(chatted.requests[0].prompt, Conversation)


def test_an_assistants_last_message_is_continued() -> None:
    options = {"add_generation_prompt": False, "continue_final_message": True}
    for each in ({}, options):
        assert post(FakeService(), "/tokenize", messages=[USER, ASSISTANT], **each).json["count"] == 2
    error = post(FakeService(), "/tokenize", messages=[USER, ASSISTANT], add_generation_prompt=True)
    assert error.json["error"]["param"] == "add_generation_prompt"


@pytest.mark.parametrize("door", ["front", "openai"])
def test_ids_become_text_with_their_control_tokens(door: str) -> None:
    service = FakeService()
    answer = ask(make_door(service, door), "POST", "/detokenize", {"model": "primary", "tokens": [1, 2]})
    assert answer.json == {"prompt": "1 2"}
    assert service.calls == [("detokenize", "smollm2", [1, 2], False)]


def test_the_reader_is_found_as_a_generation_finds_it_and_a_live_one_if_any_is() -> None:
    service = FakeService()
    service.fleet = [
        FakeReader("a", ReaderSettings(consumer_group="g"), state="loading"),
        FakeReader("b", ReaderSettings(consumer_group="g")),
        FakeReader("g", ReaderSettings(consumer_group="h")),
    ]
    for model, reader_id in (("g", "b"), ("a", "a"), ("h", "g")):
        assert post(service, "/detokenize", model=model, tokens=[1]).status == 200
        assert service.calls[-1][1] == reader_id


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": [USER]}, "prompt"),
        ("/tokenize", {"prompt": ["a"]}, "prompt"),
        ("/tokenize", {"prompt": "a", "tools": [TOOL]}, "tools"),
        ("/tokenize", {"prompt": "a", "reasoning_effort": "low"}, "reasoning_effort"),
        ("/tokenize", {"messages": [IMAGE]}, "messages"),
        ("/tokenize", {"prompt": "a", "add_generation_prompt": True}, "add_generation_prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": [USER | {"contents": "a"}]}, "messages[0].contents"),
        ("/tokenize", {"messages": [USER], "add_generation_prompt": False}, "add_generation_prompt"),
        ("/tokenize", {"messages": [USER], "continue_final_message": True}, "continue_final_message"),
        ("/tokenize", {"messages": [USER], "tools": [{}]}, "tools[0]"),
        ("/tokenize", {"prompt": "a", "chat_template": "{{ 1 }}"}, "chat_template"),
        ("/tokenize", {"text": "a"}, "text"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": ["a"]}, "tokens"),
        ("/detokenize", {"tokens": [2**31]}, "tokens"),
        ("/detokenize", {"tokens": [1], "skip_special_tokens": True}, "skip_special_tokens"),
    ],
)
def test_what_is_not_served_is_refused_by_name_in_openais_shape(
    path: str, body: dict[str, Any], param: str
) -> None:
    service = FakeService()
    answer = post(service, path, **body)
    assert (answer.status, answer.json["error"]["param"]) == (400, param)
    assert service.calls == []


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/tokenize", {"prompt": "a"}, "prompt"),
        ("/tokenize", {"messages": [USER]}, "messages"),
        ("/detokenize", {"tokens": [1]}, "tokens"),
    ],
)
def test_errors_have_openais_shape_and_its_names(path: str, body: dict[str, Any], field: str) -> None:
    for ours, theirs in ((None, field), ("reader_id", "model")):
        service = FakeService()
        service.refusal = InvalidRequest("it can't be done", param=ours)
        error = post(service, path, **body).json["error"]
        assert (error["message"], error["param"]) == ("it can't be done", theirs)
    error = post(FakeService(), path, model="gpt-9", **body)
    assert (error.status, error.json["error"]["code"]) == (404, "not_found")
    service.refusal = NotReady("the model smollm2 is loading")
    error = post(service, path, **body)
    assert (error.status, error.json["error"]["type"]) == (503, "server_error")
    refused = ask(make_door(api_key="s3cret"), "POST", path, body)
    assert (refused.status, refused.json["error"]["code"]) == (401, "unauthorized")


@pytest.mark.parametrize("door", ["front", "openai"])
def test_what_frames_prompts_is_told_as_a_tokenizers_configuration_tells_it(door: str) -> None:
    service = FakeService()
    answer = ask(make_door(service, door), "GET", "/tokenizer_info")
    assert answer.json == {
        "add_bos_token": False,
        "bos_token": None,
        "eos_token": "<end>",
        "chat_template": "{{ messages }}",
        "model_max_length": 512,
    }
    assert service.calls == [("describe_vocabulary", "smollm2")]
    wrong = ask(make_door(service, door), "GET", "/tokenizer_info?model=gpt-9")
    assert (wrong.status, wrong.json["error"]["param"]) == (404, "model")
    service.refusal = InvalidRequest("it continues no text", param="reader_id")
    refused = ask(make_door(service, door), "GET", "/tokenizer_info")
    assert (refused.status, refused.json["error"]["param"]) == (400, "model")


@pytest.mark.parametrize("path", ["/tokenize/smollm2", "/detokenize/smollm2"])
def test_the_takeoff_apis_own_routes_keep_their_shape(path: str) -> None:
    answer = post_takeoff(FakeService(), path)
    assert answer.status == 422
    assert answer.json["detail"][0]["type"] == "missing"


@pytest.mark.parametrize(("path", "body"), [("/tokenize", TokenizeBody), ("/detokenize", DetokenizeBody)])
def test_the_reference_has_a_line_for_every_field(path: str, body: type[OpenAIBody]) -> None:
    section = openai_page().partition(f"## {path}\n")[2].partition("\n## ")[0]
    for name in (*body.model_fields, *body.unserved):
        assert f"| `{name}` | " in section
