"""A server of OpenAI's /v1/completions on a real socket that answers exactly as a test says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from takeoff.bench.target import Target

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds to the first token and between tokens; a status other than 200 is a refusal."""

    first_s: float = 0.0
    gap_s: float = 0.0
    status: int = 200


@dataclass(eq=False, slots=True)
class Scripted:
    """What the server has seen. `pace` is asked with the number of each request, from 0."""

    pace: Callable[[int], Pace]
    max_running: int = 1_000_000  # more wait for their turn
    port: int = 0
    arrived_at: list[float] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    num_open: int = 0
    num_left: int = 0

    @property
    def target(self) -> Target:
        return Target("scripted", "127.0.0.1", self.port, "m")


@contextlib.asynccontextmanager
async def scripted(pace: Callable[[int], Pace], max_running: int = 1_000_000) -> AsyncIterator[Scripted]:
    server = Scripted(pace, max_running)
    turns = asyncio.Semaphore(max_running)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):  # a client that left before it had asked
            await listen(reader, writer)
        with contextlib.suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        if head.startswith("get /metrics"):
            text = f"takeoff_requests_open {float(server.num_open)}\n".encode()
            writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + text)
        elif head.startswith("get /v1/models"):
            writer.write(b'HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{"data": [{"id": "m"}]}')
        else:
            length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
            await complete(json.loads(await reader.readexactly(length)), writer)

    async def complete(body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        paced = server.pace(len(server.bodies))
        server.arrived_at.append(time.perf_counter())
        server.bodies.append(body)
        server.num_open += 1
        try:
            async with turns:
                await stream(body, paced, writer)
        except ConnectionError:
            server.num_left += 1
        finally:
            server.num_open -= 1

    async def stream(body: dict[str, Any], paced: Pace, writer: asyncio.StreamWriter) -> None:
        if paced.status != 200:
            writer.write(b"HTTP/1.1 %d No\r\ncontent-length: 4\r\n\r\nbusy" % paced.status)
            return
        writer.write(HEAD)
        num_tokens = body["max_tokens"]
        for number in range(num_tokens):
            await asyncio.sleep(paced.gap_s if number else paced.first_s)
            writer.write(_event(b'{"choices":[{"index":0,"text":"a","finish_reason":null}]}'))
            await writer.drain()
            if writer.is_closing():
                raise ConnectionError
        usage = {"prompt_tokens": 7, "completion_tokens": num_tokens}
        writer.write(_event(json.dumps({"choices": [], "usage": usage}).encode()))
        writer.write(_event(b"[DONE]") + b"0\r\n\r\n")
        await writer.drain()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as sockets:
        server.port = sockets.sockets[0].getsockname()[1]
        yield server


def _event(data: bytes) -> bytes:
    """An event in a chunk of its own."""
    return b"%x\r\ndata: %b\n\n\r\n" % (len(data) + 8, data)
