"""Requests that a real server ends, by their id or at their deadline: the slot is free at once."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from tests.cli.test_serve import LIMIT_S, serving
from tests.e2e.processes import Stream, completion, ended, metric, wait_until

LONG = "word " * 1_500  # seconds of prefill
STORY = "Once upon a time"
FREE_WITHIN_S = 1.0  # a step, a beat of the engine's heart, and a busy machine
NUM_AHEAD = 60


@contextmanager
def fresh_server(model: Path) -> Iterator[str]:
    flags = ("--port", "0", "--max-slots", "2", "--context", "2048", "--prefix-cache-mb", "0")
    with serving("--model", str(model), *flags) as server:
        yield server.wait_ready()


@pytest.fixture(scope="module")
def url(smollm2_path: Path) -> Iterator[str]:
    with fresh_server(smollm2_path) as url:
        yield url


class Asked:
    """A completion that is asked for, in a thread."""

    def __init__(
        self, url: str, name: str, prompt: str, *, stream: bool, timeout_s: float | None = None, **fields: Any
    ) -> None:
        self._url, self._name = url, name
        self._headers = {"x-request-id": name}
        if timeout_s is not None:
            self._headers["x-request-timeout"] = str(timeout_s)
        self._body = {"prompt": prompt, "max_tokens": 1_000, "temperature": 0, "stream": stream}
        self._body |= {"ignore_eos": True} | fields
        self.status = 0
        self.text = ""
        self.reason: str | None = None
        self.error = ""
        self.took_s = 0.0
        self.num_pieces = 0
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def end(self) -> None:
        """Ask for its end, and wait for it."""
        answer = requests.delete(f"{self._url}/v1/requests/{self._name}", timeout=LIMIT_S)
        assert answer.status_code == 200, answer.text
        self.wait()

    def wait(self) -> None:
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()

    def _ask(self) -> None:
        started = time.monotonic()
        path = f"{self._url}/v1/completions"
        with requests.post(
            path, json=self._body, headers=self._headers, stream=True, timeout=LIMIT_S
        ) as answer:
            self.status = answer.status_code
            assert answer.headers["x-request-id"] == self._name
            for line in answer.iter_lines():
                data = line.removeprefix(b"data: ")
                if data and data != b"[DONE]":
                    self._take(json.loads(data))
        self.took_s = time.monotonic() - started

    def _take(self, told: dict[str, Any]) -> None:
        if "error" in told:
            self.error = f"{told['error']['code']}: {told['error']['message']}"
            return
        self.num_pieces += 1
        self.text += told["choices"][0]["text"]
        self.reason = told["choices"][0]["finish_reason"]


def is_running(url: str, num: int = 1) -> Callable[[], bool]:
    return lambda: metric(url, "takeoff_requests_running") == num


def assert_all_free(url: str) -> None:
    """The engine and the service have nothing left of it, within a step."""
    started = time.monotonic()
    wait_until(is_running(url, 0), "the engine runs nothing")
    assert time.monotonic() - started < FREE_WITHIN_S
    assert metric(url, "takeoff_requests_waiting") == metric(url, "takeoff_requests_open") == 0
    assert metric(url, "takeoff_queued_tokens") == 0


both = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])


@both
def test_a_request_ends_by_its_id_in_decode_in_prefill_and_in_the_queue(url: str, stream: bool) -> None:
    before = ended(url)["cancelled"]
    asked = Asked(url, "decode", STORY, stream=stream)
    wait_until(is_running(url), "it decodes")
    time.sleep(0.3)
    asked.end()
    assert_all_free(url)
    assert asked.reason == "cancelled"
    assert len(asked.text) > 20
    assert completion(url, STORY, 400).startswith(asked.text), "what it had said is delivered"
    assert_all_free(url)

    asked = Asked(url, "prefill", LONG, stream=stream)
    wait_until(is_running(url), "it is in prefill")
    asked.end()
    assert_all_free(url)
    assert asked.text == ""
    assert (asked.status, asked.reason) == ((200, "cancelled") if stream else (499, None))

    with ExitStack() as stack:
        ahead = [Asked(url, f"ahead{n}", f"{n} {LONG}", stream=stream) for n in range(2)]
        for each in ahead:
            stack.callback(each.end)
        wait_until(is_running(url, 2), "both slots are taken")
        asked = Asked(url, "queue", f"3 {LONG}", stream=stream)
        wait_until(lambda: metric(url, "takeoff_requests_waiting") == 1, "it waits")
        asked.end()
        wait_until(lambda: metric(url, "takeoff_requests_waiting") == 0, "nobody waits")
        assert metric(url, "takeoff_requests_running") == 2, "the others go on"
        assert (asked.status, asked.reason) == ((200, "cancelled") if stream else (499, None))
    assert_all_free(url)
    assert ended(url)["cancelled"] - before == 5


@both
def test_a_request_ends_at_its_deadline_in_prefill_in_the_queue_and_in_decode(
    smollm2_path: Path, stream: bool
) -> None:
    """On a server of its own: before its first answers it does not know that they would be late."""
    with fresh_server(smollm2_path) as url:
        late = "deadline_exceeded: the 0.5 s of X-Request-Timeout were over before the first token"
        asked = Asked(url, "prefill", LONG, stream=stream, timeout_s=0.5)
        asked.wait()
        assert_all_free(url)
        assert (asked.status, asked.text, asked.error) == (200 if stream else 504, "", late)
        assert asked.took_s < 1.5

        ahead = [Asked(url, f"ahead{n}", f"{n} {LONG}", stream=stream) for n in range(2)]
        wait_until(is_running(url, 2), "both slots are taken")
        asked = Asked(url, "queue", f"3 {LONG}", stream=stream, timeout_s=0.5)
        asked.wait()
        assert (asked.status, asked.text, asked.error) == (200 if stream else 504, "", late)
        for each in ahead:
            each.end()
        assert_all_free(url)

        asked = Asked(url, "decode", STORY, stream=stream, timeout_s=1.0)
        asked.wait()
        assert_all_free(url)
        assert asked.reason == "deadline"
        assert 0.9 < asked.took_s < 2.0
        assert len(asked.text) > 20
        assert completion(url, STORY, 500).startswith(asked.text)
        assert ended(url)["deadline"] == 3

        time.sleep(1.0)  # a beat of the engine's heart tells of its pace
        asked = Asked(url, "known", LONG, stream=stream, timeout_s=0.5)
        asked.wait()
        assert asked.status == 429
        assert "the end of its" in asked.error
        assert "tokens would come in about" in asked.error


@both
def test_a_request_ends_while_its_constraint_waits_to_be_tried(url: str, stream: bool) -> None:
    before = ended(url)
    with ThreadPoolExecutor(NUM_AHEAD) as pool:
        ahead = [pool.submit(constrained, url, f"{stream}{n}x") for n in range(NUM_AHEAD)]
        time.sleep(0.3)

        asked = Asked(url, "tried", STORY, stream=stream, guided_regex="a+")
        time.sleep(0.1)
        started = time.monotonic()
        asked.end()
        assert time.monotonic() - started < 0.5
        ended_so = "cancelled: the request was ended before it had said anything"
        assert (asked.status, asked.error) == (499, ended_so)

        asked = Asked(url, "late", STORY, stream=stream, timeout_s=0.2, guided_regex="b+")
        asked.wait()
        assert 0.2 < asked.took_s < 0.8
        assert asked.status == 504
        assert "were over while it was prepared" in asked.error

        body = {"prompt": STORY, "max_tokens": 9, "stream": stream, "guided_regex": "c+"}
        with pytest.raises(requests.Timeout):
            requests.post(f"{url}/v1/completions", json=body, timeout=0.2)
        assert not ahead[-1].done(), "it was in that phase"
        assert {each.result() for each in ahead} == {200}
    assert_all_free(url)
    cut = ("cancelled", "deadline", "failed")
    after = ended(url)
    assert [after[name] for name in cut] == [before[name] for name in cut], "none of the three was accepted"


def constrained(url: str, name: str) -> int:
    """A completion of one token whose constraint takes some time to be tried; its status."""
    names = {f"{name}{n}": {"type": "string", "pattern": r"\d{3}"} for n in range(400)}
    schema = {"type": "object", "properties": names, "additionalProperties": False}
    body = {"prompt": STORY, "max_tokens": 1, "guided_json": schema}
    return requests.post(f"{url}/v1/completions", json=body, timeout=LIMIT_S).status_code


def test_ending_one_disturbs_nobody(url: str) -> None:
    alone = completion(url, "The sea is", 120)
    staying = Stream(url, "The sea is", 120)
    staying.next_piece()
    asked = Asked(url, "leaving", STORY, stream=True)
    wait_until(is_running(url, 2), "both decode")
    asked.end()
    assert staying.rest() == alone
    assert_all_free(url)
