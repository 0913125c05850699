"""The later Takeoff API and the management door of a real server with the default model."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from tests.cli.test_serve import LIMIT_S, serving
from tests.http.test_sse import parsed

THREE = "List three colours, each on a line of its own."
PROMPTS = [THREE, "Say hello in French.", "Count from one to five."]


@dataclass(frozen=True)
class Doors:
    takeoff: str
    management: str

    def ask(self, path: str, **body: Any) -> Any:
        answer = requests.post(self.takeoff + path, json=body, timeout=LIMIT_S)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def events(self, **body: Any) -> list[tuple[str, str]]:
        with requests.post(
            f"{self.takeoff}/generate_stream", json=body, timeout=LIMIT_S, stream=True
        ) as answer:
            assert answer.status_code == 200
            return parsed(answer.iter_content(3))


@pytest.fixture(scope="module")
def doors(smollm2_path: Path) -> Iterator[Doors]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        takeoff, management = (str(each.getsockname()[1]) for each in sockets)
    ports = (
        "--port",
        "0",
        "--takeoff-port",
        takeoff,
        "--management-port",
        management,
        "--openai-port",
        "off",
        "--no-optimize",  # a reader added by the model's name serves the file that this one does
    )
    with serving("--model", str(smollm2_path), "--max-slots", "4", "--context", "512", *ports) as server:
        server.wait_ready()
        yield Doors(f"http://127.0.0.1:{takeoff}", f"http://127.0.0.1:{management}")


def reader_id(doors: Doors) -> str:
    status = requests.get(f"{doors.takeoff}/status", timeout=LIMIT_S).json()
    (reader,) = status["live_readers"]
    return str(reader)


def test_a_stream_joins_to_the_whole_text(doors: Doors) -> None:
    whole = doors.ask("/generate", text=THREE, max_new_tokens=32)["text"]
    events = doors.events(text=THREE, max_new_tokens=32)
    assert "".join(data for _, data in events) == whole
    assert "\n" in whole
    assert len(events) > 10


def test_a_streamed_list_joins_to_what_each_gets_alone(doors: Doors) -> None:
    alone = [doors.ask("/generate", text=prompt, max_new_tokens=12)["text"] for prompt in PROMPTS]
    assert doors.ask("/generate", text=PROMPTS, max_new_tokens=12) == {"text": alone}
    texts = dict.fromkeys(range(3), "")
    for _, data in doors.events(text=PROMPTS, max_new_tokens=12):
        event = json.loads(data)
        texts[event["batch_id"]] += event["text"]
    assert list(texts.values()) == alone


def test_metadata_counts_what_the_tokenizer_counts(doors: Doors) -> None:
    reader = reader_id(doors)
    answer = doors.ask("/generate", text=THREE, max_new_tokens=9, return_metadata=True)
    prompt = doors.ask(f"/tokenize/{reader}", text=THREE, use_chat_template=True)
    assert answer["metadata"]["prompt_tokens"] == prompt["tokens_count"] == len(prompt["tokens"])
    assert (answer["metadata"]["generated_tokens"], answer["metadata"]["finish_reason"]) == (9, "length")
    text = doors.ask(f"/tokenize/{reader}", text=answer["text"])
    assert text["tokens_count"] == 9
    assert doors.ask(f"/detokenize/{reader}", tokens=text["tokens"]) == {"text": answer["text"]}
    *_, (kind, data) = doors.events(text=THREE, max_new_tokens=9, return_metadata=True)
    assert kind == "metadata"
    assert json.loads(data)["generated_tokens"] == 9


def test_a_long_prompt_loses_its_beginning_where_that_is_asked_for(doors: Doors) -> None:
    text = "one two three " * 300
    asked = {"text": text, "use_chat_template": False, "max_new_tokens": 1}
    refused = requests.post(f"{doors.takeoff}/generate", json=asked, timeout=LIMIT_S)
    assert refused.status_code == 400
    assert "tokens" in refused.json()["detail"]
    cut = doors.ask("/generate", **asked, prompt_max_tokens=60, return_metadata=True)
    assert cut["metadata"]["prompt_tokens"] == 60


def test_a_reader_is_added_at_once_serves_and_goes(doors: Doors) -> None:
    wanted = {"model_name": "smollm2", "device": "cpu", "consumer_group": "extra", "max_batch_size": 1}
    started = time.monotonic()
    added = requests.post(f"{doors.management}/reader", json=wanted, timeout=LIMIT_S)
    assert added.status_code == 201
    assert time.monotonic() - started < 1.0  # 0.1 s is the promise; the machine may be busy
    extra = added.json()["reader_id"]
    waited = requests.get(f"{doors.takeoff}/healthz", {"state": "live", "wait": 60}, timeout=LIMIT_S)
    assert waited.status_code == 200
    there = doors.ask("/generate", text=THREE, consumer_group="extra", max_new_tokens=6)
    assert there == doors.ask("/generate", text=THREE, max_new_tokens=6)
    groups = requests.get(f"{doors.management}/reader_groups", timeout=LIMIT_S).json()
    assert [reader["reader_id"] for reader in groups["extra"]] == [extra]
    removed = requests.delete(f"{doors.management}/reader/{extra}", timeout=LIMIT_S)
    assert (removed.status_code, removed.content) == (204, b"")
    gone = requests.post(
        f"{doors.takeoff}/generate", json={"text": "a", "consumer_group": "extra"}, timeout=LIMIT_S
    )
    assert gone.status_code == 400
    assert "extra" in gone.json()["detail"]
    page = requests.get(f"{doors.management}/metrics", timeout=LIMIT_S).text
    assert 'http_requests_total{method="DELETE",path="/reader/:reader_id",status="204"} 1.0' in page
