"""The real server with an engine that stands by."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
from tests.cli.test_serve import Server, serving
from tests.e2e.processes import Stream, children_of, completion, metric, wait_until

ENGINE = "takeoff.engine.process"
FLAGS = ("--port", "0", "--max-slots", "4", "--context", "1024", "--deterministic")
PROMPTS = ["Once upon a time", "The sea is", "A recipe for bread:", "In the year 1900"]
MOST_PRIVATE_BYTES = 110 << 20  # as the memory plan says


def engines(server: Server) -> list[psutil.Process]:
    """The one that serves, and the one that stands by once it waits for its order."""

    def are_two() -> bool:
        found = children_of(server, ENGINE)
        return len(found) == 2 and found[1].cpu_times().user > 0.3 and found[1].cpu_percent(0.3) < 5

    wait_until(are_two, "an engine stands by")
    return children_of(server, ENGINE)


def test_it_takes_over_under_streams_whose_texts_stay_the_same(smollm2_path: Path) -> None:
    with serving("--model", str(smollm2_path), *FLAGS, "--standby", "on") as server:
        url = server.wait_ready()
        whole = [completion(url, prompt, 120) for prompt in PROMPTS]
        serving_one, waiting = engines(server)
        assert waiting.memory_full_info().uss < MOST_PRIVATE_BYTES < serving_one.memory_full_info().uss
        streams = [Stream(url, prompt, 120) for prompt in PROMPTS]
        for stream in streams:
            stream.next_piece()
        serving_one.kill()
        assert [stream.rest() for stream in streams] == whole
        assert [stream.num_tokens for stream in streams] == [120] * 4
        assert children_of(server, ENGINE)[0].pid == waiting.pid
        assert metric(url, "takeoff_engine_restarts_total") == 1
        assert engines(server)[1].pid != waiting.pid, "and another stands by"
        status = Path(f"/proc/{waiting.pid}/status").read_text()
        assert "NoNewPrivs:\t1" in status
        assert f"\nPPid:\t{server.process.pid}\n" in status


def test_without_it_there_is_one_engine(smollm2_path: Path) -> None:
    with serving("--model", str(smollm2_path), *FLAGS, "--standby", "off") as server:
        url = server.wait_ready()
        assert "standby" not in server.said
        whole = completion(url, PROMPTS[0], 60)
        stream = Stream(url, PROMPTS[0], 60)
        stream.next_piece()
        (only,) = children_of(server, ENGINE)
        os.kill(only.pid, 9)
        assert stream.rest() == whole
        assert len(children_of(server, ENGINE)) == 1
