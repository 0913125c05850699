"""Tokens/s of `takeoff batch` against the same requests over HTTP, in alternation.

python bench/batch.py [MODEL] [--requests 48] [--tokens 40] [--rounds 3]

Both have as many requests in flight. Loading is not counted; the engine is warm. The HTTP client keeps its
connections, and shares the cores with the server as it would on a machine of one's own.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import httpx
import msgspec
import uvloop
from server import Server

from takeoff.batch.door import Door
from takeoff.batch.files import Answer, OutputFile, check_requests, read_requests
from takeoff.batch.runner import run_batch
from takeoff.models.progress import NoProgress
from takeoff.service.launching import OPEN_PER_PLACE, PlannedReader, for_own_use, launched, plan_readers
from takeoff.settings import Settings, load_settings

SLOTS = 16
PROMPT = "Number {number} of the list is a town by a river, and what one sees there first is"


class _NoProgressBlock(NoProgress):
    """A progress that nobody watches, as a context manager."""

    def __enter__(self) -> NoProgress:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def write_requests(path: Path, num_requests: int, num_tokens: int, first: int) -> None:
    """`num_requests` lines, other prompts for each `first`."""
    lines = []
    for number in range(first, first + num_requests):
        body = {
            "prompt": PROMPT.format(number=number),
            "max_tokens": num_tokens,
            "temperature": 0,
            "ignore_eos": True,
        }
        line = {"custom_id": str(number), "method": "POST", "url": "/v1/completions", "body": body}
        lines.append(msgspec.json.encode(line) + b"\n")
    path.write_bytes(b"".join(lines))


async def by_batch(settings: Settings, planned: list[PlannedReader], warm: Path, requests: Path) -> float:
    """Seconds that the requests take, as `takeoff batch` answers them."""
    async with launched(settings, planned) as service:
        await service.wait_ready()
        door, num_open = Door(service, settings), planned[0].num_open
        seconds = 0.0
        for path in (warm, requests):
            with tempfile.TemporaryDirectory() as folder:
                with OutputFile(Path(folder) / "out.jsonl", check_requests(path)) as output:
                    started = time.perf_counter()
                    await run_batch(door, read_requests(path, set()), num_open, output.write)
                    seconds = time.perf_counter() - started
                answers = (Path(folder) / "out.jsonl").read_bytes().splitlines()
                assert all(msgspec.json.decode(line, type=Answer).is_good for line in answers)
        return seconds


async def by_http(url: str, warm: Path, requests: Path) -> float:
    """Seconds that the requests take over HTTP."""
    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None)) as client:
        places = asyncio.Semaphore(OPEN_PER_PLACE * SLOTS)

        async def ask(body: bytes) -> None:
            async with places:
                answer = await client.post(f"{url}/v1/completions", content=body)
                assert answer.status_code == 200, answer.text

        seconds = 0.0
        for path in (warm, requests):
            started = time.perf_counter()
            await asyncio.gather(*(ask(bytes(line.body)) for line in read_requests(path, set())))
            seconds = time.perf_counter() - started
        return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="smollm2")
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    settings = for_own_use(load_settings({"model": args.model, "max_slots": SLOTS, "context": 512}))
    planned = list(plan_readers(settings, _NoProgressBlock))
    num_tokens = args.requests * args.tokens
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        warm, requests = Path(folder) / "warm.jsonl", Path(folder) / "requests.jsonl"
        write_requests(warm, SLOTS, 4, 1_000_000)
        for number in range(args.rounds):
            write_requests(requests, args.requests, args.tokens, number * args.requests)
            server = Server("--model", args.model, "--max-slots", str(SLOTS), "--context", "512")
            try:
                http_s = uvloop.run(by_http(server.url, warm, requests))
            finally:
                server.stop()
            batch_s = uvloop.run(by_batch(settings, planned, warm, requests))
            ratios.append(http_s / batch_s)
            rates = f"HTTP {num_tokens / http_s:.1f} tokens/s, batch {num_tokens / batch_s:.1f}"
            print(f"{rates}: {ratios[-1]:.3f} x", flush=True)
    print(f"median {statistics.median(ratios):.3f} x")


if __name__ == "__main__":
    main()
