"""A stream that has to wait says so, and nothing else of it changes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from tests.cli.test_serve import serving
from tests.http.door import Answer, Connection, FakeService, make_door, make_scope

COMMENT = b": keep-alive\n\n"
CHAT = ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "stream": True})
COMPLETION = ("/v1/completions", {"prompt": "a", "stream": True})


def held_up(path: str, body: dict[str, Any], *, for_s: float, every_s: float) -> tuple[Answer, int]:
    """What comes of a stream that has no news `for_s`, and the comments that came meanwhile."""

    async def run() -> tuple[Answer, int]:
        service = FakeService()
        service.gate = asyncio.Event()
        door = make_door(service, stream_keep_alive_s=every_s)
        connection = Connection([json.dumps(body).encode()], spec_version="2.3")
        task = asyncio.create_task(connection.run(door, make_scope("POST", path)))
        await asyncio.sleep(for_s)
        num_comments = connection.answer.body.count(COMMENT)
        assert connection.answer.body == COMMENT * num_comments
        service.gate.set()
        answer = await task
        assert asyncio.all_tasks() == {asyncio.current_task()}, "nothing of it goes on"
        return answer, num_comments

    return asyncio.run(run())


@pytest.mark.parametrize(("path", "body"), [CHAT, COMPLETION])
def test_comments_come_while_there_is_no_news(path: str, body: dict[str, Any]) -> None:
    answer, num_comments = held_up(path, body, for_s=0.35, every_s=0.1)
    assert 2 <= num_comments <= 3
    assert answer.is_whole
    answer.body = answer.body.removeprefix(COMMENT * num_comments)
    *chunks, done = answer.events()
    assert done == "[DONE]"
    choices = [chunk["choices"][0] for chunk in chunks]
    texts = [each.get("text") or each.get("delta", {}).get("content") or "" for each in choices]
    assert "".join(texts) == "Hello wörld!"


def test_no_comment_comes_before_its_time() -> None:
    answer, num_comments = held_up(*CHAT, for_s=0.2, every_s=15.0)
    assert (num_comments, answer.body.count(COMMENT)) == (0, 0)


def test_an_answer_that_is_no_stream_has_none() -> None:
    path, body = COMPLETION
    answer, num_comments = held_up(path, {**body, "stream": False}, for_s=0.2, every_s=0.05)
    assert num_comments == 0
    assert answer.json["choices"][0]["text"] == "Hello wörld!"


def test_the_openai_package_reads_a_stream_that_waited(smollm2_path: Path) -> None:
    """One slot: the second request waits for the first, for longer than between two comments."""
    flags = ("--model", str(smollm2_path), "--max-slots", "1", "--stream-keep-alive-s", "0.05")
    with serving(*flags) as server:
        client = OpenAI(base_url=f"{server.wait_ready()}/v1", api_key="none", timeout=60, max_retries=0)
        settings = {"prompt": "Count: 1, 2, 3,", "temperature": 0, "stream": True, "model": "primary"}
        first = client.completions.create(max_tokens=200, extra_body={"ignore_eos": True}, **settings)
        next(first)
        second = client.completions.create(max_tokens=8, **settings)
        waited = "".join(chunk.choices[0].text for chunk in second)
        alone = "".join(c.choices[0].text for c in client.completions.create(max_tokens=8, **settings))
        assert waited == alone != ""
        first.close()
