"""Kills the engine under its streams, and compares what each client got with an undisturbed run.

    python bench/chaos.py [--kills 100] [--tokens 120] [--json FILE] [flags of `takeoff serve`]

An independent client: HTTP, and signals to the process that runs `takeoff.engine.process`. It starts a
server, asks for 16 streams with fixed seeds, half of them greedy, twice without kills, then again and again
with SIGKILL, SIGSEGV, SIGABRT and SIGSTOP while the engine is idle, prefills, decodes or loads. Exits with 1
if a promise of docs/reliability.md is broken: a client saw an error, a text lacks characters or has some
twice, or has another number of tokens than was asked for. With `--deterministic` every text must be the
undisturbed one; without it a text may go on in other words behind a kill, because the kernels round otherwise
where other tokens are computed together. `--no-replay` shows what the server would be without the protection:
it must fail.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
from page import page_of
from server import ONE_DOOR, Server

from takeoff.bench.machine import descendants
from takeoff.bench.told import Kill, Told, Verdict, judged

NUM_STREAMS = 16
MEMORY = "memory limit"  # the engine gets no more than it has
SIGNALS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGSTOP)
WAYS = (*SIGNALS, MEMORY)
FROM_OUTSIDE = (signal.SIGKILL, signal.SIGSTOP)  # a crash while loading is the weights': it takes others
PHASES = ("idle", "prefill", "decode", "decode", "decode", "load")  # drawn from
LIMIT_S = 120.0  # without any news a stream hangs
ENGINE = "takeoff.engine.process"


def requests(tokens: int) -> list[dict[str, Any]]:
    """The same sixteen, each time."""
    drawn = random.Random(7)
    words = Path(__file__).read_text().split()
    return [
        {
            "model": "primary",
            "prompt": f"{number}. " + " ".join(drawn.choices(words, k=drawn.randint(8, 60))),
            "max_tokens": tokens,
            "temperature": 0.0 if number % 2 else 0.8,
            "seed": number,
            "ignore_eos": True,
            "stream": True,
            "logprobs": 0,
        }
        for number in range(NUM_STREAMS)
    ]


class Engines:
    """The engine processes of a server, one after the other."""

    def __init__(self, server_pid: int) -> None:
        self._server_pid = server_pid
        self.killed: list[Kill] = []

    def present(self) -> psutil.Process | None:
        """The oldest, which serves."""
        with contextlib.suppress(psutil.Error):
            for child in descendants(self._server_pid):
                if ENGINE in child.cmdline() and child.status() not in ("zombie", "dead", "stopped"):
                    return child
        return None

    async def kill(self, way: signal.Signals | str, phase: str) -> None:
        """Do it to the one that is there."""
        async with asyncio.timeout(LIMIT_S):
            while (engine := self.present()) is None:  # noqa: ASYNC110  (there is no event)
                await asyncio.sleep(0.005)
        if isinstance(way, signal.Signals):
            engine.send_signal(way)
        else:
            engine.rlimit(psutil.RLIMIT_AS, (engine.memory_info().vms,) * 2)
        name = way.name if isinstance(way, signal.Signals) else way
        self.killed.append(Kill(time.monotonic(), f"{name} at {phase}"))


async def stream(client: httpx.AsyncClient, body: dict[str, Any]) -> Told:
    """Ask once, and note when which text came."""
    told = Told()
    try:
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            if answer.status_code != 200:
                told.error = f"HTTP {answer.status_code}: {(await answer.aread()).decode()}"
                return told
            async for line in answer.aiter_lines():
                data = line.removeprefix("data: ")
                if data == "[DONE]":
                    told.is_whole = True
                elif line.startswith("data: "):
                    event = json.loads(data)
                    if "error" in event:
                        told.error = event["error"]["message"]
                        break
                    choice = event["choices"][0]
                    told.add(choice["text"], len((choice.get("logprobs") or {}).get("tokens", ())))
    except httpx.HTTPError as exc:
        told.error = repr(exc)
    if told.error is None and not told.is_whole:
        told.error = "the stream ended without its end"
    return told


async def all_streams(client: httpx.AsyncClient, tokens: int) -> list[Told]:
    return await asyncio.gather(*(stream(client, body) for body in requests(tokens)))


async def disturb(engines: Engines, chance: random.Random, url: str, most: int, rest_s: float) -> int:
    """Kill up to `most` engines under the streams that run now; returns how many."""
    while not await has_work(url):  # noqa: ASYNC110  (there is no event)
        await asyncio.sleep(0.01)
    for count in range(most):
        phase = "decode" if rest_s else chance.choice([phase for phase in PHASES if phase != "idle"])
        if phase == "prefill":
            await asyncio.sleep(chance.uniform(0.0, 0.3))
        elif phase == "decode":
            await until_ready(url)
            await asyncio.sleep(rest_s + chance.uniform(0.3, 1.5))
        if not await has_work(url):
            return count
        await engines.kill(chance.choice(FROM_OUTSIDE if phase == "load" else WAYS), phase)
    return most


async def has_work(url: str) -> bool:
    async with httpx.AsyncClient(base_url=url) as client:
        return (await page_of(client)).value("requests_open") > 0


async def until_ready(url: str) -> None:
    async with httpx.AsyncClient(timeout=LIMIT_S) as client:
        await client.get(f"{url}/healthz", params={"wait": LIMIT_S})


async def run(
    server: Server, num_kills: int, tokens: int, seed: int, minutes: float, rest_s: float
) -> Verdict:
    chance, ends_at = random.Random(seed), time.monotonic() + 60 * minutes
    engines = Engines(server.process.pid)
    timeout = httpx.Timeout(LIMIT_S)
    async with httpx.AsyncClient(base_url=server.url, timeout=timeout) as client:
        await all_streams(client, tokens)  # so that the prefix cache is the same in all that follow
        plain = await all_streams(client, tokens)
        again = await all_streams(client, tokens)
        verdict = Verdict(num_noisy=sum(a.text != b.text for a, b in zip(plain, again, strict=True)))
        while len(engines.killed) < num_kills and time.monotonic() < ends_at and not verdict.errors[8:]:
            if chance.random() < 1 / len(PHASES):
                await until_ready(server.url)
                await engines.kill(chance.choice(WAYS), "idle")
            first = len(engines.killed)
            running = asyncio.create_task(all_streams(client, tokens))
            await disturb(engines, chance, server.url, min(8, num_kills - first), rest_s)
            for before, after in zip(plain, await running, strict=True):
                judged(verdict, before, after, engines.killed[first:])
            print(f"{len(engines.killed)} kills of {num_kills}", file=sys.stderr)
    for _, what in engines.killed:
        verdict.kills[what] = verdict.kills.get(what, 0) + 1
    return verdict


@contextlib.contextmanager
def serving(flags: list[str]) -> Iterator[Server]:
    """A server, and somebody who reads what it says."""
    server = Server(*ONE_DOOR, *flags)
    server.copy_to(sys.stderr)
    try:
        yield server
    finally:
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=120, help="of each stream")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin nothing new after so many")
    parser.add_argument(
        "--rest", type=float, default=0.0, help="seconds that an engine has at least; then all die in decode"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the moments and the signals")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options, flags = parser.parse_known_args()
    with serving(
        ["--max-slots", str(NUM_STREAMS), "--context", "2048", "--request-log", "off", *flags]
    ) as server:
        plan = (options.kills, options.tokens, options.seed, options.minutes, options.rest)
        verdict = asyncio.run(run(server, *plan))
    if options.json is not None:
        options.json.write_text(json.dumps(verdict.figures(), indent=1) + "\n")
    print(verdict.report())
    sys.exit(0 if verdict.is_kept(exact="--deterministic" in flags) else 1)


if __name__ == "__main__":
    main()
