"""takeoff-client 0.0.4, 0.6.0 and 0.7.0 against the real server: what the packages' users call."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from tests.clients.doors import HOST, Doors
from tests.clients.environments import Environment, Raised
from tests.e2e.processes import metric

Get = Callable[[str], Environment]
Client = Callable[..., Any]

HI = "hi"
HELLO = "Hello there! How can I assist you today?"  # what SmolLM2 says to that
THREE = "List three colours, each on a line of its own."
PROMPTS = [HI, THREE, "Say hello in French."]
SYSTEM = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
)
ALL = ["0_0_4", "0_6_0", "0_7_0"]
MODERN = ["0_6_0", "0_7_0"]


def client_of(version: str, environment: Get, doors: Doors) -> Client:
    """Calls a method of a TakeoffClient of this version."""
    extra = {"oai_port": doors.openai} if version == "0_7_0" else {}
    settings = doors.client_settings(**extra)
    call = environment(f"takeoff_client_{version}").call

    def client(method: str, *args: object, **kwargs: object) -> Any:
        return call("takeoff_client.TakeoffClient", *args, settings=settings, method=method, kwargs=kwargs)

    return client


@pytest.fixture(params=ALL)
def any_client(request: pytest.FixtureRequest, environment: Get, doors: Doors) -> Client:
    return client_of(request.param, environment, doors)


@pytest.fixture(params=MODERN)
def client(request: pytest.FixtureRequest, environment: Get, doors: Doors) -> Client:
    return client_of(request.param, environment, doors)


@pytest.fixture
def newest(environment: Get, doors: Doors) -> Client:
    return client_of("0_7_0", environment, doors)


def data_of(events: list[dict[str, Any]]) -> list[str]:
    """The tokens of a stream."""
    return [event["data"] for event in events if event["event"] == "message"]


def texts_by_batch_id(events: list[dict[str, Any]]) -> dict[int, str]:
    """What each member of a streamed list came to."""
    texts: dict[int, str] = {}
    for data in map(json.loads, data_of(events)):
        assert data.keys() == {"text", "batch_id"}
        texts[data["batch_id"]] = texts.get(data["batch_id"], "") + data["text"]
    return texts


def raised_by(client: Client, *args: object, **kwargs: object) -> Raised:
    with pytest.raises(Raised) as caught:
        client(*args, **kwargs)
    return caught.value


# --- Generation ---


def test_a_text_alone_is_answered_with_its_completion_and_nothing_else(any_client: Client) -> None:
    answer = any_client("generate", HI)
    assert answer.keys() == {"text"}
    assert answer["text"] == HELLO


def test_a_list_is_answered_in_order_with_what_each_gets_alone(any_client: Client) -> None:
    alone = [any_client("generate", prompt, max_new_tokens=12)["text"] for prompt in PROMPTS]
    assert len(set(alone)) == len(PROMPTS)
    assert any_client("generate", PROMPTS, max_new_tokens=12) == {"text": alone}
    assert any_client("generate", PROMPTS[:1], max_new_tokens=12) == {"text": alone[:1]}


def test_a_stream_joins_to_the_whole_text_with_its_spaces_and_lines(any_client: Client) -> None:
    whole = any_client("generate", THREE, max_new_tokens=40)["text"]
    pieces = data_of(any_client("generate_stream", THREE, max_new_tokens=40))
    assert "".join(pieces) == whole
    assert "\n" in whole
    assert " " in whole
    assert len(pieces) > 10


def test_a_streamed_list_names_the_prompt_of_every_token(any_client: Client) -> None:
    alone = [any_client("generate", prompt, max_new_tokens=12)["text"] for prompt in PROMPTS]
    events = any_client("generate_stream", PROMPTS, max_new_tokens=12)
    assert texts_by_batch_id(events) == dict(enumerate(alone))


def test_async_calls_give_the_same(client: Client) -> None:
    whole = client("generate", THREE, max_new_tokens=24)
    assert client("generate_async", THREE, max_new_tokens=24) == whole
    assert "".join(data_of(client("generate_stream_async", THREE, max_new_tokens=24))) == whole["text"]


def test_max_and_min_new_tokens_bound_the_length(client: Client) -> None:
    short = client("generate", HI, max_new_tokens=3)["text"]
    assert 1 <= client("tokens_count", short, "chat") <= 3
    free = client("generate", HI, max_new_tokens=40)["text"]
    longer = client("generate", HI, max_new_tokens=40, min_new_tokens=30)["text"]
    assert client("tokens_count", free, "chat") < 30 <= client("tokens_count", longer, "chat")


def test_no_pair_of_tokens_comes_twice_where_it_is_forbidden(any_client: Client, newest: Client) -> None:
    def pairs(text: str) -> list[tuple[str, str]]:
        tokens = newest("tokenize", text, "chat", use_chat_template=False)
        return list(pairwise(tokens))

    prompt = "Write the word apple twenty times."
    free = pairs(any_client("generate", prompt, max_new_tokens=40)["text"])
    assert len(set(free)) < len(free)
    bound = pairs(any_client("generate", prompt, max_new_tokens=40, no_repeat_ngram_size=2)["text"])
    assert len(set(bound)) == len(bound) > 5


def test_a_repetition_penalty_changes_what_repeats(any_client: Client) -> None:
    ask = partial(any_client, "generate", "Write the word apple twenty times.", max_new_tokens=30)
    free, bound = ask()["text"], ask(repetition_penalty=1.5)["text"]
    assert free.lower().count("apple") > bound.lower().count("apple")


def test_only_one_candidate_means_one_text_and_many_mean_many(any_client: Client) -> None:
    ask = partial(any_client, "generate", ["Tell me a story."] * 10, max_new_tokens=12)
    assert len(set(ask(sampling_topk=1, sampling_temperature=1.5)["text"])) == 1
    assert len(set(ask(sampling_topk=50, sampling_temperature=1.5)["text"])) >= 2


def test_a_long_prompt_is_cut_where_it_is_told_and_refused_where_not(client: Client) -> None:
    prompt = "one two three " * 1000
    refused = raised_by(client, "generate", prompt, max_new_tokens=4)
    assert refused.status_code == 400
    assert "tokens" in refused.message
    assert client("generate", prompt, max_new_tokens=4, prompt_max_tokens=64)["text"]


# --- Structured output ---

SCHEMA = {
    "type": "object",
    "properties": {
        "age": {"type": "integer"},
        "colour": {"enum": ["red", "green", "blue"]},
        "pets": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2},
        "home": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
    "required": ["age", "colour", "pets", "home"],
    "additionalProperties": False,
}


def test_a_regex_is_matched_by_the_whole_text_alone_streamed_and_in_lists(any_client: Client) -> None:
    ask = {"regex_string": "[0-9]{4}-[0-9]{2}", "max_new_tokens": 24}
    whole = any_client("generate", "When was the war over?", **ask)["text"]
    assert re.fullmatch(ask["regex_string"], whole)
    streamed = data_of(any_client("generate_stream", "When was the war over?", **ask))
    assert "".join(streamed) == whole
    for text in any_client("generate", ["A year and month?", "When is it?"], **ask)["text"]:
        assert re.fullmatch(ask["regex_string"], text)


def test_a_json_schema_is_kept_in_all_its_parts(any_client: Client) -> None:
    ask = partial(any_client, "generate", "Describe Ann as JSON.", json_schema=SCHEMA, max_new_tokens=120)
    person = json.loads(ask()["text"])
    assert person.keys() == {"age", "colour", "pets", "home"}
    assert isinstance(person["age"], int)
    assert person["colour"] in ("red", "green", "blue")
    assert 1 <= len(person["pets"]) <= 2
    assert all(isinstance(pet, str) for pet in person["pets"])
    assert isinstance(person["home"]["city"], str)


def test_a_regex_wins_over_a_schema(any_client: Client) -> None:
    answer = any_client("generate", "A number?", regex_string="[0-9]{3}", json_schema=SCHEMA)
    assert re.fullmatch("[0-9]{3}", answer["text"])


def test_a_broken_regex_is_refused_with_its_fault(client: Client) -> None:
    refused = raised_by(client, "generate", "A number?", regex_string="[0-9")
    assert refused.status_code == 400
    assert "regex_string" in refused.message


# --- What is refused ---


@pytest.mark.parametrize(
    ("field", "value"), [("text", 5), ("max_new_tokens", "x"), ("sampling_topp", [1]), ("sampling_topk", 0)]
)
def test_a_wrong_value_is_a_422_that_names_the_field(client: Client, field: str, value: object) -> None:
    refused = raised_by(client, "generate", **{"text": "hi", field: value})
    assert (refused.type, refused.status_code) == ("TakeoffException", 422)
    assert field in refused.message


def test_an_unknown_group_is_refused_at_once_by_name(any_client: Client) -> None:
    started = time.monotonic()
    refused = raised_by(any_client, "generate", "hi", consumer_group="g2")
    assert time.monotonic() - started < 5
    assert "g2" in refused.message


def test_a_group_that_embeds_does_not_generate_nor_the_reverse(client: Client) -> None:
    refused = raised_by(client, "generate", "hi", consumer_group="embed")
    assert refused.status_code == 400
    assert "embed" in refused.message
    refused = raised_by(client, "embed", "hi", consumer_group="primary")
    assert refused.status_code == 400
    assert "chat" in refused.message or "primary" in refused.message


# --- Metadata: 0.7.0 only ---


def test_metadata_comes_where_it_is_asked_for_and_counts_the_tokens(newest: Client) -> None:
    text = newest("generate", THREE, max_new_tokens=20)["text"]
    answer = newest("generate", THREE, max_new_tokens=20, return_metadata=True)
    assert answer["text"] == text
    prompt = newest("tokenize", THREE, "chat")
    expected = {"prompt_tokens": len(prompt), "generated_tokens": 20, "finish_reason": "length"}
    assert 0 <= answer["metadata"].pop("cached_tokens") < len(prompt)
    assert answer["metadata"] == expected
    many = newest("generate", [THREE, HI], max_new_tokens=20, return_metadata=True)
    assert many["metadata"][0] == {**expected, "cached_tokens": many["metadata"][0]["cached_tokens"]}
    assert many["metadata"][1]["finish_reason"] == "stop"
    assert newest("generate", THREE, max_new_tokens=20, return_metadata=False).keys() == {"text"}


def test_metadata_of_a_stream_is_its_last_event_and_no_text(newest: Client) -> None:
    events = newest("generate_stream", THREE, max_new_tokens=20, return_metadata=True)
    assert [event["event"] for event in events[-2:]] == ["message", "metadata"]
    told = json.loads(events[-1]["data"])
    assert (told["generated_tokens"], told["finish_reason"]) == (20, "length")
    assert "".join(data_of(events)) == newest("generate", THREE, max_new_tokens=20)["text"]


# --- Many at once ---


def num_decode_steps(doors: Doors) -> float:
    """Of all readers, since the start; the engines have told them by now."""
    time.sleep(0.5)
    return metric(f"{HOST}:{doors.management}", 'takeoff_step_calls_total{kind="decode"}')


def test_sixteen_at_once_are_all_right_and_share_the_work(environment: Get, doors: Doors) -> None:
    settings = doors.client_settings(oai_port=doors.openai)

    def asked(number: int) -> dict[str, Any]:
        kwargs = {"max_new_tokens": 48, "min_new_tokens": 48}
        text = f"Count upwards from {number}."
        target = "takeoff_client.TakeoffClient"
        return {
            "target": target,
            "settings": settings,
            "method": "generate",
            "args": [text],
            "kwargs": kwargs,
        }

    ask = environment("takeoff_client_0_7_0").call_together
    alone = []
    for number in range(4):
        alone += ask([asked(number)])
    before = num_decode_steps(doors)
    together = ask([asked(number) for number in range(16)])
    num_steps = num_decode_steps(doors) - before
    assert 47 * 16 / 8 <= num_steps < 0.4 * 47 * 16, "eight slots share the steps"
    assert together[:4] == alone
    assert len({answer["text"] for answer in together}) == 16


# --- Embedding ---

SENTENCES = ["A cat sits on the mat.", "A kitten rests on a rug.", "Interest rates rose in May."]
EPSILON = 1e-5


def cosine(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def test_vectors_of_the_old_embed_are_flat_for_a_text_and_nested_for_a_list(
    environment: Get, doors: Doors
) -> None:
    for version in ("0_0_4", "0_6_0"):
        client = client_of(version, environment, doors)
        nested = client("embed", SENTENCES, consumer_group="embed")["result"]
        assert [len(vector) for vector in nested] == [384, 384, 384]
        flat = client("embed", SENTENCES[0], consumer_group="embed")["result"]
        assert flat == pytest.approx(nested[0], abs=EPSILON)
        assert cosine(nested[0], nested[0]) == pytest.approx(1, abs=1e-4)
        assert cosine(nested[0], nested[1]) > 0.5 > cosine(nested[0], nested[2]) + 0.3


def test_the_oldest_client_embeds_in_the_group_embed_when_not_told(environment: Get, doors: Doors) -> None:
    client = client_of("0_0_4", environment, doors)
    assert len(client("embed", "hello")["result"]) == 384


def test_the_new_embed_gets_openais_object_in_order_with_the_old_vectors(
    newest: Client, environment: Get, doors: Doors
) -> None:
    answer = newest("embed", SENTENCES, consumer_group="embed")
    assert answer["object"] == "list"
    assert [item["index"] for item in answer["data"]] == [0, 1, 2]
    old = client_of("0_6_0", environment, doors)("embed", SENTENCES, consumer_group="embed")["result"]
    for item, vector in zip(answer["data"], old, strict=True):
        assert item["embedding"] == pytest.approx(vector, abs=EPSILON)
    assert newest("embed_async", SENTENCES, consumer_group="embed") == answer


# --- Tokens and templates ---


def test_tokens_are_counted_listed_and_put_together_again(client: Client, newest: Client) -> None:
    text = "Hello, wörld! It's 2024."
    tokens = newest("tokenize", text, "chat", use_chat_template=False)
    assert tokens[:2] == ["Hello", ","]
    assert client("tokens_count", text, "chat") == len(tokens)
    assert client("detokenize", tokens, "chat") == text
    assert client("detokenize_async", tokens, "chat") == text


def test_a_tokenized_text_wears_the_template_unless_told_not_to(newest: Client) -> None:
    tokens = newest("tokenize", "Hi", "chat")
    assert tokens[0] == "<|im_start|>"
    assert "Hi" in tokens
    assert newest("tokenize", "Hi", "chat", use_chat_template=False) == ["Hi"]


def test_an_unknown_reader_is_refused_by_name(client: Client) -> None:
    for method, first in (("tokenize", "hi"), ("detokenize", [1]), ("chat_template", [{"role": "user"}])):
        refused = raised_by(client, method, first, "nobody")
        assert refused.status_code in (400, 404)
        assert "nobody" in refused.message


def test_conversations_are_written_as_the_model_was_taught(client: Client) -> None:
    hi, bye = [{"role": "user", "content": "Hi"}], [{"role": "user", "content": "Bye"}]
    written = SYSTEM + "<|im_start|>user\nHi<|im_end|>\n"
    assert client("chat_template", hi, "chat") == [written]
    assert client("chat_template", [hi, bye], "chat") == [written, written.replace("Hi", "Bye")]
    opened = client("chat_template", hi, "chat", add_generation_prompt=True)
    assert opened == [written + "<|im_start|>assistant\n"]
    assert client("chat_template_async", hi, "chat") == [written]


def test_a_message_without_a_role_is_refused_by_that_word(client: Client) -> None:
    refused = raised_by(client, "chat_template", [{"content": "Hi"}], "chat")
    assert refused.status_code in (400, 422)
    assert "role" in refused.message


def test_classifying_where_nothing_classifies_is_refused(client: Client) -> None:
    refused = raised_by(client, "classify", "Good?", consumer_group="primary")
    assert refused.status_code == 400


# --- Management ---


def test_readers_are_listed_by_group(any_client: Client) -> None:
    groups = any_client("get_readers")
    listed = {group: [reader["reader_id"] for reader in readers] for group, readers in groups.items()}
    assert listed == {"primary": ["chat"], "embed": ["embedder"]}


def test_the_status_tells_what_lives(client: Client) -> None:
    status = client("get_status")["status"]
    assert status["live_readers"].keys() == {"chat", "embedder"}
    assert client("get_status_async")["status"]["live_readers"].keys() == {"chat", "embedder"}


def test_a_reader_is_added_serves_its_group_and_is_gone_after_its_removal(client: Client) -> None:
    wanted = {
        "model_name": "smollm2",
        "device": "cpu",
        "consumer_group": "extra",
        "max_batch_size": 1,
    }
    for _ in range(2):  # again at once, while the first one may still be ending
        reader_id = client("create_reader", wanted)["reader_id"]
        assert client("get_readers")["extra"][0]["reader_id"] == reader_id
        wait_live(client, reader_id)
        there = client("generate", HI, max_new_tokens=8, consumer_group="extra")
        assert there == client("generate", HI, max_new_tokens=8)
        assert client("delete_reader", reader_id) is None
        assert "extra" not in client("get_readers")
        assert "extra" in raised_by(client, "generate", HI, consumer_group="extra").message


def wait_live(client: Client, reader_id: str) -> None:
    deadline = time.monotonic() + 60
    while reader_id not in (status := client("get_status")["status"])["live_readers"]:
        assert reader_id not in status["dead_readers"], status
        assert time.monotonic() < deadline, status
        time.sleep(0.05)


def test_a_reader_without_slots_is_refused(client: Client) -> None:
    wanted = {"model_name": "smollm2", "device": "cpu", "max_batch_size": 0}
    refused = raised_by(client, "create_reader", wanted)
    assert 400 <= (refused.status_code or 0) < 500
    assert "max_batch_size" in refused.message


def test_a_readers_config_is_its_models_and_of_a_stranger_there_is_none(client: Client) -> None:
    config = client("get_reader_config", "chat")
    assert config["model_type"] == "llama"
    assert raised_by(client, "get_reader_config", "nobody").status_code == 404
