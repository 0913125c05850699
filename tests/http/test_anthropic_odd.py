"""Odd values at every place of a body of /v1/messages: taken or refused, and never an error of ours."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Iterator
from typing import Any

from tests.http.door import Answer, Connection, FakeService, make_door, make_scope
from tests.http.test_anthropic_messages import AGENT, IMAGE, USE

PATHS = ("/v1/messages", "/v1/messages/count_tokens")
ODD: list[Any] = [None, True, -1, 1e308, 10**30, "", "\ud800", [], [[None]], {}, {"type": []}]
OF_PROMPTS = ("model", "messages", "system", "tools", "tool_choice", "thinking", "output_config")
RESULT = {"type": "tool_result", "tool_use_id": USE["id"], "content": [IMAGE], "is_error": True}
THOUGHT = {"type": "thinking", "thinking": "hm", "signature": ""}
BODY: dict[str, Any] = {
    **AGENT,
    "stream": False,
    "tools": AGENT["tools"][-1:],
    "tool_choice": {"type": "tool", "name": "Tool_19", "disable_parallel_tool_use": False},
    "messages": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [THOUGHT, {"type": "text", "text": "b"}, USE]},
        {"role": "user", "content": [RESULT, IMAGE]},
    ],
    "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    "stop_sequences": ["a"],
    "top_p": 0.5,
    "top_k": 3,
}

Place = tuple[str | int, ...]


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Of everything inside of `value`."""
    if not isinstance(value, dict | list):
        return
    for step, each in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*place, step)
        yield from places(each, (*place, step))


def with_value(body: dict[str, Any], place: Place, value: Any) -> dict[str, Any]:
    changed: Any = copy.deepcopy(body)
    *before, last = place
    part = changed
    for step in before:
        part = part[step]
    part[last] = value
    return dict(changed)


def test_no_odd_value_is_an_error_of_ours() -> None:
    door = make_door(FakeService())

    async def answer_to(path: str, body: dict[str, Any]) -> Answer:
        connection = Connection([json.dumps(body).encode()], spec_version="2.3")
        return await connection.run(door, make_scope("POST", path))

    async def all_answers() -> dict[int, int]:
        counts: dict[int, int] = {}
        for path in PATHS:
            body = BODY if path == PATHS[0] else {name: BODY[name] for name in OF_PROMPTS}
            assert (await answer_to(path, body)).status == 200
            for place in places(body):
                for value in ODD:
                    answer = await answer_to(path, with_value(body, place, value))
                    assert answer.error is None, (path, place, value)
                    assert answer.status in (200, 400, 404), (path, place, value, answer.body)
                    if answer.status != 200:
                        assert answer.json["error"]["message"]
                    counts[answer.status] = counts.get(answer.status, 0) + 1
        return counts

    counts = asyncio.run(all_answers())
    assert counts[400] > counts[200] > 300
