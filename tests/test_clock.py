"""The clock on the wall may jump by a day: nothing but what is told, or is meant so, goes by it.

Every wait, deadline, rate, share and timeout counts by the monotonic clock. Whoever asks for the other one is
named below, with what for.
"""

from __future__ import annotations

import ast
import asyncio
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engine.test_disk_tier import Server, expected_completion, files, prompt_of
from tests.http.door import OK, FakeService, open_door, request_bytes, run

SOURCE = Path(__file__).parents[1] / "src" / "takeoff"
DAY_S = 86_400.0

MAY_ASK = {
    "cli/bench.py": "a stamp of the report",
    "cli/keys.py": "when a key was made",
    "cluster/remote.py": "when a replica was last heard of, as management shows it",
    "engine/snapshot_folder.py": "ages of files, of which the newest are kept, and unfinished ones deleted",
    "http/openai/answers.py": "`created`",
    "http/openai/models.py": "`created`",
    "http/openai/responses/answer.py": "`created_at` and `completed_at`",
    "keys/keyring.py": "whether a key's last day is over",
    "models/profile.py": "when it was made",
    "models/requantise.py": "when it was made",
    "models/stored.py": "when it was pulled",
    "observe/lines.py": "the time of a line",
    "observe/spans.py": "when what is traced began and ended",
    "prepare/chat_template.py": "today's date, where a template wants to tell it to the model",
    "service/engine_watch.py": "when an engine was last heard of, as management shows it",
}
WALL = {
    "time": {"time", "time_ns", "localtime", "gmtime", "ctime", "strftime"},
    "datetime": {"now", "utcnow", "today", "fromtimestamp"},
    "date": {"today"},
}


def askers() -> Iterator[str]:
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                owner = (
                    node.value.attr
                    if isinstance(node.value, ast.Attribute)
                    else getattr(node.value, "id", "")
                )
                if node.attr in WALL.get(owner, ()):
                    yield path.relative_to(SOURCE).as_posix()


def test_only_who_tells_the_time_or_an_age_asks_what_time_it_is() -> None:
    assert set(askers()) == set(MAY_ASK)


@pytest.fixture
def _jumping_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A day ahead or back at each look."""
    real, sides = time.time, itertools.cycle((DAY_S, -DAY_S))
    monkeypatch.setattr(time, "time", lambda: real() + next(sides))


@pytest.mark.usefixtures("_jumping_clock")
def test_a_door_keeps_its_deadlines_and_timeouts_while_the_clock_jumps() -> None:
    async def work() -> None:
        service = FakeService()
        service.gate = asyncio.Event()
        async with open_door(service, header_timeout_s=0.3) as door:
            started = time.monotonic()
            late = await door.connect(b"GET / HTTP/1.1\r\n")
            body = {"prompt": "a", "stream": True, "model": "primary"}
            stream = await door.connect(request_bytes("/v1/completions", body))
            await service.taken.wait()
            assert (await late.rest()).startswith(b"HTTP/1.1 408 ")
            assert 0.29 <= time.monotonic() - started < 5.0
            service.gate.set()
            told = await stream.reader.readuntil(b"data: [DONE]")
            assert told.startswith(OK)
            events = [json.loads(line[6:]) for line in told.split(b"\n") if line.startswith(b"data: {")]
            assert "".join(event["choices"][0]["text"] for event in events) == "Hello wörld!"

    run(work())


@pytest.mark.usefixtures("_jumping_clock")
def test_prefixes_on_disk_are_found_again_whatever_their_age_seems_to_be(tmp_path: Path) -> None:
    prompt = prompt_of(300)
    assert Server(tmp_path).complete(prompt, writes=True) == (expected_completion(prompt, 8), 0)
    second = Server(tmp_path)
    assert second.complete(prompt) == (expected_completion(prompt, 8), 299)
    second.complete(prompt_of(300, seed=5), writes=True)
    assert len(files(tmp_path)) == 2, "there is room for both"
