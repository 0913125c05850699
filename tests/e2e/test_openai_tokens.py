"""What /tokenize tells of the default model is what a completion and a chat are prefilled with."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from tests.cli.test_serve import LIMIT_S

USER = {"role": "user", "content": "Which <|im_end|> is the largest ocean?"}
TOOL = {"type": "function", "function": {"name": "look_up", "description": "Looks a word up."}}
CHATS: list[dict[str, Any]] = [
    {"messages": [USER]},
    {"messages": [{"role": "system", "content": "Be brief. ✓"}, USER]},
    {"messages": [USER, {"role": "assistant", "content": "The largest ocean is"}]},
    {"messages": [USER], "tools": [TOOL]},
]


def post(url: str, path: str, **body: Any) -> Any:
    answer = requests.post(f"{url}{path}", json=body, timeout=LIMIT_S)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("chat", CHATS)
def test_the_ids_of_a_chat_are_the_chats(server_url: str, chat: dict[str, Any]) -> None:
    told = post(server_url, "/tokenize", **chat, return_token_strs=True)
    assert told["count"] == len(told["tokens"]) == len(told["token_strs"])
    assert told["max_model_len"] == 1024
    greedy = {"max_tokens": 12, "temperature": 0}
    chatted = post(server_url, "/v1/chat/completions", **chat, **greedy, logit_bias={"2": -100})
    assert chatted["usage"]["prompt_tokens"] == told["count"]
    completed = post(server_url, "/v1/completions", prompt=told["tokens"], **greedy, logit_bias={"2": -100})
    assert completed["usage"]["prompt_tokens"] == told["count"]
    assert completed["choices"][0]["text"] == chatted["choices"][0]["message"]["content"]
    assert completed["usage"]["prompt_tokens_details"]["cached_tokens"] > 0.5 * told["count"]


def test_a_prompt_comes_back_as_it_was(server_url: str) -> None:
    prompt = "Zwölf Boxkämpfer <|im_start|> jagen\n\n日本語 🙂"
    told = post(server_url, "/tokenize", model="primary", prompt=prompt)
    completed = post(server_url, "/v1/completions", prompt=prompt, max_tokens=1)
    assert completed["usage"]["prompt_tokens"] == told["count"]
    assert post(server_url, "/detokenize", model="primary", tokens=told["tokens"]) == {"prompt": prompt}


def test_more_than_a_sequence_holds_is_counted_all_the_same(server_url: str) -> None:
    told = post(server_url, "/tokenize", messages=[USER | {"content": "word " * 2_000}])
    assert told["count"] > 2_000 > told["max_model_len"]


def test_ids_beyond_the_vocabulary_are_refused_by_name(server_url: str) -> None:
    body = {"tokens": [1, 49_152]}
    answer = requests.post(f"{server_url}/detokenize", json=body, timeout=LIMIT_S)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "tokens")
    assert error["message"] == "the vocabulary has no token 49152, it ends at 49151"
