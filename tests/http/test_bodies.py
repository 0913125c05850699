"""Bodies that nobody should send: each is told what is wrong, soon, and costs no 500."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.http.door import Answer, FakeService, ask, make_door

from takeoff.http.openai.classify import ClassifyBody
from takeoff.http.openai.embeddings import EmbeddingsBody
from takeoff.http.openai.fields import OpenAIBody
from takeoff.http.openai.rerank import RerankBody
from takeoff.http.openai.responses.body import ResponsesBody
from takeoff.http.openai.responses.history import ITEMS
from takeoff.http.openai.tokens import DetokenizeBody, TokenizeBody
from takeoff.http.takeoff_pro import GenerateBody

V1_FIELDS = [
    "generate_max_length",
    "sampling_topk",
    "sampling_topp",
    "sampling_temperature",
    "repetition_penalty",
    "no_repeat_ngram_size",
]
OPENAI_FIELDS = [
    "max_tokens",
    "temperature",
    "top_p",
    "n",
    "stop",
    "seed",
    "stream",
    "stream_options",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "user",
    "min_p",
    "top_k",
    "repetition_penalty",
    "min_tokens",
    "ignore_eos",
    "model",
    "best_of",
    "echo",
    "logprobs",
    "suffix",
    "no_such_field",
]
PROMPT = {"/generate": "text", "/generate_stream": "text", "/v1/completions": "prompt"}
PRO_FIELDS = [*GenerateBody.model_fields]
PRO_PATHS = {
    "/generate": PRO_FIELDS,
    "/generate_stream": PRO_FIELDS,
    "/embed": ["text", "consumer_group"],
    "/classify": ["text", "consumer_group"],
    "/tokenize/smollm2": ["text", "use_chat_template", "skip_special_tokens"],
    "/detokenize/smollm2": ["tokens", "skip_special_tokens"],
    "/chat_template/smollm2": ["inputs", "add_generation_prompt"],
}
SOON_S = 3.0  # of processor time; two megabytes take under one, a million errors many


def send(path: str, raw: str | bytes, service: FakeService | None = None, door: str = "front") -> Answer:
    body = raw.replace("PROMPT", PROMPT[path]).encode() if isinstance(raw, str) else raw
    started = time.process_time()
    answer = ask(make_door(service, door), "POST", path, body)
    assert time.process_time() - started < SOON_S
    assert answer.error is None
    assert len(answer.body) < 20_000
    return answer


def refused(path: str, raw: str | bytes) -> str:
    """The message of a refusal."""
    answer = send(path, raw)
    assert answer.status == (400 if path == "/v1/completions" else 422), answer.body
    return json.dumps(answer.json)


@pytest.mark.parametrize("path", PROMPT)
@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"nonsense", "not valid JSON"),
        (b'{"text": "a", "prompt": "a"} x', "Extra data"),
        (b"\xff\xfe\xfd", "not valid JSON"),
        (b'{"text": "\xff", "prompt": "\xff"}', "can't decode byte 0xff"),
        (b'{"text": "\xc3', "not valid JSON"),
        (b"[]", "valid dictionary"),
        (b'"text"', "valid dictionary"),
        (b"null", "valid dictionary"),
        (b"1e999", "valid dictionary"),
        (b'{"text": NaN, "prompt": NaN}', "NaN is not a JSON number"),
        (b'{"x": {"y": [NaN]}, "text": "a", "prompt": "a"}', "NaN is not a JSON number"),
        (b'{"x": -Infinity, "text": "a", "prompt": "a"}', "-Infinity is not a JSON number"),
        (b'{"x": ' + b"9" * 5_000 + b', "text": "a", "prompt": "a"}', "integer string conversion"),
        (b'{"x": ' + b"[" * 900_000 + b"}", "not valid JSON"),
        (b'{"x": ' + b'{"a":' * 300_000 + b"}", "not valid JSON"),
    ],
)
def test_what_is_no_json_object_is_told(path: str, raw: bytes, words: str) -> None:
    assert words in refused(path, raw)


NUMBERS = ["1e999", "-1e999", "1e308", "9" * 400, "-" + "9" * 4_000, "1e-400", "-0.0"]
OTHERS = ["null", "true", '"\\ud800"', '"5"', "[]", "[[]]", "{}", '{"a": 1}', "[null]"]
ODD = ['{"1": 1e999}', '{"1": ' + "9" * 400 + "}", '{"' + "9" * 4_000 + '": 1}', '{"\\ud800": 1}']
NESTED = ["[" * depth + "]" * depth for depth in (50, 400, 900)]


@pytest.mark.parametrize("path", PROMPT)
def test_no_value_of_any_field_is_an_error_of_ours(path: str) -> None:
    fields = OPENAI_FIELDS if path == "/v1/completions" else V1_FIELDS
    for field in fields:
        for value in (*NUMBERS, *OTHERS, *ODD, *NESTED):
            answer = send(path, f'{{"PROMPT": "a", "{field}": {value}}}')
            assert answer.status in (200, 400, 404, 422), (field, value)


CHAT_FIELDS = [
    "chat_template_kwargs",
    "guided_choice",
    "guided_json",
    "max_completion_tokens",
    "messages",
    "metadata",
    "prediction",
    "regex",
    "response_format",
    "structured_outputs",
]
OTHER_BODIES: dict[str, tuple[type[OpenAIBody], dict[str, object]]] = {
    "/v1/responses": (ResponsesBody, {"input": "a", "stream": False}),
    "/v1/embeddings": (EmbeddingsBody, {"input": "a"}),
    "/v1/classify": (ClassifyBody, {"input": "a"}),
    "/v1/rerank": (RerankBody, {"query": "a", "documents": ["b"]}),
    "/tokenize": (TokenizeBody, {"messages": [{"role": "user", "content": "a"}]}),
    "/detokenize": (DetokenizeBody, {"tokens": [1]}),
}
MESSAGE_FIELDS = [
    "role",
    "content",
    "name",
    "tool_calls",
    "tool_call_id",
    "refusal",
    "reasoning_content",
    "x",
    "\\ud800",
]


def test_no_value_of_any_field_of_a_chat_is_an_error_of_ours() -> None:
    path, message = "/v1/chat/completions", '{"role": "user", "content": "a"}'
    values = (*OTHERS, *ODD, *NESTED, *NUMBERS[:3])
    bodies = [
        *(f'{{"messages": [{message}], "{field}": {value}}}' for field in CHAT_FIELDS for value in values),
        *(
            f'{{"messages": [{{"role": "{role}", "content": "a", "{field}": {value}}}]}}'
            for role in ("assistant", "tool", "user")
            for field in MESSAGE_FIELDS
            for value in values
        ),
    ]
    app = make_door()
    for body in bodies:
        answer = ask(app, "POST", path, body.encode())
        assert answer.status in (200, 400), (body[:200], answer.body)


def test_no_value_of_any_field_of_a_responses_items_and_tools_is_an_error_of_ours() -> None:
    call = {"call_id": "1", "name": "f", "arguments": "", "output": "1"}
    valid: dict[str, list[object]] = {
        "message": [{"type": "message", "role": role, "content": "a"} for role in ("user", "assistant")],
        "function_call": [{"type": "function_call", **call}],
        "function_call_output": [{"type": "function_call_output", **call}],
        "reasoning": [{"type": "reasoning", "summary": []}],
    }
    places = [
        (f'{{"input": [{json.dumps(item)[:-1]}, "{field}": VALUE}}, {{"role": "user", "content": "a"}}]}}')
        for kind, items in valid.items()
        for item in items
        for field in (*ITEMS[kind].honoured, *ITEMS[kind].harmless, *ITEMS[kind].unserved, "x")
    ]
    places += [
        f'{{"input": [{{"role": "{role}", "content": [{{"type": "{kind}", "{field}": VALUE}}]}}]}}'
        for role in ("user", "assistant")
        for kind in ("input_text", "output_text", "refusal", "input_image")
        for field in ("text", "refusal", "image_url", "detail", "annotations", "logprobs", "x")
    ]
    places += [
        f'{{"input": "a", "tools": [{{"type": "function", "name": "f", "{field}": VALUE}}]}}'
        for field in ("type", "name", "description", "parameters", "strict", "async", "x")
    ]
    form = '{"type": "json_schema", "name": "x", "schema": {"a": VALUE}}'
    places.append(f'{{"input": "a", "text": {{"format": {form}}}}}')
    app = make_door()
    for place in places:
        for value in (*OTHERS, *ODD, *NESTED, *NUMBERS[:3]):
            answer = ask(app, "POST", "/v1/responses", place.replace("VALUE", value).encode())
            assert answer.error is None, (place, value[:80])
            assert answer.status in (200, 400), (place, value[:80])


@pytest.mark.parametrize("path", OTHER_BODIES)
def test_no_value_of_any_field_of_the_other_routes_is_an_error_of_ours(path: str) -> None:
    body, valid = OTHER_BODIES[path]
    app = make_door()
    for field in (*body.model_fields, *body.unserved, "no_such_field"):
        others = json.dumps({"model": "primary"} | valid | {field: 1})
        for value in (*NUMBERS, *OTHERS, *ODD, *NESTED, '"' + "x" * 9_000 + '"'):
            answer = ask(app, "POST", path, others.replace(f'"{field}": 1', f'"{field}": {value}').encode())
            assert answer.error is None, (field, value[:80])
            assert answer.status in (200, 400, 404), (field, value[:80])
            assert len(answer.body) < 40_000


@pytest.mark.parametrize("path", PROMPT)
@pytest.mark.parametrize("value", ["1e999", "-1e999", "9" * 400, "null", "true", "{}", "[null]", "[[[]]]"])
def test_a_prompt_of_another_type_is_refused(path: str, value: str) -> None:
    assert PROMPT[path] in refused(path, f'{{"PROMPT": {value}}}')


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
@pytest.mark.parametrize(
    "prompt",
    [
        "[" + '"a", 1, ' * 200_000 + "1]",
        "[" + '["a"],' * 300_000 + "1]",
        "[" + '"a",' * 400_000 + '"a"]',
        "[" + "{}," * 600_000 + "1]",
    ],
    ids=["mixed", "lists", "texts", "objects"],
)
def test_a_million_wrong_elements_cost_no_million_errors(path: str, prompt: str) -> None:
    assert PROMPT[path] in refused(path, f'{{"PROMPT": {prompt}}}')


def test_of_a_million_wrong_elements_of_a_field_one_is_told() -> None:
    path = "/v1/completions"
    assert "stop" in refused(path, '{"prompt": "a", "stop": [' + "1," * 900_000 + "1]}")
    assert "32" in refused(path, '{"prompt": "a", "stop": [' + '"a",' * 400_000 + '"a"]}')
    biases = ",".join(f'"{i}": 1' for i in range(100_000))
    assert "at most 1024 entries, got 100000" in refused(
        path, f'{{"prompt": "a", "logit_bias": {{{biases}}}}}'
    )
    unknown = ",".join(f'"a{i}": 1' for i in range(100_000))
    assert "unknown field 'a0'" in refused(path, f'{{"prompt": "a", {unknown}}}')


def test_a_field_with_a_name_of_two_megabytes_is_told_by_its_beginning() -> None:
    name = "temperature" * 180_000
    message = refused("/v1/completions", f'{{"prompt": "a", "{name}": 1}}')
    assert "unknown field 'temperaturetemp" in message
    assert "did you mean 'temperature'" in message


@pytest.mark.parametrize("path", PROMPT)
def test_of_a_key_given_twice_the_last_counts(path: str) -> None:
    service = FakeService()
    assert send(path, '{"PROMPT": "first", "PROMPT": "last"}', service).status == 200
    assert [request.prompt for request in service.requests] == ["last"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_other_unicode_encodings_of_json_are_read(encoding: str) -> None:
    service = FakeService()
    assert send("/generate", '{"text": "wörld 東京 🙂"}'.encode(encoding), service).status == 200
    assert [request.prompt for request in service.requests] == ["wörld 東京 🙂"]


def test_the_content_type_does_not_matter() -> None:
    body = {"text": "a"}
    for content_type in (b"text/plain", b"application/x-www-form-urlencoded", b"nonsense", b"\xff"):
        answer = ask(make_door(), "POST", "/generate", body, [(b"content-type", content_type)])
        assert answer.status == 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body=st.dictionaries(st.sampled_from(["text", "prompt", *V1_FIELDS, *OPENAI_FIELDS]), JSON))
def test_no_json_object_is_an_error_of_ours(body: dict[str, object]) -> None:
    for path in PROMPT:
        assert send(path, json.dumps(body).encode()).status in (200, 400, 404, 422)


@settings(max_examples=60, deadline=None)
@given(raw=st.binary(max_size=200))
def test_no_bytes_are_an_error_of_ours(raw: bytes) -> None:
    for path in PROMPT:
        assert send(path, raw).status in (200, 400, 404, 422)


# --- The later Takeoff API ---


@pytest.mark.parametrize("path", PRO_PATHS)
def test_no_value_of_any_field_of_the_later_api_is_an_error_of_ours(path: str) -> None:
    app = make_door(door="takeoff")
    valid = {"text": "a", "tokens": ["a"], "inputs": [[{"role": "user", "content": "a"}]]}
    for field in PRO_PATHS[path]:
        others = json.dumps({name: value for name, value in valid.items() if name != field})[:-1]
        for value in (*NUMBERS, *OTHERS, *ODD, *NESTED, '"' + "x" * 9_000 + '"'):
            answer = ask(app, "POST", path, f'{others}, "{field}": {value}}}'.encode())
            assert answer.error is None, (field, value[:80])
            assert answer.status in (200, 400, 422), (field, value[:80])
            assert len(answer.body) < 40_000


@pytest.mark.parametrize("path", PRO_PATHS)
def test_a_million_wrong_elements_of_the_later_api_cost_no_million_errors(path: str) -> None:
    wrong = "[" + "[[1]]," * 200_000 + '["a"], {}, 1]'
    field = PRO_PATHS[path][0]
    raw = f'{{"{field}": {wrong}}}'
    answer = send(path, raw.encode(), door="takeoff")
    assert answer.status == 422
    assert answer.json["detail"][0]["loc"][:2] == ["body", field]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body=st.dictionaries(st.sampled_from([*PRO_FIELDS, "tokens", "inputs"]), JSON))
def test_no_json_object_is_an_error_of_the_later_api(body: dict[str, object]) -> None:
    app = make_door(door="takeoff")
    for path in PRO_PATHS:
        answer = ask(app, "POST", path, body)
        assert answer.error is None
        assert answer.status in (200, 400, 422)
