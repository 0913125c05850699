"""What the tests of deaths and departures ask a running server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import psutil
import requests
from tests.cli.test_serve import LIMIT_S, Server

from takeoff.bench.machine import descendants

REASONS = ("stop", "length", "cancelled", "deadline", "failed")


def child_of(server: Server, module: str) -> psutil.Process:
    """The oldest live child that runs `module`: a younger engine stands by."""
    return children_of(server, module)[0]


def children_of(server: Server, module: str) -> list[psutil.Process]:
    """The live children that run `module`, the oldest first."""
    return [child for child in descendants(server.process.pid) if module in child.cmdline()]


def metric(url: str, name: str, key: str = "") -> float:
    """The present value of a metric, with its labels; 0 where it has none yet."""
    headers = {"x-api-key": key} if key else {}
    for line in requests.get(f"{url}/metrics", headers=headers, timeout=LIMIT_S).text.splitlines():
        if line.startswith(name + " "):
            return float(line.rsplit(" ", 1)[1])
    return 0.0


def ended(url: str) -> dict[str, float]:
    """How many requests ended for each reason."""
    return {name: metric(url, f'takeoff_requests_ended_total{{reason="{name}"}}') for name in REASONS}


def wait_until(happened: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline, f"it never happened: {what}"
        time.sleep(0.02)


def completion(url: str, prompt: str, max_tokens: int, **fields: object) -> str:
    """The text of a whole greedy completion of exactly `max_tokens` tokens."""
    body = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True, **fields}
    answer = requests.post(f"{url}/v1/completions", json=body, timeout=LIMIT_S)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["text"])


class Stream:
    """A streamed greedy completion, read piece by piece. Close it to leave."""

    def __init__(self, url: str, prompt: str, max_tokens: int) -> None:
        body = {
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        self.answer = requests.post(f"{url}/v1/completions", json=body, stream=True, timeout=LIMIT_S)
        assert self.answer.status_code == 200, self.answer.text
        self.text = ""
        self.error: str | None = None
        self.num_tokens = 0  # as the server says at the end
        self.is_whole = False  # [DONE] came
        self._pieces = self._read()

    def next_piece(self) -> str:
        return next(self._pieces)

    def rest(self) -> str:
        """Read to the end; the whole text."""
        for _ in self._pieces:
            pass
        return self.text

    def close(self) -> None:
        self.answer.close()

    def _read(self) -> Iterator[str]:
        for line in self.answer.iter_lines():
            data = line.removeprefix(b"data: ")
            if data == b"[DONE]":
                self.is_whole = True
            elif data:
                event = json.loads(data)
                if "error" in event:
                    self.error = event["error"]["message"]
                elif event.get("usage"):
                    self.num_tokens = event["usage"]["completion_tokens"]
                else:
                    piece = event["choices"][0]["text"]
                    self.text += piece
                    yield piece
