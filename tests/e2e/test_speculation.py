"""Drafts over HTTP: what repeats the prompt or a prediction comes sooner, and nothing else changes."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

PEOPLE = [{"id": 1, "name": "Ada", "city": "London"}, {"id": 2, "name": "Alan", "city": "Manchester"}]
EDIT = f"Repeat this JSON, but change Alan's city to Cambridge:\n\n{json.dumps(PEOPLE, indent=1)}"


@pytest.fixture
def client(server_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=0) as client:
        yield client


def chat(client: openai.OpenAI, text: str, **body: Any) -> Any:
    messages: Any = [{"role": "user", "content": text}]
    asked = {"model": "primary", "messages": messages, "max_tokens": 90, "temperature": 0} | body
    return client.chat.completions.create(**asked)


def accepted(server_url: str) -> float:
    """Draft tokens that were right; the engine tells of them with its heartbeat."""
    page = httpx.get(f"{server_url}/metrics").text
    found = re.search(r"^takeoff_accepted_draft_tokens_total (\S+)$", page, re.MULTILINE)
    assert found is not None
    return float(found[1])


def test_a_run_of_tokens_is_told_as_single_ones_are(client: openai.OpenAI) -> None:
    whole = chat(client, EDIT, logprobs=True)
    (choice,) = whole.choices
    told = b"".join(bytes(token.bytes or ()) for token in choice.logprobs.content)
    assert told.decode() == choice.message.content
    assert whole.usage.completion_tokens == len(choice.logprobs.content) > 40
    *chunks, last = chat(client, EDIT, stream=True, stream_options={"include_usage": True})
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == choice.message.content
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    stop = choice.message.content[60:66]
    cut = chat(client, EDIT, stop=stop).choices[0]
    assert (cut.message.content, cut.finish_reason) == (choice.message.content.split(stop)[0], "stop")


def test_a_prediction_that_is_right_is_accepted(client: openai.OpenAI, server_url: str) -> None:
    text = "Tell me something about the rivers of Africa."
    answer = chat(client, text).choices[0].message.content
    before = accepted(server_url)
    again = chat(client, text, prediction={"type": "content", "content": answer})
    assert again.choices[0].message.content == answer
    assert again.usage.completion_tokens == 90
    (*_, last) = chat(
        client,
        text,
        prediction={"type": "content", "content": answer},
        stream=True,
        stream_options={"include_usage": True},
    )
    for usage in (again.usage, last.usage):
        assert usage.completion_tokens_details.accepted_prediction_tokens > 40
        assert usage.completion_tokens_details.rejected_prediction_tokens < 20
    plain = chat(client, text).usage.completion_tokens_details
    assert (plain.accepted_prediction_tokens, plain.rejected_prediction_tokens) == (0, 0)
    deadline = time.monotonic() + 10
    while accepted(server_url) < before + 45 and time.monotonic() < deadline:
        time.sleep(0.1)  # until the next heartbeat
    assert accepted(server_url) >= before + 45
