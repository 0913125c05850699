"""What everything before the engine costs: HTTP, template, tokenising, admission, answering.

    python bench/front.py

Starts the real service and doors on one core, with the default model's vocabulary in the real preparer and an
engine that answers at once (`stub_engine.py`); the client and that engine have the other core. Prints

- the time of a request of one token, one after the other, and of one of 16 tokens in 16 steps;
- requests/s with 32 open at a time, the front process and the preparer sharing the one core;
- CPU time of the front process per streamed token, with 64 streams of 25 tokens/s each;
- the longest gap of a stream while others send prompts of 1 MB.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SERVER_CORE, CLIENT_CORE = 0, 1
STREAM_STEP_S = 0.040  # 25 tokens/s
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
QUESTION = "What are the three most common causes of a slow start of a program, and how are they found? " * 4


def chat(text: str = QUESTION, *, max_tokens: int, stream: bool = False) -> tuple[str, bytes]:
    """Path and body of a chat, of 100 prompt tokens unless `text` is another."""
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": max_tokens, "stream": stream}
    return "/v1/chat/completions", json.dumps(body).encode()


def ways(max_tokens: int) -> dict[str, tuple[str, bytes]]:
    """Path and body of each way to ask."""
    completion = json.dumps({"prompt": QUESTION, "max_tokens": max_tokens}).encode()
    generate = json.dumps({"text": QUESTION, "max_new_tokens": max_tokens}).encode()
    return {
        "/v1/chat/completions": chat(max_tokens=max_tokens),
        "/v1/chat/completions, streamed": chat(max_tokens=max_tokens, stream=True),
        "/v1/completions": ("/v1/completions", completion),
        "/generate": ("/generate", generate),
    }


class Client:
    """One kept connection."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Client:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def chunks(self, path: str, body: bytes) -> AsyncIterator[bytes]:
        """The pieces of one answer's body, as they come."""
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        self._writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        if b"content-length: " in answer:
            length = int(answer.split(b"content-length: ")[1].split(b"\r\n")[0])
            yield await self._reader.readexactly(length)
            return
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            yield (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readexactly(2)

    async def ask(self, path: str, body: bytes) -> bytes:
        return b"".join([chunk async for chunk in self.chunks(path, body)])


async def latency(port: int, path: str, body: bytes, *, rounds: int = 600) -> list[float]:
    """Seconds of each request, one after the other."""
    took = []
    async with Client(port) as client:
        for _ in range(rounds):
            started = time.perf_counter()
            answer = await client.ask(path, body)
            took.append(time.perf_counter() - started)
            assert b"word" in answer, answer[:300]
    return took[rounds // 6 :]


async def throughput(port: int, path: str, body: bytes, *, num_open: int = 32, rounds: int = 60) -> float:
    """Requests/s."""

    async def ask_all() -> None:
        async with Client(port) as client:
            for _ in range(rounds):
                await client.ask(path, body)

    started = time.perf_counter()
    await asyncio.gather(*(ask_all() for _ in range(num_open)))
    return num_open * rounds / (time.perf_counter() - started)


async def token_cost(port: int, pid: int, *, num_streams: int = 64, tokens: int = 250) -> float:
    """Seconds of CPU of process `pid` per streamed token, from the first token of all to the last."""
    begun = asyncio.Semaphore(0)

    async def read() -> None:
        async with Client(port) as client:
            is_first = True
            async for _ in client.chunks(*chat(max_tokens=tokens, stream=True)):
                if is_first:
                    begun.release()
                    is_first = False

    tasks = [asyncio.create_task(read()) for _ in range(num_streams)]
    for _ in tasks:
        await begun.acquire()
    before, started = cpu_s(pid), time.perf_counter()
    await asyncio.sleep(8.0)
    num_tokens = num_streams * (time.perf_counter() - started) / STREAM_STEP_S
    spent = cpu_s(pid) - before
    assert not any(task.done() for task in tasks)
    await asyncio.gather(*tasks)
    return spent / num_tokens


async def longest_gaps(port: int, *, rounds: int = 8) -> tuple[float, float]:
    """Seconds: the longest gap of a stream alone, and with prompts of 1 MB beside it."""
    large = chat("Why is the sky blue? " * 50_000, max_tokens=16, stream=True)
    gaps: list[float] = []

    async def read() -> None:
        async with Client(port) as client:
            last = None
            async for _ in client.chunks(*chat(max_tokens=2_000, stream=True)):
                now = time.perf_counter()
                if last is not None:
                    gaps.append(now - last)
                last = now

    reading = asyncio.create_task(read())
    await asyncio.sleep(5.0)
    alone = max(gaps[5:])
    gaps.clear()
    async with Client(port) as client:
        for _ in range(rounds):
            await client.ask(*large)
            await asyncio.sleep(0.2)
    beside = max(gaps)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    return alone, beside


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


class Server:
    """`serve` of this file in a process of its own."""

    def __init__(self, step_ms: float) -> None:
        command = [sys.executable, str(HERE / "front_server.py"), str(step_ms), str(SERVER_CORE)]
        self.process = subprocess.Popen([*command, str(CLIENT_CORE)], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        ports: dict[str, Any] = json.loads(self.process.stdout.readline())
        self.front: int = ports["port"]
        self.takeoff: int = ports["takeoff_port"]

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()


async def measure() -> None:
    with Server(0.0) as server:
        for max_tokens in (1, 16):
            print(
                f"| tokens of the answer: {max_tokens} | p50, ms | p99, ms | requests/s |\n|---|--:|--:|--:|"
            )
            for name, (path, body) in ways(max_tokens).items():
                port = server.takeoff if path == "/generate" else server.front
                cuts = statistics.quantiles(await latency(port, path, body), n=100)
                rate = await throughput(port, path, body)
                print(f"| {name} | {1e3 * cuts[49]:.2f} | {1e3 * cuts[98]:.2f} | {rate:.0f} |", flush=True)
    with Server(1e3 * STREAM_STEP_S) as server:
        cost = await token_cost(server.front, server.process.pid)
        print(f"a streamed token: {1e6 * cost:.1f} us of the front process", flush=True)
    with Server(5.0) as server:
        alone, beside = await longest_gaps(server.front)
        print(f"longest gap {1e3 * alone:.1f} ms; beside prompts of 1 MB {1e3 * beside:.1f} ms")


if __name__ == "__main__":
    os.sched_setaffinity(0, {CLIENT_CORE})
    asyncio.run(measure())
