"""The calls that `client_calls.py` times, made in the client package's own environment.

    python -I calling.py TAKEOFF_URL OPENAI_URL

A line of JSON in, `{"way": "generate" or "completions", "seed": ...}`; tokens/s of 32 calls at once out.
Completions are asked for with the function that the client calls itself, `httpx.post`, so that both ways
cost their caller the same.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
from takeoff_client import TakeoffClient

CALLS = 32
TOKENS = 32, 192  # the shortest and the longest completion
WORDS = [
    "the",
    "clock",
    "a",
    "river",
    "sister",
    "sleeps",
    "near",
    "every",
    "lamp",
    "nobody",
    "mountain",
    "sold",
]

Ask = Callable[[str, int], int]  # a prompt and a number of tokens; returns how many came


def make_work(seed: int) -> list[tuple[str, int]]:
    """Prompts of forty words, and how many tokens to answer each with."""
    drawn = random.Random(seed)
    return [(" ".join(drawn.choices(WORDS, k=40)), drawn.randint(*TOKENS)) for _ in range(CALLS)]


def generating(url: str) -> Ask:
    host, _, port = url.rpartition(":")
    client = TakeoffClient(base_url=host, port=int(port))

    def ask(prompt: str, tokens: int) -> int:
        lengths = {"max_new_tokens": tokens, "min_new_tokens": tokens}
        answer = client.generate(prompt, **lengths, use_chat_template=False, return_metadata=True)
        return int(answer["metadata"]["generated_tokens"])

    return ask


def completing(url: str) -> Ask:
    timeout = httpx.Timeout(10.0, read=None)  # the client's

    def ask(prompt: str, tokens: int) -> int:
        body = {"prompt": prompt, "max_tokens": tokens, "min_tokens": tokens, "temperature": 0}
        answer = httpx.post(f"{url}/v1/completions", json=body, timeout=timeout)
        answer.raise_for_status()
        return int(answer.json()["usage"]["completion_tokens"])

    return ask


def tokens_per_second(ask: Ask, work: list[tuple[str, int]]) -> float:
    """Of all calls at once, a thread each, from the first to the end of the last."""
    came: list[int] = []

    def call(prompt: str, tokens: int) -> None:
        came.append(ask(prompt, tokens))

    threads = [threading.Thread(target=call, args=one) for one in work]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    assert sorted(came) == sorted(tokens for _, tokens in work), f"other lengths came: {came}"
    return sum(came) / seconds


def main() -> None:
    takeoff_url, openai_url = sys.argv[1:]
    ways = {"generate": generating(takeoff_url), "completions": completing(openai_url)}
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        print(tokens_per_second(ways[asked["way"]], make_work(asked["seed"])), flush=True)


if __name__ == "__main__":
    main()
