"""/generate and /generate_stream of the later API: its fields, its lists, its events, its refusals."""

from __future__ import annotations

import json
import tempfile
from typing import Any

import pytest
import requests
from tests.http.door import Answer, FakeService, ask, broken_script, make_door, post_takeoff
from tests.http.test_sse import parsed

from takeoff.errors import EngineFailed, InvalidRequest, NotReady, Overloaded, PromptTooLong
from takeoff.http.answers import BrokenOff
from takeoff.request import Constraint, ConstraintKind, Request, SamplingParams

PATHS = ["/generate", "/generate_stream"]
DEFAULT = {"temperature": 1.0, "top_k": 1, "top_p": 1.0, "max_new_tokens": 128}
NULLS = dict.fromkeys(
    [
        "consumer_group",
        "sampling_temperature",
        "sampling_topp",
        "sampling_topk",
        "repetition_penalty",
        "no_repeat_ngram_size",
        "max_new_tokens",
        "min_new_tokens",
        "prompt_max_tokens",
        "regex_string",
        "json_schema",
        "constrained_decoding_backend",
        "return_metadata",
        "use_chat_template",
        "lora_id",
    ]
)
SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"enum": ["\u00e9", None]}}}


def echo(request: Request) -> tuple[str, ...]:
    return (f"<{request.prompt}", ">")


def asked(path: str, **body: Any) -> Request:
    service = FakeService()
    answer = post_takeoff(service, path, **({"text": "a"} | body))
    assert answer.status == 200, answer.body
    (request,) = service.requests
    return request


def refused(path: str, status: int = 422, **body: Any) -> Answer:
    service = FakeService()
    answer = post_takeoff(service, path, **({"text": "a"} | body))
    assert answer.status == status, answer.body
    assert service.requests == []
    return answer


def expected(**sampling: Any) -> Request:
    return Request(prompt="a", sampling=SamplingParams(**(DEFAULT | sampling)))


@pytest.mark.parametrize("path", PATHS)
def test_null_and_nothing_both_mean_the_default(path: str) -> None:
    assert asked(path) == expected()
    assert asked(path, **NULLS) == expected()
    assert asked(path).sampling.is_greedy


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("field", "value", "ours"),
    [
        ("sampling_temperature", 0, {"temperature": 0.0}),
        ("sampling_temperature", 0.7, {"temperature": 0.7}),
        ("sampling_topp", 0.25, {"top_p": 0.25}),
        ("sampling_topk", 50, {"top_k": 50}),
        ("repetition_penalty", 1.3, {"repetition_penalty": 1.3}),
        ("no_repeat_ngram_size", 3, {"no_repeat_ngram_size": 3}),
        ("max_new_tokens", 7, {"max_new_tokens": 7}),
        ("min_new_tokens", 128, {"min_new_tokens": 128}),
        ("constrained_decoding_backend", "lmfe", {}),
        ("constrained_decoding_backend", "outlines", {}),
        ("generate_max_length", 5, {}),
        ("stop", ["x"], {}),
    ],
)
def test_each_field_reaches_the_sampler(path: str, field: str, value: object, ours: dict[str, Any]) -> None:
    assert asked(path, **{field: value}) == expected(**ours)


@pytest.mark.parametrize("path", PATHS)
def test_what_is_about_the_prompt_reaches_the_request(path: str) -> None:
    request = asked(path, use_chat_template=False, prompt_max_tokens=9, lora_id="x", consumer_group="primary")
    assert (request.chat_template, request.keep_tokens, request.lora_id) == (False, 9, "x")
    assert request.group == "primary"
    assert asked(path, use_chat_template=True).chat_template is True
    assert asked(path, consumer_group="").group == "primary"


@pytest.mark.parametrize("path", PATHS)
def test_a_regex_goes_before_a_schema_and_a_schema_is_handed_on_as_json(path: str) -> None:
    both = asked(path, regex_string="[0-9]{4}", json_schema=SCHEMA).sampling.constraint
    assert both == Constraint(ConstraintKind.REGEX, "[0-9]{4}")
    schema = asked(path, json_schema=SCHEMA).sampling.constraint
    assert schema is not None
    assert schema.kind is ConstraintKind.JSON_SCHEMA
    assert json.loads(schema.source) == SCHEMA
    assert list(json.loads(schema.source)["properties"]) == ["b", "a"], "their order is kept"
    for value in (False, True, {}, "text", 5, []):
        constraint = asked(path, json_schema=value).sampling.constraint
        assert constraint == Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(value))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("text", 5),
        ("text", None),
        ("text", []),
        ("text", ["a", 5]),
        ("text", {"a": "b"}),
        ("consumer_group", 5),
        ("sampling_temperature", -0.1),
        ("sampling_topp", 0),
        ("sampling_topp", 1.01),
        ("sampling_topp", "all"),
        ("sampling_topk", 0),
        ("sampling_topk", 1.5),
        ("repetition_penalty", 0),
        ("no_repeat_ngram_size", -1),
        ("max_new_tokens", 0),
        ("max_new_tokens", "x"),
        ("min_new_tokens", -1),
        ("min_new_tokens", 129),
        ("prompt_max_tokens", 0),
        ("regex_string", 5),
        ("constrained_decoding_backend", "guidance"),
        ("return_metadata", "perhaps"),
        ("use_chat_template", 2),
        ("lora_id", 5),
    ],
)
def test_a_wrong_value_is_a_422_that_names_the_field(path: str, field: str, value: object) -> None:
    detail = refused(path, **{field: value}).json["detail"]
    assert detail[0]["loc"][:2] == ["body", field]


def test_a_text_that_is_missing_and_a_body_that_is_no_json_are_422s() -> None:
    app = make_door(door="takeoff")
    for body, words in ((b"{}", "text"), (b"{", "not valid JSON"), (b"[]", "valid dictionary")):
        answer = ask(app, "POST", "/generate", body)
        assert answer.status == 422
        assert words in answer.detail


def test_min_above_max_is_told_with_the_numbers() -> None:
    answer = refused("/generate", min_new_tokens=9, max_new_tokens=5)
    assert answer.json["detail"][0]["msg"] == "min_new_tokens must be between 0 and 5, got 9"


@pytest.mark.parametrize(("text", "result"), [("c", "<c>"), (["c"], ["<c>"]), (["c", "a"], ["<c>", "<a>"])])
def test_a_text_is_answered_by_a_text_and_a_list_by_a_list(text: object, result: object) -> None:
    answer = post_takeoff(FakeService(echo), "/generate", text=text)
    assert (answer.status, answer.json) == (200, {"text": result})
    assert answer.headers["content-type"] == "application/json"


def test_the_number_and_the_length_of_texts_are_bounded() -> None:
    limits = {"max_user_batch_size": 3, "max_prompt_string_bytes": 6}
    app = make_door(FakeService(echo), "takeoff", **limits)
    for path in PATHS:
        assert ask(app, "POST", path, {"text": ["a"] * 3}).status == 200
        many = ask(app, "POST", path, {"text": ["a"] * 4})
        assert many.status == 422
        assert many.json["detail"][0]["msg"] == "1 to 3 texts at once, got 4"
        assert ask(app, "POST", path, {"text": "\u00e9\u00e9\u00e9"}).status == 200
        long = ask(app, "POST", path, {"text": ["a", "\u00e9\u00e9\u00e9a"]})
        assert long.status == 413
        assert long.detail.startswith("text has 7 bytes, the limit is 6")


def test_metadata_comes_only_when_it_is_asked_for() -> None:
    told = {"prompt_tokens": 3, "generated_tokens": 2, "cached_tokens": 1, "finish_reason": "stop"}
    one = post_takeoff(FakeService(echo), "/generate", text="abc", return_metadata=True)
    assert one.json == {"text": "<abc>", "metadata": told}
    two = post_takeoff(FakeService(echo), "/generate", text=["abc", "a"], return_metadata=True)
    assert two.json["metadata"] == [told, told | {"prompt_tokens": 1}]
    assert post_takeoff(FakeService(echo), "/generate", text="abc", return_metadata=False).json.keys() == {
        "text"
    }


TOKENS = ("Hel", "lo", "", " w\u00f6rld", "\n- a", ": x", "[DONE]", "\r\n", " ")


def test_a_streamed_text_is_its_tokens_and_nothing_else() -> None:
    answer = post_takeoff(FakeService(TOKENS), "/generate_stream", text="a")
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.is_whole
    data = ["Hel", "lo", " w\u00f6rld", "\n- a", ": x", "[DONE]", "\n", " "]
    assert parsed([answer.body]) == [("message", each) for each in data]
    whole = post_takeoff(FakeService(TOKENS), "/generate", text="a").json["text"]
    assert "".join(data) == whole.replace("\r\n", "\n")


@pytest.mark.parametrize("texts", [["a"], ["a", "bc", "d"]])
def test_a_streamed_list_says_of_each_token_whose_it_is(texts: list[str]) -> None:
    answer = post_takeoff(FakeService(echo), "/generate_stream", text=texts)
    assert answer.is_whole
    joined = dict.fromkeys(range(len(texts)), "")
    for kind, data in parsed([answer.body]):
        event = json.loads(data)
        assert kind == "message"
        assert event.keys() == {"text", "batch_id"}
        joined[event["batch_id"]] += event["text"]
    assert joined == {index: f"<{text}>" for index, text in enumerate(texts)}


def test_streams_of_a_list_come_as_their_tokens_do() -> None:
    answer = post_takeoff(FakeService(("x",) * 20), "/generate_stream", text=["a", "b"])
    order = [json.loads(data)["batch_id"] for _, data in parsed([answer.body])]
    assert sorted(order) == [0] * 20 + [1] * 20
    assert {*order[:4]} == {0, 1}, "not one after the other"


def test_metadata_of_a_stream_comes_last_as_an_event_of_its_own() -> None:
    told = {"prompt_tokens": 3, "generated_tokens": 2, "cached_tokens": 1, "finish_reason": "stop"}
    one = post_takeoff(FakeService(echo), "/generate_stream", text="abc", return_metadata=True)
    *texts, (kind, data) = parsed([one.body])
    assert [kind for kind, _ in texts] == ["message", "message"]
    assert (kind, json.loads(data)) == ("metadata", told)
    many = post_takeoff(FakeService(echo), "/generate_stream", text=["abc", "a"], return_metadata=True)
    *_, first, second = parsed([many.body])
    assert [first[0], second[0]] == ["metadata", "metadata"]
    assert json.loads(first[1]) == {"batch_id": 0, **told}
    assert json.loads(second[1]) == {"batch_id": 1, **told, "prompt_tokens": 1}
    for text in ("abc", ["abc"]):
        plain = post_takeoff(FakeService(echo), "/generate_stream", text=text, return_metadata=None)
        assert b"metadata" not in plain.body


@pytest.mark.parametrize("text", ["a", ["a", "b"]])
def test_a_stream_that_fails_is_broken_off_and_says_no_metadata(text: object) -> None:
    answer = post_takeoff(FakeService(broken_script()), "/generate_stream", text=text, return_metadata=True)
    assert answer.status == 200
    assert b"Hello" in answer.body
    assert b"metadata" not in answer.body
    assert not answer.is_whole
    assert isinstance(answer.error, BrokenOff)


@pytest.mark.parametrize("path", PATHS)
def test_an_unknown_group_is_a_400_that_names_it(path: str) -> None:
    answer = refused(path, 400, consumer_group="g2")
    assert answer.json == {"detail": "consumer_group: there is no group 'g2', only primary"}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (
            InvalidRequest("the expression is broken", param="regex_string"),
            400,
            "regex_string: the expression",
        ),
        (PromptTooLong("the prompt has 9 tokens", param="prompt"), 400, "text: the prompt has 9 tokens"),
        (InvalidRequest("lora_id 'x' is not loaded", param="lora_id"), 400, "lora_id 'x' is not loaded"),
        (NotReady("the model is loading"), 503, "the model is loading"),
        (EngineFailed("it died"), 503, "it died"),
    ],
)
def test_refusals_of_the_service_keep_their_status(path: str, error: Any, status: int, detail: str) -> None:
    service = FakeService()
    service.refusal = error
    answer = post_takeoff(service, path, text=["a"])
    assert answer.status == status
    assert answer.detail.startswith(detail)


def test_a_full_queue_is_a_429_with_the_time_to_wait() -> None:
    service = FakeService()
    service.refusal = Overloaded("7 requests are open", retry_after_s=2.1)
    answer = post_takeoff(service, "/generate", text="a")
    assert (answer.status, answer.headers["retry-after"]) == (429, "3")


def test_nothing_is_redirected_and_what_is_not_there_is_a_404() -> None:
    app = make_door(door="takeoff")
    for method, path in (("POST", "/generate/"), ("GET", "/status/"), ("POST", "/partition_document")):
        answer = ask(app, method, path, {"text": "a"})
        assert answer.status == 404
        assert "location" not in answer.headers
    assert ask(app, "GET", "/web/nothing.js").status == 404
    assert ask(app, "GET", "/generate").status == 405


IMAGE_PATHS = ["/image_generate", "/image_generate_stream"]
PIXELS = b"\x89PNG and so on \xff\x00"


def post_form(service: FakeService, path: str, parts: list[tuple[str, Any]], **settings: Any) -> Answer:
    """Parts as `requests` takes them: (name, (filename or None, bytes, content type))."""
    prepared = requests.Request("POST", "http://localhost" + path, files=parts).prepare()
    assert isinstance(prepared.body, bytes)
    headers = [(b"content-type", prepared.headers["content-type"].encode())]
    return ask(make_door(service, "takeoff", **settings), "POST", path, body=prepared.body, headers=headers)


def json_part(**fields: Any) -> bytes:
    return json.dumps({"text": "What is this?", "max_new_tokens": 5} | fields).encode()


FORMS = {
    "takeoff-client": [
        ("json_data", (None, json_part(), "application/json")),
        ("image_data", ("a/cat.png", PIXELS, "image/*")),
    ],
    "requests and curl": [("image_data", ("cat.png", PIXELS)), ("json_data", (None, json_part()))],
    "both as files": [("json_data", ("j.json", json_part())), ("image_data", ("cat.png", PIXELS))],
}


@pytest.mark.parametrize("path", IMAGE_PATHS)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_an_image_comes_with_its_text_in_every_form(path: str, form: list[tuple[str, Any]]) -> None:
    service = FakeService()
    answer = post_form(service, path, form)
    assert answer.status == 200, answer.body
    (request,) = service.requests
    assert request == Request(
        prompt="What is this?",
        sampling=SamplingParams(**(DEFAULT | {"max_new_tokens": 5})),
        images=(PIXELS,),
    )
    if path == "/image_generate":
        assert answer.json == {"text": "Hello wörld!"}
    else:
        assert "".join(data for _, data in parsed([answer.body])) == "Hello wörld!"


@pytest.mark.parametrize("path", IMAGE_PATHS)
def test_every_text_of_a_list_is_asked_of_the_image(path: str) -> None:
    service = FakeService(echo)
    form = [
        ("json_data", (None, json_part(text=["one", "two"]))),
        ("image_data", ("i", PIXELS)),
    ]
    answer = post_form(service, path, form)
    assert [request.images for request in service.requests] == [(PIXELS,)] * 2
    if path == "/image_generate":
        assert answer.json == {"text": ["<one>", "<two>"]}


def test_a_large_image_is_not_written_to_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    service = FakeService()
    large = PIXELS * 90_000
    form = [("json_data", (None, json_part())), ("image_data", ("i", large))]
    answer = post_form(service, "/image_generate", form)
    assert (answer.status, answer.json) == (200, {"text": "Hello wörld!"})
    assert service.requests[0].images == (large,)


BAD_FORMS: list[tuple[str, list[tuple[str, Any]]]] = [
    ("there must be one part image_data, not 0", [("json_data", (None, json_part()))]),
    ("there must be one part json_data, not 0", [("image_data", ("i", PIXELS))]),
    (
        "there must be one part image_data, not 2",
        [
            ("json_data", (None, json_part())),
            ("image_data", ("i", PIXELS)),
            ("image_data", ("j", PIXELS)),
        ],
    ),
    (
        "there is no part 'mask'",
        [("json_data", (None, json_part())), ("image_data", ("i", PIXELS)), ("mask", (None, b"1"))],
    ),
    ("the image is empty", [("json_data", (None, json_part())), ("image_data", ("i", b""))]),
    ("not valid JSON", [("json_data", (None, b"{'text'}")), ("image_data", ("i", PIXELS))]),
    (
        "less than or equal to 100",
        [("json_data", (None, json_part(sampling_temperature=101))), ("image_data", ("i", PIXELS))],
    ),
    ("can't be read", [("json_data", (None, json_part()))] + [("image_data", ("i", PIXELS))] * 9),
]


@pytest.mark.parametrize("path", IMAGE_PATHS)
@pytest.mark.parametrize(("message", "form"), BAD_FORMS)
def test_a_form_that_is_wrong_says_what(path: str, message: str, form: list[tuple[str, Any]]) -> None:
    service = FakeService()
    answer = post_form(service, path, form)
    assert answer.status == 422, answer.body
    assert message in answer.detail
    assert service.requests == []


@pytest.mark.parametrize("path", IMAGE_PATHS)
def test_what_is_no_form_is_refused(path: str) -> None:
    service = FakeService()
    door = make_door(service, "takeoff")
    for kind, body in [
        (b"application/json", b'{"text": "a"}'),
        (b"multipart/form-data", b"no boundary"),
        (b"multipart/form-data; boundary=x", b"--y\r\n"),
    ]:
        answer = ask(door, "POST", path, body=body, headers=[(b"content-type", kind)])
        assert answer.status == 422, answer.body
    assert service.requests == []


@pytest.mark.parametrize("path", IMAGE_PATHS)
def test_an_image_over_the_limit_is_refused(path: str) -> None:
    form = [("json_data", (None, json_part())), ("image_data", ("i", PIXELS * 200))]
    answer = post_form(FakeService(), path, form, max_body_bytes=2_000)
    assert answer.status == 413
    assert "max-body-bytes" in answer.body.decode()
