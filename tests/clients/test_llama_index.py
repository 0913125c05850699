"""LlamaIndex' OpenAILike, of llama-index-llms-openai-like 0.8.1, against the real server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.clients.doors import HOST, Doors
from tests.clients.environments import Environment

HI = [("user", "hi")]
HELLO = "Hello there! How can I assist you today?"  # what SmolLM2 says to that
ANN = "Ann is 30 years old. Write her name and age."
Call = Callable[..., Any]


@pytest.fixture
def call(environment: Callable[[str], Environment], doors: Doors) -> Call:
    """Calls a function of llama_index_calls.py."""

    def call(name: str, *args: object, **options: object) -> Any:
        settings = {"model": "primary", "api_base": f"{HOST}:{doors.front}/v1", "api_key": "any"}
        settings |= {"temperature": 0, "max_tokens": 120, "max_retries": 0, **options}
        return environment("llama_index_openai_like_0_8_1").call(f"llama_index_calls.{name}", settings, *args)

    return call


def test_a_prompt_is_completed_whole_and_streamed(call: Call) -> None:
    whole = call("complete", "The capital of France is", max_tokens=12)
    assert whole.startswith(" Paris")
    pieces = call("stream_complete", "The capital of France is", max_tokens=12)
    assert "".join(pieces) == whole
    assert len(pieces) > 5


def test_a_conversation_is_answered_in_every_way(call: Call) -> None:
    assert call("chat", HI, is_chat_model=True) == HELLO
    assert call("complete", "hi", is_chat_model=True) == HELLO
    for way in ("stream_chat", "stream_chat_async"):
        pieces = call(way, HI, is_chat_model=True)
        assert "".join(pieces) == HELLO
        assert len(pieces) > 5
    turns = [("system", "Answer in one word."), ("user", "What is the capital of France?")]
    assert "Paris" in call("chat", turns, is_chat_model=True)


def test_a_class_and_a_tool_are_filled_in(call: Call) -> None:
    calls = call("call", ANN, is_chat_model=True, is_function_calling_model=True)
    assert calls
    persons = [each["args"] for each in calls]
    assert {each["name"] for each in calls} == {"_remember"}
    for structured in (True, False):
        options = {"is_function_calling_model": not structured, "should_use_structured_outputs": structured}
        persons.append(call("structured", ANN, is_chat_model=True, **options))
    for person in persons:
        assert (type(person["name"]), type(person["age"])) == (str, int)
