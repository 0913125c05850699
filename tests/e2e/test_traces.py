"""A real server tells a real collector of what it has done; one that is gone holds it up in nothing."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import requests
from tests.cli.test_serve import LIMIT_S, serving
from tests.e2e.processes import wait_until
from tests.e2e.test_keys import SMALL
from tests.observe.collector import collecting

PROMPT = "Once upon a time a whale called Ismene"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_a_streamed_completion_is_a_trace_of_its_stages_that_add_up(smollm2_path: Path) -> None:
    with collecting() as collected:
        with serving("--model", str(smollm2_path), *SMALL, "--traces-url", collected.url) as server:
            url = server.wait_ready()
            body = {"prompt": PROMPT, "max_tokens": 24, "ignore_eos": True, "n": 2, "stream": True}
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "mine"}
            started = time.time_ns()
            answer = requests.post(f"{url}/v1/completions", json=body, headers=headers, timeout=LIMIT_S)
            took_s = (time.time_ns() - started) / 1e9
            assert answer.text.endswith("data: [DONE]\n\n")
            wait_until(lambda: len(collected.spans) == 9, "a request, two texts, three stages of each")
        spans = collected.spans
        assert {span.trace_id for span in spans} == {TRACE}
        (request,) = (span for span in spans if span.parent_id == PARENT)
        assert (request.name, request.facts["takeoff.request_id"]) == ("POST /v1/completions", "mine")
        assert request.facts["gen_ai.usage.output_tokens"] == 48
        assert request.facts["takeoff.state"] == "length"
        assert 0.5 * took_s < request.seconds <= took_s
        assert started <= request.began_ns
        texts = [span for span in spans if span.parent_id == request.span_id]
        assert [text.name for text in texts] == ["generate"] * 2
        for text in texts:
            assert text.facts["gen_ai.usage.output_tokens"] == 24
            assert text.facts["gen_ai.usage.input_tokens"] > 5
            stages = collected.parts(text)
            assert stages.keys() == {"queue", "prefill", "decode"}
            assert sum(stage.seconds for stage in stages.values()) == pytest.approx(text.seconds)
            assert stages["decode"].seconds > stages["queue"].seconds
            assert request.began_ns <= text.began_ns <= text.ended_ns <= request.ended_ns
        assert not any(b"Ismene" in body for body in collected.bodies)


def test_without_a_collector_the_server_answers_and_ends_as_ever(smollm2_path: Path) -> None:
    with serving("--model", str(smollm2_path), *SMALL, "--traces-url", "http://127.0.0.1:9") as server:
        url = server.wait_ready()
        body = {"prompt": PROMPT, "max_tokens": 4}
        for _ in range(3):
            answer = requests.post(f"{url}/v1/completions", json=body, timeout=LIMIT_S)
            assert answer.json()["usage"]["completion_tokens"] == 4
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
