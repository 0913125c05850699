"""What one flooding key does to nine light ones: their time to the first token with the flood and without it.

    python bench/fairness.py [--seconds 40] [--pause 2] [flags of takeoff serve]

Starts a server with ten keys. Nine of them ask for a short completion each, wait, and ask again. In
every other round the tenth keeps 64 longer requests open beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import requests
from made_keys import make_keys
from server import ONE_DOOR, Server

from takeoff.bench.client import Trace, Work, complete
from takeoff.bench.prompts import Prompts
from takeoff.bench.target import Target

LIGHT = 9
LIGHT_WORDS, LIGHT_TOKENS = 40, 16
FLOOD, FLOOD_WORDS, FLOOD_TOKENS = 64, 200, 150  # open at once; of each request
FLOOD_AHEAD_S = 5.0
ROUNDS = 2


@dataclass
class Side:
    """The light keys' requests of one kind of round, and the tokens that the flood got meanwhile."""

    traces: list[Trace] = field(default_factory=list)
    flood_tokens: int = 0
    seconds: float = 0.0

    def told(self, name: str) -> str:
        good = [trace.ttft_s for trace in self.traces if trace.error is None]
        cuts = statistics.quantiles(good, n=100)
        return (
            f"{name}: TTFT median {cuts[49] * 1e3:.0f} ms, p95 {cuts[94] * 1e3:.0f} ms, of {len(good)}; "
            f"errors {len(self.traces) - len(good)} of {len(self.traces)}; "
            f"the flood {self.flood_tokens / self.seconds:.0f} tokens/s"
        )

    @property
    def p95_s(self) -> float:
        return statistics.quantiles([t.ttft_s for t in self.traces if t.error is None], n=100)[94]


async def be_light(target: Target, prompts: Prompts, pause_s: float, until: float, side: Side) -> None:
    while (now := time.perf_counter()) < until:
        await asyncio.sleep(min(prompts.draw.uniform(0.5, 1.5) * pause_s, max(until - now, 0.0)))
        if time.perf_counter() < until:
            side.traces.append(await complete(target, Work(prompts.text(LIGHT_WORDS), LIGHT_TOKENS)))


async def flood(target: Target, prompts: Prompts, since: float, side: Side) -> None:
    def count(_trace: Trace) -> None:
        side.flood_tokens += time.perf_counter() > since

    while True:
        trace = await complete(target, Work(prompts.text(FLOOD_WORDS), FLOOD_TOKENS), on_text=count)
        if trace.error is not None:
            await asyncio.sleep(0.2)


async def one_round(targets: list[Target], side: Side, options: argparse.Namespace, seed: int) -> None:
    *light, heavy = targets
    started = time.perf_counter() + FLOOD_AHEAD_S
    until = started + options.seconds
    flooding: list[asyncio.Task[None]] = []
    if seed % 2:
        sources = [Prompts(1_000 * seed + number) for number in range(FLOOD)]
        flooding = [asyncio.create_task(flood(heavy, prompts, started, side)) for prompts in sources]
    await asyncio.sleep(FLOOD_AHEAD_S)
    await asyncio.gather(
        *(
            be_light(target, Prompts(100 * seed + number), options.pause, until, side)
            for number, target in enumerate(light)
        )
    )
    side.seconds += time.perf_counter() - started
    for task in flooding:
        task.cancel()
    await asyncio.gather(*flooding, return_exceptions=True)
    await asyncio.sleep(2.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=40.0, help="of each round")
    parser.add_argument("--pause", type=float, default=2.0, help="seconds between a light key's requests")
    options, flags = parser.parse_known_args()
    alone, beside = Side(), Side()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "keys.json")
        secrets = make_keys(path, LIGHT + 1)  # the flood's is the last
        server = Server(*ONE_DOOR, "--keys-file", str(path), *flags)
        try:
            host, port = server.url.removeprefix("http://").split(":")
            targets = [Target("key", host, int(port), "primary", api_key=secret) for secret in secrets]
            for seed in range(2 * ROUNDS):
                asyncio.run(one_round(targets, (alone, beside)[seed % 2], options, seed))
            headers = {"authorization": f"Bearer {secrets[-1]}"}
            page = requests.get(f"{server.url}/metrics", headers=headers, timeout=10).text
        finally:
            server.stop()
    parked = [line.split()[1] for line in page.splitlines() if 'step_calls_total{kind="park"}' in line]
    print(alone.told("nine light keys alone"))
    print(beside.told("beside the flood"))
    print(f"p95 is {beside.p95_s / alone.p95_s:.2f} x; {parked} sequences put aside")


if __name__ == "__main__":
    main()
