"""What Ray costs: one replica against one process, two replicas against one, and a start from none.

    python bench/cluster_cost.py [--rounds 3] [--seconds 20] [--streams 16] [--json FILE]

The same clients ask the same of `takeoff serve` and of a cluster of this machine, one after the other in each
round: one stream at a time for the time to the first token, then `--streams` that ask again when they are
answered. Then the same of a cluster with one replica and with two. Medians over the rounds, and ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from local_cluster import Cluster, cluster_of
from overload import make_work, tokens_per_s
from server import ONE_DOOR, Server, target_at

from takeoff.bench.client import complete
from takeoff.bench.prompts import Prompts
from takeoff.bench.target import Target

ALONE = 20  # requests one after the other
RAMP_S = 3.0
SLOTS, CONTEXT = 16, 2048
READER = {"model_name": "smollm2", "device": "cpu", "consumer_group": "primary"}
READER |= {"max_slots": SLOTS, "context": CONTEXT, "optimize": False}


async def first_token_s(target: Target, seed: int) -> float:
    """The median of requests that come alone."""
    prompts = Prompts(seed)
    return statistics.median([(await complete(target, make_work(prompts))).ttft_s for _ in range(ALONE)])


def measured(url: str, streams: int, seconds: float, seed: int) -> tuple[float, float]:
    """Milliseconds to the first token, and tokens a second."""
    target = target_at(url)

    async def work() -> tuple[float, float]:
        await complete(target, make_work(Prompts(1_000 + seed)))
        ttft_s = await first_token_s(target, seed)
        return 1e3 * ttft_s, await tokens_per_s(target, streams, seconds, ramp_s=RAMP_S)

    return asyncio.run(work())


def against_one_process(options: argparse.Namespace) -> list[dict[str, float]]:
    flags = ("--max-slots", str(SLOTS), "--context", str(CONTEXT), "--request-log", "off", "--no-optimize")
    server = Server(*ONE_DOOR, *flags)
    server.copy_to(sys.stderr)
    rounds = []
    try:
        with cluster_of({"chat": READER}, {}, request_log="off") as cluster:
            for number in range(options.rounds):
                alone = measured(server.url, options.streams, options.seconds, number)
                on_ray = measured(cluster.url, options.streams, options.seconds, number)
                names = ("ttft_ms", "tokens_per_s", "ray_ttft_ms", "ray_tokens_per_s")
                rounds.append(dict(zip(names, (*alone, *on_ray), strict=True)))
                print(rounds[-1], file=sys.stderr)
    finally:
        server.stop()
    return rounds


def two_against_one(options: argparse.Namespace) -> list[dict[str, float]]:
    rounds = []
    with cluster_of({"chat": READER}, {}, request_log="off") as cluster:
        for number in range(options.rounds):
            told = {}
            for replicas in (1, 2):
                _change(cluster, {"replicas": replicas})
                told[f"of_{replicas}"] = measured(cluster.url, 2 * SLOTS, options.seconds, number)[1]
            rounds.append(told)
            print(told, file=sys.stderr)
    return rounds


def cold_starts(options: argparse.Namespace) -> list[float]:
    """Seconds to the first token where no replica is up."""
    seconds = []
    with cluster_of(
        {"chat": READER}, {"chat": {"replicas": "0-1", "idle_s": 1}}, request_log="off"
    ) as cluster:
        for number in range(options.rounds):
            while cluster.engines():
                time.sleep(0.2)
            seconds.append(asyncio.run(complete(target_at(cluster.url), make_work(Prompts(number)))).ttft_s)
            print(f"cold start: {seconds[-1]:.2f} s", file=sys.stderr)
    return seconds


def _change(cluster: Cluster, replicas: dict[str, Any]) -> None:
    cluster.manifest["cluster_config"]["readers"] = {"chat": replicas}
    cluster.up()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--only", choices=("process", "two", "cold"), help="one of the three")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()
    told: dict[str, Any] = {}
    if options.only in (None, "process"):
        told["process"] = rounds = against_one_process(options)
        ratio = statistics.median(each["ray_tokens_per_s"] / each["tokens_per_s"] for each in rounds)
        more = statistics.median(each["ray_ttft_ms"] - each["ttft_ms"] for each in rounds)
        print(f"one replica: {ratio:.3f} times one process's tokens/s, {more:.1f} ms more to the first token")
    if options.only in (None, "two"):
        told["two"] = rounds = two_against_one(options)
        ratio = statistics.median(each["of_2"] / each["of_1"] for each in rounds)
        print(f"two replicas on the same cores: {ratio:.3f} times the total of one")
    if options.only in (None, "cold"):
        told["cold_s"] = starts = cold_starts(options)
        print(f"first token where no replica was up: {statistics.median(starts):.1f} s, of {len(starts)}")
    if options.json is not None:
        options.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
