"""/tokenize, /detokenize and /chat_template, keyed by reader."""

from __future__ import annotations

from typing import Any

import pytest
from tests.http.door import Answer, FakeService, post_takeoff

from takeoff.errors import NotReady

ROUTES: dict[str, dict[str, Any]] = {
    "tokenize": {"text": "a"},
    "detokenize": {"tokens": [1]},
    "chat_template": {"inputs": [[{"role": "user", "content": "a"}]]},
}


def told(route: str, **body: Any) -> tuple[Answer, list[tuple[Any, ...]]]:
    service = FakeService()
    answer = post_takeoff(service, f"/{route}/smollm2", **body)
    return answer, service.calls


@pytest.mark.parametrize(
    ("options", "ours"),
    [
        ({}, (None, False)),
        ({"use_chat_template": None, "skip_special_tokens": None}, (None, False)),
        ({"use_chat_template": True}, (True, False)),
        ({"use_chat_template": False, "skip_special_tokens": True}, (False, True)),
    ],
)
def test_a_text_is_tokenized_and_counted(options: dict[str, Any], ours: tuple[Any, ...]) -> None:
    answer, calls = told("tokenize", text="one three", **options)
    assert answer.json == {"tokens": ["one", "three"], "tokens_count": 2}
    assert calls == [("tokenize", "smollm2", "one three", *ours, True)]


def test_the_tokens_of_a_pair_follow_one_another() -> None:
    answer, calls = told("tokenize", text=["one two", "three"])
    assert answer.json == {"tokens": ["one", "two", "three"], "tokens_count": 3}
    assert [call[2] for call in calls] == ["one two", "three"]
    assert told("tokenize", text="")[0].json == {"tokens": [], "tokens_count": 0}


@pytest.mark.parametrize(("options", "skips"), [({}, True), ({"skip_special_tokens": None}, True)])
@pytest.mark.parametrize(("tokens", "text"), [([1, 2], "1 2"), (["a", "b"], "a b"), ([], "")])
def test_tokens_or_ids_become_text(
    tokens: list[Any], text: str, options: dict[str, Any], skips: bool
) -> None:
    answer, calls = told("detokenize", tokens=tokens, **options)
    assert answer.json == {"text": text}
    assert calls == [("detokenize", "smollm2", tokens, skips)]
    assert told("detokenize", tokens=tokens, skip_special_tokens=False)[1][0][-1] is False


def test_conversations_are_rendered_one_by_one() -> None:
    first = [{"role": "system", "content": "s", "name": "x"}, {"role": "user", "content": "u"}]
    answer, calls = told("chat_template", inputs=[first, first[1:]])
    assert answer.json == {"messages": ["system:s|user:u", "user:u"]}
    assert calls == [("render_chat", "smollm2", [[("system", "s"), ("user", "u")], [("user", "u")]], False)]
    _, calls = told("chat_template", inputs=[first], add_generation_prompt=True)
    assert calls[0][-1] is True


@pytest.mark.parametrize(
    ("route", "body", "place"),
    [
        ("tokenize", {"text": 5}, ["text"]),
        ("tokenize", {"text": ["a"]}, ["text"]),
        ("tokenize", {"text": ["a", "b", "c"]}, ["text"]),
        ("tokenize", {}, ["text"]),
        ("tokenize", {"text": "a\ud800"}, ["text"]),
        ("tokenize", {"text": ["a", "\ud800"]}, ["text"]),
        ("detokenize", {"tokens": ["a", "\udfff"]}, ["tokens"]),
        ("chat_template", {"inputs": [[{"role": "\ud800", "content": "a"}]]}, ["inputs", 0, 0, "role"]),
        ("detokenize", {"tokens": "a"}, ["tokens"]),
        ("detokenize", {"tokens": [1, "a"]}, ["tokens"]),
        ("detokenize", {"tokens": [-1]}, ["tokens"]),
        ("detokenize", {"tokens": [2**31]}, ["tokens"]),
        ("detokenize", {"tokens": [True]}, ["tokens"]),
        ("chat_template", {"inputs": []}, ["inputs"]),
        ("chat_template", {"inputs": [[]]}, ["inputs", 0]),
        ("chat_template", {"inputs": [[{"content": "a"}]]}, ["inputs", 0, 0, "role"]),
        ("chat_template", {"inputs": [[{"role": "user", "content": [1]}]]}, ["inputs", 0, 0, "content"]),
        ("chat_template", {"inputs": [[{"role": "user"}] * 1_001]}, ["inputs", 0, 0, "content"]),
        (
            "chat_template",
            {"inputs": [[{"role": "user", "content": "a"}]] * 1_001},
            ["inputs"],
        ),
    ],
)
def test_a_wrong_body_is_a_422_that_names_the_place(
    route: str, body: dict[str, Any], place: list[Any]
) -> None:
    answer, calls = told(route, **body)
    assert answer.status == 422
    assert answer.json["detail"][0]["loc"][: len(place) + 1] == ["body", *place]
    assert calls == []


@pytest.mark.parametrize("route", ROUTES)
def test_a_reader_that_is_not_there_is_a_400_by_name_before_the_body_is_looked_at(route: str) -> None:
    service = FakeService()
    for body in (ROUTES[route], {}):
        answer = post_takeoff(service, f"/{route}/nobody", **body)
        assert (answer.status, answer.detail) == (400, "reader_id: there is no reader 'nobody'")
    assert service.calls == []


@pytest.mark.parametrize("route", ROUTES)
def test_a_reader_that_loads_is_a_503(route: str) -> None:
    service = FakeService()
    service.refusal = NotReady("the model smollm2 is loading")
    answer = post_takeoff(service, f"/{route}/smollm2", **ROUTES[route])
    assert (answer.status, answer.detail) == (503, "the model smollm2 is loading")


def test_a_text_that_is_too_long_is_not_tokenized() -> None:
    assert told("tokenize", text="x" * 150_001)[0].status == 413
    assert told("tokenize", text=["x" * 75_000, "x" * 75_001])[0].status == 413
