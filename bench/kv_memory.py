"""64 short requests beside two of 8,000 tokens: who is served when, and in how much memory.

    python bench/kv_memory.py MODEL.gguf [--llama-server FILE] [--way short-and-long|alike|llama-server ...]

All ask at once, the two long ones first. Ways: 64 short slots and 2 long ones; 66 slots that are all as
long as the longest; llama-server with one pool of as many cells as the first way has. Each way has the
machine for itself; memory is the proportional share of all of a server's processes, at its most.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from server import Server

LONG, LONG_PROMPT, LONG_TOKENS = 2, 7_900, 100
SHORT, SHORT_PROMPT, SHORT_TOKENS = 64, 100, 60
SHORT_SLOT, CONTEXT = 512, 8_192
LIMIT_S = 600.0
WAYS = ("short-and-long", "alike", "llama-server")


@dataclass(eq=False)
class Asked:
    """One request, and when its first text and its end came, in seconds."""

    prompt: list[int]
    max_tokens: int
    first_s: float = 0.0
    done_s: float = 0.0
    num_tokens: int = 0  # that the server says it made
    error: str | None = None


def requests() -> tuple[list[Asked], list[Asked]]:
    rng = random.Random(1)
    kinds = ((LONG, LONG_PROMPT, LONG_TOKENS), (SHORT, SHORT_PROMPT, SHORT_TOKENS))
    long, short = (
        [Asked([rng.randrange(1_000, 40_000) for _ in range(size)], tokens) for _ in range(count)]
        for count, size, tokens in kinds
    )
    return long, short


async def ask(client: httpx.AsyncClient, url: str, asked: Asked) -> None:
    body = {
        "model": "primary",
        "prompt": asked.prompt,
        "max_tokens": asked.max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }
    started = time.perf_counter()
    async with client.stream("POST", f"{url}/v1/completions", json=body) as response:
        if response.status_code != 200:
            asked.error = f"{response.status_code}: {(await response.aread()).decode()[:200]}"
            return
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            asked.num_tokens = (event.get("usage") or {}).get("completion_tokens", asked.num_tokens)
            if any(choice.get("text") for choice in event.get("choices") or []):
                asked.first_s = asked.first_s or time.perf_counter() - started
    asked.done_s = time.perf_counter() - started


def pss_bytes(pid: int) -> int:
    root = psutil.Process(pid)
    return sum(each.memory_full_info().pss for each in [root, *root.children(recursive=True)])


async def measure(url: str, pid: int) -> tuple[list[Asked], list[Asked], float, float]:
    """The requests as they were served, seconds in all, and the most bytes."""
    long, short = requests()
    most = pss_bytes(pid)
    limits = httpx.Limits(max_connections=None)
    started = time.perf_counter()
    async with httpx.AsyncClient(timeout=LIMIT_S, limits=limits) as client:
        asking = asyncio.gather(*(ask(client, url, each) for each in [*long, *short]))
        while not asking.done():
            most = max(most, pss_bytes(pid))
            await asyncio.wait([asking], timeout=1.0)
        await asking
    return long, short, time.perf_counter() - started, most


@contextlib.contextmanager
def takeoff(model: Path, *flags: str) -> Iterator[tuple[str, int]]:
    server = Server("--model", str(model), "--prefix-cache-mb", "64", *flags)
    slots = re.search(r"KV cache.*", server.said)
    print(f"  {slots[0] if slots else ''}", flush=True)
    try:
        yield server.url.rstrip("/"), server.process.pid
    finally:
        server.stop()


@contextlib.contextmanager
def llama_server(binary: str, model: Path) -> Iterator[tuple[str, int]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cells = SHORT * SHORT_SLOT + LONG * CONTEXT
    flags = ["-np", str(SHORT + LONG), "-c", str(cells), "--kv-unified", "-t", "2", "-fa", "on"]
    command = [binary, "-m", str(model), "--host", "127.0.0.1", "--port", str(port), *flags]
    print(f"  {' '.join(flags)}", flush=True)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            time.sleep(0.2)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait()


def run(way: str, args: argparse.Namespace) -> None:
    print(way, flush=True)
    if way == "llama-server":
        server = llama_server(args.llama_server, args.model)
    elif way == "alike":
        slots = ("--max-slots", str(SHORT + LONG), "--context", str(CONTEXT), "--long-slots", "0")
        server = takeoff(args.model, *slots)
    else:
        slots = ("--max-slots", str(SHORT), "--long-slots", str(LONG), "--context", str(CONTEXT))
        server = takeoff(args.model, *slots, "--memory-gb", str(args.memory_gb))
    with server as (url, pid):
        long, short, seconds, most = asyncio.run(measure(url, pid))
    failed = [each for each in [*long, *short] if each.error or each.num_tokens < each.max_tokens]
    first = sorted(each.first_s for each in short)
    ends = sorted(each.done_s for each in short)
    print(
        f"  memory {most / 1e6:,.0f} MB; {seconds:.1f} s in all; {len(failed)} of {SHORT + LONG} not served\n"
        f"  short: first text after {statistics.median(first):.2f} s (median), {first[-1]:.2f} s (last), "
        f"done after {statistics.median(ends):.2f} s (median), {ends[-1]:.2f} s (last)\n"
        f"  long: done after {', '.join(f'{each.done_s:.1f} s' for each in long)}",
        flush=True,
    )
    for each in failed[:3]:
        print(f"  {each.error or f'{each.num_tokens} of {each.max_tokens} tokens'}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--llama-server", default="llama-server")
    parser.add_argument("--memory-gb", type=float, default=1.9)
    parser.add_argument("--way", action="append", choices=WAYS)
    args = parser.parse_args()
    for way in args.way or WAYS:
        run(way, args)


if __name__ == "__main__":
    main()
