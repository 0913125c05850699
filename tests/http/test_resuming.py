"""Streams that are picked up again: no event is missing and none comes twice; what is kept is bounded."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Awaitable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from tests.http.door import Answer, Connection, FakeService, make_door, make_scope
from tests.http.test_keyed import Keys

from takeoff.errors import Gone, InvalidRequest, NotFound, Overloaded
from takeoff.http.resuming import KeptStream, KeptStreams
from takeoff.http.streaming import BrokenOff
from takeoff.request import FinishReason
from takeoff.settings import Settings

MESSAGES = [{"role": "user", "content": "a"}]
NAME = (b"x-request-id", b"mine")
WORDS = tuple(f"word{n} " for n in range(40))
ENDLESS = ("x",) * 1_000_000


class Ticks(asyncio.Event):
    """A gate that opens for each token a millisecond later."""

    async def wait(self) -> Any:
        await asyncio.sleep(0.001)


STREAMED: list[tuple[str, str, dict[str, Any]]] = [
    ("front", "/v1/completions", {"prompt": "a", "stream": True}),
    ("front", "/v1/chat/completions", {"messages": MESSAGES, "stream": True, "n": 2}),
    ("openai", "/v1/responses", {"input": "a", "stream": True}),
    ("front", "/v1/messages", {"messages": MESSAGES, "max_tokens": 9, "stream": True}),
    ("takeoff", "/generate_stream", {"text": "a", "return_metadata": True}),
    ("takeoff", "/generate_stream", {"text": ["a", "b"], "return_metadata": True}),
]
every_stream = pytest.mark.parametrize(("door", "path", "body"), STREAMED)


def resume(seconds: str = "10") -> tuple[bytes, bytes]:
    return b"x-resume", seconds.encode()


def post(
    app: FastAPI, path: str, body: dict[str, Any], *headers: tuple[bytes, bytes]
) -> tuple[Connection, asyncio.Task[Answer]]:
    connection = Connection([json.dumps(body).encode()], spec_version="2.3")
    return connection, asyncio.create_task(connection.run(app, make_scope("POST", path, headers)))


def get(app: FastAPI, target: str = "", *headers: tuple[bytes, bytes]) -> Awaitable[Answer]:
    return Connection([b""], spec_version="2.3").run(
        app, make_scope("GET", f"/v1/requests/mine{target}", headers)
    )


def events_of(data: bytes) -> list[tuple[int, bytes]]:
    """Whole events, each with its number."""
    blocks = data.split(b"\n\n")[:-1]
    found = []
    for block in blocks:
        head, _, rest = block.partition(b"\n")
        number = re.fullmatch(rb"id: mine:(\d+)", head)
        assert number is not None, block
        found.append((int(number[1]), rest))
    return found


async def leave(connection: Connection, task: asyncio.Task[Answer]) -> bytes:
    """Break the connection; returns what had come."""
    connection.has_left.set()
    await task
    return connection.answer.body


def constant(data: bytes) -> bytes:
    """Without what no two answers share."""
    return re.sub(
        rb'(?:cmpl-|chatcmpl-|msg_|resp_)[0-9a-f]{32}|"created\w*":\d+|"completed_at":\d+', b"", data
    )


@every_stream
def test_without_the_header_no_event_has_an_id_and_nothing_is_kept(
    door: str, path: str, body: dict[str, Any]
) -> None:
    async def run() -> None:
        app = make_door(FakeService(WORDS), door)
        _, task = post(app, path, body, NAME)
        assert b"\nid:" not in b"\n" + (await task).body
        assert (await get(app)).status == 404

    asyncio.run(run())


@every_stream
def test_a_broken_stream_goes_on_behind_any_event_until_it_is_the_undisturbed_one(
    door: str, path: str, body: dict[str, Any]
) -> None:
    async def run() -> None:
        _, task = post(make_door(FakeService(WORDS), door), path, body)
        undisturbed = (await task).body
        app = make_door(FakeService(WORDS), door)
        connection, task = post(app, path, body, NAME, resume())
        await connection.has_body.wait()
        await asyncio.sleep(0)
        came = events_of(await leave(connection, task))
        assert came, "it broke in the middle"
        told = came
        while told[-1][0] < 10:  # again and again
            again = Connection([b""], spec_version="2.3")
            last = (b"last-event-id", b"mine:%d" % told[-1][0])
            task = asyncio.create_task(again.run(app, make_scope("GET", "/v1/requests/mine", [last])))
            await again.has_body.wait()
            told = told + events_of(await leave(again, task))
        rest = await get(app, f"?after={told[-1][0]}")
        assert rest.is_whole
        assert rest.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert rest.headers["x-request-id"] == "mine"
        told = told + events_of(rest.body)
        assert [number for number, _ in told] == list(range(1, len(told) + 1))
        assert constant(b"".join(event + b"\n\n" for _, event in told)) == constant(undisturbed)
        whole = await get(app)
        assert events_of(whole.body) == told, "and from its beginning"

    asyncio.run(run())


def test_it_goes_on_while_nobody_listens_and_ends_when_its_time_is_over() -> None:
    async def run() -> None:
        service = FakeService(ENDLESS)
        service.gate = Ticks()
        app = make_door(service)
        connection, task = post(app, *STREAMED[0][1:], NAME, resume("0.3"))
        await connection.has_body.wait()
        await leave(connection, task)
        (generation,) = service.generations
        said = generation.completion_tokens
        await asyncio.sleep(0.1)
        assert generation.completion_tokens > said
        assert not generation.num_cancelled
        await asyncio.wait_for(generation.is_cancelled.wait(), 5)
        assert generation.num_cancelled == 1
        assert (await get(app)).status == 404
        await asyncio.sleep(0.05)
        assert asyncio.all_tasks() == {asyncio.current_task()}, "nothing of it goes on"

    asyncio.run(run())


def test_without_the_header_leaving_ends_it_at_once() -> None:
    async def run() -> None:
        service = FakeService(ENDLESS)
        connection, task = post(make_door(service), *STREAMED[0][1:], NAME)
        await connection.has_body.wait()
        await leave(connection, task)
        assert service.generations[0].num_cancelled == 1

    asyncio.run(run())


def test_a_stream_without_a_connection_is_ended_by_its_id_and_its_end_can_be_read() -> None:
    async def run() -> None:
        service = FakeService(ENDLESS)
        service.gate = Ticks()
        app = make_door(service)
        connection, task = post(app, *STREAMED[0][1:], NAME, resume())
        await connection.has_body.wait()
        await leave(connection, task)
        ended = await Connection([b""], spec_version="2.3").run(
            app, make_scope("DELETE", "/v1/requests/mine")
        )
        assert ended.status == 200
        assert service.generations[0].finish_reason is FinishReason.CANCELLED
        whole = await get(app)
        assert b'"finish_reason":"cancelled"' in whole.body
        assert whole.body.endswith(b"data: [DONE]\n\n")

    asyncio.run(run())


def test_it_counts_for_its_key_until_it_ends_and_is_nobody_elses(tmp_path: Path) -> None:
    async def run() -> None:
        keys = Keys(tmp_path / "keys.json")
        alice, bob = keys.add("alice", max_open=1), keys.add("bob")
        service = FakeService(ENDLESS)
        service.gate = Ticks()
        app = make_door(service, keys=keys.ring)
        connection, task = post(app, *STREAMED[0][1:], NAME, resume(), alice)
        await connection.has_body.wait()
        await leave(connection, task)
        assert (await get(app, "", bob)).status == 404
        assert (await get(app)).status == 401
        _, second = post(app, "/v1/completions", {"prompt": "a"}, alice)
        assert (await second).status == 429
        _, others = post(app, "/v1/completions", {"prompt": "a"}, bob)
        service.generations[0].end(FinishReason.CANCELLED)
        again = await get(app, "", alice)
        assert b"cancelled" in again.body
        service.generations[-1].end(FinishReason.CANCELLED)
        _, third = post(app, "/v1/completions", {"prompt": "a"}, alice)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(third), 0.05)
        assert not third.done(), "it is let in"
        for generation in service.generations:
            generation.end(FinishReason.CANCELLED)
        await asyncio.gather(third, others)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("door", "path", "body"),
    [
        ("front", "/generate_stream", {"text": "a"}),
        ("front", "/generate", {"text": "a"}),
        ("front", "/v1/completions", {"prompt": "a"}),
        ("front", "/v1/embeddings", {"input": "a"}),
        ("front", "/v1/messages/count_tokens", {"messages": MESSAGES}),
        ("takeoff", "/generate", {"text": "a"}),
    ],
)
def test_what_is_no_stream_of_events_cannot_be_picked_up(door: str, path: str, body: dict[str, Any]) -> None:
    async def run() -> None:
        service = FakeService()
        _, task = post(make_door(service, door), path, body, resume())
        answer = await task
        assert answer.status == (422 if path == "/generate" and door == "front" else 400)
        assert "X-Resume is for streams of events" in answer.body.decode()
        assert service.generations == []

    asyncio.run(run())


def test_its_header_is_a_number_of_seconds_within_the_servers_limit() -> None:
    async def run(value: str, **settings: Any) -> str:
        _, task = post(make_door(**settings), *STREAMED[0][1:], resume(value))
        answer = await task
        assert answer.status == 400
        return str(answer.json["error"]["message"])

    assert "X-Resume must be a number of seconds above 0, at most 60, got '61'" in asyncio.run(run("61"))
    assert "at most 5, got '6'" in asyncio.run(run("6", resume_max_s=5))
    assert "got 'yes'" in asyncio.run(run("yes"))
    assert asyncio.run(run("1", resume_max_s=0)) == "X-Resume is turned off here"


def test_an_event_that_is_not_there_is_refused_by_name() -> None:
    async def run() -> None:
        app = make_door(FakeService(("Hello",)))
        _, task = post(app, *STREAMED[0][1:], NAME, resume())
        num = len(events_of((await task).body))
        for last in (b"mine:999", b"mine:-1", b"other:1", b"1", b"mine:"):
            refused = await get(app, "", (b"last-event-id", last))
            assert refused.status == 400
        assert f"has {num} events so far, and not 999" in (await get(app, "?after=999")).body.decode()
        both = await get(app, "?after=1", (b"last-event-id", b"mine:2"))
        assert "Last-Event-ID says 2, after says 1" in both.body.decode()
        assert (await get(app, "?after=-1")).status == 400
        assert (await get(app, f"?after={num}")).body == b""

    asyncio.run(run())


def test_one_id_keeps_one_stream() -> None:
    async def run() -> None:
        service = FakeService(("Hello",))
        app = make_door(service)
        _, task = post(app, *STREAMED[0][1:], NAME, resume())
        await task
        _, task = post(app, *STREAMED[0][1:], NAME, resume())
        answer = await task
        assert answer.status == 400
        assert "a stream of a request 'mine' is kept" in answer.json["error"]["message"]
        assert len(service.generations) == 1

    asyncio.run(run())


def test_a_refused_request_takes_no_place() -> None:
    async def run() -> None:
        app = make_door(max_resumable=1)
        for _ in range(3):
            _, task = post(
                app, "/v1/completions", {"prompt": "a", "stream": True, "nonsense": 1}, NAME, resume()
            )
            assert (await task).status == 400
        _, task = post(app, *STREAMED[0][1:], NAME, resume())
        assert (await task).status == 200

    asyncio.run(run())


def test_places_are_bounded_and_ended_streams_give_way() -> None:
    streams = KeptStreams(Settings(max_resumable=2))

    async def run() -> None:
        first, second = _kept(streams, "first"), _kept(streams, "second", ends=False)
        await _drained(first)
        third = _kept(streams, "third", ends=False)
        with pytest.raises(NotFound):
            streams.find("", "first")
        with pytest.raises(Overloaded, match="2 streams are kept for their clients, which is the limit"):
            _kept(streams, "fourth")
        second.forget()
        third.forget()
        await asyncio.sleep(0)

    asyncio.run(run())


def _kept(streams: KeptStreams, name: str, *, ends: bool = True) -> KeptStream:
    with streams.place("", name, 60.0) as stream:
        stream.begin([], _pieces(b"data: a\n\n", 3 if ends else 10**9), None)
    return stream


async def _pieces(piece: bytes, num: int) -> AsyncGenerator[bytes, None]:
    for _ in range(num):
        await asyncio.sleep(0)
        yield piece


async def _drained(stream: KeptStream, after: int = 0) -> int:
    num = 0
    with stream.connected():
        async for _ in stream.events(after):
            num += 1
    return num


def test_a_stream_that_nobody_takes_waits_within_its_bytes_and_then_goes_on_without_a_loss() -> None:
    streams = KeptStreams(Settings(resume_kb=16))

    async def run() -> None:
        with streams.place("", "a", 60.0) as stream:
            stream.begin([], _pieces(b"data: " + b"x" * 100 + b"\n\n", 1_000), None)
        for _ in range(5_000):
            await asyncio.sleep(0)
        num_kept = len(stream._events)
        assert 16_384 <= sum(map(len, stream._events.values())) < 16_384 + 200
        assert await _drained(stream) == 1_000
        assert sum(map(len, stream._events.values())) <= 16_384 + 200
        stream.check(1_000 - num_kept + 10)
        with pytest.raises(Gone, match="are forgotten: of a stream the last 16384 bytes are kept"):
            stream.check(0)
        assert await _drained(stream, 990) == 10

    asyncio.run(run())


def test_a_connection_that_falls_behind_breaks_off_and_does_not_skip() -> None:
    streams = KeptStreams(Settings(resume_kb=16))

    async def run() -> None:
        with streams.place("", "a", 60.0) as stream:
            stream.begin([], _pieces(b"data: " + b"x" * 100 + b"\n\n", 1_000), None)
        slow = stream.events(0)
        await anext(slow)
        assert await _drained(stream) == 1_000
        with pytest.raises(BrokenOff, match="is not kept any more"):
            await anext(slow)

    asyncio.run(run())


def test_a_stream_that_breaks_off_breaks_off_for_who_picks_it_up() -> None:
    async def failing() -> AsyncGenerator[bytes, None]:
        yield b"data: a\n\n"
        raise BrokenOff("it failed")

    async def run() -> None:
        with KeptStreams(Settings()).place("", "a", 60.0) as stream:
            stream.begin([], failing(), None)
        for _ in range(2):
            events = stream.events(0)
            assert await anext(events) == b"id: a:1\ndata: a\n\n"
            with pytest.raises(BrokenOff, match="broke off"):
                await anext(events)
        with pytest.raises(InvalidRequest):
            stream.check(2)

    asyncio.run(run())
