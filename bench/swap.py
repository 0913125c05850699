"""Replaces a model again and again under load, and lets two models share a memory that has room for one.

    python bench/swap.py [--swaps 20] [--limit-gb 1.5] [--kill] [--json FILE] [flags of `takeoff serve`]
    python bench/swap.py --share [--limit-gb 0.8] [--requests 60] [--json FILE]

An independent client: HTTP, and signals to the engine. Eight clients ask one request after the other, half
of them as streams, while the reader that answers is given the other model by `PUT /reader/ID`; `--kill`
kills the old engine in each second swap. With a limit too small for both models the old one is unloaded
first. `--share` asks two models of `on_demand` in turns, from one client, then from four at once. Texts are
told apart by their beginnings. Exits with 1 if a request failed, or was answered by neither model.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from server import Server

MODELS = ("smollm2", "gemma-3-270m")
PROMPT = "The capital of France is"
NUM_CLIENTS = 8
BEGINNING = 8  # characters
LIMIT_S = 300.0
ENGINE = "takeoff.engine.process"


@dataclass
class Seen:
    """What the clients saw."""

    beginnings: dict[str, str] = field(default_factory=dict)  # of a text, by model
    answered: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    strange: list[str] = field(default_factory=list)  # texts of neither
    waits_s: list[float] = field(default_factory=list)  # from the question to the end of its answer
    swaps_s: list[float] = field(default_factory=list)
    num_kills: int = 0
    peak_bytes: int = 0  # all processes, shared pages in equal parts
    loads: float = 0.0

    def take(self, text: str) -> None:
        for model, beginning in self.beginnings.items():
            if text.startswith(beginning):
                self.answered[model] = self.answered.get(model, 0) + 1
                return
        self.strange.append(text)

    def figures(self) -> dict[str, Any]:
        waits = sorted(self.waits_s)
        return {
            "requests": len(waits) + len(self.errors),
            "failed": len(self.errors),
            "of neither model": len(self.strange),
            "answered": self.answered,
            "swaps": len(self.swaps_s),
            "engines killed": self.num_kills,
            "swap s, median and longest": _rounded(self.swaps_s),
            "answer s, median and longest": _rounded(waits),
            "peak MB of all processes": round(self.peak_bytes / 1e6),
            "engines loaded": self.loads,
            "errors": self.errors[:5],
        }


def _rounded(values: list[float]) -> list[float]:
    return [round(statistics.median(values), 2), round(max(values), 2)] if values else []


async def ask(client: httpx.AsyncClient, model: str, *, stream: bool) -> str:
    body = {"model": model, "prompt": PROMPT, "max_tokens": 24, "temperature": 0, "ignore_eos": True}
    if not stream:
        answer = await client.post("/v1/completions", json=body)
        answer.raise_for_status()
        return str(answer.json()["choices"][0]["text"])
    text, is_whole = "", False
    async with client.stream("POST", "/v1/completions", json=body | {"stream": True}) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            data = line.removeprefix("data: ")
            if data == "[DONE]":
                is_whole = True
            elif data:
                text += json.loads(data)["choices"][0]["text"]
    if not is_whole:
        raise httpx.ReadError("the stream ended without its end")
    return text


async def noted(seen: Seen, asking: Awaitable[str]) -> None:
    started = time.monotonic()
    try:
        seen.take(await asking)
        seen.waits_s.append(time.monotonic() - started)
    except (httpx.HTTPError, KeyError) as exc:
        seen.errors.append(repr(exc))


async def watch(seen: Seen, server: psutil.Process) -> None:
    while True:
        total = 0
        for process in [server, *server.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().pss
        seen.peak_bytes = max(seen.peak_bytes, total)
        await asyncio.sleep(0.1)


async def swap(
    server: Server, client: httpx.AsyncClient, management: str, options: argparse.Namespace
) -> Seen:
    seen, process = Seen(), psutil.Process(server.process.pid)
    reader_id = (await client.get(f"{management}/reader_groups")).json()["primary"][0]["reader_id"]
    chance = random.Random(options.seed)

    async def put(model: str) -> None:
        body = {"model_name": model, "device": "cpu"}
        answer = await client.put(f"{management}/reader/{reader_id}", json=body)
        answer.raise_for_status()

    for model in MODELS:
        await put(model)
        seen.beginnings[model] = (await ask(client, "primary", stream=False))[:BEGINNING]

    async def keep_asking(*, stream: bool) -> None:
        while True:
            await noted(seen, ask(client, "primary", stream=stream))

    running = [asyncio.create_task(keep_asking(stream=bool(number % 2))) for number in range(NUM_CLIENTS)]
    running.append(asyncio.create_task(watch(seen, process)))
    for number in range(options.swaps):
        await asyncio.sleep(1.0)
        started = time.monotonic()
        swapping = asyncio.create_task(put(MODELS[number % 2]))
        if options.kill and number % 2:
            await asyncio.sleep(chance.uniform(0.0, 0.5))
            engines = [each for each in process.children(recursive=True) if ENGINE in each.cmdline()]
            with contextlib.suppress(psutil.Error):
                engines[0].kill()  # the old one's: it came first
                seen.num_kills += 1
        await swapping
        seen.swaps_s.append(time.monotonic() - started)
    await asyncio.sleep(1.0)
    await ended(running)
    return seen


async def share(server: Server, client: httpx.AsyncClient, options: argparse.Namespace) -> Seen:
    seen, process = Seen(), psutil.Process(server.process.pid)
    watching = asyncio.create_task(watch(seen, process))
    for model in MODELS:
        seen.beginnings[model] = (await ask(client, model, stream=False))[:BEGINNING]
    for number in range(options.requests // 3):
        await noted(seen, ask(client, MODELS[number % 2], stream=bool(number % 3)))
    for _ in range(options.requests // 6):
        await asyncio.gather(
            *(noted(seen, ask(client, MODELS[each % 2], stream=each > 1)) for each in range(4))
        )
    await ended([watching])
    return seen


async def ended(running: list[asyncio.Task[None]]) -> None:
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def measured(server: Server, work: Callable[[httpx.AsyncClient], Awaitable[Seen]]) -> Seen:
    async with httpx.AsyncClient(base_url=server.url, timeout=LIMIT_S) as client:
        seen = await work(client)
        page = (await client.get("/metrics")).text
    lines = (line for line in page.splitlines() if line.startswith("takeoff_reader_loads_total{"))
    seen.loads = sum(float(line.split()[-1]) for line in lines)
    return seen


def manifest(folder: Path) -> Path:
    readers = {
        model: {"model_name": model, "device": "cpu", "consumer_group": model, "on_demand": True}
        for model in MODELS
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps({"takeoff": {"server_config": {}, "readers_config": readers}}))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--kill", action="store_true", help="the old engine in each second swap")
    parser.add_argument("--share", action="store_true", help="two models of on_demand in the place of swaps")
    parser.add_argument("--requests", type=int, default=60, help="with --share")
    parser.add_argument("--limit-gb", type=float, default=None)
    parser.add_argument("--seed", type=int, default=1, help="of the moments of kills")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options, flags = parser.parse_known_args()
    limit_gb = options.limit_gb or (0.8 if options.share else 1.5)
    flags += ["--memory-limit-gb", str(limit_gb), "--max-slots", "8", "--context", "512"]
    flags += [
        "--prefix-cache-mb",
        "16",
        "--takeoff-port",
        "0",
        "--openai-port",
        "off",
        "--management-port",
        "0",
    ]
    with tempfile.TemporaryDirectory() as folder:
        if options.share:
            flags += ["--manifest", str(manifest(Path(folder)))]
        server = Server(*flags)
        doors = server.read_until("management").split()
        management = f"http://{doors[doors.index('management') + 1]}"
        try:
            if options.share:
                seen = asyncio.run(measured(server, lambda client: share(server, client, options)))
            else:
                seen = asyncio.run(measured(server, lambda client: swap(server, client, management, options)))
        finally:
            server.stop()
    text = json.dumps(seen.figures(), indent=1)
    if options.json is not None:
        options.json.write_text(text + "\n")
    print(text)
    sys.exit(1 if seen.errors or seen.strange else 0)


if __name__ == "__main__":
    main()
