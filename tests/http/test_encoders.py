"""/embed, /classify and /v1/embeddings: flat for a text, nested for a list, whatever the door."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest
from tests.http.door import FakeService, ask, make_door, post, post_takeoff, vector_of

from takeoff.errors import InvalidRequest, PromptTooLong
from takeoff.request import EncodeRequest, Task


def test_the_vector_of_a_text_is_flat_and_of_a_list_nested() -> None:
    service = FakeService()
    assert post_takeoff(service, "/embed", text="abc").json == {"result": [1.0, 3.0, 0.1]}
    assert post_takeoff(service, "/embed", text=["abc"]).json == {"result": [[1.0, 3.0, 0.1]]}
    assert post_takeoff(service, "/embed", text=["abc", "a"]).json == {
        "result": [[1.0, 3.0, 0.1], [1.0, 1.0, 0.1]]
    }
    assert service.encodings == [
        EncodeRequest(task=Task.EMBED, texts=("abc",)),
        EncodeRequest(task=Task.EMBED, texts=("abc",)),
        EncodeRequest(task=Task.EMBED, texts=("abc", "a")),
    ]


@pytest.mark.parametrize(
    ("text", "texts", "result"),
    [
        ("abc", ("abc",), [1.0, 3.0, 0.1]),
        (["abc", "a"], ("abc", "a"), [[1.0, 3.0, 0.1], [1.0, 1.0, 0.1]]),
        ([["q", "abc"]], (("q", "abc"),), [[2.0, 4.0, 0.1]]),
        ([["q", "abc"], ["q", ""]], (("q", "abc"), ("q", "")), [[2.0, 4.0, 0.1], [2.0, 1.0, 0.1]]),
    ],
)
def test_texts_and_pairs_are_classified_one_by_one(text: object, texts: tuple[Any], result: object) -> None:
    service = FakeService()
    answer = post_takeoff(service, "/classify", text=text, consumer_group="", something="else")
    assert answer.json == {"result": result, "labels": ["good", "bad", "odd"]}
    assert service.encodings == [EncodeRequest(task=Task.CLASSIFY, texts=texts)]


@pytest.mark.parametrize("path", ["/embed", "/classify"])
@pytest.mark.parametrize(
    "text", [None, 5, [], [5], [["a"]], [["a", "b", "c"]], [["a", 5]], ["a", ["b", "c"]]]
)
def test_texts_of_another_shape_are_refused_by_name(path: str, text: object) -> None:
    service = FakeService()
    answer = post_takeoff(service, path, text=text)
    assert answer.status == 422
    assert answer.json["detail"][0]["loc"][:2] == ["body", "text"]
    assert service.encodings == []


def test_embed_takes_no_pairs() -> None:
    assert post_takeoff(FakeService(), "/embed", text=[["a", "b"]]).status == 422


def test_limits_hold_for_encoders_and_of_a_pair_both_texts_count() -> None:
    app = make_door(door="takeoff", max_user_batch_size=2, max_prompt_string_bytes=4)
    assert ask(app, "POST", "/embed", {"text": ["a"] * 3}).status == 422
    assert ask(app, "POST", "/embed", {"text": "abcde"}).status == 413
    assert ask(app, "POST", "/classify", {"text": [["ab", "cd"]]}).status == 200
    assert ask(app, "POST", "/classify", {"text": [["ab", "cde"]]}).status == 413


@pytest.mark.parametrize("path", ["/embed", "/classify"])
def test_a_group_that_does_something_else_is_a_400_by_name(path: str) -> None:
    service = FakeService()
    service.refusal = InvalidRequest("the model chat of 'primary' generates text", param="group")
    answer = post_takeoff(service, path, text="a")
    assert answer.status == 400
    assert answer.detail == "consumer_group: the model chat of 'primary' generates text"
    assert post_takeoff(FakeService(), path, text="a", consumer_group="g2").status == 400


@pytest.mark.parametrize("door", ["front", "openai"])
def test_openais_object_has_the_vectors_in_order_and_once_more_as_result(door: str) -> None:
    service = FakeService()
    app = make_door(service, door)
    body = ask(app, "POST", "/v1/embeddings", {"input": ["abc", "a"], "model": "primary"}).json
    assert body == {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [1.0, 3.0, 0.1]},
            {"object": "embedding", "index": 1, "embedding": [1.0, 1.0, 0.1]},
        ],
        "model": "primary",
        "usage": {"prompt_tokens": 14, "total_tokens": 14},
        "result": [[1.0, 3.0, 0.1], [1.0, 1.0, 0.1]],
    }
    flat = ask(app, "POST", "/v1/embeddings", {"input": "abc"}).json
    assert flat["result"] == flat["data"][0]["embedding"] == [1.0, 3.0, 0.1]
    assert flat["model"] == "smollm2"
    assert [request.group for request in service.encodings] == ["primary", "primary"]


def test_base64_is_little_endian_float32() -> None:
    answer = post(FakeService(), "/v1/embeddings", input=["abc"], encoding_format="base64")
    raw = base64.b64decode(answer.json["data"][0]["embedding"])
    assert struct.unpack("<3f", raw) == pytest.approx(vector_of("abc"))
    assert "result" not in answer.json


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input", []),
        ("input", [1, 2]),
        ("input", None),
        ("input", ["a"] * 1_001),
        ("encoding_format", "int8"),
        ("dimensions", 64),
        ("inputs", "a"),
        ("model", 5),
    ],
)
def test_what_is_not_served_is_refused_in_openais_shape(field: str, value: object) -> None:
    service = FakeService()
    answer = post(service, "/v1/embeddings", **({"input": "a"} | {field: value}))
    assert answer.status == 400
    assert answer.json["error"]["param"] == field
    assert service.encodings == []


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/classify"])
@pytest.mark.parametrize("ids", [[1, 2], [[1, 2], [3]]])
def test_token_ids_are_refused_by_name_because_they_may_be_of_another_vocabulary(
    path: str, ids: list[Any]
) -> None:
    error = post(FakeService(), path, input=ids).json["error"]
    assert error["param"] == "input"
    assert "token ids are not taken" in error["message"]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/classify"])
@pytest.mark.parametrize(("ours", "theirs"), [("group", "model"), ("text", "input"), (None, "input")])
def test_a_refusal_names_the_field_of_openais_body(path: str, ours: str | None, theirs: str) -> None:
    service = FakeService()
    service.refusal = PromptTooLong("the text has 600 tokens, and the model takes 512 at most", param=ours)
    error = post(service, path, input="a").json["error"]
    assert (error["param"], error["code"]) == (theirs, "context_length_exceeded")


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/classify"])
def test_limits_hold_for_texts_of_openais_clients(path: str) -> None:
    app = make_door(max_user_batch_size=2, max_prompt_string_bytes=4)
    assert ask(app, "POST", path, {"input": ["abcd", "ab"]}).status == 200
    answer = ask(app, "POST", path, {"input": ["a"] * 3})
    assert answer.status == 400
    assert answer.json["error"]["message"] == "input: 1 to 2 texts at once, got 3"
    answer = ask(app, "POST", path, {"input": "abcde"})
    assert (answer.status, answer.json["error"]["param"]) == (413, "input")


def test_a_model_that_is_not_there_is_a_404_for_openais_clients() -> None:
    answer = post(FakeService(), "/v1/embeddings", input="a", model="gpt-9")
    assert answer.status == 404
    assert answer.json["error"]["code"] == "not_found"


def test_openais_door_has_the_routes_of_v1_and_no_others() -> None:
    app = make_door(door="openai")
    assert (
        ask(app, "POST", "/v1/completions", {"prompt": "a"}).json["choices"][0]["text"] == "Hello w\u00f6rld!"
    )
    assert ask(app, "GET", "/v1/models").json["data"][0]["id"] == "smollm2"
    assert ask(app, "GET", "/healthz").status == 200
    for path in ("/", "/generate", "/metrics", "/reader_groups", "/status"):
        assert ask(app, "GET", path).status == 404
