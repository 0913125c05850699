"""The load generator's client against a server that says exactly what a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from takeoff.bench.client import Trace, Work, complete
from takeoff.bench.target import Target

OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
Answer = Callable[[asyncio.StreamWriter, dict[str, Any]], None]


def event(**fields: Any) -> bytes:
    data = f"data: {json.dumps(fields)}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


def piece(text: str, reason: str | None = None) -> bytes:
    return event(choices=[{"index": 0, "text": text, "finish_reason": reason}])


def usage(completion_tokens: int) -> bytes:
    details = {"cached_tokens": 3}
    counts = {"prompt_tokens": 7, "completion_tokens": completion_tokens, "prompt_tokens_details": details}
    return event(choices=[], usage=counts)


DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


async def ask(raw: bytes, work: Work, *, piecewise: bool = False, close: bool = False) -> tuple[Trace, Any]:
    """The trace of one request that is answered with `raw`; and the body that was sent."""
    bodies = []
    answered = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await talk(reader, writer)
        writer.close()
        answered.set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        bodies.append(json.loads(await reader.readexactly(length)))
        for part in [raw[i : i + 1] for i in range(len(raw))] if piecewise else [raw]:
            writer.write(part)
            await writer.drain()
        if not close:
            await reader.read()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        trace = await complete(Target("t", "127.0.0.1", port, "m"), work)
        await answered.wait()
    return trace, bodies[0]


@pytest.mark.anyio
@pytest.mark.parametrize("piecewise", [False, True])
async def test_pieces_and_tokens_are_counted_however_the_bytes_arrive(piecewise: bool) -> None:
    raw = OK + piece("One") + piece("") + piece(" two", "length") + usage(2) + DONE
    trace, body = await ask(raw, Work("Count:", 2), piecewise=piecewise)
    assert trace.error is None
    assert len(trace.text_at) == 2, "an empty piece is no token"
    assert (trace.prompt_tokens, trace.completion_tokens, trace.cached_tokens) == (7, 2, 3)
    assert trace.finish_reason == "length"
    assert trace.sent_at < trace.text_at[0] <= trace.text_at[1] <= trace.ended_at
    assert body == {
        "model": "m",
        "prompt": "Count:",
        "max_tokens": 2,
        "temperature": 0,
        "min_tokens": 2,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"HTTP/1.1 429 Too Many\r\ncontent-length: 4\r\n\r\nbusy", "status 429: busy"),
        (OK + piece("One") + event(error={"message": "died"}) + b"0\r\n\r\n", "died"),
        (OK + piece("One") + usage(1) + b"0\r\n\r\n", "ended without [DONE]"),
        (OK + piece("One") + usage(1) + DONE, "1 tokens came, 2 were asked for"),
        (OK + piece("One"), "the connection broke off"),
        (b"SSH-2.0-OpenSSH\r\n", "not an answer of this API"),
    ],
)
@pytest.mark.anyio
async def test_what_is_no_whole_answer_is_an_error(raw: bytes, words: str) -> None:
    trace, _ = await ask(raw, Work("a", 2), close=True)
    assert trace.error is not None
    assert words in trace.error


@pytest.mark.anyio
async def test_nobody_there_is_an_error() -> None:
    trace = await complete(Target("t", "127.0.0.1", 1, "m"), Work("a", 1))
    assert trace.error is not None
    assert trace.error.startswith("no connection")


def test_gaps_are_those_that_end_in_the_span() -> None:
    trace = Trace(0.0, text_at=[1.0, 1.5, 3.5, 3.75])
    assert trace.gaps() == [0.5, 2.0, 0.25]
    assert trace.gaps(since=1.5, until=3.5) == [2.0]


@pytest.mark.anyio
async def test_a_server_that_counts_no_tokens_is_believed_at_the_length_only() -> None:
    for reason, tokens, error in (("length", 3, None), ("stop", 1, "1 tokens came, 3 were asked for")):
        trace, _ = await ask(OK + piece("One two three", reason) + DONE, Work("Count:", 3))
        assert (trace.completion_tokens, trace.error) == (tokens, error)
