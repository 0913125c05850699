"""What a request asked for holds behind a kill as well: constraint, stop string, penalties, logprobs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from tests.cli.test_serve import LIMIT_S, Server, serving
from tests.e2e.processes import child_of, completion, metric, wait_until

SCHEMA = {
    "type": "object",
    "properties": {"names": {"type": "array", "items": {"type": "string"}, "minItems": 9, "maxItems": 12}},
    "required": ["names"],
    "additionalProperties": False,
}
STORY = "Once upon a time"


@pytest.fixture(scope="module")
def server(smollm2_path: Path) -> Iterator[Server]:
    flags = ("--port", "0", "--max-slots", "4", "--context", "1024", "--deterministic")
    with serving("--model", str(smollm2_path), *flags) as server:
        server.url = server.wait_ready()  # type: ignore[attr-defined]
        yield server


def asked(stop: str) -> list[tuple[str, dict[str, Any]]]:
    """Requests of every kind, that say much alike: path and body."""
    form = {"type": "json_schema", "json_schema": {"name": "names", "schema": SCHEMA, "strict": True}}
    names = [{"role": "user", "content": "Ten names of rivers, as JSON."}]
    sampled = {"temperature": 0.9, "top_p": 0.9, "seed": 5, "ignore_eos": True}
    return [
        ("/v1/chat/completions", {"messages": names, "response_format": form, "max_tokens": 150, "seed": 1}),
        ("/v1/completions", {"prompt": STORY, "max_tokens": 300, "temperature": 0, "stop": stop}),
        (
            "/v1/completions",
            {"prompt": "The sea", "max_tokens": 90, "frequency_penalty": 0.7, "logprobs": 3, **sampled},
        ),
    ]


def events(url: str, path: str, body: dict[str, Any], has_begun: threading.Semaphore) -> list[dict[str, Any]]:
    """The choices of a stream as they came; tells when ten are here."""
    body = {"model": "primary", "stream": True, **body}
    found = []
    with requests.post(url + path, json=body, stream=True, timeout=LIMIT_S) as answer:
        assert answer.status_code == 200, answer.text
        for line in answer.iter_lines():
            data = line.removeprefix(b"data: ")
            if data and data != b"[DONE]":
                found += json.loads(data)["choices"]
            if len(found) == 10:
                has_begun.release()
    return found


def joined(found: list[dict[str, Any]]) -> tuple[str, str | None, list[Any]]:
    """The text, why it ended, and each token with its logprob and alternatives."""
    text = "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in found)
    told = [choice["logprobs"] for choice in found if choice.get("logprobs")]
    parts = ("tokens", "token_logprobs", "top_logprobs")
    tokens = [each for one in told for each in zip(*(one[part] for part in parts), strict=True)]
    return text, found[-1]["finish_reason"], tokens


def kill_engine(server: Server, url: str) -> None:
    """And wait for the next one."""
    restarts = metric(url, "takeoff_engine_restarts_total")
    child_of(server, "takeoff.engine.process").kill()
    wait_until(lambda: metric(url, "takeoff_engine_restarts_total") > restarts, "the engine died")
    assert requests.get(f"{url}/healthz", {"wait": 60}, timeout=LIMIT_S).status_code == 200


def all_of(url: str, requests_: list[tuple[str, dict[str, Any]]], server: Server | None = None) -> list[Any]:
    """What becomes of requests that run beside each other; with a `server`: whose engine is killed twice."""
    answers: list[Any] = [None] * len(requests_)
    has_begun = threading.Semaphore(0)

    def ask(number: int) -> None:
        answers[number] = joined(events(url, *requests_[number], has_begun))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(requests_))]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert has_begun.acquire(timeout=LIMIT_S)
    for _ in range(2 if server else 0):
        assert server is not None
        kill_engine(server, url)
    for thread in threads:
        thread.join(LIMIT_S)
    return answers


def test_every_kind_of_request_ends_behind_two_kills_exactly_as_without(server: Server) -> None:
    url = str(server.url)  # type: ignore[attr-defined]
    story = completion(url, STORY, 140)
    stop = story[-30:-20]
    whole = all_of(url, asked(stop))
    restarts = metric(url, "takeoff_engine_restarts_total")
    disturbed = all_of(url, asked(stop), server)
    assert metric(url, "takeoff_engine_restarts_total") - restarts == 2
    assert disturbed == whole
    (names, _, _), (told, reason, _), (_, _, tokens) = disturbed
    assert len(json.loads(names)["names"]) >= 9
    assert reason == "stop"
    assert stop not in told
    assert len(tokens) == 90
