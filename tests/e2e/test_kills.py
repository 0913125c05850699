"""kill -9 of the engine and of the preparer while the real server works."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from tests.cli.test_serve import LIMIT_S, Server, serving
from tests.e2e.processes import Stream, child_of, completion, ended, metric, wait_until

PROMPTS = ["Once upon a time", "The sea is", "A recipe for bread:", "In the year 1900"]


@pytest.fixture(scope="module")
def server(smollm2_path: Path) -> Iterator[Server]:
    flags = ("--port", "0", "--max-slots", "4", "--context", "1024", "--prefix-cache-mb", "64")
    with serving("--model", str(smollm2_path), *flags) as server:
        server.url = server.wait_ready()  # type: ignore[attr-defined]
        yield server


@pytest.fixture
def url(server: Server) -> str:
    return str(server.url)  # type: ignore[attr-defined]


def test_streams_of_a_killed_engine_go_on_in_another_as_if_nothing_had_happened(
    server: Server, url: str
) -> None:
    before, accepted = ended(url), metric(url, "takeoff_requests_accepted_total")
    whole = [completion(url, prompt, 60) for prompt in PROMPTS]
    streams = [Stream(url, prompt, 200) for prompt in PROMPTS]
    for stream in streams:
        stream.next_piece()
    engine = child_of(server, "takeoff.engine.process")
    engine.kill()
    for stream, text in zip(streams, whole, strict=True):
        stream.rest()
        assert stream.error is None
        assert stream.is_whole
        assert stream.num_tokens == 200
        assert stream.text.startswith(text[:20])
    assert completion(url, PROMPTS[0], 60) == whole[0]
    assert child_of(server, "takeoff.engine.process").pid != engine.pid
    assert requests.get(f"{url}/healthz", timeout=LIMIT_S).json() == {"status": "live"}
    after = ended(url)
    assert after["failed"] == before["failed"]
    assert after["length"] - before["length"] == 9
    assert metric(url, "takeoff_requests_accepted_total") - accepted == 9
    assert sum(after.values()) - sum(before.values()) == 9
    assert metric(url, "takeoff_requests_open") == 0
    assert metric(url, "takeoff_engine_restarts_total") == 1


def test_a_killed_preparer_disturbs_no_running_stream_and_the_next_prompt_is_prepared(
    server: Server, url: str
) -> None:
    whole = completion(url, PROMPTS[1], 200)
    stream = Stream(url, PROMPTS[1], 200)
    stream.next_piece()
    preparer = child_of(server, "takeoff.prepare.process")
    beside = completion(url, PROMPTS[0], 8)
    preparer.kill()
    wait_until(lambda: metric(url, "takeoff_preparer_restarts_total") == 1, "another preparer was started")
    assert completion(url, PROMPTS[0], 8) == beside
    assert stream.rest() == whole
    assert stream.is_whole
    assert child_of(server, "takeoff.prepare.process").pid != preparer.pid
