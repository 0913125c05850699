"""SIGTERM under load: what runs and what waits is finished, who comes is told when to come back."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests
from tests.cli.test_serve import LIMIT_S, are_gone, serving
from tests.e2e.processes import Stream, completion, metric, wait_until

PROMPTS = ["Once upon a time", "The sea is", "A recipe for bread:", "In the year 1900"]
FLAGS = ("--port", "0", "--max-slots", "2", "--context", "512", "--prefix-cache-mb", "16")


def test_sigterm_finishes_what_runs_and_what_waits_and_tells_who_comes(smollm2_path: Path) -> None:
    with serving("--model", str(smollm2_path), *FLAGS) as server, ThreadPoolExecutor() as pool:
        url = server.wait_ready()
        children = server.children()
        streams = [Stream(url, prompt, 150) for prompt in PROMPTS]
        whole = pool.submit(completion, url, PROMPTS[0], 150)
        wait_until(lambda: metric(url, "takeoff_requests_open") == 5, "all were accepted")
        streams[0].next_piece()
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: requests.get(f"{url}/readyz", timeout=LIMIT_S).status_code == 503, "it drains")
        ready = requests.get(f"{url}/readyz", timeout=LIMIT_S).json()
        assert (ready["status"], ready["readers"][0]["state"]) == ("draining", "live")
        assert requests.get(f"{url}/livez", timeout=LIMIT_S).status_code == 200
        body = {"model": "primary", "prompt": "Late", "max_tokens": 5}
        refused = requests.post(f"{url}/v1/completions", json=body, timeout=LIMIT_S)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "30")
        assert refused.json()["error"]["message"] == "the server is shutting down"
        for stream in streams:
            stream.rest()
            assert (stream.error, stream.is_whole, stream.num_tokens) == (None, True, 150)
        assert len(whole.result()) > 100
        assert server.wait() == 0
        assert are_gone(children)
