"""/v1/completions and /v1/models: each field is honoured or refused by name."""

from __future__ import annotations

import gc
import logging
from typing import Any

import pytest
from tests.http.door import FakeService, ask, broken_script, make_door, post

from takeoff.request import Request, SamplingParams

PATH = "/v1/completions"
DEFAULT = {"temperature": 1.0, "max_new_tokens": 16}


def echo(request: Request) -> tuple[str, ...]:
    return (f"<{request.prompt}", ">")


def asked(**body: Any) -> list[Request]:
    service = FakeService()
    answer = post(service, PATH, **({"prompt": "a"} | body))
    assert answer.status == 200, answer.body
    return service.requests


def refused(**body: Any) -> dict[str, Any]:
    service = FakeService()
    answer = post(service, PATH, **({"prompt": "a"} | body))
    assert answer.status == 400, answer.body
    assert service.requests == []
    return dict(answer.json["error"])


@pytest.mark.parametrize(
    ("body", "ours"),
    [
        ({}, {}),
        ({"max_tokens": 7}, {"max_new_tokens": 7}),
        ({"max_tokens": None}, {}),
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"temperature": None}, {}),
        ({"top_p": 0.5}, {"top_p": 0.5}),
        ({"top_p": None}, {}),
        ({"top_k": 5}, {"top_k": 5}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"min_p": 0.1}, {"min_p": 0.1}),
        ({"stop": "\n"}, {"stop": ("\n",)}),
        ({"stop": ["a", "b"]}, {"stop": ("a", "b")}),
        ({"stop": []}, {}),
        ({"stop": None}, {}),
        ({"seed": 7}, {"seed": 7}),
        ({"seed": -1}, {"seed": 2**64 - 1}),
        ({"presence_penalty": 0.5}, {"presence_penalty": 0.5}),
        ({"frequency_penalty": -0.5}, {"frequency_penalty": -0.5}),
        ({"repetition_penalty": 1.1}, {"repetition_penalty": 1.1}),
        ({"logit_bias": {"50": -100, "7": 2.5}}, {"logit_bias": {50: -100.0, 7: 2.5}}),
        ({"min_tokens": 3}, {"min_new_tokens": 3}),
        ({"ignore_eos": True}, {"ignore_eos": True}),
        ({"user": "someone"}, {}),
        ({"best_of": 1, "echo": False, "logprobs": None, "suffix": None}, {}),
        ({"logprobs": 0}, {"logprobs": 0}),
        ({"logprobs": 20, "echo": True}, {"logprobs": 20, "prompt_logprobs": True}),
        ({"echo": True}, {}),
        ({"max_tokens": 0}, {"max_new_tokens": 1}),
        ({"suffix": "", "best_of": None, "n": None, "stream": None}, {}),
    ],
)
def test_each_field_reaches_the_sampler(body: dict[str, Any], ours: dict[str, Any]) -> None:
    (request,) = asked(**body)
    assert request == Request(
        prompt="a", sampling=SamplingParams(**(DEFAULT | ours)), group="primary", chat_template=False
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", -1),
        ("temperature", -1),
        ("top_p", 0),
        ("top_p", 1.5),
        ("n", 0),
        ("n", 17),
        ("seed", -(2**63) - 1),
        ("seed", 2**63),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("top_k", -2),
        ("min_p", 1.1),
        ("repetition_penalty", 0),
        ("min_tokens", -1),
        ("min_tokens", 17),
        ("stop", ["x"] * 33),
        ("stop", [""]),
        ("stop", ["\ud800"]),
        ("stop", [1]),
        ("logit_bias", {"1": 1e10}),
        ("logit_bias", {"one": 1}),
        ("user", "x" * 1_025),
        ("prompt", []),
        ("prompt", ["a"] * 129),
        ("prompt", ["a", 1]),
        ("prompt", [1.5]),
        ("prompt", None),
        ("best_of", 2),
        ("logprobs", -1),
        ("logprobs", 21),
        ("suffix", "x"),
        ("stream_options", {"include_usage": True}),
    ],
)
def test_what_is_not_served_is_refused_by_its_name(field: str, value: object) -> None:
    error = refused(**{field: value})
    assert error["param"] == field
    assert field in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"include_obfuscation": True}, "stream_options.include_obfuscation"),
        ({"include_use": True}, "stream_options.include_use"),
        (5, "stream_options"),
    ],
)
def test_stream_options_that_are_not_served_are_refused(options: object, param: str) -> None:
    assert refused(stream=True, stream_options=options)["param"] == param


@pytest.mark.parametrize(
    ("unknown", "nearest"),
    [("temprature", "temperature"), ("max_token", "max_tokens"), ("topk", "top_k"), ("best_off", "best_of")],
)
def test_an_unknown_field_is_named_with_the_nearest_known_one(unknown: str, nearest: str) -> None:
    error = refused(**{unknown: 1})
    assert error["message"] == f"unknown field {unknown!r}; did you mean {nearest!r}?"
    assert error["param"] == unknown


def test_min_tokens_above_max_tokens_is_told_with_both_numbers() -> None:
    error = refused(min_tokens=20)
    assert error["message"] == "min_tokens is 20, which is more than max_tokens, 16"


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]),
        (["a"], ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2, 3], [(1, 2, 3)]),
        ([[1, 2], [3]], [(1, 2), (3,)]),
    ],
)
def test_a_prompt_is_a_text_or_token_ids_or_a_list_of_them(prompt: object, prompts: list[object]) -> None:
    assert [request.prompt for request in asked(prompt=prompt)] == prompts


def test_the_choices_of_a_prompt_stand_together_and_have_seeds_of_their_own() -> None:
    requests = asked(prompt=["a", "b"], n=3, seed=40)
    assert [(request.prompt, request.sampling.seed) for request in requests] == [
        ("a", 40), ("a", 41), ("a", 42), ("b", 40), ("b", 41), ("b", 42),
    ]  # fmt: skip
    assert [request.sampling.seed for request in asked(n=2)] == [None, None]
    assert [request.sampling.seed for request in asked(n=16, seed=2**63 - 1)][-1] == 2**63 + 14


@pytest.mark.parametrize(
    ("model", "status"), [("smollm2", 200), ("primary", 200), (None, 200), ("", 200), ("gpt-9", 404)]
)
def test_the_model_is_ours_or_a_group_of_ours(model: str | None, status: int) -> None:
    answer = post(FakeService(), PATH, prompt="a", model=model)
    assert answer.status == status
    if status == 200:
        assert answer.json["model"] == (model or "smollm2")
    else:
        assert answer.json["error"]["code"] == "not_found"


def test_the_answer_has_choices_in_order_and_sums_the_usage() -> None:
    answer = post(FakeService(echo), PATH, prompt=["a", "bcd"], n=2)
    body = answer.json
    assert body["object"] == "text_completion"
    assert body["id"].startswith("cmpl-")
    assert [(choice["index"], choice["text"], choice["finish_reason"]) for choice in body["choices"]] == [
        (0, "<a>", "stop"),
        (1, "<a>", "stop"),
        (2, "<bcd>", "stop"),
        (3, "<bcd>", "stop"),
    ]
    assert all(choice["logprobs"] is None for choice in body["choices"])
    assert body["usage"] == {
        "prompt_tokens": 1 + 3,  # a prompt counts once, however many choices it has
        "completion_tokens": 4 * 2,
        "total_tokens": 4 + 8,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


@pytest.mark.parametrize(("prompt", "text"), [("a", "a"), ([7, 8], "7 8")])
@pytest.mark.parametrize(("max_tokens", "num_tokens"), [(5, 2), (0, 0)])
def test_an_echo_comes_first_and_no_tokens_means_none(
    prompt: object, text: str, max_tokens: int, num_tokens: int
) -> None:
    body = {"prompt": prompt, "echo": True, "max_tokens": max_tokens}
    own = f"<{tuple(prompt) if isinstance(prompt, list) else prompt}>" if num_tokens else ""
    answer = post(FakeService(echo), PATH, **body).json
    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == (text + own, "stop" if num_tokens else "length")
    assert answer["usage"]["completion_tokens"] == num_tokens
    *chunks, done = post(FakeService(echo), PATH, **body, stream=True).events()
    assert done == "[DONE]"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == text + own


def test_a_stream_has_the_same_text_one_id_and_ends_with_done() -> None:
    script = ("Hel", "", "lo", " wörld")
    answer = post(FakeService(script), PATH, prompt="a", stream=True)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.is_whole
    *chunks, done = answer.events()
    assert done == "[DONE]"
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["Hel", "lo", " wörld"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "stop"]
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks}) == 1
    assert all("usage" not in chunk for chunk in chunks)


def test_a_stream_of_several_choices_gives_each_its_text() -> None:
    answer = post(FakeService(echo), PATH, prompt=["a", "b"], n=2, stream=True)
    *chunks, done = answer.events()
    assert done == "[DONE]"
    texts = dict.fromkeys(range(4), "")
    ends = []
    for chunk in chunks:
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["text"]
        ends += [choice["index"]] if choice["finish_reason"] else []
    assert texts == {0: "<a>", 1: "<a>", 2: "<b>", 3: "<b>"}
    assert sorted(ends) == [0, 1, 2, 3]


def test_the_usage_chunk_comes_last_when_it_is_asked_for() -> None:
    body = {"prompt": ["a", "bcd"], "stream": True, "stream_options": {"include_usage": True}}
    *chunks, usage, done = post(FakeService(echo), PATH, **body).events()
    assert done == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"] == {
        "prompt_tokens": 4,
        "completion_tokens": 4,
        "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    assert all(chunk["choices"] and chunk["usage"] is None for chunk in chunks)


@pytest.mark.parametrize("n", [1, 3])
def test_a_stream_that_fails_says_so_and_has_no_done(n: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        body = {"prompt": "a", "n": n, "stream": True, "stream_options": {"include_usage": True}}
        events = post(FakeService(broken_script()), PATH, **body).events()
        gc.collect()
    *chunks, error = events
    assert "[DONE]" not in events
    assert chunks[0]["choices"][0]["text"] == "Hello"
    assert not [chunk for chunk in chunks if chunk["usage"] or chunk["choices"][0]["finish_reason"]]
    assert error["error"]["code"] == "engine_failed"
    assert error["error"]["message"] == "the engine died while serving: it was killed by signal 9"
    assert error["error"]["type"] == "server_error"
    assert caplog.messages == [], "no task's error went unseen"


def test_when_a_later_prompt_is_refused_those_before_it_are_cancelled() -> None:
    class Second(FakeService):
        async def generate(self, request: Request) -> Any:
            if request.prompt == "b":
                self.refusal = RuntimeError("no second")
            return await super().generate(request)

    for stream in (False, True):
        service = Second(("x",) * 100)
        assert post(service, PATH, prompt=["a", "b"], stream=stream).status == 500
        assert [generation.num_cancelled for generation in service.generations] == [1]


def test_the_models_are_listed() -> None:
    body = ask(make_door(), "GET", "/v1/models").json
    assert body["object"] == "list"
    (model,) = body["data"]
    assert (model["id"], model["object"], model["owned_by"]) == ("smollm2", "model", "takeoff")
    assert model["quantization"] == "Q8_0", "of the weights that are served"


def test_one_model_is_told_by_its_name() -> None:
    assert ask(make_door(), "GET", "/v1/models/smollm2").json["id"] == "smollm2"
    error = ask(make_door(door="openai"), "GET", "/v1/models/org/gpt-9").json["error"]
    assert error["message"] == "there is no model 'org/gpt-9', only smollm2"
    assert (error["param"], error["code"]) == ("model", "not_found")


def test_a_lenient_server_logs_unknown_fields(caplog: pytest.LogCaptureFixture) -> None:
    body = {"prompt": "a", "temprature": 1, "stream": False}
    app = make_door(lenient=True)
    with caplog.at_level(logging.WARNING):
        assert ask(app, "POST", PATH, body).status == 200
    assert caplog.messages == ["ignored the unknown field 'temprature'"]
    assert ask(app, "POST", PATH, body | {"suffix": "x"}).json["error"]["param"] == "suffix"
