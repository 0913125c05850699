"""Streams of a real server whose connections break: picked up again, they are the undisturbed text."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import openai
import pytest
import requests
from tests.cli.test_serve import LIMIT_S, serving
from tests.e2e.processes import completion, ended, metric, wait_until

PROMPT = "Once upon a time"
NUM_TOKENS = 200


@pytest.fixture(scope="module")
def url(smollm2_path: Path) -> Iterator[str]:
    flags = ("--port", "0", "--max-slots", "4", "--context", "1024", "--prefix-cache-mb", "0")
    with serving("--model", str(smollm2_path), *flags) as server:
        yield server.wait_ready()


class Broken:
    """A stream whose connection is broken after some bytes, again and again: whole events count only."""

    def __init__(self, url: str, name: str, resume_s: float) -> None:
        self.url, self.name = url, name
        self.texts: list[str] = []
        self.numbers: list[int] = []
        self.is_whole = False
        self.num_breaks = 0
        body = {"prompt": PROMPT, "max_tokens": NUM_TOKENS, "temperature": 0, "ignore_eos": True}
        headers = {"x-request-id": name, "x-resume": str(resume_s)}
        self._answer = requests.post(
            f"{url}/v1/completions",
            json={**body, "stream": True},
            headers=headers,
            stream=True,
            timeout=LIMIT_S,
        )
        assert self._answer.status_code == 200, self._answer.text

    def read(self, num_bytes: int) -> None:
        """Take about so many bytes, then break the connection, wherever an event is then."""
        data = b""
        with suppress(StopIteration):
            pieces = self._answer.iter_content(64)
            while len(data) < num_bytes:
                data += next(pieces)
        self._answer.close()
        self.num_breaks += 1
        for block in data.split(b"\n\n")[:-1]:
            self._take(block)

    def go_on(self) -> None:
        last = {"last-event-id": f"{self.name}:{self.numbers[-1]}"} if self.numbers else {}
        self._answer = requests.get(
            f"{self.url}/v1/requests/{self.name}", headers=last, stream=True, timeout=LIMIT_S
        )
        assert self._answer.status_code == 200, self._answer.text

    def _take(self, block: bytes) -> None:
        head, data = block.decode().split("\n")
        name, _, number = head.removeprefix("id: ").rpartition(":")
        assert name == self.name
        self.numbers.append(int(number))
        if data == "data: [DONE]":
            self.is_whole = True
        else:
            self.texts.append(json.loads(data.removeprefix("data: "))["choices"][0]["text"])


def test_a_stream_that_breaks_again_and_again_has_no_missing_and_no_doubled_character(url: str) -> None:
    whole = completion(url, PROMPT, NUM_TOKENS)
    chance = random.Random(7)
    num_breaks = 0
    for number in range(4):
        stream = Broken(url, f"broken{number}", 30)
        stream.read(chance.randrange(1, 3_000))
        while not stream.is_whole:
            time.sleep(chance.choice([0.0, 0.05]))
            stream.go_on()
            stream.read(chance.randrange(1_000, 6_000))
        assert "".join(stream.texts) == whole
        assert stream.numbers == list(range(1, len(stream.numbers) + 1))
        num_breaks += stream.num_breaks
    assert num_breaks > 12


def test_it_is_computed_to_its_end_while_nobody_listens_and_read_from_the_beginning(url: str) -> None:
    whole = completion(url, PROMPT, NUM_TOKENS)
    before = ended(url)
    stream = Broken(url, "alone", 30)
    stream.read(1)
    wait_until(lambda: ended(url)["length"] == before["length"] + 1, "it ends by itself")
    assert ended(url)["cancelled"] == before["cancelled"]
    assert stream.numbers == []
    stream.go_on()
    stream.read(10**9)
    assert stream.is_whole
    assert "".join(stream.texts) == whole


def test_a_connection_that_stays_away_for_too_long_frees_the_slot(url: str) -> None:
    before = ended(url)["cancelled"]
    stream = Broken(url, "left", 0.5)
    stream.read(500)
    time.sleep(0.2)
    assert metric(url, "takeoff_requests_open") == 1
    wait_until(lambda: ended(url)["cancelled"] == before + 1, "its time is over")
    gone = requests.get(f"{url}/v1/requests/left", timeout=LIMIT_S)
    assert gone.status_code == 404
    assert metric(url, "takeoff_requests_open") == 0


@pytest.mark.parametrize("is_chat", [True, False], ids=["chat", "completion"])
def test_the_openai_client_reads_a_stream_with_ids_as_one_without(url: str, is_chat: bool) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:

        def said(**more: Any) -> list[str]:
            asked: dict[str, Any] = {"model": "primary", "max_tokens": 30, "temperature": 0, "stream": True}
            if is_chat:
                chunks = client.chat.completions.create(
                    messages=[{"role": "user", "content": "Say yes."}], **asked, **more
                )
                return [chunk.choices[0].delta.content or "" for chunk in chunks]
            return [
                chunk.choices[0].text for chunk in client.completions.create(prompt=PROMPT, **asked, **more)
            ]

        assert "".join(said(extra_headers={"X-Resume": "5"})) == "".join(said())
