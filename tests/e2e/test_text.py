"""The text of the real server: streamed as whole, every character whole, nothing doubled or shown."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests
from tests.cli.test_serve import LIMIT_S

PROMPTS = [
    "The capital of France is",
    "Der Himmel ist blau, weil",
    "日本の首都は",
    "Напиши три слова:",
    "Count in emoji: 😀 😁 😂",
]


def post(url: str, **fields: Any) -> Any:
    answer = requests.post(f"{url}/v1/completions", json=fields, timeout=LIMIT_S)
    assert answer.status_code == 200, answer.text
    return answer.json()


def streamed_text(url: str, **fields: Any) -> str:
    body = {**fields, "stream": True}
    with requests.post(f"{url}/v1/completions", json=body, stream=True, timeout=LIMIT_S) as answer:
        data = [line[6:] for line in answer.iter_lines() if line]
    assert data[-1] == b"[DONE]"
    return "".join(json.loads(each)["choices"][0]["text"] for each in data[:-1])


@pytest.mark.parametrize("prompt", PROMPTS)
def test_streamed_text_is_the_whole_text(server_url: str, prompt: str) -> None:
    for sampling in (
        {"temperature": 0},
        {"temperature": 0.9, "seed": 5, "top_p": 0.9},
        {"temperature": 1.3, "seed": 6, "top_k": 50, "min_p": 0.02, "repetition_penalty": 1.2},
    ):
        fields = {"prompt": prompt, "max_tokens": 32, **sampling}
        whole = post(server_url, **fields)["choices"][0]["text"]
        assert streamed_text(server_url, **fields) == whole
        assert len(whole) >= 8
        assert "<|" not in whole, "no token of the template is shown"


def test_bytes_read_one_by_one_are_the_text(server_url: str) -> None:
    body = {"text": "Write five words in Japanese.", "generate_max_length": 48}
    message = requests.post(f"{server_url}/generate", json=body, timeout=LIMIT_S).json()["message"]
    with requests.post(f"{server_url}/generate_stream", json=body, stream=True, timeout=LIMIT_S) as answer:
        pieces = list(answer.iter_content(chunk_size=1, decode_unicode=True))
    assert "".join(pieces) == message
    assert not message.isascii(), "characters of several bytes were asked for"


def test_a_stop_string_ends_the_text_exactly_before_it(server_url: str) -> None:
    fields = {"prompt": "Count: one, two, three,", "max_tokens": 48, "temperature": 0}
    free = post(server_url, **fields)["choices"][0]["text"]
    stop = free[7:12]  # inside words, so that its characters are split over tokens
    for answer in (post(server_url, **fields, stop=stop), post(server_url, **fields, stop=["zzz", stop])):
        choice = answer["choices"][0]
        assert choice["text"] == free[: free.index(stop)]
        assert choice["finish_reason"] == "stop"
    assert streamed_text(server_url, **fields, stop=stop) == free[: free.index(stop)]


def test_the_template_is_put_around_a_text_once(server_url: str) -> None:
    """What carries it already is used as it is; special tokens in it are parsed."""
    text = "List 3 things to do in London."
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    wrapped = (
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    )
    messages = [
        requests.post(
            f"{server_url}/generate", json={"text": each, "generate_max_length": 24}, timeout=LIMIT_S
        ).json()["message"]
        for each in (text, wrapped)
    ]
    assert messages[0] == messages[1]
    raw = post(server_url, prompt=wrapped, max_tokens=24, temperature=0)
    assert raw["choices"][0]["text"] == messages[0]
    words = post(server_url, prompt=f"{system}{text}", max_tokens=1)["usage"]["prompt_tokens"]
    assert raw["usage"]["prompt_tokens"] < words + 16, "a special token is one token"
