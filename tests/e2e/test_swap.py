"""Real models change places under load, and share a memory that has room for one of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import requests
from tests.cli.test_serve import LIMIT_S, Server, are_gone, serving
from tests.e2e.processes import Stream, child_of, completion, ended, metric, wait_until

PROMPT = "The capital of France is"
NUM_TOKENS = 12
TOLD_APART = 8  # characters of a text: what follows may differ by who was computed beside
FLAGS = ("--port", "0", "--max-slots", "4", "--context", "512", "--prefix-cache-mb", "16")


@contextmanager
def managed(*flags: str) -> Iterator[tuple[Server, str, str]]:
    """A server, and its front and management doors."""
    with serving(*flags) as server:
        url = server.wait_ready()
        yield server, url, server.door("management")


def resident_bytes(server: Server) -> int:
    """What all processes of the server hold, shared pages in equal parts."""
    total = 0
    for process in [psutil.Process(server.process.pid), *server.children()]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total


class Clients:
    """Three that stream and one that does not, without a pause, until the block is left."""

    def __init__(self, url: str) -> None:
        self.texts: list[str] = []
        self.errors: list[str] = []
        self._url = url
        self._is_over = threading.Event()
        asks = [self._stream, self._stream, self._stream, self._whole]
        self._threads = [threading.Thread(target=self._run, args=(ask,)) for ask in asks]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, ask: Callable[[], str]) -> None:
        while not self._is_over.is_set():
            try:
                self.texts.append(ask())
            except (AssertionError, requests.RequestException) as exc:
                self.errors.append(repr(exc))

    def _stream(self) -> str:
        stream = Stream(self._url, PROMPT, NUM_TOKENS)
        text = stream.rest()
        assert (stream.error, stream.is_whole, stream.num_tokens) == (None, True, NUM_TOKENS)
        return text

    def _whole(self) -> str:
        return completion(self._url, PROMPT, NUM_TOKENS)


def put(management: str, reader_id: str, model: str, **settings: Any) -> requests.Response:
    body = {"model_name": model, "device": "cpu", "max_batch_size": 4, "max_sequence_length": 512} | settings
    return requests.put(f"{management}/reader/{reader_id}", json=body, timeout=LIMIT_S)


def test_a_model_is_replaced_under_load_and_its_engine_killed_meanwhile(
    smollm2_path: Path, gemma_path: Path
) -> None:
    with managed("--model", str(smollm2_path), *FLAGS, "--memory-limit-gb", "1.5") as (
        server,
        url,
        management,
    ):
        ((reader,),) = requests.get(f"{management}/reader_groups", timeout=LIMIT_S).json().values()
        reader_id = reader["reader_id"]
        old = completion(url, PROMPT, NUM_TOKENS)
        first, engine = server.children(), child_of(server, "takeoff.engine.process")
        with Clients(url) as clients:
            wait_until(lambda: len(clients.texts) > 4, "some were answered")
            killing = threading.Timer(0.3, engine.kill)
            killing.start()
            answer = put(management, reader_id, "gemma-3-270m", prefix_cache_mb=16)
            assert answer.status_code == 200, answer.text
            assert (answer.json()["reader_id"], answer.json()["state"]) == (reader_id, "live")
            new = completion(url, PROMPT, NUM_TOKENS)
            beside = len(clients.texts)
            wait_until(lambda: len(clients.texts) > beside + 8, "some were answered by the new one")
            before = len(clients.texts)
            assert put(management, reader_id, "smollm2", prefix_cache_mb=900).status_code == 200, "after it"
            again = len(clients.texts)
            wait_until(lambda: len(clients.texts) > again + 8, "some were answered by the third")
            refused = put(management, reader_id, "gemma-3-270m", prefix_cache_mb=4000)
        assert clients.errors == []
        assert old[:TOLD_APART] != new[:TOLD_APART]
        beginnings = [text[:TOLD_APART] for text in clients.texts]
        assert set(beginnings) == {old[:TOLD_APART], new[:TOLD_APART]}
        kinds = [beginning == old[:TOLD_APART] for beginning in beginnings]
        assert all(kinds[:4])
        assert sum(kinds[beside:before]) <= 4, "no more than were in work"
        assert kinds[again:].count(False) <= 4
        assert refused.status_code == 409
        assert "needs 4," in refused.json()["detail"]
        assert "there are 1,500 MB" in refused.json()["detail"]
        assert ended(url)["failed"] == 0
        assert metric(url, "takeoff_engine_restarts_total") == 1
        assert are_gone(first)


MANIFEST = """
takeoff:
  server_config:
    memory_limit_gb: 0.8
    on_demand: true
    max_batch_size: 2
    max_sequence_length: 512
    prefix_cache_mb: 16
  readers_config:
    one: {model_name: smollm2, device: cpu, consumer_group: one}
    two: {model_name: gemma-3-270m, device: cpu, consumer_group: two}
"""


def test_two_models_take_turns_in_a_memory_that_has_room_for_one(
    smollm2_path: Path, gemma_path: Path, tmp_path: Path
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(MANIFEST)
    most, is_over = [0], threading.Event()

    def watch(server: Server) -> None:
        while not is_over.wait(0.02):
            most.append(resident_bytes(server))

    with managed("--manifest", str(path), "--port", "0") as (server, url, management):
        assert server.children() == [], "nothing is loaded yet"
        models = requests.get(f"{url}/v1/models", timeout=LIMIT_S).json()["data"]
        assert {each["id"]: each["state"] for each in models if each["id"] in ("one", "two")} == {
            "one": "unloaded",
            "two": "unloaded",
        }
        watching = threading.Thread(target=watch, args=(server,))
        watching.start()
        try:
            started = time.monotonic()
            rounds = [[completion(url, PROMPT, 12, model=name) for name in ("one", "two")] for _ in range(2)]
            took_s = time.monotonic() - started
        finally:
            is_over.set()
            watching.join()
        assert rounds[1] == rounds[0]
        assert rounds[0][0] != rounds[0][1]
        names = ("one", "two")
        loads = [metric(url, f'takeoff_reader_loads_total{{reader="{name}"}}') for name in names]
        assert loads == [2, 2]
        status = requests.get(f"{management}/status", timeout=LIMIT_S).json()["status"]["live_readers"]
        assert (status["one"]["state"], status["two"]["state"]) == ("unloaded", "live")
        tokens = requests.post(f"{url}/tokenize", json={"model": "one", "prompt": "one two"}, timeout=LIMIT_S)
        assert tokens.json()["count"] == 2, "to tokenize loads it, too"
        assert status["one"]["planned_bytes"] + status["two"]["planned_bytes"] > 0.8e9
        assert 0.2e9 < max(most) < 0.8e9
        assert took_s < 60


def test_a_model_that_does_not_fit_is_refused_before_anything_is_loaded(smollm2_path: Path) -> None:
    flags = ("--model", str(smollm2_path), *FLAGS, "--standby", "off")
    with serving(*flags, "--memory-limit-gb", "0.2") as server:
        assert server.wait() == 1
        assert "there are 200 MB" in server.said
        assert "hint: " in server.said
    with managed(*flags, "--memory-limit-gb", "0.6") as (server, _, management):
        children = server.children()
        body = {"model_name": "gemma-3-270m", "device": "cpu", "consumer_group": "g2"}
        refused = requests.post(f"{management}/reader", json=body, timeout=LIMIT_S)
        assert refused.status_code == 409
        assert refused.json()["detail"].startswith("Gemma 3 270m with 4 slots of 512 tokens needs ")
        assert "of 600 MB others hold: " in refused.json()["detail"]
        assert server.children() == children
