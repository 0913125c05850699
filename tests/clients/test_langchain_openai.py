"""langchain-openai 1.7.4, ChatOpenAI and OpenAIEmbeddings, against the real server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import requests
from tests.cli.test_serve import LIMIT_S
from tests.clients.doors import HOST, Doors
from tests.clients.environments import Environment

HELLO = "Hello there! How can I assist you today?"  # what SmolLM2 says to "hi"
ANN = "Ann is 30 years old. Write her name and age."
Call = Callable[..., Any]


@pytest.fixture
def call(environment: Callable[[str], Environment]) -> Call:
    return environment("langchain_openai_1_7_4").call


@pytest.fixture
def settings(doors: Doors) -> dict[str, Any]:
    """Of a ChatOpenAI that always says the same."""
    door = {"base_url": f"{HOST}:{doors.front}/v1", "api_key": "any", "max_retries": 0}
    return {"model": "primary", "temperature": 0, "max_tokens": 120, **door}


@pytest.fixture
def embed(call: Call, doors: Doors) -> Call:
    """Calls a method of OpenAIEmbeddings."""

    def method(name: str, *args: object, **options: object) -> Any:
        door = {"base_url": f"{HOST}:{doors.openai}/v1", "api_key": "any", "max_retries": 0}
        made = {"model": "embed", **door, **options}
        return call("langchain_openai.OpenAIEmbeddings", *args, settings=made, method=name)

    return method


def test_invoke_batch_and_streams_say_the_same(call: Call, settings: dict[str, Any]) -> None:
    chat = "langchain_openai.ChatOpenAI"
    told = call(chat, "hi", settings=settings, method="invoke")
    assert told["content"] == HELLO
    assert told["usage_metadata"]["total_tokens"] == told["usage_metadata"]["input_tokens"] + 11
    together = call(chat, ["hi"] * 3, settings=settings, method="batch")
    assert [each["content"] for each in together] == [HELLO] * 3
    streamed = call("langchain_openai_calls.stream", settings, "hi")
    assert "".join(streamed["texts"]) == HELLO
    assert len(streamed["texts"]) > 5
    assert streamed["usage"]["output_tokens"] == told["usage_metadata"]["output_tokens"]
    awaited = call("langchain_openai_calls.in_a_loop", settings, "hi")
    assert awaited["whole"] == "".join(awaited["texts"]) == HELLO


def test_bound_tools_are_called_streamed_or_not(call: Call, settings: dict[str, Any]) -> None:
    told = call("langchain_openai_calls.call", settings, ANN)
    assert told["streamed"] == told["whole"]
    assert told["whole"]
    for each in told["whole"]:
        assert each["name"] == "Person"
        assert (type(each["args"]["name"]), type(each["args"]["age"])) == (str, int)
    assert call("langchain_openai_calls.round_trip", settings, ANN, "She is known.")


@pytest.mark.parametrize(
    "options", [{}, {"method": "function_calling"}, {"method": "json_schema", "strict": True}]
)
def test_output_is_structured_in_each_way(
    call: Call, settings: dict[str, Any], options: dict[str, Any]
) -> None:
    person = call("langchain_openai_calls.structured", settings, ANN, kwargs=options)
    assert (type(person["name"]), type(person["age"])) == (str, int)


def test_texts_are_embedded_once_it_sends_them_as_texts(embed: Call, doors: Doors) -> None:
    texts = ["A cat sits on the mat.", "Interest rates rose in May."]
    body = {"text": texts, "consumer_group": "embed"}
    vectors = requests.post(f"{HOST}:{doors.takeoff}/embed", json=body, timeout=LIMIT_S).json()["result"]
    documents = embed("embed_documents", texts, check_embedding_ctx_length=False)
    for document, vector in zip(documents, vectors, strict=True):
        assert document == pytest.approx(vector, abs=1e-5)
    query = embed("embed_query", texts[0], check_embedding_ctx_length=False)
    assert query == pytest.approx(vectors[0], abs=1e-5)
