"""Logprobs and echo at /v1/completions, asked with the `openai` package and as lm-evaluation-harness does."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import openai
import pytest
import requests
from tests.cli.test_serve import LIMIT_S

PROMPT = "The capital of France is"


@pytest.fixture
def client(server_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(url: str, **body: Any) -> dict[str, Any]:
    answer = requests.post(f"{url}/v1/completions", json={"temperature": 0, **body}, timeout=LIMIT_S)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_plain_and_streamed_agree(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "primary",
        "prompt": PROMPT,
        "max_tokens": 12,
        "temperature": 0,
        "logprobs": 3,
    }
    (choice,) = client.completions.create(**asked).choices
    whole = choice.logprobs
    assert whole is not None
    assert "".join(whole.tokens or ()) == choice.text
    assert whole.text_offset == [len("".join((whole.tokens or [])[:place])) for place in range(12)]
    for token, logprob, top in zip(
        whole.tokens or (), whole.token_logprobs or (), whole.top_logprobs or (), strict=True
    ):
        assert len(top) == 3  # the one that came is the likeliest
        assert top[token] == logprob == max(top.values())
        assert sum(map(math.exp, top.values())) <= 1 + 1e-6
    with client.completions.create(**asked, stream=True) as stream:
        pieces = [chunk.choices[0] for chunk in stream]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        joined = [each for piece in pieces for each in getattr(piece.logprobs, name)]
        wanted = getattr(whole, name)
        if name in ("tokens", "text_offset"):
            assert joined == wanted
        elif name == "token_logprobs":
            assert joined == pytest.approx(wanted, abs=0.05)  # the prompt's end was cached this time
        else:
            assert [each.keys() for each in joined] == [each.keys() for each in wanted]


def test_an_echo_has_the_prompt_and_its_logprobs(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "primary", "prompt": PROMPT, "temperature": 0, "echo": True}
    answer = client.completions.create(**asked, max_tokens=4, logprobs=1)
    (choice,) = answer.choices
    told = choice.logprobs
    assert told is not None
    assert choice.text.startswith(PROMPT + " Paris")
    assert "".join(told.tokens or ()) == choice.text
    assert told.text_offset == [len("".join((told.tokens or [])[:place])) for place in range(9)]
    assert (told.token_logprobs or [0])[0] is None
    assert (told.top_logprobs or [{}])[0] is None
    assert all(logprob < 0 for logprob in (told.token_logprobs or [])[1:])
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 4)
    without = client.completions.create(**asked, max_tokens=4).choices[0]
    assert (without.text, without.logprobs) == (choice.text, None)
    with client.completions.create(**asked, max_tokens=4, logprobs=1, stream=True) as stream:
        pieces = [chunk.choices[0] for chunk in stream]
    assert "".join(piece.text for piece in pieces) == choice.text
    assert [token for piece in pieces for token in piece.logprobs.tokens] == told.tokens  # type: ignore[union-attr]


def test_a_prompt_alone_can_be_asked_for(server_url: str) -> None:
    answer = ask(server_url, prompt=PROMPT, max_tokens=0, echo=True, logprobs=0)
    (choice,) = answer["choices"]
    assert choice["text"] == PROMPT
    assert choice["finish_reason"] == "length"
    assert len(choice["logprobs"]["tokens"]) == 5
    assert [top.keys() for top in choice["logprobs"]["top_logprobs"][1:]] == [
        {token} for token in choice["logprobs"]["tokens"][1:]
    ]
    assert answer["usage"]["completion_tokens"] == 0
    nothing = ask(server_url, prompt=PROMPT, max_tokens=0)
    assert (nothing["choices"][0]["text"], nothing["choices"][0]["logprobs"]) == ("", None)


def test_answers_are_scored_as_an_evaluation_harness_does(server_url: str, smollm2_path: Path) -> None:
    """Token ids, several prompts at once, one token more, echo, one alternative."""
    vocabulary = llama_cpp.Llama(str(smollm2_path), vocab_only=True, verbose=False)
    questions = {PROMPT: (" Paris", " Rome", " seven"), "1, 2, 3, 4,": (" 5", " blue")}
    pairs = [(context, choice) for context, choices in questions.items() for choice in choices]
    ids = [vocabulary.tokenize((context + choice).encode(), add_bos=False) for context, choice in pairs]
    lengths = [len(vocabulary.tokenize(context.encode(), add_bos=False)) for context, _ in pairs]
    vocabulary.close()
    answer = ask(server_url, prompt=ids, max_tokens=1, echo=True, logprobs=1, seed=1234)
    scores, is_greedy = {}, {}
    for pair, length, choice in zip(pairs, lengths, answer["choices"], strict=True):
        told = choice["logprobs"]
        assert choice["text"].startswith("".join(pair))
        logprobs, tops = told["token_logprobs"][length:-1], told["top_logprobs"][length:-1]
        assert len(logprobs) == len(ids[choice["index"]]) - length
        scores[pair] = sum(logprobs)
        is_greedy[pair] = all(
            logprob == max(top.values()) for logprob, top in zip(logprobs, tops, strict=True)
        )
    for context, choices in questions.items():
        assert max(choices, key=lambda choice: scores[context, choice]) == choices[0]
        assert is_greedy[context, choices[0]]
        assert not is_greedy[context, choices[1]]
