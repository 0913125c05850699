"""The first generation of the API: its fields, its quirks, its raw stream."""

from __future__ import annotations

from typing import Any

import pytest
from tests.http.door import FakeService, ask, broken_script, make_door, post

from takeoff.errors import EngineFailed
from takeoff.http.answers import BrokenOff
from takeoff.request import Request, SamplingParams

DEFAULT = {"temperature": 1.0, "top_k": 1, "top_p": 1.0, "max_new_tokens": 128}


def sampling_of(path: str, **body: Any) -> SamplingParams:
    service = FakeService()
    assert post(service, path, text="a", **body).status == 200
    (request,) = service.requests
    assert request.prompt == "a"
    assert (request.group, request.tenant, request.chat_template) == ("primary", "", None)
    return request.sampling


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
def test_the_text_alone_is_greedy_and_at_most_128_tokens_long(path: str) -> None:
    assert sampling_of(path) == SamplingParams(**DEFAULT)
    assert sampling_of(path).is_greedy


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
@pytest.mark.parametrize(
    ("field", "value", "ours"),
    [
        ("generate_max_length", 7, {"max_new_tokens": 7}),
        ("sampling_topk", 0, {"top_k": 0}),
        ("sampling_topk", 50, {"top_k": 50}),
        ("sampling_topp", 0.25, {"top_p": 0.25}),
        ("sampling_temperature", 0, {"temperature": 0.0}),
        ("sampling_temperature", 0.7, {"temperature": 0.7}),
        ("repetition_penalty", 1.3, {"repetition_penalty": 1.3}),
        ("no_repeat_ngram_size", 3, {"no_repeat_ngram_size": 3}),
    ],
)
def test_each_field_reaches_the_sampler(path: str, field: str, value: float, ours: dict[str, Any]) -> None:
    assert sampling_of(path, **{field: value}) == SamplingParams(**(DEFAULT | ours))


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
def test_all_fields_at_once_and_unknown_ones_ignored(path: str) -> None:
    asked = sampling_of(
        path,
        generate_max_length=300,
        sampling_topk=10,
        sampling_topp=0.9,
        sampling_temperature=0.9,
        repetition_penalty=1.2,
        no_repeat_ngram_size=3,
        max_new_tokens=5,
        stop=["a"],
        anything={"at": "all"},
    )
    assert asked == SamplingParams(
        max_new_tokens=300,
        top_k=10,
        top_p=0.9,
        temperature=0.9,
        repetition_penalty=1.2,
        no_repeat_ngram_size=3,
    )


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("generate_max_length", 0),
        ("generate_max_length", 1.5),
        ("sampling_topk", -1),
        ("sampling_topp", 0),
        ("sampling_topp", 1.01),
        ("sampling_temperature", -0.1),
        ("repetition_penalty", 0),
        ("no_repeat_ngram_size", -1),
        ("sampling_topk", None),
        ("sampling_topp", "all"),
    ],
)
def test_a_value_out_of_range_is_told_by_the_clients_name(path: str, field: str, value: object) -> None:
    answer = post(FakeService(), path, text="a", **{field: value})
    assert answer.status == 422
    assert [error["loc"] for error in answer.json["detail"]] == [["body", field]]


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
def test_the_end_at_a_role_is_a_setting(path: str) -> None:
    service = FakeService()
    app = make_door(service, stop_at_roles=True)
    assert ask(app, "POST", path, {"text": "a"}).status == 200
    assert service.requests[0].sampling.stop_tokens == ("User", "Assistant")
    assert sampling_of(path).stop_tokens == ()


def echo(request: Request) -> tuple[str, ...]:
    return (f"<{request.prompt}", ">")


def test_a_list_is_answered_in_its_order() -> None:
    service = FakeService(echo)
    answer = post(service, "/generate", text=["c", "a", "b", "a"], generate_max_length=9)
    assert answer.json == {"status": "success", "message": ["<c>", "<a>", "<b>", "<a>"]}
    assert [request.sampling.max_new_tokens for request in service.requests] == [9] * 4


@pytest.mark.parametrize(("text", "message"), [("a", "<a>"), (["a"], "<a>"), ([], [])])
def test_one_text_is_answered_by_a_string_and_none_by_an_empty_list(text: object, message: object) -> None:
    answer = post(FakeService(echo), "/generate", text=text)
    assert answer.status == 200
    assert answer.json == {"status": "success", "message": message}


def test_up_to_a_thousand_texts_are_taken() -> None:
    service = FakeService(echo)
    assert post(service, "/generate", text=["a"] * 1_000).json["message"] == ["<a>"] * 1_000
    refused = post(FakeService(echo), "/generate", text=["a"] * 1_001)
    assert refused.status == 422
    assert refused.json["detail"][0]["msg"] == "at most 1000 texts at once, got 1001"


@pytest.mark.parametrize("text", [["a", "b"], ["a"], [], None, 5, {"a": "b"}])
def test_the_stream_takes_one_text_only(text: object) -> None:
    service = FakeService()
    answer = post(service, "/generate_stream", text=text)
    assert answer.status == 422
    assert answer.json["detail"][0]["loc"] == ["body", "text"]
    assert service.requests == []


def test_the_stream_is_the_text_itself_in_utf_8() -> None:
    service = FakeService(("Hello", "", " wörld 東京", "🙂\n\n", "data: x", ""))
    answer = post(service, "/generate_stream", text="a")
    assert answer.body.decode() == "Hello wörld 東京🙂\n\ndata: x"
    assert answer.is_whole
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert "content-length" not in answer.headers
    whole = post(FakeService(("Hello", "", " wörld 東京", "🙂\n\n", "data: x", "")), "/generate", text="a")
    assert whole.json["message"] == answer.body.decode()


def test_a_stream_whose_generation_fails_does_not_end_properly() -> None:
    service = FakeService(broken_script())
    answer = post(service, "/generate_stream", text="a")
    assert answer.status == 200
    assert answer.body.decode() == "Hello wör"
    assert not answer.is_whole
    assert isinstance(answer.error, BrokenOff)


def test_when_one_of_a_list_fails_the_others_are_cancelled() -> None:
    def script(request: Request) -> Any:
        return ("x",) * 1_000 if request.prompt != "b" else ("y", EngineFailed("it died"))

    service = FakeService(script)
    answer = post(service, "/generate", text=["a", "b", "c"])
    assert answer.status == 503
    assert answer.json == {"detail": "it died"}
    assert [generation.num_cancelled for generation in service.generations] == [1, 0, 1]


def test_when_one_of_a_list_is_refused_those_before_it_are_cancelled() -> None:
    class Third(FakeService):
        async def generate(self, request: Request) -> Any:
            if request.prompt == "c":
                raise EngineFailed("no third")
            return await super().generate(request)

    service = Third(("x",) * 1_000)
    assert post(service, "/generate", text=["a", "b", "c", "d"]).status == 503
    assert [generation.num_cancelled for generation in service.generations] == [1, 1]
