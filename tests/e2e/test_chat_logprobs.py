"""Logprobs of chats, asked with the `openai` package: those of /v1/completions, in another shape."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from tests.engine.test_logprobs import OTHER_ROWS

MESSAGES = [{"role": "user", "content": "Name a river 🙂 in France."}]
PROMPT = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nName a river 🙂 in France.<|im_end|>\n<|im_start|>assistant\n"
)
TOOL = {"type": "function", "function": {"name": "river", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def client(server_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=0) as client:
        yield client


def chat(client: openai.OpenAI, **body: Any) -> Any:
    asked = {"model": "primary", "messages": MESSAGES, "max_tokens": 16, "temperature": 0, "logprobs": True}
    return client.chat.completions.create(**(asked | body))


def values(tokens: Any) -> list[float]:
    return [token.logprob for token in tokens]


def test_they_are_those_of_completions_of_the_same_prompt(client: openai.OpenAI) -> None:
    (choice,) = chat(client, top_logprobs=3).choices
    told = choice.logprobs
    legacy = client.completions.create(
        model="primary", prompt=PROMPT, max_tokens=16, temperature=0, logprobs=3
    ).choices[0]
    assert legacy.logprobs is not None
    assert told.refusal is None
    assert choice.message.content == legacy.text
    assert [token.token for token in told.content] == legacy.logprobs.tokens
    assert values(told.content) == pytest.approx(legacy.logprobs.token_logprobs, abs=OTHER_ROWS)
    for token, top in zip(told.content, legacy.logprobs.top_logprobs or (), strict=True):
        assert len(token.top_logprobs) == 3
        assert {each.token for each in token.top_logprobs} & top.keys()
        assert token.top_logprobs[0].logprob == max(values(token.top_logprobs)) == token.logprob
        assert sum(map(math.exp, values(token.top_logprobs))) <= 1 + 1e-6
        assert bytes(token.bytes).decode() == token.token
    without = chat(client, logprobs=False).choices[0]
    assert (without.message.content, without.logprobs) == (choice.message.content, None)


def test_streamed_they_are_the_same(client: openai.OpenAI) -> None:
    (choice,) = chat(client, top_logprobs=2, stop="river in").choices
    chunks = [chunk.choices[0] for chunk in chat(client, top_logprobs=2, stop="river in", stream=True)]
    tokens = [token for chunk in chunks if chunk.logprobs for token in chunk.logprobs.content]
    assert [token.token for token in tokens] == [token.token for token in choice.logprobs.content]
    assert values(tokens) == pytest.approx(values(choice.logprobs.content), abs=OTHER_ROWS)
    assert all(len(token.top_logprobs) == 2 for token in tokens)
    assert "".join(chunk.delta.content or "" for chunk in chunks) == choice.message.content
    assert chunks[0].logprobs is None  # the role


def test_alone_and_among_others_they_are_as_near_as_the_kernels_are(client: openai.OpenAI) -> None:
    alone = chat(client).choices[0].logprobs.content
    with ThreadPoolExecutor(4) as threads:
        futures = [threads.submit(chat, client, seed=seed) for seed in range(4)]
        batch = [future.result().choices[0].logprobs.content for future in futures]
    for tokens in batch:
        assert [token.token for token in tokens] == [token.token for token in alone]
        assert values(tokens) == pytest.approx(values(alone), abs=OTHER_ROWS)


def test_calls_have_them_too_and_each_token_has_one(client: openai.OpenAI) -> None:
    answer = chat(client, tools=[TOOL], tool_choice="required", max_tokens=60)
    (choice,) = answer.choices
    assert choice.message.tool_calls
    assert len(choice.logprobs.content) == answer.usage.completion_tokens
    said = "".join(token.token for token in choice.logprobs.content if token.bytes)
    assert said.startswith('{"name": "river", "arguments": {')


def test_alternatives_are_told_only_with_logprobs(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="top_logprobs is 2, and logprobs is not true") as caught:
        chat(client, logprobs=None, top_logprobs=2)
    assert caught.value.param == "top_logprobs"
