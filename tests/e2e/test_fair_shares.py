"""A real server with keys: who sends a little is not held up by one who sends much."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.cli.test_serve import serving
from tests.e2e.processes import metric, wait_until
from tests.e2e.test_keys import Served

NUM_FLOOD, FLOOD_TOKENS = 12, 60


@pytest.mark.parametrize("reserve", ["64", "0"], ids=["with room to put sequences aside", "without"])
def test_a_light_key_is_served_before_the_flood_that_came_first(
    smollm2_path: Path, tmp_path: Path, reserve: str
) -> None:
    path = tmp_path / "keys.json"
    served = Served("", path)
    secrets = {name: served.keys("create", name) for name in ("flood", "light")}
    watcher = served.keys("create", "watcher", "--scope", "metrics")
    flags = ("--port", "0", "--max-slots", "2", "--context", "512", "--prefix-cache-mb", reserve)
    with serving("--model", str(smollm2_path), *flags, "--keys-file", str(path)) as server:
        served = Served(server.wait_ready(), path)
        ended: list[str] = []
        lock = threading.Lock()

        def ask(name: str, tokens: int) -> int:
            fields = {"max_tokens": tokens, "ignore_eos": True}
            answer = served.ask(secrets[name], "Once upon a time", **fields)
            assert answer.status_code == 200, answer.text
            with lock:
                ended.append(name)
            return int(answer.json()["usage"]["completion_tokens"])

        def now(name: str) -> float:
            return metric(served.url, name, watcher)

        with ThreadPoolExecutor(NUM_FLOOD + 1) as pool:
            flood = [pool.submit(ask, "flood", FLOOD_TOKENS) for _ in range(NUM_FLOOD)]
            wait_until(lambda: now("takeoff_requests_waiting") >= NUM_FLOOD - 2, "the queue is full")
            light = pool.submit(ask, "light", 4)
            assert light.result() == 4
            assert [each.result() for each in flood] == [FLOOD_TOKENS] * NUM_FLOOD
        ahead = ended.index("light")
        assert ahead <= 2 + 2, f"{ahead} of {NUM_FLOOD} of the flood were served first"
        if reserve != "0":
            wait_until(lambda: now('takeoff_step_calls_total{kind="park"}') >= 1, "one was put aside")
